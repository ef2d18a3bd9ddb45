package apply

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// A run is one plan being carried out. One goroutine, that of schedule, owns steps, groups and queues; the ops' own
// goroutines touch only what the mutex guards and send what they learned over ended.
type run struct {
	opts  Options
	log   *slog.Logger
	start time.Time
	steps []*step
	byID  map[schema.ID]*step

	queues   map[string]*queue // by server
	runnable []*queue          // servers with something ready and a free place, first come first served
	inFlight int
	failures int // failed updates
	stopped  string
	ended    chan job

	mu         sync.Mutex // guards journalErr, and events one at a time
	journalErr error
}

// A step is one step of the plan on its way.
type step struct {
	*plan.Step
	index  int
	result StepResult
	group  *group
	// parents gate this step; children are gated by it.
	parents, children []*step
	waits             int  // for so many parents, and for the group's barrier
	finished          bool // result is final
	prepares          bool
	begun             bool // an op was sent
	queued            bool // the op it is there for was
	payload           *protocol.Payload
}

// A group is what "after" connects. Nothing of it is stopped before all it needs is pulled and built.
type group struct {
	members   []*step
	preparing int
	failed    *step // whose pull or build failed
}

// A job is one op of a step, queued, running or ended.
type job struct {
	*step
	verb    protocol.Verb
	outcome protocol.Outcome
	payload *protocol.Payload
	unknown string // why the outcome is not known, "" = it is
	away    bool   // its server could not be reached
	cut     bool   // abandoned with the run
}

// updates reports whether the op may stop what runs.
func (j job) updates() bool {
	switch j.verb {
	case protocol.Deploy, protocol.Restart, protocol.Remove, protocol.Stop, protocol.Update:
		return true
	}
	return false
}

func newRun(opts Options, start time.Time) *run {
	n := len(opts.Plan.Steps)
	r := &run{
		opts: opts, log: opts.Log.With("run", opts.Run), start: start,
		steps: make([]*step, n), byID: make(map[schema.ID]*step, n),
		queues: make(map[string]*queue), ended: make(chan job, 16),
	}
	for i := range opts.Plan.Steps {
		s := &opts.Plan.Steps[i]
		r.steps[i] = &step{Step: s, index: i, result: describe(s)}
		r.byID[s.Resource] = r.steps[i]
	}
	r.connect()
	return r
}

// connect lays the gates between steps and gathers the groups.
func (r *run) connect() {
	root := make([]int, len(r.steps)) // union-find by index
	for i := range root {
		root[i] = i
	}
	find := func(i int) int {
		for root[i] != i {
			root[i] = root[root[i]]
			i = root[i]
		}
		return i
	}
	for _, s := range r.steps {
		for _, id := range s.After {
			p := r.byID[id]
			if p == nil || p == s {
				continue
			}
			if ordered(s) && ordered(p) {
				root[find(s.index)] = find(p.index)
			}
			if changes(s.Action) && gates(p, s) {
				s.parents, p.children = append(s.parents, p), append(p.children, s)
				s.waits++
			}
		}
	}
	groups := make(map[int]*group)
	for _, s := range r.steps {
		if !s.Action.Changes() {
			continue
		}
		g := groups[find(s.index)]
		if g == nil {
			g = &group{}
			groups[find(s.index)] = g
		}
		s.group, s.prepares = g, prepares(s.Step)
		g.members = append(g.members, s)
		s.waits++ // the barrier
		if s.prepares {
			g.preparing++
		}
	}
}

// ordered reports whether a step's kind is one whose "after" makes a group. What many resources merely stand on, a
// server or a repo, connects nothing.
func ordered(s *step) bool {
	switch s.Resource.Kind() {
	case schema.KindStack, schema.KindDeployment, schema.KindBuild, schema.KindProcedure:
		return true
	}
	return false
}

// gates reports whether s waits for p, or is kept from starting by it. Whether a dependent needs a parent that cannot
// change now is settled in the plan; but what an orphan's former dependent still uses is not removed.
func gates(p, s *step) bool {
	if p.Resource.Kind() == schema.KindServer && s.Resource.Kind() != schema.KindServer {
		return false // only the agents wait for each other
	}
	switch p.Action {
	case plan.None:
		return p.Gate && !removes(s)
	case plan.Held, plan.Unknown, plan.Blocked:
		return removes(s)
	case plan.Stop, plan.ReleaseObjects:
		return false // nothing of it is healthy afterwards
	}
	return true
}

func removes(s *step) bool { return s.Action == plan.Remove }

// awaits reports whether a step that replaces nothing has dependents that wait for it to be healthy.
func (s *step) awaits() bool { return s.Gate && len(s.children) > 0 }

func prepares(s *plan.Step) bool {
	if s.Resource.Kind() == schema.KindServer {
		return false
	}
	switch s.Action {
	case plan.Create, plan.Update, plan.Recreate:
		return true
	}
	return false
}

// owes reports whether the step is a restart that a change of this run, or an earlier one, calls for and that did
// not happen.
func (r *run) owes(s *step) bool {
	if s.Action != plan.Restart || s.result.Status == StatusDone {
		return false
	}
	if !slices.ContainsFunc(s.Causes, func(c plan.Cause) bool { return c.Kind == plan.CameAfter }) {
		return false
	}
	return r.opts.Owed[s.Resource] || slices.ContainsFunc(s.parents, func(p *step) bool { return p.result.Changed })
}

// schedule starts what can start until nothing is left or ctx ends, and returns when the last op has ended.
func (r *run) schedule(ctx context.Context) Status {
	opCtx, abandon := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abandon(nil)
	r.begin()

	status := StatusDone
	over := ctx.Done()
	if ctx.Err() != nil { // ended before it began: nothing may start
		status, over = r.stop(context.Cause(ctx), abandon), nil
	}
	for {
		if r.stopped == "" {
			r.launch(opCtx)
		}
		if r.inFlight == 0 {
			if r.stopped == "" && r.untangle() {
				continue
			}
			break
		}
		select {
		case <-over:
			status, over = r.stop(context.Cause(ctx), abandon), nil
		case j := <-r.ended:
			r.inFlight--
			r.queues[j.Server].free(r)
			r.took(j)
		}
	}
	left := false
	for _, s := range r.steps {
		left = left || s.result.Status == StatusUnknown
		if !s.finished {
			left = true
			r.skip(s, cmp.Or(r.stopped, "it waits for itself in a circle"), "")
		}
	}
	if !left {
		return StatusDone // the end came too late to matter
	}
	return status
}

// stop keeps further ops from starting. Those in flight finish, unless the run is to be dropped where it stands.
func (r *run) stop(why error, abandon context.CancelCauseFunc) Status {
	r.stopped = why.Error()
	switch {
	case errors.Is(why, ErrSuperseded):
		return StatusSuperseded
	case errors.Is(why, ErrCancelled):
		return StatusCancelled
	case errors.Is(why, ErrStopping):
		return StatusInterrupted
	}
	abandon(why)
	return StatusInterrupted
}

// begin settles what has nothing to do and queues the rest.
func (r *run) begin() {
	for _, s := range r.steps {
		switch {
		case s.finished || changes(s.Action):
		case s.awaits():
			r.push(job{step: s, verb: protocol.Await})
		default:
			r.end(s)
		}
	}
	for _, s := range r.steps {
		if s.prepares && !s.finished {
			r.push(job{step: s, verb: protocol.Prepare})
		}
	}
	for _, s := range r.steps {
		if g := s.group; g != nil && g.members[0] == s && g.preparing == 0 {
			r.open(g)
		}
		if s.Action == plan.Adopt && s.waits == 0 {
			r.act(s)
		}
	}
}

// open lifts a group's barrier.
func (r *run) open(g *group) {
	for _, s := range g.members {
		r.resolve(s)
	}
}

// resolve takes away one thing that s waited for.
func (r *run) resolve(s *step) {
	if s.waits--; s.waits == 0 {
		r.act(s)
	}
}

// act queues the op that s is there for, once.
func (r *run) act(s *step) {
	if !s.finished && !s.queued {
		s.queued = true
		r.push(job{step: s, verb: verb(s.Step)})
	}
}

func verb(s *plan.Step) protocol.Verb {
	if s.Resource.Kind() == schema.KindServer {
		return protocol.Update
	}
	switch s.Action {
	case plan.Restart:
		return protocol.Restart
	case plan.Adopt:
		return protocol.Adopt
	case plan.Remove:
		return protocol.Remove
	case plan.Stop:
		return protocol.Stop
	case plan.ReleaseObjects:
		return protocol.Release
	}
	return protocol.Deploy
}

// took takes in how an op ended.
func (r *run) took(j job) {
	s := j.step
	switch {
	case j.cut:
		s.result.Status, s.result.Why = StatusUnknown, r.stopped
		if !s.finished {
			r.end(s)
		}
		return
	case j.verb == protocol.Prepare:
		r.prepared(j)
		return
	}
	s.payload = nil
	s.result.Millis = j.outcome.Millis
	s.result.take(j)
	if j.updates() && j.unknown == "" && s.result.Status != StatusDone && j.outcome.Status != protocol.Refused {
		r.failures++
	}
	s.result.Changed = s.result.Status == StatusDone && s.Action.Changes() && !removes(s) && s.Action != plan.ReleaseObjects
	r.retry(s, j)
	if j.verb == protocol.Adopt && s.result.Status == StatusDone && s.awaits() {
		r.push(job{step: s, verb: protocol.Await})
		return
	}
	r.end(s)
}

// prepared takes in a pull or build: the last one of its group lifts the barrier, the first that fails ends the group.
func (r *run) prepared(j job) {
	s, g := j.step, j.step.group
	g.preparing--
	s.result.PrepareMillis = j.outcome.Millis
	if !s.finished && (j.unknown != "" || j.outcome.Status != protocol.Done) {
		s.result.take(j)
		r.retry(s, j)
		if g.failed == nil {
			g.failed = s
		}
		r.end(s)
		for _, m := range g.members {
			if !m.finished && m.Action != plan.ReleaseObjects {
				r.skip(m, fmt.Sprintf("what %s needs could not be fetched or built, and nothing it is connected to by \"after\" is stopped before that", s.Resource), s.Resource)
			}
		}
	}
	s.payload = j.payload
	if s.finished {
		s.payload = nil
	}
	if g.preparing == 0 {
		r.open(g)
	}
}

// take copies an outcome into the result.
func (s *StepResult) take(j job) {
	o := j.outcome
	s.Unreachable = j.away
	if j.unknown != "" {
		s.Status, s.Error = StatusUnknown, j.unknown
		return
	}
	switch o.Status {
	case protocol.Done:
		s.Status = StatusDone
	case protocol.RolledBack:
		s.Status = StatusRolledBack
	default:
		s.Status = StatusFailed
	}
	s.Error, s.Hint, s.Tail = o.Error, o.Hint, o.Tail
	if s.Status != StatusDone && s.Error == "" {
		s.Error = "the agent gave no reason"
	}
	s.Stopped, s.Services, s.Held = o.Stopped, o.Services, o.Held
}

// retry says when a failure that stopped nothing, or a refusal, is tried again: what the agent refuses its host may
// allow later, and a full disk is emptied.
func (r *run) retry(s *step, j job) {
	again := (j.outcome.Status == protocol.Failed || j.outcome.Status == protocol.Refused) && !j.outcome.Stopped && j.outcome.Held == "" || j.unknown != ""
	if s.result.Status == StatusDone || !again {
		return
	}
	s.result.Failures = r.opts.Failures[s.Resource] + 1
	s.result.Retry = Backoff(s.result.Failures)
}

// end makes a step's result final and lets go, or keeps back, what comes after it.
func (r *run) end(s *step) {
	status := s.result.Status
	s.finished = true
	s.payload = nil
	r.emitStep(s)
	for _, c := range s.children {
		if status == StatusDone {
			r.resolve(c)
			continue
		}
		if c.finished {
			continue
		}
		because := s.Resource
		if s.result.Because != "" {
			because = s.result.Because
		}
		r.skip(c, s.keepsBack(c), because)
	}
}

// keepsBack says, of a step that is not done, why another is not tried.
func (s *step) keepsBack(child *step) string {
	what := "was not tried"
	switch s.result.Status {
	case StatusFailed:
		what = "failed"
	case StatusRolledBack:
		what = "failed and was rolled back"
	case StatusUnknown:
		what = "did not say how it ended"
	}
	if !changes(s.Action) && s.result.Why != "" {
		what = "is " + s.result.Why
	}
	if removes(child) {
		return fmt.Sprintf("%s, which came after it, %s", s.Resource, what)
	}
	return fmt.Sprintf("it comes after %s, which %s", s.Resource, what)
}

// skip ends a step that was not tried.
func (r *run) skip(s *step, why string, because schema.ID) {
	s.result.Status, s.result.Why, s.result.Because = StatusNotTried, why, because
	r.end(s)
}

// untangle frees the first removal of a circle, which only stale labels can have made.
func (r *run) untangle() bool {
	for _, s := range r.steps {
		if !s.finished && removes(s) && s.waits > 0 {
			s.waits = 0
			r.act(s)
			return true
		}
	}
	return false
}

// launch starts ready jobs while there is room.
func (r *run) launch(ctx context.Context) {
	for len(r.runnable) > 0 && r.inFlight < r.opts.Parallel {
		q := r.runnable[0]
		r.runnable = r.runnable[1:]
		q.listed = false
		j := heap.Pop(&q.ready).(job)
		if r.drop(j) {
			q.list(r)
			continue
		}
		j.payload = j.step.payload
		if !j.begun {
			j.begun = true
			j.result.Wait = time.Since(r.start).Milliseconds()
		}
		r.inFlight++
		q.running++
		q.list(r)
		go func() { r.ended <- r.do(ctx, j) }()
	}
}

// drop leaves out a job that has lost its reason.
func (r *run) drop(j job) bool {
	if j.finished {
		if j.verb == protocol.Prepare {
			r.prepared(j)
		}
		return true
	}
	if j.updates() && r.opts.MaxFailures > 0 && r.failures >= r.opts.MaxFailures {
		r.skip(j.step, fmt.Sprintf("%d updates of this run failed (max_failures), so no further one starts", r.failures), "")
		return true
	}
	return false
}

func (r *run) push(j job) {
	q := r.queues[j.Server]
	if q == nil {
		q = &queue{bound: r.opts.PerServer}
		r.queues[j.Server] = q
	}
	heap.Push(&q.ready, j)
	q.list(r)
}

// A queue holds what is ready to run on one server.
type queue struct {
	ready   jobs
	running int
	bound   int
	listed  bool // in run.runnable
}

// list enters the queue among those that can start something.
func (q *queue) list(r *run) {
	if !q.listed && len(q.ready) > 0 && q.running < q.bound {
		q.listed = true
		r.runnable = append(r.runnable, q)
	}
}

func (q *queue) free(r *run) { q.running--; q.list(r) }

// jobs is a heap in the plan's order.
type jobs []job

func (h jobs) Len() int           { return len(h) }
func (h jobs) Less(i, k int) bool { return h[i].index < h[k].index }
func (h jobs) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *jobs) Push(x any)        { *h = append(*h, x.(job)) }
func (h *jobs) Pop() any {
	old := *h
	j := old[len(old)-1]
	old[len(old)-1] = job{}
	*h = old[:len(old)-1]
	return j
}

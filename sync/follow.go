package sync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	gosync "sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// A follower is the loop around a syncer: it hears what happens and makes runs, one at a time.
type follower struct {
	*syncer
	poll   time.Duration
	paused func() bool
	// pausedUntil is when the pause ends by itself, zero = it does not.
	pausedUntil func() time.Time
	started     func(*syncer, apply.Head, context.CancelCauseFunc) func()
	relay       func(apply.Event)
	stored      func(SyncStatus, *halt, map[string]string)
	contest     func(ctx context.Context, server string, id schema.ID, reason string)
	changed     chan struct{} // files or refs may have changed
	stirred     chan struct{} // a server may have changed
	commands    chan job
	pollNow     chan chan error
	hinted      chan struct{} // hints lie in hints

	hintLock gosync.Mutex // guards hints
	hints    []*waiter

	// Owned by the loop.
	tip      view
	tipSeen  time.Time
	tipPolls int
	want     []job // waiting, the most urgent first; a commit stands for drift too
	running  *current
	taken    string // the commit that was let through last
	let      view   // what runs are made of: taken's, or the folder; the tip may still wait
	backoff  time.Duration
	failed   int       // fetches in a row
	expired  time.Time // the end of a hold that was heeded
	looked   bool      // a run was begun since the start
	waiters  []*waiter // hints looked at and not answered
}

// A current is the run that goes on.
type current struct {
	job    job
	view   view
	done   chan struct{}
	cancel context.CancelCauseFunc

	mu  gosync.Mutex // guards ops
	ops map[schema.ID]int
}

// hear notes which resources ops work on.
func (c *current) hear(e apply.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Kind {
	case apply.OpStarted:
		c.ops[e.Resource]++
	case apply.OpFinished:
		if c.ops[e.Resource]--; c.ops[e.Resource] == 0 {
			delete(c.ops, e.Resource)
		}
	}
}

func (c *current) underWay() []schema.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.ops))
}

// follow runs until ctx ends, and returns after the last run has stopped.
func (f *follower) follow(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	raw := make(chan struct{}, 1)
	g.Go(func() error {
		if err := f.src.watch(ctx, raw); err != nil {
			f.log.WarnContext(ctx, "changes are not watched, only looked for", "err", err)
		}
		return nil
	})
	g.Go(func() error { return debounce(ctx, raw, f.changed, f.quietTime()) })
	g.Go(func() error { return f.loop(ctx) })
	return g.Wait()
}

// quietTime is how long files must lie still. A ref is written at once, a folder file by file.
func (f *follower) quietTime() time.Duration {
	if _, folder := f.src.(*folderSource); folder {
		return or(f.opts.Timing.Debounce, 300*time.Millisecond)
	}
	return 5 * time.Millisecond
}

func or(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// debounce passes a signal on once the source has been still for d.
func debounce(ctx context.Context, in <-chan struct{}, out chan<- struct{}, d time.Duration) error {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-in:
			timer.Reset(d)
		case <-timer.C:
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}
}

func (f *follower) loop(ctx context.Context) error {
	period := f.poll
	poll := time.NewTimer(0)
	drift := time.NewTicker(or(f.opts.Timing.Drift, 5*time.Minute))
	retry, expiry := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	expiry.Stop()
	defer expiry.Stop()
	disk := time.NewTimer(diskPeriod)
	defer poll.Stop()
	defer drift.Stop()
	defer disk.Stop()
	defer retry.Stop()
	for {
		var ended chan struct{}
		if f.running != nil {
			ended = f.running.done
		}
		select {
		case <-ctx.Done():
			if f.running != nil {
				if busy := f.running.underWay(); len(busy) > 0 {
					f.log.InfoContext(ctx, "finishing the steps under way", "resources", busy)
				}
				<-f.running.done // apply ends by itself: ctx is its parent
			}
			return nil
		case <-poll.C:
			poll.Reset(f.look(ctx, period))
		case <-f.changed:
			if f.tip.tree != nil && f.tip.commit == "" {
				f.halt(nil)
			}
			poll.Reset(f.look(ctx, period))
		case answer := <-f.pollNow:
			poll.Reset(f.look(ctx, period))
			answer <- f.lookError()
		case <-f.hinted:
			poll.Reset(f.heard(ctx, period))
		case <-f.stirred:
			f.ask(job{trigger: triggerDrift})
		case <-drift.C:
			f.refresh()
			f.ask(job{trigger: triggerDrift})
		case <-disk.C:
			full := f.full()
			if f.persists(ctx, false) == nil {
				disk.Reset(diskPeriod)
			} else {
				disk.Reset(diskAgain)
			}
			if full && !f.full() { // what came meanwhile, and what could not be finished
				f.ask(job{trigger: triggerRetry})
			}
		case <-retry.C:
			f.ask(job{trigger: triggerRetry})
		case <-expiry.C: // a hold or the pause is over
			f.disturb()
			f.ask(job{trigger: triggerDrift})
		case j := <-f.commands:
			f.ask(j)
		case <-ended:
			over := f.running
			f.running = nil
			f.answer(func(w *waiter) bool { return w.run == over })
		}
		f.start(ctx)
		if f.full() {
			disk.Reset(diskAgain)
		}
		f.idle()
		if at := f.retryAt(); at > 0 {
			retry.Reset(at)
		}
		if at := f.expiresIn(); at > 0 {
			expiry.Reset(at)
		}
	}
}

// retryAt is how long until the next retry, 0 = none.
func (f *follower) retryAt() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status.Retry.IsZero() {
		return 0
	}
	return max(time.Until(f.status.Retry), time.Millisecond)
}

// expiresIn is how long until the next hold, or the pause, ends by itself, 0 = none does.
func (f *follower) expiresIn() time.Duration {
	until := f.pausedUntil()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != nil {
		for _, server := range f.state.Servers {
			for _, h := range server.Holds {
				if !h.Until.IsZero() && h.Kind != plan.HoldFailed && (until.IsZero() || h.Until.Before(until)) {
					until = h.Until
				}
			}
		}
	}
	if until.IsZero() || f.expired.Equal(until) {
		return 0
	}
	left := time.Until(until)
	if left <= 0 {
		f.expired = until // looked at once, whatever the server says
	}
	return max(left, time.Millisecond)
}

func (f *follower) lookError() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status.State == "unreachable" {
		return errors.New(f.status.Error)
	}
	return nil
}

// fetchTimeout bounds one look at the repository: a first fetch of a large one takes a while.
const fetchTimeout = 10 * time.Minute

// look asks the source what is newest and decides whether it may be taken. It returns when to look again.
func (f *follower) look(ctx context.Context, period time.Duration) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	v, err := f.src.fetch(ctx)
	now := time.Now()
	if err != nil {
		if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
			return period
		}
		f.failed++
		f.note(func(s *SyncStatus) {
			s.State, s.Error, s.Polled = "unreachable", err.Error(), now.UTC()
			f.fetchErr = err.Error()
		})
		if f.failed == 1 {
			f.say(ctx, Report{Stage: StageUnreachable, Err: err})
		}
		return min(max(period, time.Second)<<min(f.failed, 4), 15*time.Minute)
	}
	f.failed = 0
	folder := v.commit == ""
	if !folder && v.commit == f.tip.commit {
		f.tipPolls++
	} else {
		f.tip, f.tipSeen, f.tipPolls = v, now, 1
	}
	f.note(func(s *SyncStatus) {
		s.Tip, s.Branch, s.Polled = v.commit, v.branch, now.UTC()
		f.fetchErr = ""
		if s.State == "unreachable" || s.State == "reading" {
			s.State, s.Error = "ok", ""
		}
	})
	if folder {
		f.let = v
		f.ask(job{trigger: triggerCommit})
		return max(period, time.Minute)
	}
	if v.commit == f.taken {
		f.note(func(s *SyncStatus) {
			if f.waiting != "" { // for another commit, which is gone
				f.waiting, s.State, s.Error = "", "ok", ""
			}
		})
		f.othersMoved(ctx)
		return period
	}
	state, why := f.relation(ctx, v, f.tipSeen, f.tipPolls)
	f.mu.Lock()
	f.waiting = ""
	if state == "waiting" {
		f.waiting = why
	}
	f.mu.Unlock()
	stand := or(f.opts.Timing.Rewritten, 30*time.Second)
	switch state {
	case "waiting":
		if f.tipPolls == 1 {
			f.say(ctx, Report{Stage: StageWaiting, Commit: v.commit, Why: why})
		}
		f.note(func(s *SyncStatus) { s.State, s.Error = state, why })
		return min(period, max(stand-now.Sub(f.tipSeen), 0)+10*time.Millisecond)
	case "unreachable":
		f.note(func(s *SyncStatus) { s.State, s.Error = state, why })
		return period
	case "asking":
		f.mu.Lock()
		f.back, f.backAt = why, v.commit
		f.mu.Unlock()
	default:
		f.mu.Lock()
		f.back = ""
		f.mu.Unlock()
	}
	f.taken, f.let = v.commit, v
	f.ask(job{trigger: triggerCommit})
	if r := f.running; r != nil && r.job.trigger != triggerCommand {
		r.cancel(apply.ErrSuperseded) // what is in flight finishes; the rest is planned anew
	}
	return period
}

// othersMoved asks for a run when another repository that stacks come from has a new commit.
func (f *follower) othersMoved(ctx context.Context) {
	f.mu.Lock()
	r := f.lastRead
	f.mu.Unlock()
	if r == nil || len(r.others) == 0 || f.running != nil {
		return
	}
	f.ask(job{trigger: triggerDrift}) // reading fetches them; nothing new costs one question each
}

// ask puts a job in line. What stands there already for the same end is enough.
func (f *follower) ask(j job) {
	if j.trigger != triggerCommand {
		for i, w := range f.want {
			if w.trigger == triggerCommand {
				continue
			}
			if j.trigger == triggerCommit || j.trigger == triggerSecret {
				f.want[i] = j
			}
			return
		}
	}
	f.want = append(f.want, j)
}

// start begins the next run if none goes on.
func (f *follower) start(ctx context.Context) {
	if f.running != nil || len(f.want) == 0 || f.let.tree == nil {
		return
	}
	at := 0
	if f.paused() {
		f.want = slices.DeleteFunc(f.want, func(w job) bool { return w.trigger != triggerCommand && w.trigger != triggerCommit })
		f.note(func(s *SyncStatus) { s.State = "paused" })
		at = slices.IndexFunc(f.want, func(w job) bool { return w.trigger == triggerCommand })
	} else if f.isCancelled() {
		f.want = slices.DeleteFunc(f.want, func(w job) bool { return w.trigger != triggerCommand })
		at = slices.IndexFunc(f.want, func(w job) bool { return w.trigger == triggerCommand })
	}
	var j job
	switch {
	case at >= 0 && len(f.want) > 0:
		j = f.want[at]
		f.want = slices.Delete(f.want, at, at+1)
	case at < 0 && !f.looked: // since the start: who asks how things stand is to see it
		j = job{trigger: triggerStart, look: true}
	default:
		return
	}
	if err := f.persists(ctx, !j.look); err != nil && !j.look {
		if j.ended != nil { // somebody waits for it
			j.ended(nil, nil, err)
			return
		}
		f.want = append(f.want, j)
		return
	}
	f.looked = true
	f.note(func(s *SyncStatus) { s.Retry = time.Time{} })
	runCtx, cancel := context.WithCancelCause(ctx)
	c := &current{job: j, view: f.let, done: make(chan struct{}), cancel: cancel, ops: make(map[schema.ID]int)}
	f.running = c
	f.began(c)
	go func() {
		defer close(c.done)
		defer cancel(nil)
		f.once(runCtx, c, cancel)
	}()
}

// full reports whether runs were found not to be recordable.
func (f *follower) full() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.diskErr != nil
}

// isCancelled reports whether a person cancelled the run of what is newest.
func (f *follower) isCancelled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.halted == nil || f.halted.Commit != f.let.commit {
		return false
	}
	f.status.State, f.status.Error = "cancelled", "run "+f.halted.Run+" was cancelled: a new commit, or varan apply, goes on"
	return true
}

func (f *follower) halt(h *halt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.halted != nil && h == nil && f.status.State == "cancelled" {
		f.status.State, f.status.Error = "ok", ""
	}
	f.halted = h
}

// once makes one run and takes its outcome into the status.
func (f *follower) once(ctx context.Context, c *current, cancel context.CancelCauseFunc) {
	f.runLock.Lock()
	defer f.runLock.Unlock()
	j, v := c.job, c.view
	if v.commit == "" { // a folder: look at it anew
		if fresh, err := f.src.fetch(ctx); err == nil {
			v = fresh
		}
	}
	if j.trigger == triggerDrift || j.trigger == triggerRetry || j.trigger == triggerSecret {
		// What was not let through is not applied by the way; what was good is looked after.
		if k := f.keptBack(); k != nil && (v.commit == "" || k.view.commit == v.commit) {
			if f.good == nil {
				return
			}
			v, j.aside = f.good.view, true
		}
	}
	tell := j.events
	j.events = func(e apply.Event) {
		c.hear(e)
		f.relay(e)
		if tell != nil {
			tell(e)
		}
	}
	finish := f.started(f.syncer, f.head(v.commit, j), cancel)
	p, res, err := f.run(ctx, v, j)
	finish()
	if j.look && f.keptBack() == nil {
		return
	}
	switch {
	case len(j.rules.Only) > 0: // of one resource: it says nothing about the commit
	case res != nil && res.Status == apply.StatusCancelled:
		f.halt(&halt{Commit: v.commit, Run: res.Run})
	case res != nil && err == nil:
		f.halt(nil)
	}
	f.conclude(ctx, v, j, p, res, err)
	if p != nil && res != nil && needsRun(p) && err == nil { // see that it is so
		f.disturb()
		select {
		case f.stirred <- struct{}{}:
		default:
		}
	}
	if j.ended != nil {
		j.ended(p, res, err)
	}
}

// conclude writes a run's outcome into the status.
func (f *follower) conclude(ctx context.Context, v view, j job, p *plan.Plan, res *apply.Result, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.status
	switch {
	case err != nil:
		s.State, s.Error = "failed", err.Error()
		if causeOf(ctx) == nil && ctx.Err() == nil {
			f.backoff = min(max(2*f.backoff, or(f.opts.Timing.RetryMin, time.Minute)), or(f.opts.Timing.RetryMax, time.Hour))
			s.Retry = time.Now().Add(f.backoff).UTC()
			f.log.ErrorContext(ctx, "run not made", "trigger", j.trigger, "err", err)
		}
	case res == nil: // broken
		s.Asks, s.Digest, s.Diagnostics = nil, "", p.Diagnostics
	case res.Status == apply.StatusAsks:
		s.Asks, s.Digest = res.Asks, p.Digest
	default:
		f.backoff = 0
		if f.kept == nil {
			s.Asks, s.Digest, s.Diagnostics = nil, "", p.Diagnostics
		}
		s.State, s.Error = "ok", ""
		if !res.OK() && res.Status != apply.StatusSuperseded && res.Status != apply.StatusCancelled {
			s.State = "failed"
		}
		for _, w := range f.waits {
			s.State = "retrying"
			if s.Retry.IsZero() || w.until.Before(s.Retry) {
				s.Retry = w.until.UTC()
			}
		}
		if p.HasErrors() { // some steps are blocked by what their authors must see to
			s.State, s.Error = "failed", firstError(p)
		}
		if res.OK() {
			f.back = ""
		}
		f.contested(ctx, j, p, res)
	}
	if f.kept != nil && err == nil {
		s.State, s.Error = f.kept.state, f.kept.why
	}
	if f.waiting != "" {
		s.State, s.Error = "waiting", f.waiting
	}
	if f.fetchErr != "" {
		s.State, s.Error = "unreachable", f.fetchErr
	}
	if f.halted != nil {
		s.State, s.Error = "cancelled", "run "+f.halted.Run+" was cancelled: a new commit, or varan apply, goes on"
	}
	if f.stored != nil {
		f.stored(*s, f.halted, f.others)
	}
}

// firstError is a plan's first error, with how many more there are.
func firstError(p *plan.Plan) string {
	text, n := "", 0
	for _, d := range p.Diagnostics {
		if d.Severity != schema.SeverityError {
			continue
		}
		if n++; n == 1 {
			text = d.Message
			if at := place(d.Pos); at != "" {
				text = at + ": " + text
			}
		}
	}
	if n > 1 {
		text += fmt.Sprintf(" (and %d more)", n-1)
	}
	return text
}

// shorten applies the test's knobs to apply's backoff.
func (s *syncer) shorten(d time.Duration) time.Duration {
	if s.opts.Timing.RetryMin > 0 {
		d = min(d, s.opts.Timing.RetryMin)
	}
	return d
}

// contested counts what drift runs put right: the third time within an hour the resource is held, because
// somebody else wants it otherwise.
func (f *follower) contested(ctx context.Context, j job, p *plan.Plan, res *apply.Result) {
	if j.trigger != triggerDrift {
		if j.trigger == triggerCommit {
			f.put = nil
		}
		return
	}
	if f.put == nil {
		f.put = make(map[schema.ID][]time.Time)
	}
	now := time.Now()
	for _, st := range res.Steps {
		if !st.Changed || asked(p.Step(st.Resource)) {
			continue
		}
		times := slices.DeleteFunc(f.put[st.Resource], func(t time.Time) bool { return now.Sub(t) > time.Hour })
		f.put[st.Resource] = append(times, now)
		if len(f.put[st.Resource]) >= 3 {
			delete(f.put, st.Resource)
			go f.contest(context.WithoutCancel(ctx), st.Server, st.Resource, "put right three times within an hour without a new commit")
		}
	}
}

// asked reports whether a step is owed to a declaration, in Git or on a host, and not to drift alone.
func asked(s *plan.Step) bool {
	return s != nil && slices.ContainsFunc(s.Causes, func(c plan.Cause) bool {
		switch c.Kind {
		case plan.HostFileChanged, plan.SecretChanged, plan.SpecChanged, plan.FileChanged, plan.ImageChanged, plan.EnsureChanged, plan.CameAfter:
			return true
		}
		return false
	})
}

// secretsChanged reports whether two settings hold other secrets.
func secretsChanged(a, b *Settings) bool {
	return !maps.Equal(a.Secrets, b.Secrets)
}

var _ protocol.Secret // secrets are compared, never shown

package apply_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleettest"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// world is a fleet that remembers the order of what began and ended.
type world struct {
	mu    sync.Mutex
	log   []string // "begin prepare db", "end prepare db"
	does  func(op protocol.Op) (protocol.Outcome, error)
	takes time.Duration
	now   map[string]int // ops under way by server
	most  map[string]int
}

func newWorld() *world {
	return &world{takes: time.Second, now: map[string]int{}, most: map[string]int{}}
}

func (w *world) Observe(context.Context, string, []protocol.Query) (plan.ServerState, error) {
	return plan.ServerState{}, nil
}

func (w *world) say(what string, op protocol.Op, count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf("%s %s %s", what, op.Verb, op.Resource.Name()))
	w.now[op.Server] += count
	w.now[""] += count
	w.most[op.Server] = max(w.most[op.Server], w.now[op.Server])
	w.most[""] = max(w.most[""], w.now[""])
}

func (w *world) Do(ctx context.Context, op protocol.Op, progress func(protocol.Progress)) (protocol.Outcome, error) {
	w.say("begin", op, 1)
	defer w.say("end", op, -1)
	select {
	case <-time.After(w.takes):
	case <-ctx.Done():
		return protocol.Outcome{}, ctx.Err()
	}
	if w.does != nil {
		if out, err := w.does(op); err != nil || out.Status != "" {
			return out, err
		}
	}
	return protocol.Outcome{ID: op.ID, Status: protocol.Done}, nil
}

// before fails t unless a stands in the log before b, and both do.
func (w *world) before(t *testing.T, a, b string) {
	t.Helper()
	i, k := slices.Index(w.log, a), slices.Index(w.log, b)
	if i < 0 || k < 0 || i > k {
		t.Errorf("%q (%d) is not before %q (%d) in\n%s", a, i, b, k, strings.Join(w.log, "\n"))
	}
}

func (w *world) never(t *testing.T, part string) {
	t.Helper()
	for _, line := range w.log {
		if strings.Contains(line, part) {
			t.Errorf("%q happened:\n%s", part, strings.Join(w.log, "\n"))
		}
	}
}

// steps reads "update web1 web after db,net" lines.
func steps(lines ...string) *plan.Plan {
	p := &plan.Plan{Version: 1, Commit: "c1", Digest: "1:plan", Summary: plan.Summary{}}
	for _, line := range lines {
		f := strings.Fields(line)
		s := plan.Step{Action: plan.Action(f[0]), Server: f[1], Resource: schema.ID("stack/" + f[2]), Digest: plan.Digest("1:" + f[2])}
		for i := 3; i < len(f); i++ {
			switch f[i] {
			case "after":
				for _, name := range strings.Split(f[i+1], ",") {
					s.After = append(s.After, schema.ID("stack/"+name))
				}
				i++
			case "gate":
				s.Gate = true
			case "cascade":
				s.Causes = append(s.Causes, plan.Cause{Kind: plan.CameAfter})
			}
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

func fails(verb protocol.Verb, name string, out protocol.Outcome) func(protocol.Op) (protocol.Outcome, error) {
	return func(op protocol.Op) (protocol.Outcome, error) {
		if op.Verb == verb && op.Resource.Name() == name {
			return out, nil
		}
		return protocol.Outcome{}, nil
	}
}

// run carries a plan out and says how each step ended: "db:failed".
func run(t *testing.T, ctx context.Context, w apply.Fleet, opts apply.Options) (*apply.Result, map[string]apply.Status) {
	t.Helper()
	opts.Fleet = w
	if opts.Head.Sync == "" {
		opts.Head.Sync = "main"
	}
	res, err := apply.Run(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]apply.Status{}
	for _, s := range res.Steps {
		got[s.Resource.Name()] = s.Status
	}
	return res, got
}

func want(t *testing.T, got map[string]apply.Status, lines string) {
	t.Helper()
	m := map[string]apply.Status{}
	for _, f := range strings.Fields(lines) {
		name, status, _ := strings.Cut(f, ":")
		m[name] = apply.Status(status)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Error(diff)
	}
}

func TestOrderAndBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		res, got := run(t, t.Context(), w, apply.Options{Plan: steps(
			"update a db", "update b web after db", "none a quiet after db", "restart a proxy after web cascade", "update c alone",
		)})
		want(t, got, "db:done web:done quiet:done proxy:done alone:done")
		if !res.OK() {
			t.Errorf("status %s", res.Status)
		}
		for _, p := range []string{"end prepare db", "end prepare web"} {
			w.before(t, p, "begin deploy db")
		}
		w.before(t, "end deploy db", "begin deploy web")
		w.before(t, "end deploy web", "begin restart proxy")
		w.never(t, "quiet")
		if s := res.Step("stack/web"); !s.Changed || s.Wait != 0 {
			t.Errorf("web = %+v", s)
		}
	})
}

func TestFailureOfAnyStep(t *testing.T) {
	chain := func() *plan.Plan {
		return steps("update a db", "update a web after db", "update a edge after web", "update a other")
	}
	for _, c := range []struct {
		name string
		verb protocol.Verb
		at   string
		out  protocol.Outcome
		want string
	}{
		{"pull", protocol.Prepare, "web", protocol.Outcome{Status: protocol.Failed, Error: "no such image"}, "db:not_tried web:failed edge:not_tried other:done"},
		{"first", protocol.Deploy, "db", protocol.Outcome{Status: protocol.RolledBack, Error: "unhealthy", Stopped: true, Held: "1:db"}, "db:rolled_back web:not_tried edge:not_tried other:done"},
		{"middle", protocol.Deploy, "web", protocol.Outcome{Status: protocol.Failed, Error: "port taken"}, "db:done web:failed edge:not_tried other:done"},
		{"last", protocol.Deploy, "edge", protocol.Outcome{Status: protocol.Refused, Error: "agent.toml: privileged"}, "db:done web:done edge:failed other:done"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.does = fails(c.verb, c.at, c.out)
				res, got := run(t, t.Context(), w, apply.Options{Plan: chain(), Failures: map[schema.ID]int{"stack/web": 2}})
				want(t, got, c.want)
				if res.Status != apply.StatusFailed {
					t.Errorf("status %s", res.Status)
				}
				for _, s := range res.Steps {
					if s.Status == apply.StatusNotTried && (s.Because != schema.ID("stack/"+c.at) || !strings.Contains(s.Why, "stack/")) {
						t.Errorf("%s: why %q because %s", s.Resource, s.Why, s.Because)
					}
				}
				failed := res.Step(schema.ID("stack/" + c.at))
				if failed.Error != c.out.Error {
					t.Errorf("error %q", failed.Error)
				}
				retry := map[string]time.Duration{"pull": 4 * time.Minute, "middle": 4 * time.Minute, "last": time.Minute}[c.name]
				if failed.Retry != retry || res.Retry != retry {
					t.Errorf("retry %v, %v, want %v", failed.Retry, res.Retry, retry)
				}
				if c.name == "pull" {
					w.never(t, "deploy db")
				}
			})
		})
	}
}

func TestGateOfUnchangedParent(t *testing.T) {
	for _, c := range []struct{ name, parent, want string }{
		{"healthy", "none a db gate", "db:done web:done"},
		{"adopted", "adopt a db gate", "db:done web:done"},
		{"stopped", "stop a db", "db:done web:done"},
		{"no gate", "none a db", "db:done web:done"},
		{"held", "held a db", "db:not_tried web:done"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				_, got := run(t, t.Context(), w, apply.Options{Plan: steps(c.parent, "update b web after db")})
				want(t, got, c.want)
				if strings.Contains(c.parent, "gate") {
					w.before(t, "end await db", "begin deploy web")
				} else {
					w.never(t, "await")
				}
			})
		})
	}
	t.Run("unhealthy", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.does = fails(protocol.Await, "db", protocol.Outcome{Status: protocol.Failed, Error: "unhealthy"})
			_, got := run(t, t.Context(), w, apply.Options{Plan: steps("none a db gate", "update b web after db")})
			want(t, got, "db:failed web:not_tried")
			w.never(t, "deploy")
		})
	})
}

func TestRemovals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		_, got := run(t, t.Context(), w, apply.Options{Plan: steps("remove a web", "remove b db after web", "update a new", "remove a used after new")})
		want(t, got, "web:done db:done new:done used:done")
		w.before(t, "end remove web", "begin remove db")
		w.before(t, "end deploy new", "begin remove used")
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.does = fails(protocol.Remove, "web", protocol.Outcome{Status: protocol.Failed, Error: "device busy"})
		res, got := run(t, t.Context(), w, apply.Options{Plan: steps("remove a web", "remove b db after web")})
		want(t, got, "web:failed db:not_tried")
		if why := res.Step("stack/db").Why; why != "stack/web, which came after it, failed" {
			t.Error(why)
		}
	})
	synctest.Test(t, func(t *testing.T) { // stale labels
		_, got := run(t, t.Context(), newWorld(), apply.Options{Plan: steps("remove a x after y", "remove a y after x")})
		want(t, got, "x:done y:done")
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		for i := range 60 {
			lines = append(lines, fmt.Sprintf("update s%d r%02d", i%3, i))
		}
		w := newWorld()
		run(t, t.Context(), w, apply.Options{Plan: steps(lines...), PerServer: 4, Parallel: 9})
		for _, s := range []string{"s0", "s1", "s2"} {
			if w.most[s] > 4 {
				t.Errorf("%s had %d ops at once", s, w.most[s])
			}
		}
		if w.most[""] != 9 {
			t.Errorf("%d ops at once, want 9", w.most[""])
		}
	})
}

func TestMaxFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		for i := range 10 {
			lines = append(lines, fmt.Sprintf("update a r%02d", i))
		}
		w := newWorld()
		w.does = func(op protocol.Op) (protocol.Outcome, error) {
			if op.Verb == protocol.Deploy {
				return protocol.Outcome{Status: protocol.RolledBack, Error: "unhealthy", Stopped: true}, nil
			}
			return protocol.Outcome{}, nil
		}
		res, got := run(t, t.Context(), w, apply.Options{Plan: steps(lines...), PerServer: 1, MaxFailures: 3})
		n := 0
		for _, s := range got {
			if s == apply.StatusRolledBack {
				n++
			}
		}
		if n != 3 {
			t.Errorf("%d updates failed: %v", n, got)
		}
		if why := res.Step("stack/r09").Why; !strings.Contains(why, "max_failures") {
			t.Error(why)
		}
	})
}

func TestSupersededAndCancelled(t *testing.T) {
	for cause, status := range map[error]apply.Status{
		apply.ErrSuperseded: apply.StatusSuperseded, apply.ErrCancelled: apply.StatusCancelled,
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(1500*time.Millisecond, func() { cancel(fmt.Errorf("commit c2: %w", cause)) }) // db is being deployed
			book := &book{}
			res, got := run(t, ctx, w, apply.Options{Plan: steps("update a db", "restart a web after db cascade"), Journal: book})
			want(t, got, "db:done web:not_tried")
			if res.Status != status || !slices.Equal(res.Cascades, []schema.ID{"stack/web"}) {
				t.Errorf("status %s, cascades %v", res.Status, res.Cascades)
			}
			if r := book.record(); r.Unfinished() || len(r.Cascades) != 1 {
				t.Errorf("record %+v", r)
			}
			cancel(nil)
		})
	}
}

func TestAsks(t *testing.T) {
	w := newWorld()
	p := steps("remove a db", "none a web")
	p.Asks = []string{"1 of 1 resources would be removed"}
	res, got := run(t, t.Context(), w, apply.Options{Plan: p, Preview: "1:other"})
	want(t, got, "db:not_tried web:done")
	if res.Status != apply.StatusAsks || len(res.Asks) != 1 || !res.Differs || len(w.log) > 0 {
		t.Errorf("%+v, %v", res, w.log)
	}
	w.takes = 0
	if res, _ := run(t, t.Context(), w, apply.Options{Plan: p, Approved: p.Digest}); !res.OK() {
		t.Errorf("approved: %s", res.Status)
	}
}

func TestUnknownOutcomeIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var ids []protocol.OpID
		w.does = func(op protocol.Op) (protocol.Outcome, error) {
			if op.Verb != protocol.Deploy {
				return protocol.Outcome{}, nil
			}
			if ids = append(ids, op.ID); len(ids) < 4 {
				return protocol.Outcome{}, errors.New("connection lost")
			}
			return protocol.Outcome{}, nil
		}
		_, got := run(t, t.Context(), w, apply.Options{Plan: steps("update a db")})
		want(t, got, "db:done")
		if len(ids) != 4 || ids[0] != ids[3] {
			t.Errorf("asked with %v", ids)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.does = func(op protocol.Op) (protocol.Outcome, error) {
			if op.Server == "gone" {
				return protocol.Outcome{}, fmt.Errorf("server gone: %w", apply.ErrUnreachable)
			}
			if op.Verb == protocol.Deploy && op.Resource.Name() == "lost" {
				return protocol.Outcome{}, errors.New("no answer")
			}
			return protocol.Outcome{}, nil
		}
		res, got := run(t, t.Context(), w, apply.Options{Plan: steps("update gone db", "update b web after db", "update c lost", "update c kept")})
		want(t, got, "db:failed web:not_tried lost:unknown kept:done")
		if s := res.Step("stack/db"); s.Retry != time.Minute || s.Stopped {
			t.Errorf("%+v", s)
		}
	})
}

// book is a journal of memory.
type book struct {
	mu      sync.Mutex
	entries []apply.Entry
	err     error
}

func (b *book) Append(_ context.Context, e apply.Entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil && e.Kind != apply.EntryStarted {
		return b.err
	}
	b.entries = append(b.entries, e)
	return nil
}

func (b *book) record() *apply.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &apply.Record{}
	for _, e := range b.entries {
		r.Add(e)
	}
	return r
}

func TestJournalThatFails(t *testing.T) {
	w := newWorld()
	w.takes = 0
	full := errors.New("disk full")
	res, err := apply.Run(t.Context(), apply.Options{Plan: steps("update a db"), Fleet: w, Journal: &book{err: full}})
	if !errors.Is(err, full) || res.Steps[0].Status != apply.StatusFailed || len(w.log) > 0 {
		t.Errorf("%v, %+v, did %v", err, res, w.log)
	}
}

var errKilled = errors.New("killed")

// TestKillAnywhere kills the daemon between any two entries of the journal and resumes: every op is done, none twice.
func TestKillAnywhere(t *testing.T) {
	for after := 1; ; after++ {
		agent := fleettest.NewAgent()
		fleet := fleettest.NewMemory(map[string]*fleettest.Agent{"a": agent, "b": agent})
		p := func() *plan.Plan {
			return steps("update a db", "update b web after db", "restart a edge after web cascade", "none a quiet gate", "update a more after quiet", "remove b old")
		}
		ctx, kill := context.WithCancelCause(t.Context())
		first := &cutter{kill: kill, left: after}
		res, err := apply.Run(ctx, apply.Options{Plan: p(), Fleet: fleet, Journal: first, Head: apply.Head{Sync: "main"}})
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		if res.Status == apply.StatusDone && first.left > 0 {
			break
		}
		r := first.record()
		if r.Unfinished() {
			again, _ := run(t, t.Context(), fleet, apply.Options{Resume: r, Journal: &book{}})
			if !again.OK() {
				t.Fatalf("killed after %d: %+v", after, again)
			}
		}
		seen := map[string]int{}
		for _, op := range agent.Done() {
			seen[fmt.Sprint(op.Verb, " ", op.Resource)]++
		}
		for what, n := range seen {
			if n != 1 {
				t.Errorf("killed after %d: %s %d times", after, what, n)
			}
		}
		if len(seen) != 9 {
			t.Errorf("killed after %d: %v", after, seen)
		}
		if after > 100 {
			t.Fatal("never finished")
		}
	}
}

// A cutter kills the run, and keeps nothing more, after so many entries.
type cutter struct {
	book
	kill context.CancelCauseFunc
	left int
}

func (c *cutter) Append(ctx context.Context, e apply.Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		return errKilled
	}
	c.entries = append(c.entries, e)
	if c.left--; c.left == 0 {
		c.kill(errKilled)
	}
	return nil
}

func TestEvents(t *testing.T) {
	w := newWorld()
	w.takes = 0
	var kinds []apply.EventKind
	run(t, t.Context(), w, apply.Options{Plan: steps("update a db", "none a web"), Events: func(e apply.Event) { kinds = append(kinds, e.Kind) }})
	want := []apply.EventKind{apply.RunStarted, apply.StepDone, apply.OpStarted, apply.OpFinished, apply.OpStarted, apply.OpFinished, apply.StepDone, apply.RunFinished}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Error(diff)
	}
}

// TestRandomPlans holds any plan with any failures to the rules: nothing starts before what it comes after is done,
// every step ends once, and a run always ends.
func TestRandomPlans(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			p := randomPlan(rnd, 40)
			w := newWorld()
			done := map[schema.ID]bool{}
			w.does = func(op protocol.Op) (protocol.Outcome, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				if rnd.IntN(12) == 0 {
					return protocol.Outcome{Status: protocol.Failed, Error: "x"}, nil
				}
				if op.Verb != protocol.Prepare {
					done[op.Resource] = true
				}
				return protocol.Outcome{}, nil
			}
			ended := map[schema.ID]int{}
			res, got := run(t, t.Context(), w, apply.Options{Plan: p, PerServer: 1 + rnd.IntN(4), Parallel: 1 + rnd.IntN(8), Events: func(e apply.Event) {
				if e.Kind == apply.StepDone {
					ended[e.Resource]++
				}
				if e.Kind == apply.OpStarted && e.Verb != protocol.Prepare && e.Verb != protocol.Await {
					for _, s := range p.Steps {
						if s.Resource != e.Resource {
							continue
						}
						for _, id := range s.After {
							parent := p.Steps[slices.IndexFunc(p.Steps, func(s plan.Step) bool { return s.Resource == id })]
							w.mu.Lock()
							if parent.Action.Changes() && !done[id] {
								t.Errorf("seed %d: %s %s started before %s", seed, e.Verb, e.Resource, id)
							}
							w.mu.Unlock()
						}
					}
				}
			}})
			if len(got) != 40 || len(ended) != 40 {
				t.Errorf("seed %d: %d results, %d ended", seed, len(got), len(ended))
			}
			for id, n := range ended {
				if n != 1 {
					t.Errorf("seed %d: %s ended %d times", seed, id, n)
				}
			}
			for _, s := range res.Steps {
				if s.Status == apply.StatusDone && s.Action.Changes() && !done[s.Resource] {
					t.Errorf("seed %d: %s done without an op", seed, s.Resource)
				}
			}
		})
	}
}

func randomPlan(rnd *rand.Rand, n int) *plan.Plan {
	actions := []string{"update", "create", "recreate", "restart", "none", "adopt"}
	var lines []string
	for i := range n {
		line := fmt.Sprintf("%s s%d r%03d", actions[rnd.IntN(len(actions))], rnd.IntN(3), i)
		if rnd.IntN(2) == 0 {
			line += " gate"
		}
		var after []string
		for range rnd.IntN(3) {
			if i > 0 {
				after = append(after, fmt.Sprintf("r%03d", rnd.IntN(i)))
			}
		}
		slices.Sort(after)
		if after = slices.Compact(after); len(after) > 0 {
			line += " after " + strings.Join(after, ",")
		}
		lines = append(lines, line)
	}
	return steps(lines...)
}

// BenchmarkSchedule is what 1,000 steps cost beside their ops.
func BenchmarkSchedule(b *testing.B) {
	var lines []string
	for i := range 1000 {
		line := fmt.Sprintf("update s%d r%04d", i%50, i)
		if i >= 100 {
			line += fmt.Sprintf(" after r%04d,r%04d,r%04d", i-100, i-99, i-98)
		}
		lines = append(lines, line)
	}
	p := steps(lines...)
	w := newWorld()
	w.takes = 0
	b.ReportAllocs()
	for b.Loop() {
		w.log = w.log[:0]
		if res, err := apply.Run(context.Background(), apply.Options{Plan: p, Fleet: w}); err != nil || !res.OK() {
			b.Fatal(res, err)
		}
	}
}

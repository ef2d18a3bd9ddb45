package sync

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	gosync "sync"
	"time"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// What a run is for.
const (
	triggerCommit  = "commit"
	triggerDrift   = "drift"
	triggerSecret  = "secret"
	triggerCommand = "command"
	triggerRetry   = "retry"
	triggerStart   = "start"
)

// RootName is the root ResourceSync's name.
const RootName = "main"

// A syncer is one ResourceSync: its source, what was read of it, and how it stands. One run at a time uses it;
// runLock is held for its length. What the mutex guards is read by Status at any time.
type syncer struct {
	name   string
	opts   *Options
	log    *slog.Logger
	src    source
	reader *reader
	here   bool // only this machine is observed

	rules       plan.Rules
	manual      bool
	onSurprise  string
	maxFailures int

	runLock  gosync.Mutex // held by the run; guards the next group
	asked    []plan.Query
	askedFor *reading
	failures map[schema.ID]int
	waits    map[schema.ID]wait // failures that stopped nothing, until they are tried again
	owed     map[schema.ID]bool
	good     *reading            // newest that could be read and was let through: drift is checked against it
	others   map[string]string   // commits of other repositories that were let through last
	late     map[string]*movedTo // of those, the ones that went wrong
	regained bool                // good was looked for in what earlier processes kept
	quiet    bool                // good was planned and nothing is left to do, nor has any server changed since
	seenStir uint64              // stir when the servers were last looked at
	put      map[schema.ID][]time.Time
	keys     map[string]string // of the agents enrolled, by server; nil = not told yet
	binaries binaries

	mu       gosync.Mutex // guards below
	set      *Settings
	status   SyncStatus
	last     *plan.Plan
	lastRead *reading
	lastOwed map[schema.ID]bool
	state    *plan.State
	kept     *setBack
	halted   *halt  // a person cancelled this commit's run
	waiting  string // why the tip is not let through yet, "" = it is
	diskErr  error  // why runs cannot be recorded, nil = they can
	fetchErr string // why the source could not be read, "" = it could
	backAt   string // the commit that back is about
	back     string // why the tip waits for an approval though its plan asks nothing
	pending  *pendingApproval
	stir     uint64 // counts signs of change, so that a run knows whether more came while it went
}

// A wait keeps a declaration that failed with nothing stopped from being tried again at every sign of life of the
// host: the failed try itself is one.
type wait struct {
	digest plan.Digest
	until  time.Time
	why    string // how it failed
	since  time.Time
	away   string // the server that could not be reached: the wait is over when it is back; "" = something else failed
}

// over reports whether it may be tried again.
func (w wait) over(state *plan.State) bool {
	if server := state.Servers[w.away]; w.away != "" && server != nil && server.Unreachable == "" {
		return true
	}
	return !time.Now().Before(w.until)
}

// hold puts what is not to be tried again yet on hold in what was observed. A retry and a person's command try it.
func (s *syncer) hold(state *plan.State, j job) *plan.State {
	if len(s.waits) == 0 || j.trigger == triggerRetry || j.trigger == triggerCommand {
		return state
	}
	out := &plan.State{Servers: maps.Clone(state.Servers)}
	for name, server := range out.Servers {
		held := *server
		held.Holds = slices.Clip(held.Holds)
		for _, id := range slices.Sorted(maps.Keys(s.waits)) {
			w := s.waits[id]
			if !w.over(state) {
				why := cmp.Or(w.why, "it failed")
				held.Holds = append(held.Holds, plan.Hold{Resource: id, Kind: plan.HoldFailed, Digest: w.digest, Since: w.since,
					Reason: why + "; nothing was stopped, and it is tried again at " + w.until.UTC().Format("15:04:05") + " UTC"})
			}
		}
		out.Servers[name] = &held
	}
	return out
}

// A halt is a commit whose run a person cancelled: nothing begins by itself until there is another commit, or a
// person applies it. Of a folder it is over when a file changes.
type halt struct {
	Commit string `json:"commit"`
	Run    string `json:"run"`
}

// A pendingApproval is a plan that waits to be approved, with the commit it was made for.
type pendingApproval struct {
	digest string
	view   view
}

// A setBack is a view that was read and not let through; drift is checked against the good one meanwhile.
type setBack struct {
	view  view
	state string // broken or asking
	why   string
}

// setBack notes such a view; it reports whether that is news.
func (s *syncer) setBack(v view, state, why, digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, before := s.kept, ""
	if s.pending != nil {
		before = s.pending.digest
	}
	s.kept = &setBack{view: v, state: state, why: why}
	s.pending = nil
	if digest != "" {
		s.pending = &pendingApproval{digest: digest, view: v}
	}
	return old == nil || old.view != v || old.state != state || before != digest
}

// keptBack is the newest view that was not let through, nil if the newest one was.
func (s *syncer) keptBack() *setBack {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept
}

func newSyncer(name string, opts *Options, set *Settings, src source, m *mirrors, sc scope) *syncer {
	s := &syncer{name: name, opts: opts, log: opts.Log.With("sync", name), src: src, set: set}
	s.reader = newReader(name, opts, m, src, sc)
	s.status = SyncStatus{Name: name, URL: src.address().String(), State: "reading"}
	return s
}

// configure takes a root's settings.
func (s *syncer) configure(c Root, compat schema.Compat) {
	drift := c.Drift
	if drift == "" && compat == schema.CompatKomodo {
		drift = "report"
	}
	s.rules = plan.Rules{Delete: c.Delete, MaxRemovals: c.MaxRemovals, ReportDrift: drift == "report"}
	s.manual, s.maxFailures, s.onSurprise = c.Apply == "manual", c.MaxFailures, c.OnSurprise
}

func (s *syncer) settings() *Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set
}

func (s *syncer) fleet() string { return cmp.Or(s.settings().Fleet, "main") }

func (s *syncer) say(ctx context.Context, r Report) {
	r.Sync = s.name
	s.opts.Reporter.Report(ctx, r)
}

// note changes the status.
func (s *syncer) note(change func(*SyncStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
}

// settled reports whether a reading asks for what the good one asked for, which is how the servers stood when
// last looked at.
func (s *syncer) settled(r *reading) bool {
	s.mu.Lock()
	still := s.stir == s.seenStir
	s.mu.Unlock()
	return still && s.quiet && len(s.owed) == 0 && r.same(s.good)
}

// carryOn takes a commit that touches nothing of ours: its plan is the last one under its own id.
func (s *syncer) carryOn(ctx context.Context, r *reading, j job) (*plan.Plan, *apply.Result, error) {
	s.mu.Lock()
	p := *s.last
	s.mu.Unlock()
	p.Commit = r.commit
	p.Diagnostics = carriedOn(p.Diagnostics, s.good.diags, r.diags)
	before := s.good
	s.good = r
	result := idle(&p, s.head(r.commit, j))
	moved := s.brought(ctx, r, &p, result)
	s.others = r.others
	s.mu.Lock()
	s.last, s.lastRead = &p, r
	s.kept, s.pending = nil, nil
	s.status.Good, s.status.Applied = r.commit, r.commit
	s.mu.Unlock()
	s.say(ctx, Report{Stage: StageApplied, Commit: r.commit, Trigger: j.trigger, Plan: tell(&p, r, nil), Result: result, Diagnostics: r.diags,
		Moved: moved, Stays: before.commit == r.commit})
	return &p, result, nil
}

// carriedOn puts what a new reading says in the place of what the old one said; what the plan said beside it stays.
func carriedOn(said, old, fresh schema.Diagnostics) schema.Diagnostics {
	type key struct {
		pos     schema.Pos
		message string
	}
	gone := make(map[key]bool, len(old))
	for _, d := range old {
		gone[key{d.Pos, d.Message}] = true
	}
	out := slices.Clone(fresh)
	for _, d := range said {
		if !gone[key{d.Pos, d.Message}] {
			out = append(out, d)
		}
	}
	return out.Sorted()
}

// prev is the Config applied before.
func (s *syncer) prev() *schema.Config {
	if s.good == nil {
		return nil
	}
	return s.good.config
}

// heldBack says why a commit waits for an approval though its plan asks nothing.
func (s *syncer) heldBack(commit string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if commit != s.backAt {
		return ""
	}
	return s.back
}

// planned keeps what was seen and decided, for Status.
func (s *syncer) planned(r *reading, p *plan.Plan, state *plan.State, j job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	if len(j.rules.Only) > 0 {
		return
	}
	s.lastOwed = s.owed
	s.quiet = !needsRun(p)
	s.last, s.lastRead = p, r
	s.status.Summary, s.status.Planned = p.Summary, time.Now().UTC()
}

// applied takes a result in: what is owed, what failed, which commit stands.
func (s *syncer) applied(r *reading, p *plan.Plan, res *apply.Result, j job) {
	if len(j.rules.Only) == 0 {
		s.good, s.others = r, r.others
		s.owed = make(map[schema.ID]bool)
	}
	for _, id := range res.Cascades {
		s.owed[id] = true
	}
	failures := maps.Clone(s.failures)
	if failures == nil {
		failures = make(map[schema.ID]int)
	}
	waits := maps.Clone(s.waits)
	if waits == nil {
		waits = make(map[schema.ID]wait)
	}
	for _, st := range res.Steps {
		step := p.Step(st.Resource)
		if _, waiting := waits[st.Resource]; waiting && step != nil && step.Action == plan.Held {
			continue
		}
		delete(failures, st.Resource)
		delete(waits, st.Resource)
		if st.Failures > 0 && step != nil {
			failures[st.Resource] = st.Failures
			waits[st.Resource] = wait{digest: step.Digest, until: time.Now().Add(s.shorten(st.Retry)), why: st.Error, since: time.Now()}
			if st.Unreachable {
				w := waits[st.Resource]
				w.away = st.Server
				waits[st.Resource] = w
			}
		}
	}
	for id := range waits {
		if p.Step(id) == nil && len(j.rules.Only) == 0 {
			delete(waits, id) // declared no longer
		}
	}
	s.failures, s.waits = failures, waits
	s.quiet = res.OK() && !needsRun(p) && len(j.rules.Only) == 0 && len(waits) == 0
	s.note(func(st *SyncStatus) {
		if len(j.rules.Only) > 0 {
			return
		}
		if !j.aside { // what was not let through before has a successor
			s.kept, s.pending = nil, nil
		}
		st.Good = r.commit
		if res.OK() && !p.HasErrors() && len(waits) == 0 {
			st.Applied = r.commit
		}
	})
}

// relation decides whether a new tip may be applied at once. It returns a state to wait in, "" = go on.
func (s *syncer) relation(ctx context.Context, v view, since time.Time, polls int) (state, why string) {
	s.mu.Lock()
	applied := cmp.Or(s.status.Applied, s.status.Good)
	s.mu.Unlock()
	if v.commit == "" || applied == "" || applied == v.commit {
		return "", ""
	}
	rel, err := s.src.relate(ctx, applied, v.commit)
	if err != nil {
		return "unreachable", "the history between " + plan.Short(applied) + " and " + plan.Short(v.commit) + " could not be read: " + err.Error()
	}
	stand := cmp.Or(s.opts.Timing.Rewritten, 30*time.Second)
	switch rel {
	case gitrepo.Ancestor:
		return "asking", "the branch was set back to " + plan.Short(v.commit) + ", which is older than the applied " + plan.Short(applied)
	case gitrepo.Unrelated:
		return "asking", "the branch shares no known history with the applied commit " + plan.Short(applied)
	case gitrepo.Diverged:
		if polls < 2 || time.Since(since) < stand {
			return "waiting", "the branch was rewritten; its new head is taken once it stood unchanged for " + stand.String()
		}
	}
	return "", ""
}

// Errors that end a run's context.
func causeOf(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

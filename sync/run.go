package sync

import (
	"context"
	"maps"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// A job is one run to make: what for, and who asked for it.
type job struct {
	trigger  string // commit, drift, secret, command, retry, start
	actor    string
	rules    plan.Rules // Retry, AllowRemovals, Only, Delete; the sync's own are added
	preview  string     // the digest that was shown: another plan is ErrChanged
	approved string     // the digest whose asks are answered
	events   func(apply.Event)
	ended    func(*plan.Plan, *apply.Result, error) // told once; may be nil
	look     bool                                   // plan and change nothing
	aside    bool                                   // of the good view, while a newer one is not let through
}

// run takes one commit of the config repository from bytes to containers, and says how it went.
func (s *syncer) run(ctx context.Context, v view, j job) (*plan.Plan, *apply.Result, error) {
	r, err := s.read(ctx, v) // bytes → Resources, and what their files declare
	if err != nil {
		return nil, nil, err
	}
	if r.broken() { // its author reads this; what was good goes on
		s.regain(ctx, v.branch, j)
		s.enrolNobody(j)
		if !s.setBack(v, "broken", "the commit has errors and is not applied", "") {
			return s.brokenPlan(r), nil, nil // said before
		}
		s.say(ctx, Report{Stage: StageBroken, Commit: v.commit, Trigger: j.trigger, Diagnostics: tellDiagnostics(r.diags, r)})
		return s.brokenPlan(r), nil, nil
	}
	s.enrol(r, j)
	if j.trigger == triggerDrift && s.good != nil && !maps.Equal(r.others, s.good.others) {
		j.trigger = triggerCommit // of another repository
	}
	if j.trigger == triggerCommit && s.settled(r) { // nothing of ours was touched
		return s.carryOn(ctx, r, j)
	}
	if j.trigger == triggerCommand {
		s.refresh()
	}
	before := s.good
	stays := before != nil && before.commit == r.commit
	state := s.hold(s.observe(ctx, r, s.servers(r)), j) // an unreachable server is a fact in it, not an error
	p := s.make(r, state, j)                            // pure: no clock, no I/O
	s.planned(r, p, state, j)
	if j.look {
		return p, nil, nil
	}
	if why := s.asks(ctx, p, j); why != nil {
		if news := s.setBack(v, "asking", "", p.Digest); !news {
			return p, why, nil
		}
		s.say(ctx, Report{Stage: StagePlanned, Commit: v.commit, Trigger: j.trigger, Plan: tell(p, r, before), Diagnostics: r.diags,
			Moved: s.brought(ctx, r, p, nil), Stays: stays})
		return p, why, nil
	}
	if needsRun(p) && j.trigger == triggerCommit {
		s.say(ctx, Report{Stage: StageApplying, Commit: v.commit, Trigger: j.trigger, Plan: tell(p, r, before), Stays: stays})
	}
	result, err := s.apply(ctx, r, p, state, j)
	if err != nil {
		return p, result, err
	}
	var moved []Moved
	if len(j.rules.Only) == 0 {
		moved = s.brought(ctx, r, p, result)
	}
	s.applied(r, p, result, j)
	if result.Run == "" && j.trigger != triggerCommit && len(moved) == 0 {
		return p, result, nil // a look that found nothing to do is no news
	}
	s.say(context.WithoutCancel(ctx), Report{Stage: StageApplied, Commit: v.commit, Run: result.Run, Trigger: j.trigger, Plan: tell(p, r, before), Result: result, Diagnostics: r.diags,
		Moved: moved, Stays: stays})
	return p, result, nil
}

// regain reads the commit that was let through last, where the first thing seen after a start is a broken one: its
// agents are enrolled, drift from it is put right, and what mends the branch can be previewed.
func (s *syncer) regain(ctx context.Context, branch string, j job) {
	s.mu.Lock()
	commit := s.status.Good
	s.mu.Unlock()
	src, ok := s.src.(interface {
		at(ctx context.Context, branch, commit string) (view, error)
	})
	if s.good != nil || s.regained || commit == "" || !ok {
		return
	}
	v, err := src.at(ctx, branch, commit)
	if err != nil {
		s.log.WarnContext(ctx, "the commit applied last cannot be read, and the newest one is broken", "commit", commit, "err", err)
		return
	}
	s.regained = true
	r, err := s.read(ctx, v)
	if err != nil || r.broken() {
		s.log.WarnContext(ctx, "the commit applied last is not understood, and the newest one is broken", "commit", commit, "err", err)
		return
	}
	s.enrol(r, j)
	s.good = r
	state := s.observe(ctx, r, s.servers(r))
	s.planned(r, s.make(r, state, j), state, j)
}

// make decides, and puts what the TOML files' authors should read beside what the plan says.
func (s *syncer) make(r *reading, state *plan.State, j job) *plan.Plan {
	p := plan.Make(s.desire(r, j), state, s.prev())
	for i := range p.Steps {
		if c := r.origin[p.Steps[i].Resource]; c != nil {
			p.Steps[i].Sync, p.Steps[i].Commit = c.name, c.snap.commit
		}
	}
	p.Diagnostics = append(r.diags[:len(r.diags):len(r.diags)], p.Diagnostics...).Sorted()
	return p
}

// desire completes a reading with the rules of this sync and this run.
func (s *syncer) desire(r *reading, j job) *plan.Desired {
	d := *r.desired
	own := d.Rules
	d.Rules = j.rules
	d.Rules.Delete = own.Delete || j.rules.Delete
	d.Rules.MaxRemovals, d.Rules.ReportDrift = own.MaxRemovals, own.ReportDrift && j.trigger != triggerCommand
	d.Rules.Complete, d.Rules.Further = r.childRules()
	d.Rules.Owed = s.owed
	if s.opts.Servers != nil { // a preview takes them to be there
		d.Binaries = s.binaries.missing(s.settings().AgentsDir, r.config)
	}
	return &d
}

// asks says why a plan waits for a person, nil if it does not.
func (s *syncer) asks(ctx context.Context, p *plan.Plan, j job) *apply.Result {
	manual := s.manual && (j.trigger == triggerCommit || j.trigger == triggerSecret) && p.Changes()
	approved := j.approved != "" && j.approved == p.Digest
	if approved {
		return nil
	}
	surprises, other := s.surprises(ctx, p, j), j.approved != ""
	if len(p.Asks) == 0 && !manual && s.heldBack(p.Commit) == "" && len(surprises) == 0 && !other {
		return nil
	}
	why := append([]string(nil), p.Asks...)
	if other { // nothing of it is applied; the plan made now is shown, and asks in the old one's place
		why = append(why, "it is no longer the plan that was approved, "+plan.Short(j.approved))
	}
	for _, risk := range surprises {
		why = append(why, "the pull request did not show: "+risk)
	}
	if manual {
		why = append(why, `apply = "manual": every change waits for an approval`)
	}
	if back := s.heldBack(p.Commit); back != "" {
		why = append(why, back)
	}
	p.Asks = why
	return &apply.Result{Head: s.head(p.Commit, j), Status: apply.StatusAsks, Asks: why, Started: time.Now().UTC()}
}

// surprises are risks of a commit's plan that were not seen before the merge.
func (s *syncer) surprises(ctx context.Context, p *plan.Plan, j job) []string {
	if s.opts.Surprises == nil || s.onSurprise == "apply" || j.trigger != triggerCommit || p.Commit == "" {
		return nil
	}
	risks := Risks(p)
	if len(risks) == 0 {
		return nil
	}
	return s.opts.Surprises(ctx, p.Commit, risks)
}

func (s *syncer) head(commit string, j job) apply.Head {
	return apply.Head{Sync: s.name, Fleet: s.fleet(), Commit: commit, Trigger: j.trigger, Actor: j.actor}
}

// apply carries the plan out, unless it changes nothing.
func (s *syncer) apply(ctx context.Context, r *reading, p *plan.Plan, state *plan.State, j job) (*apply.Result, error) {
	if j.preview != "" && j.preview != p.Digest {
		return nil, ErrChanged
	}
	if !needsRun(p) {
		return idle(p, s.head(p.Commit, j)), nil
	}
	set := s.settings()
	opts := apply.Options{
		Plan: p, Fleet: s.fleetOf(r.desired.Local), Journal: s.opts.Journal, Head: s.head(p.Commit, j), Log: s.log,
		Payloads: apply.PayloadFunc(func(ctx context.Context, step plan.Step) (*protocol.Payload, error) {
			if step.Resource.Kind() == schema.KindServer {
				return s.binaries.payload(set.AgentsDir, &step, state, r.config)
			}
			return r.payload(ctx, step.Resource, step.Declared, set.Registries, true)
		}),
		Events: j.events, Preview: j.preview, Approved: p.Digest, Owed: s.owed,
		PerServer: s.opts.PerServer, Parallel: s.opts.Parallel, Patience: s.opts.Patience, MaxFailures: s.maxFailures, Failures: s.failures,
	}
	return apply.Run(ctx, opts)
}

// needsRun reports whether any step asks something of an agent.
func needsRun(p *plan.Plan) bool {
	for i := range p.Steps {
		if a := p.Steps[i].Action; a.Changes() || a == plan.Adopt {
			return true
		}
	}
	return false
}

// idle is the result of a plan that has nothing to do.
func idle(p *plan.Plan, head apply.Head) *apply.Result {
	res := &apply.Result{Head: head, Status: apply.StatusDone, Started: time.Now().UTC()}
	for i := range p.Steps {
		st := &p.Steps[i]
		res.Steps = append(res.Steps, apply.StepResult{Resource: st.Resource, Server: st.Server, Action: st.Action, Status: apply.StatusDone})
	}
	return res
}

// brokenPlan is a plan without steps that holds the diagnostics.
func (s *syncer) brokenPlan(r *reading) *plan.Plan {
	p := plan.Make(&plan.Desired{Fleet: s.fleet(), Sync: s.name, Commit: r.commit, Config: (&schema.Config{}).Subset(func(*schema.Resource) bool { return false })}, &plan.State{}, nil)
	p.Diagnostics = r.diags
	return p
}

// read turns a view into a reading with its Desired.
func (s *syncer) read(ctx context.Context, v view) (*reading, error) {
	set := s.settings()
	if g := s.good; g != nil && v.commit == "" && v == g.view { // the files on disk went on without it
		again := *g
		again.values = newValues(g.config.Variables, set.Secrets)
		return &again, nil
	}
	r, err := s.reader.read(ctx, v, set)
	if err != nil {
		return nil, err
	}
	local := s.opts.Local
	if local == "" {
		local = r.config.Local
	}
	if local == "" {
		local = "local"
	}
	r.desired = &plan.Desired{
		Fleet: s.fleet(), Sync: s.name, Commit: v.commit, Config: r.config, Declared: r.declared,
		Local: local, Known: r.values.known, Rules: s.rules,
	}
	return r, nil
}

func (s *syncer) servers(r *reading) []string {
	return serversOf(r.config, r.desired.Local, s.here)
}

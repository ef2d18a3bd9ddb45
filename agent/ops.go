package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/stack"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// defaultSettle and defaultHealthTimeout serve a resource of which nothing else is known (its ledger entry is
// lost); they are the schema's defaults.
const (
	defaultSettle        = 5 * time.Second
	defaultHealthTimeout = 5 * time.Minute
)

// do carries out one op. The error says that it is unfinished; every other end is an Outcome.
func (a *Agent) do(ctx context.Context, t *task) (protocol.Outcome, error) {
	op := t.op
	began := time.Now()
	if o := a.ledger.get(op.Resource).outcome(op.ID); o != nil {
		o.Again = true
		return *o, nil
	}
	var out protocol.Outcome
	var err error
	if t.resume {
		out, err = a.resume(ctx, op.Resource)
	} else {
		out, err = a.verb(ctx, op)
	}
	if ctx.Err() != nil && (err != nil || out.Status != protocol.Done) {
		return out, errInterrupted
	}
	if err != nil {
		out = failed(err)
	}
	out.Version, out.ID, out.Millis = protocol.Version, op.ID, time.Since(began).Milliseconds()
	out = redact(out, op.Payload)
	if err := a.remember(op, out); err != nil {
		a.log.Error("write ledger", "resource", op.Resource, "op", op.ID, "err", err)
		if out.Status == protocol.Done {
			out.Error = err.Error() // done, but this may be forgotten
		}
	}
	return out, nil
}

// remember keeps the outcome with the resource. A resource that is gone keeps none: to remove it again changes
// nothing.
func (a *Agent) remember(op protocol.Op, out protocol.Outcome) error {
	if op.Resource == "" || op.Verb == protocol.Prepare || op.Verb == protocol.Await {
		return nil // these may be done twice
	}
	rec := a.ledger.get(op.Resource)
	if rec.Entry == nil && len(rec.Holds) == 0 && out.Status == protocol.Done && (op.Verb == protocol.Remove || op.Verb == protocol.Release) {
		return nil
	}
	rec.remember(out)
	return a.ledger.put(rec)
}

func failed(err error) protocol.Outcome {
	out := protocol.Outcome{Status: protocol.Failed, Error: err.Error()}
	var f *container.Failure
	var r *container.Refusal
	switch {
	case errors.Is(err, errLedger):
		out.Status, out.Hint = protocol.Refused, "see that the agent's root can be written and has space"
	case errors.As(err, &r):
		out.Status, out.Hint = protocol.Refused, "whoever runs the host decides that; see [allow] in agent.toml"
	case errors.As(err, &f):
		out.Error, out.Hint, out.Tail = f.Message, f.Hint, f.Tail
	}
	return out
}

func (a *Agent) verb(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	if h := a.heldBy(op); h != nil {
		return protocol.Outcome{Status: protocol.Refused, Error: fmt.Sprintf("%s is on hold: %s", op.Resource, h.Reason), Hint: "lift it with varan hold --off"}, nil
	}
	switch op.Verb {
	case protocol.Prepare:
		return a.prepare(ctx, op)
	case protocol.Deploy:
		return a.deploy(ctx, op)
	case protocol.Restart:
		return a.restart(ctx, op)
	case protocol.Stop:
		return a.stop(ctx, op)
	case protocol.Adopt:
		return a.adopt(ctx, op)
	case protocol.Remove:
		return a.remove(ctx, op)
	case protocol.Release:
		return a.release(ctx, op)
	case protocol.SetHold:
		return a.setHold(op)
	case protocol.Prune:
		return a.prune(ctx, op)
	case protocol.Await:
		return a.await(ctx, op)
	case protocol.Update:
		return a.update(ctx, op)
	}
	return protocol.Outcome{Status: protocol.Refused, Error: fmt.Sprintf("this agent cannot %q: it is older than its daemon", op.Verb)}, nil
}

// heldBy is the hold of a person that forbids the op. A failed or contested one is the plan's to obey: it lets a
// retry through.
func (a *Agent) heldBy(op protocol.Op) *plan.Hold {
	if op.Verb == protocol.SetHold || op.Verb == protocol.Prepare || op.Verb == protocol.Await || op.Verb == protocol.Adopt {
		return nil
	}
	now := time.Now()
	for _, h := range append(a.ledger.serverHolds(), a.ledger.get(op.Resource).Holds...) {
		if (h.Kind == plan.HoldUser || h.Kind == plan.HoldPaused) && !h.Over(now) {
			return &h
		}
	}
	return nil
}

// say is a Job's progress as the op's.
func (a *Agent) say(op protocol.Op) func(service, phase, detail string) {
	mask := redactor(op.Payload)
	return func(service, phase, detail string) {
		a.tell(protocol.Progress{ID: op.ID, Resource: op.Resource, Server: op.Server, Service: service, Phase: phase, Detail: mask(detail)})
	}
}

// prepare pulls and builds what the op's services need. It stops nothing and lays nothing.
func (a *Agent) prepare(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	p := op.Payload
	if p == nil {
		return protocol.Outcome{}, errors.New("prepare: the op has no payload")
	}
	if _, err := a.settleOnHost(ctx, &op); err != nil {
		return protocol.Outcome{}, err
	}
	p = op.Payload
	concerned := func(service string) bool {
		if len(op.Services) == 0 {
			return true
		}
		i := slices.IndexFunc(op.Services, func(s plan.ServiceStep) bool { return s.Name == service })
		return i >= 0 && creates(op.Services[i].Action)
	}
	if p.Stack != nil {
		return a.prepareStack(ctx, op, concerned)
	}
	reveal := revealer(p)
	var pulls []container.Pull
	for _, u := range p.Units {
		if concerned(u.Service) && !u.Build {
			pulls = append(pulls, container.Pull{Service: u.Service, Image: reveal(u.Image), Policy: container.PullAlways})
		}
	}
	return done(a.engine.Pull(ctx, pulls, login(p.Registries), a.say(op)))
}

func creates(act plan.Action) bool {
	return act == plan.Create || act == plan.Recreate || act == plan.Update
}

func done(err error) (protocol.Outcome, error) {
	return protocol.Outcome{Status: protocol.Done}, err
}

// login finds the account for a registry's domain.
func login(list []protocol.Registry) container.Auth {
	return func(domain string) (string, string, bool) {
		for _, r := range list {
			d := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(r.Domain, "https://"), "http://"), "/")
			if d == domain || (domain == "docker.io" && (d == "index.docker.io" || d == "registry-1.docker.io" || d == "")) {
				return r.Username, string(r.Password), true
			}
		}
		return "", "", false
	}
}

// job is the part of a Job that every op shares.
func (a *Agent) job(op protocol.Op, rec *record) container.Job {
	j := container.Job{Resource: op.Resource, Fleet: op.Fleet, Was: rec.Was, Settle: defaultSettle, HealthTimeout: defaultHealthTimeout, Progress: a.say(op)}
	if j.Was != "" && a.ledger.get(j.Was).Entry != nil {
		j.Was = "" // somebody declared the former name anew: its containers are no longer this one's
	}
	if rec.Entry != nil {
		j.Project = rec.Entry.Project
		j.Adopted = rec.Entry.Containers
		j.Take = rec.Entry.Adopted && len(j.Adopted) == 0
		for _, u := range rec.Entry.Units {
			if op.Resource.Kind() == schema.KindDeployment && u.Container != "" {
				j.Names = append(j.Names, u.Container)
			}
		}
	}
	if rec.Applying != nil {
		applying(&j, *rec.Applying)
	}
	if p := op.Payload; p != nil {
		if p.Project != "" {
			j.Project = p.Project
		}
		if p.Was != "" {
			j.Was = schema.NewID(op.Resource.Kind(), p.Was)
		}
		switch {
		case p.Stack != nil:
			applying(&j, p.Stack.Applying)
		case p.Deployment != nil:
			applying(&j, p.Deployment.Applying)
		}
	}
	return j
}

func applying(j *container.Job, c schema.Applying) {
	j.Settle = time.Duration(c.Settle)
	if c.HealthTimeout > 0 {
		j.HealthTimeout = time.Duration(c.HealthTimeout)
	}
	j.Keep = c.OnFailure == schema.OnFailureKeep
}

// services are the Job's from units, with what the op does to each.
func services(units []plan.Unit, steps []plan.ServiceStep, ensure schema.Ensure) []container.Service {
	act := map[string]plan.Action{}
	for _, s := range steps {
		act[s.Name] = s.Action
	}
	var out []container.Service
	known := map[string]bool{}
	for _, u := range units {
		s := container.Service{Name: u.Service, Action: act[u.Service], Digest: u.Digest, OneShot: u.OneShot, Ignored: u.Ignored,
			MustEnd: ensure == schema.EnsureCompleted}
		if s.Action == "" {
			s.Action = plan.None
		}
		for _, n := range u.Needs {
			s.Needs = append(s.Needs, container.Need{Service: n})
		}
		known[u.Service] = true
		out = append(out, s)
	}
	for _, s := range steps {
		if !known[s.Name] {
			out = append(out, container.Service{Name: s.Name, Action: s.Action})
		}
	}
	return out
}

// entry is what the ledger says once the op has succeeded.
func (a *Agent) entry(op protocol.Op, dir string) *plan.Entry {
	p := op.Payload
	return &plan.Entry{Resource: op.Resource, Fleet: op.Fleet, Sync: op.Sync, Commit: op.Commit, Op: string(op.ID), Outcome: string(protocol.Done),
		At: time.Now().UTC(), Project: p.Project, Directory: dir, After: p.After, Units: p.Units, Volumes: p.Volumes, Binds: p.Binds, Hooks: p.Hooks}
}

// deploy creates, replaces, restarts and removes the services the op names.
func (a *Agent) deploy(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	p := op.Payload
	if p == nil || (p.Deployment == nil && p.Stack == nil) {
		return protocol.Outcome{}, errors.New("deploy: the op has no payload")
	}
	read, err := a.settleOnHost(ctx, &op)
	if err != nil {
		return protocol.Outcome{}, err
	}
	p = op.Payload
	for _, u := range p.Units {
		for _, s := range u.Secrets {
			if _, ok := p.Secrets[s]; !ok {
				return protocol.Outcome{}, &container.Failure{Service: u.Service, Message: fmt.Sprintf("the secret %s has no value", s), Hint: "give it one under [secrets] in varan.toml"}
			}
		}
	}
	rec := a.ledger.get(op.Resource)
	job := a.job(op, rec)
	job.Take = true
	if len(op.Services) == 0 {
		for _, u := range p.Units {
			op.Services = append(op.Services, plan.ServiceStep{Name: u.Service, Action: plan.Recreate})
		}
	}
	job.Services = services(p.Units, op.Services, p.Ensure)
	job.Labels = map[string]string{container.LabelSync: op.Sync, container.LabelCommit: op.Commit, container.LabelAfter: strings.Join(p.After, ",")}
	if p.Repo != "" {
		job.Labels[container.LabelRepo] = p.Repo
	}
	if p.Stack != nil {
		return a.deployStack(ctx, op, rec, job, read)
	}
	d := a.deployment(op)
	job.Names, job.Creator = append(job.Names, d.Name), d
	return a.change(ctx, op, rec, job, a.begin(op, rec, ""))
}

// deployment creates the op's one container.
func (a *Agent) deployment(op protocol.Op) container.Deployment {
	p := op.Payload
	name := op.Resource.Name()
	if len(p.Units) == 1 && p.Units[0].Container != "" {
		name = p.Units[0].Container
	}
	d := container.Deployment{Name: name, Config: p.Deployment}
	if !p.Deployment.SkipSecretInterp {
		d.Reveal = revealer(p)
	}
	return d
}

// begin is what the ledger says while the op is on its way.
func (a *Agent) begin(op protocol.Op, rec *record, dir string) *doing {
	d := &doing{Op: op.ID, Verb: op.Verb, Commit: op.Commit, Digest: op.Digest}
	if p := op.Payload; p != nil {
		d.Entry = a.entry(op, dir)
		d.Ensure = p.Ensure
		d.Hosts = a.fingerprints(hostFiles(p))
		if p.Was != "" {
			d.Was = schema.NewID(op.Resource.Kind(), p.Was)
		}
		switch {
		case p.Stack != nil:
			d.Applying = &p.Stack.Applying
		case p.Deployment != nil:
			d.Applying = &p.Deployment.Applying
		}
		untouched := slices.ContainsFunc(p.Units, func(u plan.Unit) bool {
			return !slices.ContainsFunc(op.Services, func(s plan.ServiceStep) bool { return s.Name == u.Service && creates(s.Action) })
		})
		if untouched {
			keepAdopted(d.Entry, rec.Entry)
		}
	}
	return d
}

// keepAdopted lets the next entry remember what of the last one bears no labels.
func keepAdopted(next, last *plan.Entry) {
	if next != nil && last != nil {
		next.Adopted, next.Containers = last.Adopted, last.Containers
	}
}

func hostFiles(p *protocol.Payload) []string {
	var out []string
	for _, u := range p.Units {
		out = append(out, u.HostFiles...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// journal writes a Job's intent into the resource's record, without the values mask knows.
type journal struct {
	agent *Agent
	rec   *record
	mask  func(string) string
}

func (j journal) Save(in container.Intent) error {
	r := *j.rec
	d := *r.Doing
	in.Failure = hidden(in.Failure, j.mask)
	d.Intent = &in
	r.Doing = &d
	j.rec.Doing = &d
	return j.agent.ledger.put(&r)
}

// hidden is f without the values mask knows.
func hidden(f *container.Failure, mask func(string) string) *container.Failure {
	if f == nil {
		return nil
	}
	h := *f
	h.Message, h.Hint, h.Tail = mask(f.Message), mask(f.Hint), mask(f.Tail)
	return &h
}

// change runs a Job and writes down how it ended.
func (a *Agent) change(ctx context.Context, op protocol.Op, rec *record, job container.Job, d *doing) (protocol.Outcome, error) {
	if rec.Entry != nil && rec.Entry.Outcome == string(protocol.Done) {
		broken, err := a.engine.Standing(ctx, job, a.marks.killed)
		if err != nil {
			return protocol.Outcome{}, err
		}
		d.Repair = slices.ContainsFunc(job.Services, func(s container.Service) bool {
			return slices.Contains(broken, s.Name) && slices.ContainsFunc(rec.Entry.Units, func(u plan.Unit) bool { return u.Service == s.Name && u.Digest == s.Digest })
		})
	}
	a.clearLeft(ctx, rec)
	job.Quiet = quiet(op.Payload, d.Entry, rec.Entry)
	rec.Doing = d
	mask := redactor(op.Payload)
	res := a.engine.Run(ctx, job, journal{a, rec, mask})
	res.Failure = hidden(res.Failure, mask) // it becomes a hold's reason too
	if res.Failure != nil && job.Quiet.New {
		res.Failure.Tail = "" // there may be values in it that nobody here knows
	}
	if res.Failure != nil && ctx.Err() != nil {
		return protocol.Outcome{}, errInterrupted
	}
	out, err := a.settleAll(ctx, rec, res)
	if err == nil && out.Status == protocol.Done && op.Payload != nil {
		a.prints.keep(op.Resource, op.Payload)
	}
	return out, err
}

// resume goes on with what a killed process left.
func (a *Agent) resume(ctx context.Context, id schema.ID) (protocol.Outcome, error) {
	rec := a.ledger.get(id)
	if rec.Doing == nil || rec.Doing.Intent == nil {
		return protocol.Outcome{Status: protocol.Done}, nil
	}
	op := protocol.Op{ID: rec.Doing.Op, Verb: rec.Doing.Verb, Resource: id, Server: a.opts.Server}
	a.log.Info("going on with an op that was cut off", "resource", id, "op", op.ID)
	q := quiet(nil, rec.Doing.Entry, rec.Entry) // the secrets' values went with the process that was killed
	res := a.engine.Resume(ctx, *rec.Doing.Intent, q, journal{a, rec, redactor(nil)}, a.say(op))
	if res.Failure != nil && q.New {
		res.Failure.Tail = ""
	}
	if res.Failure != nil && ctx.Err() != nil {
		return protocol.Outcome{}, errInterrupted
	}
	if op.Verb == protocol.Remove {
		return a.removed(ctx, rec, rec.Doing.Intent.Project, res)
	}
	hook := rec.Doing.Hook
	out, err := a.settleAll(ctx, rec, res)
	if hook && err == nil && out.Status == protocol.Done {
		out.Hint = "varan was stopped meanwhile: post_deploy was not run"
	}
	return out, err
}

// settleAll settles the files an op laid and then the op itself. A failure's files are back before it is written
// down, a success's are kept after: killed in between, the next process does the rest.
func (a *Agent) settleAll(ctx context.Context, rec *record, res container.Result) (protocol.Outcome, error) {
	base := rec.Doing.Base
	keep := rec.Doing.Intent != nil && rec.Doing.Intent.Keep
	good := res.Failure == nil || (res.Failure.Gate && keep)
	var ferr error
	if !good {
		ferr = a.settleFiles(rec.Resource, base, false)
	}
	if old, next := rec.Entry, rec.Doing.Entry; res.Failure == nil && old != nil && next != nil && old.Project != next.Project {
		a.leaveProject(ctx, rec.Resource, old.Project)
	}
	out, err := a.settle(rec, res)
	if good && err == nil {
		ferr = a.settleFiles(rec.Resource, base, true)
	}
	if ferr != nil {
		a.log.Error("settle the files of an op", "resource", rec.Resource, "err", ferr)
		out.Error = strings.TrimPrefix(out.Error+"; its files could not be settled: "+ferr.Error(), "; ")
	}
	return out, err
}

// leaveProject removes the networks of the project that was the resource's before and is nobody's now.
func (a *Agent) leaveProject(ctx context.Context, id schema.ID, project string) {
	taken := project == ""
	a.ledger.all(func(r *record) {
		for _, e := range []*plan.Entry{r.Entry, r.entryToBe()} {
			taken = taken || r.Resource != id && e != nil && e.Project == project
		}
	})
	if taken {
		return
	}
	if err := a.engine.RemoveNetworks(ctx, project); err != nil {
		a.log.Warn("remove networks", "resource", id, "project", project, "err", err)
	}
}

// settle writes down how the record's op ended and makes its Outcome.
func (a *Agent) settle(rec *record, res container.Result) (protocol.Outcome, error) {
	d := rec.Doing
	out := protocol.Outcome{Status: protocol.Done, Stopped: res.Stopped}
	for _, s := range res.Services {
		out.Services = append(out.Services, protocol.ServiceOutcome{Name: s.Name, Container: s.Container, State: s.State, Millis: s.Took.Milliseconds()})
	}
	slices.SortFunc(out.Services, func(x, y protocol.ServiceOutcome) int { return strings.Compare(x.Name, y.Name) })
	now := time.Now().UTC()
	failedHold := func(h plan.Hold) bool { return h.Kind == plan.HoldFailed }
	if f := res.Failure; f != nil {
		out.Status, out.Error, out.Hint, out.Tail = protocol.Failed, f.Message, f.Hint, f.Tail
		if rec.Resource.Kind() == schema.KindStack && f.Service != "" && !strings.Contains(f.Message, f.Service) {
			out.Error = "service " + f.Service + ": " + f.Message
		}
		switch {
		case res.RolledBack:
			out.Status = protocol.RolledBack
		case f.Refused:
			out.Status = protocol.Refused
		}
		if f.Gate && d.Digest != "" {
			out.Held = d.Digest
			rec.Holds = append(slices.DeleteFunc(rec.Holds, failedHold), plan.Hold{Resource: rec.Resource, Kind: plan.HoldFailed, Digest: d.Digest, Reason: f.Message, Since: now})
		}
		if in := d.Intent; f.Gate && in != nil && in.Keep && d.Entry != nil {
			e := *d.Entry
			e.Outcome = string(protocol.Failed)
			a.succeed(rec, d, &e)
		}
	} else {
		rec.Holds = slices.DeleteFunc(rec.Holds, failedHold)
		if d.Entry != nil {
			a.succeed(rec, d, d.Entry)
		}
		if d.Repair {
			a.repaired(rec, d.Commit, now)
		}
	}
	rec.leave(res.Left, &out)
	rec.Doing = nil
	if err := a.ledger.put(rec); err != nil {
		return out, err
	}
	return out, nil
}

func (a *Agent) succeed(rec *record, d *doing, e *plan.Entry) {
	rec.Entry, rec.Ensure, rec.Hosts, rec.Applying = e, d.Ensure, d.Hosts, d.Applying
	if d.Base != "" {
		rec.Laid, rec.Base = d.Laid, d.Base
	}
	if d.Was != "" && d.Was != rec.Resource {
		rec.Was = d.Was
		if err := a.ledger.drop(d.Was); err != nil {
			a.log.Warn("forget the former name", "resource", rec.Resource, "err", err)
		}
	}
	rec.Entry.Was = rec.Was
}

// contestedAfter repairs within contestedWithin without a new commit, varan stops arguing.
const (
	contestedAfter  = 3
	contestedWithin = time.Hour
)

func (a *Agent) repaired(rec *record, commit string, now time.Time) {
	rec.Repairs = slices.DeleteFunc(rec.Repairs, func(r repair) bool { return r.Commit != commit || now.Sub(r.At) > contestedWithin })
	rec.Repairs = append(rec.Repairs, repair{now, commit})
	if len(rec.Repairs) < contestedAfter {
		return
	}
	reason := fmt.Sprintf("put right %d times within an hour without a new commit", len(rec.Repairs))
	var seen []string
	for _, s := range a.marks.sightings(rec.Resource) {
		seen = append(seen, s.at.UTC().Format("15:04:05")+" "+s.what)
	}
	if len(seen) > 0 {
		reason += "; seen: " + strings.Join(seen, ", ")
	}
	rec.Holds = changeHolds(rec.Holds, plan.Hold{Resource: rec.Resource, Kind: plan.HoldContested, Reason: reason, Since: now}, false)
	rec.Repairs = nil
}

// restart restarts or starts services whose containers stay the same.
func (a *Agent) restart(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	rec := a.ledger.get(op.Resource)
	job := a.job(op, rec)
	steps := op.Services
	var units []plan.Unit
	if op.Payload != nil {
		taking := a.taking(op, rec)
		job.Take, job.Names = true, taking.Names
		units = op.Payload.Units
	} else if rec.Entry != nil {
		units = rec.Entry.Units
	}
	if len(steps) == 0 {
		for _, u := range units {
			steps = append(steps, plan.ServiceStep{Name: u.Service, Action: plan.Restart})
		}
	}
	if op.Resource.Kind() == schema.KindDeployment && len(units) == 0 && len(steps) == 1 {
		units = []plan.Unit{{Service: steps[0].Name}}
	}
	job.Services = services(units, steps, rec.Ensure)
	for i := range job.Services {
		s := &job.Services[i]
		if s.Action != plan.None {
			s.Action = plan.Restart
		}
		if len(s.Needs) > 0 && op.Resource.Kind() == schema.KindStack {
			s.Needs = nil // the containers' labels know the conditions too
		}
	}
	if err := a.engine.Discover(ctx, &job, plan.Restart); err != nil {
		return protocol.Outcome{}, err
	}
	if op.Resource.Kind() == schema.KindStack {
		a.takeNeeds(&job, units)
	}
	d := &doing{Op: op.ID, Verb: op.Verb, Commit: op.Commit, Digest: op.Digest, Entry: refreshed(rec, op), Ensure: rec.Ensure, Hosts: rec.Hosts, Applying: rec.Applying}
	if op.Payload != nil {
		// What was found under the resource's names, and runs as declared but for the restart, is adopted by it.
		free, err := a.unlabelled(ctx, a.taking(op, rec))
		if err != nil {
			return protocol.Outcome{}, err
		}
		if known := rec.Entry != nil && !slices.ContainsFunc(free, func(id string) bool { return !slices.Contains(rec.Entry.Containers, id) }); !known && len(free) > 0 {
			dir, err := a.directoryOf(ctx, op, rec)
			if err != nil {
				return protocol.Outcome{}, err
			}
			d = a.begin(op, rec, dir)
			d.Entry.Adopted, d.Entry.Containers = true, free
		}
	}
	return a.change(ctx, op, rec, job, d)
}

// refreshed is the present entry with the op that confirmed it.
func refreshed(rec *record, op protocol.Op) *plan.Entry {
	if rec.Entry == nil {
		return nil
	}
	e := *rec.Entry
	e.Op, e.At, e.Outcome = string(op.ID), time.Now().UTC(), string(protocol.Done)
	return &e
}

// takeNeeds fills in the needs that the containers' labels do not tell of: compose leaves out those that were not
// made with it.
func (a *Agent) takeNeeds(job *container.Job, units []plan.Unit) {
	for i := range job.Services {
		s := &job.Services[i]
		for _, u := range units {
			if u.Service != s.Name {
				continue
			}
			for _, name := range u.Needs {
				if !slices.ContainsFunc(s.Needs, func(n container.Need) bool { return n.Service == name }) {
					s.Needs = append(s.Needs, container.Need{Service: name})
				}
			}
		}
	}
}

// stop brings about ensure = "stopped".
func (a *Agent) stop(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	rec := a.ledger.get(op.Resource)
	job := a.job(op, rec)
	if err := a.engine.Discover(ctx, &job, plan.Restart); err != nil {
		return protocol.Outcome{}, err
	}
	rec.Doing = &doing{Op: op.ID, Verb: op.Verb, Commit: op.Commit, Entry: refreshed(rec, op), Ensure: schema.EnsureStopped, Hosts: rec.Hosts, Applying: rec.Applying}
	if op.Payload != nil {
		rec.Doing.Entry = a.entry(op, directory(rec))
		keepAdopted(rec.Doing.Entry, rec.Entry)
	}
	if err := a.ledger.put(rec); err != nil {
		return protocol.Outcome{Status: protocol.Refused}, err
	}
	res := a.engine.Stop(ctx, job)
	if res.Failure != nil && ctx.Err() != nil {
		return protocol.Outcome{}, errInterrupted
	}
	return a.settle(rec, res)
}

func directory(rec *record) string {
	if rec.Entry == nil {
		return ""
	}
	return rec.Entry.Directory
}

// adopt writes down what runs already as the declaration.
func (a *Agent) adopt(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	if op.Payload == nil {
		return protocol.Outcome{}, errors.New("adopt: the op has no payload")
	}
	rec := a.ledger.get(op.Resource)
	dir, err := a.directoryOf(ctx, op, rec)
	if err != nil {
		return protocol.Outcome{}, err
	}
	job := a.taking(op, rec)
	ids, err := a.engine.IDs(ctx, job)
	if err != nil {
		return protocol.Outcome{}, err
	}
	if err := a.marks.release(ids, false); err != nil {
		return protocol.Outcome{Status: protocol.Refused}, err
	}
	rec.Doing = a.begin(op, rec, dir)
	rec.Doing.Entry.Adopted = true
	if rec.Doing.Entry.Containers, err = a.unlabelled(ctx, job); err != nil {
		rec.Doing = nil
		return protocol.Outcome{}, err
	}
	a.prints.keep(op.Resource, op.Payload)
	return a.settle(rec, container.Result{})
}

// taking is a Job that owns also what stands under the resource's names without labels.
func (a *Agent) taking(op protocol.Op, rec *record) container.Job {
	job := a.job(op, rec)
	job.Take = true
	job.Services = services(op.Payload.Units, nil, op.Payload.Ensure)
	if op.Payload.Deployment != nil {
		job.Names = append(job.Names, a.deployment(op).Name)
	}
	return job
}

// unlabelled are the ids of the containers of the Job's services that bear no labels.
func (a *Agent) unlabelled(ctx context.Context, job container.Job) ([]string, error) {
	free, err := a.engine.Free(ctx, job, func(string) bool { return false })
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, s := range job.Services {
		for _, c := range free[s.Name] {
			ids = append(ids, c.ID)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// remove takes the resource's containers and unused networks away. Named volumes and bind sources stay.
func (a *Agent) remove(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	rec := a.ledger.get(op.Resource)
	job := a.job(op, rec)
	if err := a.engine.Discover(ctx, &job, plan.Remove); err != nil {
		return protocol.Outcome{}, err
	}
	for i := range job.Services {
		job.Services[i].Action = plan.Remove
	}
	a.clearLeft(ctx, rec)
	rec.Doing = &doing{Op: op.ID, Verb: op.Verb, Commit: op.Commit}
	if err := a.ledger.put(rec); err != nil {
		return protocol.Outcome{Status: protocol.Refused}, err
	}
	job.Quiet = quiet(nil, rec.Entry, rec.Entry)
	res := a.engine.Run(ctx, job, journal{a, rec, redactor(nil)})
	if res.Failure != nil && ctx.Err() != nil {
		return protocol.Outcome{}, errInterrupted
	}
	return a.removed(ctx, rec, job.Project, res)
}

// removed ends a removal: when the containers are gone, unused networks and the files that were laid follow, and then
// the resource is forgotten. Killed meanwhile, the next process goes on here. What cannot be taken away stays in the
// ledger without an entry and is tried again.
func (a *Agent) removed(ctx context.Context, rec *record, project string, res container.Result) (protocol.Outcome, error) {
	var stay, hints []string
	var ferr error
	base := rec.Base
	if res.Failure == nil {
		if rec.Doing.Intent == nil { // there was no container
			rec.Doing.Intent = &container.Intent{Resource: rec.Resource, Fleet: a.opts.Fleet, Project: project, Phase: container.Committing}
			if err := a.ledger.put(rec); err != nil {
				return protocol.Outcome{}, err
			}
		}
		if project != "" {
			if err := a.engine.RemoveNetworks(ctx, project); err != nil {
				hints = append(hints, "a network stays: "+err.Error())
			}
		}
		if left := a.unknownFiles(rec); left != "" {
			hints = append(hints, "it is not recorded any more what was laid in "+left+", so its files stay, an env file with secrets too if there is one: delete the folder when nothing in it is needed")
		}
		stay, ferr = a.unlay(rec)
		rec.Entry = nil
	}
	out, err := a.settle(rec, res)
	if err != nil || res.Failure != nil {
		return out, err
	}
	a.prints.drop(rec.Resource)
	if len(stay) > 0 {
		hints = append(hints, fmt.Sprintf("changed since they were laid, and left in %s: %s", base, some(stay, 5)))
	}
	out.Hint = strings.Join(hints, "; ")
	var rest []string
	if ferr != nil {
		rest = append(rest, ferr.Error())
	}
	for _, o := range rec.Left {
		rest = append(rest, fmt.Sprintf("the engine does not remove container %s, which was replaced before", o.Name))
	}
	if len(rest) > 0 {
		out.Status, out.Error = protocol.Failed, "its containers are gone, but not all of it; varan tries again: "+strings.Join(rest, "; ")
		return out, nil
	}
	return out, a.ledger.drop(rec.Resource)
}

// unknownFiles is a stack's own folder that is there while its record, which told what was laid, is lost.
func (a *Agent) unknownFiles(rec *record) string {
	if rec.Resource.Kind() != schema.KindStack || rec.Base != "" || len(rec.Laid) > 0 {
		return ""
	}
	home := stack.Home(a.opts.Root, rec.Resource)
	if names, err := os.ReadDir(home); err != nil || len(names) == 0 {
		return ""
	}
	return home
}

// unlay takes away the files that were laid for the resource and that no other has laid too, and gives those that
// were changed since.
func (a *Agent) unlay(rec *record) (stay []string, err error) {
	shared := map[string]bool{}
	a.ledger.all(func(r *record) {
		if r.Resource == rec.Resource {
			return
		}
		for name := range r.Laid {
			shared[filepath.Join(r.Base, name)] = true
		}
		if d := r.Doing; d != nil {
			for name := range d.Laid {
				shared[filepath.Join(d.Base, name)] = true
			}
		}
	})
	stay, err = stack.Unlay(a.opts.Root, rec.Resource, rec.Base, rec.Laid, func(abs string) bool { return shared[abs] })
	if err == nil {
		rec.Laid, rec.Base = nil, ""
	}
	return stay, err
}

// some lists the first few names.
func some(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// release forgets the resource and leaves what it has running.
func (a *Agent) release(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	rec := a.ledger.get(op.Resource)
	job := a.job(op, rec)
	ids, err := a.engine.IDs(ctx, job)
	if err != nil {
		return protocol.Outcome{}, err
	}
	if err := a.marks.release(ids, true); err != nil {
		return protocol.Outcome{Status: protocol.Refused}, err
	}
	a.prints.drop(op.Resource)
	return done(a.ledger.drop(op.Resource))
}

func (a *Agent) setHold(op protocol.Op) (protocol.Outcome, error) {
	if op.Hold == nil {
		return protocol.Outcome{}, errors.New("hold: the op says nothing of it")
	}
	h := *op.Hold
	if h.Kind == "" && !op.Lift {
		h.Kind = plan.HoldUser
	}
	if !h.Until.IsZero() && !h.Since.IsZero() {
		h.Ends = time.Now().Add(h.Until.Sub(h.Since))
	}
	if h.Resource == "" && op.Resource == "" {
		return done(a.ledger.holdServer(h, op.Lift))
	}
	id := subject(op)
	h.Resource = id
	rec := a.ledger.get(id)
	rec.Holds = changeHolds(rec.Holds, h, op.Lift)
	return done(a.ledger.put(rec))
}

// await waits for what stands to pass its gate.
func (a *Agent) await(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	rec := a.ledger.get(op.Resource)
	job := a.job(op, rec)
	var units []plan.Unit
	switch {
	case op.Payload != nil:
		units = op.Payload.Units
		job.Services = services(units, nil, op.Payload.Ensure)
		job.Take = true
		for _, u := range units {
			if u.Container != "" && op.Resource.Kind() == schema.KindDeployment {
				job.Names = append(job.Names, u.Container)
			}
		}
	case rec.Entry != nil:
		job.Services = services(rec.Entry.Units, nil, rec.Ensure)
	}
	if err := a.engine.Discover(ctx, &job, plan.None); err != nil {
		return protocol.Outcome{}, err
	}
	res := a.engine.Await(ctx, job)
	out := protocol.Outcome{Status: protocol.Done}
	for _, s := range res.Services {
		out.Services = append(out.Services, protocol.ServiceOutcome{Name: s.Name, Container: s.Container, State: s.State})
	}
	if res.Failure != nil {
		if ctx.Err() != nil {
			return out, errInterrupted
		}
		return out, res.Failure
	}
	return out, nil
}

// recover queues what a killed process left in the middle of a swap. An op that had touched nothing yet is forgotten,
// and what it laid taken back: who still wants it asks again, and takes up the containers it had made.
func (a *Agent) recover() {
	var cut []protocol.Op
	var open, laid []*record
	a.ledger.all(func(r *record) {
		switch d := r.Doing; {
		case d == nil && r.Base != "":
			laid = append(laid, r.clone())
		case d == nil:
		case d.Intent != nil && (d.Intent.Phase != container.Creating || len(d.Intent.Networks) > 0):
			cut = append(cut, protocol.Op{ID: d.Op, Resource: r.Resource, Verb: d.Verb, Server: a.opts.Server, Fleet: a.opts.Fleet})
		default:
			open = append(open, r.clone())
		}
	})
	warn := func(r *record, err error) {
		if err != nil {
			a.log.Warn("settle the files of an op", "resource", r.Resource, "err", err)
		}
	}
	for _, r := range laid { // killed just before what was laid became final
		warn(r, a.settleFiles(r.Resource, r.Base, true))
	}
	for _, r := range open {
		if err := a.settleFiles(r.Resource, r.Doing.Base, false); err != nil {
			warn(r, err)
			continue // the next op takes up the undo file
		}
		r.Doing = nil
		warn(r, a.ledger.put(r))
	}
	slices.SortFunc(cut, func(x, y protocol.Op) int { return strings.Compare(string(x.Resource), string(y.Resource)) })
	for _, op := range cut {
		a.enqueue(&task{op: op, resume: true})
	}
}

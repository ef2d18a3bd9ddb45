package agent

import (
	"context"
	"errors"
	"slices"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/stack"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// openStack opens the op's stack at the folder it uses on this host.
func (a *Agent) openStack(ctx context.Context, op protocol.Op, rec *record) (*stack.Stack, error) {
	running := directory(rec)
	if running == "" {
		var err error
		if running, err = a.engine.WorkDir(ctx, a.job(op, rec)); err != nil {
			return nil, err
		}
	}
	return stack.Open(stack.Options{Root: a.opts.Root, API: a.api, Engine: a.engine, Allow: a.allow, Loads: &a.loads}, op, running)
}

// directoryOf is the project's folder of the op's stack on this host; "" for a deployment.
func (a *Agent) directoryOf(ctx context.Context, op protocol.Op, rec *record) (string, error) {
	if op.Payload == nil || op.Payload.Stack == nil {
		return "", nil
	}
	s, err := a.openStack(ctx, op, rec)
	if err != nil {
		return "", err
	}
	return s.Directory(), nil
}

// deployStack lays the stack's files, runs its commands and changes its containers. Whatever fails before the
// gate, the files are put back as they were, unless what failed is to be kept. read are the host's files it is
// declared by, none where they come with the op.
func (a *Agent) deployStack(ctx context.Context, op protocol.Op, rec *record, job container.Job, read []string) (protocol.Outcome, error) {
	s, err := a.openStack(ctx, op, rec)
	if err != nil {
		return protocol.Outcome{}, err
	}
	d := a.begin(op, rec, s.Directory())
	d.Entry.Project = s.Project()
	d.Base = s.Root()
	d.Hook = stack.Script(op.Payload.Stack.PostDeploy) != ""
	rec.Doing = d
	if err := a.ledger.put(rec); err != nil {
		return protocol.Outcome{}, err
	}
	back := func(cause error) error {
		rec.Doing = nil
		return errors.Join(cause, s.Restore(), a.ledger.put(rec))
	}
	before := rec.Laid
	if was := a.ledger.get(job.Was); job.Was != "" && rec.Entry == nil && was.Base == d.Base {
		before = was.Laid // the files are this one's now, as the containers are
	}
	if d.Laid, err = s.Lay(ctx, before); err != nil {
		return protocol.Outcome{}, back(err)
	}
	again := func(ctx context.Context) error { // pre_deploy may have changed what is declared here
		if !declaredHere(op.Payload) || stack.Script(op.Payload.Stack.PreDeploy) == "" {
			return nil
		}
		h, p, err := a.declareOnHost(ctx, op, rec)
		if err != nil {
			return err
		}
		if h.Open.Blocked != "" {
			return &container.Failure{Message: h.Open.Blocked, Hint: "put it right on the host, or in pre_deploy"}
		}
		*op.Payload, read = *p, h.Files
		d.Entry.Units, d.Entry.Volumes, d.Entry.Binds = p.Units, p.Volumes, p.Binds
		return nil
	}
	for _, step := range []func(context.Context) error{s.Before, again, s.Load, func(context.Context) error { return s.MissingBinds() }} {
		if err := step(ctx); err != nil {
			return protocol.Outcome{}, back(err)
		}
	}
	job.Project = s.Project()
	job.Services = s.Services(op.Services)
	job.Creator = s
	job.DownFirst = op.Payload.Stack.DestroyBeforeDeploy
	d.Hosts = a.fingerprints(slices.Concat(hostFiles(op.Payload), s.HostFiles(), read))
	out, err := a.change(ctx, op, rec, job, d)
	if err != nil {
		return out, err // interrupted, the files stay: the next process goes on
	}
	if out.Status == protocol.Done {
		if err := s.After(ctx); err != nil {
			f := failed(err)
			out.Status, out.Error, out.Hint, out.Tail = protocol.Failed, "all containers are healthy, but "+f.Error, f.Hint, f.Tail
		}
	}
	return out, nil
}

// settleFiles makes what an op laid final, or takes it back.
func (a *Agent) settleFiles(id schema.ID, base string, good bool) error {
	if base == "" {
		return nil
	}
	d, err := stack.OpenDir(base, stack.UndoFile(a.opts.Root, id))
	if err != nil {
		return err
	}
	defer d.Close()
	if good {
		return d.Keep()
	}
	return d.Restore()
}

// prepareStack pulls and builds what the services concerned need.
func (a *Agent) prepareStack(ctx context.Context, op protocol.Op, concerned func(string) bool) (protocol.Outcome, error) {
	s, err := a.openStack(ctx, op, a.ledger.get(op.Resource))
	if err != nil {
		return protocol.Outcome{}, err
	}
	var services []string
	for _, u := range op.Payload.Units {
		if concerned(u.Service) {
			services = append(services, u.Service)
		}
	}
	if len(services) == 0 {
		return protocol.Outcome{Status: protocol.Done}, nil
	}
	return done(s.Prepare(ctx, services, a.say(op)))
}

// compare says how what runs without our labels differs from the declaration.
func (a *Agent) compare(ctx context.Context, q protocol.Query, rec *record) (map[string]plan.Comparison, error) {
	p := q.Payload
	op := protocol.Op{Resource: q.Resource, Fleet: a.opts.Fleet, Payload: p}
	job := a.job(op, rec)
	job.Take = true
	var steps []plan.ServiceStep
	for _, u := range p.Units {
		steps = append(steps, plan.ServiceStep{Name: u.Service, Action: plan.Create})
	}
	job.Services = services(p.Units, steps, p.Ensure)
	if p.Deployment != nil {
		d := a.deployment(op)
		job.Names, job.Creator = []string{d.Name}, d
		out, err := a.engine.Compare(ctx, job)
		for _, c := range out {
			hide(c.Changes, redactor(p))
		}
		return out, err
	}
	s, err := a.openStack(ctx, op, rec)
	if err != nil {
		return nil, err
	}
	if err := s.Load(ctx); err != nil {
		return nil, err
	}
	job.Project = s.Project()
	free, err := a.engine.Free(ctx, job, a.marks.released)
	if err != nil {
		return nil, err
	}
	return s.Compare(ctx, free)
}

// hide takes secrets' values out of changes.
func hide(changes []plan.Change, mask func(string) string) {
	for i := range changes {
		c := &changes[i]
		if text, ok := c.New.(string); ok && mask(text) != text {
			c.New, c.Secret = mask(text), true
		}
	}
}

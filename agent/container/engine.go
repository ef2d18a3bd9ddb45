package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/plan"
)

// An Engine changes containers on one Docker engine. Changes of different resources may run side by side;
// those of one resource must not.
type Engine struct {
	api     client.APIClient
	watcher *Watcher
	log     *slog.Logger

	Allow Allow
	// Brought is told of each image that was pulled or built, or that a step needs and is here already (not fresh), by
	// its id and the reference asked for. May be nil.
	Brought func(id, ref string, fresh bool)
	// Self is the container this process runs in: never stopped.
	Self string
}

// NewEngine changes containers through api, with watcher's events.
func NewEngine(api client.APIClient, watcher *Watcher, log *slog.Logger) *Engine {
	return &Engine{api: api, watcher: watcher, log: log}
}

// A run is one Job on its way. Its Intent is the truth about what was done and what is next.
type run struct {
	engine  *Engine
	job     *Job
	journal Journal
	began   time.Time

	byName    map[string]container.Summary // every container of the engine before the change
	leftovers map[string]string            // name → id: half-made by an earlier process for this resource
	olds      map[string]bool              // ids being replaced

	mu     sync.Mutex // guards what follows
	intent Intent
	result Result
}

// Run carries out the Job: create beside what runs, stop the old, start the new, watch them, and then either
// remove the old or put it back. An error inside Docker is a Failure in the Result.
func (e *Engine) Run(ctx context.Context, job Job, journal Journal) Result {
	r := e.newRun(&job, journal)
	r.finish(r.change(ctx))
	return r.result
}

// Quiet says of which containers what the engine says may hold a value that nobody can take out of it: see [Job].
type Quiet struct{ New, Old bool }

// Resume goes on with an Intent that a killed process left at Swapping or later.
func (e *Engine) Resume(ctx context.Context, in Intent, quiet Quiet, journal Journal, progress func(service, phase, detail string)) Result {
	job := Job{Resource: in.Resource, Fleet: in.Fleet, Project: in.Project, Services: in.Services, Settle: in.Settle,
		HealthTimeout: in.HealthTimeout, Keep: in.Keep, Quiet: quiet, Progress: progress}
	r := e.newRun(&job, journal)
	r.intent = in
	var err error
	if r.byName, err = e.list(ctx); err != nil {
		r.finish(err)
		return r.result
	}
	switch in.Phase {
	case Committing:
		if err = r.commit(ctx); err == nil && in.Failure != nil {
			err = in.Failure
		}
	case Rolling:
		err = r.rollback(ctx, in.Failure)
	case Creating: // only a taken network brings an unfinished creation here
		err = r.rollback(ctx, &Failure{Message: "varan was stopped while it replaced a network"})
	default:
		err = r.swap(ctx, true)
	}
	r.finish(err)
	return r.result
}

func (e *Engine) newRun(job *Job, journal Journal) *run {
	return &run{engine: e, job: job, journal: journal, began: time.Now(), olds: map[string]bool{}, leftovers: map[string]string{}}
}

func (r *run) finish(err error) {
	if err == nil {
		return
	}
	var f *Failure
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		f = refusal.failure()
	case !errors.As(err, &f):
		f = &Failure{Message: err.Error()}
	}
	r.result.Failure = f
}

func (r *run) say(service, phase, detail string) {
	if r.job.Progress != nil {
		r.job.Progress(service, phase, detail)
	}
}

func (r *run) save() error {
	r.mu.Lock()
	in := r.intent
	r.mu.Unlock()
	if err := r.journal.Save(in); err != nil {
		return fmt.Errorf("write down what is about to be done to %s: %w", r.job.Resource, err)
	}
	return nil
}

func (e *Engine) list(ctx context.Context) (map[string]container.Summary, error) {
	all, err := e.api.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return nil, e.explain(ctx, err, "", "list containers")
	}
	byName := make(map[string]container.Summary, len(all))
	for _, c := range all {
		byName[nameOf(c)] = c
	}
	return byName, nil
}

// change is the whole of a Job.
func (r *run) change(ctx context.Context) error {
	var err error
	if r.byName, err = r.engine.list(ctx); err != nil {
		return err
	}
	j := r.job
	if j.DownFirst {
		for i := range j.Services {
			if s := &j.Services[i]; s.Action == plan.None || s.Action == plan.Restart || s.Action == plan.Update {
				s.Action = plan.Recreate
			}
		}
	}
	r.intent = Intent{Resource: j.Resource, Fleet: j.Fleet, Project: j.Project, Phase: Creating, Services: j.Services,
		Settle: j.Settle, HealthTimeout: j.HealthTimeout, Keep: j.Keep}
	var create []string
	for _, s := range j.Services {
		switch s.Action {
		case plan.Create, plan.Recreate, plan.Update:
			create = append(create, s.Name)
			r.replace(s.Name, false)
		case plan.Remove:
			r.replace(s.Name, true)
		case plan.Restart:
			if err := r.again(ctx, s.Name); err != nil {
				return err
			}
		}
	}
	if self := r.self(); self != "" {
		return &Failure{Message: fmt.Sprintf("container %q is the one varan runs in", self),
			Hint: "varan never stops its own container; update it by other means"}
	}
	if len(create)+len(r.intent.Olds)+len(r.intent.Agains) == 0 {
		return nil
	}
	if err := r.save(); err != nil {
		return err
	}
	if len(create) > 0 {
		if err := r.create(ctx, create); err != nil {
			return r.uncreate(ctx, err)
		}
	}
	r.intent.Phase = Swapping
	if err := r.save(); err != nil {
		return r.uncreate(ctx, err)
	}
	return r.swap(ctx, false)
}

// self is the name of the container this process runs in if the change would stop it.
func (r *run) self() string {
	for _, o := range r.intent.Olds {
		if o.ID == r.engine.Self && o.ID != "" {
			return o.Name
		}
	}
	for _, a := range r.intent.Agains {
		if a.ID == r.engine.Self && a.ID != "" {
			return a.Service
		}
	}
	return ""
}

// mine reports whether the container belongs to the resource: by its labels, by adoption, or because nobody
// else claims it and it has the resource's project or name.
func (r *run) mine(c container.Summary) bool {
	return r.job.Owns(c.ID, nameOf(c), c.Labels)
}

// Owns reports whether a container belongs to the Job's resource.
func (j *Job) Owns(id, name string, labels map[string]string) bool {
	if res := labels[LabelResource]; res != "" || labels[LabelFleet] != "" {
		return labels[LabelFleet] == j.Fleet && (res == string(j.Resource) || (j.Was != "" && res == string(j.Was)))
	}
	if slices.Contains(j.Adopted, id) {
		return true
	}
	if !j.Take {
		return false
	}
	if j.Project != "" {
		return labels[composeProject] == j.Project && labels[composeOneOff] != "True"
	}
	return labels[composeProject] == "" && slices.Contains(j.Names, name)
}

// replace notes the service's containers as the ones to go, and what an earlier process left half made.
func (r *run) replace(service string, gone bool) {
	for name, c := range r.byName {
		if !r.mine(c) || r.serviceName(c) != service {
			continue
		}
		// Whatever was created for this resource and never started is a leftover.
		if !gone && (strings.HasSuffix(name, NewSuffix) || (c.State == "created" && c.Labels[LabelResource] != "")) {
			r.leftovers[name] = c.ID
			continue
		}
		r.olds[c.ID] = true
		r.intent.Olds = append(r.intent.Olds, Old{ID: c.ID, Name: name, Service: service, Ran: runs(c.State)})
	}
	slices.SortFunc(r.intent.Olds, func(a, b Old) int { return strings.Compare(a.Name, b.Name) })
	for name := range r.leftovers {
		if !strings.HasSuffix(name, NewSuffix) {
			delete(r.byName, name) // its name is free for its twin
		}
	}
}

func runs(state string) bool { return state == "running" || state == "restarting" || state == "paused" }

func (r *run) serviceName(c container.Summary) string {
	if r.job.Project == "" {
		if len(r.job.Services) == 0 {
			return ""
		}
		return r.job.Services[0].Name
	}
	if c.Labels[composeOneOff] == "True" {
		return ""
	}
	return c.Labels[composeService]
}

func (r *run) again(ctx context.Context, service string) error {
	for name, c := range r.byName {
		if !r.mine(c) || r.serviceName(c) != service || strings.Contains(name, OldSuffix) || strings.HasSuffix(name, NewSuffix) {
			continue
		}
		i, err := r.engine.api.ContainerInspect(ctx, c.ID)
		if err != nil {
			return r.engine.explain(ctx, err, service, "look at container "+name)
		}
		r.intent.Agains = append(r.intent.Agains, Again{ID: c.ID, Service: service, StartedAt: i.State.StartedAt, Ran: runs(i.State.Status)})
	}
	if !slices.ContainsFunc(r.intent.Agains, func(a Again) bool { return a.Service == service }) {
		return &Failure{Service: service, Message: fmt.Sprintf("service %q has no container to restart", service),
			Hint: "plan again: it was removed meanwhile"}
	}
	slices.SortFunc(r.intent.Agains, func(a, b Again) int { return strings.Compare(a.ID, b.ID) })
	return nil
}

// hidden reports whether a Creator is not to see the container: it is about to be replaced, or half made.
func (r *run) hidden(id string) bool {
	if r.olds[id] {
		return true
	}
	for _, half := range r.leftovers {
		if half == id {
			return true
		}
	}
	return false
}

func (r *run) created(n New) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.intent.News = append(r.intent.News, n)
}

// create lets the Creator make the successors, and removes half-made ones that nobody wants any more.
func (r *run) create(ctx context.Context, services []string) error {
	w := &wrapped{APIClient: r.engine.api, run: r, sem: make(chan struct{}, inFlight),
		images: map[string]image.InspectResponse{}, made: map[string]container.InspectResponse{}}
	if err := r.job.Creator.Create(ctx, w, services); err != nil {
		return r.engine.explain(ctx, err, "", "create the containers of "+string(r.job.Resource))
	}
	have := map[string]bool{}
	for _, n := range r.intent.News {
		have[n.Service], have[n.ID] = true, true
	}
	for _, s := range services {
		if !have[s] && !r.job.zero(s) {
			return &Failure{Service: s, Message: fmt.Sprintf("no container was created for service %q", s)}
		}
	}
	for name, id := range r.leftovers {
		if !have[id] {
			if err := r.engine.remove(ctx, id, true); err != nil {
				return fmt.Errorf("remove half-made container %s: %w", name, err)
			}
		}
	}
	if f, ok := r.job.Creator.(Filler); ok {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(inFlight)
		for _, n := range r.intent.News {
			g.Go(func() error { return f.Fill(ctx, r.engine.api, n.Service, n.ID) })
		}
		if err := g.Wait(); err != nil {
			return r.engine.explain(ctx, err, "", "fill the containers of "+string(r.job.Resource))
		}
	}
	return nil
}

func (j *Job) zero(service string) bool {
	return slices.ContainsFunc(j.Services, func(s Service) bool { return s.Name == service && s.Zero })
}

// uncreate removes what was created before anything was stopped. A network that was taken away meanwhile is
// put back, which is a rollback.
func (r *run) uncreate(ctx context.Context, cause error) error {
	if ctx.Err() != nil && errors.Is(cause, context.Cause(ctx)) && len(r.intent.Networks) == 0 {
		return cause // being stopped: the next process takes up what is half made
	}
	ctx = context.WithoutCancel(ctx)
	if len(r.intent.Networks) > 0 {
		var f *Failure
		if !errors.As(cause, &f) {
			f = &Failure{Message: cause.Error()}
		}
		return r.rollback(ctx, f)
	}
	for _, n := range r.intent.News {
		if err := r.engine.remove(ctx, n.ID, true); err != nil {
			r.engine.log.Warn("remove half-made container", "resource", r.job.Resource, "err", err)
		}
	}
	return cause
}

// remove deletes a container; one that is gone already is fine. fresh also deletes the anonymous volumes made
// with it: inherited and named ones stay in any case.
func (e *Engine) remove(ctx context.Context, id string, fresh bool) error {
	err := e.api.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: fresh})
	if errdefs.IsNotFound(err) || (err != nil && strings.Contains(err.Error(), "already in progress")) {
		return nil
	}
	return err
}

package container

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/plan"
)

// Discover completes a Job from what stands on the engine: its compose project, and, for a service the Job does
// not list or whose needs it does not know, what compose's labels say. Services found so get the action.
func (e *Engine) Discover(ctx context.Context, job *Job, action plan.Action) error {
	all, err := e.list(ctx)
	if err != nil {
		return err
	}
	if job.Project == "" && job.Resource.Kind() == "stack" {
		for _, c := range all {
			if c.Labels[LabelResource] == string(job.Resource) && c.Labels[LabelFleet] == job.Fleet {
				job.Project = c.Labels[composeProject]
			}
		}
	}
	r := e.newRun(job, nil)
	known := len(job.Services) > 0
	for _, c := range all {
		if !job.Owns(c.ID, nameOf(c), c.Labels) {
			continue
		}
		name := r.serviceName(c)
		if job.Project == "" && name == "" {
			name = job.Resource.Name()
		}
		if name == "" {
			continue
		}
		i := slices.IndexFunc(job.Services, func(s Service) bool { return s.Name == name })
		if i < 0 {
			a := action
			if known {
				a = plan.None
			}
			job.Services = append(job.Services, Service{Name: name, Action: a})
			i = len(job.Services) - 1
		}
		if job.Services[i].Needs == nil {
			job.Services[i].Needs = labelledNeeds(c.Labels["com.docker.compose.depends_on"])
		}
		if job.Services[i].Digest == "" {
			job.Services[i].Digest = plan.Digest(c.Labels[LabelDigest])
		}
	}
	slices.SortFunc(job.Services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// labelledNeeds reads compose's label "db:service_healthy:true,cache:service_started:false".
func labelledNeeds(l string) []Need {
	var out []Need
	for _, part := range strings.Split(l, ",") {
		f := strings.Split(part, ":")
		if f[0] == "" {
			continue
		}
		n := Need{Service: f[0]}
		if len(f) > 1 {
			n.Condition = f[1]
		}
		out = append(out, n) // the third field is "restart", not "required"
	}
	return out
}

// Stop stops the Job's services that are not None, dependents before what they need.
func (e *Engine) Stop(ctx context.Context, job Job) Result {
	r := e.newRun(&job, nil)
	var err error
	if r.byName, err = e.list(ctx); err != nil {
		r.finish(err)
		return r.result
	}
	for _, s := range job.Services {
		if s.Action != plan.None {
			r.replace(s.Name, true)
		}
	}
	if self := r.self(); self != "" {
		r.finish(&Failure{Message: fmt.Sprintf("container %q is the one varan runs in", self), Hint: "varan never stops its own container"})
		return r.result
	}
	if err := r.stopOlds(ctx, false); err != nil {
		r.finish(err)
		return r.result
	}
	for _, o := range r.intent.Olds {
		r.note(ServiceResult{Name: o.Service, Container: o.ID, State: "stopped"})
	}
	return r.result
}

// Await waits until the containers that stand for the Job pass its gate; it changes nothing.
func (e *Engine) Await(ctx context.Context, job Job) Result {
	r := e.newRun(&job, nil)
	var err error
	if r.byName, err = e.list(ctx); err != nil {
		r.finish(err)
		return r.result
	}
	g, gctx := errgroup.WithContext(ctx)
	found := map[string]bool{}
	for name, c := range r.byName {
		if !r.mine(c) || strings.HasSuffix(name, NewSuffix) || strings.Contains(name, OldSuffix) {
			continue
		}
		service := r.serviceName(c)
		i := slices.IndexFunc(job.Services, func(s Service) bool { return s.Name == service })
		if i < 0 {
			continue
		}
		s := job.Services[i]
		found[service] = true
		if s.Ignored {
			continue
		}
		g.Go(func() error {
			state, err := e.gate(gctx, watch{id: c.ID, name: name, service: service, oneShot: s.OneShot, mustEnd: s.MustEnd,
				settle: job.Settle, timeout: job.HealthTimeout, standing: true})
			r.note(ServiceResult{Name: service, Container: c.ID, State: state})
			return err
		})
	}
	err = g.Wait()
	for _, s := range job.Services {
		if err == nil && !found[s.Name] && !s.Ignored && !s.Zero {
			err = &Failure{Service: s.Name, Message: fmt.Sprintf("%s is not running: service %q has no container", job.Resource, s.Name)}
		}
	}
	r.finish(err)
	return r.result
}

// Standing reports which of the Job's services are not as an applied resource should be: without a container,
// or with one that neither runs nor has completed.
func (e *Engine) Standing(ctx context.Context, job Job, killed func(id string) bool) (broken []string, err error) {
	r := e.newRun(&job, nil)
	if r.byName, err = e.list(ctx); err != nil {
		return nil, err
	}
	good := map[string]bool{}
	bad := map[string]bool{}
	for _, c := range r.byName {
		if !r.mine(c) {
			continue
		}
		s := r.serviceName(c)
		if c.State == "running" || (c.State == "exited" && strings.HasPrefix(c.Status, "Exited (0)") && !killed(c.ID)) {
			good[s] = true
		} else {
			bad[s] = true
		}
	}
	for _, s := range job.Services {
		if (bad[s.Name] || !good[s.Name]) && s.Action != plan.None && s.Action != plan.Remove {
			broken = append(broken, s.Name)
		}
	}
	return broken, nil
}

// unpause lets a paused container hear that it is to stop.
func (e *Engine) unpause(ctx context.Context, id, state string) {
	if state == container.StatePaused {
		_ = e.api.ContainerUnpause(ctx, id)
	}
}

// IDs are the ids of the Job's containers.
func (e *Engine) IDs(ctx context.Context, job Job) ([]string, error) {
	all, err := e.list(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range all {
		if job.Owns(c.ID, nameOf(c), c.Labels) {
			ids = append(ids, c.ID)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// WorkDir is the folder in which the Job's compose project runs, by compose's label; "" if nothing of it stands.
func (e *Engine) WorkDir(ctx context.Context, job Job) (string, error) {
	all, err := e.list(ctx)
	if err != nil {
		return "", err
	}
	job.Take = true
	for _, c := range all {
		if d := c.Labels["com.docker.compose.project.working_dir"]; d != "" && job.Owns(c.ID, nameOf(c), c.Labels) {
			return d, nil
		}
	}
	return "", nil
}

// Free are the containers under the Job's project or names that bear no labels of ours, or were released, by
// service.
func (e *Engine) Free(ctx context.Context, job Job, released func(id string) bool) (map[string][]container.Summary, error) {
	all, err := e.list(ctx)
	if err != nil {
		return nil, err
	}
	r := e.newRun(&job, nil)
	out := map[string][]container.Summary{}
	for _, c := range all {
		if s := r.serviceName(c); s != "" && (c.Labels[LabelResource] == "" || released(c.ID)) && job.Owns(c.ID, nameOf(c), c.Labels) {
			out[s] = append(out[s], c)
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b container.Summary) int { return strings.Compare(nameOf(a), nameOf(b)) })
	}
	return out, nil
}

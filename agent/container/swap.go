package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/plan"
)

// swap goes from "all are created" to "the new ones run and are good", or back. resumed says that an earlier
// process may have done part of it: then each container is looked at before it is touched.
func (r *run) swap(ctx context.Context, resumed bool) error {
	err := r.stopOlds(ctx, resumed)
	if err == nil {
		err = r.takeNames(ctx, resumed)
	}
	if err == nil {
		err = r.startAll(ctx, resumed)
	}
	if err == nil {
		return r.commit(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // being stopped: the next process goes on from the intent
	}
	var f *Failure
	if !errors.As(err, &f) {
		f = &Failure{Message: err.Error()}
	}
	if r.job.Keep && f.Gate {
		r.intent.Failure = f.written() // a process that goes on from here must not take it for a success
		if err := r.commit(ctx); err != nil {
			return err
		}
		return f
	}
	return r.rollback(ctx, f)
}

// stopOlds stops what is replaced or removed, dependents before what they need.
func (r *run) stopOlds(ctx context.Context, resumed bool) error {
	by := map[string][]Old{}
	for _, o := range r.intent.Olds {
		if o.Ran {
			by[o.Service] = append(by[o.Service], o)
			r.result.Stopped = true
		}
	}
	if len(by) == 0 {
		return nil
	}
	return inOrder(ctx, r.reversed(), func(ctx context.Context, s *Service) error {
		for _, o := range by[s.Name] {
			if resumed && !runs(r.stateOf(o.ID)) {
				continue
			}
			r.say(s.Name, "stopping", "")
			r.engine.unpause(ctx, o.ID, r.stateOf(o.ID))
			if err := r.engine.api.ContainerStop(ctx, o.ID, container.StopOptions{}); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsNotModified(err) {
				return r.engine.explain(ctx, err, s.Name, "stop container "+o.Name)
			}
		}
		return nil
	})
}

// stateOf is a container's state as the list at the beginning showed it; "" if it is gone.
func (r *run) stateOf(id string) string {
	for _, c := range r.byName {
		if c.ID == id {
			return c.State
		}
	}
	return ""
}

func (r *run) nameNow(id string) string {
	for n, c := range r.byName {
		if c.ID == id {
			return n
		}
	}
	return ""
}

func kept(o Old) string { return o.Name + OldSuffix + "-" + o.ID[:min(8, len(o.ID))] }

// takeNames moves the old containers aside and gives the new ones their names.
func (r *run) takeNames(ctx context.Context, resumed bool) error {
	wanted := map[string]bool{}
	for _, n := range r.intent.News {
		if n.Temp {
			wanted[n.Name] = true
		}
	}
	for _, o := range r.intent.Olds {
		if !wanted[o.Name] || (resumed && r.nameNow(o.ID) != o.Name) {
			continue
		}
		if err := r.engine.api.ContainerRename(ctx, o.ID, kept(o)); err != nil && !errdefs.IsNotFound(err) {
			return r.engine.explain(ctx, err, o.Service, "move container "+o.Name+" aside")
		}
	}
	for _, n := range r.intent.News {
		if !n.Temp || (resumed && r.nameNow(n.ID) == n.Name) {
			continue
		}
		if err := r.engine.api.ContainerRename(ctx, n.ID, n.Name); err != nil {
			return r.engine.explain(ctx, err, n.Service, "name container "+n.Name)
		}
	}
	return nil
}

// startAll starts new and restarted containers in the order their services need each other, and waits for each
// to pass its gate.
func (r *run) startAll(ctx context.Context, resumed bool) error {
	news, agains := map[string][]New{}, map[string][]Again{}
	for _, n := range r.intent.News {
		news[n.Service] = append(news[n.Service], n)
	}
	for _, a := range r.intent.Agains {
		agains[a.Service] = append(agains[a.Service], a)
	}
	acting := map[string]*progress{}
	for i := range r.job.Services {
		s := &r.job.Services[i]
		if len(news[s.Name])+len(agains[s.Name]) > 0 {
			acting[s.Name] = &progress{started: make(chan struct{}), passed: make(chan struct{})}
		}
	}
	// Who is waited for to end must end, or the gate would never open for those who wait.
	for _, s := range r.job.Services {
		for _, n := range s.Needs {
			if n.Condition == Completed {
				if i := slices.IndexFunc(r.job.Services, func(t Service) bool { return t.Name == n.Service }); i >= 0 {
					r.job.Services[i].MustEnd = true
				}
			}
		}
	}
	sem := make(chan struct{}, inFlight)
	g, ctx := errgroup.WithContext(ctx)
	for i := range r.job.Services {
		s := &r.job.Services[i]
		me := acting[s.Name]
		if me == nil {
			continue
		}
		g.Go(func() error {
			if err := r.needs(ctx, s, acting); err != nil {
				return err
			}
			began := time.Now()
			gates, err := r.startService(ctx, s, news[s.Name], agains[s.Name], sem, resumed)
			if err != nil {
				return r.blame(ctx, s, acting, err)
			}
			close(me.started)
			state, err := r.gates(ctx, s, gates)
			r.note(ServiceResult{Name: s.Name, Container: gates[0].id, State: state, Took: time.Since(began)})
			if err != nil {
				me.err = err
				close(me.passed)
				if s.Ignored {
					return nil
				}
				return err
			}
			close(me.passed)
			r.say(s.Name, state, "")
			return nil
		})
	}
	return g.Wait()
}

// progress is how far an acting service is; err is set before passed is closed.
type progress struct {
	started, passed chan struct{}
	err             error
}

func (r *run) note(s ServiceResult) {
	if s.State == "" {
		s.State = "failed"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Services = append(r.result.Services, s)
}

// needs waits for what the service depends on.
func (r *run) needs(ctx context.Context, s *Service, acting map[string]*progress) error {
	for _, n := range s.Needs {
		p := acting[n.Service]
		if p == nil {
			if err := r.standing(ctx, s, n); err != nil && !n.Optional {
				return err
			}
			continue
		}
		until := p.started
		if n.Condition == Healthy || n.Condition == Completed {
			until = p.passed
			r.say(s.Name, "waiting", "for "+n.Service)
		}
		select {
		case <-until:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if until == p.passed && p.err != nil && !n.Optional {
			return &Failure{Service: s.Name, Gate: true, Message: fmt.Sprintf("service %q was not started: it needs %q, which failed", s.Name, n.Service)}
		}
	}
	return nil
}

// standing checks a dependency that does not change in this Job.
func (r *run) standing(ctx context.Context, s *Service, n Need) error {
	if n.Condition != Healthy && n.Condition != Completed {
		return nil
	}
	for name, c := range r.byName {
		if !r.mine(c) || r.serviceName(c) != n.Service || r.olds[c.ID] {
			continue
		}
		_, err := r.engine.gate(ctx, watch{id: c.ID, name: name, service: n.Service, oneShot: n.Condition == Completed,
			mustEnd: n.Condition == Completed, timeout: r.job.HealthTimeout, quiet: r.job.Quiet.New})
		if err != nil {
			return &Failure{Service: s.Name, Message: fmt.Sprintf("service %q was not started: it needs %q: %v", s.Name, n.Service, err)}
		}
		return nil
	}
	return &Failure{Service: s.Name, Message: fmt.Sprintf("service %q was not started: it needs %q, which has no container", s.Name, n.Service)}
}

// startService starts the service's containers and says what to wait for.
func (r *run) startService(ctx context.Context, s *Service, news []New, agains []Again, sem chan struct{}, resumed bool) ([]watch, error) {
	var gates []watch
	w := watch{service: s.Name, oneShot: s.OneShot, mustEnd: s.MustEnd, settle: r.job.Settle, timeout: r.job.HealthTimeout, quiet: r.job.Quiet.New}
	for _, n := range news {
		w := w
		w.id, w.name, w.fresh = n.ID, n.Name, true
		gates = append(gates, w)
		if resumed {
			c, err := r.engine.api.ContainerInspect(ctx, n.ID)
			if err != nil {
				return nil, r.engine.explain(ctx, err, s.Name, "look at container "+n.Name)
			}
			if everStarted(c) {
				continue
			}
		}
		if err := r.start(ctx, s.Name, n.ID, n.Name, sem); err != nil {
			return nil, err
		}
		if f, ok := r.job.Creator.(Follower); ok {
			if err := f.Started(ctx, r.engine.api, s.Name, n.ID); err != nil {
				return nil, &Failure{Service: s.Name, Gate: true, Message: fmt.Sprintf("after the start of %q: %v", n.Name, err)}
			}
		}
	}
	for _, a := range agains {
		w := w
		w.id, w.name = a.ID, r.nameNow(a.ID)
		gates = append(gates, w)
		c, err := r.engine.api.ContainerInspect(ctx, a.ID)
		if err != nil {
			return nil, r.engine.explain(ctx, err, s.Name, "look at container "+w.name)
		}
		if c.HostConfig != nil {
			p := c.HostConfig.RestartPolicy.Name
			w.oneShot = w.oneShot || p == "" || p == container.RestartPolicyDisabled || p == container.RestartPolicyOnFailure
			gates[len(gates)-1] = w
		}
		if c.State.StartedAt != a.StartedAt {
			continue // done before the process was killed
		}
		if c.State.Running {
			r.mu.Lock()
			r.result.Stopped = true
			r.mu.Unlock()
			r.say(s.Name, "stopping", "")
			r.engine.unpause(ctx, a.ID, c.State.Status)
			if err := r.engine.api.ContainerStop(ctx, a.ID, container.StopOptions{}); err != nil {
				return nil, r.engine.explain(ctx, err, s.Name, "stop container "+w.name)
			}
		}
		if err := r.start(ctx, s.Name, a.ID, w.name, sem); err != nil {
			return nil, err
		}
	}
	return gates, nil
}

func everStarted(c container.InspectResponse) bool {
	return c.State.Running || !strings.HasPrefix(c.State.StartedAt, "0001-")
}

func (r *run) start(ctx context.Context, service, id, name string, sem chan struct{}) error {
	select {
	case sem <- struct{}{}:
		defer func() { <-sem }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r.say(service, "starting", "")
	if err := r.engine.api.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		err := r.explain(ctx, err, r.job.Quiet.New, service, "start container "+name)
		var f *Failure
		if errors.As(err, &f) && ctx.Err() == nil {
			f.Gate = true
		}
		return err
	}
	return nil
}

// gates waits for all containers of a service.
func (r *run) gates(ctx context.Context, s *Service, gates []watch) (string, error) {
	if s.Ignored {
		return "ignored", nil
	}
	r.say(s.Name, "waiting", "")
	g, ctx := errgroup.WithContext(ctx)
	states := make([]string, len(gates))
	for i, w := range gates {
		g.Go(func() (err error) {
			states[i], err = r.engine.gate(ctx, w)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	return states[0], nil
}

// commit removes what was kept for the way back. The new containers have passed their gate: nothing that goes wrong
// here takes them back. What the engine does not remove now is kept from ever starting again, and stands in the
// Result as left. The error says that the agent is being stopped, and the next process removes the rest, or that a
// removal failed where nothing else was asked for.
func (r *run) commit(ctx context.Context) error {
	if len(r.intent.Olds) == 0 {
		return nil
	}
	var unwritten error // what is not written down is not done
	if r.intent.Phase != Committing {
		r.intent.Phase = Committing
		unwritten = r.save()
	}
	stopping := ctx
	ctx = context.WithoutCancel(ctx)
	var g errgroup.Group
	g.SetLimit(inFlight)
	for _, o := range r.intent.Olds {
		g.Go(func() error {
			err := unwritten
			if err == nil {
				err = r.engine.remove(ctx, o.ID, false)
			}
			if err == nil {
				return nil
			}
			if stopping.Err() != nil {
				return context.Cause(stopping)
			}
			r.engine.log.Error("remove what ran before", "resource", r.job.Resource, "container", o.Name, "err", err)
			if err := r.engine.never(ctx, o.ID); err != nil {
				r.engine.log.Error("keep what ran before from starting", "resource", r.job.Resource, "container", o.Name, "err", err)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.result.Left = append(r.result.Left, Left{Old: o, Why: r.explain(ctx, err, r.job.Quiet.Old, o.Service, "remove container "+o.Name).Error()})
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	left := r.result.Left
	slices.SortFunc(left, func(a, b Left) int { return strings.Compare(a.Name, b.Name) })
	if len(left) > 0 && len(r.intent.News)+len(r.intent.Agains) == 0 {
		r.result.Left = nil
		return &Failure{Service: left[0].Service, Message: left[0].Why}
	}
	for _, s := range r.job.Services {
		if s.Action == plan.Remove && !slices.ContainsFunc(left, func(l Left) bool { return l.Service == s.Name }) {
			r.note(ServiceResult{Name: s.Name, State: "removed"})
		}
	}
	return nil
}

// never keeps a container from being started by the engine.
func (e *Engine) never(ctx context.Context, id string) error {
	_, err := e.api.ContainerUpdate(ctx, id, container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled}})
	return err
}

// Discard removes a container that an earlier change had left; fresh says that it never ran, and that the anonymous
// volumes made with it go too. One that is gone already is fine.
func (e *Engine) Discard(ctx context.Context, id string, fresh bool) error {
	return e.remove(ctx, id, fresh)
}

// startTimeout bounds how long a rollback waits for what ran before to run again.
const startTimeout = time.Minute

// rollback removes the new containers and puts the old ones back, and returns the failure that led here. Whatever
// goes wrong with one container on this way, it is said, and the others go on.
func (r *run) rollback(ctx context.Context, why *Failure) error {
	stopping := ctx
	ctx = context.WithoutCancel(ctx)
	if r.intent.Phase != Rolling {
		r.intent.Phase, r.intent.Failure = Rolling, why.written()
		if err := r.save(); err != nil {
			// A process that finds the phase before this one comes here too, once it sees the new containers gone.
			r.engine.log.Error("write down that a change is undone", "resource", r.job.Resource, "err", err)
		}
	}
	r.say(why.Service, "rolling back", why.Message)
	var mu sync.Mutex         // guards what follows
	var down, untidy []string // what keeps something from running as before, and what does not
	note := func(list *[]string, err error) {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			*list = append(*list, err.Error())
		}
	}
	var g errgroup.Group
	g.SetLimit(inFlight)
	for _, n := range r.intent.News {
		g.Go(func() error { note(&untidy, r.discard(ctx, n)); return nil })
	}
	_ = g.Wait()
	var err error
	if r.byName, err = r.listPatiently(stopping); err != nil {
		if stopping.Err() != nil {
			return context.Cause(stopping)
		}
		return &Failure{Service: why.Service, Gate: why.Gate, Message: why.Message + "; and the way back failed: " + err.Error()}
	}
	note(&down, r.returnNetworks(ctx))
	var back []Old
	for _, o := range r.intent.Olds {
		now := r.nameNow(o.ID)
		if o.Ran && now != "" {
			back = append(back, o)
		} else if o.Ran {
			note(&down, fmt.Errorf("container %s, which ran before, was removed meanwhile", o.Name))
		}
		if now != "" && now != o.Name {
			if err := r.engine.api.ContainerRename(ctx, o.ID, o.Name); err != nil {
				note(&down, r.engine.explain(ctx, err, o.Service, "name container "+o.Name))
			}
		}
	}
	_ = inOrder(ctx, r.job.Services, func(ctx context.Context, s *Service) error {
		for _, o := range back {
			if o.Service == s.Name {
				note(&down, r.startAgain(ctx, s, o.ID, o.Name))
			}
		}
		for _, a := range r.intent.Agains {
			if name := r.nameNow(a.ID); a.Service == s.Name && a.Ran && name != "" {
				note(&down, r.startAgain(ctx, s, a.ID, name))
			}
		}
		return nil
	})
	slices.Sort(down)
	slices.Sort(untidy)
	end := *why
	if len(down) > 0 {
		end.Message += "; and the way back failed: " + strings.Join(slices.Concat(down, untidy), "; ")
		return &end
	}
	if len(untidy) > 0 {
		end.Message += "; and " + strings.Join(untidy, "; ")
	}
	r.result.RolledBack = len(back) > 0
	return &end
}

// listPatiently lists the containers, and waits a while for an engine that does not answer: what ran before depends
// on it.
func (r *run) listPatiently(ctx context.Context) (map[string]container.Summary, error) {
	for began := time.Now(); ; {
		names, err := r.engine.list(context.WithoutCancel(ctx))
		if err == nil || time.Since(began) > startTimeout {
			return names, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Second):
		}
	}
}

// written is the failure as it may be written down: without what a container printed.
func (f *Failure) written() *Failure {
	w := *f
	w.Tail = ""
	return &w
}

// discard removes a container that failed. One that the engine cannot remove makes way for what ran before: it is
// stopped and gives its name back; the next change removes it.
func (r *run) discard(ctx context.Context, n New) error {
	err := r.engine.remove(ctx, n.ID, true)
	if err == nil {
		return nil
	}
	uerr := r.engine.never(ctx, n.ID)
	serr := r.engine.api.ContainerStop(ctx, n.ID, container.StopOptions{})
	rerr := r.engine.api.ContainerRename(ctx, n.ID, n.Name+NewSuffix)
	r.engine.log.Error("remove the container that failed", "resource", r.job.Resource, "container", n.Name, "err", errors.Join(err, uerr, serr, rerr))
	return fmt.Errorf("the failed container could not be removed: %w", r.explain(ctx, err, r.job.Quiet.New, n.Service, "remove container "+n.Name))
}

// startAgain starts what ran before the change, unless it runs.
func (r *run) startAgain(ctx context.Context, s *Service, id, name string) error {
	if runs(r.stateOf(id)) {
		return nil
	}
	r.say(s.Name, "rolling back", "starting "+name)
	if err := r.engine.api.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return r.explain(ctx, err, r.job.Quiet.Old, s.Name, "start container "+name)
	}
	if _, err := r.engine.gate(ctx, watch{id: id, name: name, service: s.Name, oneShot: s.OneShot, timeout: min(startTimeout, r.job.HealthTimeout), quiet: r.job.Quiet.Old}); err != nil {
		return fmt.Errorf("what ran before does not run again: %w", err)
	}
	return nil
}

func (r *run) reversed() []Service {
	needs := map[string][]Need{}
	for _, s := range r.job.Services {
		for _, n := range s.Needs {
			needs[n.Service] = append(needs[n.Service], Need{Service: s.Name})
		}
	}
	out := slices.Clone(r.job.Services)
	for i := range out {
		out[i].Needs = needs[out[i].Name]
	}
	return out
}

// inOrder calls f for each service, at most inFlight at once, a service after all it needs. Circles are for
// compose to refuse; here they are cut.
func inOrder(ctx context.Context, services []Service, f func(context.Context, *Service) error) error {
	done := map[string]chan struct{}{}
	rank := map[string]int{}
	for i, s := range order(services) {
		done[s] = make(chan struct{})
		rank[s] = i
	}
	sem := make(chan struct{}, inFlight)
	g, ctx := errgroup.WithContext(ctx)
	for i := range services {
		s := &services[i]
		g.Go(func() error {
			for _, n := range s.Needs {
				c := done[n.Service]
				if c == nil || rank[n.Service] > rank[s.Name] {
					continue
				}
				select {
				case <-c:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			sem <- struct{}{}
			defer func() { <-sem }()
			if err := f(ctx, s); err != nil {
				return err
			}
			close(done[s.Name])
			return nil
		})
	}
	return g.Wait()
}

// order is the services' names, each after what it needs as far as that is possible.
func order(services []Service) []string {
	by := map[string]*Service{}
	for i := range services {
		by[services[i].Name] = &services[i]
	}
	var out []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		s := by[name]
		if s == nil || seen[name] {
			return
		}
		seen[name] = true
		for _, n := range s.Needs {
			visit(n.Service)
		}
		out = append(out, name)
	}
	for _, s := range services {
		visit(s.Name)
	}
	return out
}

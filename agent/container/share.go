package container

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
)

// aim replaces the names of the containers that host shares something of by their ids. While a change is on its
// way, a name still stands for the container that is about to go; its successor is the one that is meant.
func (r *run) aim(host *container.HostConfig) {
	host.NetworkMode = container.NetworkMode(r.aimed(string(host.NetworkMode)))
	host.IpcMode = container.IpcMode(r.aimed(string(host.IpcMode)))
	host.PidMode = container.PidMode(r.aimed(string(host.PidMode)))
	for i, v := range host.VolumesFrom {
		name, mode, has := strings.Cut(v, ":")
		if id := r.idOf(name); id != "" {
			name = id
		}
		if has {
			name += ":" + mode
		}
		host.VolumesFrom[i] = name
	}
}

// aimed is aim for one mode.
func (r *run) aimed(mode string) string {
	if name, ok := strings.CutPrefix(mode, "container:"); ok {
		if id := r.idOf(name); id != "" {
			return "container:" + id
		}
	}
	return mode
}

// idOf is the id of the container that has, or is about to take, a name; "" if there is none.
func (r *run) idOf(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.intent.News {
		if n.Name == name {
			return n.ID
		}
	}
	return r.byName[name].ID
}

// blame says why a service could not be started: where whom it shares with does not run, the cause is that one's. It
// may have passed its gate and ended after.
func (r *run) blame(ctx context.Context, s *Service, acting map[string]*progress, err error) error {
	var f *Failure
	if !errors.As(err, &f) || !f.joins {
		return err
	}
	for _, n := range s.Needs {
		p := acting[n.Service]
		if p == nil {
			continue
		}
		select {
		case <-p.passed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if p.err != nil {
			return p.err
		}
		if ended := r.ended(ctx, n.Service); ended != nil {
			return ended
		}
	}
	return err
}

// ended is why a service that this change has started does not run now; nil if it does, or is done.
func (r *run) ended(ctx context.Context, service string) error {
	for _, n := range r.intent.News {
		if n.Service != service {
			continue
		}
		c, err := r.engine.api.ContainerInspect(ctx, n.ID)
		if err != nil {
			continue // the first failure tells enough
		}
		i := slices.IndexFunc(r.job.Services, func(s Service) bool { return s.Name == service })
		w := watch{id: n.ID, name: n.Name, service: service, oneShot: i >= 0 && r.job.Services[i].OneShot}
		if _, err := w.judge(c, c.State.StartedAt, c.RestartCount, 0); err != nil {
			f := err.(*Failure)
			f.Tail = r.engine.tail(ctx, n.ID)
			return f
		}
	}
	return nil
}

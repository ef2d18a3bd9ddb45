package container

import (
	"context"
	"errors"
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

// blame says why a service could not be started: where whom it shares with does not run, the cause is that one's.
func blame(ctx context.Context, s *Service, acting map[string]*progress, err error) error {
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
	}
	return err
}

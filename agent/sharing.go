package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"

	"github.com/varanhq/varan/plan"
)

// shares remembers of the few containers that share a network or a namespace, and of those they share with, what the
// list does not tell. It is asked for once each; only a start makes it another.
type shares struct {
	mu     sync.Mutex // guards what follows
	known  map[string]sharer
	starts int // heard so far: what was asked for across one is not kept
}

// A sharer is what one inspection told.
type sharer struct {
	ipc, pid string // ids of the containers whose namespaces it has; "" = its own
	own      bool   // its network is its own, so that it ends and begins with it
	started  time.Time
}

func (s *shares) heard(e events.Message) {
	if e.Action != events.ActionStart {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starts++
	delete(s.known, e.Actor.ID)
}

func (s *shares) forget(alive map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.known {
		if !alive[id] {
			delete(s.known, id)
		}
	}
}

// sharer tells about one container; ok is false if it could not be looked at.
func (a *Agent) sharer(ctx context.Context, id string) (sharer, bool) {
	s := &a.shares
	s.mu.Lock()
	out, ok := s.known[id]
	starts := s.starts
	s.mu.Unlock()
	if ok {
		return out, true
	}
	c, err := a.api.ContainerInspect(ctx, id)
	if err != nil || c.ContainerJSONBase == nil || c.HostConfig == nil || c.State == nil {
		return sharer{}, false
	}
	h := c.HostConfig
	out = sharer{ipc: h.IpcMode.Container(), pid: h.PidMode.Container(),
		own: !h.NetworkMode.IsHost() && !h.NetworkMode.IsNone() && !h.NetworkMode.IsContainer()}
	out.started, _ = time.Parse(time.RFC3339Nano, c.State.StartedAt)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.starts == starts {
		if s.known == nil {
			s.known = map[string]sharer{}
		}
		s.known[id] = out
	}
	return out, true
}

// sharing fills in what containers have of others: whose IPC and PID namespaces, where the ledger says that they share
// one, and whether the network they have is still there.
func (a *Agent) sharing(ctx context.Context, s *plan.ServerState) {
	type unit struct{ of, service string }
	share := map[unit]bool{}
	for id, e := range s.Ledger {
		for _, u := range e.Units {
			if slices.ContainsFunc(u.Shares, func(s plan.Share) bool { return s.What == plan.ShareIPC || s.What == plan.SharePID }) {
				share[unit{string(id), u.Service}] = true
				if e.Adopted && e.Project != "" {
					share[unit{e.Project, u.Service}] = true
				}
			}
		}
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		if share[unit{string(c.Resource), c.Service}] || c.Resource == "" && share[unit{c.Project, c.Service}] {
			of, _ := a.sharer(ctx, c.ID)
			c.IPCOf, c.PIDOf = of.ipc, of.pid
		}
		if c.NetworkOf != "" && c.Status == "running" {
			c.Severed = a.severed(ctx, s.Containers, c)
		}
	}
}

// severed reports whether the container whose network c has was started after c was: it got a new one then.
func (a *Agent) severed(ctx context.Context, all []plan.Container, c *plan.Container) bool {
	root := c
	for range 10 { // who is shared with may share in turn
		i := slices.IndexFunc(all, func(x plan.Container) bool { return x.ID == root.NetworkOf })
		if i < 0 {
			return false // gone: its id says so
		}
		if root = &all[i]; root.NetworkOf == "" {
			break
		}
	}
	if root.Status != "running" || root.NetworkOf != "" {
		return false
	}
	me, ok := a.sharer(ctx, c.ID)
	with, ok2 := a.sharer(ctx, root.ID)
	return ok && ok2 && with.own && with.started.After(me.started)
}

package sync

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// Status tells how everything stands.
func (d *Daemon) Status() Status {
	st := Status{Started: d.began, Syncs: []SyncStatus{}, Servers: []ServerStatus{}, Resources: []ResourceStatus{}, Holds: []plan.Hold{}, Running: []RunInfo{}}
	d.isPaused() // ends one that is over
	d.mu.Lock()
	st.Fleet = d.settings.Fleet
	if d.pause != nil {
		h := *d.pause
		st.Paused = &h
	}
	for _, a := range d.running {
		st.Running = append(st.Running, a.info)
	}
	d.mu.Unlock()

	s := d.root.syncer
	s.mu.Lock()
	defer s.mu.Unlock()
	sync := s.status
	if len(st.Running) > 0 {
		sync.State = "running"
	}
	st.Syncs = append(st.Syncs, sync)
	if s.lastRead != nil {
		st.Syncs = append(st.Syncs, s.lastRead.childStatus()...)
	}
	st.Ready = s.last != nil && s.diskErr == nil
	switch sync.State {
	case "unreachable", "broken", "failed", "retrying", "asking", "waiting", "cancelled":
		st.Problem = sync.Name + ": " + sync.State
		if sync.Error != "" {
			st.Problem += ": " + sync.Error
		}
	}
	if s.diskErr != nil {
		st.Problem = s.diskErr.Error()
	}
	if s.state == nil || s.last == nil || s.lastRead == nil {
		return st
	}
	count := map[string]int{}
	for i := range s.last.Steps {
		step := &s.last.Steps[i]
		if k := step.Resource.Kind(); k != schema.KindStack && k != schema.KindDeployment || step.Of != "" {
			continue
		}
		count[step.Server]++
		st.Resources = append(st.Resources, resourceStatus(s, step))
	}
	now := time.Now()
	for _, name := range declaredServers(s.lastRead.config, s.lastRead.desired.Local, false) {
		sv := s.state.Servers[name]
		if sv == nil {
			sv = &plan.ServerState{}
		}
		server := ServerStatus{Name: name, Unreachable: sv.Unreachable, Containers: len(sv.Containers), Resources: count[name]}
		var figures *protocol.Figures
		if d.opts.Figures != nil {
			if f, ok := d.opts.Figures(s.agentOf(name)); ok {
				figures = &f
			}
		}
		server.judge(serverConfig(s.lastRead.config, name), figures, now, zones)
		st.Servers = append(st.Servers, server)
		for _, h := range sv.Holds {
			switch {
			case h.Over(time.Now()):
			case h.Kind == plan.HoldPaused && h.Resource == "":
				if st.Paused == nil { // kept by an agent, forgotten here
					st.Paused = &h
				}
			case h.Kind == plan.HoldFailed && !holding(s.last, h, name): // of a version that is declared no longer
			default:
				st.Holds = append(st.Holds, h)
				if h.Kind != plan.HoldUser && st.Problem == "" {
					st.Problem = string(h.Resource) + " is held: " + h.Reason
				}
			}
		}
	}
	return st
}

// holding reports whether a failed version is the one declared.
func holding(p *plan.Plan, h plan.Hold, server string) bool {
	return slices.ContainsFunc(p.Steps, func(st plan.Step) bool {
		return st.Resource == h.Resource && st.Server == server && st.Digest == h.Digest
	})
}

func resourceStatus(s *syncer, step *plan.Step) ResourceStatus {
	rs := ResourceStatus{Resource: step.Resource, Sync: cmp.Or(step.Sync, s.name), Server: step.Server, Action: step.Action, Source: step.Source}
	if len(step.Causes) > 0 {
		rs.Cause = strings.TrimSpace(string(step.Causes[0].Kind) + " " + step.Causes[0].Detail)
	}
	server := s.state.Servers[step.Server]
	if server == nil || server.Unreachable != "" {
		rs.State = "unknown"
		return rs
	}
	var states []string
	for _, c := range server.Of(step.Resource, was(s.lastRead.config, step.Resource), s.fleetLocked()) {
		rs.Commit = c.Commit
		states = append(states, containerState(c))
	}
	rs.State = together(states)
	if step.Action == plan.Held {
		rs.State = "held"
	}
	return rs
}

// was is the former name that a resource declares, unless another has that name now.
func was(c *schema.Config, id schema.ID) schema.ID {
	if r := c.Get(id); r != nil && r.Was != "" {
		if id := schema.NewID(r.Kind, r.Was); c.Get(id) == nil {
			return id
		}
	}
	return ""
}

// fleetLocked is fleet for who holds s.mu.
func (s *syncer) fleetLocked() string {
	if s.set.Fleet == "" {
		return "main"
	}
	return s.set.Fleet
}

func containerState(c *plan.Container) string {
	switch {
	case c.Completed:
		return "completed"
	case c.Health == "unhealthy":
		return "unhealthy"
	case c.Status == "running":
		return "running"
	}
	return "stopped"
}

// together says how a resource stands by its containers.
func together(states []string) string {
	if len(states) == 0 {
		return "absent"
	}
	if slices.Contains(states, "unhealthy") {
		return "unhealthy"
	}
	slices.Sort(states)
	states = slices.Compact(states)
	if len(states) == 1 {
		return states[0]
	}
	if len(states) == 2 && states[0] == "completed" && states[1] == "running" {
		return "running"
	}
	return "partly"
}

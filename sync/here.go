package sync

import (
	"cmp"
	"context"
	"maps"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// fleetOf is the fleet as a commit that calls this machine local sees it. Which agent a name stands for must not
// depend on what was read before it: a preview may give this machine another server's name.
func (s *syncer) fleetOf(local string) apply.Fleet {
	if s.opts.This == "" {
		return s.opts.Servers
	}
	return here{Fleet: s.opts.Servers, local: local, this: s.opts.This}
}

// agentOf is the name by which the fleet knows a server's agent. The mutex is held.
func (s *syncer) agentOf(server string) string {
	if s.opts.This != "" && s.lastRead != nil && server == s.lastRead.desired.Local {
		return s.opts.This
	}
	return server
}

// localName is what the commit read last calls this machine.
func (s *syncer) localName() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastRead != nil {
		return s.lastRead.desired.Local
	}
	return cmp.Or(s.opts.Local, "local")
}

// here is a fleet that knows this machine by a name of its own.
type here struct {
	apply.Fleet
	local, this string
}

// Observe asks the server, or this machine.
func (f here) Observe(ctx context.Context, server string, queries []protocol.Query) (plan.ServerState, error) {
	if server != f.local {
		return f.Fleet.Observe(ctx, server, queries)
	}
	st, err := f.Fleet.Observe(ctx, f.this, queries)
	st.Name = server
	return st, err
}

// Do gives the server, or this machine, an op.
func (f here) Do(ctx context.Context, op protocol.Op, progress func(protocol.Progress)) (protocol.Outcome, error) {
	if op.Server != f.local {
		return f.Fleet.Do(ctx, op, progress)
	}
	op.Server = f.this
	if tell := progress; tell != nil {
		progress = func(p protocol.Progress) { p.Server = f.local; tell(p) }
	}
	return f.Fleet.Do(ctx, op, progress)
}

// enrol hands over the agents' keys that a commit of the branch holds: committing a key enrols its agent, and a
// commit without it locks the agent out, whatever becomes of the commit's plan. A commit that waits for somebody to
// let it through changes nothing.
func (s *syncer) enrol(r *reading, j job) {
	if s.opts.Enrol == nil || s.here || j.look || s.heldBack(r.commit) != "" {
		return
	}
	local := r.desired.Local
	if s.opts.This == "" {
		local = "" // no agent runs inside: this machine's is one as the others'
	}
	keys := enrolled(r.config, local)
	if s.keys != nil && maps.Equal(keys, s.keys) {
		return
	}
	s.keys = keys
	if err := s.opts.Enrol(keys); err != nil {
		s.log.Error("not all agents are enrolled as committed", "commit", r.commit, "err", err)
	}
}

// enrolNobody says that no agent is enrolled where the first commit that could be read has errors: agents that wait are
// shown from then on, and their keys may be what is missing in it.
func (s *syncer) enrolNobody(j job) {
	if s.opts.Enrol == nil || s.here || j.look || s.keys != nil || s.good != nil {
		return
	}
	s.keys = map[string]string{}
	if err := s.opts.Enrol(s.keys); err != nil {
		s.log.Error("agents cannot be let in", "err", err)
	}
}

// enrolled lists the public keys of a Config's agents by server. This machine's own agent needs none.
func enrolled(c *schema.Config, local string) map[string]string {
	keys := make(map[string]string)
	for _, res := range c.Resources {
		if sc, ok := res.Config.(*schema.ServerConfig); ok && res.Kind == schema.KindServer && !res.Template && res.Name != local && sc.PublicKey != "" {
			keys[res.Name] = sc.PublicKey
		}
	}
	return keys
}

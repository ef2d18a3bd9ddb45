package sync

import (
	"context"
	"slices"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// observe asks the servers how they stand, and then what plan must know beyond. What had to be asked last time
// is asked along with the first question, so that a state without surprises costs one.
func (s *syncer) observe(ctx context.Context, r *reading, servers []string) *plan.State {
	s.mu.Lock()
	s.seenStir = s.stir
	s.mu.Unlock()
	asked := s.asked
	if s.askedFor == nil || s.askedFor != r && !r.same(s.askedFor) {
		asked = nil
	}
	state := apply.Observe(ctx, s.fleetOf(r.desired.Local), servers, s.questions(ctx, r, asked))
	queries := plan.Queries(r.desired, state)
	s.asked, s.askedFor = queries, r
	more := map[string]bool{}
	for _, q := range queries {
		if !slices.ContainsFunc(asked, func(a plan.Query) bool { return covered(q, a) }) {
			more[q.Server] = true
		}
	}
	if len(more) == 0 {
		return state
	}
	again := apply.Observe(ctx, s.fleetOf(r.desired.Local), sortedKeys(more), s.questions(ctx, r, queries))
	for name, st := range again.Servers {
		state.Servers[name] = st
	}
	return state
}

// covered reports whether the answer to a tells what q asks.
func covered(q, a plan.Query) bool {
	return q.Server == a.Server && q.Resource == a.Resource && (len(q.Compare) == 0 || len(a.Compare) > 0) && (!q.Declare || a.Declare)
}

// questions turns plan's queries into messages, by server.
func (s *syncer) questions(ctx context.Context, r *reading, queries []plan.Query) map[string][]protocol.Query {
	out := make(map[string][]protocol.Query)
	for _, q := range queries {
		p, err := r.payload(ctx, q.Resource, nil, nil, len(q.Compare) > 0 || q.Declare)
		if err != nil {
			s.log.WarnContext(ctx, "resource not asked about", "resource", q.Resource, "err", err)
			continue
		}
		out[q.Server] = append(out[q.Server], protocol.Query{Resource: q.Resource, Compare: len(q.Compare) > 0, Declare: q.Declare, Payload: only(q, p)})
	}
	return out
}

// only leaves of a deployment's payload what its question needs: of thousands that are to be made, the agent is
// asked whether it would refuse them, and whether their bind sources are there.
func only(q plan.Query, p *protocol.Payload) *protocol.Payload {
	if p.Deployment == nil || len(q.Compare)+len(q.Secrets)+len(q.HostFiles) > 0 || q.Files {
		return p
	}
	units := make([]plan.Unit, len(p.Units))
	for i, u := range p.Units {
		units[i] = plan.Unit{Service: u.Service, Image: u.Image, Build: u.Build, Spec: u.Spec}
	}
	return &protocol.Payload{Units: units, Binds: p.Binds}
}

// serversOf lists the servers whose state matters: every declared one that is enabled, and this machine. Here alone:
// only this machine is asked, and plan shows what stands elsewhere as not of this machine.
func serversOf(c *schema.Config, local string, here bool) []string {
	names := declaredServers(c, local, here)
	return slices.DeleteFunc(names, func(name string) bool { return !serverConfig(c, name).Enabled })
}

func declaredServers(c *schema.Config, local string, here bool) []string {
	names := map[string]bool{local: true}
	if !here {
		for _, r := range c.Resources {
			if r.Kind == schema.KindServer && !r.Template {
				names[r.Name] = true
			}
		}
	}
	return sortedKeys(names)
}

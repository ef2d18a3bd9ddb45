package plan

import (
	"cmp"
	"slices"
	"strings"

	"github.com/varanhq/varan/schema"
)

// What a container can have of another one.
const (
	ShareNetwork = "network"
	ShareIPC     = "ipc"
	SharePID     = "pid"
	ShareVolumes = "volumes"
)

func (s Share) words() string {
	switch s.What {
	case ShareNetwork:
		return "shares the network of "
	case ShareVolumes:
		return "has the volumes of "
	}
	return "shares the " + strings.ToUpper(s.What) + " namespace of "
}

// of is the id of the container that c has it of; "" where that is not known.
func (s Share) of(c *Container) string {
	switch s.What {
	case ShareNetwork:
		return c.NetworkOf
	case ShareIPC:
		return c.IPCOf
	case SharePID:
		return c.PIDOf
	}
	return ""
}

// follows is what must happen to who shares when a happens to whom it shares with.
func (s Share) follows(a Action) Action {
	switch a {
	case Create, Recreate:
		return Recreate
	case Restart:
		if s.What != ShareVolumes { // a namespace ends with its last process; volumes stay
			return Restart
		}
	}
	return None
}

func does(a Action) string {
	if a == Restart {
		return "restarted"
	}
	return "recreated"
}

// follow lets what shares something of a service, or asks to be restarted with it, follow what happens to it. What
// has completed has nothing left that could break.
func (n *node) follow(verdicts []verdict, stood func(string) []*Container) {
	if !slices.ContainsFunc(n.decl.Units, func(u Unit) bool { return len(u.Shares)+len(u.Restarts) > 0 }) {
		return
	}
	at := make(map[string]*verdict, len(verdicts))
	for i := range n.decl.Units {
		at[n.decl.Units[i].Service] = &verdicts[i]
	}
	for again := true; again; { // who shares may be shared from
		again = false
		for i := range n.decl.Units {
			u, v := &n.decl.Units[i], &verdicts[i]
			if completed(stood(u.Service)) {
				continue
			}
			join := func(need Action, with *verdict, kind CauseKind, words, service string) {
				if rank(need) > rank(v.action) {
					v.need(need, with.drift, kind, n.label(u.Service)+words+service+", which is "+does(with.action))
					again = true
				}
			}
			for _, s := range u.Shares {
				if with := at[s.Service]; with != nil && with != v {
					join(s.follows(with.action), with, Shares, s.words(), s.Service)
				}
			}
			for _, need := range u.Restarts {
				if with := at[need]; with != nil && with != v && with.replaces() {
					join(Restart, with, Needs, "needs ", need)
				}
			}
		}
	}
}

// replaces reports whether something that was there starts anew. A service that is new to its stack is not.
func (v *verdict) replaces() bool {
	return v.action == Recreate || v.action == Restart || v.action == Create && v.drift
}

// completed reports whether none of the containers is to run, or to run again.
func completed(have []*Container) bool {
	return !slices.ContainsFunc(have, func(c *Container) bool { return !c.Completed })
}

// stranded finds containers that still have the network or a namespace of a container that another one has taken the
// place of, or that started again without them: they run, and reach nothing.
func (m *maker) stranded(n *node, u *Unit, stood func(string) []*Container, v *verdict) {
	if rank(v.action) >= rank(Recreate) {
		return
	}
	for _, s := range u.Shares {
		var with []*Container
		if s.Service != "" {
			with = stood(s.Service)
		} else if c := n.host.byName[s.Container]; c != nil {
			with = []*Container{c}
		}
		for _, c := range stood(u.Service) {
			of := s.of(c)
			if c.Severed && s.What == ShareNetwork && c.Status == "running" && rank(v.action) < rank(Restart) {
				v.need(Restart, true, Drifted, n.label(u.Service)+"lost the network of "+cmp.Or(s.Service, s.Container)+", which was started again since")
			}
			if len(with) == 0 || c.Completed || of == "" || slices.ContainsFunc(with, func(w *Container) bool { return w.ID == of }) {
				continue
			}
			v.need(Recreate, true, Drifted, n.label(u.Service)+s.words()+cmp.Or(s.Service, s.Container)+" as it was before: that container is gone")
			return
		}
	}
}

// A holder is a declared container that others may share something of.
type holder struct {
	node    int32
	service string
}

// holders maps a server and a container's name to who declares it. Few fleets share across resources, so it is made
// when it is first asked for.
func (m *maker) holders() map[string]holder {
	if m.holderOf != nil {
		return m.holderOf
	}
	m.holderOf = map[string]holder{}
	for i := range m.nodes {
		n := &m.nodes[i]
		if n.decl == nil {
			continue
		}
		for j := range n.decl.Units {
			u := &n.decl.Units[j]
			for _, name := range n.containerNames(u) {
				m.holderOf[n.server+"/"+name] = holder{int32(i), u.Service}
			}
		}
	}
	return m.holderOf
}

// shareAcross lets a resource follow the containers of resources it comes after and shares something of. Where it
// does not come after them it can only be put right later, which is told.
func (m *maker) shareAcross(i int32, g *graph) {
	n := &m.nodes[i]
	if n.decl == nil || n.host == nil {
		return
	}
	for j := range n.decl.Units {
		u := &n.decl.Units[j]
		for _, s := range u.Shares {
			if s.Container == "" {
				continue
			}
			h, ok := m.holders()[n.server+"/"+s.Container]
			if !ok || h.node == i {
				continue
			}
			with := &m.nodes[h.node]
			if !g.comesAfter(i, h.node) {
				m.say(schema.SeverityWarning, n.res.Pos, `write after = ["`+string(with.id)+`"]`,
					"%s: %s%scontainer %s of %s and does not come after it: when that is replaced, this is put right only by the next look for drift",
					n.id, n.label(u.Service), s.words(), s.Container, with.id)
				continue
			}
			m.followHolder(n, u, s, with, h.service)
		}
	}
}

// followHolder puts into n's step what the step of another resource means for a unit that shares something of it.
func (m *maker) followHolder(n *node, u *Unit, s Share, with *node, service string) {
	switch n.step.Action {
	case None, Adopt, Update, Recreate, Restart:
	default:
		return
	}
	if n.idle || !n.live || !with.step.Action.Changes() || m.only != nil && !m.only[with.id] {
		return
	}
	stood := func(service string) []*Container {
		return slices.DeleteFunc(slices.Concat(n.owned, n.free), func(c *Container) bool { return m.unitName(n, c) != service })
	}
	doing := func(n *node, service string) Action {
		if k := slices.IndexFunc(n.step.Services, func(t ServiceStep) bool { return t.Name == service }); k >= 0 {
			return n.step.Services[k].Action
		}
		return None
	}
	done := doing(with, service)
	want := s.follows(done)
	if rank(want) <= rank(doing(n, u.Service)) || completed(stood(u.Service)) {
		return
	}
	if n.step.Action == None || n.step.Action == Adopt { // it has no change of its own
		n.driftOnly, n.cascaded = with.driftOnly, true
		n.step.Causes = slices.DeleteFunc(n.step.Causes, func(c Cause) bool { return c.Kind == Adopted })
	}
	kind := CameAfter
	if with.driftOnly {
		kind = Shares
	}
	verdicts := make([]verdict, len(n.decl.Units))
	for k := range n.decl.Units {
		verdicts[k] = verdict{action: doing(n, n.decl.Units[k].Service), drift: n.driftOnly}
		if &n.decl.Units[k] == u {
			verdicts[k].need(want, with.driftOnly, kind, n.label(u.Service)+s.words()+"container "+s.Container+" of "+string(with.id)+", which is "+does(done))
		}
	}
	n.follow(verdicts, stood)
	services := slices.DeleteFunc(n.step.Services, func(t ServiceStep) bool { return t.Action != Remove })
	gone := len(services)
	for k, v := range verdicts {
		if v.action != None {
			services = append(services, ServiceStep{Name: n.decl.Units[k].Service, Action: v.action})
		}
		for _, c := range v.causes {
			n.because(c.Kind, "%s", c.Detail)
		}
	}
	slices.SortFunc(services, func(a, b ServiceStep) int { return cmp.Compare(a.Name, b.Name) })
	n.step.Services = services
	n.step.Action = n.overall(len(services)-gone, gone)
	m.guard(n)
	n.stuck = n.stuck && !n.cascaded
}

// comesAfter reports whether a waits for b, be it by way of others.
func (g *graph) comesAfter(a, b int32) bool {
	if slices.Contains(g.deps[a], b) {
		return true
	}
	seen := map[int32]bool{a: true}
	for open := []int32{a}; len(open) > 0; {
		next := open[len(open)-1]
		open = open[:len(open)-1]
		for _, p := range g.deps[next] {
			if p == b {
				return true
			}
			if !seen[p] {
				seen[p] = true
				open = append(open, p)
			}
		}
	}
	return false
}

package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/varanhq/varan/schema"
)

// orphans makes a node of every resource whose objects stand on a server and that nobody declares. Without
// every sync read, nothing is an orphan.
func (m *maker) orphans() {
	if !m.d.Rules.Complete && len(m.only) == 0 {
		return
	}
	for _, server := range slices.Sorted(maps.Keys(m.hosts)) {
		h := m.hosts[server]
		if h.Unreachable != "" {
			continue
		}
		for _, id := range m.orphansOn(h) {
			m.orphan(h, server, id)
		}
	}
}

// moved makes a node of what declared resources left behind on other servers than their own. It goes, as an orphan
// would, once the resource is healthy where it is declared to be.
func (m *maker) moved() {
	for _, server := range slices.Sorted(maps.Keys(m.hosts)) {
		h := m.hosts[server]
		if h.Unreachable != "" {
			continue
		}
		left := map[schema.ID]bool{}
		for id := range h.byResource {
			left[id] = true
		}
		for id, e := range h.Ledger {
			if e != nil && e.Adopted {
				left[id] = true
			}
		}
		for _, id := range slices.Sorted(maps.Keys(left)) {
			i, declared := m.index[id]
			if !declared || !isDeployed(id.Kind()) || m.only != nil && !m.only[id] {
				continue
			}
			if n := &m.nodes[i]; n.server != server && n.host != nil && !n.res.Template && !n.res.Unplaced {
				m.leftBehind(h, server, id, n.server)
			}
		}
	}
}

// leftBehind makes the step of what stands on server of a resource that is declared to be on another one.
func (m *maker) leftBehind(h *host, server string, id schema.ID, to string) {
	n := m.orphanNode(h, server, id)
	n.of, n.id = id, id+schema.ID("@"+server)
	n.step.Resource, n.step.Of = n.id, id
	if len(n.owned) == 0 || !m.ours(n.owned[0].Sync) {
		return
	}
	switch {
	case h.Engine != "" && m.hosts[to].Engine == h.Engine:
		m.say(schema.SeverityWarning, m.nodes[m.index[id]].res.Pos, "give one machine one agent", "servers %s and %s are one Docker engine, each with an agent of its own", min(server, to), max(server, to))
		return
	case !m.deletes(&n):
		n.because(Moved, "it is on %s now; delete = false leaves it running here", to)
		m.say(schema.SeverityWarning, m.nodes[m.index[id]].res.Pos, "set delete = true, or remove it there by hand",
			"%s is on %s now; what stands on %s is left running: delete is not true", id, to, server)
	case n.entry == nil:
		n.because(Moved, "it is on %s now; without a ledger entry it is not removed by itself", to)
		m.say(schema.SeverityWarning, m.nodes[m.index[id]].res.Pos, "remove it there by hand",
			"%s is on %s now; what stands on %s is left running: its ledger entry is lost", id, to, server)
	default:
		n.become(Remove, Moved, "it is on %s now", to)
		n.removeAll()
	}
	m.nodes = append(m.nodes, n)
}

// moves reports whether the node is what a declared resource left behind.
func (m *maker) moves(n *node) bool {
	_, declared := m.index[n.of]
	return declared
}

// keepBehind leaves what stands on the former server while the resource cannot come to be on its own.
func (m *maker) keepBehind(n *node) {
	to := &m.nodes[m.index[n.of]]
	switch to.step.Action {
	case Create, Update, Recreate, Restart, Adopt, Stop:
		return
	case None:
		if to.live {
			return
		}
	}
	if n.step.Action == Remove {
		n.step.Services = nil
		n.step.Action = None
		n.because(WaitsFor, "kept until %s is on %s", n.of, to.server)
	}
}

// orphansOn lists the resources of our fleet on a host that nobody declares, sorted.
func (m *maker) orphansOn(h *host) []schema.ID {
	seen := map[schema.ID]bool{}
	consider := func(id schema.ID, sync string) {
		if _, declared := m.index[id]; declared || m.d.Rules.Elsewhere[id] || m.claimed[id] || seen[id] {
			return
		}
		if m.only == nil && !m.ours(sync) {
			return
		}
		if m.only != nil && !m.only[id] && !m.d.Rules.Complete {
			return
		}
		seen[id] = true
	}
	for id, list := range h.byResource {
		consider(id, list[0].Sync)
	}
	for id := range h.Ledger {
		if e := h.entryOf(id, m.d.Fleet); e != nil && e.Adopted && len(m.adoptedContainers(h, e)) > 0 {
			consider(id, e.Sync)
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// ours reports whether this sync answers for an object's sync: its own, and for the root one also those of
// syncs that are gone.
func (m *maker) ours(sync string) bool {
	if sync == "" || sync == m.d.Sync {
		return true
	}
	if _, read := m.d.Rules.Further[sync]; read {
		return true
	}
	_, declared := m.index[schema.NewID(schema.KindResourceSync, sync)]
	return m.d.Sync == "main" && !declared
}

// adoptedContainers are those an entry took over without labelling them.
func (m *maker) adoptedContainers(h *host, e *Entry) []*Container {
	var out []*Container
	if e.Project != "" {
		for _, c := range h.byProject[e.Project] {
			if c.Fleet == "" && c.Resource == "" && e.took(c) && adoptedUnit(e, c.Service) != nil {
				out = append(out, c)
			}
		}
		return out
	}
	for i := range e.Units {
		name := cmp.Or(e.Units[i].Container, e.Units[i].Service)
		if c := h.byName[name]; c != nil && c.Fleet == "" && c.Resource == "" && c.Project == "" && e.took(c) {
			out = append(out, c)
		}
	}
	return out
}

// deletes reports whether the sync that an orphan came from removes what it no longer declares. The root answers for
// syncs that are gone.
func (m *maker) deletes(n *node) bool {
	sync := ""
	switch {
	case len(n.owned) > 0 && n.owned[0].Sync != "":
		sync = n.owned[0].Sync
	case n.entry != nil:
		sync = n.entry.Sync
	}
	if del, ok := m.d.Rules.Further[sync]; ok {
		return del
	}
	return m.d.Rules.Delete
}

// orphanNode begins the node of what stands on a server and is not declared to be there.
func (m *maker) orphanNode(h *host, server string, id schema.ID) node {
	n := node{id: id, server: server, host: h, live: true, idle: true}
	n.entry = h.entryOf(id, m.d.Fleet)
	n.owned = h.byResource[id]
	if n.entry != nil && n.entry.Adopted {
		n.owned = slices.Concat(n.owned, m.adoptedContainers(h, n.entry))
	}
	n.step = Step{Resource: id, Server: server, Action: None}
	return n
}

// removeAll lists what a removal takes away.
func (n *node) removeAll() {
	for _, c := range n.owned {
		n.service(cmp.Or(c.Service, c.Name), Remove)
	}
	slices.SortFunc(n.step.Services, func(a, b ServiceStep) int { return cmp.Compare(a.Name, b.Name) })
	n.step.Digest = ResourceDigest(n.unitsBefore())
}

func (m *maker) orphan(h *host, server string, id schema.ID) {
	n := m.orphanNode(h, server, id)
	if slices.ContainsFunc(m.nodes[len(m.resources):], func(o node) bool { return o.id == id }) { // on a server before
		n.of, n.id = id, id+schema.ID("@"+server)
		n.step.Resource, n.step.Of = n.id, id
	}
	switch {
	case m.only[id]:
		n.become(Remove, Orphaned, "no file declares it; removal was asked for by name")
	case m.renames[id] != "":
		n.because(Orphaned, "no file declares it, and %s uses its names", m.renames[id])
	case !m.deletes(&n):
		n.because(Orphaned, "no file declares it; delete = false leaves it running")
		m.tellOrphan(&n, "delete is not true")
	case n.entry == nil:
		n.because(Orphaned, "no file declares it; without a ledger entry it is not removed by itself")
		m.tellOrphan(&n, "its ledger entry is lost")
	default:
		n.become(Remove, Orphaned, "no file declares it any more")
	}
	if n.step.Action == Remove {
		n.removeAll()
	}
	m.nodes = append(m.nodes, n)
}

func (n *node) unitsBefore() []Unit {
	if n.entry == nil {
		return nil
	}
	return n.entry.Units
}

func (m *maker) tellOrphan(n *node, why string) {
	m.say(schema.SeverityWarning, schema.Pos{}, "varan remove "+string(n.id),
		"%s on %s is declared by no file and is left running: %s", n.id, n.server, why)
}

// capRemovals asks before a plan removes more than anybody is likely to have meant.
func (m *maker) capRemovals() {
	var removed []*node
	for i := range m.nodes {
		if n := &m.nodes[i]; n.res == nil && n.step.Action == Remove && !m.only[cmp.Or(n.of, n.id)] && !m.moves(n) {
			removed = append(removed, n)
		}
	}
	if len(removed) == 0 || m.d.Rules.AllowRemovals >= len(removed) {
		return
	}
	kinds, servers := map[string]int{}, map[string]int{} // how many are declared
	stay := 0
	for i := range m.nodes {
		n := &m.nodes[i]
		if n.step.Action != Remove && len(n.owned) > 0 {
			stay++
		}
		if n.res != nil && isDeployed(n.res.Kind) {
			kinds[string(n.id.Kind())]++
			servers[n.server]++
		}
	}
	total := stay + len(removed)
	limit := m.d.Rules.MaxRemovals
	if limit <= 0 {
		limit = max(1, total/4)
	}
	declared := false
	for _, r := range m.resources {
		declared = declared || isDeployed(r.Kind)
	}
	switch {
	case !declared:
		m.ask("nothing is declared any more, and %s would be removed", count(len(removed)))
		return
	case len(removed) > limit:
		m.ask("%s would be removed, more than max_removals allows (%d)", count(len(removed)), limit)
	case stay == 0:
		m.ask("everything that runs would be removed (%s)", count(len(removed)))
	}
	goneKinds, goneServers := map[string]bool{}, map[string]bool{}
	for _, n := range removed {
		if kinds[string(n.id.Kind())] == 0 {
			goneKinds[string(n.id.Kind())] = true
		}
		if servers[n.server] == 0 {
			goneServers[n.server] = true
		}
	}
	if len(goneKinds) > 0 {
		m.ask("no %s would be left", strings.Join(slices.Sorted(maps.Keys(goneKinds)), " and no "))
	}
	if len(goneServers) > 0 {
		m.ask("nothing would be left on %s", strings.Join(slices.Sorted(maps.Keys(goneServers)), " and "))
	}
}

func (m *maker) ask(format string, args ...any) {
	m.asks = append(m.asks, fmt.Sprintf(format, args...))
}

func count(n int) string {
	if n == 1 {
		return "1 resource"
	}
	return itoa(n) + " resources"
}

package plan

import (
	"slices"

	"github.com/varanhq/varan/schema"
)

// A Query asks one server for Facts about one resource: only what Make cannot tell from the list of
// containers and the ledger.
type Query struct {
	Server   string
	Resource schema.ID
	// Compare names the services whose running containers carry no label of ours.
	Compare []string
	// HostFiles and Secrets are what the resource uses: did they change since it was applied?
	HostFiles []string
	Secrets   []string
	// Files asks whether the files laid for it still are as laid; the ledger has their hashes.
	Files bool
	// Binds asks which of the declared bind sources are absent.
	Binds bool
	// Refusals asks what agent.toml would refuse of it: containers are about to be made.
	Refusals bool
	// Declare asks what a stack declares whose files lie on the server.
	Declare bool
}

// Queries tells what the observer must ask before Make can decide, by server and resource in a fixed order.
// st is the State without Facts. A resource that is as declared needs a query only for what a list of
// containers cannot show: its secrets, host files and laid files.
func Queries(d *Desired, st *State) []Query {
	m := newMaker(d, st, nil)
	m.declare()
	var out []Query
	for i := range m.nodes {
		n := &m.nodes[i]
		if n.host == nil || n.decl == nil || m.only != nil && !m.only[n.id] {
			continue
		}
		m.decide(n)
		if q := m.query(n); q.asks() {
			out = append(out, q)
		}
	}
	return out
}

func (q Query) asks() bool {
	return len(q.Compare)+len(q.HostFiles)+len(q.Secrets) > 0 || q.Files || q.Binds || q.Refusals || q.Declare
}

func (m *maker) query(n *node) Query {
	q := Query{Server: n.server, Resource: n.id}
	if n.decl.OnHost && n.host.Unreachable == "" && !n.res.Template && !n.res.Unplaced {
		q.Declare = true
		if n.decl.Unread != "" { // which services it has is not known yet: whatever stands under its name is compared
			for _, c := range n.free {
				q.Compare = append(q.Compare, m.unitName(n, c))
			}
			q.Compare = unique(q.Compare)
			return q
		}
	}
	if n.idle || n.step.Action == Blocked || n.step.Action == Unknown && len(n.free) == 0 {
		return q
	}
	for i := range n.decl.Units {
		u := &n.decl.Units[i]
		has := func(list []*Container) bool {
			return slices.ContainsFunc(list, func(c *Container) bool { return m.unitName(n, c) == u.Service })
		}
		switch {
		case has(n.owned):
			q.HostFiles = append(q.HostFiles, u.HostFiles...)
			q.Secrets = append(q.Secrets, u.Secrets...)
			q.Files = q.Files || len(u.Files) > 0 && n.entry != nil
		case has(n.free):
			q.Compare = append(q.Compare, u.Service)
		}
		makes := n.touches(u.Service) || len(q.Compare) > 0
		q.Refusals = q.Refusals || makes
		q.Binds = q.Binds || makes && slices.ContainsFunc(n.decl.Binds, func(b Bind) bool { return b.Service == u.Service })
	}
	q.HostFiles, q.Secrets = unique(q.HostFiles), unique(q.Secrets)
	return q
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

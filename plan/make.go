package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/varanhq/varan/schema"
)

// planVersion is the version of the published shape.
const planVersion = 1

// Make decides what must change so that the servers are as d declares. It is pure: equal inputs give equal
// bytes. previous is the Config applied before, used only to name old values when the ledger is lost; it
// may be nil.
func Make(d *Desired, st *State, previous *schema.Config) *Plan {
	m := newMaker(d, st, previous)
	m.declare()
	m.checkNames()
	for i := range m.nodes {
		m.decide(&m.nodes[i])
	}
	m.holdRest()
	m.checkPorts()
	m.orphans()
	m.moved()
	g := m.link()
	for _, i := range g.order {
		m.propagate(i, g)
	}
	m.capRemovals()
	return m.finish(g)
}

// A node is one resource while its step is made.
type node struct {
	id     schema.ID
	of     schema.ID        // whose leftovers it is about, where id has "@server"; "" = its own
	res    *schema.Resource // nil for an orphan
	decl   *Declared
	server string
	host   *host // nil when the server is not in the State
	entry  *Entry
	wasID  schema.ID // the former name it takes over from; "" = none
	owned  []*Container
	free   []*Container // of nobody, under a name the resource would use
	step   Step

	stuck     bool   // it would change, but cannot now: what needs the change cannot either
	driftOnly bool   // what changes only puts drift right
	cascaded  bool   // restarts only because of what it comes after
	idle      bool   // no gate: deploy = false, stopped, disabled
	live      bool   // something of it stands on its server
	clash     string // a name another declared resource has too
}

// A host is one server's State, indexed once.
type host struct {
	*ServerState
	byResource map[schema.ID][]*Container // of our fleet
	byProject  map[string][]*Container
	byName     map[string]*Container
}

type maker struct {
	d        *Desired
	st       *State
	previous *schema.Config

	resources []*schema.Resource // sorted by ID
	index     map[schema.ID]int32
	nodes     []node // the resources, then the orphans
	hosts     map[string]*host
	only      map[schema.ID]bool
	usedRepos map[schema.ID]bool
	renames   map[schema.ID]schema.ID // an orphan → the new resource that uses its names
	claimed   map[schema.ID]bool      // former names that a resource's was takes over
	portTaken map[schema.ID]string    // resources blocked by a port, with the words
	holderOf  map[string]holder       // see holders
	updates   []int32                 // servers whose agents are updated, by name
	diags     []schema.Diagnostic
	asks      []string
}

func newMaker(d *Desired, st *State, previous *schema.Config) *maker {
	m := &maker{
		d: d, st: st, previous: previous,
		hosts:   make(map[string]*host, len(st.Servers)),
		renames: map[schema.ID]schema.ID{}, claimed: map[schema.ID]bool{},
		usedRepos: map[schema.ID]bool{},
	}
	if d.Config != nil {
		m.resources = d.Config.Resources
	}
	byID := func(a, b *schema.Resource) int { return cmp.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(m.resources, byID) {
		m.resources = slices.Clone(m.resources)
		slices.SortFunc(m.resources, byID)
	}
	if len(d.Rules.Only) > 0 {
		m.only = make(map[schema.ID]bool, len(d.Rules.Only))
		for _, id := range d.Rules.Only {
			m.only[id] = true
		}
	}
	for name, s := range st.Servers {
		if s != nil {
			m.hosts[name] = newHost(s, d.Fleet)
		}
	}
	return m
}

func newHost(s *ServerState, fleet string) *host {
	h := &host{
		ServerState: s,
		byResource:  make(map[schema.ID][]*Container, len(s.Containers)),
		byProject:   map[string][]*Container{},
		byName:      make(map[string]*Container, len(s.Containers)),
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		if c.Leftover != "" {
			continue // varan's own half-done work; the agent clears it up
		}
		h.byName[c.Name] = c
		if c.OneOff {
			continue
		}
		if c.Resource != "" && c.Fleet == fleet {
			h.byResource[c.Resource] = append(h.byResource[c.Resource], c)
		}
		if c.Project != "" {
			h.byProject[c.Project] = append(h.byProject[c.Project], c)
		}
	}
	// The order of the State's list must not show.
	byName := func(a, b *Container) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) }
	for _, list := range h.byResource {
		slices.SortFunc(list, byName)
	}
	for _, list := range h.byProject {
		slices.SortFunc(list, byName)
	}
	return h
}

// entryOf is the ledger entry of a resource, if it is our fleet's.
func (h *host) entryOf(id schema.ID, fleet string) *Entry {
	if e := h.Ledger[id]; e != nil && (e.Fleet == fleet || e.Fleet == "") {
		return e
	}
	return nil
}

// declare makes a node of every declared resource.
func (m *maker) declare() {
	m.nodes = make([]node, len(m.resources))
	m.index = make(map[schema.ID]int32, len(m.resources))
	for i, r := range m.resources {
		m.index[r.ID] = int32(i)
		if s := r.Stack(); s != nil && s.LinkedRepo != "" {
			m.usedRepos[schema.NewID(schema.KindRepo, s.LinkedRepo)] = true
		}
	}
	for i, r := range m.resources {
		n := &m.nodes[i]
		n.id, n.res = r.ID, r
		n.step = Step{Resource: r.ID, Action: None, Source: Source{File: r.Pos.File, Line: r.Pos.Line}}
		n.idle = true
		if r.Kind != schema.KindStack && r.Kind != schema.KindDeployment {
			continue
		}
		n.idle = false
		n.server = cmp.Or(r.Server, m.d.Local)
		n.step.Server = n.server
		n.host = m.hosts[n.server]
		n.decl = onServer(m.d.Declared[r.ID], n.host)
		if r.Was != "" {
			was := schema.NewID(r.Kind, r.Was)
			if _, declared := m.index[was]; !declared && was != r.ID {
				n.wasID = was
				m.claimed[was] = true
			}
		}
	}
}

// onServer is d, or for a stack whose files lie on its server what that server says they declare.
func onServer(d *Declared, h *host) *Declared {
	if d == nil || !d.OnHost || h == nil || h.Facts[d.Resource] == nil || d.Blocked != "" {
		return d
	}
	f := h.Facts[d.Resource]
	if f.Declared == nil {
		out := *d
		out.Unread = cmp.Or(f.Problem, d.Unread)
		return &out
	}
	out := *f.Declared
	out.Resource, out.Project, out.OnHost = d.Resource, d.Project, true
	out.Missing, out.Hooks = d.Missing, d.Hooks
	out.Diagnostics = slices.Concat(d.Diagnostics, f.Declared.Diagnostics)
	return &out
}

// say adds a diagnostic.
func (m *maker) say(sev schema.Severity, pos schema.Pos, hint, format string, args ...any) {
	m.diags = append(m.diags, schema.Diagnostic{Severity: sev, Pos: pos, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// warn says what a reader must see before all else.
func (m *maker) warn(risk schema.Risk, pos schema.Pos, format string, args ...any) {
	m.say(schema.SeverityWarning, pos, "", format, args...)
	m.diags[len(m.diags)-1].Risk = risk
}

// because adds a cause once.
func (n *node) because(kind CauseKind, format string, args ...any) {
	c := Cause{Kind: kind, Detail: fmt.Sprintf(format, args...)}
	if !slices.Contains(n.step.Causes, c) {
		n.step.Causes = append(n.step.Causes, c)
	}
}

// become sets the action and its first cause.
func (n *node) become(a Action, kind CauseKind, format string, args ...any) {
	n.step.Action = a
	n.because(kind, format, args...)
}

// stop turns a step that would change into one that does not. What needs the change is stuck too.
func (n *node) stop(a Action, kind CauseKind, format string, args ...any) {
	n.step.Causes = append([]Cause{{Kind: kind, Detail: fmt.Sprintf(format, args...)}}, n.step.Causes...)
	n.step.Action = a
	n.stuck = true
}

// finish puts the steps in order and seals the plan.
func (m *maker) finish(g *graph) *Plan {
	p := &Plan{Version: planVersion, Commit: m.d.Commit, Summary: make(Summary, 16), Asks: m.asks}
	for _, a := range Actions() {
		p.Summary[a] = 0
	}
	p.Steps = make([]Step, 0, len(m.nodes))
	for _, i := range g.printOrder() {
		n := &m.nodes[i]
		if m.only != nil && !m.only[n.id] && !m.only[n.of] {
			continue
		}
		n.step.Wave = int(g.wave[i])
		n.step.Declared = n.decl
		n.step.Gate = !n.idle && n.live && (n.step.Action == None || n.step.Action == Adopt)
		p.Summary[n.step.Action]++
		p.Steps = append(p.Steps, n.step)
	}
	p.Diagnostics = sortDiagnostics(m.diags)
	// Sealing fails only on values no Spec can hold: they were read from JSON.
	if err := p.seal(); err != nil {
		p.Diagnostics = append(p.Diagnostics, schema.Diagnostic{Severity: schema.SeverityError, Message: err.Error()})
	}
	return p
}

func sortDiagnostics(diags []schema.Diagnostic) []schema.Diagnostic {
	slices.SortStableFunc(diags, func(a, b schema.Diagnostic) int {
		return cmp.Or(a.Pos.Compare(b.Pos), cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Message, b.Message), cmp.Compare(a.Hint, b.Hint))
	})
	return slices.CompactFunc(diags, func(a, b schema.Diagnostic) bool {
		return a.Pos == b.Pos && a.Severity == b.Severity && a.Message == b.Message
	})
}

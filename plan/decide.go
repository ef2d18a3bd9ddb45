package plan

import (
	"cmp"
	"slices"
	"strings"

	"github.com/varanhq/varan/schema"
)

// decide makes the step of one declared resource, as if it were alone.
func (m *maker) decide(n *node) {
	if n.res.Kind != schema.KindStack && n.res.Kind != schema.KindDeployment {
		m.decideOther(n)
		return
	}
	if n.decl != nil {
		m.diags = append(m.diags, n.decl.Diagnostics...)
		n.step.Digest = ResourceDigest(n.decl.Units)
	}
	if !m.reach(n) {
		return
	}
	m.own(n)
	if m.letGo(n) || m.notAsked(n) || m.unable(n) {
		return
	}
	if n.res.Ensure == schema.EnsureStopped {
		m.keepStopped(n)
		return
	}
	m.compare(n)
	m.guard(n)
}

// guard refuses what the step would do to things that are not its own, or that cannot be undone.
func (m *maker) guard(n *node) {
	if !n.step.Action.Changes() {
		return
	}
	m.guardNames(n)
	m.guardVolumes(n)
	m.guardProject(n)
	m.guardBinds(n)
	m.guardRefusals(n)
	m.warnPrivileges(n)
}

// decideOther is the step of the kinds that this version only knows.
func (m *maker) decideOther(n *node) {
	switch n.res.Kind {
	case schema.KindServer:
		m.decideServer(n)
		return
	case schema.KindResourceSync:
		return
	case schema.KindRepo:
		if m.usedRepos[n.id] {
			return
		}
	}
	if n.res.Template {
		return
	}
	n.because(NotCarriedOut, "%s is not carried out by this version", n.res.Kind)
	m.diags = append(m.diags, schema.Diagnostic{
		Severity: schema.SeverityWarning, Pos: n.res.Pos, Unhandled: true,
		Message: string(n.id) + ": " + string(n.res.Kind) + " is not carried out by this version",
	})
	// What comes after one needs an outcome that does not come.
	n.stuck = n.res.Kind == schema.KindProcedure || n.res.Kind == schema.KindBuild
}

// reach says whether the resource's server can be looked at and changed.
func (m *maker) reach(n *node) bool {
	if n.res.Template {
		n.idle = true
		n.because(NotAsked, "a template is not deployed")
		return false
	}
	if n.res.Unplaced {
		n.idle = true
		n.because(Elsewhere, "no server is given, and the files declare others than this machine")
		return false
	}
	if m.disabled(n.server) {
		n.idle = true
		n.because(ServerDisabled, "server %s is disabled", n.server)
		return false
	}
	if n.host == nil {
		n.stop(Unknown, Elsewhere, "server %s is not this machine", n.server)
		return false
	}
	if n.host.Unreachable != "" {
		n.stop(Unknown, Unreachable, "server %s: %s", n.server, n.host.Unreachable)
		return false
	}
	if n.busy() {
		n.stop(Unknown, UnderWay, "what an earlier run began is still under way on %s; it is looked at again when that is over", n.server)
		return false
	}
	return true
}

// busy reports whether an op is under way on the resource.
func (n *node) busy() bool {
	return len(n.host.Busy) > 0 && (slices.Contains(n.host.Busy, cmp.Or(n.of, n.id)) || n.wasID != "" && slices.Contains(n.host.Busy, n.wasID))
}

// own finds what of the resource stands on its server: its labelled objects, those its ledger entry
// adopted, and those of nobody under its names.
func (m *maker) own(n *node) {
	h := n.host
	n.entry = h.entryOf(n.id, m.d.Fleet)
	n.owned = h.byResource[n.id]
	if n.wasID == "" && n.entry != nil && n.entry.Resource == n.id && n.entry.Was != "" && n.entry.Was != n.id {
		// The rename need not be repeated in Git for good.
		if _, declared := m.index[n.entry.Was]; !declared && !m.claimed[n.entry.Was] && h.Ledger[n.entry.Was] == nil {
			n.wasID = n.entry.Was
			m.claimed[n.wasID] = true
		}
	}
	if n.wasID != "" {
		if n.entry == nil {
			n.entry = h.entryOf(n.wasID, m.d.Fleet)
		}
		n.owned = slices.Concat(n.owned, h.byResource[n.wasID])
	}
	same := m.sameNames(n)
	strange := map[string]bool{} // services with a container that came after the adoption
	for _, c := range same {
		if c.Fleet == "" && c.Resource == "" && n.entry != nil && !n.entry.took(c) {
			strange[m.unitName(n, c)] = true
		}
	}
	for _, c := range same {
		mine := c.Resource == n.id || c.Resource == n.wasID && n.wasID != ""
		switch {
		case c.Fleet == m.d.Fleet && mine:
		case c.Fleet == m.d.Fleet && m.adoptedBy(n, c):
			n.owned = append(n.owned, c) // renamed earlier; its label still has the former name
			m.claimed[c.Resource] = true
		case c.Fleet == "" && c.Resource == "" && n.entry != nil && !strange[m.unitName(n, c)] && adoptedUnit(n.entry, m.unitName(n, c)) != nil:
			n.owned = append(n.owned, c)
		case c.Fleet == "" && c.Resource == "":
			n.free = append(n.free, c)
		}
	}
	n.live = len(n.owned) > 0 || len(n.free) > 0
}

// adoptedBy reports whether a container labelled for a resource that nobody declares any more was taken
// over by n, as the ledger says.
func (m *maker) adoptedBy(n *node, c *Container) bool {
	if n.entry == nil || !n.entry.Adopted || n.entry.Resource != n.id {
		return false
	}
	_, declared := m.index[c.Resource]
	return !declared && n.host.Ledger[c.Resource] == nil && c.Resource.Kind() == n.id.Kind()
}

// took reports whether the entry tells of an adoption of this container.
func (e *Entry) took(c *Container) bool {
	return e.Adopted && (len(e.Containers) == 0 || slices.Contains(e.Containers, c.ID))
}

func adoptedUnit(e *Entry, service string) *Unit {
	for i := range e.Units {
		if e.Units[i].Service == service {
			return &e.Units[i]
		}
	}
	return nil
}

// sameNames are the containers under the compose project, or the container name, that n would use.
func (m *maker) sameNames(n *node) []*Container {
	if n.res.Kind == schema.KindStack {
		if p := n.project(); p != "" {
			return n.host.byProject[p]
		}
		return nil
	}
	if c := n.host.byName[n.containerName()]; c != nil && c.Project == "" && !c.OneOff {
		return []*Container{c}
	}
	return nil
}

func (n *node) project() string {
	if n.decl != nil && n.decl.Project != "" {
		return n.decl.Project
	}
	if s := n.res.Stack(); s != nil && s.ProjectName != "" {
		return s.ProjectName
	}
	return n.res.Name
}

func (n *node) containerName() string {
	if n.decl != nil && len(n.decl.Units) == 1 && n.decl.Units[0].Container != "" {
		return n.decl.Units[0].Container
	}
	if d := n.res.Deployment(); d != nil && d.CustomName != "" {
		return d.CustomName
	}
	return n.res.Name
}

// unitName is the service a container counts for: a deployment has one unit whatever its label says.
func (m *maker) unitName(n *node, c *Container) string {
	if n.res.Kind == schema.KindDeployment {
		return n.res.Name
	}
	return c.Service
}

// letGo handles release = true.
func (m *maker) letGo(n *node) bool {
	if !n.res.Release {
		return false
	}
	n.idle = true
	if n.entry != nil {
		n.become(ReleaseObjects, Released, "release = true: its containers are left running and no longer looked after")
		return true
	}
	n.because(Released, "release = true: not looked after")
	return true
}

// notAsked handles deploy = false, and follow where nothing runs.
func (m *maker) notAsked(n *node) bool {
	if m.only[n.id] {
		return false
	}
	switch n.res.Deploy {
	case schema.DeployFalse:
		n.idle = true
		detail := "deploy = false"
		if m.differs(n) {
			detail += "; what runs differs from what is declared"
		}
		n.because(NotAsked, "%s", detail)
		return true
	case schema.DeployFollow:
		for _, c := range slices.Concat(n.owned, n.free) {
			if c.Status == "running" || c.Status == "restarting" || c.Status == "paused" || c.Completed {
				return false
			}
		}
		n.idle = true
		n.because(NotAsked, "not running")
		return true
	}
	return false
}

// differs reports whether a labelled container has another digest than declared.
func (m *maker) differs(n *node) bool {
	if n.decl == nil {
		return false
	}
	for i := range n.decl.Units {
		for _, c := range n.owned {
			if m.unitName(n, c) == n.decl.Units[i].Service && n.digestOf(m, c) != n.decl.Units[i].Digest {
				return true
			}
		}
	}
	return false
}

// digestOf is the digest a container was made with: its label's, or for an adopted one the ledger's.
func (n *node) digestOf(m *maker, c *Container) Digest {
	if c.Digest != "" || n.entry == nil {
		return c.Digest
	}
	if u := adoptedUnit(n.entry, m.unitName(n, c)); u != nil {
		return u.Digest
	}
	return ""
}

// unable handles what cannot be planned or must not be carried out.
func (m *maker) unable(n *node) bool {
	d := n.decl
	if d == nil || d.Unread != "" {
		why := "its files are not read here"
		if d != nil {
			why = d.Unread
		}
		n.stop(Unknown, NotRead, "%s", why)
		return true
	}
	for _, diag := range d.Diagnostics {
		if diag.Severity == schema.SeverityError {
			n.stop(Blocked, Invalid, "%s", place(diag.Pos, diag.Message))
			return true
		}
	}
	if len(d.Missing) > 0 {
		names := make([]string, 0, len(d.Missing))
		for _, miss := range d.Missing {
			names = append(names, "[["+miss.Name+"]]")
			pos := miss.Pos
			if pos.File == "" {
				pos = n.res.Pos
			}
			m.say(schema.SeverityError, pos, "declare a [[variable]] of that name, or put it under [secrets] in varan.toml",
				"%s needs [[%s]], which has no value", n.id, miss.Name)
		}
		slices.Sort(names)
		n.stop(Blocked, NoValue, "no value for %s", strings.Join(slices.Compact(names), ", "))
		return true
	}
	if n.clash != "" {
		n.stop(Blocked, Conflict, "%s", n.clash)
		return true
	}
	if d.Blocked != "" {
		kind := NotCarriedOut
		if d.OnHost {
			kind = Invalid
		}
		n.stop(Blocked, kind, "%s", d.Blocked)
		return true
	}
	return false
}

func place(p schema.Pos, text string) string {
	if p.File == "" {
		return text
	}
	return p.File + ":" + itoa(p.Line) + ": " + text
}

// keepStopped handles ensure = "stopped": what runs is stopped, nothing else is done.
func (m *maker) keepStopped(n *node) {
	n.idle = true
	for _, c := range n.owned {
		if c.Status == "running" || c.Status == "restarting" || c.Status == "paused" {
			n.service(m.unitName(n, c), Stop)
		}
	}
	if len(n.step.Services) > 0 {
		slices.SortFunc(n.step.Services, func(a, b ServiceStep) int { return cmp.Compare(a.Name, b.Name) })
		n.become(Stop, EnsureChanged, `ensure = "stopped"`)
		m.guardSelf(n)
		return
	}
	for _, c := range n.free {
		if c.Status == "running" {
			m.say(schema.SeverityWarning, n.res.At("ensure"), "stop it by hand, or let varan adopt it first by leaving ensure out",
				"%s is to be stopped, but container %s was not made by varan and runs", n.id, c.Name)
		}
	}
	n.because(EnsureChanged, `ensure = "stopped"`)
}

// service records what happens to one service, once.
func (n *node) service(name string, a Action) {
	for _, s := range n.step.Services {
		if s.Name == name {
			return
		}
	}
	n.step.Services = append(n.step.Services, ServiceStep{Name: name, Action: a})
}

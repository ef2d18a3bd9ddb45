package plan

import (
	"cmp"
	"slices"
	"strings"

	"github.com/varanhq/varan/schema"
)

// A verdict is what one unit needs, and why.
type verdict struct {
	action  Action
	drift   bool // puts right what nobody declared
	causes  []Cause
	changes []Change
}

// rank orders what can happen to one unit: more of it includes the less.
func rank(a Action) int {
	return slices.Index([]Action{"", None, Restart, Recreate, Create}, a)
}

func (v *verdict) need(a Action, drift bool, kind CauseKind, detail string) {
	if v.action == "" || v.action == None {
		v.drift = drift
	} else {
		v.drift = v.drift && drift
	}
	if rank(a) > rank(v.action) {
		v.action = a
	}
	v.causes = append(v.causes, Cause{Kind: kind, Detail: detail})
}

// blame names the host files that changed as the cause of what is otherwise only said to be declared otherwise.
func (v *verdict) blame(files []string) {
	if len(files) == 0 {
		return
	}
	v.causes = slices.DeleteFunc(v.causes, func(c Cause) bool { return c.Kind == SpecChanged || c.Kind == FileChanged })
	for _, f := range files {
		v.causes = append(v.causes, Cause{Kind: HostFileChanged, Detail: "host file " + f + " changed"})
	}
}

// compare decides each unit of a resource that is to run, and puts the step together.
func (m *maker) compare(n *node) {
	facts := n.facts()
	if facts.Problem != "" && len(n.free) == 0 {
		m.say(schema.SeverityWarning, n.res.Pos, "", "%s: changed secrets and files on %s could not be told: %s", n.id, n.server, facts.Problem)
	}
	byService := map[string][]*Container{}
	for _, c := range n.owned {
		name := m.unitName(n, c)
		byService[name] = append(byService[name], c)
	}
	freeOf := map[string][]*Container{}
	for _, c := range n.free {
		name := m.unitName(n, c)
		freeOf[name] = append(freeOf[name], c)
	}
	stood := func(service string) []*Container {
		if have := byService[service]; len(have) > 0 {
			return have
		}
		return freeOf[service]
	}
	var verdicts []verdict
	for i := range n.decl.Units {
		u := &n.decl.Units[i]
		have := byService[u.Service]
		var v verdict
		switch {
		case len(have) > 0:
			v = m.compareOwned(n, u, have, facts)
		case len(freeOf[u.Service]) > 0:
			var ok bool
			if v, ok = m.compareFree(n, u, freeOf[u.Service], facts); !ok {
				return
			}
		default:
			v = m.compareMissing(n, u)
		}
		m.stranded(n, u, stood, &v)
		if m.d.Rules.ReportDrift && v.drift && v.action != None && v.action != "" {
			v.action, v.changes = None, nil
		}
		verdicts = append(verdicts, v)
	}
	n.follow(verdicts, stood)
	adopted, changed, driftOnly := 0, 0, true
	declared := map[string]bool{}
	for i, v := range verdicts {
		u := &n.decl.Units[i]
		declared[u.Service] = true
		if len(byService[u.Service]) == 0 && len(freeOf[u.Service]) > 0 && (v.action == None || v.action == Restart) {
			adopted++
		}
		if v.action != None && v.action != "" {
			changed++
			driftOnly = driftOnly && v.drift
		}
		for _, c := range v.causes {
			n.because(c.Kind, "%s", c.Detail)
		}
		n.step.Changes = append(n.step.Changes, v.changes...)
		if v.action != None && v.action != "" {
			n.step.Services = append(n.step.Services, ServiceStep{Name: u.Service, Action: v.action})
		}
	}
	gone := 0
	for _, c := range n.owned {
		if name := m.unitName(n, c); !declared[name] {
			declared[name] = true
			gone++
			driftOnly = false
			n.step.Services = append(n.step.Services, ServiceStep{Name: name, Action: Remove})
			n.because(SpecChanged, "service %s is no longer declared", name)
		}
	}
	slices.SortFunc(n.step.Services, func(a, b ServiceStep) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(n.step.Changes, func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
	n.driftOnly = changed > 0 && driftOnly && gone == 0
	n.step.Action = n.overall(changed, gone)
	if n.step.Action == None {
		m.takeOver(n, adopted)
	} else if renamed := n.wasID != "" && n.entry != nil && n.entry.Resource == n.wasID; renamed {
		n.because(Renamed, "was %s", n.wasID)
	}
	m.reportLaidFiles(n, facts)
}

// overall is the step's one word for what its services need.
func (n *node) overall(changed, gone int) Action {
	if changed+gone == 0 {
		return None
	}
	count := map[Action]int{}
	for _, s := range n.step.Services {
		count[s.Action]++
	}
	switch {
	case count[Create] == len(n.decl.Units) && gone == 0 && len(n.owned) == 0:
		return Create
	case count[Recreate] == len(n.decl.Units) && gone == 0:
		return Recreate
	case count[Restart] == changed && gone == 0:
		return Restart
	}
	return Update
}

// takeOver turns a step that changes nothing into an adoption where the ledger must learn of it.
func (m *maker) takeOver(n *node, adopted int) {
	byLabel := n.wasID != "" && slices.ContainsFunc(n.owned, func(c *Container) bool { return c.Resource == n.wasID })
	switch {
	case adopted > 0:
		n.step.Action = Adopt
		n.because(Adopted, "runs as declared and is taken over untouched")
	case byLabel && (n.entry == nil || n.entry.Resource != n.id):
		if n.entry == nil {
			// Without a ledger the labels alone say the same; nothing has to be written for it.
			n.because(Renamed, "was %s", n.wasID)
			return
		}
		n.step.Action = Adopt
		n.because(Renamed, "was %s; its containers are kept as they are", n.wasID)
	}
}

func (n *node) facts() *Facts {
	if f := n.host.Facts[n.id]; f != nil {
		return f
	}
	return &Facts{}
}

// compareMissing is a unit of which no container stands.
func (m *maker) compareMissing(n *node, u *Unit) verdict {
	var v verdict
	exists := n.live
	if u.Ignored && exists {
		return verdict{action: None}
	}
	switch before := n.before(u.Service); {
	case before != nil && before.Digest == u.Digest && n.entry.Outcome == "done":
		v.need(Create, true, Drifted, n.label(u.Service)+"is gone")
	case exists:
		v.need(Create, false, SpecChanged, n.label(u.Service)+"is new")
	default:
		v.need(Create, false, NotRunning, "not running")
	}
	if u.Image != "" {
		v.changes = append(v.changes, Change{Path: n.path(u.Service, "image"), New: u.Image})
	}
	return v
}

// before is the unit as the ledger has it.
func (n *node) before(service string) *Unit {
	if n.entry == nil {
		return nil
	}
	if n.res.Kind == schema.KindDeployment && len(n.entry.Units) == 1 {
		return &n.entry.Units[0]
	}
	return adoptedUnit(n.entry, service)
}

// label begins a sentence about one unit: a deployment has only one.
func (n *node) label(service string) string {
	if n.res.Kind == schema.KindDeployment {
		return "its container "
	}
	return "service " + service + " "
}

// path is where a field of a unit stands in the plan.
func (n *node) path(service, field string) string {
	if n.res.Kind == schema.KindDeployment {
		return field
	}
	return "services." + service + "." + field
}

// compareOwned is a unit whose containers are ours.
func (m *maker) compareOwned(n *node, u *Unit, have []*Container, facts *Facts) verdict {
	v := verdict{action: None}
	stale := false
	for _, c := range have {
		stale = stale || n.digestOf(m, c) != u.Digest
	}
	if stale {
		m.explain(n, u, have[0], &v)
		if n.decl.OnHost {
			v.blame(facts.HostFilesChanged)
		}
	}
	if scale := max(u.Scale, 1); len(have) != scale {
		old := n.before(u.Service)
		if old != nil && max(old.Scale, 1) == scale {
			v.need(Recreate, true, Drifted, n.label(u.Service)+"has "+itoa(len(have))+" of "+itoa(scale)+" containers")
		} else {
			v.need(Recreate, false, SpecChanged, "")
			v.causes[len(v.causes)-1].Detail = n.label(u.Service) + "changes from " + itoa(len(have)) + " to " + itoa(scale) + " containers"
			v.changes = append(v.changes, Change{Path: n.path(u.Service, "scale"), Old: len(have), New: scale})
		}
	}
	for _, f := range u.HostFiles {
		if slices.Contains(facts.HostFilesChanged, f) {
			v.need(Recreate, false, HostFileChanged, "host file "+f+" changed")
			v.changes = append(v.changes, Change{Path: "host file " + f, Old: "(set on the host)", New: "(set on the host)"})
		}
	}
	for _, s := range u.Secrets {
		if slices.Contains(facts.SecretsChanged, s) {
			v.need(Recreate, false, SecretChanged, "secret "+s+" changed")
			v.changes = append(v.changes, Change{Path: n.path(u.Service, "secret "+s), Old: "(secret)", New: "(secret)", Secret: true})
		}
	}
	for _, f := range u.Files {
		if slices.Contains(facts.FilesDrifted, f.Path) {
			v.need(Recreate, true, Drifted, "file "+f.Path+" was changed on the host")
		}
	}
	if !u.Ignored {
		m.compareRunning(n, u, have, &v)
	}
	return v
}

// compareRunning looks at what the engine says of containers that are as declared.
func (m *maker) compareRunning(n *node, u *Unit, have []*Container, v *verdict) {
	if v.action == Recreate {
		return
	}
	for _, c := range have {
		what := n.label(u.Service)
		if len(have) > 1 {
			what = "container " + c.Name + " "
		}
		switch c.Status {
		case "running":
			if c.Health == "unhealthy" {
				v.causes = append(v.causes, Cause{Unhealthy, what + "runs as declared but is unhealthy; a restart would not make it another"})
			}
		case "restarting":
			v.causes = append(v.causes, Cause{Unhealthy, what + "is as declared but its engine keeps restarting it"})
		case "paused":
			v.need(Restart, true, Drifted, what+"is paused")
		case "dead", "removing":
			v.need(Recreate, true, Drifted, what+"is "+c.Status)
		case "exited":
			if c.Completed {
				continue
			}
			v.need(Restart, true, Drifted, what+"exited with "+itoa(c.Exit))
		default:
			v.need(Restart, true, Drifted, what+"is "+cmp.Or(c.Status, "not running"))
		}
	}
}

// compareFree is a unit under whose name somebody else's container stands: equal is adopted, anything else
// recreated. It reports false when that could not be told.
func (m *maker) compareFree(n *node, u *Unit, have []*Container, facts *Facts) (verdict, bool) {
	v := verdict{action: None}
	cmpd, ok := facts.Compare[u.Service]
	if !ok {
		why := "what runs under its name could not be compared with it"
		if facts.Problem != "" {
			why += ": " + facts.Problem
		}
		n.step.Services, n.step.Changes = nil, nil
		n.stop(Unknown, NotRead, "%s", why)
		return v, false
	}
	if cmpd.Equal {
		if scale := max(u.Scale, 1); len(have) != scale {
			v.need(Recreate, false, NotAdoptable, n.label(u.Service)+"has "+itoa(len(have))+" of "+itoa(scale)+" containers")
			v.changes = append(v.changes, Change{Path: n.path(u.Service, "scale"), Old: len(have), New: scale})
		} else if !u.Ignored {
			m.compareRunning(n, u, have, &v)
		}
		return v, true
	}
	v.need(Recreate, false, NotAdoptable, n.label(u.Service)+"runs, was not made by varan and differs from what is declared")
	v.changes = append(v.changes, n.observed(u, cmpd.Changes)...)
	return v, true
}

// reportLaidFiles mentions changed files that no unit uses: they are put right with the next change.
func (m *maker) reportLaidFiles(n *node, facts *Facts) {
	used := map[string]bool{}
	for i := range n.decl.Units {
		for _, f := range n.decl.Units[i].Files {
			used[f.Path] = true
		}
	}
	for _, f := range facts.FilesDrifted {
		if !used[f] && !strings.HasPrefix(f, "/") {
			n.because(Drifted, "file %s was changed on the host; no container reads it", f)
		}
	}
}

package plan

import (
	"cmp"
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/varanhq/varan/schema"
)

// touches lists the services whose containers the step replaces or makes.
func (n *node) touches(service string) bool {
	for _, s := range n.step.Services {
		if s.Name == service {
			return s.Action == Create || s.Action == Recreate
		}
	}
	return false
}

// refuse blocks the step with an error at its place.
func (m *maker) refuse(n *node, kind CauseKind, pos schema.Pos, hint, message string) {
	if pos.File == "" {
		pos = n.res.Pos
	}
	m.say(schema.SeverityError, pos, hint, "%s: %s", n.id, message)
	n.stop(Blocked, kind, "%s", message)
}

// guardNames keeps off objects of another fleet, another resource or of nobody that stand under a name the
// step would use.
func (m *maker) guardNames(n *node) {
	if n.res.Kind == schema.KindStack {
		for _, c := range n.host.byProject[n.project()] {
			if m.notOurs(n, c) {
				m.held(n, c, "compose project "+n.project())
				return
			}
		}
	}
	for i := range n.decl.Units {
		u := &n.decl.Units[i]
		if !n.touches(u.Service) {
			continue
		}
		for _, name := range n.containerNames(u) {
			c := n.host.byName[name]
			if c == nil || slices.Contains(n.owned, c) || slices.Contains(n.free, c) {
				continue
			}
			m.held(n, c, "container name "+name)
			return
		}
	}
}

// notOurs reports whether a container carries the label of somebody else.
func (m *maker) notOurs(n *node, c *Container) bool {
	return (c.Fleet != "" || c.Resource != "") && !slices.Contains(n.owned, c)
}

// containerNames are the names the unit's containers will have.
func (n *node) containerNames(u *Unit) []string {
	if n.res.Kind == schema.KindDeployment {
		return []string{n.containerName()}
	}
	if u.Container != "" {
		return []string{u.Container}
	}
	names := make([]string, 0, max(u.Scale, 1))
	for i := range min(max(u.Scale, 1), 100) {
		names = append(names, n.project()+"-"+u.Service+"-"+itoa(i+1))
	}
	return names
}

// held reports a name that somebody else holds, and proposes was where that is a renaming.
func (m *maker) held(n *node, c *Container, name string) {
	holder, hint := "a container that varan did not make", "stop and remove it, or choose another name"
	switch {
	case c.Fleet != "" && c.Fleet != m.d.Fleet:
		holder = "fleet " + c.Fleet
		if c.Resource != "" {
			holder += " (" + string(c.Resource) + ")"
		}
	case c.Resource != "":
		holder = string(c.Resource)
		_, declared := m.index[c.Resource]
		switch {
		case declared || m.d.Rules.Elsewhere[c.Resource]:
			hint = "give one of them another name"
		case c.Resource.Kind() == n.id.Kind():
			hint = `if it was renamed, write was = "` + c.Resource.Name() + `" and its containers are kept`
			m.renames[c.Resource] = n.id
		default:
			hint = "remove it first: varan remove " + string(c.Resource)
			m.renames[c.Resource] = n.id
		}
	case c.Project != "":
		holder = "compose project " + c.Project
		if c.Service != "" {
			holder += ", service " + c.Service
		}
	}
	m.refuse(n, Conflict, n.res.Pos, hint, name+" on "+n.server+" is held by "+holder+" (container "+c.Name+")")
}

// guardVolumes refuses a changed definition of a volume that exists: only its owner may throw data away.
func (m *maker) guardVolumes(n *node) {
	for _, name := range slices.Sorted(maps.Keys(n.decl.Volumes)) {
		def := n.decl.Volumes[name]
		old, exists := n.host.Volumes[name]
		if n.host.Volumes != nil && !exists {
			continue
		}
		if n.entry != nil {
			if e, ok := n.entry.Volumes[name]; ok && e.Digest != "" {
				old = e.Digest
			}
		}
		if old == "" || old == def.Digest {
			continue
		}
		m.refuse(n, Conflict, def.Pos,
			"to keep the data, copy it to a new volume: docker volume create "+name+"-new && docker run --rm -v "+name+":/from:ro -v "+name+
				"-new:/to busybox cp -a /from/. /to/ and name that one; to throw it away: docker volume rm "+name+" after stopping what uses it",
			"volume "+name+" exists on "+n.server+" with another definition, and a volume is never changed or removed by a plan")
		return
	}
}

// guardProject refuses another project name where named volumes hang on it: the new project's would be empty.
func (m *maker) guardProject(n *node) {
	if n.res.Kind != schema.KindStack || len(n.decl.Volumes) == 0 {
		return
	}
	for _, c := range n.owned {
		if c.Project == "" || c.Project == n.project() {
			continue
		}
		text := "its project is " + c.Project + " now and would be " + n.project() + ": its named volumes start empty"
		if !n.applying().AllowMove {
			m.refuse(n, Invalid, n.res.At("config.project_name"), `write project_name = "`+c.Project+`" to keep them, or allow_move = true`, text)
			return
		}
		m.warn(schema.RiskData, n.res.At("config.project_name"), "%s: %s", n.id, text)
		return
	}
}

// guardBinds never lets a bind mount's data disappear silently.
func (m *maker) guardBinds(n *node) {
	facts := n.facts()
	app := n.applying()
	was := map[string]Bind{}
	if n.entry != nil {
		for _, b := range n.entry.Binds {
			was[b.Service+"\x00"+b.Target] = b
		}
	}
	for _, b := range n.decl.Binds {
		if !n.touches(b.Service) {
			continue
		}
		pos := b.Pos
		if pos.File == "" {
			pos = n.res.Pos
		}
		missing := slices.Contains(facts.MissingBinds, b.Source)
		old, had := was[b.Service+"\x00"+b.Target]
		relative := !path.IsAbs(b.Source)
		dir, moved := n.movedFolder(facts, b.Service)
		from := ""
		switch {
		case had && path.Clean(old.Source) != path.Clean(b.Source):
			from = old.Source
		case relative && moved && !b.InGit:
			from = dir + "/" + strings.TrimPrefix(b.Source, "./")
		}
		where := n.label(b.Service) + "mounts " + b.Target
		switch {
		case had && old.InGit && !b.InGit && path.Clean(old.Source) == path.Clean(b.Source) && relative:
			m.refuse(n, Invalid, pos, "bring it back, or take the mount out", where+" from "+b.Source+", which stood in Git when it was applied and is gone")
			return
		case b.NoCreate && missing && !b.InGit:
			m.refuse(n, Invalid, pos, "create it on "+n.server+", or drop create_host_path: false",
				where+" from "+b.Source+", which is not there and is not to be created")
			return
		case from != "" && !b.InGit:
			text := where + " from " + b.Source + " instead of " + from
			if missing || relative {
				text += ": the container will see an empty folder unless the data is moved"
			} else {
				text += ": the container will see other data"
			}
			if !app.AllowMove {
				m.refuse(n, Invalid, pos, "move the data and set allow_move = true, or keep the source", text)
				return
			}
			m.warn(schema.RiskData, pos, "%s: %s", n.id, text)
		case missing && !b.InGit:
			m.say(schema.SeverityWarning, pos, "", "%s: %s from %s, which is neither in Git nor on %s: it is made as an empty folder", n.id, where, b.Source, n.server)
		}
	}
}

// movedFolder reports whether a service would get another project folder than the one it uses: config.directory
// asks for it, or the one in use cannot stand for the repository's, because it does not end as run_directory does.
func (n *node) movedFolder(facts *Facts, service string) (inUse string, moved bool) {
	s := n.res.Stack()
	if s == nil {
		return "", false
	}
	want := path.Clean(cmp.Or(facts.Place, s.Directory))
	if want == "." {
		return "", false
	}
	var known []string
	for _, c := range slices.Concat(n.owned, n.free) {
		if c.WorkDir != "" && c.Service == service {
			known = append(known, c.WorkDir)
		}
	}
	if len(known) == 0 && n.entry != nil && n.entry.Directory != "" {
		known = append(known, n.entry.Directory)
	}
	if facts.Place == "" && facts.Directory != "" {
		known = append(known, facts.Directory)
	}
	if len(known) == 0 {
		return "", false
	}
	for _, dir := range known {
		if dir = path.Clean(dir); dir == want || facts.Place == "" && dir == path.Join(want, n.decl.Directory) {
			return "", false
		}
	}
	return path.Clean(known[0]), true
}

func (n *node) applying() schema.Applying {
	if s := n.res.Stack(); s != nil {
		return s.Applying
	}
	if d := n.res.Deployment(); d != nil {
		return d.Applying
	}
	return schema.Applying{}
}

// guardRefusals shows beforehand what the host's agent.toml will refuse.
func (m *maker) guardRefusals(n *node) {
	if refused := n.facts().Refused; len(refused) > 0 {
		m.refuse(n, Invalid, n.res.Pos, "the host's agent.toml has the last word", strings.Join(refused, "; "))
	}
}

// warnPrivileges says on top of the plan what a container may newly do to its host.
func (m *maker) warnPrivileges(n *node) {
	for _, p := range n.decl.Privileges {
		service := p.Service
		if n.res.Kind == schema.KindDeployment {
			service = n.res.Name
		}
		if service != "" && !n.touches(service) {
			continue
		}
		if old := n.before(service); old != nil && hadPrivilege(old.Spec, p.What) {
			continue
		}
		pos := p.Pos
		if pos.File == "" {
			pos = n.res.Pos
		}
		m.warn(schema.RiskPrivilege, pos, "%s: %sgets %s", n.id, n.label(service), p.What)
	}
}

// hadPrivilege looks for the privilege in a spec as the ledger kept it.
func hadPrivilege(spec json.RawMessage, what string) bool {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(string(spec), w) })
	}
	switch what {
	case "privileged":
		return has(`"privileged":true`, `--privileged`)
	case "host network":
		return has(`"network_mode":"host"`, `"network":"host"`, `--network=host`, `--network host`, `--net=host`, `--net host`)
	case "docker socket", "the Docker socket":
		return has(`docker.sock`)
	case "host pid":
		return has(`"pid":"host"`, `--pid=host`, `--pid host`)
	}
	return has(what)
}

// guardSelf never stops the container varan runs in.
func (m *maker) guardSelf(n *node) {
	self := ""
	if n.host != nil {
		self = n.host.Self
	}
	if self == "" || !n.step.Action.Changes() {
		return
	}
	for _, c := range slices.Concat(n.owned, n.free) {
		if c.ID != self && c.Name != self && !(len(self) >= 12 && strings.HasPrefix(c.ID, self)) {
			continue
		}
		name := c.Service
		if n.res != nil {
			name = m.unitName(n, c)
		}
		touched := n.step.Action == Remove || slices.ContainsFunc(n.step.Services, func(s ServiceStep) bool { return s.Name == name })
		if touched {
			quiet := n.cascaded || n.driftOnly // what comes after does not need it
			n.stop(Held, OwnContainer, "varan runs in container %s and never stops it; replace it from outside", c.Name)
			n.stuck = !quiet
			return
		}
	}
}

// guardHolds keeps hands off what is held. A hold changes nothing about a step that has nothing to do.
func (m *maker) guardHolds(n *node) {
	if n.host == nil || !n.step.Action.Changes() && n.step.Action != Adopt && n.step.Action != None {
		return
	}
	for _, h := range n.holds() {
		if h.Kind == HoldFailed {
			if m.d.Rules.Retry || h.Digest != n.step.Digest {
				continue
			}
		}
		detail := string(h.Kind)
		if h.Resource == "" && h.Kind != HoldPaused {
			detail += ", server " + n.server
		}
		if h.Reason != "" {
			detail += ": " + h.Reason
		}
		if n.step.Action == None {
			if h.Kind == HoldUser || h.Kind == HoldContested {
				n.because(OnHold, "%s", detail)
			}
			continue
		}
		quiet := n.step.Action == Adopt || n.cascaded || n.driftOnly
		n.stop(Held, OnHold, "%s", detail)
		n.stuck = !quiet
		return
	}
}

// holds are those of the resource, its former name and its server, in a fixed order.
func (n *node) holds() []Hold {
	var out []Hold
	id := cmp.Or(n.of, n.id)
	for _, h := range n.host.Holds {
		if h.Resource == "" || h.Resource == id || n.wasID != "" && h.Resource == n.wasID {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b Hold) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Digest, b.Digest))
	})
	return out
}

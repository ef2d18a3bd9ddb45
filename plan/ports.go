package plan

import (
	"github.com/varanhq/varan/schema"
)

// A portKey is one port of one server; addresses are told apart afterwards.
type portKey struct {
	server, protocol string
	port             uint16
}

type portUse struct {
	n    *node
	port Port
}

// checkPorts finds two resources that want the same port, and ports that somebody else's container has.
func (m *maker) checkPorts() {
	m.portTaken = map[schema.ID]string{}
	uses := map[portKey][]portUse{}
	for i := range m.nodes {
		n := &m.nodes[i]
		if n.decl == nil || n.host == nil || n.idle || n.step.Action == Blocked || n.step.Action == Unknown {
			continue
		}
		for _, p := range n.decl.Ports {
			key := portKey{n.server, p.Protocol, p.Host}
			for _, other := range uses[key] {
				if overlap(other.port.HostIP, p.HostIP) {
					m.portClash(n, p, other)
				}
			}
			uses[key] = append(uses[key], portUse{n, p})
		}
	}
	m.foreignPorts(uses)
}

func overlap(a, b string) bool {
	any := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return a == b || any(a) || any(b)
}

func (m *maker) portClash(n *node, p Port, other portUse) {
	pos := p.Pos
	if pos.File == "" {
		pos = n.res.Pos
	}
	at := other.port.Pos
	if at.File == "" {
		at = other.n.res.Pos
	}
	text := "port " + itoa(int(p.Host)) + "/" + p.Protocol + " of " + n.server + " is also published by " + string(other.n.id)
	if other.port.Service != "" && other.n.res.Kind == schema.KindStack {
		text += ", service " + other.port.Service
	}
	m.say(schema.SeverityError, pos, "the other is at "+at.File+":"+itoa(at.Line), "%s: %s", n.id, text)
	if m.portTaken[n.id] == "" {
		m.portTaken[n.id] = text
	}
}

// foreignPorts warns of ports that a container outside this plan has now: it may be gone when the step runs.
func (m *maker) foreignPorts(uses map[portKey][]portUse) {
	for server, h := range m.hosts {
		for i := range h.Containers {
			c := &h.Containers[i]
			if c.Status != "running" || len(c.Ports) == 0 || c.Leftover != "" || m.replaced(c) {
				continue
			}
			for _, p := range c.Ports {
				for _, u := range uses[portKey{server, p.Protocol, p.Host}] {
					if u.n.step.Action.Changes() && u.n.makes(u.port) && overlap(p.HostIP, u.port.HostIP) && !u.n.has(c) {
						pos := u.port.Pos
						if pos.File == "" {
							pos = u.n.res.Pos
						}
						m.say(schema.SeverityWarning, pos, "", "%s: port %d/%s of %s is taken by container %s", u.n.id, p.Host, p.Protocol, server, c.Name)
					}
				}
			}
		}
	}
}

// makes reports whether the step makes the container that publishes the port.
func (n *node) makes(p Port) bool {
	if n.res.Kind == schema.KindDeployment {
		return n.step.Action.Changes()
	}
	return n.touches(p.Service)
}

func (n *node) has(c *Container) bool {
	for _, o := range n.owned {
		if o == c {
			return true
		}
	}
	for _, o := range n.free {
		if o == c {
			return true
		}
	}
	return false
}

// replaced reports whether a container is one of ours that is declared: what it publishes is in this plan.
func (m *maker) replaced(c *Container) bool {
	if c.Fleet != m.d.Fleet || c.Resource == "" {
		return false
	}
	_, declared := m.index[c.Resource]
	return declared
}

// checkNames finds two declared resources that would use one project or container name on a server.
func (m *maker) checkNames() {
	type key struct{ server, what string }
	seen := map[key]*node{}
	for i := range m.nodes {
		n := &m.nodes[i]
		if n.decl == nil || n.host == nil || n.res.Template {
			continue
		}
		what := "container name " + n.containerName()
		if n.res.Kind == schema.KindStack {
			what = "compose project " + n.project()
		}
		k := key{n.server, what}
		first := seen[k]
		if first == nil {
			seen[k] = n
			continue
		}
		at := first.res.Pos
		m.say(schema.SeverityError, n.res.Pos, "the other is at "+at.File+":"+itoa(at.Line), "%s: %s of %s is also used by %s", n.id, what, n.server, first.id)
		n.clash = what + " of " + n.server + " is also used by " + string(first.id)
	}
}

// disabled reports whether a declared server is switched off.
func (m *maker) disabled(server string) bool {
	i, ok := m.index[schema.NewID(schema.KindServer, server)]
	if !ok {
		return false
	}
	c, ok := m.resources[i].Config.(*schema.ServerConfig)
	return ok && !c.Enabled
}

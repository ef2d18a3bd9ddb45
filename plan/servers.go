package plan

import (
	"fmt"
	"slices"

	"github.com/varanhq/varan/schema"
)

// BinaryName is how the file of an agent's binary is called.
func BinaryName(version, platform string) string { return "varan-" + version + "-" + platform }

// decideServer makes the step of a server: its agent is the program that is declared, or becomes it. Nothing that
// stands on the server waits for that, or is kept back by it.
func (m *maker) decideServer(n *node) {
	c, ok := n.res.Config.(*schema.ServerConfig)
	if !ok || n.res.Template || c.AgentVersion == "" || m.disabled(n.res.Name) {
		return
	}
	n.server = n.res.Name
	if n.host = m.hosts[n.server]; n.host == nil {
		return // only this machine is looked at
	}
	n.step.Server = n.server
	m.agentVersion(n, c)
	m.guardHolds(n)
	n.stuck = false
	if n.step.Action == Update {
		m.updates = append(m.updates, m.index[n.id])
	}
}

func (m *maker) agentVersion(n *node, c *schema.ServerConfig) {
	if n.host.Unreachable != "" {
		n.stop(Unknown, Unreachable, "server %s: %s", n.server, n.host.Unreachable)
		return
	}
	have := n.host.Agent
	if have == nil {
		m.cannotUpdate(n, "put the binary there by hand once and restart the agent", "its agent does not tell which program it is: it is older than agent_version")
		return
	}
	want := c.AgentSHA256[have.Platform]
	if want != "" && have.SHA256 == want || have.Version == c.AgentVersion && (want == "" || have.Fixed != "") {
		return
	}
	switch missing := m.d.Binaries[BinaryName(c.AgentVersion, have.Platform)]; {
	case have.Fixed != "":
		m.cannotUpdate(n, "", "its agent is %s, not %s, and %s", have.Version, c.AgentVersion, have.Fixed)
	case want == "":
		m.cannotUpdate(n, "", "agent_sha256 has nothing for %s, which is what it is", have.Platform)
	case missing != "":
		m.cannotUpdate(n, "", "its agent is %s, not %s: %s", have.Version, c.AgentVersion, missing)
	case n.busy():
		n.stop(Unknown, UnderWay, "what an earlier run began with its agent is still under way")
	default:
		n.step.Digest = AgentDigest(want)
		detail := fmt.Sprintf("agent %s → %s", have.Version, c.AgentVersion)
		change := Change{Path: "config.agent_version", Old: have.Version, New: c.AgentVersion}
		if have.Version == c.AgentVersion {
			detail = fmt.Sprintf("agent %s is another build of it than agent_sha256 says", have.Version)
			change = Change{Path: "config.agent_sha256." + have.Platform, Old: have.SHA256, New: want}
		}
		n.step.Changes = append(n.step.Changes, change)
		n.become(Update, AgentVersion, "%s", detail)
	}
}

// AgentDigest identifies what an agent is to be: a binary that failed is on hold by it, under whatever version.
func AgentDigest(sha256 string) Digest {
	spec, _ := CanonicalJSON(map[string]string{"agent_sha256": sha256}) // always encodes
	return NewDigest(spec, nil)
}

// cannotUpdate says why an agent stays what it is.
func (m *maker) cannotUpdate(n *node, hint, format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	pos := n.res.At("config.agent_version")
	if pos.File == "" {
		pos = n.res.Pos
	}
	m.say(schema.SeverityWarning, pos, hint, "%s: %s", n.id, why)
	n.stop(Blocked, AgentVersion, "%s", why)
}

// holdRest keeps the other agents from becoming what failed on one of them, until that changes or is tried again.
func (m *maker) holdRest() {
	failed := map[string]*node{} // by version
	var busy *node               // an earlier run's
	for i := range m.nodes {
		n := &m.nodes[i]
		if n.id.Kind() != schema.KindServer {
			continue
		}
		if n.step.Action == Unknown && n.step.Causes[0].Kind == UnderWay {
			busy = n
		}
		if n.step.Action != Held || n.host.Unreachable != "" {
			continue
		}
		c := n.res.Config.(*schema.ServerConfig) // decideServer saw to it
		if failed[c.AgentVersion] == nil && slices.ContainsFunc(n.holds(), func(h Hold) bool { return h.Kind == HoldFailed && h.Digest == n.step.Digest }) {
			failed[c.AgentVersion] = n
		}
	}
	m.updates = slices.DeleteFunc(m.updates, func(i int32) bool {
		n := &m.nodes[i]
		version := n.res.Config.(*schema.ServerConfig).AgentVersion
		switch {
		case failed[version] != nil:
			n.stop(Held, OnHold, "it waits, for %s failed on %s", version, failed[version].server)
		case busy != nil:
			n.stop(Unknown, UnderWay, "it waits for the agent of %s, which is being updated", busy.server)
		default:
			return false
		}
		n.stuck = false
		return true
	})
}

// oneByOne lets each agent be updated only when the one before is well again; the first that fails ends it.
func (m *maker) oneByOne(g *graph) {
	for i := 1; i < len(m.updates); i++ {
		before, n := m.updates[i-1], m.updates[i]
		g.deps[n] = append(g.deps[n], before)
		m.nodes[n].step.After = append(m.nodes[n].step.After, m.nodes[before].id)
	}
}

// standsOn reports whether what n has of a dependency is only that it is the server n stands on.
func standsOn(n, dep *node) bool {
	return dep.id.Kind() == schema.KindServer && n.id.Kind() != schema.KindServer
}

package plan

import (
	"strings"

	"github.com/varanhq/varan/schema"
)

// propagate carries what the parents do to one node. It is called in topological order, so the parents are done.
func (m *maker) propagate(i int32, g *graph) {
	n := &m.nodes[i]
	for _, p := range g.deps[i] {
		if standsOn(n, &m.nodes[p]) {
			continue
		}
		wave := g.wave[p]
		if m.nodes[p].step.Action.Changes() {
			wave++
		}
		g.wave[i] = max(g.wave[i], wave)
	}
	if n.res == nil {
		if n.step.Action == Remove && n.busy() {
			n.step.Services, n.step.Action = nil, None
			n.because(UnderWay, "what an earlier run began is still under way")
		}
		if m.moves(n) {
			m.keepBehind(n)
		}
		m.guardSelf(n)
		m.guardHolds(n)
		return
	}
	if n.res.Kind != schema.KindStack && n.res.Kind != schema.KindDeployment {
		return
	}
	if words := m.portTaken[n.id]; words != "" && n.step.Action.Changes() {
		n.stop(Blocked, Conflict, "%s", words)
	}
	m.waitFor(n, g.deps[i])
	m.cascade(n)
	m.shareAcross(i, g)
	m.guardSelf(n)
	m.guardHolds(n)
}

// waitFor blocks a step that would change after one that should change and cannot. What merely puts drift
// right, and what changes nothing, does not need the parent's change.
func (m *maker) waitFor(n *node, deps []int32) {
	switch n.step.Action {
	case Create, Update, Recreate, Restart:
	default:
		return
	}
	if n.driftOnly {
		return
	}
	for _, p := range deps {
		parent := &m.nodes[p]
		if !parent.stuck || parent.idle && parent.res != nil && isDeployed(parent.res.Kind) {
			continue
		}
		if m.only != nil && !m.only[parent.id] {
			continue
		}
		why := string(parent.step.Action)
		if len(parent.step.Causes) > 0 {
			why = strings.TrimSpace(parent.step.Causes[0].Detail)
		}
		if !isDeployed(parent.id.Kind()) {
			n.stop(Blocked, NotCarriedOut, "comes after %s: %s", parent.id, why)
			return
		}
		n.stop(Blocked, WaitsFor, "comes after %s, which is %s: %s", parent.id, parent.step.Action, why)
		return
	}
}

func isDeployed(k schema.Kind) bool { return k == schema.KindStack || k == schema.KindDeployment }

// cascade restarts what comes after a parent that changes in this plan. A restart of that sort is no change
// of its own, so it goes no further; nor does repair of drift.
func (m *maker) cascade(n *node) {
	if n.step.Action != None || n.idle || !n.live || n.decl == nil {
		return
	}
	if m.d.Rules.Owed[n.id] {
		m.restartRunning(n, "what changed in an earlier run")
	}
	for _, ref := range n.res.After {
		j, ok := m.index[ref.ID]
		if !ok {
			continue
		}
		parent := &m.nodes[j]
		if m.only != nil && !m.only[parent.id] {
			continue
		}
		if parent.driftOnly || parent.cascaded || parent.idle {
			continue
		}
		switch parent.step.Action {
		case Create, Update, Recreate, Restart:
			m.restartRunning(n, string(parent.id)+", which changes")
		}
	}
}

// restartRunning restarts the services of n that run now: a one-shot that is done stays done.
func (m *maker) restartRunning(n *node, parent string) {
	why := "comes after " + parent
	if n.cascaded {
		n.because(CameAfter, "%s", why)
		return
	}
	for i := range n.decl.Units {
		u := &n.decl.Units[i]
		if u.Ignored && len(u.Shares) == 0 {
			continue
		}
		for _, c := range n.owned {
			if m.unitName(n, c) == u.Service && c.Status == "running" {
				n.service(u.Service, Restart)
			}
		}
	}
	if len(n.step.Services) == 0 {
		return
	}
	n.cascaded = true
	n.become(Restart, CameAfter, "%s", why)
}

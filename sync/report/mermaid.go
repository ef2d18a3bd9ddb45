package report

import (
	"strings"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

const (
	maxNodes = 24 // what is still read at a glance
	maxEdges = 40
	openAt   = 12 // a graph of at most so many nodes is not folded
)

// graph draws the order when it crosses servers and is small enough to be read, else "".
func graph(bs []*bunch) string {
	var nodes []*bunch
	of := map[schema.ID]int{}
	for _, b := range bs {
		if !b.first().Action.Changes() {
			continue
		}
		for _, s := range b.steps {
			of[s.Resource] = len(nodes)
		}
		nodes = append(nodes, b)
	}
	type edge struct{ from, to int }
	var edges []edge
	seen := map[edge]bool{}
	crosses := false
	linked := make([]bool, len(nodes))
	for to, b := range nodes {
		for _, s := range b.steps {
			for _, id := range s.After {
				from, ok := of[id]
				e := edge{from, to}
				if !ok || from == to || seen[e] {
					continue
				}
				seen[e] = true
				edges = append(edges, e)
				linked[from], linked[to] = true, true
				crosses = crosses || !sameServers(nodes[from], b)
			}
		}
	}
	n := 0
	for _, l := range linked {
		if l {
			n++
		}
	}
	if !crosses || n > maxNodes || len(edges) > maxEdges {
		return ""
	}
	var b strings.Builder
	open := ""
	if n <= openAt {
		open = " open"
	}
	b.WriteString("<details" + open + "><summary>Order across servers</summary>\n\n```mermaid\nflowchart LR\n")
	placed := make([]bool, len(nodes))
	for i := range nodes {
		if !linked[i] || placed[i] {
			continue
		}
		where := serverLabel(nodes[i])
		b.WriteString("  subgraph s" + itoa(i) + "[\"" + MermaidLabel(where) + "\"]\n")
		for j := i; j < len(nodes); j++ {
			if linked[j] && !placed[j] && serverLabel(nodes[j]) == where {
				placed[j] = true
				b.WriteString("    n" + itoa(j) + "[\"" + MermaidLabel(nodeLabel(nodes[j])) + "\"]:::" + string(nodes[j].first().Action) + "\n")
			}
		}
		b.WriteString("  end\n  class s" + itoa(i) + " server\n")
	}
	for _, e := range edges {
		b.WriteString("  n" + itoa(e.from) + " --> n" + itoa(e.to) + "\n")
	}
	b.WriteString(classes(nodes, linked))
	b.WriteString("```\n\n</details>\n")
	return b.String()
}

func nodeLabel(b *bunch) string {
	name, _ := b.name()
	if n := len(b.steps); n > 1 {
		return clipRunes(name, 48) + " × " + itoa(n)
	}
	return clipRunes(name, 48)
}

func serverLabel(b *bunch) string {
	servers := b.servers()
	switch len(servers) {
	case 0:
		return "no server"
	case 1:
		return clipRunes(servers[0], 40)
	}
	return plural(len(servers), "server")
}

func sameServers(a, b *bunch) bool {
	x, y := a.servers(), b.servers()
	return len(x) == 1 && len(y) == 1 && x[0] == y[0]
}

// classes colours the borders, which are read on a light and on a dark ground.
func classes(nodes []*bunch, linked []bool) string {
	used := map[plan.Action]bool{}
	for i, n := range nodes {
		if linked[i] {
			used[n.first().Action] = true
		}
	}
	var b strings.Builder
	b.WriteString("  classDef server fill:none,stroke:#8c959f\n")
	for _, a := range order {
		if !used[a] {
			continue
		}
		color := "#8250df"
		switch a {
		case plan.Create:
			color = "#2da44e"
		case plan.Update, plan.Recreate:
			color = "#bf8700"
		case plan.Remove:
			color = "#cf222e"
		case plan.Restart, plan.Stop, plan.Run:
			color = "#218bff"
		}
		b.WriteString("  classDef " + string(a) + " stroke:" + color + ",stroke-width:2px\n")
	}
	return b.String()
}

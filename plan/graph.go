package plan

import (
	"cmp"
	"slices"

	"github.com/varanhq/varan/schema"
)

// A graph is who waits for whom, as indices of the maker's nodes. It is walked in a loop, never by
// recursion: a chain may be 100,000 long.
type graph struct {
	deps  [][]int32 // what a node waits for, sorted, without duplicates
	order []int32   // a topological order; ties by level, then index
	level []int32   // the longest way from a node that waits for nothing
	wave  []int32   // filled by propagate: counts only steps that change
}

// link draws the edges: after, the implied ones, and for orphans their former after turned round.
func (m *maker) link() *graph {
	g := &graph{
		deps:  make([][]int32, len(m.nodes)),
		level: make([]int32, len(m.nodes)),
		wave:  make([]int32, len(m.nodes)),
	}
	total := 0
	for _, r := range m.resources {
		total += len(r.After) + len(r.Uses) + 1
	}
	arena := make([]int32, 0, total)
	ids := make([]schema.ID, 0, total)
	for i, r := range m.resources {
		start := len(arena)
		add := func(id schema.ID) {
			if j, ok := m.index[id]; ok && j != int32(i) {
				arena = append(arena, j)
			}
		}
		for _, ref := range r.After {
			add(ref.ID)
		}
		for _, ref := range r.Uses {
			add(ref.ID)
		}
		if r.Server != "" {
			add(schema.NewID(schema.KindServer, r.Server))
		}
		list := arena[start:]
		slices.Sort(list)
		list = slices.Compact(list)
		arena = arena[:start+len(list)]
		g.deps[i] = list[:len(list):len(list)]
		first := len(ids)
		for _, j := range list {
			ids = append(ids, m.nodes[j].id)
		}
		m.nodes[i].step.After = ids[first:len(ids):len(ids)]
	}
	m.oneByOne(g)
	m.linkOrphans(g)
	g.sort()
	return g
}

// linkOrphans lets a removal wait for the removal, or the change, of what came after the orphan.
func (m *maker) linkOrphans(g *graph) {
	orphans := map[schema.ID]int32{}
	for i := len(m.resources); i < len(m.nodes); i++ {
		orphans[m.nodes[i].id] = int32(i)
	}
	if len(orphans) == 0 {
		return
	}
	for i := range m.nodes {
		n := &m.nodes[i]
		for _, parent := range n.formerAfter() {
			if j, ok := orphans[schema.ID(parent)]; ok && j != int32(i) {
				g.deps[j] = append(g.deps[j], int32(i))
			}
		}
	}
	for j := len(m.resources); j < len(m.nodes); j++ {
		if to, ok := m.index[m.nodes[j].of]; ok { // first it comes to be where it is declared to be
			g.deps[j] = append(g.deps[j], to)
		}
		slices.Sort(g.deps[j])
		g.deps[j] = slices.Compact(g.deps[j])
		for _, i := range g.deps[j] {
			m.nodes[j].step.After = append(m.nodes[j].step.After, m.nodes[i].id)
		}
	}
}

// formerAfter is what the running objects came after when they were made.
func (n *node) formerAfter() []string {
	if n.entry != nil && n.entry.After != nil {
		return n.entry.After
	}
	if len(n.owned) > 0 {
		return n.owned[0].After
	}
	return nil
}

// sort fills order and level. Nodes on a circle (schema refuses circles; labels may lie) come last, in
// index order.
func (g *graph) sort() {
	count := len(g.deps)
	waits := make([]int32, count)
	starts := make([]int32, count+1) // children of i are edges[starts[i]:starts[i+1]]
	for i, deps := range g.deps {
		waits[i] = int32(len(deps))
		for _, p := range deps {
			starts[p+1]++
		}
	}
	for i := range count {
		starts[i+1] += starts[i]
	}
	edges := make([]int32, starts[count])
	fill := slices.Clone(starts[:count])
	for i, deps := range g.deps {
		for _, p := range deps {
			edges[fill[p]] = int32(i)
			fill[p]++
		}
	}
	g.order = make([]int32, 0, count)
	for i := range count {
		if waits[i] == 0 {
			g.order = append(g.order, int32(i))
		}
	}
	for at := 0; at < len(g.order); at++ {
		p := g.order[at]
		for _, c := range edges[starts[p]:starts[p+1]] {
			g.level[c] = max(g.level[c], g.level[p]+1)
			if waits[c]--; waits[c] == 0 {
				g.order = append(g.order, c)
			}
		}
	}
	for i := range count {
		if waits[i] > 0 {
			g.level[i] = int32(count)
			g.order = append(g.order, int32(i))
		}
	}
}

// printOrder is the order of the plan's steps: by wave, then never before what a step comes after, then by name.
func (g *graph) printOrder() []int32 {
	order := slices.Clone(g.order)
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(g.wave[a], g.wave[b]), cmp.Compare(g.level[a], g.level[b]), cmp.Compare(a, b))
	})
	return order
}

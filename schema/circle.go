package schema

import (
	"fmt"
	"slices"
	"strings"
)

// circles reports every way in which resources wait for each other, each circle once and whole. It is
// linear in resources and references (Tarjan's algorithm, without recursion).
func (a *assembly) circles() {
	rs := a.config.Resources
	number := make(map[ID]int32, len(rs))
	for i, r := range rs {
		number[r.ID] = int32(i)
	}
	edges := make([][]int32, len(rs))
	total := 0
	for _, r := range rs {
		total += len(r.After) + len(r.Uses)
	}
	flat := make([]int32, 0, total)
	for i, r := range rs {
		from := len(flat)
		for _, list := range [][]Ref{r.After, r.Uses} {
			for _, ref := range list {
				if ref.ID != "" {
					flat = append(flat, number[ref.ID])
				}
			}
		}
		edges[i] = flat[from:len(flat):len(flat)]
	}
	for _, group := range components(edges) {
		a.circle(group, edges)
	}
}

// components are the sets of nodes that reach each other, where there is more than one or one reaches itself.
func components(edges [][]int32) [][]int32 {
	n := len(edges)
	index := make([]int32, n) // 0: not seen
	low := make([]int32, n)
	onStack := make([]bool, n)
	var stack []int32
	type frame struct{ node, next int32 }
	var work []frame
	var groups [][]int32
	count := int32(0)
	for start := range n {
		if index[start] != 0 {
			continue
		}
		work = append(work[:0], frame{int32(start), 0})
		for len(work) > 0 {
			f := &work[len(work)-1]
			v := f.node
			if f.next == 0 {
				count++
				index[v], low[v] = count, count
				stack = append(stack, v)
				onStack[v] = true
			}
			descended := false
			for int(f.next) < len(edges[v]) {
				w := edges[v][f.next]
				f.next++
				if index[w] == 0 {
					work = append(work, frame{w, 0})
					descended = true
					break
				}
				if onStack[w] {
					low[v] = min(low[v], index[w])
				}
			}
			if descended {
				continue
			}
			if len(edges[v]) == 0 {
				f.next = 1
			}
			if low[v] == index[v] {
				at := len(stack) - 1
				for stack[at] != v {
					at--
				}
				for _, w := range stack[at:] {
					onStack[w] = false
				}
				if len(stack)-at > 1 || slices.Contains(edges[v], v) {
					groups = append(groups, slices.Clone(stack[at:]))
				}
				stack = stack[:at]
			}
			work = work[:len(work)-1]
			if len(work) > 0 {
				p := work[len(work)-1].node
				low[p] = min(low[p], low[v])
			}
		}
	}
	return groups
}

// circle reports one circle of a group: the shortest through its first resource.
func (a *assembly) circle(group []int32, edges [][]int32) {
	rs := a.config.Resources
	slices.Sort(group) // resources are sorted by ID, so the report does not depend on file order
	in := make(map[int32]bool, len(group))
	for _, v := range group {
		in[v] = true
	}
	start := group[0]
	from := map[int32]int32{}
	queue := []int32{start}
	last := int32(-1)
	for len(queue) > 0 && last < 0 {
		v := queue[0]
		queue = queue[1:]
		for _, w := range edges[v] {
			if w == start {
				last = v
				break
			}
			if _, seen := from[w]; in[w] && !seen {
				from[w] = v
				queue = append(queue, w)
			}
		}
	}
	path := []int32{start}
	for v := last; v != start && v >= 0; v = from[v] {
		path = append(path, v)
	}
	slices.Reverse(path[1:])
	names := make([]string, 0, len(path)+1)
	places := make([]string, 0, len(path))
	var at Pos
	length := 0
	for i, v := range path {
		r, next := rs[v], rs[path[(i+1)%len(path)]]
		names = append(names, string(r.ID))
		for _, list := range [][]Ref{r.After, r.Uses} {
			for _, ref := range list {
				if ref.ID == next.ID {
					if i == 0 {
						at, length = ref.Pos, len(ref.Raw)+2
					}
					places = append(places, fmt.Sprintf("%s:%d:%d", ref.Pos.File, ref.Pos.Line, ref.Pos.Column))
				}
			}
		}
	}
	names = append(names, string(rs[start].ID))
	if len(path) == 1 {
		a.report(SeverityError, at, length, "remove it", "%s comes after itself", title(rs[start]))
		return
	}
	more := ""
	if n := len(group) - len(path); n > 0 {
		more = fmt.Sprintf(" (%d more resources are in circles with these)", n)
	}
	a.report(SeverityError, at, length, "remove one of: "+strings.Join(places, ", "), "%q makes a circle: %s%s", "after", strings.Join(names, " → "), more)
}

package report

import (
	"strings"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// Preview is the comment that says what merging a pull request will do. It begins with the fleet's Marker.
func Preview(p *plan.Plan, a About) string {
	s := newSheet(a.limit)
	s.add(Marker(a.Fleet) + "\n" + seal(p.Digest, a.commit(p)) + "\n")
	s.part(a.title("plan", a.headline(p)))
	foot := a.foot(planFacts(p)...)
	s.left -= size(foot) + 2
	s.part(a.answers(s.left / 10))
	s.part(a.next(p))
	a.mistakes(s, p)
	s.part(a.risks(p, s.left/5))
	s.part(a.approval(p, false, s.left/10))
	a.body(s, p, nil)
	s.left += size(foot) + 2
	s.add(foot)
	return s.b.String()
}

// Broken is the comment on a commit that cannot be planned: the mistakes at their lines.
func Broken(ds []schema.Diagnostic, a About) string {
	return Preview(&plan.Plan{Commit: a.Commit, Diagnostics: ds}, a)
}

// NotPreviewed is the comment on a pull request that is not planned: why, and what to do.
func NotPreviewed(why string, a About) string {
	s := newSheet(a.limit)
	s.add(Marker(a.Fleet) + "\n")
	s.part(a.title("plan", "not previewed"))
	s.part(a.answers(s.left / 10))
	s.part(alert("NOTE", "This pull request is not previewed: "+Markdown(clipRunes(why, 2000))))
	s.add(a.foot())
	return s.b.String()
}

func (a About) commit(p *plan.Plan) string {
	if a.Commit != "" {
		return a.Commit
	}
	return p.Commit
}

// headline is the answer in one line.
func (a About) headline(p *plan.Plan) string {
	errs := countErrors(p.Diagnostics)
	switch {
	case errs > 0 && len(p.Steps) == 0:
		return plural(errs, "error")
	case errs > 0:
		return plural(errs, "error") + " · " + dots(p.Summary)
	case !p.Changes() && p.Summary[plan.None]+p.Summary[plan.Adopt] == len(p.Steps):
		return "nothing to do · " + dots(p.Summary)
	}
	return dots(p.Summary)
}

// next says what a merge brings about.
func (a About) next(p *plan.Plan) string {
	if countErrors(p.Diagnostics) > 0 && len(p.Steps) == 0 {
		return "Nothing of this commit is applied until what follows is put right."
	}
	servers := map[string]bool{}
	n := 0
	for i := range p.Steps {
		if s := &p.Steps[i]; s.Action.Changes() {
			n++
			servers[s.Server] = true
		}
	}
	where := " on " + plural(len(servers), "server")
	rest := ""
	if countErrors(p.Diagnostics) > 0 {
		rest = " What the errors below are about stays as it is."
	}
	switch {
	case n == 0 && p.Summary[plan.Unknown] > 0:
		return "Merging this changes nothing, as far as can be told now." + rest
	case n == 0:
		return "Merging this changes nothing on any server." + rest
	case len(p.Asks) > 0 || a.Manual:
		return "This is " + plural(n, "step") + where + ". Merging alone does not carry it out." + rest
	}
	return "Merging this carries out " + plural(n, "step") + where + "." + rest
}

// mistakes are the errors of a plan, if it has any.
func (a About) mistakes(s *sheet, p *plan.Plan) {
	if countErrors(p.Diagnostics) > 0 {
		s.part(a.errors(p.Diagnostics, s.left*6/10))
	}
}

// body is what stands below the blocks on top; results are nil before a run.
func (a About) body(s *sheet, p *plan.Plan, results resultsOf) {
	told, away, adopted := worth(p.Steps)
	s.part(unreachables(away, s.left/10))
	notes := a.notes(p, s.left/8)
	s.left -= size(notes) + 2
	bs := bunches(told, results)
	a.rows(s, bs, told, results != nil)
	if adopted > 0 {
		s.part("And " + plural(adopted, "resource") + " that run as declared are taken over without a restart.")
	}
	if results == nil {
		if g := graph(bs); size(g) < s.left/3 {
			s.part(g)
		}
	}
	a.folded(s, bs)
	s.left += size(notes) + 2
	s.part(notes)
}

// maxRows is how many lines a table may have before the plan is told by wave, and the table folded.
const maxRows = 40

// rows writes the order, cut at a step if there is no room for all of it.
func (a About) rows(s *sheet, bs []*bunch, told []*plan.Step, after bool) {
	if len(bs) == 0 {
		return
	}
	t := a.table(bs, after)
	lines := make([]string, len(bs))
	for i, b := range bs {
		lines[i] = t.row(b)
	}
	head, end := "", ""
	if len(bs) > maxRows {
		s.part(aggregate(told))
		head, end = "<details><summary>The "+plural(len(told), "step")+", in their order</summary>\n\n", "\n</details>\n"
	}
	head += t.head()
	n := take(lines, s.left*2/3-size(head)-size(end)-200)
	out := head + strings.Join(lines[:n], "")
	if n < len(lines) {
		left := 0
		for _, b := range bs[n:] {
			left += len(b.steps)
		}
		out += "\n**" + plural(left, "more step") + " left out here**" + a.elsewhere() + "\n"
	}
	s.part(out + end)
}

// elsewhere says where to read what a comment has no room for.
func (a About) elsewhere() string {
	if page := goodURL(a.Page); page != "" {
		return ": " + link("all of it", page) + "."
	}
	return ": `varan plan` shows all of it."
}

// folded writes causes and changes, cut at a step.
func (a About) folded(s *sheet, bs []*bunch) {
	n := 0
	for _, b := range bs {
		if b.told() {
			n++
		}
	}
	if n == 0 {
		return
	}
	head, end := "", ""
	if n > 6 {
		head, end = "<details><summary>Causes and changes, step by step</summary>\n\n", "\n</details>\n"
	}
	var out strings.Builder
	room := s.left - size(head) - size(end) - 300
	for _, b := range bs {
		if !b.told() {
			continue
		}
		d := a.detail(b) + "\n"
		if room -= size(d); room < 0 {
			out.WriteString("**The changes of " + plural(n, "more line") + " of the table are left out here**" + a.elsewhere() + "\n")
			break
		}
		n--
		out.WriteString(d)
	}
	s.part(head + out.String() + end)
}

// planFacts go into the small print.
func planFacts(p *plan.Plan) []string {
	servers := map[string]bool{}
	for i := range p.Steps {
		if srv := p.Steps[i].Server; srv != "" {
			servers[srv] = true
		}
	}
	var facts []string
	if p.Digest != "" {
		facts = append(facts, "plan "+Code(clipRunes(shortDigest(p.Digest), 40)))
	}
	if len(p.Steps) > 0 {
		facts = append(facts, plural(len(p.Steps), "resource")+" on "+plural(len(servers), "server"))
	}
	return facts
}

// shortDigest is enough of a digest to recognise it by.
func shortDigest(d string) string {
	if len(d) > 14 {
		return d[:12] + "…"
	}
	return d
}

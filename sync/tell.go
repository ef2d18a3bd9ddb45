package sync

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// elsewhere stands for what is not set in the repository that is told about a plan.
const elsewhere = "(not set in this repository)"

// elsewhere reports whether another repository than the config's says what a resource is.
func (r *reading) elsewhere(id schema.ID) bool {
	if r == nil {
		return false
	}
	f := r.trees[id]
	return r.origin[id] != nil || f.tree != nil && f.tree != r.tree
}

// sets lists the values that the config repository itself sets for a resource.
func (r *reading) sets(id schema.ID) []string {
	if r == nil || r.origin[id] != nil || r.resolved[id] == nil || r.resolved[id].Stack() == nil {
		return nil
	}
	var out []string
	for _, kv := range r.resolved[id].Stack().Environment {
		out = append(out, kv.Value)
	}
	return out
}

// tell is a plan as it may be told at the config repository: who may read that may not be one who may read the others
// that stacks and syncs come from, so their values and the errors that quote them are left out. before is what was read
// before, and may be nil. The plan itself stays as it is.
func tell(p *plan.Plan, now, before *reading) *plan.Plan {
	out := *p
	var own bool
	for i := range p.Steps {
		id := cmp.Or(p.Steps[i].Of, p.Steps[i].Resource)
		is, was := now.elsewhere(id), before.elsewhere(id)
		if !is && !was && !slices.ContainsFunc(p.Steps[i].Changes, isLong) {
			continue
		}
		if !own {
			out.Steps, own = slices.Clone(p.Steps), true
		}
		s := &out.Steps[i]
		s.Changes = cut(s.Changes)
		if !is && !was {
			continue
		}
		known := append(now.sets(id), before.sets(id)...)
		hide := func(v *any) {
			if text, ok := (*v).(string); *v == nil || ok && (text == setOnHost || slices.Contains(known, text)) {
				return
			}
			*v = elsewhere
		}
		for j := range s.Changes {
			hide(&s.Changes[j].Old)
			if is {
				hide(&s.Changes[j].New)
			}
			blank(&s.Changes[j])
		}
		s.Causes = slices.Clone(s.Causes)
		for j := range s.Causes {
			if c := &s.Causes[j]; is && c.Kind == plan.Invalid {
				c.Detail = notTaken(now, id)
			}
		}
	}
	out.Diagnostics = tellDiagnostics(p.Diagnostics, now)
	return &out
}

// quotedInside is a text as %q writes it, without the quotes.
func quotedInside(text string) string {
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}

// maxTold is how much of one value is told, in bytes: a line of it is shown.
const maxTold = 4096

func isLong(c plan.Change) bool { return long(c.Old) || long(c.New) }

func long(v any) bool {
	text, ok := v.(string)
	return ok && len(text) > maxTold
}

// cut is a copy of changes without what of a value nobody reads.
func cut(list []plan.Change) []plan.Change {
	out := slices.Clone(list)
	for i := range out {
		for _, v := range []*any{&out[i].Old, &out[i].New} {
			if long(*v) {
				*v = strings.ToValidUTF8((*v).(string)[:maxTold], "") + "…"
			}
		}
	}
	return out
}

// blank leaves of a change whose values are both hidden that there is one.
func blank(c *plan.Change) {
	if c.Old == elsewhere && c.New == elsewhere {
		c.Old, c.New = nil, nil
	}
}

// tellDiagnostics puts what files of other repositories get wrong into words that quote nothing of them, at the line
// that names the repository.
func tellDiagnostics(list schema.Diagnostics, r *reading) schema.Diagnostics {
	if r == nil {
		return list
	}
	quoting := make(map[schema.Diagnostic]schema.Diagnostic)
	for id, d := range r.declared {
		if !r.elsewhere(id) || r.resolved[id] == nil {
			continue
		}
		at := r.resolved[id].Pos
		for _, diag := range d.Diagnostics {
			if r.origin[id] == nil && diag.File == at.File {
				continue // of what the config repository says
			}
			quoting[diag] = schema.Diagnostic{Severity: diag.Severity, Pos: at, Risk: diag.Risk, Message: notTaken(r, id)}
		}
	}
	var broken []string // what remember says of further syncs, before it quotes their files
	for _, c := range r.children {
		if len(c.diags) > 0 {
			broken = append(broken, c.said())
		}
	}
	if len(quoting) == 0 && len(broken) == 0 {
		return list
	}
	out := slices.Clone(list)
	for i, diag := range out {
		if plain, ok := quoting[diag]; ok {
			out[i] = plain
		}
		for _, said := range broken {
			if strings.HasPrefix(diag.Message, said+":") {
				out[i].Message = said
			}
		}
	}
	return slices.Compact(out.Sorted())
}

func notTaken(r *reading, id schema.ID) string {
	at := r.trees[id].repo
	if c := r.origin[id]; c != nil {
		at = c.addr.String()
	}
	return fmt.Sprintf("%s: something is wrong with its files in %s: varan plan says what", id, at)
}

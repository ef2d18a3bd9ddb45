package sync

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// moved are the repositories beside the config's whose commits are other ones than had names, with the resources that
// come from there, sorted. Those that had does not name are new here: nothing waits for a word on them.
func (r *reading) moved(had map[string]string) map[string]*movedTo {
	out := make(map[string]*movedTo)
	note := func(key string, at gitrepo.Address, branch string, ids ...schema.ID) {
		commit := r.others[key]
		if had[key] == "" || commit == "" || commit == had[key] {
			return
		}
		if out[key] == nil {
			out[key] = &movedTo{at: at, branch: branch, commit: commit}
		}
		out[key].ids = append(out[key].ids, ids...)
	}
	for id, f := range r.trees {
		if f.tree == nil || f.branch == "" || r.origin[id] != nil || !r.elsewhere(id) {
			continue
		}
		if at, err := gitrepo.ParseAddress(f.repo); err == nil {
			note(at.String()+" "+f.branch, at, f.branch, id)
		}
	}
	for _, c := range r.children {
		if c.snap == nil {
			continue
		}
		note("sync "+c.name, c.addr, c.branch)
		for id, from := range r.origin {
			if from == c {
				note("sync "+c.name, c.addr, c.branch, id)
			}
		}
	}
	return out
}

type movedTo struct {
	at             gitrepo.Address
	branch, commit string
	ids            []schema.ID
}

// tried reports whether a plan leaves none of it aside.
func (m *movedTo) tried(p *plan.Plan) bool {
	return !slices.ContainsFunc(p.Steps, func(s plan.Step) bool {
		return slices.Contains(m.ids, s.Resource) && (s.Action == plan.Held || s.Action == plan.Blocked || s.Action == plan.Unknown)
	})
}

// brought tells what a plan, and what came of it, is for the repositories that moved. res may be nil.
func (s *syncer) brought(ctx context.Context, r *reading, p *plan.Plan, res *apply.Result) []Moved {
	to := r.moved(s.others)
	for key, m := range s.late { // it went wrong before
		if to[key] == nil && r.others[key] == m.commit && m.tried(p) {
			to[key] = m
		}
	}
	var out []Moved
	for _, key := range slices.Sorted(maps.Keys(to)) {
		m := to[key]
		mask := masking(r.secondhand(m.ids))
		one := Moved{Address: m.at, Branch: m.branch, Commit: m.commit, Plan: r.planOf(ctx, m, p)}
		if res != nil {
			one.Result = resultOf(m, res, mask)
			if s.late == nil {
				s.late = make(map[string]*movedTo)
			}
			if s.late[key] = m; one.Result.OK() {
				delete(s.late, key)
			}
		}
		out = append(out, one)
	}
	return out
}

// planOf is the part of a plan that is about some resources: what is done, and no values.
func (r *reading) planOf(ctx context.Context, m *movedTo, p *plan.Plan) *plan.Plan {
	out := &plan.Plan{Version: p.Version, Commit: m.commit, Digest: p.Digest, Summary: plan.Summary{}}
	for _, action := range plan.Actions() {
		out.Summary[action] = 0
	}
	if len(p.Asks) > 0 {
		out.Asks = []string{"the plan of the config repository asks"}
	}
	for i := range p.Steps {
		s := p.Steps[i]
		if !slices.Contains(m.ids, cmp.Or(s.Of, s.Resource)) {
			continue
		}
		s = Bare(s)
		s.Source = r.sourceAt(m.at, s)
		out.Steps = append(out.Steps, s)
		out.Summary[s.Action]++
	}
	for _, id := range m.ids {
		if d := r.declared[id]; d != nil && r.origin[id] == nil {
			out.Diagnostics = append(out.Diagnostics, r.unquoted(ctx, id, r.trees[id].tree).Diagnostics...)
		}
	}
	out.Diagnostics = slices.DeleteFunc(schema.Diagnostics(out.Diagnostics).Sorted(), func(d schema.Diagnostic) bool {
		return d.File == "" || slices.ContainsFunc(m.ids, func(id schema.ID) bool { return r.resolved[id] != nil && r.resolved[id].Pos.File == d.File })
	})
	return out
}

// sourceAt is where a step's resource is declared in a repository; nowhere, unless it is a further sync's.
func (r *reading) sourceAt(at gitrepo.Address, s plan.Step) plan.Source {
	if c := r.origin[cmp.Or(s.Of, s.Resource)]; c != nil && c.addr.Same(at) {
		return plan.Source{File: strings.TrimPrefix(s.Source.File, c.prefix()), Line: s.Source.Line}
	}
	return plan.Source{}
}

// Bare is a step without the words and values of its causes and changes.
func Bare(s plan.Step) plan.Step {
	s.Changes, s.Declared = nil, nil
	s.Causes = slices.Clone(s.Causes)
	for i := range s.Causes {
		s.Causes[i].Detail = ""
	}
	return s
}

func resultOf(m *movedTo, res *apply.Result, mask func(string) string) *apply.Result {
	out := *res
	out.Steps, out.Status, out.Asks, out.Differs = nil, apply.StatusDone, nil, false
	for _, st := range res.Steps {
		if !slices.Contains(m.ids, st.Resource) {
			continue
		}
		st.Tail, st.Error, st.Why, st.Hint = "", mask(st.Error), mask(st.Why), mask(st.Hint)
		switch st.Status {
		case apply.StatusDone:
		case apply.StatusFailed, apply.StatusRolledBack, apply.StatusUnknown:
			out.Status = apply.StatusFailed
		default:
			if out.Status == apply.StatusDone {
				out.Status = res.Status
			}
		}
		out.Steps = append(out.Steps, st)
	}
	return &out
}

// secondhand are the values that the config repository sets for resources whose files come from elsewhere, and their
// parts, the longest first.
func (r *reading) secondhand(ids []schema.ID) []string {
	var out []string
	add := func(text string) {
		if len(text) > 3 && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	for _, id := range ids {
		for _, value := range r.sets(id) {
			quoted := quotedInside(value)
			add(value)
			add(quoted)
			for _, part := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(":/,;=@?& \t\n", r) }) {
				add(part)
			}
		}
		if r.origin[id] != nil {
			for _, value := range r.values.plain {
				add(value)
			}
		}
	}
	slices.SortFunc(out, func(x, y string) int { return cmp.Or(cmp.Compare(len(y), len(x)), cmp.Compare(x, y)) })
	return out
}

// masking takes values out of texts.
func masking(values []string) func(string) string {
	return func(text string) string {
		for _, v := range values {
			text = strings.ReplaceAll(text, v, elsewhere)
		}
		return text
	}
}

// unquoted is what a stack declares, its errors without what the config repository sets: compose would quote it. A
// diagnostic stays as it is if it is the same whatever those values are.
func (r *reading) unquoted(ctx context.Context, id schema.ID, t tree) *plan.Declared {
	d := r.declared[id]
	if r.resolved[id] == nil || r.resolved[id].Stack() == nil || len(d.Diagnostics) == 0 && d.Unread == "" {
		return d
	}
	stack, res := *r.resolved[id].Stack(), *r.resolved[id]
	stack.Environment = slices.Clone(stack.Environment)
	for i := range stack.Environment {
		stack.Environment[i].Value = elsewhere
	}
	res.Config = &stack
	blind, _ := compose.Declare(ctx, compose.Input{Resource: &res, Tree: t, Known: r.values.known})
	told := *d
	told.Diagnostics = slices.Clone(d.Diagnostics)
	for i := range told.Diagnostics {
		if diag := &told.Diagnostics[i]; !slices.Contains(blind.Diagnostics, *diag) {
			diag.Message, diag.Hint = "compose does not take what becomes of this file with the values of "+string(id)+", which are not set in this repository", ""
		}
	}
	if d.Unread != "" && d.Unread != blind.Unread {
		told.Unread = "it depends on what is not set in this repository"
	}
	return &told
}

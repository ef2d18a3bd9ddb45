package report

import (
	"fmt"
	"strings"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// maxDiff is how many lines of one step's changes are shown: what is longer is read in the files themselves.
const maxDiff = 60

// told reports whether there is more to say about a line of the table than stands in it.
func (b *bunch) told() bool {
	s := b.first()
	return s.Action.Changes() && (len(s.Changes) > 0 && createdImages(s) == nil || len(s.Causes) > 1 || len(b.steps) > 1 || longCauses(s))
}

// detail is what is folded away below the table: what changes, why, and where it stands.
func (a About) detail(b *bunch) string {
	s := b.first()
	var diff []string
	if createdImages(s) == nil {
		diff = diffLines(s.Changes)
	}
	long := longCauses(s)
	var w strings.Builder
	w.WriteString("<details><summary>" + b.called(codeHTML) + " · " + string(s.Action))
	if n := len(s.Changes); n > 0 && len(diff) > 0 {
		w.WriteString(" · " + plural(n, "change"))
	}
	w.WriteString("</summary>\n\n")
	if len(b.steps) > 1 {
		w.WriteString(memberLine(b) + "\n\n")
	}
	if len(s.Causes) > 1 || long {
		var parts []string
		for i, c := range s.Causes {
			if i == 12 {
				parts = append(parts, fmt.Sprintf("and %d more", len(s.Causes)-i))
				break
			}
			parts = append(parts, Markdown(clipRunes(CauseWords(c), 400)))
		}
		w.WriteString("Because: " + strings.Join(parts, "; ") + "\n\n")
	}
	if line := servicesLine(s, Code); line != "" {
		w.WriteString("Services: " + line + "\n\n")
	}
	if len(diff) > 0 {
		if len(diff) > maxDiff {
			more := len(diff) - maxDiff
			diff = append(diff[:maxDiff:maxDiff], "# "+plural(more, "more line"))
		}
		w.WriteString(fence("diff", diff) + "\n")
	}
	if place := a.place(schema.Pos{File: s.Source.File, Line: s.Source.Line}, Code); place != "" && len(b.steps) == 1 {
		w.WriteString("Declared at " + place + "\n\n")
	}
	w.WriteString("</details>\n")
	return w.String()
}

// memberLine names the steps of a bunch and their servers.
func memberLine(b *bunch) string {
	var parts []string
	room := 1200
	for i, s := range b.steps {
		p := Code(clipRunes(string(s.Resource), 120))
		if s.Server != "" {
			p += " on " + Code(clipRunes(s.Server, 80))
		}
		if room -= len(p); room < 0 {
			parts = append(parts, fmt.Sprintf("and %d more", len(b.steps)-i))
			break
		}
		parts = append(parts, p)
	}
	return "These are " + strings.Join(parts, ", ")
}

func longCauses(s *plan.Step) bool {
	n := 0
	for _, c := range s.Causes {
		n += len(CauseWords(c))
	}
	return n > maxCause
}

// servicesLine says what becomes of which service of an update.
func servicesLine(s *plan.Step, code func(string) string) string {
	if len(s.Services) < 2 {
		return ""
	}
	by := map[plan.Action][]string{}
	for _, x := range s.Services {
		by[x.Action] = append(by[x.Action], code(clipRunes(x.Name, 80)))
	}
	var parts []string
	for _, a := range order {
		if names := by[a]; len(names) > 0 {
			if len(names) > 8 {
				names = append(names[:8:8], fmt.Sprintf("%d more", len(names)-8))
			}
			parts = append(parts, countWord(a)+" "+strings.Join(names, ", "))
		}
	}
	return strings.Join(parts, " · ")
}

// diffLines show changes as a diff: each line begins with a sign of ours.
func diffLines(cs []plan.Change) []string {
	var out []string
	for _, c := range cs {
		path := strings.TrimPrefix(c.Path, "services.")
		if path == "" {
			path = "declaration"
		}
		switch {
		case c.Old == nil && c.New == nil && c.Secret:
			out = append(out, "! "+path+": the secret changed")
		case c.Old == nil && c.New == nil:
			out = append(out, "! "+path+" changed")
		case c.Old == nil:
			out = append(out, valueLines("+ ", path, c.New)...)
		case c.New == nil:
			out = append(out, valueLines("- ", path, c.Old)...)
		default:
			old, okOld := c.Old.(string)
			now, okNow := c.New.(string)
			switch {
			case okOld && okNow && isHash(old) && isHash(now):
				out = append(out, "! "+path+" changed ("+short(old)+" → "+short(now)+")")
			case okOld && okNow && (manyLines(old) || manyLines(now)):
				out = append(out, blockDiff(path, old, now)...)
			default:
				out = append(out, valueLines("- ", path, c.Old)...)
				out = append(out, valueLines("+ ", path, c.New)...)
			}
		}
	}
	for i := range out {
		out[i] = clipRunes(show(out[i]), 240)
	}
	return out
}

// ChangeLines show a step's changes as a diff, each line beginning with its sign and escaped for a terminal.
func ChangeLines(cs []plan.Change) []string { return diffLines(cs) }

func manyLines(s string) bool { return strings.Contains(strings.TrimSuffix(s, "\n"), "\n") }

func valueLines(sign, path string, v any) []string {
	s, ok := v.(string)
	if !ok || !manyLines(s) {
		return []string{sign + path + " = " + value(v)}
	}
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	out := []string{sign + path + " ="}
	for i, l := range lines {
		if i == 20 {
			out = append(out, sign+"  … "+plural(len(lines)-i, "more line"))
			break
		}
		out = append(out, sign+"  "+l)
	}
	return out
}

// blockDiff shows a text of several lines without what its beginning and end have in common.
func blockDiff(path, old, now string) []string {
	a := strings.Split(strings.TrimSuffix(old, "\n"), "\n")
	b := strings.Split(strings.TrimSuffix(now, "\n"), "\n")
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	out := []string{"  " + path + ", from line " + itoa(head+1)}
	side := func(sign string, lines []string) {
		for i, l := range lines {
			if i == 20 {
				out = append(out, sign+"… "+plural(len(lines)-i, "more line"))
				return
			}
			out = append(out, sign+l)
		}
	}
	side("- ", a[head:len(a)-tail])
	side("+ ", b[head:len(b)-tail])
	return out
}

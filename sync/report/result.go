package report

import (
	"fmt"
	"strings"

	"github.com/charmbracelet/lipgloss"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/schema"
)

// Result is how a run went: what failed first, with what to do, then the count. Steps that went well are not
// listed again, the live lines told them, but for what somebody should know of them.
func Result(r *apply.Result, t Terminal) string {
	var b strings.Builder
	k := t.ink()
	counts := map[apply.Status]int{}
	blockedBy := map[schema.ID][]string{}
	for _, s := range r.Steps {
		if !s.Action.Changes() && s.Status == apply.StatusDone {
			continue
		}
		counts[s.Status]++
		if s.Status == apply.StatusNotTried && s.Because != "" {
			blockedBy[s.Because] = append(blockedBy[s.Because], Escape(string(s.Resource)))
		}
	}
	for _, s := range r.Steps {
		switch s.Status {
		case apply.StatusFailed, apply.StatusRolledBack, apply.StatusUnknown:
			writeFailure(&b, s, blockedBy[s.Resource], k, t)
		}
	}
	for _, s := range r.Steps {
		if s.Status == apply.StatusNotTried && s.Because == "" && s.Action.Changes() {
			b.WriteString(k.paint(k.magenta, Escape(string(s.Resource))+" was not tried") + colon(Escape(s.Why)) + "\n")
		}
	}
	for _, s := range r.Steps {
		if s.Status == apply.StatusDone && s.Hint != "" {
			b.WriteString(k.paint(k.yellow, Escape(string(s.Resource))+onServer(s.Server)) + "\n")
			writeHint(&b, s.Hint, k, t)
		}
	}
	for _, a := range r.Asks {
		b.WriteString(k.paint(k.yellow, "asks: ") + Escape(a) + "\n")
	}
	if r.Differs {
		b.WriteString(k.paint(k.yellow, "The world had moved since the plan was shown; what was carried out is the plan of now.") + "\n")
	}
	b.WriteString(ResultLine(r.Status, counts, r.Millis, k) + "\n")
	return b.String()
}

// ResultLine is "Applied: 3 done in 12.3 s."
func ResultLine(status apply.Status, counts map[apply.Status]int, millis int64, k ink) string {
	sum := countStatuses(counts)
	word, paint := "Applied", k.green
	switch status {
	case apply.StatusFailed:
		word, paint = "Not all applied", k.red
	case apply.StatusAsks:
		word, paint = "Not applied, it asks first", k.yellow
	case apply.StatusSuperseded, apply.StatusCancelled, apply.StatusInterrupted:
		word, paint = "Stopped ("+string(status)+")", k.yellow
	}
	return k.paint(paint, word+":") + " " + sum + " in " + Millis(millis) + "."
}

// countStatuses is "1 failed, 2 not tried, 3 done", what went wrong first.
func countStatuses(counts map[apply.Status]int) string {
	var parts []string
	for _, s := range [...]apply.Status{apply.StatusFailed, apply.StatusRolledBack, apply.StatusUnknown, apply.StatusNotTried, apply.StatusDone} {
		if n := counts[s]; n > 0 {
			parts = append(parts, itoa(n)+" "+statusWord(s))
		}
	}
	if len(parts) == 0 {
		return "nothing to do"
	}
	return strings.Join(parts, ", ")
}

func statusWord(s apply.Status) string {
	return strings.ReplaceAll(string(s), "_", " ")
}

func writeFailure(b *strings.Builder, s apply.StepResult, held []string, k ink, t Terminal) {
	verb := " failed"
	switch s.Status {
	case apply.StatusRolledBack:
		verb = " failed and was put back"
	case apply.StatusUnknown:
		verb = " has no known outcome"
	}
	b.WriteString(k.paint(k.red, Escape(string(s.Resource))+onServer(s.Server)+verb) + colon(Escape(s.Error)) + "\n")
	var facts []string
	switch {
	case s.Status == apply.StatusRolledBack:
		facts = append(facts, "what ran before runs again")
	case s.Status == apply.StatusFailed && !s.Stopped:
		facts = append(facts, "nothing was stopped")
	}
	if s.Held != "" {
		facts = append(facts, "this version is held until it changes, or varan apply --retry")
	}
	if s.Retry > 0 {
		facts = append(facts, "a daemon tries again in "+pause(s.Retry))
	}
	if len(held) > 0 {
		verb := " was not tried"
		if len(held) > 1 {
			verb = " were not tried"
		}
		facts = append(facts, strings.Join(held, ", ")+verb)
	}
	if len(facts) > 0 {
		for _, l := range wrap(strings.Join(facts, "; "), max(0, t.Width-3)) {
			b.WriteString("   " + l + "\n")
		}
	}
	writeHint(b, s.Hint, k, t)
	if tail := strings.TrimRight(s.Tail, "\n"); tail != "" {
		lines := strings.Split(tail, "\n")
		if len(lines) > 10 {
			lines = lines[len(lines)-10:]
		}
		for _, l := range lines {
			b.WriteString("   " + k.paint(k.dim, "| "+clip(Escape(strings.TrimRight(l, "\r")), max(0, t.Width-5))) + "\n")
		}
	}
}

func writeHint(b *strings.Builder, hint string, k ink, t Terminal) {
	if hint == "" {
		return
	}
	for _, h := range strings.Split(hint, "\n") {
		for _, l := range wrap(Escape(h), max(0, t.Width-3)) {
			b.WriteString("   " + k.paint(k.cyan, l) + "\n")
		}
	}
}

func onServer(name string) string {
	if name == "" {
		return ""
	}
	return " on " + Escape(name)
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// Millis is a duration as people say it: "0.4 s", "6.1 s", "2 m 05 s".
func Millis(ms int64) string {
	if ms < 59_950 {
		return fmt.Sprintf("%.1f s", float64(ms)/1000)
	}
	s := (ms + 500) / 1000
	if s < 3600 {
		return fmt.Sprintf("%d m %02d s", s/60, s%60)
	}
	return fmt.Sprintf("%d h %02d m", s/3600, s%3600/60)
}

func cutRunes(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// Table aligns rows of already escaped cells below a head; the last column is not padded.
func Table(head []string, rows [][]string, t Terminal) string {
	k := t.ink()
	w := make([]int, len(head))
	for _, r := range append([][]string{head}, rows...) {
		for i, c := range r {
			w[i] = max(w[i], lipgloss.Width(c))
		}
	}
	var b strings.Builder
	line := func(cells []string, paint bool) {
		var l string
		for i, c := range cells {
			if i < len(cells)-1 {
				c = pad(c, w[i]) + "   "
			}
			l += c
		}
		l = clip(strings.TrimRight(l, " "), t.Width)
		if paint {
			l = k.paint(k.dim, l)
		}
		b.WriteString(l + "\n")
	}
	line(head, true)
	for _, r := range rows {
		line(r, false)
	}
	return b.String()
}

// Lines escapes a text of several lines, each behind indent.
func Lines(s, indent string) string {
	var b strings.Builder
	for _, l := range strings.Split(strings.TrimRight(s, "\n"), "\n") {
		b.WriteString(indent + Escape(strings.TrimRight(l, "\r")) + "\n")
	}
	return b.String()
}

package report

import (
	"slices"
	"strings"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
)

// maxCause is how much of a cause stands in the table, in bytes; the rest is folded below it.
const maxCause = 160

// A table is the order in which things happen: a line a bunch.
type table struct {
	about   About
	links   bool // resources link to their declaration
	waves   bool // more than one: the column is shown
	servers bool
	after   bool // of a run: outcome and duration instead of the cause
}

func (a About) table(bs []*bunch, after bool) table {
	t := table{about: a, links: len(bs) <= 60, after: after}
	first := ""
	for _, b := range bs {
		t.waves = t.waves || b.first().Wave > 0
		for _, s := range b.servers() {
			t.servers = t.servers || first != "" && s != first
			first = s
		}
	}
	return t
}

func (t table) head() string {
	cols, rule := []string{}, []string{}
	add := func(name, r string) { cols, rule = append(cols, name), append(rule, r) }
	if t.waves {
		add("wave", "---:")
	}
	add("resource", "---")
	if t.servers {
		add("server", "---")
	}
	add("action", "---")
	if t.after {
		add("outcome", "---")
		add("took", "---:")
	} else {
		add("because", "---")
	}
	return "| " + strings.Join(cols, " | ") + " |\n| " + strings.Join(rule, " | ") + " |\n"
}

func (t table) row(b *bunch) string {
	s := b.first()
	var cols []string
	if t.waves {
		wave := ""
		if s.Action.Changes() {
			wave = itoa(s.Wave)
		}
		cols = append(cols, wave)
	}
	cols = append(cols, t.resource(b))
	if t.servers {
		cols = append(cols, serverCell(b.servers()))
	}
	cols = append(cols, actionCell(s))
	if t.after {
		cols = append(cols, outcomeCell(b), tookCell(b))
	} else {
		cols = append(cols, causeCell(s))
	}
	return "| " + strings.Join(cols, " | ") + " |\n"
}

func (t table) resource(b *bunch) string {
	name := b.called(codeCell)
	if t.links && len(b.steps) == 1 {
		name = link(name, blobURL(t.about.Blob, b.first().Source.File, b.first().Source.Line))
	}
	return name
}

func serverCell(servers []string) string {
	if len(servers) > 3 {
		return plural(len(servers), "server")
	}
	out := make([]string, len(servers))
	for i, s := range servers {
		out[i] = cell(clipRunes(s, 80))
	}
	return strings.Join(out, ", ")
}

// actionCell is "**update** 1 of 2", of its services.
func actionCell(s *plan.Step) string {
	word := "**" + string(s.Action) + "**"
	if s.Action == plan.Update && len(s.Services) > 1 {
		n := 0
		for _, x := range s.Services {
			if x.Action != plan.None {
				n++
			}
		}
		word += " " + itoa(n) + " of " + itoa(len(s.Services))
	}
	return word
}

// CauseWords is a cause in words, not yet escaped for any sink.
func CauseWords(c plan.Cause) string {
	if c.Detail == "" {
		return causeWords(c.Kind)
	}
	return c.Detail
}

func causeCell(s *plan.Step) string {
	var parts []string
	i, image := soleImage(*s)
	if image != "" {
		old, _ := s.Changes[i].Old.(string)
		now, _ := s.Changes[i].New.(string)
		parts = append(parts, imageCell(old, now))
	}
	created := createdImages(s)
	var words []string
	for _, c := range s.Causes {
		if image != "" && (c.Kind == plan.ImageChanged || c.Kind == plan.SpecChanged && len(s.Changes) == 1) {
			continue
		}
		words = append(words, CauseWords(c))
	}
	if len(words) > 0 {
		parts = append(parts, cell(clipRunes(strings.Join(words, ", "), maxCause)))
	}
	if len(created) > 0 {
		parts = append(parts, "image "+strings.Join(created, ", "))
	}
	return strings.Join(parts, ", ")
}

// createdImages are the images of something new when they are all that its changes tell, and few: they stand in
// the table then.
func createdImages(s *plan.Step) []string {
	if s.Action != plan.Create || len(s.Changes) > 3 {
		return nil
	}
	var out []string
	for _, c := range s.Changes {
		image, ok := c.New.(string)
		if !ok || c.Old != nil || c.Path != "image" && !strings.HasSuffix(c.Path, ".image") {
			return nil
		}
		if code := codeCell(clipRunes(image, 120)); !slices.Contains(out, code) {
			out = append(out, code)
		}
	}
	return out
}

// imageCell leaves out what old and new have in common.
func imageCell(old, now string) string {
	both := imageChange(old, now)
	_, now, _ = strings.Cut(both, " → ")
	return "image " + codeCell(clipRunes(old, 120)) + " → " + codeCell(clipRunes(now, 120))
}

func outcomeCell(b *bunch) string {
	r := b.outcome()
	if r == nil {
		return ""
	}
	switch r.Status {
	case apply.StatusDone:
		return "done"
	case apply.StatusRolledBack:
		return "**failed**, put back"
	case apply.StatusNotTried:
		if r.Because != "" {
			return "not tried: after " + codeCell(clipRunes(string(r.Because), 120))
		}
		return "not tried" + colon(cell(clipRunes(r.Why, maxCause)))
	case apply.StatusUnknown:
		return "**outcome unknown**"
	}
	return "**" + statusWord(r.Status) + "**"
}

func tookCell(b *bunch) string {
	ms := b.millis()
	if ms == 0 {
		return ""
	}
	return Millis(ms)
}

// aggregate tells a plan that is too long to be read step by step: how much of what in each wave.
func aggregate(steps []*plan.Step) string {
	type wave struct {
		counts  plan.Summary
		servers map[string]bool
	}
	var waves []*wave
	for _, s := range steps {
		if !s.Action.Changes() {
			continue
		}
		for len(waves) <= s.Wave && len(waves) < 200 {
			waves = append(waves, &wave{plan.Summary{}, map[string]bool{}})
		}
		w := waves[min(s.Wave, len(waves)-1)]
		w.counts[s.Action]++
		w.servers[s.Server] = true
	}
	if len(waves) == 0 {
		return ""
	}
	const shown = 12
	var b strings.Builder
	b.WriteString("| wave | what happens | where |\n| ---: | --- | --- |\n")
	for i, w := range waves {
		if i == shown && len(waves) > shown+1 {
			rest, servers := plan.Summary{}, map[string]bool{}
			for _, w := range waves[i:] {
				for a, n := range w.counts {
					rest[a] += n
				}
				for s := range w.servers {
					servers[s] = true
				}
			}
			b.WriteString("| " + itoa(i) + " to " + itoa(len(waves)-1) + " | " + dots(rest) + " | " + plural(len(servers), "server") + " |\n")
			break
		}
		b.WriteString("| " + itoa(i) + " | " + dots(w.counts) + " | " + plural(len(w.servers), "server") + " |\n")
	}
	return b.String()
}

// dots is Counts as a comment has them.
func dots(s plan.Summary) string { return strings.ReplaceAll(Counts(s), ", ", " · ") }

// worth are the steps that a comment gives a line: what changes, and what cannot.
func worth(steps []plan.Step) (told []*plan.Step, away []*plan.Step, adopted int) {
	for i := range steps {
		s := &steps[i]
		switch s.Action {
		case plan.None:
		case plan.Adopt:
			adopted++
		case plan.Unknown:
			if len(s.Causes) == 1 && s.Causes[0].Kind == plan.Unreachable {
				away = append(away, s)
				continue
			}
			told = append(told, s)
		default:
			told = append(told, s)
		}
	}
	return told, away, adopted
}

func idOf(s string) string { return Code(clipRunes(s, 120)) }

// names lists resources or services in code, the first few.
func names[S ~string](all []S, most int) string {
	var out []string
	for i, name := range all {
		if i == most && len(all) > most+1 {
			return strings.Join(out, ", ") + " and " + itoa(len(all)-i) + " more"
		}
		out = append(out, idOf(string(name)))
	}
	return strings.Join(out, ", ")
}

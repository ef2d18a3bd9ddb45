package report

import (
	"cmp"
	"slices"
	"strings"

	"github.com/charmbracelet/lipgloss"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// alert is a block that a forge paints in the colour of its kind: CAUTION, WARNING, IMPORTANT, NOTE.
func alert(kind string, lines ...string) string {
	if len(lines) == 0 {
		return ""
	}
	return "> [!" + kind + "]\n> " + strings.Join(lines, "\n> ") + "\n"
}

// bullets are list lines for an alert, as many as fit into room; the last then says how many are left out. One
// alone needs no bullet.
func bullets(items []string, room int) []string {
	for i := range items {
		if items[i] == "" { // an empty bullet would make a heading of the line before
			items[i] = Code("")
		}
	}
	if len(items) == 1 && size(items[0]) < room {
		return items
	}
	for i := range items {
		items[i] = "- " + items[i]
	}
	n := take(items, room)
	if n == len(items) {
		return items
	}
	return append(items[:n:n], "- and "+itoa(len(items)-n)+" more, left out here")
}

// KeyChanges are warnings about the agents' keys that a commit lets in, locks out or exchanges. before may be nil.
func KeyChanges(before, now *schema.Config) []schema.Diagnostic {
	keys := func(c *schema.Config) map[string]*schema.Resource {
		out := map[string]*schema.Resource{}
		if c == nil {
			return out
		}
		for _, r := range c.Resources {
			if s, ok := r.Config.(*schema.ServerConfig); ok && s.PublicKey != "" {
				out[r.Name] = r
			}
		}
		return out
	}
	key := func(r *schema.Resource) string { return r.Config.(*schema.ServerConfig).PublicKey }
	old, cur := keys(before), keys(now)
	var out []schema.Diagnostic
	warn := func(pos schema.Pos, text string) {
		out = append(out, schema.Diagnostic{Severity: schema.SeverityWarning, Pos: pos, Message: text, Risk: schema.RiskKey})
	}
	for name, r := range cur {
		switch was := old[name]; {
		case was == nil:
			warn(r.Pos, "server/"+name+": lets in the agent with the key "+key(r))
		case key(was) != key(r):
			warn(r.Pos, "server/"+name+": the agent's key "+key(was)+" becomes "+key(r)+", the old one is locked out")
		}
	}
	for name, r := range old {
		if cur[name] == nil {
			warn(schema.Pos{}, "server/"+name+": the agent with the key "+key(r)+" is locked out")
		}
	}
	slices.SortFunc(out, func(a, b schema.Diagnostic) int { return cmp.Compare(a.Message, b.Message) })
	return out
}

// risks is the block on top: what a reader must not miss.
func (a About) risks(p *plan.Plan, room int) string {
	warnings := slices.Concat(a.Warnings, p.Diagnostics)
	kind, items := "WARNING", []string(nil)
	if data := a.riskItems(warnings, schema.RiskData); len(data) > 0 {
		kind, items = "CAUTION", append(items, data...)
	}
	if gone := removals(p.Steps); len(gone) > 0 {
		kind, items = "CAUTION", append(items, gone...)
	}
	items = append(items, a.riskItems(warnings, schema.RiskPrivilege)...)
	items = append(items, a.riskItems(warnings, schema.RiskKey)...)
	if len(items) == 0 {
		return ""
	}
	return alert(kind, bullets(items, room)...)
}

// removals are what a plan takes away: whole resources, and services of those that stay.
func removals(steps []plan.Step) []string {
	var gone []schema.ID
	var out []string
	servers := map[string]bool{}
	server := ""
	for i := range steps {
		s := &steps[i]
		if s.Action == plan.Remove {
			gone = append(gone, s.Resource)
			servers[s.Server], server = true, s.Server
			continue
		}
		var services []string
		for _, x := range s.Services {
			if x.Action == plan.Remove {
				services = append(services, x.Name)
			}
		}
		if len(services) > 0 {
			out = append(out, "**removed** from "+idOf(string(s.Resource))+": "+plural(len(services), "service")+" "+names(services, 8))
		}
	}
	switch {
	case len(gone) == 0:
		return out
	case len(servers) == 1 && server != "":
		return append([]string{"**removed** from " + Markdown(clipRunes(server, 80)) + ": " + names(gone, 8)}, out...)
	}
	return append([]string{"**removed** from " + plural(len(servers), "server") + ": " + names(gone, 8)}, out...)
}

// riskItems are the warnings of one risk; those that differ in the resource only are told once.
func (a About) riskItems(ds []schema.Diagnostic, risk schema.Risk) []string {
	type same struct {
		text string
		ids  []schema.ID
		pos  schema.Pos
	}
	var all []*same
	at := map[string]*same{}
	for _, d := range ds {
		if d.Risk != risk || d.Severity != schema.SeverityWarning {
			continue
		}
		id, text := subject(d.Message)
		s := at[text]
		if s == nil {
			s = &same{text: text, pos: d.Pos}
			at[text] = s
			all = append(all, s)
		}
		s.ids = append(s.ids, id)
	}
	var out []string
	for _, s := range all {
		line := "**" + riskWord(risk) + "** "
		switch {
		case len(s.ids) > 1:
			line += names(s.ids, 4) + ": "
		case s.ids[0] != "":
			line += idOf(string(s.ids[0])) + ": "
		}
		line += Markdown(clipRunes(s.text, 400))
		if place := a.place(s.pos, Code); place != "" && len(s.ids) == 1 {
			line += " (" + place + ")"
		}
		out = append(out, line)
	}
	return out
}

func riskWord(r schema.Risk) string {
	switch r {
	case schema.RiskData:
		return "data"
	case schema.RiskPrivilege:
		return "privilege"
	case schema.RiskKey:
		return "key"
	}
	return "risk"
}

// subject splits "stack/web: mounts …" into the resource and what is said of it.
func subject(message string) (schema.ID, string) {
	id, text, ok := strings.Cut(message, ": ")
	if kind, name, slash := strings.Cut(id, "/"); !ok || !slash || name == "" || strings.ContainsAny(kind, " \t") {
		return "", message
	}
	return schema.ID(id), text
}

// approval says that a plan will wait for an approval once it is merged, or that it does now, and how to give it:
// before the merge there is nothing to approve yet.
func (a About) approval(p *plan.Plan, merged bool, room int) string {
	if len(p.Asks) == 0 && (merged || !a.Manual || !p.Changes()) {
		return ""
	}
	waits := "After the merge this waits for an approval"
	if merged {
		waits = "This waits for an approval"
	}
	lines := []string{waits + ", which `apply = \"manual\"` asks for."}
	if len(p.Asks) > 0 {
		items := make([]string, len(p.Asks))
		for i, ask := range p.Asks {
			items[i] = Markdown(clipRunes(ask, 300))
		}
		items = bullets(items, room)
		lines = append([]string{waits + ", because"}, items...)
		if len(items) == 1 {
			lines = []string{waits + ", because " + items[0]}
		}
	}
	var ways []string
	if a.Command != "" {
		ways = append(ways, "comment "+Code(a.Command))
	}
	how := "To give it then"
	if merged {
		how = "To approve exactly this plan"
		if p.Digest != "" {
			ways = append(ways, "run "+Code("varan approve "+clipRunes(p.Digest, 120))+" where the daemon runs")
		}
	}
	if len(ways) > 0 {
		lines = append(lines, "", how+", "+strings.Join(ways, " or ")+".")
	}
	return alert("IMPORTANT", lines...)
}

// answers are the notes on top.
func (a About) answers(room int) string {
	var items []string
	for _, n := range a.Notes {
		items = append(items, Markdown(clipRunes(n, 600)))
	}
	if len(items) == 0 {
		return ""
	}
	return alert("NOTE", bullets(items, room)...)
}

// unreachables says which servers could not be asked.
func unreachables(away []*plan.Step, room int) string {
	count := map[string]int{}
	var servers, items []string
	why := map[string]string{}
	for _, s := range away {
		if count[s.Server] == 0 {
			servers = append(servers, s.Server)
			why[s.Server] = strings.TrimPrefix(s.Causes[0].Detail, "server "+s.Server+": ")
		}
		count[s.Server]++
	}
	for _, s := range servers {
		line := "**" + Markdown(clipRunes(s, 80)) + "** is unreachable, " + plural(count[s], "step") + " unknown"
		items = append(items, line+colon(Markdown(clipRunes(why[s], 200))))
	}
	if len(items) == 0 {
		return ""
	}
	return alert("NOTE", bullets(items, room)...)
}

// errors shows mistakes at their lines.
func (a About) errors(ds []schema.Diagnostic, room int) string {
	var items []string
	for _, d := range ds {
		if d.Severity == schema.SeverityError {
			items = append(items, a.mistake(d))
		}
	}
	n := take(items, room)
	out := strings.Join(items[:n], "\n")
	if n < len(items) {
		out += "\nAnd " + plural(len(items)-n, "more error") + ", left out here: `varan validate` lists them all.\n"
	}
	return out
}

func (a About) mistake(d schema.Diagnostic) string {
	var b strings.Builder
	text := clipRunes(d.Message, 600)
	if place := a.place(d.Pos, Code); place != "" {
		b.WriteString("**" + place + "** " + Markdown(text) + "\n")
	} else {
		b.WriteString("**error** " + Markdown(text) + "\n")
	}
	var w strings.Builder
	hint := strings.Split(d.Hint, "\n")
	caret := writeCaret(&w, d, a.Source, Terminal{}.ink(), lipgloss.Style{}, Terminal{})
	if w.Len() == 0 {
		if d.Hint != "" {
			b.WriteString("\nHint: " + Markdown(clipRunes(strings.Join(hint, " "), 600)) + "\n")
		}
		return b.String()
	}
	lines := strings.Split(strings.TrimRight(w.String(), "\n"), "\n")
	if caret != "" {
		lines = append(lines, caret+" "+clipRunes(hint[0], 300))
		for _, h := range hint[1:] {
			lines = append(lines, "      | "+clipRunes(h, 300))
		}
	}
	b.WriteString("\n" + fence("", lines))
	return b.String()
}

// notes folds away the warnings without a risk.
func (a About) notes(p *plan.Plan, room int) string {
	var items []string
	for _, d := range slices.Concat(a.Warnings, p.Diagnostics) {
		if d.Severity != schema.SeverityWarning || d.Risk != "" {
			continue
		}
		line := Markdown(clipRunes(d.Message, 400))
		if place := a.place(d.Pos, Code); place != "" {
			line = place + ": " + line
		} else {
			line = "Note: " + line
		}
		if d.Hint != "" {
			line += " (" + Markdown(clipRunes(strings.ReplaceAll(d.Hint, "\n", " "), 200)) + ")"
		}
		items = append(items, line)
	}
	if len(items) == 0 {
		return ""
	}
	head := "<details><summary>" + plural(len(items), "warning") + "</summary>\n\n"
	return head + strings.Join(bullets(items, room-size(head)-100), "\n") + "\n\n</details>\n"
}

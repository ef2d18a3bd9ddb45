package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/charmbracelet/lipgloss"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

func itoa(n int) string { return strconv.Itoa(n) }

// A Head says of what a plan is.
type Head struct {
	Name   string // the repository's or folder's name
	Commit string // full id; "" outside Git
	OnDisk bool   // files were read as they lie on disk, uncommitted changes included
	Next   string // what to type to carry it out; "" = nothing to say
	All    bool   // show unchanged steps too
	Source func(file string) []byte
}

// Plan is a plan as people read it: what it is of, warnings, the steps in their order, the count.
func Plan(p *plan.Plan, h Head, t Terminal) string {
	var b strings.Builder
	k := t.ink()
	servers := map[string]bool{}
	for _, s := range p.Steps {
		if s.Server != "" {
			servers[s.Server] = true
		}
	}
	left := k.paint(k.bold, headline(h))
	right := plural(len(p.Steps), "resource") + ", " + plural(len(servers), "server")
	b.WriteString(pad(left, 46) + " " + k.paint(k.dim, right) + "\n")
	if len(p.Diagnostics) > 0 {
		b.WriteString("\n" + Diagnostics(p.Diagnostics, h.Source, t))
	}
	rows, unreachable, quiet := rowsOf(p.Steps, h.All)
	if len(rows) > 0 {
		b.WriteString("\n")
		writeRows(&b, rows, k, t)
	}
	if len(unreachable) > 0 {
		b.WriteString("\n")
		for _, u := range unreachable {
			b.WriteString("  " + k.paint(k.magenta, "? "+u) + "\n")
		}
	}
	if len(quiet) > 0 {
		b.WriteString("\n")
		for _, q := range quiet {
			for i, l := range wrap(q, max(0, t.Width-4)) {
				b.WriteString(map[bool]string{true: "  ", false: "    "}[i == 0] + k.paint(k.dim, l) + "\n")
			}
		}
	}
	b.WriteString("\n")
	for _, a := range p.Asks {
		b.WriteString(k.paint(k.yellow, "asks: ") + Escape(a) + "\n")
	}
	b.WriteString(lastLine(p, h, k))
	return b.String()
}

func headline(h Head) string {
	s := Escape(h.Name)
	if h.Commit != "" {
		s += " @ " + Escape(short(h.Commit))
	}
	if h.OnDisk {
		s += " (as on disk)"
	}
	return s
}

func lastLine(p *plan.Plan, h Head, k ink) string {
	counts := Counts(p.Summary)
	if errs := countErrors(p.Diagnostics); errs > 0 {
		return k.paint(k.red, "Not appliable: "+plural(errs, "error")+".") + " Plan: " + counts + ".\n"
	}
	if !p.Changes() {
		return k.paint(k.green, "Nothing to do") + ": " + counts + ".\n"
	}
	s := k.paint(k.bold, "Plan:") + " " + counts + "."
	if h.Next != "" {
		s += "  " + k.paint(k.dim, h.Next+" to carry it out.")
	}
	return s + "\n"
}

func countErrors(ds []schema.Diagnostic) int {
	n := 0
	for _, d := range ds {
		if d.Severity == schema.SeverityError {
			n++
		}
	}
	return n
}

// order is how a summary is told: what changes first.
var order = [...]plan.Action{
	plan.Create, plan.Update, plan.Recreate, plan.Restart, plan.Stop, plan.Run, plan.Remove, plan.ReleaseObjects,
	plan.Adopt, plan.Held, plan.Blocked, plan.Unknown, plan.None,
}

// Counts is "2 create, 1 update, 58 unchanged".
func Counts(s plan.Summary) string {
	var parts []string
	for _, a := range order {
		if n := s[a]; n > 0 {
			parts = append(parts, itoa(n)+" "+countWord(a))
		}
	}
	if len(parts) == 0 {
		return "no resources"
	}
	return strings.Join(parts, ", ")
}

func countWord(a plan.Action) string {
	if a == plan.None {
		return "unchanged"
	}
	return string(a)
}

// A row is one line of the table with what stands below it.
type row struct {
	wave, glyph, name, server, action, cause string
	action0                                  plan.Action
	below                                    []detail
}

type detail struct{ path, old, new string }

// rowsOf picks what is worth a line; steps unknown for an unreachable server become one line a server, and
// adoptions one line for all when they are many.
func rowsOf(steps []plan.Step, all bool) (rows []row, unreachable, quiet []string) {
	away := map[string]int{}
	why := map[string]string{}
	var adopted []string
	for _, s := range steps {
		switch s.Action {
		case plan.None:
			if !all {
				continue
			}
		case plan.Adopt:
			if !all {
				adopted = append(adopted, Escape(string(s.Resource)))
				continue
			}
		case plan.Unknown:
			if len(s.Causes) == 1 && s.Causes[0].Kind == plan.Unreachable {
				away[s.Server]++
				why[s.Server] = strings.TrimPrefix(s.Causes[0].Detail, "server "+s.Server+": ")
				continue
			}
		}
		rows = append(rows, rowOf(s))
	}
	for server, n := range away {
		line := Escape(server) + " is unreachable: " + plural(n, "step") + " unknown"
		if why[server] != "" {
			line += " (" + Escape(why[server]) + ")"
		}
		unreachable = append(unreachable, line)
	}
	sort.Strings(unreachable)
	if len(adopted) > 0 {
		names := strings.Join(adopted, ", ")
		if len(adopted) > 12 {
			names = strings.Join(adopted[:12], ", ") + fmt.Sprintf(" and %d more", len(adopted)-12)
		}
		verb := " runs"
		if len(adopted) > 1 {
			verb = " run"
		}
		quiet = append(quiet, "= "+names+verb+" as declared already: taken over without a restart")
	}
	return rows, unreachable, quiet
}

func rowOf(s plan.Step) row {
	r := row{
		wave: itoa(s.Wave), glyph: glyph(s.Action), name: Escape(string(s.Resource)), server: Escape(s.Server),
		action: actionText(s), action0: s.Action,
	}
	if !s.Action.Changes() {
		r.wave = "·"
	}
	image, imageCause := soleImage(s)
	r.cause = causes(s, imageCause)
	if s.Action == plan.Create || s.Action == plan.None || s.Action == plan.Adopt {
		return r
	}
	if line := serviceLine(s); line != "" {
		r.below = append(r.below, detail{path: line})
	}
	for i, c := range s.Changes {
		if i == image && imageCause != "" {
			continue
		}
		r.below = append(r.below, changeDetail(c))
	}
	return r
}

// soleImage finds the one changed image of a step, which is told in the cause's place.
func soleImage(s plan.Step) (index int, text string) {
	index = -1
	for i, c := range s.Changes {
		if c.Path != "image" && !strings.HasSuffix(c.Path, ".image") {
			continue
		}
		old, ok1 := c.Old.(string)
		new, ok2 := c.New.(string)
		if index >= 0 || !ok1 || !ok2 {
			return -1, ""
		}
		index, text = i, "image "+imageChange(Escape(old), Escape(new))
	}
	return index, text
}

// imageChange leaves out what old and new have in common: "postgres:16.3 → 16.4".
func imageChange(old, new string) string {
	i := strings.LastIndexByte(old, ':')
	if i > 0 && !strings.Contains(old, "@") && strings.HasPrefix(new, old[:i+1]) && !strings.ContainsAny(old[i:], "/") && !strings.Contains(new, "@") {
		return old + " → " + new[i+1:]
	}
	return old + " → " + new
}

func glyph(a plan.Action) string {
	switch a {
	case plan.Create:
		return "+"
	case plan.Update:
		return "~"
	case plan.Recreate:
		return "±"
	case plan.Restart:
		return "↻"
	case plan.Stop:
		return "■"
	case plan.Run:
		return "▸"
	case plan.Adopt:
		return "="
	case plan.Remove:
		return "-"
	case plan.ReleaseObjects:
		return "○"
	case plan.Unknown:
		return "?"
	case plan.Blocked:
		return "!"
	case plan.Held:
		return "‖"
	}
	return " "
}

func (k ink) style(a plan.Action) lipgloss.Style {
	switch a {
	case plan.Create, plan.Adopt:
		return k.green
	case plan.Update, plan.Recreate:
		return k.yellow
	case plan.Restart, plan.Stop, plan.Run:
		return k.cyan
	case plan.Remove, plan.Blocked:
		return k.red
	case plan.Unknown, plan.Held, plan.ReleaseObjects:
		return k.magenta
	}
	return k.dim
}

// actionText is "update 1/2" when only some services are touched.
func actionText(s plan.Step) string {
	if s.Action == plan.Update && len(s.Services) > 1 {
		n := 0
		for _, x := range s.Services {
			if x.Action != plan.None {
				n++
			}
		}
		return fmt.Sprintf("update %d/%d", n, len(s.Services))
	}
	if s.Action == plan.None {
		return "unchanged"
	}
	return string(s.Action)
}

// serviceLine says what happens to which service when that is not the same for all.
func serviceLine(s plan.Step) string {
	if s.Action != plan.Update {
		return ""
	}
	by := map[plan.Action][]string{}
	for _, x := range s.Services {
		if x.Action != plan.None {
			by[x.Action] = append(by[x.Action], Escape(x.Name))
		}
	}
	var parts []string
	for _, a := range order {
		if names := by[a]; len(names) > 0 {
			if len(names) > 6 {
				names = append(names[:6:6], fmt.Sprintf("%d more", len(names)-6))
			}
			parts = append(parts, string(a)+" "+strings.Join(names, ", "))
		}
	}
	return strings.Join(parts, " · ")
}

func changeDetail(c plan.Change) detail {
	d := detail{path: Escape(strings.TrimPrefix(c.Path, "services."))}
	if d.path == "" {
		d.path = "declaration"
	}
	switch {
	case c.Old == nil && c.New == nil:
		d.new = "changed"
		if c.Secret {
			d.new = "secret changed"
		}
		return d
	case c.Old == nil:
		d.new = "+ " + value(c.New)
	case c.New == nil:
		d.new = "- " + value(c.Old)
	default:
		d.old, d.new = value(c.Old), value(c.New)
		if isHash(d.old) && isHash(d.new) {
			d.old, d.new = short(d.old), short(d.new)
		}
	}
	return d
}

// value shows one side of a change in one line.
func value(v any) string {
	s, ok := v.(string)
	if !ok {
		var buf bytes.Buffer
		e := json.NewEncoder(&buf)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return "?"
		}
		return clip(Escape(strings.TrimSpace(buf.String())), 120)
	}
	if s == "" {
		return `""`
	}
	if n := strings.Count(strings.TrimSuffix(s, "\n"), "\n"); n > 0 {
		first, _, _ := strings.Cut(s, "\n")
		return clip(Escape(first), 60) + fmt.Sprintf(" … (%d lines)", n+1)
	}
	return clip(Escape(strings.TrimSuffix(s, "\n")), 120)
}

func isHash(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

// short is a commit or blob id as people quote it.
func short(s string) string {
	if isHash(s) {
		return s[:7]
	}
	return s
}

// causeWords say a cause without its detail.
func causeWords(k plan.CauseKind) string {
	switch k {
	case plan.NotRunning:
		return "not running"
	case plan.SpecChanged:
		return "changed"
	case plan.FileChanged:
		return "file changed"
	case plan.HostFileChanged:
		return "host file changed"
	case plan.SecretChanged:
		return "secret changed"
	case plan.ImageChanged:
		return "image changed"
	case plan.Drifted:
		return "drifted"
	case plan.CameAfter:
		return "comes after what changes"
	case plan.Shares:
		return "shares with what is replaced or restarted"
	case plan.Needs:
		return "restarts with what it needs"
	case plan.Orphaned:
		return "no longer declared"
	case plan.Released:
		return "released"
	case plan.NotAdoptable:
		return "runs and differs"
	case plan.Unreachable:
		return "unreachable"
	case plan.NotRead:
		return "not read"
	case plan.NoValue:
		return "a name without a value"
	case plan.NotCarriedOut:
		return "not carried out by this version"
	case plan.OnHold:
		return "held"
	case plan.EnsureChanged:
		return "ensure"
	case plan.Elsewhere:
		return "not this machine"
	case plan.NotAsked:
		return "not asked for"
	case plan.Unhealthy:
		return "unhealthy"
	case plan.Conflict:
		return "taken"
	case plan.Invalid:
		return "refused"
	case plan.WaitsFor:
		return "what it comes after cannot be changed now"
	case plan.ServerDisabled:
		return "server disabled"
	case plan.Renamed:
		return "renamed"
	case plan.Adopted:
		return "runs as declared and is taken over untouched"
	case plan.OwnContainer:
		return "varan runs in it"
	}
	return string(k)
}

// causes is the because-column.
func causes(s plan.Step, image string) string {
	var parts []string
	if image != "" {
		parts = append(parts, image)
	}
	for _, c := range s.Causes {
		if image != "" && c.Kind == plan.ImageChanged || image != "" && c.Kind == plan.SpecChanged && len(s.Changes) == 1 {
			continue
		}
		parts = append(parts, causeText(c))
	}
	return strings.Join(parts, ", ")
}

// causeText is the detail, which plan words in full, or what the kind says by itself.
func causeText(c plan.Cause) string {
	if c.Detail == "" {
		return causeWords(c.Kind)
	}
	return Escape(c.Detail)
}

func writeRows(b *strings.Builder, rows []row, k ink, t Terminal) {
	var wWave, wName, wServer, wAction int
	for _, r := range rows {
		wWave = max(wWave, lipgloss.Width(r.wave))
		wName = max(wName, lipgloss.Width(r.name))
		wServer = max(wServer, lipgloss.Width(r.server))
		wAction = max(wAction, lipgloss.Width(r.action))
	}
	lead := 2 + wWave + 2 + 2
	causeAt := lead + wName + 3 + wServer + 3 + wAction + 3
	room := 0
	if t.Width > 0 {
		room = t.Width - causeAt
		if room < 24 { // too narrow for a column: the cause gets lines of its own
			causeAt, room = lead+2, max(24, t.Width-lead-2)
		}
	}
	for _, r := range rows {
		st := k.style(r.action0)
		line := "  " + k.paint(k.dim, padLeft(r.wave, wWave)) + "  " + k.paint(st, r.glyph) + " " + pad(r.name, wName) +
			"   " + pad(r.server, wServer) + "   " + k.paint(st, pad(r.action, wAction))
		lines := wrap(r.cause, room)
		if causeAt == lead+2 && r.cause != "" {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
		} else {
			b.WriteString(strings.TrimRight(line+"   "+lines[0], " ") + "\n")
			lines = lines[1:]
		}
		for _, l := range lines {
			if l != "" {
				b.WriteString(strings.Repeat(" ", causeAt) + l + "\n")
			}
		}
		writeDetails(b, r.below, lead+2, k, t)
	}
}

// writeDetails aligns the values of a step's changes; what does not fit takes a line a side.
func writeDetails(b *strings.Builder, ds []detail, indent int, k ink, t Terminal) {
	w := 0
	for _, d := range ds {
		if d.old != "" || d.new != "" {
			w = max(w, min(40, lipgloss.Width(d.path)))
		}
	}
	in := strings.Repeat(" ", indent)
	for _, d := range ds {
		switch {
		case d.old == "" && d.new == "":
			b.WriteString(in + k.paint(k.dim, d.path) + "\n")
		case d.old == "":
			b.WriteString(in + pad(d.path, w) + "   " + k.sign(d.new) + "\n")
		default:
			one := d.old + " → " + d.new
			if t.Width > 0 && indent+w+3+lipgloss.Width(one) > t.Width {
				b.WriteString(in + d.path + "\n" + in + "  " + k.sign("- "+d.old) + "\n" + in + "  " + k.sign("+ "+d.new) + "\n")
				continue
			}
			b.WriteString(in + pad(d.path, w) + "   " + k.paint(k.red, d.old) + " → " + k.paint(k.green, d.new) + "\n")
		}
	}
}

func (k ink) sign(s string) string {
	if strings.HasPrefix(s, "- ") {
		return k.paint(k.red, s)
	}
	if strings.HasPrefix(s, "+ ") {
		return k.paint(k.green, s)
	}
	return s
}

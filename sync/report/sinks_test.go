package report

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
	"pgregory.net/rapid"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// hostiles are texts that have fooled somebody's renderer.
var hostiles = []string{
	"name", "@all", "@acme/admins", "fixes #1", "closes GH-12", "Resolves acme/infra#7", "resolves PROJ-7", "see !12 and ~bug and %3 and $9 and &4",
	"[x](http://evil.example)", "![x](http://evil.example/x.png)", "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "</details></summary>", "<!-- varan:main -->", "-->",
	"http://evil.example", "https://evil.example/a?b", "www.evil.example", "mailto:me@evil.example", "ftp://evil.example", "me@evil.example", "xmpp:me@evil.example/x",
	"`a`", "``", "```", "````\n/close", "~~~", "~~a~~", "**b**", "__b__", "*a_b*", "a|b", `a\|b`, `\`, `\\|`, "|---|", "| a | b |", "a`|`b", "\\`", "`\\`|",
	"\n/close", "/close", "/varan apply", "\r/label ~x", "a\r\n\r\n# h", "# h", "- [x] done", "1. one", "1) one", "+ x", "=====", "-----", "***", "> quote", "    code", "\tcode", "[ref]: http://evil.example",
	"[^1]", "[^1]: note", ":smile:", "a:tada:b", "$x$", "$`x`$", "deadbeef1234567", "commit 4f2c1e9a0b3d5c7e9f1a2b3c4d5e6f708192a3b4",
	"\u202eolleh", "\u200b@\u200ball", "\u2066x\u2069", "\ufeff", "\x1b[31mred", "\x00", "\xff\xfe", "\U000e0041", "\u3164", "é\u0301", "e\u0301", "日本語", "🦎", "a\u00a0b", "\u2028x", "\u2029/x",
	`"]; click n0 "http://evil.example"`, "end", "]:::x", "subgraph x", "%%{init: {}}%%", "#quot;", "&lt;img&gt;", "&#64;all", "&amp;", "{{x}}", "\\u{41}",
	"../../x", "a/../b", "/etc/passwd", "javascript:alert(1)", "a b.toml", "(x)", "a)b", "a]b", "a\"b", "a'b", "%2e%2e", "ftp.", "v1.2.3", "::error::x", "%0A::error::",
	"", " ", "  x  ", "`", " ` ", "'", "\"", "(", ")", "...", "a\tb", strings.Repeat("`", 200), strings.Repeat("x", 5000), strings.Repeat("a|", 300), strings.Repeat("\u202e", 500),
}

// ours are the URLs that a comment may link to.
var ours = regexp.MustCompile(`^https://(github\.com/acme/infra/blob/` + head + `/[A-Za-z0-9._~%/-]+(#L\d+)?|varan\.acme\.example/runs/[\w-]+)$`)

// live is what a forge makes a link, a mention, a reference or an emoji of where it stands outside of code.
var live = regexp.MustCompile(`(?i)@|#\d|://|www\.|\b[a-z]+-\d+\b|\b[0-9a-f]{7,}\b|[!~$&%]\w*\d|:\w+:|\[\^`)

var (
	elements   = strings.Fields("h3 p blockquote ul li table thead tbody tr th td code pre a details summary sub strong br")
	commentRE  = regexp.MustCompile(`^ varan(:[\w.:%-]*|-plan digest=[\w.:%-]* commit=[\w:.%-]*) $`)
	mermaidRE  = regexp.MustCompile(`^(flowchart LR|  subgraph s\d+\["[A-Za-z0-9 .#;-]*"\]|    n\d+\["[A-Za-z0-9 .#;-]*"\]:::[a-z]+|  end|  class s\d+ server|  n\d+ --> n\d+|  classDef [a-z]+ [a-z0-9:#,-]+|)$`)
	attributes = map[string]string{"code class": "language-diff language-mermaid", "details open": "", "th style": "text-align:right text-align: right", "td style": "text-align:right text-align: right", "th align": "right", "td align": "right"}
)

// checkComment renders a comment as forges do and looks for anything in it that is not ours. It returns the
// elements it consists of.
func checkComment(t testing.TB, name, md string) (skeleton []string) {
	t.Helper()
	bad := func(format string, args ...any) { t.Errorf("%s: %s", name, fmt.Sprintf(format, args...)) }
	for _, line := range strings.Split(md, "\n") {
		if strings.HasPrefix(line, "/") {
			bad("a line begins with a slash: %q", line)
		}
		if strings.ContainsFunc(line, hidden) {
			bad("hidden characters in %q", line)
		}
	}
	if n := utf8.RuneCountInString(md); n > CommentLimit || size(md) > CommentLimit {
		bad("%d characters, more than %d", n, CommentLimit)
	}
	root, err := html.Parse(strings.NewReader(renderT(t, md)))
	if err != nil {
		bad("%v", err)
		return nil
	}
	var walk func(n *html.Node, code bool)
	walk = func(n *html.Node, code bool) {
		switch n.Type {
		case html.CommentNode:
			if !commentRE.MatchString(n.Data) {
				bad("an HTML comment that is not ours: %q", n.Data)
			}
		case html.TextNode:
			if m := live.FindString(strings.ReplaceAll(n.Data, "[!", "")); !code && m != "" {
				bad("%q is live in %q", m, n.Data)
			}
		case html.ElementNode:
			if slices.Contains([]string{"html", "head", "body"}, n.Data) {
				break
			}
			if !slices.Contains(elements, n.Data) {
				bad("an element <%s> that is not ours", n.Data)
			}
			for _, at := range n.Attr {
				if n.Data == "a" && at.Key == "href" {
					if !ours.MatchString(at.Val) {
						bad("a link to %q", at.Val)
					}
					continue
				}
				if allowed, ok := attributes[n.Data+" "+at.Key]; !ok || !strings.Contains(allowed, at.Val) {
					bad("<%s %s=%q>", n.Data, at.Key, at.Val)
				}
				if at.Val == "language-mermaid" {
					for _, line := range strings.Split(n.FirstChild.Data, "\n") {
						if !mermaidRE.MatchString(line) {
							bad("a graph's line %q", line)
						}
					}
				}
			}
			if n.Data != "code" && n.Data != "a" && n.Data != "br" {
				skeleton = append(skeleton, n.Data)
			}
			code = code || n.Data == "code" || n.Data == "pre"
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c, code)
		}
	}
	walk(root, false)
	return skeleton
}

// checkHostile puts s everywhere and compares the comments' structure with that of a harmless text.
func checkHostile(t testing.TB, s string) {
	t.Helper()
	p, r, a := hostile(s)
	q, rq, aq := hostile("name")
	asks, askq := *r, *rq
	asks.Status, askq.Status = apply.StatusAsks, apply.StatusAsks
	ds := []schema.Diagnostic{{Severity: schema.SeverityError, Pos: schema.Pos{File: s, Line: 1, Column: 1}, Message: s, Hint: s}, {Severity: schema.SeverityError, Message: s, Hint: s}}
	for _, c := range []struct{ name, got, like string }{
		{"preview", Preview(p, a), Preview(q, aq)},
		{"outcome", Outcome(p, r, a), Outcome(q, rq, aq)},
		{"asks", Outcome(p, &asks, a), Outcome(q, &askq, aq)},
		{"broken", Broken(ds, a), ""},
		{"not previewed", NotPreviewed(s, a), NotPreviewed("name", aq)},
	} {
		got := checkComment(t, fmt.Sprintf("%s of %q", c.name, s), c.got)
		if c.like == "" || len(s) > 30 || strings.ContainsAny(s, "\n/:") || strings.TrimSpace(s) == "" {
			continue // other parts are shown, or more of them
		}
		if want := checkComment(t, c.name, c.like); !slices.Equal(got, want) {
			t.Errorf("%s of %q has another structure\n got %v\nwant %v\n%s", c.name, s, got, want, c.got)
		}
	}
	if !strings.HasPrefix(Preview(p, a), Marker(s)+"\n") {
		t.Errorf("the marker of %q is not found again", s)
	}
	a.Output = true
	checkComment(t, fmt.Sprintf("output of %q", s), Outcome(p, r, a))
	for _, d := range []string{Status(s), PlanStatus(p), ApplyStatus(r), ApplyStatus(&asks), BrokenStatus(ds)} {
		if n := utf8.RuneCountInString(d); n > StatusLimit || strings.ContainsFunc(d, hidden) {
			t.Errorf("status of %q: %d characters: %q", s, n, d)
		}
	}
	if c := Context(PlanContext, s); utf8.RuneCountInString(c) > contextLimit || strings.ContainsFunc(c, hidden) {
		t.Errorf("context of %q: %q", s, c)
	}
}

// TestSpans: each text sink shows all that a person would see, alone and in a cell of a table.
func TestSpans(t *testing.T) {
	for _, s := range hostiles {
		for name, md := range map[string]string{"Markdown": "x " + Markdown(s), "Code": "x " + Code(s), "cell": "| a |\n| --- |\n| x " + cell(s) + " |", "codeCell": "| a |\n| --- |\n| x " + codeCell(s) + " |"} {
			root, err := html.Parse(strings.NewReader(renderT(t, md)))
			if err != nil {
				t.Fatal(err)
			}
			squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
			got, want := squeeze(textOf(root)), "x"+squeeze(Escape(s))
			got, want = strings.ReplaceAll(got, `\u{7c}`, "|"), strings.ReplaceAll(want, `\u{7c}`, "|")
			if strings.HasPrefix(name, "c") {
				want = "a" + want
			}
			if want == "x" || want == "ax" || strings.Trim(s, " ") == "" {
				continue
			}
			if got != want {
				t.Errorf("%s(%q) = %q shows %q, want %q", name, s, md, got, want)
			}
		}
	}
}

func textOf(n *html.Node) string {
	if n.Type == html.TextNode {
		return n.Data
	}
	var b strings.Builder
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		b.WriteString(textOf(c))
	}
	return b.String()
}

// FuzzSinks is each function of a comment by itself, which is quick enough for a fuzzer to get somewhere.
func FuzzSinks(f *testing.F) {
	for _, s := range hostiles {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 600 {
			return
		}
		md := "x " + Markdown(s) + "\n\n> " + Markdown(s) + "\n\n- " + Markdown(s) + "\n\n**" + idOf(s) + "** (" + Code(s) + ") " + link(Code(s), blobURL(about().Blob, s, 1)) +
			"\n\n| a | b |\n| --- | --- |\n| " + cell(s) + " | " + codeCell(s) + " |\n\n<details><summary>" + codeHTML(s) + "</summary>\n\n" + fence("diff", []string{"+ " + s}) + "\n</details>\n\n" +
			"```mermaid\n    n0[\"" + MermaidLabel(s) + "\"]:::run\n```\n\nend\n"
		got := checkComment(t, fmt.Sprintf("%q", s), md)
		want := strings.Fields("p blockquote p ul li p strong table thead tr th th tbody tr td td details summary pre pre p")
		if strings.Trim(s, " ") != "" && !slices.Equal(got, want) {
			t.Errorf("%q has the structure %v, want %v:\n%s", s, got, want, md)
		}
		if d := Status(s); utf8.RuneCountInString(d) > StatusLimit || strings.ContainsFunc(d, hidden) {
			t.Errorf("status of %q: %q", s, d)
		}
		if h := HTML(s); strings.ContainsFunc(strings.ReplaceAll(h, "\n", ""), hidden) {
			t.Errorf("page text of %q: %q", s, h)
		}
	})
}

// FuzzComment puts a text into every place of every comment; its seeds are the texts above.
func FuzzComment(f *testing.F) {
	for _, s := range hostiles {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) < 4000 {
			checkHostile(t, s)
		}
	})
}

// TestCommentLimit: whatever the plan, a comment is no longer than forges take, and nothing in it is cut open.
func TestCommentLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := func(label string, most int) string {
			unit := rapid.SampledFrom([]string{"x", "`", "|", "<", "\u202e", "🦎", "word ", "a/b ", "@", "\n"}).Draw(t, label)
			return strings.Repeat(unit, rapid.IntRange(0, most).Draw(t, label+" length"))
		}
		p := &plan.Plan{Asks: slices.Repeat([]string{text("asks", 2000)}, rapid.IntRange(0, 50).Draw(t, "number of asks"))}
		name, server, cause, old := text("name", 400), text("server", 400), text("cause", 1000), text("value", 500)
		actions := plan.Actions()
		steps := rapid.SampledFrom([]int{0, 1, 7, 60, 300}).Draw(t, "steps")
		alike := rapid.Bool().Draw(t, "alike")
		changes := rapid.IntRange(0, 9).Draw(t, "changes")
		waves := rapid.IntRange(1, 300).Draw(t, "waves")
		for i := range steps {
			tag := itoa(i)
			if alike {
				tag = ""
			}
			s := plan.Step{Resource: schema.ID("stack/" + name + itoa(i)), Server: server + itoa(i%97), Wave: i % waves, Action: actions[(i*7)%len(actions)],
				Causes: []plan.Cause{{Kind: plan.Drifted, Detail: cause + tag}}, Source: plan.Source{File: name, Line: i + 1}}
			if i > 0 {
				s.After = []schema.ID{p.Steps[i/2].Resource}
			}
			for j := range changes {
				s.Changes = append(s.Changes, plan.Change{Path: name + itoa(j), Old: old, New: old + tag + "y"})
			}
			p.Steps = append(p.Steps, s)
		}
		sum(p)
		var ds []schema.Diagnostic
		for i := range rapid.IntRange(0, 300).Draw(t, "diagnostics") {
			d := schema.Diagnostic{Severity: schema.SeverityWarning, Pos: schema.Pos{File: name, Line: i + 1, Column: 1}, Message: cause + itoa(i), Hint: old}
			d.Risk = []schema.Risk{"", schema.RiskData, schema.RiskKey, schema.RiskPrivilege}[i%4]
			ds = append(ds, d)
		}
		p.Diagnostics = ds
		a := about()
		a.Source = func(string) []byte { return []byte(strings.Repeat(old+"\n", 20)) }
		var odd []apply.StepResult
		for i := range p.Steps {
			if i%3 == 0 {
				odd = append(odd, apply.StepResult{Resource: p.Steps[i].Resource, Status: apply.StatusFailed, Error: cause + itoa(i), Hint: old, Tail: old})
			}
		}
		r := ran(p, odd...)
		a.Output = true
		a.Previewed = &plan.Plan{}
		broken := slices.Clone(ds)
		for i := range broken {
			broken[i].Severity = schema.SeverityError
		}
		for what, md := range map[string]string{"preview": Preview(p, a), "outcome": Outcome(p, r, a), "broken": Broken(broken, a)} {
			if n := size(md); n > CommentLimit {
				t.Errorf("%s has %d characters", what, n)
			}
			if strings.Count(md, "<details") != strings.Count(md, "</details>") {
				t.Errorf("%s is cut open: %d details, %d ends", what, strings.Count(md, "<details"), strings.Count(md, "</details>"))
			}
		}
	})
}

// TestLog: a log shows what came from elsewhere, in either form.
func TestLog(t *testing.T) {
	for _, s := range hostiles {
		var text, data strings.Builder
		for out, h := range map[*strings.Builder]func(io.Writer, *slog.HandlerOptions) slog.Handler{
			&text: func(w io.Writer, o *slog.HandlerOptions) slog.Handler { return slog.NewTextHandler(w, o) },
			&data: func(w io.Writer, o *slog.HandlerOptions) slog.Handler { return slog.NewJSONHandler(w, o) },
		} {
			slog.New(h(out, &slog.HandlerOptions{ReplaceAttr: LogAttr})).Info("x", "resource", s, "err", errors.New(s))
			if strings.Count(out.String(), "\n") != 1 || strings.ContainsFunc(strings.TrimSuffix(out.String(), "\n"), hidden) {
				t.Errorf("%q is logged as %q", s, out.String())
			}
		}
	}
}

// TestSameBytes: equal inputs give equal comments.
func TestSameBytes(t *testing.T) {
	first := comments()
	for range 10 {
		if d := cmp.Diff(first, comments()); d != "" {
			t.Fatal(d)
		}
	}
}

func TestKeyChanges(t *testing.T) {
	parse := func(toml string) *schema.Config {
		c, ds := schema.Parse([]schema.File{{Path: "s.toml", Data: []byte(toml)}}, schema.Options{})
		if ds.HasErrors() {
			t.Fatal(ds)
		}
		return c
	}
	server := func(name, key string) string {
		return "[[server]]\nname = \"" + name + "\"\nconfig.public_key = \"" + key + "\"\n"
	}
	k := func(c string) string { return "U" + strings.Repeat(c, 55) }
	var got []string
	for _, d := range KeyChanges(parse(server("stays", k("A"))+server("turns", k("B"))+server("goes", k("C"))), parse(server("stays", k("A"))+server("turns", k("D"))+server("comes", k("E")))) {
		got = append(got, d.Message)
		if d.Risk != schema.RiskKey {
			t.Errorf("%s has the risk %q", d.Message, d.Risk)
		}
	}
	want := []string{"server/comes: lets in the agent with the key " + k("E"), "server/goes: the agent with the key " + k("C") + " is locked out", "server/turns: the agent's key " + k("B") + " becomes " + k("D") + ", the old one is locked out"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(KeyChanges(nil, parse(server("a", k("A"))))) != 1 {
		t.Error("a first config lets its agents in silently")
	}
}

func TestSealed(t *testing.T) {
	p := typical()
	digest, commit, ok := Sealed(strings.ReplaceAll(Preview(p, about()), "\n", "\r\n")) // as some forges keep it
	if !ok || digest != p.Digest || commit != head {
		t.Errorf("sealed %q %q %v", digest, commit, ok)
	}
	for _, md := range []string{"", "x", Broken(brokenDiagnostics(), about()), Outcome(p, ran(p), about()), NotPreviewed("x", about()), "x\ny\n" + Preview(p, about())} {
		if _, _, ok := Sealed(md); ok {
			t.Errorf("there is a plan to approve in %.200q", md)
		}
	}
	if Marker("other") == Marker("main") || !strings.HasPrefix(Preview(p, about()), Marker("main")+"\n") {
		t.Error("the marker is not the fleet's")
	}
}

func TestStatuses(t *testing.T) {
	p := typical()
	asks := risky()
	for _, tt := range []struct{ name, got, want string }{
		{"plan", PlanStatus(p), "2 create, 1 update, 1 restart, 2 unknown, 58 unchanged"},
		{"nothing", PlanStatus(&plan.Plan{Summary: plan.Summary{plan.None: 14}}), "Nothing to do: 14 unchanged"},
		{"asks", PlanStatus(asks), "1 create, 1 recreate, 3 remove, 1 held, 1 blocked, 9 unchanged; waits for an approval: 3 resources would be removed, more than max_removals…"},
		{"broken", BrokenStatus(brokenDiagnostics()), `3 errors: stacks/web.toml:3:10 stack "web" comes after "databse", which no file declares`},
		{"done", ApplyStatus(ran(p)), "4 done in 41.3 s"},
		{"failed", ApplyStatus(typicalFailure(p)), `1 failed, 1 rolled back, 1 not tried, 1 done in 41.3 s. stack/app: port 8080 is taken by container "legacy-api" (not varan's)`},
		{"cancelled", ApplyStatus(&apply.Result{Status: apply.StatusCancelled}), "Stopped (cancelled): nothing to do"},
		{"context", Context(PlanContext, ""), "varan/plan"},
		{"context of several", Context(ApplyContext, "shop"), "varan/apply/shop"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, tt.got, tt.want)
		}
	}
	long := strings.Repeat("x", 300)
	if a, b := Context(PlanContext, long+"a"), Context(PlanContext, long+"b"); a == b || len(a) > contextLimit {
		t.Errorf("contexts of long names: %q and %q", a, b)
	}
}

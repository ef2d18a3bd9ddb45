package report

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/lipgloss"
	"github.com/google/go-cmp/cmp"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with testdata/NAME.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s differs (-want +got); -update rewrites it:\n%s", name, d)
	}
}

func samplePlan() *plan.Plan {
	p := &plan.Plan{
		Version: 1, Commit: "4f2c1e9aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Digest: "1:9d31",
		Summary: plan.Summary{plan.Create: 2, plan.Update: 1, plan.Restart: 1, plan.Unknown: 2, plan.None: 1, plan.Adopt: 1, plan.Held: 1, plan.Blocked: 1, plan.Remove: 1},
		Steps: []plan.Step{
			{Resource: "stack/db", Server: "db1", Action: plan.Update, Causes: []plan.Cause{{Kind: plan.ImageChanged}, {Kind: plan.FileChanged, Detail: "file conf/postgresql.conf changed"}},
				Services: []plan.ServiceStep{{Name: "backup", Action: plan.None}, {Name: "db", Action: plan.Recreate}},
				Changes: []plan.Change{
					{Path: "services.db.image", Old: "postgres:16.3", New: "postgres:16.4"},
					{Path: "services.db.environment.PASSWORD", Old: "[[DB_PASSWORD]]", New: "[[DB_PASSWORD_2]]"},
					{Path: "services.db.environment.NEW", New: "1"},
					{Path: "services.db.environment.GONE", Old: ""},
					{Path: "conf/postgresql.conf", Old: strings.Repeat("a", 40), New: strings.Repeat("b", 40)},
					{Path: "services.db.command", Old: []any{"a", "b"}, New: "x\ny\nz\n"},
					{Path: "services.db.environment.TOKEN", Secret: true},
				}},
			{Resource: "stack/app", Server: "web1", Wave: 1, Action: plan.Create, Causes: []plan.Cause{{Kind: plan.NotRunning}}, Changes: []plan.Change{{Path: "image", New: "x"}}},
			{Resource: "stack/app-eu", Server: "web2", Wave: 1, Action: plan.Create, Causes: []plan.Cause{{Kind: plan.NotRunning}}},
			{Resource: "deployment/edge", Server: "web1", Wave: 2, Action: plan.Restart, Causes: []plan.Cause{{Kind: plan.CameAfter, Detail: "comes after stack/app, which changes"}}},
			{Resource: "deployment/evil\x1b[2J", Server: "web1", Action: plan.Held, Causes: []plan.Cause{{Kind: plan.OnHold, Detail: "line\nbreak \u202eolleh"}}},
			{Resource: "deployment/secretive", Server: "web1", Action: plan.Blocked, Causes: []plan.Cause{{Kind: plan.NoValue, Detail: "no value for [[API_KEY]]"}}},
			{Resource: "stack/nas1", Server: "nas", Action: plan.Unknown, Causes: []plan.Cause{{Kind: plan.Unreachable, Detail: "server nas: no agent answers"}}},
			{Resource: "stack/nas2", Server: "nas", Action: plan.Unknown, Causes: []plan.Cause{{Kind: plan.Unreachable, Detail: "server nas: no agent answers"}}},
			{Resource: "stack/old", Server: "web1", Action: plan.Remove, Causes: []plan.Cause{{Kind: plan.Orphaned}}},
			{Resource: "stack/same", Server: "web1", Action: plan.None},
			{Resource: "stack/was-here", Server: "web1", Action: plan.Adopt},
		},
		Diagnostics: []schema.Diagnostic{
			{Severity: schema.SeverityWarning, Pos: schema.Pos{File: "stacks/db.toml", Line: 2, Column: 2}, Length: 10, Message: "its bind mount ./data moves to another folder", Hint: "allowed by allow_move = true"},
		},
		Asks: []string{"it removes 1 resource"},
	}
	return p
}

func source(file string) []byte {
	if file == "stacks/db.toml" {
		return []byte("[[stack]]\n\tallow_move = true\n")
	}
	return nil
}

func TestPlan(t *testing.T) {
	p := samplePlan()
	h := Head{Name: "infra", Commit: p.Commit, OnDisk: true, Next: "varan apply", Source: source}
	golden(t, "plan.txt", Plan(p, h, Terminal{}))
	golden(t, "plan-60.txt", Plan(p, h, Terminal{Width: 60}))
	golden(t, "plan-color.txt", Plan(p, h, Terminal{Width: 100, Color: true}))
	h.All = true
	golden(t, "plan-all.txt", Plan(p, h, Terminal{Width: 120}))
	none := &plan.Plan{Summary: plan.Summary{plan.None: 2}, Steps: []plan.Step{{Resource: "stack/a", Action: plan.None}, {Resource: "stack/b", Action: plan.None}}}
	golden(t, "plan-none.txt", Plan(none, Head{Name: "infra"}, Terminal{}))
}

func TestDiagnostics(t *testing.T) {
	text := "[[stack]]\nname = \"web\"\nafter = [\"databse\"]\n\tümlaut = \"\u202e\" # tab\n" + strings.Repeat("x", 300) + " = 1\n"
	src := func(string) []byte { return []byte(text) }
	ds := []schema.Diagnostic{
		{Severity: schema.SeverityError, Pos: schema.Pos{File: "web.toml", Line: 3, Column: 10}, Length: 9, Message: `stack "web" comes after "databse", which no file declares`, Hint: "did you mean \"database\"? (db.toml:2)\nor not"},
		{Severity: schema.SeverityWarning, Pos: schema.Pos{File: "web.toml", Line: 4, Column: 2}, Length: 7, Message: "odd\x07"},
		{Severity: schema.SeverityError, Pos: schema.Pos{File: "web.toml", Line: 5, Column: 200}, Length: 10, Message: "long"},
		{Severity: schema.SeverityError, Pos: schema.Pos{File: "web.toml", Line: 99, Column: 1}, Message: "beyond", Hint: "h"},
		{Severity: schema.SeverityError, Pos: schema.Pos{File: "web.toml"}, Message: "no line"},
		{Severity: schema.SeverityError, Message: "no place"},
	}
	golden(t, "diagnostics.txt", Diagnostics(ds, src, Terminal{}))
	golden(t, "annotations.txt", Annotations(ds))
}

func sampleResult() *apply.Result {
	return &apply.Result{Status: apply.StatusFailed, Millis: 12_345, Steps: []apply.StepResult{
		{Resource: "stack/db", Server: "local", Action: plan.Update, Status: apply.StatusDone, Millis: 6100},
		{Resource: "stack/app", Server: "web1", Action: plan.Create, Status: apply.StatusFailed, Error: `port 8080 is taken by container "legacy-api" (not varan's)`,
			Hint: "free the port or change it at stacks/app/compose.yaml:9", Tail: "one\ntwo\x1b[31m\n"},
		{Resource: "stack/put-back", Server: "web1", Action: plan.Recreate, Status: apply.StatusRolledBack, Stopped: true, Held: "1:x", Error: "unhealthy"},
		{Resource: "deployment/edge", Server: "web1", Action: plan.Create, Status: apply.StatusNotTried, Because: "stack/app", Why: "stack/app failed"},
		{Resource: "deployment/late", Server: "web1", Action: plan.Create, Status: apply.StatusNotTried, Why: "cancelled"},
		{Resource: "deployment/none", Server: "web1", Action: plan.None, Status: apply.StatusDone},
	}}
}

func TestResult(t *testing.T) {
	golden(t, "result.txt", Result(sampleResult(), Terminal{}))
	golden(t, "result-ok.txt", Result(&apply.Result{Status: apply.StatusDone, Millis: 61_000, Steps: sampleResult().Steps[:1]}, Terminal{}))
	golden(t, "result-hint.txt", Result(&apply.Result{Status: apply.StatusDone, Millis: 300, Steps: []apply.StepResult{
		{Resource: "stack/gone", Server: "local", Action: plan.Remove, Status: apply.StatusDone, Hint: "it stays\nthat too"}}}, Terminal{}))
}

func TestLive(t *testing.T) {
	p := samplePlan()
	p.Steps[1].After = []schema.ID{"stack/db"}
	l := NewLive(p, Terminal{Width: 90})
	t0 := time.Unix(0, 0)
	var b strings.Builder
	show := func(e apply.Event) {
		ended, news := l.Add(e)
		if ended != "" {
			b.WriteString("ended: " + ended + "\n")
		}
		if news {
			b.WriteString("news:  " + l.Line(e.Resource, e.At) + "\n")
		}
	}
	show(apply.Event{Kind: apply.OpStarted, Resource: "stack/db", Verb: protocol.Prepare, At: t0})
	show(apply.Event{Kind: apply.OpProgress, Resource: "stack/db", Progress: &protocol.Progress{Phase: "pulling", Service: "db", Detail: "43 %"}, At: t0.Add(time.Second)})
	show(apply.Event{Kind: apply.OpProgress, Resource: "stack/db", Progress: &protocol.Progress{Phase: "pulling", Service: "db", Detail: "44 %"}, At: t0.Add(time.Second)})
	b.WriteString(strings.Join(l.Lines(t0.Add(2*time.Second), 4), "\n") + "\n")
	show(apply.Event{Kind: apply.StepDone, Resource: "stack/db", Step: &apply.StepResult{Resource: "stack/db", Status: apply.StatusDone, PrepareMillis: 2000, Millis: 4100,
		Services: []protocol.ServiceOutcome{{Name: "db", State: "healthy"}}}})
	show(apply.Event{Kind: apply.StepDone, Resource: "stack/app", Step: &apply.StepResult{Resource: "stack/app", Status: apply.StatusFailed, Error: "port taken"}})
	show(apply.Event{Kind: apply.StepDone, Resource: "stack/app-eu", Step: &apply.StepResult{Resource: "stack/app-eu", Status: apply.StatusNotTried, Why: "stack/app failed"}})
	golden(t, "live.txt", b.String())
}

// FuzzEscape: nothing that does more than show itself gets through, whatever comes in.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", "plain", "\x1b]8;;http://x\x07", "a\u202eb", "\u200b\ufeff\u2066", "\xff\xfe", "é\u0301", "\U000e0041", "a\r\nb", "\u3164"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Escape(s)
		if !utf8.ValidString(got) {
			t.Errorf("Escape(%q) = %q is no UTF-8", s, got)
		}
		for _, r := range got {
			if hidden(r) {
				t.Errorf("Escape(%q) lets %U through", s, r)
			}
		}
		if Escape(got) != got {
			t.Errorf("Escape is not the same twice for %q", s)
		}
		// Whole renderings hold no control character but their own line ends, and keep to the width where they can.
		p := &plan.Plan{Steps: []plan.Step{{Resource: schema.ID("stack/" + s), Server: s, Action: plan.Update, Causes: []plan.Cause{{Kind: plan.Drifted, Detail: s}},
			Services: []plan.ServiceStep{{Name: s, Action: plan.Recreate}}, Changes: []plan.Change{{Path: s, Old: s, New: s + "x"}}}},
			Diagnostics: []schema.Diagnostic{{Severity: schema.SeverityError, Pos: schema.Pos{File: s, Line: 1, Column: 2}, Length: 3, Message: s, Hint: s}}, Asks: []string{s}}
		out := Plan(p, Head{Name: s, Commit: s, Source: func(string) []byte { return []byte(s) }}, Terminal{Width: 80})
		out += Result(&apply.Result{Steps: []apply.StepResult{{Resource: schema.ID(s), Status: apply.StatusFailed, Error: s, Hint: s, Tail: s, Why: s}}}, Terminal{Width: 80})
		for _, line := range strings.Split(out, "\n") {
			if strings.ContainsFunc(line, hidden) {
				t.Errorf("a control character in %q", line)
			}
		}
		for _, line := range strings.Split(strings.TrimSuffix(Annotations(p.Diagnostics), "\n"), "\n") {
			if !strings.HasPrefix(line, "::error") {
				t.Errorf("an annotation broke into %q", line)
			}
		}
		if w := lipgloss.Width(clip(got, 20)); w > 20 {
			t.Errorf("clip is %d wide", w)
		}
	})
}

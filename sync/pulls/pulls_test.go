package pulls

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/report"
	"github.com/varanhq/varan/sync/sandbox"
)

func TestPreviewIsToldOnce(t *testing.T) {
	s := newScene(t)
	s.open(1, "one", some(plan.Create))
	s.open(2, "two", some(plan.None))
	s.start()
	s.until("the first", func() bool { return s.status("one", "varan/plan").State == forge.Success && s.forge.body(1) != "" })
	s.until("the second", func() bool { return s.status("two", "varan/apply").State == forge.Success })
	if b := s.forge.body(1); !strings.Contains(b, "1 create") || !strings.Contains(b, "stack/db") {
		t.Errorf("the comment is\n%s", b)
	}
	if s.forge.body(2) != "" {
		t.Error("a pull request without changes was commented")
	}
	time.Sleep(100 * time.Millisecond) // several polls
	n := len(s.forge.wroteAll())
	if n != 5 {
		t.Errorf("written: %q", s.forge.wroteAll())
	}
	s.stop()
	s.start() // a restart says nothing again
	time.Sleep(100 * time.Millisecond)
	if got := s.forge.wroteAll(); len(got) != n {
		t.Errorf("written again: %q", got[n:])
	}
	// A push edits the same comment.
	s.open(1, "three", some(plan.Update))
	s.until("the push", func() bool { return strings.Contains(s.forge.body(1), "1 update") })
	if c, _ := s.forge.Comments(t.Context(), forge.Repo{}, 1); len(c) != 1 {
		t.Errorf("%d comments", len(c))
	}
	if u := s.status("three", "varan/plan").URL; u != "https://forge.example/c/1" {
		t.Error("the status has no link to the comment")
	}
}

func TestBrokenPull(t *testing.T) {
	s := newScene(t)
	s.forge.caps.Checks = true
	p := some(plan.None, schema.Diagnostic{Severity: schema.SeverityError, Pos: schema.Pos{File: "a.toml", Line: 3, Column: 1}, Message: "no such table"})
	s.open(1, "one", p)
	s.start()
	s.until("failure", func() bool {
		return s.status("one", "varan/plan").State == forge.Failure && strings.Contains(s.forge.body(1), "a.toml:3")
	})
	s.until("annotations", func() bool { return slices.Contains(s.forge.wroteAll(), "check varan/lines") })
}

// TestReplan: the base or the fleet changes, and the plan is made again, for the fleet's sake not too often.
func TestReplan(t *testing.T) {
	s := newScene(t)
	s.open(1, "one", some(plan.Create))
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	s.daemon.mu.Lock()
	s.daemon.plans[sha("mone")], s.daemon.basis, s.daemon.commit = some(plan.Update), "b2", sha("base2")
	s.daemon.refs["main"] = sha("base2")
	s.daemon.mu.Unlock()
	s.until("planned anew", func() bool { return strings.Contains(s.forge.body(1), "1 update") })
	s.daemon.mu.Lock()
	n := len(s.daemon.previews)
	for i := range 20 {
		s.daemon.basis = fmt.Sprint("drift", i)
	}
	s.daemon.mu.Unlock()
	time.Sleep(25 * time.Millisecond)
	s.daemon.mu.Lock()
	got := len(s.daemon.previews) - n
	s.daemon.mu.Unlock()
	if got > 2 {
		t.Errorf("%d previews for a fleet that drifts", got)
	}
}

// TestLag: a merge commit of an older base is not shown; where the forge makes none, the changed files are laid over.
func TestLag(t *testing.T) {
	s := newScene(t)
	s.open(1, "one", some(plan.Create))
	s.daemon.errs[sha("mone")] = sync.ErrStale
	s.daemon.plans[sha("one")] = some(plan.Update)
	s.start()
	s.until("the changed files", func() bool { return strings.Contains(s.forge.body(1), "1 update") })
	s.daemon.mu.Lock()
	defer s.daemon.mu.Unlock()
	last := s.daemon.previews[len(s.daemon.previews)-1]
	if last.Over == nil || last.Ref != "refs/pull/1/head" || len(s.daemon.previews) < 3 {
		t.Errorf("%+v", s.daemon.previews)
	}
}

func TestFork(t *testing.T) {
	s := newScene(t)
	pr := s.open(1, "one", some(plan.Create))
	pr.Fork = true
	s.start()
	s.until("refused", func() bool {
		return s.status("one", "varan/plan").State == forge.Failure && strings.Contains(s.forge.body(1), "fork")
	})
	s.daemon.mu.Lock()
	if len(s.daemon.previews) > 0 {
		t.Error("it was planned")
	}
	s.daemon.mu.Unlock()
	s.forge.mu.Lock()
	s.forge.perms["stranger"] = forge.Read
	s.forge.mu.Unlock()
	s.forge.says(1, "stranger", "/varan plan")
	time.Sleep(60 * time.Millisecond)
	if s.status("one", "varan/plan").State != forge.Failure {
		t.Error("a stranger's word was enough")
	}
	s.forge.mu.Lock()
	s.forge.perms["bob"] = forge.Write
	s.forge.mu.Unlock()
	s.forge.says(1, "bob", "/varan plan\nlooks fine")
	s.until("planned", func() bool { return s.status("one", "varan/plan").State == forge.Success })
}

// TestUnplannable: what meets a limit is a failure that says so.
func TestUnplannable(t *testing.T) {
	s := newScene(t)
	s.open(1, "one", nil)
	s.daemon.errs[sha("mone")] = fmt.Errorf("planning needed more than 1024 MiB of memory: %w", sandbox.ErrKilled)
	s.open(2, "two", nil)
	s.daemon.errs[sha("mtwo")] = fmt.Errorf("fetch: %w", gitrepo.ErrTooBig)
	s.start()
	for _, head := range []string{"one", "two"} {
		s.until(head, func() bool { return s.status(head, "varan/plan").State == forge.Failure })
	}
	if d := s.status("one", "varan/plan").Description; !strings.Contains(d, "of memory") {
		t.Errorf("%q", d)
	}
}

func TestMergeGroup(t *testing.T) {
	s := newScene(t)
	s.daemon.branches = map[string]string{"gh-readonly-queue/main/pr-1-x": sha("group")}
	s.daemon.plans[sha("group")] = some(plan.None)
	s.start()
	s.until("told", func() bool {
		return s.status("group", "varan/plan").State == forge.Success && s.status("group", "varan/apply").State == forge.Success
	})
}

// merge closes a pull request as merged, and reports what the daemon made of the commit.
func (s *scene) merge(n int, as string) {
	s.forge.mu.Lock()
	pr := s.forge.prs[n]
	pr.State, pr.MergeCommit = forge.Merged, sha(as)
	s.forge.mu.Unlock()
}

func applied(as string, status apply.Status) sync.Report {
	p := some(plan.Create)
	return sync.Report{Stage: sync.StageApplied, Sync: "main", Commit: sha(as), Run: "run1", Trigger: "commit", Plan: p,
		Result: &apply.Result{Run: "run1", Status: status, Millis: 1234, Steps: []apply.StepResult{{Resource: "stack/db", Action: plan.Create, Server: "web1",
			Status: status, Error: "it did not become healthy", Tail: "canary-output"}}}}
}

func TestOutcome(t *testing.T) {
	s := newScene(t)
	s.open(1, "one", some(plan.Create))
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	s.merge(1, "merged")
	ctx := context.Background()
	s.Report(ctx, sync.Report{Stage: sync.StageApplying, Commit: sha("merged"), Trigger: "commit", Plan: some(plan.Create)})
	s.until("pending", func() bool { return s.status("merged", "varan/apply").State == forge.Pending })
	s.Report(ctx, applied("merged", apply.StatusFailed))
	s.until("failure", func() bool {
		return s.status("merged", "varan/apply").State == forge.Failure && strings.Contains(s.forge.body(1), "not become healthy")
	})
	if strings.Contains(s.forge.body(1), "canary-output") {
		t.Error("what a container printed stands in the comment")
	}
	// A drift repair that went well is no news; the next commit is.
	n := len(s.forge.wroteAll())
	drift := applied("merged", apply.StatusDone)
	drift.Trigger = "drift"
	s.Report(ctx, drift)
	s.Report(ctx, sync.Report{Stage: sync.StageApplying, Commit: sha("next"), Trigger: "commit", Plan: some(plan.Create)})
	s.until("next pending", func() bool { return s.status("next", "varan/apply").State == forge.Pending })
	s.Report(ctx, sync.Report{Stage: sync.StageApplying, Commit: sha("after"), Trigger: "commit", Plan: some(plan.Create)})
	s.until("nothing stays pending", func() bool {
		return s.status("next", "varan/apply").State == forge.Error && s.status("after", "varan/apply").State == forge.Pending
	})
	if got := len(s.forge.wroteAll()) - n; got != 3 {
		t.Errorf("%d writes: %q", got, s.forge.wroteAll()[n:])
	}
}

// TestForgeDown: a forge that is itself down is told when it answers again, also after a restart.
func TestForgeDown(t *testing.T) {
	s := newScene(t)
	s.open(1, "one", some(plan.Create))
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	s.merge(1, "merged")
	s.forge.mu.Lock()
	s.forge.down = fmt.Errorf("connection refused: %w", forge.ErrTemporary)
	s.forge.mu.Unlock()
	s.Report(t.Context(), applied("merged", apply.StatusDone))
	time.Sleep(50 * time.Millisecond)
	s.stop()
	s.start()
	time.Sleep(50 * time.Millisecond)
	if s.status("merged", "varan/apply").State != "" || len(s.Trouble()) == 0 {
		t.Error("the forge was written to, or its trouble is not known")
	}
	s.forge.mu.Lock()
	s.forge.down = nil
	s.forge.mu.Unlock()
	s.until("told", func() bool {
		return s.status("merged", "varan/apply").State == forge.Success && strings.Contains(s.forge.body(1), "✅")
	})
}

// TestKilledBetweenWrites: whichever write is the last one a process makes, and whether it learns of it or not, the
// next one finishes without repeating any.
func TestKilledBetweenWrites(t *testing.T) {
	for n := 1; n <= 6; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := newScene(t)
			s.open(1, "one", some(plan.Create))
			killed := make(chan struct{})
			s.forge.die = func(i int) error {
				if i == n {
					close(killed)
				}
				if i >= n {
					return context.Canceled // the process is gone before it hears
				}
				return nil
			}
			s.start()
			story := func() {
				s.until("told", func() bool { return s.forge.body(1) != "" })
				s.merge(1, "merged")
				s.Report(t.Context(), applied("merged", apply.StatusDone))
			}
			done := func() bool {
				return s.status("one", "varan/plan").State == forge.Success && s.status("one", "varan/apply").State == forge.Success &&
					s.status("merged", "varan/apply").State == forge.Success && strings.Contains(s.forge.body(1), "✅")
			}
			if n > 3 {
				story()
			}
			select {
			case <-killed:
			case <-time.After(3 * time.Second):
				if n <= 5 {
					t.Fatalf("there were only %d writes: %q", len(s.forge.wroteAll()), s.forge.wroteAll())
				}
			}
			s.stop()
			s.forge.mu.Lock()
			s.forge.die = nil
			s.forge.mu.Unlock()
			s.start()
			if n <= 3 {
				story()
			}
			s.until("the end", done)
			time.Sleep(50 * time.Millisecond)
			got := s.forge.wroteAll()
			seen := map[string]bool{}
			for _, w := range got {
				if seen[w] {
					t.Errorf("written twice: %q in %q", w, got)
				}
				seen[w] = true
			}
			if len(got) != 5 {
				t.Errorf("%d writes: %q", len(got), got)
			}
		})
	}
}

func (s *scene) asking() {
	s.open(1, "one", some(plan.Create))
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	s.merge(1, "merged")
	p := some(plan.Create)
	p.Asks = []string{`apply = "manual": every change waits for an approval`}
	s.daemon.mu.Lock()
	s.daemon.pending = p.Digest
	s.daemon.mu.Unlock()
	s.Report(s.t.Context(), sync.Report{Stage: sync.StagePlanned, Commit: sha("merged"), Trigger: "commit", Plan: p})
	s.until("asked", func() bool {
		return s.status("merged", "varan/apply").State == forge.Pending && strings.Contains(s.forge.body(1), plan.Short(p.Digest)) && strings.Contains(s.forge.body(1), "approval")
	})
}

func (s *scene) approvals() int {
	s.daemon.mu.Lock()
	defer s.daemon.mu.Unlock()
	return len(s.daemon.approved)
}

func TestApproval(t *testing.T) {
	s := newScene(t)
	s.change = func(o *Options) { o.Settings.Manual = true }
	s.forge.perms["bob"], s.forge.perms["eve"] = forge.Write, forge.Read
	s.asking()
	refuse := func(what string) {
		t.Helper()
		time.Sleep(60 * time.Millisecond)
		if s.approvals() > 0 {
			t.Fatalf("%s was taken for an approval", what)
		}
	}
	s.forge.says(1, "eve", "/varan apply")
	refuse("a reader's comment")
	s.forge.says(1, "bob", "> /varan apply")
	refuse("a quote")
	s.forge.says(1, "bob", "please /varan apply")
	refuse("half a line")
	s.forge.says(1, "bob", "/varan apply now")
	refuse("a longer line")
	s.forge.mu.Lock()
	s.forge.add(1, forge.User{Login: "helper[bot]", Bot: true}, "/varan apply")
	c := s.forge.add(1, forge.User{Login: "bob"}, "hello")
	s.forge.comments[len(s.forge.comments)-1].Body, s.forge.comments[len(s.forge.comments)-1].Edited = "/varan apply", true
	_ = c
	s.forge.mu.Unlock()
	refuse("a bot's or an edited comment")
	s.daemon.mu.Lock()
	right := s.daemon.pending
	s.daemon.pending = "another"
	s.daemon.mu.Unlock()
	s.forge.says(1, "bob", "/varan apply")
	s.until("an answer", func() bool { return strings.Contains(s.forge.body(1), "another one") })
	refuse("an approval of another plan")
	s.daemon.mu.Lock()
	s.daemon.pending = right
	s.daemon.mu.Unlock()
	s.forge.says(1, "bob", "/varan apply\r\nlet us go")
	s.until("approved", func() bool { return s.approvals() == 1 })
	if got := s.daemon.approved[0]; got != right+" forge.example:bob" {
		t.Errorf("approved %q", got)
	}
	s.stop()
	s.start()
	time.Sleep(60 * time.Millisecond)
	if s.approvals() != 1 {
		t.Error("one comment approved twice")
	}
}

func TestApprovers(t *testing.T) {
	s := newScene(t)
	s.change = func(o *Options) { o.Settings.Manual, o.Settings.Approvers = true, []string{"Carol"} }
	s.forge.perms["bob"], s.forge.perms["carol"] = forge.Admin, forge.Write
	s.asking()
	s.forge.says(1, "bob", "/varan apply")
	s.until("an answer", func() bool { return strings.Contains(s.forge.body(1), "may not approve") })
	if s.approvals() > 0 {
		t.Error("somebody who is no approver approved")
	}
	s.forge.says(1, "carol", "/varan apply")
	s.until("approved", func() bool { return s.approvals() == 1 })
}

func TestSurprises(t *testing.T) {
	s := newScene(t)
	p := some(plan.Create)
	p.Diagnostics = []schema.Diagnostic{{Severity: schema.SeverityWarning, Risk: schema.RiskPrivilege, Message: "stack/db: gets privileged"}}
	s.open(1, "one", p)
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	s.until("it is known", func() bool { return s.knows(1) })
	s.merge(1, "merged")
	got := s.Surprises(t.Context(), sha("merged"), []string{"stack/db: gets privileged", "stack/x is removed"})
	if len(got) != 1 || got[0] != "stack/x is removed" {
		t.Errorf("%q", got)
	}
	if got := s.Surprises(t.Context(), sha("direct"), []string{"stack/x is removed"}); len(got) > 1 {
		t.Errorf("%q", got)
	}
	s.forge.mu.Lock()
	s.forge.down = errors.Join(forge.ErrTemporary)
	s.forge.mu.Unlock()
	if got := s.Surprises(t.Context(), sha("merged"), []string{"stack/db: gets privileged"}); len(got) != 1 {
		t.Errorf("with the forge down nothing is known to have been shown: %q", got)
	}
}

// knows reports whether our comment on a pull request was written and is known to stand there.
func (s *scene) knows(n int) bool {
	r := s.config()
	if r == nil || s.out.waits(&letter{Domain: r.domain, Repo: r.repo, Number: n}) != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records[n] != nil && r.records[n].URL != ""
}

// TestSurprisesUnseen: a preview that could not be written showed nobody anything.
func TestSurprisesUnseen(t *testing.T) {
	s := newScene(t)
	p := some(plan.Create)
	p.Diagnostics = []schema.Diagnostic{{Severity: schema.SeverityWarning, Risk: schema.RiskPrivilege, Message: "stack/db: gets privileged"}}
	s.open(1, "one", p)
	s.forge.deny = func(what string) error {
		if what == "comment 1" {
			return fmt.Errorf("%w: the conversation is locked", forge.ErrForbidden)
		}
		return nil
	}
	s.start()
	s.until("planned", func() bool { return s.status("one", "varan/plan").State == forge.Success })
	s.merge(1, "merged")
	if got := s.Surprises(t.Context(), sha("merged"), []string{"stack/db: gets privileged"}); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

var _ = report.PlanContext

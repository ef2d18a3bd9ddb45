package pulls

import (
	"fmt"
	"os"
	"path/filepath"
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

// TestApprovalOfAnOlderPlan: an approval written before the comment showed the plan that waits now is none, however
// late it is read.
func TestApprovalOfAnOlderPlan(t *testing.T) {
	s := newScene(t)
	s.change = func(o *Options) { o.Settings.Manual = true }
	s.forge.perms["bob"] = forge.Write
	s.asking()
	s.forge.mu.Lock()
	said := s.forge.add(1, forge.User{Login: "bob"}, "not there yet").Created // written now, shown by the forge only later
	s.forge.clock = s.forge.clock.Add(5 * time.Second)
	s.forge.mu.Unlock()
	p := some(plan.Remove)
	p.Asks = []string{"1 removal"}
	s.daemon.mu.Lock()
	s.daemon.pending = p.Digest
	s.daemon.mu.Unlock()
	s.Report(t.Context(), sync.Report{Stage: sync.StagePlanned, Commit: sha("merged"), Trigger: "command", Plan: p})
	s.until("the new plan is shown", func() bool { return strings.Contains(s.forge.body(1), plan.Short(p.Digest)) })
	s.forge.mu.Lock()
	s.forge.add(1, forge.User{Login: "bob"}, "/varan apply")
	s.forge.comments[len(s.forge.comments)-1].Created, s.forge.comments[len(s.forge.comments)-1].Updated = said, said
	s.forge.mu.Unlock()
	s.until("an answer", func() bool { return strings.Contains(s.forge.body(1), "look at it and approve again") })
	if s.approvals() > 0 {
		t.Fatal("an approval of what its author did not see was taken")
	}
	s.forge.says(1, "bob", "/varan apply")
	s.until("approved", func() bool { return s.approvals() == 1 })
}

// TestPendingWhileForgeIsDown: what was pending when the forge went down is superseded when it is back.
func TestPendingWhileForgeIsDown(t *testing.T) {
	s := newScene(t)
	s.start()
	s.until("it is watched", func() bool { return s.config() != nil })
	s.Report(t.Context(), sync.Report{Stage: sync.StageApplying, Commit: sha("first"), Trigger: "commit", Plan: some(plan.Create)})
	s.until("pending", func() bool { return s.status("first", "varan/apply").State == forge.Pending })
	s.forge.mu.Lock()
	s.forge.down = fmt.Errorf("connection refused: %w", forge.ErrTemporary)
	s.forge.mu.Unlock()
	s.Report(t.Context(), applied("second", apply.StatusDone))
	time.Sleep(50 * time.Millisecond) // tried in vain, several times
	s.forge.mu.Lock()
	s.forge.down = nil
	s.forge.mu.Unlock()
	s.until("the last word", func() bool {
		return s.status("second", "varan/apply").State == forge.Success && s.status("first", "varan/apply").State == forge.Error
	})
}

// TestRetarget: a pull request that goes to another branch is none of ours, also when it is merged there.
func TestRetarget(t *testing.T) {
	s := newScene(t)
	p := some(plan.Create)
	p.Diagnostics = []schema.Diagnostic{{Severity: schema.SeverityWarning, Risk: schema.RiskPrivilege, Message: "stack/db: gets privileged"}}
	pr := s.open(1, "one", p)
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	s.forge.mu.Lock()
	pr.Base.Branch = "dev"
	s.forge.mu.Unlock()
	s.until("left", func() bool { return strings.Contains(s.forge.body(1), "dev") })
	s.merge(1, "there")
	if got := s.Surprises(t.Context(), sha("other"), []string{"stack/db: gets privileged"}); len(got) > 0 {
		t.Errorf("a commit without a pull request: %q", got)
	}
	n := len(s.forge.wroteAll())
	s.Report(t.Context(), applied("other", apply.StatusDone))
	s.until("the other commit", func() bool { return s.status("other", "varan/apply").State == forge.Success })
	time.Sleep(50 * time.Millisecond)
	if got := s.forge.wroteAll()[n:]; len(got) != 1 {
		t.Errorf("written: %q", got)
	}
	// Back again, it is planned again.
	s.forge.mu.Lock()
	pr.Base.Branch, pr.State, pr.MergeCommit = "main", forge.Open, ""
	s.forge.mu.Unlock()
	s.until("planned", func() bool { return strings.Contains(s.forge.body(1), "1 create") })
}

// TestAnswerKeepsOutcome: an answer to a command takes nothing away from what waits to be written.
func TestAnswerKeepsOutcome(t *testing.T) {
	s := newScene(t)
	s.open(1, "one", some(plan.Create))
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	pr := forge.PullRequest{Number: 1, State: forge.Merged}
	r := s.config()
	r.d.out.mu.Lock() // nothing is sent meanwhile
	marker := report.Marker("main")
	outcome := &letter{Domain: r.domain, Repo: r.repo, Number: 1, Marker: marker, Body: marker + "\n✅ the outcome", Seq: 99}
	r.d.out.waiting[outcome.key()] = outcome
	r.d.out.mu.Unlock()
	if err := r.answer(t.Context(), r.record(1), &pr, forge.Write, "no plan waits"); err != nil {
		t.Fatal(err)
	}
	s.until("both", func() bool {
		return strings.Contains(s.forge.body(1), "the outcome") && strings.Contains(s.forge.body(1), "no plan waits")
	})
}

// TestThousandSteps: however much changes, a run is told in at most ten writes.
func TestThousandSteps(t *testing.T) {
	s := newScene(t)
	p := &plan.Plan{Version: 1, Digest: "d1g35t0thousand", Summary: plan.Summary{plan.Create: 1000}}
	res := &apply.Result{Run: "run1", Status: apply.StatusDone, Millis: 1234}
	for i := range 1000 {
		id, server := schema.NewID(schema.KindStack, fmt.Sprintf("s%04d", i)), fmt.Sprintf("web%d", i%50)
		p.Steps = append(p.Steps, plan.Step{Resource: id, Action: plan.Create, Server: server, Wave: i % 7, Causes: []plan.Cause{{Kind: plan.SpecChanged, Detail: strings.Repeat("why ", 30)}}})
		res.Steps = append(res.Steps, apply.StepResult{Resource: id, Action: plan.Create, Server: server, Status: apply.StatusDone})
	}
	s.open(1, "one", p)
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	preview := len(s.forge.wroteAll())
	s.merge(1, "merged")
	s.Report(t.Context(), sync.Report{Stage: sync.StageApplying, Commit: sha("merged"), Trigger: "commit", Plan: p})
	s.until("pending", func() bool { return s.status("merged", "varan/apply").State == forge.Pending })
	s.Report(t.Context(), sync.Report{Stage: sync.StageApplied, Commit: sha("merged"), Run: "run1", Trigger: "commit", Plan: p, Result: res})
	s.until("the outcome", func() bool { return strings.Contains(s.forge.body(1), "✅") })
	time.Sleep(50 * time.Millisecond)
	all := s.forge.wroteAll()
	t.Logf("%d writes for the preview, %d for the run, a comment of %d characters", preview, len(all)-preview, len(s.forge.body(1)))
	if len(all) > 10 || len(s.forge.body(1)) > forge.MaxComment {
		t.Errorf("%d writes: %q; a comment of %d", len(all), all, len(s.forge.body(1)))
	}
}

// TestLargePlansAreNotKept: of a plan that is too large to be kept it is still told whether it was carried out as shown.
func TestLargePlansAreNotKept(t *testing.T) {
	for digest, want := range map[string]string{"d1g35t0large": "as previewed", "another": "had moved since the preview"} {
		s := newScene(t)
		p := &plan.Plan{Version: 1, Digest: "d1g35t0large", Summary: plan.Summary{plan.Create: 2000}}
		for i := range 2000 {
			p.Steps = append(p.Steps, plan.Step{Resource: schema.NewID(schema.KindStack, fmt.Sprintf("s%04d", i)), Action: plan.Create, Server: "web1",
				Changes: []plan.Change{{Path: "x", New: strings.Repeat("y", 1000)}}})
		}
		s.open(1, "one", p)
		s.start()
		s.until("told", func() bool { return s.knows(1) })
		info, err := filepath.Glob(filepath.Join(s.dir, "repos", "*", "1.json"))
		if err != nil || len(info) != 1 {
			t.Fatal(info, err)
		}
		if f, err := os.Stat(info[0]); err != nil || f.Size() > 2*maxKept {
			t.Errorf("the record has %d bytes, %v", f.Size(), err)
		}
		s.merge(1, "merged")
		r := applied("merged", apply.StatusDone)
		q := *p
		q.Digest = digest
		r.Plan = &q
		s.Report(t.Context(), r)
		s.until(want, func() bool { return strings.Contains(s.forge.body(1), want) })
		s.stop()
	}
}

// TestClosedGiveWay: who opens and closes very many pull requests keeps nobody else's out.
func TestClosedGiveWay(t *testing.T) {
	s := newScene(t)
	s.start()
	s.until("it is watched", func() bool { return s.config() != nil })
	r := s.config()
	r.mu.Lock()
	for n := 1000; n < 1000+maxOpen; n++ {
		r.records[n] = &record{Number: n, State: forge.Closed, Closed: time.Now()}
	}
	r.mu.Unlock()
	s.open(1, "one", some(plan.Create))
	s.until("told", func() bool { return s.forge.body(1) != "" })
	r.mu.Lock()
	for n := 1000; n < 1000+maxOpen; n++ { // open ones of strangers
		r.records[n] = &record{Number: n, State: forge.Open, Stranger: true}
	}
	r.mu.Unlock()
	if !r.room(&forge.PullRequest{Number: 2}) || r.room(&forge.PullRequest{Number: 3, Fork: true}) && len(r.records) > maxOpen {
		t.Error("strangers keep others out")
	}
}

// TestStrangersLast: what is said to strangers goes out behind all else.
func TestStrangersLast(t *testing.T) {
	s := newScene(t)
	s.forge.down = fmt.Errorf("down: %w", forge.ErrTemporary)
	s.start()
	for i, l := range []*letter{{Number: 1, Last: true}, {Number: 2}, {Number: 3, Last: true}, {Number: 4}} {
		l.Domain, l.Repo, l.Marker, l.Body = "forge.example", forge.Repo{Owner: "acme", Name: "infra"}, "<!-- varan:main -->", fmt.Sprintf("<!-- varan:main -->\n### %d", i+1)
		if err := s.out.put(l); err != nil {
			t.Fatal(err)
		}
	}
	s.forge.mu.Lock()
	s.forge.down = nil
	s.forge.mu.Unlock()
	s.until("all", func() bool { return len(s.forge.wroteAll()) == 4 })
	if got := fmt.Sprint(s.forge.wroteAll()); got != "[comment 2 ### 2 comment 4 ### 4 comment 1 ### 1 comment 3 ### 3]" {
		t.Error(got)
	}
}

// TestLaggingForge: a forge that does not know a commit yet is asked again.
func TestLaggingForge(t *testing.T) {
	s := newScene(t)
	s.change = func(o *Options) { o.Timing.Retry = 100 * time.Millisecond }
	s.start()
	s.until("it is watched", func() bool { return s.config() != nil })
	s.forge.mu.Lock()
	s.forge.down = fmt.Errorf("no such commit: %w", forge.ErrNotFound)
	s.forge.mu.Unlock()
	s.Report(t.Context(), applied("merged", apply.StatusDone))
	s.until("it was tried", func() bool { return len(s.Trouble()) > 0 })
	s.forge.mu.Lock()
	s.forge.down = nil
	s.forge.mu.Unlock()
	s.until("told", func() bool { return s.status("merged", "varan/apply").State == forge.Success })
}

// TestDeniedKeepsNobodyWaiting: a conversation that is locked, or a repository where the credential may not write, keeps
// back what is about it and nothing else.
func TestDeniedKeepsNobodyWaiting(t *testing.T) {
	s := newScene(t)
	s.open(1, "one", some(plan.Create))
	s.open(2, "two", some(plan.Update))
	forbidden := true
	s.forge.deny = func(what string) error {
		if forbidden && (what == "comment 1" || what == "status "+plan.Short(sha("one"))) {
			return fmt.Errorf("%w: the conversation is locked", forge.ErrForbidden)
		}
		return nil
	}
	s.change = func(o *Options) { o.Timing.Retry = 50 * time.Millisecond }
	s.start()
	s.until("the other one", func() bool { return strings.Contains(s.forge.body(2), "1 update") })
	if len(s.Trouble()) == 0 {
		t.Error("nobody is told that something waits")
	}
	s.forge.mu.Lock()
	forbidden = false
	s.forge.mu.Unlock()
	s.until("the first, when it may be", func() bool {
		return strings.Contains(s.forge.body(1), "1 create") && s.status("one", "varan/plan").State == forge.Success
	})
	s.until("no trouble", func() bool { return len(s.Trouble()) == 0 })
}

// TestGivenUpIsTriedAgain: what a forge did not take is not believed to stand there.
func TestGivenUpIsTriedAgain(t *testing.T) {
	s := newScene(t)
	s.forge.perms["bob"] = forge.Write
	s.open(1, "one", some(plan.Create))
	tries := 0
	s.forge.deny = func(what string) error {
		if what != "comment 1" {
			return nil
		}
		if tries++; tries == 1 {
			return fmt.Errorf("%w: not now", forge.ErrRefused)
		}
		return nil
	}
	s.start()
	s.until("refused", func() bool {
		s.forge.mu.Lock()
		defer s.forge.mu.Unlock()
		return tries > 0 && s.forge.statuses[sha("one")]["varan/plan"].State == forge.Success
	})
	s.daemon.mu.Lock()
	s.daemon.basis = "b2" // planned anew, with the same plan
	s.daemon.mu.Unlock()
	s.until("told", func() bool { return strings.Contains(s.forge.body(1), "1 create") })
}

// TestUntoldPermission: where the forge does not tell what somebody may do, nobody's command is obeyed, and a stranger
// who writes one keeps no pull request from being previewed.
func TestUntoldPermission(t *testing.T) {
	s := newScene(t)
	s.open(1, "one", some(plan.Create))
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	s.forge.mu.Lock()
	s.forge.permErr = fmt.Errorf("%w: administrators only", forge.ErrForbidden)
	s.forge.mu.Unlock()
	s.forge.says(1, "eve", "/varan plan")
	s.until("an answer", func() bool { return strings.Contains(s.forge.body(1), "forge check") })
	s.open(2, "two", some(plan.Update))
	s.until("the next pull request", func() bool { return strings.Contains(s.forge.body(2), "1 update") })
	fork := s.open(3, "three", some(plan.Update))
	s.forge.mu.Lock()
	fork.Fork = true
	s.forge.mu.Unlock()
	s.until("a fork", func() bool { return s.status("three", "varan/plan").State == forge.Failure })
}

// TestCommentTakenAway: somebody deletes our comment. A command brings it back, and no approval is lost for it.
func TestCommentTakenAway(t *testing.T) {
	s := newScene(t)
	s.forge.perms["bob"] = forge.Write
	s.open(1, "one", some(plan.Create))
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	s.forge.takesAway(1)
	s.forge.says(1, "bob", "/varan plan")
	s.until("it is back", func() bool { return strings.Contains(s.forge.body(1), "1 create") })
	s.stop()

	s = newScene(t)
	s.change = func(o *Options) { o.Settings.Manual = true }
	s.forge.perms["bob"] = forge.Write
	s.asking()
	s.daemon.mu.Lock()
	s.daemon.commit = sha("merged")
	s.daemon.mu.Unlock()
	s.forge.takesAway(1)
	s.forge.says(1, "bob", "/varan apply")
	s.until("the plan that asks is back", func() bool { return strings.Contains(s.forge.body(1), "waits for an approval") })
	if s.approvals() > 0 {
		t.Fatal("an approval of what nobody could see was taken")
	}
	s.forge.says(1, "bob", "/varan apply")
	s.until("approved", func() bool { return s.approvals() == 1 })
}

// TestForgeClock: a command counts whatever our clock says.
func TestForgeClock(t *testing.T) {
	for _, off := range []time.Duration{-48 * time.Hour, 48 * time.Hour} {
		s := newScene(t)
		s.forge.clock = s.forge.clock.Add(off)
		s.forge.perms["bob"] = forge.Write
		s.open(1, "one", some(plan.Create))
		s.forge.says(1, "bob", "/varan plan") // before the first look: no command
		s.forge.clock = s.forge.clock.Add(time.Minute)
		s.start()
		s.until("told", func() bool { return s.forge.body(1) != "" })
		time.Sleep(50 * time.Millisecond)
		n := s.previews()
		if n != 1 {
			t.Errorf("%s: an old comment was taken for a command", off)
		}
		s.forge.says(1, "bob", "/varan plan")
		s.until("planned again", func() bool { return s.previews() > n })
		s.stop()
	}
}

func (s *scene) previews() int {
	s.daemon.mu.Lock()
	defer s.daemon.mu.Unlock()
	return len(s.daemon.previews)
}

// TestFastForward: a head that became the branch's own commit keeps the word on what was applied.
func TestFastForward(t *testing.T) {
	s := newScene(t)
	s.forge.perms["bob"] = forge.Write
	s.open(1, "one", some(plan.Create))
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" })
	s.Report(t.Context(), applied("one", apply.StatusFailed)) // the forge still lists it as open
	s.until("failure", func() bool { return s.status("one", "varan/apply").State == forge.Failure })
	n := s.previews()
	s.forge.says(1, "bob", "/varan plan")
	s.until("planned again", func() bool { return s.previews() > n })
	time.Sleep(50 * time.Millisecond)
	if st := s.status("one", "varan/apply"); st.State != forge.Failure {
		t.Errorf("the failed commit says %+v", st)
	}
}

// TestMovedIsTold: what a merge in an app's repository did is told there, and does not take the place of what was told
// in the config repository.
func TestMovedIsTold(t *testing.T) {
	s := newScene(t)
	shop, err := gitrepo.ParseAddress("https://forge.example/acme/shop.git")
	if err != nil {
		t.Fatal(err)
	}
	s.daemon.also = []sync.Watched{{Address: shop, Branch: "prod"}}
	s.open(1, "one", some(plan.Create))
	pr := s.open(5, "five", some(plan.Update))
	pr.Base.Branch = "prod"
	s.daemon.refs["prod"] = sha("prodbase")
	s.start()
	s.until("both previews", func() bool { return s.forge.body(1) != "" && s.forge.body(5) != "" })
	s.merge(1, "merged")
	s.Report(t.Context(), applied("merged", apply.StatusDone))
	s.until("the config's outcome", func() bool { return strings.Contains(s.forge.body(1), "✅") })
	told := s.forge.body(1)

	s.merge(5, "shopmerged")
	p := some(plan.Update)
	p.Steps[0].Causes[0].Detail = ""
	result := applied("x", apply.StatusFailed).Result
	r := applied("merged", apply.StatusFailed)
	r.Stays, r.Moved = true, []sync.Moved{{Address: shop, Branch: "prod", Commit: sha("shopmerged"), Plan: p, Result: result}}
	s.Report(t.Context(), r)
	s.until("failure there", func() bool {
		st := s.status("shopmerged", "varan/apply")
		return st.State == forge.Failure && strings.Contains(st.Description, "not become healthy") && strings.Contains(s.forge.body(5), "not become healthy")
	})
	s.until("failure at the config's commit", func() bool { return s.status("merged", "varan/apply").State == forge.Failure })
	time.Sleep(30 * time.Millisecond)
	if s.forge.body(1) != told {
		t.Errorf("the config's pull request says now\n%s", s.forge.body(1))
	}
	if strings.Contains(s.forge.body(5), "canary-output") {
		t.Error("what a container printed is told")
	}
	s.stop()
	s.start() // a restart tells nothing again
	n := len(s.forge.wroteAll())
	time.Sleep(60 * time.Millisecond)
	if got := s.forge.wroteAll()[n:]; len(got) > 0 {
		t.Errorf("written again: %q", got)
	}

	// Its files are refused.
	blocked := some(plan.Blocked, schema.Diagnostic{Severity: schema.SeverityError, Pos: schema.Pos{File: "compose.yaml", Line: 3}, Message: "no such thing"})
	r = applied("merged", apply.StatusDone)
	r.Stays, r.Moved = true, []sync.Moved{{Address: shop, Branch: "prod", Commit: sha("wrong"), Plan: blocked, Result: &apply.Result{Status: apply.StatusDone}}}
	s.Report(t.Context(), r)
	s.until("what is wrong", func() bool {
		st := s.status("wrong", "varan/apply")
		return st.State == forge.Failure && strings.Contains(st.Description, "compose.yaml:3")
	})
}

// TestStrangersCostLittle: who may only read has nothing planned again and again, and what met a limit is left alone
// until it is another.
func TestStrangersCostLittle(t *testing.T) {
	s := newScene(t)
	s.forge.perms["eve"] = forge.Read
	s.open(1, "one", some(plan.Create))
	s.open(2, "two", nil)
	s.daemon.errs[sha("mtwo")] = fmt.Errorf("planning needed more than 1m0s of computing: %w", sandbox.ErrKilled)
	s.change = func(o *Options) { o.Timing.Replan = time.Millisecond }
	s.start()
	s.until("told", func() bool { return s.forge.body(1) != "" && s.status("two", "varan/plan").State == forge.Failure })
	s.forge.says(1, "eve", "/varan apply")
	s.until("an answer", func() bool { return strings.Contains(s.forge.body(1), "may not approve") })
	n, writes := s.previews(), len(s.forge.wroteAll())
	for range 5 {
		s.forge.says(1, "eve", "/varan apply")
		s.forge.says(1, "eve", "/varan plan")
		time.Sleep(30 * time.Millisecond)
	}
	if got := s.previews() - n; got > 0 || len(s.forge.wroteAll()) > writes {
		t.Errorf("a stranger's comments made %d previews and %q", got, s.forge.wroteAll()[writes:])
	}
	killed := func() int {
		s.daemon.mu.Lock()
		defer s.daemon.mu.Unlock()
		k := 0
		for _, sub := range s.daemon.previews {
			if sub.Commit == sha("mtwo") {
				k++
			}
		}
		return k
	}
	for i := range 10 {
		s.daemon.mu.Lock()
		s.daemon.basis = fmt.Sprint("fleet", i)
		s.daemon.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
	if k := killed(); k != 1 {
		t.Errorf("what meets a limit was planned %d times", k)
	}
	s.daemon.mu.Lock()
	s.daemon.basis, s.daemon.commit = "b3", sha("base3")
	s.daemon.mu.Unlock()
	s.until("the base is another", func() bool { return killed() == 2 })
}

// TestStatusName: two daemons on one repository do not write over each other's statuses.
func TestStatusName(t *testing.T) {
	s := newScene(t)
	s.change = func(o *Options) { o.Settings.StatusName, o.Settings.Fleet = "lab", "lab" }
	s.open(1, "one", some(plan.Create))
	s.daemon.branches = map[string]string{"gh-readonly-queue/main/pr-1-x": sha("group")}
	s.daemon.plans[sha("group")] = some(plan.None)
	s.start()
	s.until("told", func() bool {
		return s.status("one", "varan/plan/lab").State == forge.Success && s.status("one", "varan/apply/lab").State == forge.Success && s.status("group", "varan/plan/lab").State == forge.Success
	})
	s.merge(1, "merged")
	s.Report(t.Context(), applied("merged", apply.StatusDone))
	s.until("applied", func() bool { return s.status("merged", "varan/apply/lab").State == forge.Success })
	if s.status("one", "varan/plan").State != "" || s.status("merged", "varan/apply").State != "" {
		t.Error("it wrote a status of another's name")
	}
}

// TestSamePlanAgain: planned again for the fleet's sake with the same outcome, nothing is written.
func TestSamePlanAgain(t *testing.T) {
	s := newScene(t)
	s.change = func(o *Options) { o.Timing.Replan = time.Millisecond }
	s.open(1, "one", some(plan.Create))
	s.start()
	s.until("told", func() bool { return s.knows(1) })
	n, writes := s.previews(), len(s.forge.wroteAll())
	for i := range 5 {
		s.daemon.mu.Lock()
		s.daemon.basis = fmt.Sprint("fleet", i)
		s.daemon.mu.Unlock()
		s.until("planned again", func() bool { return s.previews() > n+i })
	}
	time.Sleep(50 * time.Millisecond)
	if got := s.forge.wroteAll()[writes:]; len(got) > 0 {
		t.Errorf("written: %q", got)
	}
}

// TestReportsWaitForTheDisk: an outcome that could not be kept is told when the disk takes something again.
func TestReportsWaitForTheDisk(t *testing.T) {
	s := newScene(t)
	s.start()
	s.until("it is watched", func() bool { return s.config() != nil })
	s.Report(t.Context(), sync.Report{Stage: sync.StageApplying, Commit: sha("one"), Trigger: "commit", Plan: some(plan.Create)})
	s.until("pending", func() bool { return s.status("one", "varan/apply").State == forge.Pending })
	dir, away := filepath.Join(s.dir, "reports"), filepath.Join(s.dir, "away")
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	s.Report(t.Context(), applied("one", apply.StatusDone))
	time.Sleep(30 * time.Millisecond)
	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
	s.until("told", func() bool { return s.status("one", "varan/apply").State == forge.Success })
}

// TestFewStatusesOnOneCommit: a commit that stays for months is not told a thousand times what stands there.
func TestFewStatusesOnOneCommit(t *testing.T) {
	s := newScene(t)
	s.start()
	s.until("it is watched", func() bool { return s.config() != nil })
	s.Report(t.Context(), applied("one", apply.StatusDone))
	s.until("success", func() bool { return s.status("one", "varan/apply").State == forge.Success })
	report := func(trigger string, stays bool, status apply.Status, millis int64) {
		r := applied("one", status)
		r.Trigger, r.Stays, r.Run, r.Result.Millis = trigger, stays, fmt.Sprint("run", millis), millis
		s.Report(t.Context(), r)
	}
	for i := range 20 { // other repositories' commits
		s.Report(t.Context(), sync.Report{Stage: sync.StageApplying, Commit: sha("one"), Trigger: "commit", Plan: some(plan.Create), Stays: true})
		report("commit", true, apply.StatusDone, int64(100+i))
	}
	report("drift", false, apply.StatusFailed, 1000)
	s.until("failure", func() bool { return s.status("one", "varan/apply").State == forge.Failure })
	for i := range 20 { // it is tried again and again
		report("retry", false, apply.StatusFailed, int64(2000+i))
	}
	report("retry", false, apply.StatusDone, 5000)
	s.until("success again", func() bool { return s.status("one", "varan/apply").State == forge.Success })
	if got := s.forge.wroteAll(); len(got) != 3 {
		t.Errorf("written: %q", got)
	}
}

// TestMoodyFleet: where the fleet is seen otherwise all the time, a pull request is planned again less and less often: a
// forge takes 1,000 statuses a commit.
func TestMoodyFleet(t *testing.T) {
	s := newScene(t)
	s.change = func(o *Options) { o.Timing.Replan = 2 * time.Millisecond }
	s.open(1, "one", some(plan.Create))
	s.start()
	s.until("told", func() bool { return s.knows(1) })
	r := s.config()
	r.change(1, func(k *record) { k.Moods = 300 })
	n := s.previews()
	for i := range 10 {
		s.daemon.mu.Lock()
		s.daemon.basis = fmt.Sprint("fleet", i)
		s.daemon.mu.Unlock()
		time.Sleep(8 * time.Millisecond)
	}
	if got := s.previews() - n; got > 2 {
		t.Errorf("%d previews", got)
	}
	s.open(1, "two", some(plan.Update)) // a push is planned at once, and all begins anew
	s.until("planned", func() bool { return strings.Contains(s.forge.body(1), "1 update") })
	mood := 0
	r.change(1, func(k *record) { mood = k.Moods })
	if mood != 0 {
		t.Errorf("%d moods of a new head", mood)
	}
}

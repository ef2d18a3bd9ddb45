package sync

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo/gittest"
	"github.com/varanhq/varan/sync/webhook"
)

// pushHint is the hint of a push to a branch of the repository at a URL.
func pushHint(url, branch string) *webhook.Hint {
	return &webhook.Hint{Event: webhook.Push, Forge: webhook.Gitea, Repo: webhook.Repository{URLs: []string{url}}, Push: &webhook.PushHint{Branch: branch, After: "x"}}
}

// take gives the daemon a hint and waits for its end.
func (w *world) take(h *webhook.Hint) error {
	w.t.Helper()
	ended := make(chan error, 2)
	w.Take(h, func(err error) { ended <- err })
	select {
	case err := <-ended:
		return err
	case <-time.After(10 * time.Second):
		w.t.Fatalf("the hint did not end: %+v", w.Status().Syncs)
		return nil
	}
}

// slow polls so rarely that only hints make it look.
func slow(o *Options) { o.Settings.Config.Poll = time.Hour }

// TestHint: a push to the config repository is looked at, planned and applied at once, and the hint ends then.
func TestHint(t *testing.T) {
	w := follow(t, slow)
	url := w.opts.Settings.Config.URL
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	w.until("rest", func(s Status) bool { return len(s.Running) == 0 && s.Syncs[0].State == "ok" })

	second := w.git.Push(map[string]string{"a.toml": deployment("a", "2")})
	if look, why := w.Concerns(pushHint(url, "main")); !look || why != "looking at resource_sync/main" {
		t.Error(look, why)
	}
	if err := w.take(pushHint(url, "main")); err != nil {
		t.Fatal(err)
	}
	if s := w.Status().Syncs[0]; s.Applied != second {
		t.Errorf("the hint ended before the commit was planned: %+v", s)
	}
	n := len(w.host.did())
	if err := w.take(pushHint(url, "main")); err != nil { // again: nothing to do, and it ends
		t.Fatal(err)
	}
	if got := w.host.did()[n:]; len(got) > 0 {
		t.Errorf("ops %q", got)
	}

	for branch, of := range map[string]string{"dev": url, "main": strings.Replace(url, "repo.git", "other.git", 1)} {
		look, why := w.Concerns(pushHint(of, branch))
		if look || why == "" {
			t.Error(branch, look, why)
		}
		if err := w.take(pushHint(of, branch)); err != nil {
			t.Error(err)
		}
	}
	for _, h := range []*webhook.Hint{{Event: webhook.Pull, Pull: &webhook.PullHint{Number: 1}}, {Event: webhook.Comment, Comment: &webhook.CommentHint{}}, {Event: webhook.MergeGroup, MergeGroup: &webhook.GroupHint{}}} {
		if look, why := w.Concerns(h); look || !strings.Contains(why, "not previewed by this version") {
			t.Error(h.Event, look, why)
		}
	}
}

// TestHintsOfPulls: who previews gets those of repositories that are read, and no others.
func TestHintsOfPulls(t *testing.T) {
	w := follow(t, slow)
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	var got []*webhook.Hint
	w.HearPulls(func(h *webhook.Hint, ended func(error)) { got = append(got, h); ended(nil) })
	for _, url := range []string{w.opts.Settings.Config.URL, "https://example.com/else/where"} {
		h := &webhook.Hint{Event: webhook.Pull, Repo: webhook.Repository{URLs: []string{url}}, Pull: &webhook.PullHint{Number: 7}}
		if err := w.take(h); err != nil {
			t.Fatal(err)
		}
		if look, why := w.Concerns(h); look != (url == w.opts.Settings.Config.URL) {
			t.Error(url, why)
		}
	}
	if len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

// TestHintBeforeTheFirstReading: what came while nothing was known is looked at once something is.
func TestHintBeforeTheFirstReading(t *testing.T) {
	w := follow(t, slow)
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	if err := w.take(pushHint("https://example.com/elsewhere", "main")); err != nil {
		t.Fatal(err)
	}
	w.rep.applied(first)
}

// TestHintOfUnreachableRepository: it is not over; once the repository answers, it is.
func TestHintOfUnreachableRepository(t *testing.T) {
	w := follow(t, slow)
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	gitDir(t, w.git.Bare, "symbolic-ref", "HEAD", "refs/heads/gone")
	gitDir(t, w.git.Bare, "update-ref", "-d", "refs/heads/main")
	if err := w.take(pushHint(w.opts.Settings.Config.URL, "main")); err == nil {
		t.Error("the hint ended well though the branch was not there")
	}
	second := w.git.Push(map[string]string{"a.toml": deployment("a", "2")})
	if err := w.take(pushHint(w.opts.Settings.Config.URL, "main")); err != nil {
		t.Error(err)
	}
	if s := w.Status().Syncs[0]; s.Applied != second {
		t.Errorf("%+v", s)
	}
}

// TestHintOfLaggingReplica: a hook that is faster than the repository is to be brought again.
func TestHintOfLaggingReplica(t *testing.T) {
	w := follow(t, slow)
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	second := w.git.Commit(map[string]string{"a.toml": deployment("a", "2")})
	h := pushHint(w.opts.Settings.Config.URL, "main")
	h.Push.Before, h.Push.After = first, second
	if err := w.take(h); !errors.Is(err, webhook.ErrNotYet) {
		t.Errorf("ended with %v", err)
	}
	w.git.Send()
	if err := w.take(h); err != nil {
		t.Error(err)
	}
	if s := w.Status().Syncs[0]; s.Applied != second {
		t.Errorf("%+v", s)
	}
}

// TestHintWhilePaused: it waits for the pause's end.
func TestHintWhilePaused(t *testing.T) {
	w := follow(t, slow)
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	if err := w.Pause(t.Context(), PauseRequest{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	second := w.git.Push(map[string]string{"a.toml": deployment("a", "2")})
	ended := make(chan error, 1)
	w.Take(pushHint(w.opts.Settings.Config.URL, "main"), func(err error) { ended <- err })
	w.until("the new tip", func(s Status) bool { return s.Syncs[0].Tip == second })
	select {
	case err := <-ended:
		t.Fatalf("it ended while paused: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := w.Pause(t.Context(), PauseRequest{Off: true}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it did not end")
	}
	if s := w.Status().Syncs[0]; s.Applied != second {
		t.Errorf("%+v", s)
	}
}

// TestHintOfAnotherRepository: a push to the repository a stack takes its files from is deployed at once.
func TestHintOfAnotherRepository(t *testing.T) {
	w := follow(t, slow)
	app := newApp(t)
	provider := strings.TrimPrefix(strings.TrimSuffix(app.url, "/repo.git"), "http://")
	first := w.git.Push(map[string]string{"a.toml": "[[stack]]\nname = \"s\"\ndeploy = true\n[stack.config]\nrepo = \"repo\"\ngit_https = false\ngit_provider = \"" + provider + "\"\nrun_directory = \"s\"\n" +
		"[[build]]\nname = \"b\"\n[build.config]\nrepo = \"repo\"\ngit_https = false\ngit_provider = \"" + provider + "\"\nbuilder = \"x\"\nbuild_path = \"src\"\n[[builder]]\nname = \"x\"\n[builder.config]\ntype = \"Server\"\nparams.server = \"local\"\n[[server]]\nname = \"local\"\n[server.config]\naddress = \"local\"\n"})
	w.start()
	w.rep.applied(first)
	w.until("rest", func(s Status) bool { return len(s.Running) == 0 })
	n := len(w.host.did())
	app.push(strings.Replace(composeFile, "K: a", "K: b", 1))
	h := pushHint(app.url, "main")
	if look, why := w.Concerns(h); !look || why != "looking at stack/s" {
		t.Error(look, why)
	}
	h.Push.Paths, h.Push.Complete = []string{"src/main.go"}, true
	if look, why := w.Concerns(h); look || !strings.Contains(why, "build/b would run, but that kind is not carried out") {
		t.Error(look, why)
	}
	h.Push.Paths = []string{"s/compose.yaml"}
	if err := w.take(h); err != nil {
		t.Fatal(err)
	}
	if got := w.host.did()[n:]; len(got) != 1 || got[0] != "deploy stack/s" {
		t.Errorf("ops %q", got)
	}
}

// TestHintOfUnreachableOther: a hint of a repository that does not answer is not over.
func TestHintOfUnreachableOther(t *testing.T) {
	w := follow(t, slow)
	app := newApp(t)
	provider := strings.TrimPrefix(strings.TrimSuffix(app.url, "/repo.git"), "http://")
	first := w.git.Push(map[string]string{"a.toml": "[[stack]]\nname = \"s\"\ndeploy = true\n[stack.config]\nrepo = \"repo\"\ngit_https = false\ngit_provider = \"" + provider + "\"\nrun_directory = \"s\"\n"})
	w.start()
	w.rep.applied(first)
	app.push(strings.Replace(composeFile, "K: a", "K: b", 1))
	away := app.Bare + ".away"
	if err := os.Rename(app.Bare, away); err != nil {
		t.Fatal(err)
	}
	if err := w.take(pushHint(app.url, "main")); err == nil || !strings.Contains(err.Error(), "was not read") {
		t.Errorf("the hint ended with %v", err)
	}
	if err := w.take(pushHint(w.opts.Settings.Config.URL, "main")); err != nil {
		t.Errorf("that repository answers: %v", err)
	}
	if err := os.Rename(away, app.Bare); err != nil {
		t.Fatal(err)
	}
	n := len(w.host.did())
	if err := w.take(pushHint(app.url, "main")); err != nil {
		t.Error(err)
	}
	if got := w.host.did()[n:]; len(got) != 1 {
		t.Errorf("ops %q", got)
	}
}

// TestResourceOfListener: what one of Komodo's URLs finds, and a secret by its name.
func TestResourceOfListener(t *testing.T) {
	w := follow(t, slow, func(o *Options) { o.Settings.Secrets = map[string]protocol.Secret{"HOOK": "v"} })
	w.git.Push(map[string]string{"a.toml": `
[[stack]]
name = "own"
[stack.config]
repo = "a/b"
branch = "live"
git_https = false
git_provider = "127.0.0.1:1"
webhook_secret = "[[HOOK]]"
[[stack]]
name = "lost"
[stack.config]
file_contents = "services: {}"
webhook_secret = "[[NOBODY]]"
webhook_enabled = false
[[stack]]
name = "linked"
[stack.config]
linked_repo = "r"
[[repo]]
name = "r"
[repo.config]
repo = "a/b"
branch = "rel"
git_https = false
git_provider = "127.0.0.1:1"
[[procedure]]
name = "p"
`})
	w.start()
	if _, ready := w.Resource("stack/own"); ready {
		t.Log("read at once")
	}
	w.until("the first reading", func(Status) bool { _, ready := w.Resource("stack/own"); return ready })
	for id, want := range map[schema.ID]webhook.Resource{
		"stack/own": {Secret: "v", Branch: "live", Enabled: true}, "stack/linked": {Branch: "rel", Enabled: true},
		"resource_sync/main": {Branch: "main", Enabled: true}, "procedure/p": {Enabled: true},
	} {
		if got, _ := w.Resource(id); got == nil || *got != want {
			t.Errorf("%s: %+v", id, got)
		}
	}
	if got, _ := w.Resource("stack/lost"); got == nil || got.Enabled || got.Secret == "" || strings.Contains(got.Secret, "NOBODY") {
		t.Errorf("a name nobody knows became a secret everybody knows: %+v", got)
	}
	if got, ready := w.Resource("stack/none"); got != nil || !ready {
		t.Errorf("%+v", got)
	}
	for id, look := range map[schema.ID]bool{"stack/own": true, "resource_sync/main": true, "procedure/p": false, "build/x": false, "repo/r": false} {
		got, why := w.Concerns(&webhook.Hint{Event: webhook.Execution, Execution: &webhook.ExecutionHint{Resource: id}})
		if got != look || why == "" {
			t.Error(id, got, why)
		}
	}
}

// An appRepo is a repository beside the config repository.
type appRepo struct {
	*gittest.Repo
	url string
}

func newApp(t *testing.T) *appRepo {
	a := &appRepo{Repo: gittest.New(t)}
	a.push(composeFile)
	a.url = a.Serve(false).URL()
	return a
}

func (a *appRepo) push(compose string) { a.Push(map[string]string{"s/compose.yaml": compose}) }

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/forgetest"
)

// A codeHost is a forge with the config repository of a world, and people.
type codeHost struct {
	*world
	forge *forgetest.Server
	infra *forgetest.Repo
	bot   *forgetest.User
	app   *forgetest.App
	addr  string // of the daemon's HTTP
}

// onForge puts a world's config repository onto a forge. With hooks the forge tells the daemon, without the daemon asks.
func onForge(t *testing.T, kind forge.Kind, hooks bool, more string) *codeHost {
	t.Helper()
	shared := forgetest.Shared()
	if shared == "" {
		t.Skip("the forges' published contracts (../shared) are not here")
	}
	contracts, err := forgetest.ReadContracts(shared)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	dir := filepath.Join(w.dir, "forge")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := forgetest.New(forgetest.Options{Kind: kind, Dir: dir, Contracts: contracts, Fail: t.Errorf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	t.Cleanup(func() {
		if t.Failed() {
			for _, d := range f.Deliveries(true) {
				t.Logf("webhook %s %s: %d after %s", d.Event, d.Action, d.Status, d.Took)
			}
			for _, c := range f.Calls() {
				t.Logf("call %s %s?%s: %d", c.Method, c.Path, c.Query, c.Status)
			}
		}
	})
	h := &codeHost{world: w, forge: f}
	if h.infra, err = f.AddRepo("acme/infra"); err != nil {
		t.Fatal(err)
	}
	h.bot = f.AddUser("varan-bot")
	h.infra.Grant("varan-bot", forge.Maintain)
	for _, u := range []string{"ann", "bob"} {
		f.AddUser(u)
		h.infra.Grant(u, forge.Write)
	}
	h.addr = "127.0.0.1:" + freePort(t)
	poll, credential := "1s", fmt.Sprintf("token = %q", h.bot.Token)
	if hooks {
		poll = "1h"
		url := "http://" + h.addr + "/webhook/" + string(kind)
		h.infra.AddHook(forgetest.Hook{URL: url, Secret: "hook-secret"})
	}
	if kind == forge.GitHub {
		if h.app, err = f.AddApp("varan", h.infra); err != nil {
			t.Fatal(err)
		}
		key := filepath.Join(w.dir, "app.pem")
		if err := os.WriteFile(key, []byte(h.app.Key), 0o600); err != nil {
			t.Fatal(err)
		}
		credential = fmt.Sprintf("app_id = %d\ninstallation_id = %d\nprivate_key_file = %q", h.app.ID, h.app.Installation, key)
	}
	account := fmt.Sprintf("[[git_provider]]\ndomain = %q\nhttps = false\naccounts = [{ username = \"varan-bot\", token = %q }]\n", f.Domain(), h.bot.Token)
	if h.app != nil { // it reads over Git with its own tokens
		account = ""
	}
	w.configure(fmt.Sprintf("allow_http = true\nallow_internal = true\n---\n[config]\npoll = %q\ndelete = true\n%s\n[[forge]]\ntype = %q\ndomain = %q\napi_url = %q\nwebhook_secret = \"hook-secret\"\n%s\n%s",
		poll, more, kind, f.Domain(), f.APIURL(), credential, account))
	return h
}

// push commits files of the world (ID is its id) to a branch of the forge's repository.
func (h *codeHost) push(by, branch string, files map[string]string) string {
	h.t.Helper()
	named := map[string]string{}
	for name, text := range files {
		named[strings.ReplaceAll(name, "ID", h.id)] = strings.ReplaceAll(text, "ID", h.id)
	}
	sha, err := h.infra.Push(by, branch, named)
	if err != nil {
		h.t.Fatal(err)
	}
	return sha
}

func (h *codeHost) pull(by, branch string) int {
	h.t.Helper()
	n, err := h.infra.Open(by, "change", h.infra, branch, "main")
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

func (h *codeHost) serveForge() *daemon {
	h.t.Helper()
	d := h.start("--repo", h.infra.CloneURL(), "--listen", h.addr)
	h.eventually("the daemon answers", 20*time.Second, func() (bool, string) {
		res, err := http.Get("http://" + h.addr + "/healthz")
		if err != nil {
			return false, err.Error()
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK, res.Status
	})
	return d
}

// ours is varan's comment on a pull request, "" if there is none.
func (h *codeHost) ours(n int) string {
	var found []string
	for _, c := range h.infra.Comments(n) {
		if strings.HasPrefix(c.Body, "<!-- varan:") {
			found = append(found, c.Body)
		}
	}
	if len(found) > 1 {
		h.t.Errorf("%d comments of ours on pull request %d", len(found), n)
	}
	return strings.Join(found, "\n")
}

// told waits for a status and returns how long it took.
func (h *codeHost) told(limit time.Duration, sha, context, state string, more func() (bool, string)) time.Duration {
	h.t.Helper()
	began := time.Now()
	h.eventually(context+" "+state, limit, func() (bool, string) {
		s := h.infra.Status(sha, context)
		if !strings.HasPrefix(s.State, state) {
			return false, fmt.Sprintf("%+v", s)
		}
		if more != nil {
			return more()
		}
		return true, ""
	})
	return time.Since(began)
}

func (h *codeHost) comment(n int, parts ...string) func() (bool, string) {
	return func() (bool, string) {
		body := h.ours(n)
		for _, p := range parts {
			if !strings.Contains(body, strings.ReplaceAll(p, "ID", h.id)) {
				return false, fmt.Sprintf("no %q in the comment:\n%s", p, body)
			}
		}
		return true, ""
	}
}

// failureWord is how a forge spells a failed status.
func failureWord(kind forge.Kind) string {
	if kind == forge.GitLab {
		return "fail"
	}
	return "failure"
}

func hundred() map[string]string {
	files := map[string]string{"a.toml": one("a")}
	for i := range 99 {
		files[fmt.Sprintf("parked/%02d.toml", i)] = fmt.Sprintf("[[deployment]]\nname = \"ID-p%02d\"\ndeploy = false\n[deployment.config]\nimage = { type = \"Image\", params = { image = \"varan-e2e:1\" } }\n", i)
	}
	return files
}

// TestPullStory is a change's way from a branch to healthy containers, with every word that is said on it.
func TestPullStory(t *testing.T) {
	for _, c := range []struct {
		kind  forge.Kind
		hooks bool
	}{{forge.GitHub, true}, {forge.GitHub, false}, {forge.Gitea, true}, {forge.GitLab, true}} {
		name := string(c.kind)
		if !c.hooks {
			name += " polled"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pullStory(t, c.kind, c.hooks)
		})
	}
}

func pullStory(t *testing.T, kind forge.Kind, hooks bool) {
	h := onForge(t, kind, hooks, "")
	base := h.push("ann", "main", hundred())
	h.serveForge()
	h.told(30*time.Second, base, "varan/apply", "success", nil)
	limit, failure := 15*time.Second, failureWord(kind)

	// A new deployment: the plan stands in the comment, and nothing happens.
	head := h.push("ann", "feature", map[string]string{"b.toml": one("b", `after = ["ID-a"]`)})
	n := h.pull("ann", "feature")
	took := h.told(limit, head, "varan/plan", "success", h.comment(n, "1 create", "deployment/ID-b"))
	t.Logf("comment and status after %s", took)
	if took > 3*time.Second && hooks && !raceDetector {
		t.Errorf("comment and status took %s", took)
	}
	h.told(limit, head, "varan/apply", "success", nil) // so that it can be a required check
	if len(h.containers(true)) != 1 {
		t.Errorf("a preview made containers: %s", h.names())
	}

	// A second push edits the same comment; what it says of a broken file has the line.
	head = h.push("ann", "feature", map[string]string{"c.toml": "[[deploymnt]]\nname = \"x\"\n"})
	h.told(limit, head, "varan/plan", failure, h.comment(n, "c.toml:1"))
	if kind == forge.GitHub {
		h.eventually("annotations", limit, func() (bool, string) {
			runs := h.infra.CheckRuns(head)
			return len(runs) > 0 && len(runs[0].Annotations) > 0, fmt.Sprintf("%+v", runs)
		})
	}
	head = h.push("ann", "feature", map[string]string{"c.toml": ""})
	h.told(limit, head, "varan/plan", "success", h.comment(n, "1 create"))

	// The merge applies it and says so.
	merged, err := h.infra.Merge(n, "bob", forgetest.MergeCommit)
	if err != nil {
		t.Fatal(err)
	}
	h.told(2*limit, merged, "varan/apply", "success", h.comment(n, "✅", "deployment/ID-b"))
	if _, ok := h.ids()[h.id+"-b"]; !ok {
		t.Errorf("not running: %s", h.names())
	}

	// Nothing of ours: a status, no comment.
	head = h.push("ann", "readme", map[string]string{"README.md": "hello"})
	readme := h.pull("ann", "readme")
	h.told(limit, head, "varan/plan", "success", nil)
	if kind == forge.GitHub {
		group, err := h.infra.Queue(readme)
		if err != nil {
			t.Fatal(err)
		}
		h.told(limit, group, "varan/plan", "success", nil)
		h.told(limit, group, "varan/apply", "success", nil)
	}
	if body := h.ours(readme); body != "" {
		t.Errorf("a pull request without changes was commented:\n%s", body)
	}

	// A container that fails: the cause stands at the commit and in the comment.
	failing := strings.NewReplacer(`command = "sleep 2147483647"`, `command = "false"`, `settle = "0s"`, `settle = "2s"`).Replace(one("b"))
	head = h.push("ann", "bad", map[string]string{"b.toml": failing})
	bad := h.pull("ann", "bad")
	h.told(limit, head, "varan/plan", "success", h.comment(bad, "1 recreate"))
	merged, err = h.infra.Merge(bad, "bob", forgetest.Squash)
	if err != nil {
		t.Fatal(err)
	}
	h.told(2*limit, merged, "varan/apply", failure, h.comment(bad, "❌", "exit code 1"))
	if _, ok := h.ids()[h.id+"-b"]; !ok {
		t.Errorf("what ran before does not run: %s", h.names())
	}
}

// TestPullApproval: with apply = "manual" a merge waits for the word of somebody who may write.
func TestPullApproval(t *testing.T) {
	h := onForge(t, forge.GitHub, true, "apply = \"manual\"")
	base := h.push("ann", "main", map[string]string{"README.md": "hello"})
	h.serveForge()
	h.told(30*time.Second, base, "varan/apply", "success", nil)
	head := h.push("ann", "feature", map[string]string{"a.toml": one("a")})
	n := h.pull("ann", "feature")
	h.told(15*time.Second, head, "varan/plan", "success", h.comment(n, "1 create"))
	merged, err := h.infra.Merge(n, "bob", forgetest.MergeCommit)
	if err != nil {
		t.Fatal(err)
	}
	h.told(15*time.Second, merged, "varan/apply", "pending", h.comment(n, "waits for an approval", "/varan apply"))
	h.forge.AddUser("eve")
	h.infra.Grant("eve", forge.Read)
	if _, err := h.infra.Say(n, "eve", "/varan apply"); err != nil {
		t.Fatal(err)
	}
	h.eventually("an answer", 15*time.Second, h.comment(n, "may not approve"))
	if len(h.containers(true)) > 0 {
		t.Errorf("applied without an approval: %s", h.names())
	}
	h.say(n, "bob", "/varan apply")
	h.told(30*time.Second, merged, "varan/apply", "success", h.comment(n, "✅", "bob"))
	if _, ok := h.ids()[h.id+"-a"]; !ok {
		t.Errorf("not running: %s", h.names())
	}
}

package forge_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	gosync "sync"
	"testing"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/forgetest"
)

// received are the webhooks a test got.
type received struct {
	mu   gosync.Mutex
	all  []forgetest.Delivery
	fail bool
}

func (r *received) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, forgetest.Delivery{Body: body, Header: req.Header})
	if r.fail {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// TestWebhooks: every event of a pull request's life is sent, signed, and GitHub's are as its schemas say.
func TestWebhooks(t *testing.T) {
	const secret = "It's a Secret to Everybody"
	for kind, want := range map[forge.Kind][]string{
		forge.GitHub: {
			"push refs/heads/feature", "pull_request opened", "push refs/heads/feature", "pull_request synchronize", "pull_request edited",
			"issue_comment created", "issue_comment edited", "issue_comment deleted", "pull_request closed", "pull_request reopened",
			"push refs/heads/gh-readonly-queue/", "merge_group checks_requested", "pull_request closed", "push refs/heads/main",
			"push refs/heads/feature", "push refs/tags/v1",
		},
		forge.Gitea: {
			"push refs/heads/feature", "pull_request opened", "push refs/heads/feature", "pull_request_sync synchronized", "pull_request edited",
			"pull_request_comment created", "pull_request_comment edited", "pull_request_comment deleted", "pull_request closed",
			"pull_request reopened", "pull_request closed", "push refs/heads/main", "delete feature", "push refs/tags/v1",
		},
		forge.GitLab: {
			"Push Hook refs/heads/feature", "Merge Request Hook open", "Push Hook refs/heads/feature", "Merge Request Hook update",
			"Merge Request Hook update", "Note Hook create", "Note Hook update", "Merge Request Hook close", "Merge Request Hook reopen",
			"Merge Request Hook merge", "Push Hook refs/heads/main", "Push Hook refs/heads/feature", "Tag Push Hook refs/tags/v1",
		},
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kind)
			var got received
			hooks := httptest.NewServer(&got)
			defer hooks.Close()
			w.repo.AddHook(forgetest.Hook{URL: hooks.URL, Secret: secret})
			step := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				w.Deliveries(true) // one after another, so that the order can be compared
			}
			n, _ := w.pull("feature", map[string]string{"b.toml": "two\n"})
			w.Deliveries(true)
			step(errOf(w.repo.ForcePush("ann", "feature", map[string]string{"b.toml": "three\n"})))
			step(w.repo.Retitle(n, "ann", "better"))
			id, err := w.repo.Say(n, "ann", "/varan plan")
			step(err)
			step(w.repo.EditComment(id, "ann", "changed"))
			step(w.repo.DeleteComment(id, "ann"))
			step(w.repo.ClosePull(n, "ann"))
			step(w.repo.Reopen(n, "ann"))
			if kind == forge.GitHub {
				step(errOf(w.repo.Queue(n)))
			}
			step(errOf(w.repo.Merge(n, "ann", forgetest.MergeCommit)))
			step(w.repo.DeleteBranch("ann", "feature"))
			runGit(t, w.repo.Bare, "tag", "v1", "main")
			step(w.repo.Pushed("ann"))

			var events []string
			for _, d := range got.all {
				var p struct {
					Ref, Action string
					Attributes  struct{ Action string } `json:"object_attributes"`
				}
				if err := json.Unmarshal(d.Body, &p); err != nil {
					t.Fatal(err)
				}
				mac := hmac.New(sha256.New, []byte(secret))
				mac.Write(d.Body)
				sum := hex.EncodeToString(mac.Sum(nil))
				event := d.Header.Get("X-GitHub-Event")
				switch kind {
				case forge.GitHub:
					if d.Header.Get("X-Hub-Signature-256") != "sha256="+sum || len(d.Header.Get("X-GitHub-Delivery")) != 36 {
						t.Errorf("headers %v", d.Header)
					}
				case forge.Gitea:
					event = d.Header.Get("X-Gitea-Event-Type")
					if d.Header.Get("X-Gitea-Signature") != sum || len(d.Header.Get("X-Gitea-Delivery")) != 36 {
						t.Errorf("headers %v", d.Header)
					}
				case forge.GitLab:
					event = d.Header.Get("X-Gitlab-Event")
					if d.Header.Get("X-Gitlab-Token") != secret || len(d.Header.Get("Idempotency-Key")) != 36 {
						t.Errorf("headers %v", d.Header)
					}
				}
				what := p.Ref + p.Action + p.Attributes.Action
				if i := strings.Index(what, "gh-readonly-queue/"); i > 0 {
					what = what[:i+len("gh-readonly-queue/")]
				}
				events = append(events, event+" "+what)
			}
			slices.Sort(events) // webhooks of one act overtake each other
			slices.Sort(want)
			if !slices.Equal(events, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(events, "\n"), strings.Join(want, "\n"))
			}
			sent := w.Deliveries(true)
			if len(sent) != len(got.all) || sent[0].Status != 200 {
				t.Errorf("%d sent, %d arrived", len(sent), len(got.all))
			}
			if err := w.Redeliver(sent[0].ID); err != nil {
				t.Fatal(err)
			}
			again := w.Deliveries(true)
			if last := again[len(again)-1]; last.ID != sent[0].ID || string(last.Body) != string(sent[0].Body) {
				t.Error("a redelivery is another delivery")
			}
		})
	}
}

// TestGit: the repository over HTTP, pull requests' refs included; a push by Git moves the pull request.
func TestGit(t *testing.T) {
	each(t, func(t *testing.T, w *world, c forge.Forge) {
		ann := w.AddUser("ann")
		w.repo.Grant("ann", forge.Write)
		n, head := w.pull("feature", map[string]string{"b.toml": "two\n"})
		pr, err := c.PullRequest(t.Context(), w.at, n)
		if err != nil {
			t.Fatal(err)
		}
		scheme, rest, _ := strings.Cut(w.repo.CloneURL(), "://")
		at := scheme + "://ann:" + ann.Token + "@" + rest
		if refs := lsRemote(t, at); refs[pr.HeadRef] != head || refs["refs/heads/main"] != w.base {
			t.Errorf("got %v", refs)
		}
		dir := t.TempDir()
		runGit(t, dir, "clone", "-q", "-b", "feature", at, "work")
		work := dir + "/work"
		runGit(t, work, "-c", "user.name=Ann", "-c", "user.email=ann@example.org", "commit", "-q", "--allow-empty", "-m", "more")
		runGit(t, work, "push", "-q", "origin", "feature")
		after, err := c.PullRequest(t.Context(), w.at, n)
		if err != nil || after.Head.SHA == head || lsRemote(t, at)[after.HeadRef] != after.Head.SHA {
			t.Errorf("%+v %v", after, err)
		}
		cmd := exec.Command("git", "ls-remote", w.repo.CloneURL())
		cmd.Env = append(cmd.Environ(), "GIT_TERMINAL_PROMPT=0")
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("a private repository without a token: %s", out)
		}
	})
}

func runGit(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
}

// TestStandInIsStrict: what GitHub refuses, and the client never sends, the stand-in refuses too.
func TestStandInIsStrict(t *testing.T) {
	var broken []string
	w := newWorld(t, forge.GitHub, func(o *forgetest.Options) {
		o.Fail = func(format string, _ ...any) { broken = append(broken, format) }
	})
	u := w.AddUser("bot")
	w.repo.Grant("bot", forge.Admin)
	n, head := w.pull("feature", map[string]string{"b.toml": "two\n"})
	post := func(path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, w.APIURL()+"/repos/acme/infra/"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+u.Token)
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(text)
	}
	quote := func(n int) string { return `"` + strings.Repeat("x", n) + `"` }
	for name, tc := range map[string]struct {
		path, body string
		want       string
	}{
		"description": {"statuses/" + head, `{"state":"success","description":` + quote(141) + `}`, "maximum is 140"},
		"context":     {"statuses/" + head, `{"state":"success","context":` + quote(256) + `}`, "maximum is 255"},
		"comment":     {"issues/" + itoa(n) + "/comments", `{"body":` + quote(65537) + `}`, "maximum is 65536"},
		"no commit":   {"statuses/" + strings.Repeat("1", 40), `{"state":"success"}`, "No commit found"},
	} {
		if status, text := post(tc.path, tc.body); status != 422 || !strings.Contains(text, tc.want) {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	for i := range 1001 {
		status, text := post("statuses/"+head, `{"state":"pending","context":"varan/plan"}`)
		if want := map[bool]int{true: 201, false: 422}[i < 1000]; status != want {
			t.Fatalf("status number %d: %d %s", i+1, status, text)
		}
	}
	if len(broken) > 0 {
		t.Errorf("contract: %v", broken)
	}
	if post("statuses/"+head, `{"state":"running"}`); len(broken) == 0 {
		t.Error("a state that GitHub does not know went through")
	}
	broken = nil
	if post("no/such/operation", `{}`); len(broken) == 0 {
		t.Error("an operation that GitHub does not have went through")
	}
	done := w.ContentWrites()
	w.Set(func(s *forgetest.Server) { s.MaxContent = done + 1 })
	if status, _ := post("issues/"+itoa(n)+"/comments", `{"body":"one"}`); status != 201 {
		t.Errorf("the last write: %d", status)
	}
	if status, text := post("issues/"+itoa(n)+"/comments", `{"body":"two"}`); status != 403 || !strings.Contains(text, "secondary rate limit") {
		t.Errorf("one write too many: %d %s", status, text)
	}
}

package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/forgetest"
)

// say comments as a user, in a second of its own: forges tell no less.
func (h *codeHost) say(n int, login, body string) int64 {
	h.t.Helper()
	time.Sleep(1100 * time.Millisecond)
	id, err := h.infra.Say(n, login, body)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

func (h *codeHost) merge(n int) string {
	h.t.Helper()
	sha, err := h.infra.Merge(n, "bob", forgetest.MergeCommit)
	if err != nil {
		h.t.Fatal(err)
	}
	return sha
}

func (h *codeHost) runs(name string) bool {
	_, ok := h.ids()[h.id+"-"+name]
	return ok
}

// stays fails if a container comes up within a moment.
func (h *codeHost) stays(what, name string) {
	h.t.Helper()
	time.Sleep(700 * time.Millisecond)
	if h.runs(name) {
		h.t.Fatalf("%s was taken for an approval", what)
	}
}

// said fails if a status was set twice in a row with the same words, or there are two comments of ours.
func (h *codeHost) said(n int, shas ...string) {
	h.t.Helper()
	h.ours(n)
	for _, sha := range shas {
		last := map[string]string{}
		for _, s := range h.infra.History(sha) {
			word := s.State + " " + s.Description
			if last[s.Context] == word {
				h.t.Errorf("%s of %s was set to %q twice", s.Context, sha[:7], word)
			}
			last[s.Context] = word
		}
	}
}

// TestPullCommands: what is taken for an approval, and what is not.
func TestPullCommands(t *testing.T) {
	t.Parallel()
	h := onForge(t, forge.GitHub, true, "apply = \"manual\"")
	base := h.push("ann", "main", map[string]string{"README.md": "hello"})
	d := h.serveForge()
	h.told(30*time.Second, base, "varan/apply", "success", nil)
	head := h.push("ann", "feature", map[string]string{"a.toml": one("a")})
	n := h.pull("ann", "feature")
	h.told(15*time.Second, head, "varan/plan", "success", h.comment(n, "1 create"))
	h.say(n, "bob", "/varan apply")
	h.eventually("an answer before the merge", 15*time.Second, h.comment(n, "after the merge"))
	merged := h.merge(n)
	h.told(15*time.Second, merged, "varan/apply", "pending", h.comment(n, "waits for an approval"))

	h.say(n, "bob", "> /varan apply")
	h.say(n, "bob", "I would say\n/varan apply")
	h.stays("a quote", "a")
	h.forge.AddUser("helper").Bot = true
	h.infra.Grant("helper", forge.Admin)
	h.say(n, "helper", "/varan apply")
	h.stays("a bot's comment", "a")
	id := h.say(n, "bob", "looks fine")
	if err := h.infra.EditComment(id, "bob", "/varan apply"); err != nil {
		t.Fatal(err)
	}
	h.stays("an edited comment", "a")

	// The base moves between the command and the moment it is read: nobody approved what waits now.
	d.kill()
	h.say(n, "bob", "/varan apply")
	time.Sleep(1100 * time.Millisecond)
	moved := h.push("ann", "main", map[string]string{"b.toml": one("b")})
	d = h.serveForge()
	h.told(30*time.Second, moved, "varan/apply", "pending", nil)
	h.eventually("an answer", 30*time.Second, func() (bool, string) {
		body := h.ours(n)
		return strings.Contains(body, "approve again") || strings.Contains(body, "another one than this comment shows"), body
	})
	h.stays("an approval of an older plan", "a")
	h.say(n, "bob", "/varan apply")
	h.told(30*time.Second, moved, "varan/apply", "success", h.comment(n, "✅", "bob"))
	if !h.runs("a") || !h.runs("b") {
		t.Errorf("not running: %s", h.names())
	}

	// The approval's webhook again, under a fresh delivery id, while another plan waits.
	head = h.push("ann", "third", map[string]string{"c.toml": one("c")})
	n2 := h.pull("ann", "third")
	h.told(15*time.Second, head, "varan/plan", "success", h.comment(n2, "1 create"))
	merged = h.merge(n2)
	h.told(15*time.Second, merged, "varan/apply", "pending", h.comment(n2, "waits for an approval"))
	replayed := 0
	for _, del := range h.forge.Deliveries(true) {
		if del.Event != "issue_comment" || del.Action != "created" || !bytes.Contains(del.Body, []byte(`"/varan apply"`)) {
			continue
		}
		req, err := http.NewRequest(http.MethodPost, del.URL, bytes.NewReader(del.Body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = del.Header.Clone()
		req.Header.Set("X-GitHub-Delivery", rand.Text())
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		replayed++
	}
	if replayed == 0 {
		t.Error("no webhook to replay")
	}
	h.stays("a replayed webhook", "c")
	d.stop()
}

// TestPullSurprise: a merge that removes what the pull request did not show asks first.
func TestPullSurprise(t *testing.T) {
	t.Parallel()
	h := onForge(t, forge.GitHub, true, "")
	base := h.push("ann", "main", map[string]string{"a.toml": one("a"), "b.toml": one("b")})
	d := h.serveForge()
	h.told(30*time.Second, base, "varan/apply", "success", nil)
	head := h.push("ann", "feature", map[string]string{"c.toml": one("c")})
	n := h.pull("ann", "feature")
	h.told(15*time.Second, head, "varan/plan", "success", h.comment(n, "1 create"))
	d.kill() // it does not see what is pushed now
	h.push("ann", "feature", map[string]string{"b.toml": ""})
	merged := h.merge(n)
	h.serveForge()
	h.told(30*time.Second, merged, "varan/apply", "pending", h.comment(n, "did not show", "/varan apply"))
	if !h.runs("b") || h.runs("c") {
		t.Fatalf("applied without a question: %s", h.names())
	}
	h.say(n, "bob", "/varan apply")
	h.told(30*time.Second, merged, "varan/apply", "success", h.comment(n, "✅"))
	if h.runs("b") || !h.runs("c") {
		t.Errorf("not as approved: %s", h.names())
	}
	// What the preview showed needs no second word.
	head = h.push("ann", "shown", map[string]string{"c.toml": ""})
	n = h.pull("ann", "shown")
	h.told(15*time.Second, head, "varan/plan", "success", h.comment(n, "1 remove"))
	h.told(30*time.Second, h.merge(n), "varan/apply", "success", nil)
	if h.runs("c") {
		t.Errorf("not removed: %s", h.names())
	}
}

// TestPullKilled: the daemon is killed with -9 at every write of a pull request's story, done or not, and what was
// written is not written again.
func TestPullKilled(t *testing.T) {
	t.Parallel()
	h := onForge(t, forge.GitHub, true, "")
	base := h.push("ann", "main", map[string]string{"a.toml": one("a")})
	d := h.serveForge()
	h.told(30*time.Second, base, "varan/apply", "success", nil)

	var mu sync.Mutex // guards hit
	hit := make(chan struct{}, 1)
	kills := 0
	arm := func() {
		done := kills%2 == 0 // the write was done, or was not
		h.forge.Trouble(forgetest.Trouble{Times: 1, Lose: done, Drop: !done, Match: func(r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			ours := forgetest.Writes(r) && (strings.Contains(r.URL.Path, "/statuses/") || strings.Contains(r.URL.Path, "/comments"))
			if ours {
				hit <- struct{}{}
			}
			return ours
		}})
	}
	killing := func(end func() bool) {
		t.Helper()
		arm()
		for limit := time.Now().Add(60 * time.Second); ; {
			select {
			case <-hit:
				d.kill()
				kills++
				if kills > 12 {
					t.Fatal("it does not come to an end: something is written again and again")
				}
				arm()
				d = h.serveForge()
			case <-time.After(100 * time.Millisecond):
				if end() {
					return
				}
				if time.Now().After(limit) {
					t.Fatalf("no end after %d kills", kills)
				}
			}
		}
	}
	head := h.push("ann", "feature", map[string]string{"b.toml": one("b")})
	n := h.pull("ann", "feature")
	killing(func() bool {
		return h.infra.Status(head, "varan/plan").State == "success" && h.infra.Status(head, "varan/apply").State == "success" && h.ours(n) != ""
	})
	merged := h.merge(n)
	killing(func() bool {
		return h.infra.Status(merged, "varan/apply").State == "success" && strings.Contains(h.ours(n), "✅")
	})
	if !h.runs("b") {
		t.Errorf("not running: %s", h.names())
	}
	h.said(n, head, merged)
	edits := 0
	for _, c := range h.forge.Calls() {
		if c.Method == http.MethodPatch && strings.Contains(c.Path, "/comments") && c.Status == http.StatusOK {
			edits++
		}
	}
	t.Logf("%d kills, %d edits; statuses of the merge: %+v", kills, edits, h.infra.History(merged))
	if edits > 1 {
		t.Errorf("the comment was edited %d times", edits)
	}
	if kills < 5 {
		t.Errorf("only %d writes met", kills)
	}
}

// thousand declares 1,000 resources of which one asks for a container.
func thousand(version string) map[string]string {
	files := map[string]string{"a.toml": strings.Replace(one("a"), "K = x", "K = "+version, 1)}
	for f := range 9 {
		var b strings.Builder
		for i := range 111 {
			fmt.Fprintf(&b, "[[deployment]]\nname = \"ID-p%d-%03d\"\ndeploy = false\n[deployment.config]\nimage = { type = \"Image\", params = { image = \"varan-e2e:1\" } }\nenvironment = \"K = %s\"\n", f, i, version)
		}
		files[fmt.Sprintf("parked/%d.toml", f)] = b.String()
	}
	return files
}

// TestPullWeather: a commit of 1,000 resources is told in few writes, and what the forge asks for is obeyed: nothing
// at all is sent while it wants to be left alone, and what was written before a connection was lost is not repeated.
func TestPullWeather(t *testing.T) {
	t.Parallel()
	h := onForge(t, forge.GitHub, true, "")
	base := h.push("ann", "main", thousand("v0"))
	h.serveForge()
	h.told(60*time.Second, base, "varan/apply", "success", nil)

	var mu sync.Mutex // guards limited and early
	var limited time.Time
	early := 0
	h.forge.Trouble(forgetest.Trouble{Match: func(r *http.Request) bool { // sees every request, troubles none
		mu.Lock()
		defer mu.Unlock()
		if since := time.Since(limited); since > 50*time.Millisecond && since < 1900*time.Millisecond {
			early++
		}
		return false
	}})
	limit := forgetest.SecondaryLimit(1, "2")
	limit.Match = func(r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if forgetest.Writes(r) && strings.Contains(r.URL.Path, "/statuses/") {
			limited = time.Now()
			return true
		}
		return false
	}
	h.forge.Trouble(limit)
	comments := func(r *http.Request) bool {
		return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/comments")
	}
	h.forge.Trouble(forgetest.Trouble{Times: 1, Status: http.StatusBadGateway, Match: comments})
	h.forge.Trouble(forgetest.Trouble{Times: 1, Lose: true, Match: comments})
	h.forge.Forget()
	head := h.push("ann", "feature", thousand("v1"))
	n := h.pull("ann", "feature")
	h.told(60*time.Second, head, "varan/plan", "success", h.comment(n, "1 recreate"))
	mu.Lock()
	if limited.IsZero() || early > 0 {
		t.Errorf("%d requests while the forge wanted to be left alone (asked at %s)", early, limited)
	}
	mu.Unlock()

	// The App's token ends in the middle, and a status is lost after it was done.
	h.forge.Revoke(h.app)
	h.forge.Trouble(forgetest.Trouble{Times: 1, Lose: true, Match: func(r *http.Request) bool {
		return forgetest.Writes(r) && strings.Contains(r.URL.Path, "/statuses/")
	}})
	merged := h.merge(n)
	h.told(60*time.Second, merged, "varan/apply", "success", h.comment(n, "✅"))
	h.said(n, head, merged)
	t.Logf("%d writes for the preview and the run; %d tokens", h.forge.ContentWrites(), h.app.Issued)
	if w := h.forge.ContentWrites(); w > 10 {
		t.Errorf("%d writes", w)
	}
	if h.app.Issued < 2 {
		t.Errorf("%d tokens: the old one was ended", h.app.Issued)
	}
}

// TestPullMoves: a pull request is closed, reopened, its branch rewritten, and sent to another branch and back.
func TestPullMoves(t *testing.T) {
	t.Parallel()
	h := onForge(t, forge.GitHub, true, "")
	base := h.push("ann", "main", map[string]string{"a.toml": one("a")})
	h.serveForge()
	h.told(30*time.Second, base, "varan/apply", "success", nil)
	h.push("ann", "dev", map[string]string{"README.md": "dev"})
	const limit = 15 * time.Second

	head := h.push("ann", "feature", map[string]string{"b.toml": one("b")})
	n := h.pull("ann", "feature")
	h.told(limit, head, "varan/plan", "success", h.comment(n, "1 create"))
	head, err := h.infra.ForcePush("ann", "feature", map[string]string{"b.toml": strings.ReplaceAll(one("b")+one("c"), "ID", h.id)})
	if err != nil {
		t.Fatal(err)
	}
	h.told(limit, head, "varan/plan", "success", h.comment(n, "2 create"))

	if err := h.infra.ClosePull(n, "ann"); err != nil {
		t.Fatal(err)
	}
	head = h.push("ann", "feature", map[string]string{"d.toml": one("d")})
	time.Sleep(time.Second)
	if s := h.infra.Status(head, "varan/plan"); s.State != "" {
		t.Errorf("a closed pull request was planned: %+v", s)
	}
	if err := h.infra.Reopen(n, "ann"); err != nil {
		t.Fatal(err)
	}
	h.told(limit, head, "varan/plan", "success", h.comment(n, "3 create"))

	if err := h.infra.Rebase(n, "ann", "dev"); err != nil {
		t.Fatal(err)
	}
	h.eventually("it is left", limit, h.comment(n, "dev"))
	if err := h.infra.Rebase(n, "ann", "main"); err != nil {
		t.Fatal(err)
	}
	h.eventually("it is planned again", limit, h.comment(n, "3 create"))

	// The base moves: the plan is made anew.
	base = h.push("ann", "main", map[string]string{"d.toml": one("d")})
	h.eventually("against the new base", limit, h.comment(n, "`"+base[:7]+"`"))
	h.told(2*limit, h.merge(n), "varan/apply", "success", h.comment(n, "✅"))
	if len(h.containers(false)) != 4 {
		t.Errorf("running: %s", h.names())
	}
	h.said(n, head)
}

// TestPullApp: a pull request in a repository that a stack takes its files from is previewed there, for that stack
// alone, and its merge is applied.
func TestPullApp(t *testing.T) {
	t.Parallel()
	h := onForge(t, forge.GitHub, false, "")
	shop, err := h.forge.AddRepo("acme/shop")
	if err != nil {
		t.Fatal(err)
	}
	shop.Grant("varan-bot", forge.Maintain)
	shop.Grant("ann", forge.Write)
	if _, err := h.forge.Install(h.app.ID, shop); err != nil {
		t.Fatal(err)
	}
	file := func(k string) map[string]string {
		return map[string]string{"compose.yaml": "services:\n  web:\n    image: varan-e2e:1\n    network_mode: none\n    stop_signal: SIGKILL\n    command: sleep 2147483647\n    environment:\n      K: " + k + "\n      E: ${ELSEWHERE}\n"}
	}
	if _, err := shop.Push("ann", "main", file("before")); err != nil {
		t.Fatal(err)
	}
	base := h.push("ann", "main", map[string]string{"a.toml": one("a"), "shop.toml": fmt.Sprintf(
		"[[stack]]\nname = \"ID-shop\"\ndeploy = true\n[stack.config]\ngit_provider = %q\ngit_https = false\nrepo = \"acme/shop.git\"\nenvironment = \"ELSEWHERE = canary-of-infra\"\n", h.forge.Domain())})
	if r := h.varan("forge", "check", "acme/infra", "acme/shop"); r.exit != 0 || !strings.Contains(r.stdout, "acme/shop") || strings.Contains(r.stdout, "✗") {
		t.Errorf("varan forge check: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	h.serveForge()
	h.told(60*time.Second, base, "varan/apply", "success", nil)
	head, err := shop.Push("ann", "feature", file("after"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := shop.Open("ann", "change", shop, "feature", "main")
	if err != nil {
		t.Fatal(err)
	}
	body := ""
	h.eventually("the comment there", 30*time.Second, func() (bool, string) {
		for _, c := range shop.Comments(n) {
			body = c.Body
		}
		s := shop.Status(head, "varan/plan")
		return s.State == "success" && strings.Contains(body, "stack/"+h.id+"-shop"), fmt.Sprintf("%+v\n%s", s, body)
	})
	if !strings.Contains(body, "after") || strings.Contains(body, "canary-of-infra") || strings.Contains(body, h.id+"-a`") {
		t.Errorf("it shows what is not its own:\n%s", body)
	}
	h.eventually("what can be a required check", 10*time.Second, func() (bool, string) {
		s := shop.Status(head, "varan/apply")
		return s.State == "success", fmt.Sprintf("%+v", s)
	})
	merged, err := shop.Merge(n, "ann", forgetest.MergeCommit)
	if err != nil {
		t.Fatal(err)
	}
	h.eventually("the service as merged", 60*time.Second, func() (bool, string) {
		for name, c := range h.containers(false) {
			if !strings.Contains(name, "shop") {
				continue
			}
			info, err := h.docker.ContainerInspect(t.Context(), c.ID)
			if err == nil && strings.Contains(strings.Join(info.Config.Env, " "), "K=after") {
				return true, ""
			}
		}
		return false, h.names()
	})
	h.eventually("the outcome there", 30*time.Second, func() (bool, string) {
		for _, c := range shop.Comments(n) {
			body = c.Body
		}
		s := shop.Status(merged, "varan/apply")
		return s.State == "success" && strings.Contains(body, "✅"), fmt.Sprintf("%+v\n%s", s, body)
	})
	if len(shop.Comments(n)) != 1 || strings.Contains(body, "canary-of-infra") || strings.Contains(body, h.id+"-a`") || strings.Contains(body, "shop.toml") {
		t.Errorf("%d comments, the last one:\n%s", len(shop.Comments(n)), body)
	}
	t.Logf("the comment after the merge:\n%s", body)

	// What compose does not take is told there, at its line, and what runs stays.
	if _, err := shop.Push("ann", "bad", map[string]string{"compose.yaml": "services:\n  web:\n    image: varan-e2e:1\n    ports: [\"${ELSEWHERE}\"]\n"}); err != nil {
		t.Fatal(err)
	}
	if n, err = shop.Open("ann", "bad", shop, "bad", "main"); err != nil {
		t.Fatal(err)
	}
	if merged, err = shop.Merge(n, "ann", forgetest.Squash); err != nil {
		t.Fatal(err)
	}
	h.eventually("failure there", 30*time.Second, func() (bool, string) {
		s := shop.Status(merged, "varan/apply")
		return s.State == "failure" && strings.Contains(s.Description, "compose.yaml"), fmt.Sprintf("%+v", s)
	})
	if s := shop.Status(merged, "varan/apply"); strings.Contains(s.Description, "canary-of-infra") {
		t.Errorf("the status tells what is not its own: %q", s.Description)
	}
}

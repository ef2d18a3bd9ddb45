package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/varanhq/varan/schema"
)

const (
	one   = "1111111111111111111111111111111111111111"
	two   = "2222222222222222222222222222222222222222"
	zeros = "0000000000000000000000000000000000000000"
)

func TestParse(t *testing.T) {
	pull := func(rest string) string {
		return `{"number":7,` + rest + `,"pull_request":{"number":7,"head":{"sha":"` + two + `","repo":{"full_name":"acme/infra"}},"base":{"ref":"main","repo":{"full_name":"acme/infra"}}}}`
	}
	for name, c := range map[string]struct {
		forge Forge
		event string
		body  string
		want  Hint
	}{
		"branch deleted": {GitHub, "push", `{"ref":"refs/heads/main","before":"` + one + `","after":"` + zeros + `","deleted":true}`,
			Hint{Event: Other}},
		"branch deleted, without the flag": {Gitea, "push", `{"ref":"refs/heads/main","before":"` + one + `","after":"` + zeros + `"}`,
			Hint{Event: Other}},
		"branch deleted at GitLab": {GitLab, "Push Hook", `{"object_kind":"push","ref":"refs/heads/main","before":"` + one + `","after":"` + zeros + `","checkout_sha":null}`,
			Hint{Event: Other}},
		"forced: after counts, commits do not": {GitHub, "push", `{"ref":"refs/heads/main","before":"` + one + `","after":"` + two + `","forced":true,"commits":[{"id":"` + two + `","added":["a"]}]}`,
			Hint{Event: Push, Push: &PushHint{Branch: "main", Before: one, After: two, Forced: true}}},
		"all paths": {GitHub, "push", `{"ref":"refs/heads/main","before":"` + one + `","after":"` + two + `","commits":[{"id":"x","added":["c","a"]},{"id":"` + two + `","removed":["b"],"modified":["a"]}]}`,
			Hint{Event: Push, Push: &PushHint{Branch: "main", Before: one, After: two, Complete: true, Paths: []string{"a", "b", "c"}}}},
		"a merge that tells no paths": {GitHub, "push", `{"ref":"refs/heads/main","before":"` + one + `","after":"` + two + `","commits":[{"id":"x","added":["a"]},{"id":"` + two + `"}]}`,
			Hint{Event: Push, Push: &PushHint{Branch: "main", Before: one, After: two}}},
		"more commits than listed": {GitLab, "Push Hook", `{"object_kind":"push","ref":"refs/heads/main","before":"` + one + `","after":"` + two + `","total_commits_count":21,"commits":[{"id":"` + two + `","added":["a"]}]}`,
			Hint{Event: Push, Push: &PushHint{Branch: "main", Before: one, After: two}}},
		"branch created": {GitHub, "push", `{"ref":"refs/heads/a/b","before":"` + zeros + `","after":"` + two + `","created":true,"commits":[{"id":"` + two + `","added":["a"]}]}`,
			Hint{Event: Push, Push: &PushHint{Branch: "a/b", After: two}}},
		"tag":           {GitHub, "push", `{"ref":"refs/tags/v1","before":"` + zeros + `","after":"` + two + `"}`, Hint{Event: Other}},
		"tag at GitLab": {GitLab, "Tag Push Hook", `{"object_kind":"tag_push","ref":"refs/tags/v1","after":"` + two + `"}`, Hint{Event: Other}},
		"base edited":   {GitHub, "pull_request", pull(`"action":"edited","changes":{"base":{"ref":{"from":"old"}}}`), Hint{Event: Pull, Pull: &PullHint{Number: 7, Action: Retarget, Head: two, Base: "main"}}},
		"title edited":  {GitHub, "pull_request", pull(`"action":"edited","changes":{"title":{"from":"x"}}`), Hint{Event: Other}},
		"fork gone": {GitHub, "pull_request", `{"action":"synchronize","number":8,"pull_request":{"head":{"sha":"` + two + `","repo":null},"base":{"ref":"main","repo":{"full_name":"a/b"}}}}`,
			Hint{Event: Pull, Pull: &PullHint{Number: 8, Action: Updated, Head: two, Base: "main", Fork: true}}},
		"merged":             {GitHub, "pull_request", strings.Replace(pull(`"action":"closed"`), `"head"`, `"merged":true,"head"`, 1), Hint{Event: Pull, Pull: &PullHint{Number: 7, Action: Merged, Head: two, Base: "main"}}},
		"closed":             {GitHub, "pull_request", pull(`"action":"closed"`), Hint{Event: Pull, Pull: &PullHint{Number: 7, Action: Closed, Head: two, Base: "main"}}},
		"comment on pull":    {GitHub, "issue_comment", `{"action":"created","issue":{"number":3,"pull_request":{"url":"x"}},"comment":{"id":9,"body":"/varan apply"}}`, Hint{Event: Comment, Comment: &CommentHint{Pull: 3, ID: 9}}},
		"comment on issue":   {GitHub, "issue_comment", `{"action":"created","issue":{"number":3},"comment":{"id":9}}`, Hint{Event: Other}},
		"issue, null pull":   {Gitea, "issue_comment", `{"action":"created","is_pull":false,"issue":{"number":3,"pull_request":null},"comment":{"id":9}}`, Hint{Event: Other}},
		"comment edited":     {GitHub, "issue_comment", `{"action":"edited","issue":{"number":3,"pull_request":{"url":"x"}},"comment":{"id":9}}`, Hint{Event: Other}},
		"synchronized":       {Gitea, "pull_request", pull(`"action":"synchronized"`), Hint{Event: Pull, Pull: &PullHint{Number: 7, Action: Updated, Head: two, Base: "main"}}},
		"our own status":     {GitHub, "status", `{"context":"varan/plan"}`, Hint{Event: Other}},
		"our own check run":  {GitHub, "check_run", `{"action":"created"}`, Hint{Event: Other}},
		"ping":               {GitHub, "ping", `{"zen":"x"}`, Hint{Event: Other}},
		"no event":           {GitHub, "", `{}`, Hint{Event: Other}},
		"unknown":            {GitHub, "star", `{"ref":7}`, Hint{Event: Other}},
		"a system note":      {GitLab, "Note Hook", `{"object_kind":"note","object_attributes":{"id":1,"noteable_type":"MergeRequest","system":true},"merge_request":{"iid":2}}`, Hint{Event: Other}},
		"a system hook":      {GitLab, "System Hook", `{"object_kind":"push","ref":"refs/heads/main","before":"` + one + `","after":"` + two + `"}`, Hint{Event: Push, Push: &PushHint{Branch: "main", Before: one, After: two}}},
		"no number":          {GitHub, "pull_request", `{"action":"opened","pull_request":{}}`, Hint{Event: Other}},
		"merge group":        {GitHub, "merge_group", `{"action":"checks_requested","merge_group":{"head_sha":"` + two + `","head_ref":"refs/heads/q/main/pr-1","base_ref":"refs/heads/main"}}`, Hint{Event: MergeGroup, MergeGroup: &GroupHint{Head: two, Ref: "q/main/pr-1", Base: "main"}}},
		"merge group is off": {GitHub, "merge_group", `{"action":"destroyed","merge_group":{"head_sha":"` + two + `"}}`, Hint{Event: Other}},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{}
			header.Set(map[Forge]string{GitHub: "X-GitHub-Event", Gitea: "X-Gitea-Event", GitLab: "X-Gitlab-Event"}[c.forge], c.event)
			h, err := parse(c.forge, header, []byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if !h.bound() {
				t.Fatal("too long")
			}
			if h.Event == Other {
				if h.Why == "" {
					t.Error("it does not say why")
				}
				h.Why, h.Push = "", nil
			}
			if d := cmp.Diff(&c.want, h); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestNoPayload(t *testing.T) {
	for _, body := range []string{"", " ", "[]", "7", "null", `"x"`, "{", `{"ref":7}`, `{"ref":"refs/heads/a","commits":{}}`, "\xff"} {
		if h, err := parse(GitHub, http.Header{"X-Github-Event": {"push"}}, []byte(body)); err == nil {
			t.Errorf("%q: %+v", body, h)
		}
	}
	w := newWorld(t)
	body := push("acme/infra", strings.Repeat("b", 2000), one, two)
	if status, text := w.send(delivery{forge: GitHub, event: "push", body: body}); status != http.StatusBadRequest {
		t.Errorf("a branch of 2,000 letters: %d %s", status, text)
	}
}

// TestSignatureVector is GitHub's own example.
func TestSignatureVector(t *testing.T) {
	for sent, want := range map[string]bool{
		"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17": true,
		"757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17":        true, // as Komodo takes it
		"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e16": false,
		"sha256=757107ea": false,
		"sha256=":         false,
		"":                false,
	} {
		c := checkOf(GitHub, http.Header{"X-Hub-Signature-256": {sent}}, []Secret{{Value: "x"}, {Value: testSecret, Domain: "here"}})
		s, ok := c.find([]byte("Hello, World!"))
		if ok != want || ok && s.Domain != "here" {
			t.Errorf("%q: %v %+v", sent, ok, s)
		}
	}
}

// TestSigningToken: a GitLab that signs is believed by its signature alone, over id, time and body.
func TestSigningToken(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	secret := "whsec_" + base64.StdEncoding.EncodeToString(key)
	body := []byte(`{"object_kind":"push"}`)
	sum := func(key []byte, id, at string, body []byte) string {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	good := sum(key, "id1", "1700000000", body)
	for _, c := range []struct {
		name                 string
		id, at, sent, secret string
		body                 []byte
		token                string
		want                 bool
	}{
		{name: "signed", id: "id1", at: "1700000000", sent: good, secret: secret, body: body, want: true},
		{name: "by the text itself", id: "id1", at: "1700000000", sent: sum([]byte("plain"), "id1", "1700000000", body), secret: "plain", body: body, want: true},
		{name: "two signatures", id: "id1", at: "1700000000", sent: "v1,AAAA v1a,xx " + good, secret: secret, body: body, want: true},
		{name: "another id", id: "id2", at: "1700000000", sent: good, secret: secret, body: body},
		{name: "another time", id: "id1", at: "1700000001", sent: good, secret: secret, body: body},
		{name: "another body", id: "id1", at: "1700000000", sent: good, secret: secret, body: []byte("{}")},
		{name: "another secret", id: "id1", at: "1700000000", sent: good, secret: "other", body: body},
		{name: "no id", at: "1700000000", sent: sum(key, "", "1700000000", body), secret: secret, body: body},
		{name: "an empty secret", id: "id1", at: "1700000000", sent: sum(nil, "id1", "1700000000", body), body: body},
		{name: "a wrong signature beside the token", id: "id1", at: "1700000000", sent: "v1," + base64.StdEncoding.EncodeToString(make([]byte, 32)), secret: secret, body: body, token: secret},
		{name: "no signature beside the token", id: "id1", at: "1700000000", sent: "v2,x", secret: secret, body: body, token: secret},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := http.Header{}
			h.Set("webhook-id", c.id)
			h.Set("webhook-timestamp", c.at)
			h.Set("webhook-signature", c.sent)
			h.Set("X-Gitlab-Token", c.token)
			if _, ok := checkOf(GitLab, h, []Secret{{Forge: GitLab, Value: c.secret}}).find(c.body); ok != c.want {
				t.Errorf("taken: %t", ok)
			}
		})
	}
}

// TestForgesByDomain: the secret says which [[forge]] sent it.
func TestForgesByDomain(t *testing.T) {
	w := newWorld(t)
	w.send(delivery{forge: GitHub, event: "push", body: push("acme/infra", "main", one, two, "a"), secret: "another"})
	h := w.target.wait(t, 1)[0]
	if h.Domain != "ghe.example.com" || h.Forge != GitHub {
		t.Errorf("%s %s", h.Forge, h.Domain)
	}
}

// TestAlike: an unknown name, a wrong signature and a secret nobody set answer the same bytes and headers.
func TestAlike(t *testing.T) {
	w := newWorld(t)
	w.target.known = map[schema.ID]*Resource{"stack/web": {Branch: "main", Enabled: true}}
	var first *httptest.ResponseRecorder
	for _, path := range []string{"/webhook/github", "/webhook/gitea", "/webhook/gitlab", "/webhook/none", "/listener/github/stack/web/deploy", "/listener/github/stack/none/deploy",
		"/listener/gitlab/stack/web/deploy", "/listener/none/stack/web/deploy", "/listener/github/none/web/deploy", "/listener/github/build/none"} {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, delivery{path: path, forge: GitHub, event: "push", body: push("a/b", "main", one, two), secret: "guess"}.request())
		if first == nil {
			first = rec
			continue
		}
		if rec.Code != http.StatusUnauthorized || rec.Body.String() != first.Body.String() || cmp.Diff(rec.Header(), first.Header()) != "" {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"ref":"refs/heads/main","after":"` + two + `","commits":[{"id":"` + two + `","added":["a"]}]}`, `{"object_kind":"note"}`, `{"pull_request":{"head":{"repo":null}}}`} {
		f.Add("github", "push", []byte(s))
		f.Add("gitea", "pull_request", []byte(s))
		f.Add("gitlab", "Push Hook", []byte(s))
		f.Add("github", "issue_comment", []byte(s))
		f.Add("github", "merge_group", []byte(s))
	}
	f.Fuzz(func(t *testing.T, forge, event string, body []byte) {
		header := http.Header{}
		for _, name := range []string{"X-GitHub-Event", "X-Gitea-Event", "X-Gitlab-Event"} {
			header.Set(name, event)
		}
		h, err := parse(Forge(forge), header, body)
		if err != nil {
			return
		}
		if (h.Event == Other) != (h.Why != "") {
			t.Fatalf("%+v", h)
		}
		if strings.ContainsFunc(h.Why, func(r rune) bool { return r < ' ' || r > '~' && r != '…' }) {
			t.Fatalf("a stranger's bytes in an answer: %q", h.Why)
		}
		if !h.bound() {
			return
		}
		_ = h.Subject()
		if h.Push != nil && (len(h.Push.Paths) > maxPaths || !h.Push.Complete && h.Push.Paths != nil) {
			t.Fatalf("%+v", h.Push)
		}
		if h.Event == Push && (h.Push.Branch == "" || h.Push.After == "") || h.Event == Pull && h.Pull.Number < 1 {
			t.Fatalf("%+v", h)
		}
		if p, err := parseExecution(body); err == nil && p.Event == Execution && p.Execution == nil {
			t.Fatal("no execution")
		}
	})
}

package forgetest

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/varanhq/varan/sync/forge"
)

// A Hook sends webhooks to a URL.
type Hook struct {
	URL    string
	Secret string
	Events []string // as GitHub names them; nil = all
	Off    bool     // as if the network had lost them
	Header map[string]string

	id int64
}

// A Delivery is one webhook and how it went.
type Delivery struct {
	ID     string // X-GitHub-Delivery and its kin
	Event  string
	Action string
	Body   []byte
	Header http.Header
	URL    string
	Status int // 0: it did not arrive
	Took   time.Duration
}

// AddHook begins to send webhooks of the repository.
func (r *Repo) AddHook(h Hook) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	h.id = r.s.id()
	r.hooks = append(r.hooks, &h)
}

// Deliveries are the webhooks sent so far; wait says to let those under way arrive first.
func (s *Server) Deliveries(wait bool) []Delivery {
	if wait {
		s.hooks.Wait()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.deliveries)
}

// Redeliver sends a webhook again, as the button on the page does: same id, same bytes.
func (s *Server) Redeliver(id string) error {
	s.mu.Lock()
	i := slices.IndexFunc(s.deliveries, func(d Delivery) bool { return d.ID == id })
	if i < 0 {
		s.mu.Unlock()
		return fmt.Errorf("delivery %s: %w", id, errGone)
	}
	d := s.deliveries[i]
	s.mu.Unlock()
	s.hooks.Go(func() { s.post(d) })
	return nil
}

// send delivers to the repository's hooks. The caller holds mu; nobody waits for the answer.
func (r *Repo) send(event, kind, action string, payload map[string]any) error {
	if r.s.closed || !slices.ContainsFunc(r.hooks, func(h *Hook) bool { return h.wants(event) }) {
		return nil
	}
	var body []byte
	var err error
	if r.s.Kind == forge.GitHub && r.s.contracts != nil {
		body, err = r.s.contracts.hookBody(event, action, payload)
	} else {
		body, err = json.Marshal(payload)
	}
	if err != nil {
		return err
	}
	for _, h := range r.hooks {
		if !h.wants(event) {
			continue
		}
		d := Delivery{ID: uuid(), Event: event, Action: action, Body: body, URL: h.URL, Header: r.headers(h, event, kind, body)}
		d.Header.Set("Content-Type", "application/json")
		for k, v := range h.Header {
			d.Header.Set(k, v)
		}
		for _, name := range []string{"X-GitHub-Delivery", "X-Gitea-Delivery", "X-Forgejo-Delivery", "X-Gitlab-Event-UUID", "Idempotency-Key"} {
			if d.Header.Get(name) != "" {
				d.Header.Set(name, d.ID)
			}
		}
		r.s.hooks.Go(func() { r.s.post(d) })
	}
	return nil
}

func (h *Hook) wants(event string) bool {
	return !h.Off && (h.Events == nil || slices.Contains(h.Events, event))
}

// headers are those of the kind; kind is the event as Gitea and GitLab say it.
func (r *Repo) headers(h *Hook, event, kind string, body []byte) http.Header {
	out := make(http.Header)
	mac := hmac.New(sha256.New, []byte(h.Secret))
	mac.Write(body)
	sum := hex.EncodeToString(mac.Sum(nil))
	switch r.s.Kind {
	case forge.GitHub:
		out.Set("User-Agent", "GitHub-Hookshot/forgetest")
		out.Set("X-GitHub-Event", event)
		out.Set("X-GitHub-Delivery", "-")
		out.Set("X-GitHub-Hook-ID", fmt.Sprint(h.id))
		if h.Secret != "" {
			out.Set("X-Hub-Signature-256", "sha256="+sum)
		}
	case forge.Gitea:
		out.Set("User-Agent", "Go-http-client/1.1")
		for _, name := range []string{"X-GitHub-Event", "X-Gogs-Event", "X-Gitea-Event"} {
			out.Set(name, event)
		}
		for _, name := range []string{"X-GitHub-Delivery", "X-Gogs-Delivery", "X-Gitea-Delivery"} {
			out.Set(name, "-")
		}
		out.Set("X-Gitea-Event-Type", kind)
		if h.Secret == "" {
			sum = ""
		}
		out.Set("X-Gitea-Signature", sum)
		out.Set("X-Hub-Signature-256", "sha256="+sum)
		if r.s.forgejo {
			for _, name := range []string{"Event", "Event-Type", "Delivery", "Signature"} {
				out.Set("X-Forgejo-"+name, out.Get("X-Gitea-"+name))
			}
		}
	case forge.GitLab:
		out.Set("User-Agent", "GitLab/17.0.0")
		out.Set("X-Gitlab-Event", kind)
		out.Set("X-Gitlab-Token", h.Secret)
		out.Set("X-Gitlab-Event-UUID", "-")
		out.Set("Idempotency-Key", "-")
		out.Set("X-Gitlab-Instance", r.s.URL)
	}
	return out
}

// post sends and notes how it went.
func (s *Server) post(d Delivery) {
	start := time.Now()
	req, err := http.NewRequest(http.MethodPost, d.URL, bytes.NewReader(d.Body))
	if err == nil {
		req.Header = d.Header.Clone()
		var res *http.Response
		if res, err = s.client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			d.Status = res.StatusCode
		}
	}
	d.Took = time.Since(start)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliveries = append(s.deliveries, d)
}

func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

const zeros = "0000000000000000000000000000000000000000"

// commitInfo is a commit as a push tells it.
func (r *Repo) commitInfo(sha string) map[string]any {
	out, err := git(r.Bare, "show", "-s", "--format=%T%n%aI%n%an%n%ae%n%s", sha)
	parts := strings.SplitN(out, "\n", 5)
	if err != nil || len(parts) < 5 {
		return map[string]any{"id": sha}
	}
	who := map[string]any{"name": parts[2], "email": parts[3], "username": parts[2]}
	files := map[string][]string{"added": {}, "removed": {}, "modified": {}}
	if names, err := git(r.Bare, "show", "--format=", "--name-status", "--no-renames", "-m", "--first-parent", sha); err == nil {
		for line := range strings.Lines(names) {
			letter, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
			switch letter {
			case "A":
				files["added"] = append(files["added"], name)
			case "D":
				files["removed"] = append(files["removed"], name)
			case "M", "T":
				files["modified"] = append(files["modified"], name)
			}
		}
	}
	return map[string]any{
		"id": sha, "tree_id": parts[0], "timestamp": parts[1], "message": parts[4], "distinct": true,
		"url":    r.s.URL + "/" + r.Repo.String() + "/commit/" + sha,
		"author": who, "committer": who, "added": files["added"], "removed": files["removed"], "modified": files["modified"],
	}
}

// pushHook tells of a branch or tag that moved.
func (r *Repo) pushHook(ref, before, after string, by *User) error {
	if len(r.hooks) == 0 {
		return nil
	}
	if before == "" {
		before = zeros
	}
	if after == "" {
		after = zeros
	}
	var commits []any
	if after != zeros {
		span := before + ".." + after
		if before == zeros {
			span = after
		}
		if out, err := git(r.Bare, "rev-list", "--reverse", "--max-count=20", span); err == nil {
			for sha := range strings.Lines(out) {
				commits = append(commits, r.commitInfo(strings.TrimSpace(sha)))
			}
		}
	}
	if commits == nil {
		commits = []any{}
	}
	tag := strings.HasPrefix(ref, "refs/tags/")
	if r.s.Kind == forge.GitLab {
		kind, object := "Push Hook", "push"
		if tag {
			kind, object = "Tag Push Hook", "tag_push"
		}
		p := map[string]any{
			"object_kind": object, "event_name": object, "before": before, "after": after, "ref": ref, "checkout_sha": after,
			"user_id": by.ID, "user_username": by.Login, "user_name": by.Login, "project_id": r.ID, "project": r.gitlabHookProject(),
			"commits": commits, "total_commits_count": len(commits),
		}
		if after == zeros {
			p["checkout_sha"] = nil
		}
		return r.send("push", kind, "", p)
	}
	p := map[string]any{
		"ref": ref, "before": before, "after": after, "commits": commits, "repository": r.repoJSON(), "sender": r.s.userJSON(by),
		"pusher": map[string]any{"name": by.Login, "email": by.Login + "@example.org"}, "compare": r.s.URL + "/" + r.Repo.String() + "/compare",
	}
	if r.s.Kind == forge.Gitea {
		p["pusher"], p["total_commits"] = r.s.userJSON(by), len(commits)
		if after == zeros { // Gitea sends "delete" instead
			return r.send("delete", "delete", "", map[string]any{
				"ref": strings.TrimPrefix(strings.TrimPrefix(ref, "refs/heads/"), "refs/tags/"), "ref_type": "branch", "pusher_type": "user",
				"repository": r.repoJSON(), "sender": r.s.userJSON(by),
			})
		}
		return r.send("push", "push", "", p)
	}
	p["created"], p["deleted"], p["base_ref"] = before == zeros, after == zeros, nil
	p["forced"] = false
	if before != zeros && after != zeros {
		_, err := git(r.Bare, "merge-base", "--is-ancestor", before, after)
		p["forced"] = err != nil
	}
	p["head_commit"] = nil
	if after != zeros {
		p["head_commit"] = r.commitInfo(after)
	}
	for _, app := range r.s.apps {
		if slices.Contains(app.repos, r) {
			p["installation"] = map[string]any{"id": app.Installation, "node_id": "x"}
		}
	}
	return r.send("push", "push", "", p)
}

// pullHook tells what happened to a pull request; actions are named as on GitHub.
func (r *Repo) pullHook(action string, p *Pull, by *User, changes map[string]any) error {
	if len(r.hooks) == 0 {
		return nil
	}
	switch r.s.Kind {
	case forge.GitLab:
		object := r.mergeRequestHook(p)
		object["action"] = map[string]string{"opened": "open", "closed": "close", "reopened": "reopen", "edited": "update", "synchronize": "update"}[action]
		if p.State == forge.Merged && action == "closed" {
			object["action"] = "merge"
		}
		if before, ok := changes["before"]; ok {
			object["oldrev"] = before
		}
		return r.send("pull_request", "Merge Request Hook", action, map[string]any{
			"object_kind": "merge_request", "event_type": "merge_request", "user": gitlabHookUser(by),
			"project": r.gitlabHookProject(), "object_attributes": object, "changes": map[string]any{},
			"repository": map[string]any{"name": r.Repo.Name, "homepage": r.s.URL + "/" + r.Repo.String()},
		})
	case forge.Gitea:
		kind, said := "pull_request", action
		if action == "synchronize" {
			kind, said = "pull_request_sync", "synchronized"
		}
		out := map[string]any{
			"action": said, "number": p.Number, "pull_request": r.giteaPull(p), "repository": r.repoJSON(), "sender": r.s.userJSON(by),
			"commit_id": "", "review": nil,
		}
		if changes["title"] != nil || changes["base"] != nil {
			out["changes"] = changes
		}
		return r.send("pull_request", kind, said, out)
	}
	out := map[string]any{
		"action": action, "number": p.Number, "pull_request": r.pullJSON(p, true), "repository": r.repoJSON(), "sender": r.s.userJSON(by),
	}
	switch action {
	case "edited":
		out["changes"] = changes
	case "synchronize":
		out["before"], out["after"] = changes["before"], p.HeadSHA
	}
	return r.send("pull_request", "pull_request", action, out)
}

// commentHook tells of a comment.
func (r *Repo) commentHook(action string, t *thread, c *comment, by *User, changes map[string]any) error {
	if len(r.hooks) == 0 {
		return nil
	}
	switch r.s.Kind {
	case forge.GitLab:
		if action == "deleted" {
			return nil
		}
		out := map[string]any{
			"object_kind": "note", "event_type": "note", "user": gitlabHookUser(by), "project_id": r.ID, "project": r.gitlabHookProject(),
			"object_attributes": map[string]any{
				"id": c.id, "note": c.body, "noteable_type": "MergeRequest", "author_id": c.user.ID, "system": c.system,
				"action": map[string]string{"created": "create", "edited": "update"}[action],
				"url":    fmt.Sprintf("%s/%s/-/merge_requests/%d#note_%d", r.s.URL, r.Repo, t.number, c.id),
			},
		}
		if t.pull == nil {
			out["object_attributes"].(map[string]any)["noteable_type"] = "Issue"
			out["issue"] = map[string]any{"iid": t.number}
		} else {
			out["merge_request"] = r.mergeRequestHook(t.pull)
		}
		return r.send("issue_comment", "Note Hook", action, out)
	case forge.Gitea:
		kind := "issue_comment"
		out := map[string]any{
			"action": action, "issue": r.giteaIssue(t), "comment": r.commentJSON(t, c), "repository": r.repoJSON(),
			"sender": r.s.userJSON(by), "is_pull": t.pull != nil,
		}
		if t.pull != nil {
			kind, out["pull_request"] = "pull_request_comment", r.giteaPull(t.pull)
		}
		return r.send("issue_comment", kind, action, out)
	}
	out := map[string]any{
		"action": action, "issue": r.issueJSON(t), "comment": r.commentJSON(t, c), "repository": r.repoJSON(), "sender": r.s.userJSON(by),
	}
	if changes != nil {
		out["changes"] = changes
	}
	return r.send("issue_comment", "issue_comment", action, out)
}

// groupHook tells of a merge-queue group.
func (r *Repo) groupHook(base, branch, sha string) error {
	if len(r.hooks) == 0 {
		return nil
	}
	head := r.commitInfo(sha)
	return r.send("merge_group", "merge_group", "checks_requested", map[string]any{
		"action": "checks_requested", "repository": r.repoJSON(), "sender": r.s.userJSON(r.s.user(r.Repo.Owner)),
		"merge_group": map[string]any{
			"head_sha": sha, "head_ref": "refs/heads/" + branch, "base_ref": "refs/heads/" + base, "base_sha": r.commit(base),
			"head_commit": map[string]any{
				"id": sha, "tree_id": head["tree_id"], "message": head["message"], "timestamp": head["timestamp"],
				"author": map[string]any{"name": "Forge", "email": "forge@example.org"}, "committer": map[string]any{"name": "Forge", "email": "forge@example.org"},
			},
		},
	})
}

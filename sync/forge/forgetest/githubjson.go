package forgetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/varanhq/varan/sync/forge"
)

// What follows says in JSON what matters; the contract's filler adds the rest.

func (r *Repo) apiURL() string { return r.s.URL + r.s.prefix() + "/repos/" + r.Repo.String() }

func (s *Server) userJSON(u *User) map[string]any {
	if u == nil {
		return nil
	}
	kind := "User"
	if u.Bot {
		kind = "Bot"
	}
	out := map[string]any{
		"id": u.ID, "login": u.Login, "type": kind, "html_url": s.URL + "/" + strings.TrimSuffix(u.Login, "[bot]"), "url": s.APIURL() + "/users/" + u.Login,
		"avatar_url": s.URL + "/avatar", "node_id": fmt.Sprint("U_", u.ID), "site_admin": false,
	}
	if s.Kind == forge.Gitea {
		return map[string]any{"id": u.ID, "login": u.Login, "username": u.Login, "full_name": u.Login, "email": u.Login + "@example.org"}
	}
	return out
}

func (r *Repo) repoJSON() map[string]any {
	web := r.s.URL + "/" + r.Repo.String()
	out := map[string]any{
		"id": r.ID, "name": r.Repo.Name, "full_name": r.Repo.String(), "owner": r.s.userJSON(r.s.user(r.Repo.Owner)), "private": r.Private,
		"html_url": web, "url": r.apiURL(), "clone_url": web + ".git", "ssh_url": "git@forge.example:" + r.Repo.String() + ".git",
		"fork": r.parent != nil, "default_branch": r.Default,
	}
	if r.s.Kind == forge.Gitea {
		return out
	}
	out["git_url"] = "git://forge.example/" + r.Repo.String() + ".git"
	out["visibility"] = map[bool]string{true: "private", false: "public"}[r.Private]
	for _, name := range []string{"created_at", "updated_at", "pushed_at"} {
		out[name] = "2026-01-02T03:04:05Z"
	}
	return out
}

func (r *Repo) pullJSON(p *Pull, whole bool) map[string]any {
	side := func(repo *Repo, branch, sha string) map[string]any {
		out := map[string]any{"ref": branch, "sha": sha, "label": branch, "repo": nil, "user": nil}
		if repo != nil {
			out["repo"], out["user"] = repo.repoJSON(), r.s.userJSON(r.s.user(repo.Repo.Owner))
			out["label"] = repo.Repo.Owner + ":" + branch
		}
		return out
	}
	web := fmt.Sprintf("%s/%s/pull/%d", r.s.URL, r.Repo, p.Number)
	state := "open"
	if p.State != forge.Open {
		state = "closed"
	}
	out := map[string]any{
		"id": p.id, "number": p.Number, "title": p.Title, "user": r.s.userJSON(r.s.user(p.Author)), "state": state, "draft": p.Draft,
		"html_url": web, "url": fmt.Sprintf("%s/pulls/%d", r.apiURL(), p.Number), "body": nil, "locked": false,
		"head": side(p.Head, p.HeadBranch, p.HeadSHA), "base": side(r, p.BaseBranch, p.BaseSHA),
		"created_at": stamp(p.created), "updated_at": stamp(p.updated), "closed_at": nil, "merged_at": nil, "merge_commit_sha": nil,
		"author_association": "CONTRIBUTOR",
	}
	if p.State == forge.Closed {
		out["closed_at"] = stamp(p.updated)
	}
	switch {
	case p.State == forge.Merged:
		out["merged_at"], out["closed_at"], out["merge_commit_sha"] = stamp(p.merged), stamp(p.merged), p.MergeCommit
	case p.MergeSHA != "":
		out["merge_commit_sha"] = p.MergeSHA // of the test merge, as GitHub has it: no sign that it was merged
	}
	if whole {
		out["merged"], out["mergeable"] = p.State == forge.Merged, p.MergeSHA != ""
		out["mergeable_state"] = "clean"
	}
	return out
}

func (r *Repo) statusJSON(st *status) map[string]any {
	if r.s.Kind == forge.Gitea {
		return map[string]any{
			"id": st.id, "status": st.state, "context": st.context, "description": st.description, "target_url": st.url,
			"url": r.apiURL() + "/statuses/" + st.sha, "creator": r.s.userJSON(st.user), "created_at": stamp(st.at), "updated_at": stamp(st.at),
		}
	}
	out := map[string]any{
		"id": st.id, "state": st.state, "context": st.context, "description": st.description, "target_url": nil,
		"url": r.apiURL() + "/statuses/" + st.sha, "creator": r.s.userJSON(st.user), "created_at": stamp(st.at), "updated_at": stamp(st.at),
	}
	if st.url != "" {
		out["target_url"] = st.url
	}
	return out
}

func (r *Repo) checkJSON(c *checkRun) map[string]any {
	out := map[string]any{
		"id": c.id, "name": c.name, "head_sha": c.sha, "status": c.status, "conclusion": nil, "external_id": c.external,
		"url": fmt.Sprintf("%s/check-runs/%d", r.apiURL(), c.id), "html_url": r.s.URL + "/runs", "details_url": r.s.URL + "/runs",
		"started_at": stamp(c.at), "completed_at": stamp(c.at), "app": r.s.appJSON(c.app), "pull_requests": []any{},
		"output": map[string]any{
			"title": c.title, "summary": c.summary, "text": nil, "annotations_count": len(c.annotations),
			"annotations_url": fmt.Sprintf("%s/check-runs/%d/annotations", r.apiURL(), c.id),
		},
	}
	if c.conclusion != "" {
		out["conclusion"] = c.conclusion
	}
	return out
}

func (r *Repo) issueJSON(t *thread) map[string]any {
	web := fmt.Sprintf("%s/%s/issues/%d", r.s.URL, r.Repo, t.number)
	out := map[string]any{
		"number": t.number, "title": t.title, "state": "open", "user": r.s.userJSON(t.author), "html_url": web, "comments": len(t.comments),
		"url": fmt.Sprintf("%s/issues/%d", r.apiURL(), t.number), "created_at": stamp(t.created), "updated_at": stamp(t.updated),
		"body": nil, "labels": []any{}, "assignees": []any{}, "assignee": nil, "locked": false, "author_association": "CONTRIBUTOR",
	}
	if t.pull != nil {
		out["html_url"] = fmt.Sprintf("%s/%s/pull/%d", r.s.URL, r.Repo, t.number)
		pull := fmt.Sprintf("%s/pulls/%d", r.apiURL(), t.number)
		out["pull_request"] = map[string]any{"url": pull, "html_url": out["html_url"], "diff_url": pull, "patch_url": pull}
	}
	return out
}

func (r *Repo) commentJSON(t *thread, c *comment) map[string]any {
	what := "issues"
	if t.pull != nil {
		what = "pull"
	}
	out := map[string]any{
		"id": c.id, "user": r.s.userJSON(c.user), "body": c.body, "created_at": stamp(c.created), "updated_at": stamp(c.updated),
	}
	if r.s.Kind == forge.Gitea {
		if t.pull != nil {
			out["pull_request_url"] = fmt.Sprintf("%s/%s/pulls/%d", r.s.URL, r.Repo, t.number)
			out["html_url"] = fmt.Sprintf("%s/%s/pulls/%d#issuecomment-%d", r.s.URL, r.Repo, t.number, c.id)
			out["issue_url"] = ""
		} else {
			out["issue_url"] = fmt.Sprintf("%s/%s/issues/%d", r.s.URL, r.Repo, t.number)
			out["html_url"] = fmt.Sprintf("%s/%s/issues/%d#issuecomment-%d", r.s.URL, r.Repo, t.number, c.id)
			out["pull_request_url"] = ""
		}
		return out
	}
	out["html_url"] = fmt.Sprintf("%s/%s/%s/%d#issuecomment-%d", r.s.URL, r.Repo, what, t.number, c.id)
	out["url"] = fmt.Sprintf("%s/issues/comments/%d", r.apiURL(), c.id)
	out["issue_url"] = fmt.Sprintf("%s/issues/%d", r.apiURL(), t.number)
	out["author_association"] = "CONTRIBUTOR"
	return out
}

func (s *Server) appJSON(app *App) map[string]any {
	return map[string]any{
		"id": app.ID, "slug": app.Slug, "name": app.Slug, "permissions": app.Permissions, "events": app.Events,
		"html_url": s.URL + "/apps/" + app.Slug, "external_url": "https://varan.example/", "description": nil,
		"owner": s.userJSON(s.user(app.Owner)), "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
	}
}

func (s *Server) installationJSON(app *App) map[string]any {
	out := map[string]any{
		"id": app.Installation, "app_id": app.ID, "app_slug": app.Slug, "account": s.userJSON(s.user(app.Owner)), "target_type": "Organization",
		"repository_selection": "selected", "permissions": app.Permissions, "events": app.Events, "suspended_at": nil,
		"html_url":   fmt.Sprintf("%s/settings/installations/%d", s.URL, app.Installation),
		"created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
	}
	if app.Suspended {
		out["suspended_at"] = "2026-01-02T03:04:05Z"
	}
	return out
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

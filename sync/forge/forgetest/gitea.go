package forgetest

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/varanhq/varan/sync/forge"
)

func (s *Server) giteaRoutes(mux *http.ServeMux) {
	repo := "/repos/{owner}/{repo}"
	mux.HandleFunc("GET /version", s.handle(func(a *ask) { a.say(http.StatusOK, map[string]any{"version": "1.27.0"}) }))
	mux.HandleFunc("GET /user", s.handle(func(a *ask) {
		if a.user == nil {
			a.no(http.StatusUnauthorized, "token is required")
			return
		}
		a.say(http.StatusOK, s.userJSON(a.user))
	}))
	mux.HandleFunc("GET "+repo, s.inRepo("metadata", forge.Read, func(a *ask) {
		out := a.repo.repoJSON()
		level := a.repo.may(a.user)
		out["permissions"] = map[string]any{"pull": level >= forge.Read, "push": level >= forge.Write, "admin": level >= forge.Admin}
		a.say(http.StatusOK, out)
	}))
	mux.HandleFunc("GET "+repo+"/pulls", s.inRepo("pull_requests", forge.Read, s.listPulls))
	mux.HandleFunc("GET "+repo+"/pulls/{number}", s.inRepo("pull_requests", forge.Read, func(a *ask) {
		p, err := a.repo.pull(a.number("number"))
		if err != nil {
			a.no(http.StatusNotFound, "The target couldn't be found.")
			return
		}
		a.say(http.StatusOK, a.repo.giteaPull(p))
	}))
	mux.HandleFunc("GET "+repo+"/pulls/{number}/files", s.inRepo("pull_requests", forge.Read, s.pullFiles))
	mux.HandleFunc("GET "+repo+"/commits/{sha}/pull", s.inRepo("contents", forge.Read, func(a *ask) {
		for _, p := range a.repo.pulls() {
			if p.State == forge.Merged && (p.MergeCommit == a.PathValue("sha") || p.MergeCommit == "" && p.HeadSHA == a.PathValue("sha")) {
				a.say(http.StatusOK, a.repo.giteaPull(p))
				return
			}
		}
		a.no(http.StatusNotFound, "pull request does not exist")
	}))
	mux.HandleFunc("POST "+repo+"/statuses/{sha}", s.inRepo("statuses", forge.Write, func(a *ask) {
		var in struct {
			State, Description, Context string
			TargetURL                   string `json:"target_url"`
		}
		if !a.body(&in) {
			return
		}
		sha := a.repo.commit(a.PathValue("sha"))
		if sha == "" {
			a.no(http.StatusNotFound, "object does not exist")
			return
		}
		st := &status{
			id: s.id(), sha: sha, context: in.Context, state: in.State, description: in.Description, url: in.TargetURL, user: a.user, at: s.now(),
		}
		a.repo.statuses = append(a.repo.statuses, st)
		a.say(http.StatusCreated, a.repo.statusJSON(st))
	}))
	mux.HandleFunc("GET "+repo+"/commits/{ref}/status", s.inRepo("contents", forge.Read, func(a *ask) {
		sha := a.repo.commit(a.PathValue("ref"))
		if sha == "" {
			a.no(http.StatusNotFound, "object does not exist")
			return
		}
		newest := a.repo.newest(sha)
		list := []any{}
		for _, st := range paged(a, newest) {
			list = append(list, a.repo.statusJSON(st))
		}
		a.say(http.StatusOK, map[string]any{
			"state": combined(newest), "sha": sha, "total_count": len(newest), "statuses": list, "repository": a.repo.repoJSON(),
			"commit_url": a.repo.apiURL() + "/commits/" + sha, "url": a.repo.apiURL() + "/commits/" + sha + "/status",
		})
	}))
	mux.HandleFunc("GET "+repo+"/issues/{number}/{id}", s.inRepo("issues", forge.Read, s.oneOrAllComments))
	mux.HandleFunc("POST "+repo+"/issues/{number}/comments", s.inRepo("issues", forge.Write, s.createComment))
	mux.HandleFunc("GET "+repo+"/issues/comments", s.inRepo("issues", forge.Read, s.allComments))
	mux.HandleFunc("PATCH "+repo+"/issues/comments/{id}", s.inRepo("issues", forge.Write, s.editComment))
	mux.HandleFunc("GET "+repo+"/collaborators/{login}/permission", s.inRepo("contents", forge.Read, func(a *ask) {
		u := s.users[strings.ToLower(a.PathValue("login"))]
		switch {
		case a.repo.may(a.user) < forge.Admin && u != a.user:
			a.no(http.StatusForbidden, "Only admins can query all permissions, repo admins can query all repo permissions, collaborators can query only their own")
		case u == nil:
			a.no(http.StatusNotFound, "user does not exist")
		default:
			level := a.repo.may(u)
			name := level.String()
			if level == forge.Maintain {
				name = "write"
			}
			if strings.EqualFold(u.Login, a.repo.Repo.Owner) {
				name = "owner"
			}
			a.say(http.StatusOK, map[string]any{"permission": name, "role_name": name, "user": s.userJSON(u)})
		}
	}))
}

func (r *Repo) giteaPull(p *Pull) map[string]any {
	side := func(repo *Repo, branch, sha string) map[string]any {
		out := map[string]any{"ref": branch, "label": branch, "sha": sha, "repo_id": 0, "repo": nil}
		if repo != nil {
			out["repo"], out["repo_id"] = repo.repoJSON(), repo.ID
		}
		return out
	}
	state := "open"
	if p.State != forge.Open {
		state = "closed"
	}
	out := map[string]any{
		"id": p.id, "number": p.Number, "title": p.Title, "user": r.s.userJSON(r.s.user(p.Author)), "state": state, "draft": p.Draft,
		"html_url": fmt.Sprintf("%s/%s/pulls/%d", r.s.URL, r.Repo, p.Number), "url": fmt.Sprintf("%s/%s/pulls/%d", r.s.URL, r.Repo, p.Number),
		"head": side(p.Head, p.HeadBranch, p.HeadSHA), "base": side(r, p.BaseBranch, p.BaseSHA), "merge_base": p.BaseSHA,
		"mergeable": true, "merged": p.State == forge.Merged, "created_at": stamp(p.created), "updated_at": stamp(p.updated), "body": "",
	}
	if p.State == forge.Merged {
		out["merged_at"] = stamp(p.merged)
		out["merge_commit_sha"] = p.MergeCommit
		if p.MergeCommit == "" {
			out["merge_commit_sha"] = p.HeadSHA
		}
	}
	return out
}

func (r *Repo) giteaIssue(t *thread) map[string]any {
	out := map[string]any{
		"number": t.number, "title": t.title, "state": "open", "user": r.s.userJSON(t.author), "comments": len(t.comments),
		"html_url": fmt.Sprintf("%s/%s/issues/%d", r.s.URL, r.Repo, t.number), "pull_request": nil,
	}
	if t.pull != nil {
		out["html_url"] = fmt.Sprintf("%s/%s/pulls/%d", r.s.URL, r.Repo, t.number)
		out["pull_request"] = map[string]any{"merged": t.pull.State == forge.Merged, "merged_at": nil}
	}
	return out
}

package forgetest

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/varanhq/varan/sync/forge"
)

// What GitLab does is in ../shared/gitlab/NOTES.md; there is no schema to hold it against.

func (s *Server) gitlabRoutes(mux *http.ServeMux) {
	project := "/projects/{id}"
	mux.HandleFunc("GET /user", s.handle(func(a *ask) {
		if a.user == nil {
			a.no(http.StatusUnauthorized, "401 Unauthorized")
			return
		}
		a.say(http.StatusOK, gitlabUser(a.user))
	}))
	mux.HandleFunc("GET /personal_access_tokens/self", s.handle(func(a *ask) {
		if a.user == nil {
			a.no(http.StatusUnauthorized, "401 Unauthorized")
			return
		}
		a.say(http.StatusOK, map[string]any{"id": 1, "name": "varan", "active": true, "scopes": a.user.Scopes, "user_id": a.user.ID, "expires_at": "2027-01-01"})
	}))
	mux.HandleFunc("GET /users", s.handle(func(a *ask) {
		list := []any{}
		if u := s.users[strings.ToLower(a.URL.Query().Get("username"))]; u != nil {
			list = append(list, gitlabUser(u))
		}
		a.say(http.StatusOK, list)
	}))
	mux.HandleFunc("GET "+project, s.inProject(forge.Read, func(a *ask) { a.say(http.StatusOK, a.repo.gitlabProject()) }))
	mux.HandleFunc("GET "+project+"/members/all/{user}", s.inProject(forge.Read, func(a *ask) {
		for login, level := range a.repo.permissions {
			u := s.users[login]
			if u == nil || fmt.Sprint(u.ID) != a.PathValue("user") || level == forge.None {
				continue
			}
			out := gitlabUser(u)
			out["access_level"] = map[forge.Permission]int{forge.Read: 20, forge.Write: 30, forge.Maintain: 40, forge.Admin: 50}[level]
			a.say(http.StatusOK, out)
			return
		}
		a.no(http.StatusNotFound, "404 Not found")
	}))
	mux.HandleFunc("GET "+project+"/merge_requests", s.inProject(forge.Read, s.mergeRequests))
	mux.HandleFunc("GET "+project+"/merge_requests/{iid}", s.inPull(forge.Read, func(a *ask, p *Pull) { a.say(http.StatusOK, a.repo.mergeRequest(p, true)) }))
	mux.HandleFunc("GET "+project+"/merge_requests/{iid}/diffs", s.inPull(forge.Read, func(a *ask, p *Pull) {
		files, err := a.repo.changedFiles(p)
		if err != nil {
			a.no(http.StatusInternalServerError, err.Error())
			return
		}
		list := []any{}
		for _, f := range paged(a, files) {
			list = append(list, map[string]any{
				"new_path": f[1], "old_path": cmp.Or(f[2], f[1]), "new_file": f[0] == "A", "deleted_file": f[0] == "D", "renamed_file": f[0] == "R", "diff": "",
			})
		}
		a.say(http.StatusOK, list)
	}))
	mux.HandleFunc("GET "+project+"/repository/commits/{sha}/merge_requests", s.inProject(forge.Read, func(a *ask) {
		sha := a.repo.commit(a.PathValue("sha"))
		if sha == "" {
			a.no(http.StatusNotFound, "404 Commit Not Found")
			return
		}
		list := []any{}
		for _, p := range a.repo.pulls() {
			if a.repo.holds(p, sha) {
				list = append(list, a.repo.mergeRequest(p, false))
			}
		}
		a.say(http.StatusOK, list)
	}))
	mux.HandleFunc("GET "+project+"/repository/commits/{sha}/statuses", s.inProject(forge.Read, func(a *ask) {
		sha := a.repo.commit(a.PathValue("sha"))
		if sha == "" {
			a.no(http.StatusNotFound, "404 Commit Not Found")
			return
		}
		name, everything := a.URL.Query().Get("name"), a.URL.Query().Get("all") == "true"
		var found []*status
		for _, st := range a.repo.statuses {
			if st.sha == sha && (name == "" || st.context == name) && (everything || !st.done) {
				found = append(found, st)
			}
		}
		list := []any{}
		for _, st := range paged(a, found) {
			list = append(list, gitlabStatus(st))
		}
		a.say(http.StatusOK, list)
	}))
	mux.HandleFunc("POST "+project+"/statuses/{sha}", s.inProject(forge.Write, s.setGitlabStatus))
	mux.HandleFunc("GET "+project+"/merge_requests/{iid}/notes", s.inPull(forge.Read, func(a *ask, p *Pull) {
		notes := slices.Clone(a.repo.threads[p.Number].comments)
		by := func(c *comment) time.Time { return c.created }
		if a.URL.Query().Get("order_by") == "updated_at" {
			by = func(c *comment) time.Time { return c.updated }
		}
		slices.SortFunc(notes, func(x, y *comment) int { return cmp.Or(by(x).Compare(by(y)), cmp.Compare(x.id, y.id)) })
		if a.URL.Query().Get("sort") != "asc" {
			slices.Reverse(notes)
		}
		list := []any{}
		for _, c := range paged(a, notes) {
			list = append(list, a.repo.note(c))
		}
		a.say(http.StatusOK, list)
	}))
	mux.HandleFunc("POST "+project+"/merge_requests/{iid}/notes", s.inPull(forge.Read, func(a *ask, p *Pull) {
		var in struct{ Body string }
		if !a.body(&in) || !a.noteFits(in.Body) {
			return
		}
		c, err := a.repo.say(p.Number, a.user, in.Body)
		if err != nil {
			s.fail("note: %v", err)
		}
		a.say(http.StatusCreated, a.repo.note(c))
	}))
	mux.HandleFunc("GET "+project+"/merge_requests/{iid}/notes/{note}", s.inPull(forge.Read, func(a *ask, p *Pull) {
		if t, c := a.repo.comment(int64(a.number("note"))); c != nil && t.number == p.Number {
			a.say(http.StatusOK, a.repo.note(c))
			return
		}
		a.no(http.StatusNotFound, "404 Not found")
	}))
	mux.HandleFunc("PUT "+project+"/merge_requests/{iid}/notes/{note}", s.inPull(forge.Read, func(a *ask, p *Pull) {
		var in struct{ Body string }
		if !a.body(&in) || !a.noteFits(in.Body) {
			return
		}
		t, c := a.repo.comment(int64(a.number("note")))
		if c == nil || t.number != p.Number {
			a.no(http.StatusNotFound, "404 Not found")
			return
		}
		if c.user != a.user && a.repo.may(a.user) < forge.Maintain {
			a.no(http.StatusForbidden, "403 Forbidden")
			return
		}
		if err := a.repo.edit(c.id, a.user, in.Body); err != nil {
			s.fail("edit a note: %v", err)
		}
		a.say(http.StatusOK, a.repo.note(c))
	}))
}

// inProject is for what is about a project, named by number or by path.
func (s *Server) inProject(need forge.Permission, f func(*ask)) http.HandlerFunc {
	return s.handle(func(a *ask) {
		id := a.PathValue("id")
		for _, r := range s.repos {
			if strings.EqualFold(r.Repo.String(), id) || fmt.Sprint(r.ID) == id {
				a.repo = r
			}
		}
		switch {
		case a.repo == nil || a.repo.may(a.user) < forge.Read:
			a.no(http.StatusNotFound, "404 Project Not Found")
		case Writes(a.Request) && (a.user == nil || !slices.Contains(a.user.Scopes, "api")):
			a.say(http.StatusForbidden, map[string]any{"error": "insufficient_scope", "error_description": "The request requires higher privileges than provided by the access token.", "scope": "api"})
		case a.repo.may(a.user) < need:
			a.no(http.StatusForbidden, "403 Forbidden")
		default:
			f(a)
		}
	})
}

func (s *Server) inPull(need forge.Permission, f func(*ask, *Pull)) http.HandlerFunc {
	return s.inProject(need, func(a *ask) {
		p, err := a.repo.pull(a.number("iid"))
		if err != nil {
			a.no(http.StatusNotFound, "404 Not found")
			return
		}
		f(a, p)
	})
}

func (a *ask) noteFits(body string) bool {
	switch {
	case strings.TrimSpace(body) == "":
		a.say(http.StatusBadRequest, map[string]any{"message": map[string]any{"note": []string{"can't be blank"}}})
	case utf8.RuneCountInString(body) > 1000000:
		a.say(http.StatusBadRequest, map[string]any{"message": map[string]any{"note": []string{"is too long (maximum is 1000000 characters)"}}})
	default:
		return true
	}
	return false
}

func (s *Server) mergeRequests(a *ask) {
	query := a.URL.Query()
	since, _ := time.Parse(time.RFC3339Nano, query.Get("updated_after"))
	var found []*Pull
	for _, p := range a.repo.pulls() {
		state := gitlabState(p)
		if want := query.Get("state"); (want == "" || want == "all" || want == state) && !p.updated.Before(since) {
			found = append(found, p)
		}
	}
	if query.Get("order_by") == "updated_at" {
		slices.SortStableFunc(found, func(x, y *Pull) int { return x.updated.Compare(y.updated) })
	}
	if query.Get("sort") != "asc" {
		slices.Reverse(found)
	}
	list := []any{}
	for _, p := range paged(a, found) {
		list = append(list, a.repo.mergeRequest(p, false))
	}
	a.say(http.StatusOK, list)
}

// setGitlabStatus follows the notes: a status is a job, and a job cannot go where it is, nor back.
func (s *Server) setGitlabStatus(a *ask) {
	var in struct {
		State, Name, Context, Ref, Description string
		TargetURL                              string `json:"target_url"`
	}
	if !a.body(&in) {
		return
	}
	name := cmp.Or(in.Name, in.Context, "default")
	sha := a.repo.commit(a.PathValue("sha"))
	events := map[string]string{"pending": "enqueue", "running": "run", "success": "success", "failed": "drop", "canceled": "cancel", "skipped": "skip"}
	for field, text := range map[string]string{"description": in.Description, "target_url": in.TargetURL, "ref": in.Ref, "name": name} {
		if utf8.RuneCountInString(text) > 255 {
			a.say(http.StatusBadRequest, map[string]any{"message": map[string]any{field: []string{"is too long (maximum is 255 characters)"}}})
			return
		}
	}
	switch {
	case events[in.State] == "":
		a.say(http.StatusBadRequest, map[string]any{"error": "state does not have a valid value"})
		return
	case sha == "":
		a.no(http.StatusNotFound, "404 Commit Not Found")
		return
	}
	for _, st := range a.repo.statuses {
		if st.sha != sha || st.context != name || st.user != a.user || st.done {
			continue
		}
		if finished := st.state != "pending" && st.state != "running"; finished {
			st.done = true
			continue
		}
		if st.state == in.State || st.state == "running" && in.State == "pending" {
			event := events[in.State]
			a.no(http.StatusBadRequest, fmt.Sprintf(`Cannot transition status via :%s from :%s (Reason(s): Status cannot transition via "%s")`, event, st.state, event))
			return
		}
		st.state, st.description, st.url, st.at = in.State, in.Description, in.TargetURL, s.now()
		a.say(http.StatusCreated, gitlabStatus(st))
		return
	}
	st := &status{
		id: s.id(), sha: sha, context: name, state: in.State, description: in.Description, url: in.TargetURL, ref: in.Ref, user: a.user, at: s.now(),
	}
	a.repo.statuses = append(a.repo.statuses, st)
	a.say(http.StatusCreated, gitlabStatus(st))
}

func gitlabStatus(st *status) map[string]any {
	out := map[string]any{
		"id": st.id, "sha": st.sha, "ref": st.ref, "status": st.state, "name": st.context, "description": st.description, "target_url": nil,
		"created_at": milli(st.at), "allow_failure": false, "author": gitlabUser(st.user), "pipeline_id": 1,
	}
	if st.url != "" {
		out["target_url"] = st.url
	}
	return out
}

func gitlabUser(u *User) map[string]any {
	return map[string]any{"id": u.ID, "username": u.Login, "name": u.Login, "state": "active", "bot": u.Bot}
}

func (r *Repo) gitlabProject() map[string]any {
	return map[string]any{
		"id": r.ID, "name": r.Repo.Name, "path": r.Repo.Name, "path_with_namespace": r.Repo.String(), "default_branch": r.Default,
		"visibility": map[bool]string{true: "private", false: "public"}[r.Private],
		"web_url":    r.s.URL + "/" + r.Repo.String(), "http_url_to_repo": r.CloneURL(),
	}
}

func gitlabState(p *Pull) string {
	switch p.State {
	case forge.Merged:
		return "merged"
	case forge.Closed:
		return "closed"
	}
	return "opened"
}

func (r *Repo) mergeRequest(p *Pull, whole bool) map[string]any {
	source := int64(0)
	if p.Head != nil {
		source = p.Head.ID
	}
	out := map[string]any{
		"id": p.id, "iid": p.Number, "project_id": r.ID, "title": p.Title, "state": gitlabState(p), "draft": p.Draft,
		"author": gitlabUser(r.s.user(p.Author)), "source_branch": p.HeadBranch, "target_branch": p.BaseBranch,
		"source_project_id": source, "target_project_id": r.ID, "sha": p.HeadSHA, "merge_commit_sha": nil, "squash_commit_sha": nil,
		"created_at": milli(p.created), "updated_at": milli(p.updated), "web_url": fmt.Sprintf("%s/%s/-/merge_requests/%d", r.s.URL, r.Repo, p.Number),
	}
	if p.State == forge.Merged && p.MergeCommit != "" {
		out["merge_commit_sha"], out["merged_at"] = p.MergeCommit, milli(p.merged)
	}
	if whole {
		out["diff_refs"] = map[string]any{"base_sha": p.BaseSHA, "head_sha": p.HeadSHA, "start_sha": p.BaseSHA}
	}
	return out
}

func (r *Repo) note(c *comment) map[string]any {
	return map[string]any{
		"id": c.id, "body": c.body, "author": gitlabUser(c.user), "created_at": milli(c.created), "updated_at": milli(c.updated), "system": c.system,
		"noteable_type": "MergeRequest", "noteable_iid": c.number, "project_id": r.ID, "resolvable": false,
	}
}

// Note adds what GitLab writes itself: "changed the title".
func (r *Repo) Note(number int, login, body string) error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	t := r.threads[number]
	if t == nil {
		return fmt.Errorf("note on %s!%d: %w", r.Repo, number, errGone)
	}
	now := r.s.now()
	t.comments = append(t.comments, &comment{id: r.s.id(), number: number, user: r.s.user(login), body: body, system: true, created: now, updated: now})
	t.touch(now)
	return nil
}

func (r *Repo) gitlabHookProject() map[string]any {
	return map[string]any{
		"id": r.ID, "name": r.Repo.Name, "path_with_namespace": r.Repo.String(), "default_branch": r.Default,
		"web_url": r.s.URL + "/" + r.Repo.String(), "git_http_url": r.CloneURL(), "git_ssh_url": "git@forge.example:" + r.Repo.String() + ".git",
		"namespace": r.Repo.Owner, "visibility_level": 0,
	}
}

func gitlabHookUser(u *User) map[string]any {
	return map[string]any{"id": u.ID, "name": u.Login, "username": u.Login}
}

func (r *Repo) mergeRequestHook(p *Pull) map[string]any {
	out := map[string]any{
		"id": p.id, "iid": p.Number, "title": p.Title, "state": gitlabState(p), "draft": p.Draft, "source_branch": p.HeadBranch,
		"target_branch": p.BaseBranch, "target_project_id": r.ID, "source_project_id": 0, "author_id": r.s.user(p.Author).ID,
		"last_commit": map[string]any{"id": p.HeadSHA}, "target": r.gitlabHookProject(), "merge_commit_sha": nil,
		"url": fmt.Sprintf("%s/%s/-/merge_requests/%s", r.s.URL, r.Repo, strconv.Itoa(p.Number)),
	}
	if p.Head != nil {
		out["source_project_id"], out["source"] = p.Head.ID, p.Head.gitlabHookProject()
	}
	if p.MergeCommit != "" {
		out["merge_commit_sha"] = p.MergeCommit
	}
	return out
}

func milli(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

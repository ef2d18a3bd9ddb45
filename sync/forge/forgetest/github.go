package forgetest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/varanhq/varan/sync/forge"
)

type checkRun struct {
	id               int64
	app              *App
	name, sha        string
	status, external string
	conclusion       string
	title, summary   string
	annotations      []any
	at               time.Time
}

// CheckRun is one as it stands.
type CheckRun struct {
	Name, Status, Conclusion, Title, Summary string
	Annotations                              []map[string]any
}

// CheckRuns of a commit, oldest first.
func (r *Repo) CheckRuns(sha string) []CheckRun {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	var out []CheckRun
	for _, c := range r.checks {
		if c.sha != sha {
			continue
		}
		one := CheckRun{Name: c.name, Status: c.status, Conclusion: c.conclusion, Title: c.title, Summary: c.summary}
		for _, a := range c.annotations {
			if m, ok := a.(map[string]any); ok {
				one.Annotations = append(one.Annotations, m)
			}
		}
		out = append(out, one)
	}
	return out
}

// api is the handler of the kind, inside its contract.
func (s *Server) api() (http.Handler, error) {
	mux := http.NewServeMux()
	switch s.Kind {
	case forge.GitHub:
		s.githubRoutes(mux)
	case forge.Gitea:
		s.giteaRoutes(mux)
	case forge.GitLab:
		s.gitlabRoutes(mux)
		return http.StripPrefix(s.prefix(), mux), nil // no contract to be had but NOTES.md
	default:
		return nil, fmt.Errorf("no forge is of the kind %q", s.Kind)
	}
	if s.contracts == nil {
		return http.StripPrefix(s.prefix(), mux), nil
	}
	return s.contracts.checked(s.Kind, s.forgejo, s.prefix(), s.fail, http.StripPrefix(s.prefix(), mux))
}

// ask is one request to the API, by whom and about what.
type ask struct {
	*http.Request
	w     http.ResponseWriter
	s     *Server
	user  *User
	scope *scope
	repo  *Repo
}

// say answers with JSON.
func (a *ask) say(status int, v any) {
	a.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	a.w.WriteHeader(status)
	if status == http.StatusNoContent {
		return
	}
	enc := json.NewEncoder(a.w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}

// no refuses in the forge's way.
func (a *ask) no(status int, message string) {
	if a.s.Kind == forge.GitHub {
		a.say(status, map[string]any{"message": message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status)})
		return
	}
	a.say(status, map[string]any{"message": message})
}

// invalid is GitHub's 422 about a field.
func (a *ask) invalid(resource, field, message string) {
	a.say(http.StatusUnprocessableEntity, map[string]any{
		"message": "Validation Failed", "documentation_url": "https://docs.github.com/rest",
		"errors": []any{map[string]any{"resource": resource, "code": "custom", "field": field, "message": message}},
	})
}

// body decodes the request's.
func (a *ask) body(into any) bool {
	if strings.HasPrefix(a.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		a.no(http.StatusUnsupportedMediaType, "JSON only")
		return false
	}
	if err := json.NewDecoder(a.Body).Decode(into); err != nil {
		a.no(http.StatusBadRequest, "Problems parsing JSON")
		return false
	}
	return true
}

// number is a path value.
func (a *ask) number(name string) int {
	n, _ := strconv.Atoi(a.PathValue(name))
	return n
}

// handle gives a request its user; all of the world stands still while it is answered.
func (s *Server) handle(f func(*ask)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		a := &ask{Request: r, w: w, s: s}
		a.user, a.scope = s.whoHas(bearer(r))
		if a.user == nil && bearer(r) != "" && !strings.HasPrefix(r.URL.Path, "/app") && !strings.HasSuffix(r.URL.Path, "/installation") {
			a.no(http.StatusUnauthorized, "Bad credentials")
			return
		}
		f(a)
	}
}

// inRepo is handle for what is about a repository that the user can see and may do this with.
func (s *Server) inRepo(what string, need forge.Permission, f func(*ask)) http.HandlerFunc {
	return s.handle(func(a *ask) {
		a.repo = s.repos[strings.ToLower(a.PathValue("owner")+"/"+a.PathValue("repo"))]
		seen := a.repo != nil && (a.repo.may(a.user) >= forge.Read || a.scope.allows(a.repo, "metadata", forge.Read))
		switch {
		case !seen:
			a.no(http.StatusNotFound, "Not Found")
		case a.scope != nil && !a.scope.allows(a.repo, what, need):
			a.no(http.StatusForbidden, "Resource not accessible by integration")
		case a.scope == nil && s.Kind == forge.GitHub && need > forge.Read && a.user == nil:
			a.no(http.StatusUnauthorized, "Requires authentication")
		case a.scope == nil && !s.scoped(a.user, what, need):
			a.no(http.StatusForbidden, "Resource not accessible by personal access token")
		case a.scope == nil && what != "pull_requests" && what != "issues" && a.repo.may(a.user) < need:
			if s.Kind == forge.GitHub {
				a.no(http.StatusNotFound, "Not Found")
			} else {
				a.no(http.StatusForbidden, "user should have a permission to write")
			}
		default:
			f(a)
		}
	})
}

// scoped reports whether a token's scopes let it do that.
func (s *Server) scoped(u *User, what string, need forge.Permission) bool {
	if u == nil || s.Kind == forge.GitLab {
		return true
	}
	has := func(names ...string) bool {
		return slices.ContainsFunc(u.Scopes, func(x string) bool { return slices.Contains(names, x) })
	}
	if s.Kind == forge.GitHub {
		return has("repo", what+":write") || need <= forge.Read && has(what+":read", "public_repo") || what == "statuses" && has("repo:status")
	}
	category := "repository"
	if what == "issues" {
		category = "issue"
	}
	return has("all", "write:"+category) || need <= forge.Read && has("read:"+category)
}

// limited is a rate limit met, with GitHub's headers on every answer.
func (s *Server) limited(rec *recorder, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	a := &ask{Request: r, w: rec, s: s}
	if s.Kind == forge.GitHub && s.MaxContent > 0 && s.content(r) {
		done := 0
		for _, c := range s.calls {
			if c.Content && c.Status < 300 {
				done++
			}
		}
		if done >= s.MaxContent {
			rec.foreign = true
			rec.header.Set("Retry-After", "60")
			a.no(http.StatusForbidden, "You have exceeded a secondary rate limit.")
			return true
		}
	}
	if s.Remaining < 0 {
		return false
	}
	names := []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
	if s.Kind == forge.GitLab {
		names = []string{"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}
	}
	rec.header.Set(names[0], "5000")
	rec.header.Set(names[1], strconv.Itoa(max(0, s.Remaining-1)))
	rec.header.Set(names[2], strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10))
	if s.Remaining == 0 {
		rec.foreign = true
		status := http.StatusForbidden
		if s.Kind != forge.GitHub {
			status = http.StatusTooManyRequests
		}
		a.no(status, "API rate limit exceeded")
		return true
	}
	s.Remaining--
	return false
}

// etag makes answers to reads conditional, as GitHub and GitLab do. What has not changed costs nothing there.
func (s *Server) etag(rec *recorder, r *http.Request) {
	if s.Kind == forge.Gitea || Writes(r) || rec.status != http.StatusOK {
		return
	}
	sum := sha256.Sum256(append(rec.body.Bytes(), rec.header.Get("Link")...))
	tag := `W/"` + hex.EncodeToString(sum[:16]) + `"`
	rec.header.Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		rec.status = http.StatusNotModified
		rec.body.Reset()
		rec.header.Del("Content-Type")
		s.mu.Lock()
		if s.Remaining >= 0 {
			s.Remaining++
		}
		s.mu.Unlock()
	}
}

// paged is one page of a list, with the links to the others.
func paged[T any](a *ask, all []T) []T {
	query := a.URL.Query()
	size, _ := strconv.Atoi(cmp.Or(query.Get("per_page"), query.Get("limit")))
	most := 100
	if a.s.Kind == forge.Gitea {
		most = 50
	}
	if size < 1 {
		size = 30
	}
	size = min(size, most)
	n, _ := strconv.Atoi(query.Get("page"))
	n = max(n, 1)
	from, to := min((n-1)*size, len(all)), min(n*size, len(all))
	if to < len(all) {
		query.Set("page", strconv.Itoa(n+1))
		a.w.Header().Set("Link", fmt.Sprintf(`<%s%s%s?%s>; rel="next"`, a.s.URL, a.s.prefix(), a.URL.Path, query.Encode()))
		a.w.Header().Set("X-Next-Page", strconv.Itoa(n+1))
	}
	a.w.Header().Set("X-Total-Count", strconv.Itoa(len(all)))
	if from == to {
		return []T{}
	}
	return all[from:to]
}

func (s *Server) githubRoutes(mux *http.ServeMux) {
	repo := "/repos/{owner}/{repo}"
	mux.HandleFunc("GET /user", s.handle(func(a *ask) {
		switch {
		case a.user == nil:
			a.no(http.StatusUnauthorized, "Requires authentication")
		case a.scope != nil:
			a.no(http.StatusForbidden, "Resource not accessible by integration")
		default:
			if a.user.Scopes != nil && slices.Contains(a.user.Scopes, "repo") {
				a.w.Header().Set("X-OAuth-Scopes", strings.Join(a.user.Scopes, ", "))
			}
			out := s.userJSON(a.user)
			out["user_view_type"] = "public"
			a.say(http.StatusOK, out)
		}
	}))
	mux.HandleFunc("GET "+repo, s.inRepo("metadata", forge.Read, func(a *ask) {
		out := a.repo.repoJSON()
		level := a.repo.may(a.user)
		out["permissions"] = map[string]any{
			"pull": level >= forge.Read, "triage": level >= forge.Write, "push": level >= forge.Write,
			"maintain": level >= forge.Maintain, "admin": level >= forge.Admin,
		}
		a.say(http.StatusOK, out)
	}))
	mux.HandleFunc("GET "+repo+"/pulls", s.inRepo("pull_requests", forge.Read, s.listPulls))
	mux.HandleFunc("GET "+repo+"/pulls/{number}", s.inRepo("pull_requests", forge.Read, func(a *ask) {
		p, err := a.repo.pull(a.number("number"))
		if err != nil {
			a.no(http.StatusNotFound, "Not Found")
			return
		}
		a.say(http.StatusOK, a.repo.pullJSON(p, true))
	}))
	mux.HandleFunc("GET "+repo+"/pulls/{number}/files", s.inRepo("pull_requests", forge.Read, s.pullFiles))
	mux.HandleFunc("GET "+repo+"/commits/{sha}/pulls", s.inRepo("pull_requests", forge.Read, s.pullsOf))
	mux.HandleFunc("GET "+repo+"/commits/{ref}/status", s.inRepo("statuses", forge.Read, func(a *ask) {
		sha := a.repo.commit(a.PathValue("ref"))
		if sha == "" {
			a.no(http.StatusNotFound, "Not Found")
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
	mux.HandleFunc("POST "+repo+"/statuses/{sha}", s.inRepo("statuses", forge.Write, s.githubStatus))
	mux.HandleFunc("GET "+repo+"/commits/{ref}/check-runs", s.inRepo("checks", forge.Read, func(a *ask) {
		sha, name := a.repo.commit(a.PathValue("ref")), a.URL.Query().Get("check_name")
		latest := a.URL.Query().Get("filter") != "all"
		var found []*checkRun
		for _, c := range slices.Backward(a.repo.checks) {
			if c.sha == sha && (name == "" || c.name == name) &&
				!(latest && slices.ContainsFunc(found, func(o *checkRun) bool { return o.name == c.name && o.app == c.app })) {
				found = append(found, c)
			}
		}
		list := []any{}
		for _, c := range paged(a, found) {
			list = append(list, a.repo.checkJSON(c))
		}
		a.say(http.StatusOK, map[string]any{"total_count": len(found), "check_runs": list})
	}))
	mux.HandleFunc("POST "+repo+"/check-runs", s.inRepo("checks", forge.Write, s.githubCheck))
	mux.HandleFunc("GET "+repo+"/issues/{number}/{id}", s.inRepo("issues", forge.Read, s.oneOrAllComments))
	mux.HandleFunc("POST "+repo+"/issues/{number}/comments", s.inRepo("pull_requests", forge.Write, s.createComment))
	mux.HandleFunc("GET "+repo+"/issues/comments", s.inRepo("issues", forge.Read, s.allComments))
	mux.HandleFunc("PATCH "+repo+"/issues/comments/{id}", s.inRepo("pull_requests", forge.Write, s.editComment))
	mux.HandleFunc("GET "+repo+"/collaborators/{login}/permission", s.inRepo("metadata", forge.Read, func(a *ask) {
		u := s.users[strings.ToLower(a.PathValue("login"))]
		switch {
		case u == nil:
			a.no(http.StatusNotFound, "Not Found")
			return
		case a.scope == nil && a.repo.may(a.user) < forge.Write:
			a.no(http.StatusForbidden, "Must have push access to view collaborator permission.")
			return
		}
		level := a.repo.may(u)
		name, role := level.String(), level.String()
		if level == forge.Maintain {
			name = "write"
		}
		a.say(http.StatusOK, map[string]any{"permission": name, "role_name": role, "user": s.userJSON(u)})
	}))
	mux.HandleFunc("GET /app", s.handle(func(a *ask) {
		if app, err := s.appOf(a.Request); err != nil {
			a.no(http.StatusUnauthorized, "A JSON web token could not be decoded: "+err.Error())
		} else {
			a.say(http.StatusOK, s.appJSON(app))
		}
	}))
	mux.HandleFunc("GET "+repo+"/installation", s.handle(func(a *ask) {
		app, err := s.appOf(a.Request)
		if err != nil {
			a.no(http.StatusUnauthorized, "A JSON web token could not be decoded: "+err.Error())
			return
		}
		for _, r := range app.repos {
			if r.Repo.Same(forge.Repo{Owner: a.PathValue("owner"), Name: a.PathValue("repo")}) {
				a.say(http.StatusOK, s.installationJSON(app))
				return
			}
		}
		a.no(http.StatusNotFound, "Not Found")
	}))
	mux.HandleFunc("POST /app-manifests/{code}/conversions", s.handle(func(a *ask) {
		app := s.codes[a.PathValue("code")]
		if app == nil {
			a.no(http.StatusNotFound, "Not Found")
			return
		}
		delete(s.codes, a.PathValue("code"))
		out := s.appJSON(app)
		out["pem"], out["webhook_secret"], out["client_id"], out["client_secret"] = app.Key, "hook-secret", "Iv1.0", "client-secret"
		a.say(http.StatusCreated, out)
	}))
	mux.HandleFunc("POST /app/installations/{id}/access_tokens", s.handle(func(a *ask) {
		app, err := s.appOf(a.Request)
		switch {
		case err != nil:
			a.no(http.StatusUnauthorized, "A JSON web token could not be decoded: "+err.Error())
		case fmt.Sprint(app.Installation) != a.PathValue("id"):
			a.no(http.StatusNotFound, "Not Found")
		case app.Suspended:
			a.no(http.StatusForbidden, "This installation has been suspended")
		default:
			token, until := s.issue(app)
			a.say(http.StatusCreated, map[string]any{"token": token, "expires_at": until.UTC().Format(time.RFC3339), "permissions": app.Permissions})
		}
	}))
}

func (s *Server) listPulls(a *ask) {
	state := cmp.Or(a.URL.Query().Get("state"), "open")
	list := []any{}
	var found []*Pull
	for _, p := range a.repo.pulls() {
		if state == "all" || (p.State == forge.Open) == (state == "open") {
			found = append(found, p)
		}
	}
	if s.Kind == forge.GitHub && a.URL.Query().Get("direction") != "asc" {
		slices.Reverse(found)
	}
	for _, p := range paged(a, found) {
		if s.Kind == forge.Gitea {
			list = append(list, a.repo.giteaPull(p))
		} else {
			list = append(list, a.repo.pullJSON(p, false))
		}
	}
	a.say(http.StatusOK, list)
}

func (s *Server) pullFiles(a *ask) {
	p, err := a.repo.pull(a.number("number"))
	if err != nil {
		a.no(http.StatusNotFound, "Not Found")
		return
	}
	files, err := a.repo.changedFiles(p)
	if err != nil {
		a.no(http.StatusInternalServerError, err.Error())
		return
	}
	word := map[string]string{"A": "added", "M": "modified", "D": "removed", "R": "renamed", "T": "changed"}
	if s.Kind == forge.Gitea {
		word["D"], word["M"] = "deleted", "changed"
	}
	list := []any{}
	for _, f := range paged(a, files) {
		one := map[string]any{
			"filename": f[1], "status": word[f[0]], "additions": 1, "deletions": 0, "changes": 1,
			"contents_url": a.repo.apiURL() + "/contents/x", "raw_url": s.URL + "/raw", "html_url": s.URL + "/blob",
		}
		if s.Kind == forge.GitHub {
			one["sha"], one["blob_url"] = zeros, s.URL+"/blob"
		}
		if f[2] != "" {
			one["previous_filename"] = f[2]
		}
		list = append(list, one)
	}
	a.say(http.StatusOK, list)
}

// pullsOf are the pull requests that hold a commit.
func (s *Server) pullsOf(a *ask) {
	sha := a.repo.commit(a.PathValue("sha"))
	if sha == "" {
		a.no(http.StatusUnprocessableEntity, "No commit found for SHA: "+a.PathValue("sha"))
		return
	}
	list := []any{}
	for _, p := range a.repo.pulls() {
		if a.repo.holds(p, sha) {
			list = append(list, a.repo.pullJSON(p, false))
		}
	}
	a.say(http.StatusOK, paged(a, list))
}

// holds reports whether a pull request brings or brought in a commit.
func (r *Repo) holds(p *Pull, sha string) bool {
	if p.MergeCommit == sha || p.HeadSHA == sha {
		return true
	}
	if p.HeadSHA == "" || p.BaseSHA == "" {
		return false
	}
	_, in := git(r.Bare, "merge-base", "--is-ancestor", sha, p.HeadSHA)
	_, before := git(r.Bare, "merge-base", "--is-ancestor", sha, p.BaseSHA)
	return in == nil && before != nil
}

func combined(newest []*status) string {
	out := "success"
	for _, st := range newest {
		switch st.state {
		case "failure", "error":
			return "failure"
		case "pending":
			out = "pending"
		}
	}
	if len(newest) == 0 {
		return "pending"
	}
	return out
}

func (s *Server) githubStatus(a *ask) {
	var in struct {
		State, Description, Context string
		TargetURL                   string `json:"target_url"`
	}
	if !a.body(&in) {
		return
	}
	in.Context = cmp.Or(in.Context, "default")
	sha := a.repo.commit(a.PathValue("sha"))
	n := 0
	for _, st := range a.repo.statuses {
		if st.sha == sha && strings.EqualFold(st.context, in.Context) {
			n++
		}
	}
	switch {
	case sha == "":
		a.no(http.StatusUnprocessableEntity, "No commit found for SHA: "+a.PathValue("sha"))
	case utf8.RuneCountInString(in.Description) > 140:
		a.invalid("Status", "description", "description is too long (maximum is 140 characters)")
	case utf8.RuneCountInString(in.Context) > 255:
		a.invalid("Status", "context", "context is too long (maximum is 255 characters)")
	case n >= 1000:
		a.say(http.StatusUnprocessableEntity, map[string]any{
			"message": "Validation Failed", "documentation_url": "https://docs.github.com/rest",
			"errors": []any{map[string]any{"resource": "Status", "code": "custom", "message": "This SHA and context has reached the maximum number of statuses."}},
		})
	default:
		st := &status{
			id: s.id(), sha: sha, context: in.Context, state: in.State, description: in.Description, url: in.TargetURL, user: a.user, at: s.now(),
		}
		a.repo.statuses = append(a.repo.statuses, st)
		a.say(http.StatusCreated, a.repo.statusJSON(st))
	}
}

func (s *Server) githubCheck(a *ask) {
	var in struct {
		Name, Status, Conclusion string
		HeadSHA                  string `json:"head_sha"`
		ExternalID               string `json:"external_id"`
		Output                   struct {
			Title, Summary string
			Annotations    []any
		}
	}
	if !a.body(&in) {
		return
	}
	sha := a.repo.commit(in.HeadSHA)
	switch {
	case a.scope == nil:
		a.no(http.StatusForbidden, "You must authenticate via a GitHub App.")
		return
	case sha == "":
		a.no(http.StatusUnprocessableEntity, "No commit found for SHA: "+in.HeadSHA)
		return
	}
	for _, x := range in.Output.Annotations {
		m, _ := x.(map[string]any)
		if m["start_column"] != nil && m["start_line"] != m["end_line"] {
			a.no(http.StatusUnprocessableEntity, "start_column is allowed on one line only")
			return
		}
	}
	c := &checkRun{
		id: s.id(), app: a.scope.app, name: in.Name, sha: sha, status: cmp.Or(in.Status, "queued"), conclusion: in.Conclusion,
		external: in.ExternalID, title: in.Output.Title, summary: in.Output.Summary, annotations: in.Output.Annotations, at: s.now(),
	}
	a.repo.checks = append(a.repo.checks, c)
	a.say(http.StatusCreated, a.repo.checkJSON(c))
}

func (s *Server) listComments(a *ask) {
	t := a.repo.threads[a.number("number")]
	if t == nil {
		a.no(http.StatusNotFound, "Not Found")
		return
	}
	comments := t.comments
	if s.Kind == forge.GitHub {
		comments = paged(a, comments)
	}
	list := []any{}
	for _, c := range comments {
		list = append(list, a.repo.commentJSON(t, c))
	}
	a.say(http.StatusOK, list)
}

func (s *Server) createComment(a *ask) {
	var in struct{ Body string }
	if !a.body(&in) || !a.bodyFits(in.Body) {
		return
	}
	t := a.repo.threads[a.number("number")]
	if t == nil {
		a.no(http.StatusNotFound, "Not Found")
		return
	}
	c, err := a.repo.say(t.number, a.user, in.Body)
	if err != nil {
		s.fail("comment: %v", err)
	}
	a.say(http.StatusCreated, a.repo.commentJSON(t, c))
}

// bodyFits refuses comments that are too long or empty.
func (a *ask) bodyFits(body string) bool {
	switch {
	case a.s.Kind == forge.GitHub && utf8.RuneCountInString(body) > 65536:
		a.invalid("IssueComment", "body", "body is too long (maximum is 65536 characters)")
	case a.s.Kind == forge.GitHub && strings.TrimSpace(body) == "":
		a.invalid("IssueComment", "body", "body cannot be blank")
	default:
		return true
	}
	return false
}

// allComments are those of the whole repository, issues included.
func (s *Server) allComments(a *ask) {
	since, _ := time.Parse(time.RFC3339, a.URL.Query().Get("since"))
	type pair struct {
		t *thread
		c *comment
	}
	var found []pair
	for _, t := range a.repo.threads {
		for _, c := range t.comments {
			if !c.updated.Before(since) {
				found = append(found, pair{t, c})
			}
		}
	}
	by := func(p pair) time.Time { return p.c.created }
	if a.URL.Query().Get("sort") == "updated" {
		by = func(p pair) time.Time { return p.c.updated }
	}
	slices.SortFunc(found, func(x, y pair) int { return cmp.Or(by(x).Compare(by(y)), cmp.Compare(x.c.id, y.c.id)) })
	list := []any{}
	for _, p := range paged(a, found) {
		list = append(list, a.repo.commentJSON(p.t, p.c))
	}
	a.say(http.StatusOK, list)
}

// oneOrAllComments tells /issues/comments/7 from /issues/7/comments, which the mux cannot.
func (s *Server) oneOrAllComments(a *ask) {
	switch {
	case a.PathValue("number") == "comments":
		s.oneComment(a)
	case a.PathValue("id") == "comments":
		s.listComments(a)
	default:
		a.no(http.StatusNotFound, "Not Found")
	}
}

func (s *Server) oneComment(a *ask) {
	t, c := a.repo.comment(int64(a.number("id")))
	if c == nil {
		a.no(http.StatusNotFound, "Not Found")
		return
	}
	a.say(http.StatusOK, a.repo.commentJSON(t, c))
}

func (s *Server) editComment(a *ask) {
	var in struct{ Body string }
	if !a.body(&in) || !a.bodyFits(in.Body) {
		return
	}
	t, c := a.repo.comment(int64(a.number("id")))
	if c == nil {
		a.no(http.StatusNotFound, "Not Found")
		return
	}
	if c.user != a.user && a.repo.may(a.user) < forge.Write {
		a.no(http.StatusForbidden, "Must have admin rights to Repository.")
		return
	}
	if err := a.repo.edit(c.id, a.user, in.Body); err != nil {
		s.fail("edit a comment: %v", err)
	}
	a.say(http.StatusOK, a.repo.commentJSON(t, c))
}

package forge_test

import (
	"errors"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/forgetest"
	"github.com/varanhq/varan/sync/forge/github"
	"github.com/varanhq/varan/sync/gitrepo"
)

// TestAppToken: one token serves many calls, a new one is fetched before the old one ends, or when it is refused.
func TestAppToken(t *testing.T) {
	w := newWorld(t, forge.GitHub)
	c, app := w.app()
	issued := func() (n int) {
		w.Set(func(*forgetest.Server) { n = app.Issued })
		return n
	}
	calls := func() {
		t.Helper()
		var all gosync.WaitGroup
		for range 8 {
			all.Go(func() {
				if _, err := c.PullRequests(t.Context(), w.at); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	calls()
	if n := issued(); n != 1 {
		t.Errorf("%d tokens for eight calls", n)
	}
	w.Revoke(app) // the owner took it back: reads and writes go on with a new one
	n, _ := w.pull("feature", map[string]string{"b.toml": "two\n"})
	if own, err := c.CreateComment(t.Context(), w.at, n, "hello"); err != nil || own.Author.Login != "varan[bot]" || !own.Author.Bot {
		t.Errorf("%+v %v", own, err)
	}
	if got := w.repo.Comments(n); len(got) != 1 {
		t.Errorf("%d comments", len(got))
	}
	calls()
	if n := issued(); n != 2 {
		t.Errorf("%d tokens after one was revoked", n)
	}
	// One that ends within a minute is renewed before it does, and never used after.
	w.Set(func(s *forgetest.Server) { s.TokenLife = 30 * time.Second })
	w.Revoke(app)
	calls()
	before := issued()
	w.Forget()
	if _, err := c.PullRequests(t.Context(), w.at); err != nil {
		t.Fatal(err)
	}
	if issued() != before+1 {
		t.Error("a token about to end was used")
	}
	for _, call := range w.Calls() {
		if call.Status == 401 {
			t.Errorf("refused: %v", call)
		}
	}
}

// TestAppRefused: what stands in an App's way is said in words, without the key.
func TestAppRefused(t *testing.T) {
	w := newWorld(t, forge.GitHub)
	_, app := w.app()
	other, err := w.AddApp("other")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*forge.Options)
		set    func()
		want   error
		text   string
	}{
		"another App's key": {change: func(o *forge.Options) { o.App.Key = other.Key }, want: forge.ErrUnauthorized, text: "do not belong together"},
		"no such App":       {change: func(o *forge.Options) { o.App.ID = 1 }, want: forge.ErrUnauthorized, text: "do not belong together"},
		"uninstalled":       {change: func(o *forge.Options) { o.App.Installation = 1 }, want: forge.ErrUnauthorized, text: "not installed"},
		"suspended":         {set: func() { app.Suspended = true }, want: forge.ErrForbidden, text: "suspended"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.set != nil {
				w.Set(func(*forgetest.Server) { tc.set() })
			}
			o := w.Options("", app)
			if tc.change != nil {
				tc.change(&o)
			}
			_, err := w.connect(o).PullRequests(t.Context(), w.at)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), "PRIVATE KEY") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestAnnotate: a check run at the lines, once for the same words, and only by an App.
func TestAnnotate(t *testing.T) {
	w := newWorld(t, forge.GitHub)
	c, _ := w.app()
	_, head := w.pull("feature", map[string]string{"b.toml": "two\n"})
	run := forge.CheckRun{
		Name: "varan: mistakes", SHA: head, Conclusion: forge.Failed, Title: "2 mistakes", Summary: "see the lines",
		Annotations: []forge.Annotation{
			{Path: "b.toml", Line: 1, Column: 3, Message: "no such key", Level: forge.Fault},
			{Path: "b.toml", Line: 2, Message: "careful", Level: forge.Warning},
		},
	}
	for range 2 {
		if err := c.Annotate(t.Context(), w.at, run); err != nil {
			t.Fatal(err)
		}
	}
	runs := w.repo.CheckRuns(head)
	if len(runs) != 1 || runs[0].Conclusion != "failure" || len(runs[0].Annotations) != 2 || runs[0].Annotations[0]["start_column"] != 3.0 {
		t.Fatalf("got %+v", runs)
	}
	run.Conclusion, run.Annotations = forge.Passed, nil
	if err := c.Annotate(t.Context(), w.at, run); err != nil {
		t.Fatal(err)
	}
	if runs = w.repo.CheckRuns(head); len(runs) != 2 || runs[1].Conclusion != "success" {
		t.Errorf("got %+v", runs)
	}
	run.Annotations = make([]forge.Annotation, forge.MaxAnnotations+1)
	if err := c.Annotate(t.Context(), w.at, run); !errors.Is(err, forge.ErrTooLong) {
		t.Errorf("got %v", err)
	}
	for _, kind := range []forge.Kind{forge.GitHub, forge.Gitea, forge.GitLab} {
		w := newWorld(t, kind)
		c := w.bot()
		if err := c.Annotate(t.Context(), w.at, run); !errors.Is(err, forge.ErrNotCapable) || c.Capabilities().Checks || len(w.Calls()) > 0 {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestAppPermissions: an App that may not is refused, and the stand-in means it.
func TestAppPermissions(t *testing.T) {
	w := newWorld(t, forge.GitHub)
	c, app := w.app()
	n, head := w.pull("feature", map[string]string{"b.toml": "two\n"})
	w.Set(func(*forgetest.Server) { app.Permissions = map[string]string{"metadata": "read"} })
	for what, err := range map[string]error{
		"status":  c.SetStatus(t.Context(), w.at, head, forge.Status{Context: "c", State: forge.Pending}),
		"comment": errOf(c.CreateComment(t.Context(), w.at, n, "hello")),
		"pulls":   errOf(c.PullRequests(t.Context(), w.at)),
		"check":   c.Annotate(t.Context(), w.at, forge.CheckRun{Name: "n", SHA: head, Title: "t", Summary: "s", Conclusion: forge.Passed}),
	} {
		if !errors.Is(err, forge.ErrForbidden) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestAppGit: an App reads its installation's repositories over Git with its own tokens, also when one was revoked, and
// sends them nowhere else.
func TestAppGit(t *testing.T) {
	w := newWorld(t, forge.GitHub)
	c, app := w.app()
	at, err := gitrepo.ParseAddress(w.repo.CloneURL())
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(w.repo.CloneURL(), at.Scheme+"://"), "/")
	open := func(bound string) *gitrepo.Repo {
		cred := &gitrepo.Credential{Scheme: at.Scheme, Host: bound, Username: github.GitUser, Fresh: c.(*github.Client).GitToken}
		repo, err := gitrepo.Open(at, gitrepo.Options{Credential: cred, AllowHTTP: true, AllowInternal: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { repo.Close() })
		return repo
	}
	repo := open(host)
	snap, err := repo.Fetch(t.Context(), "main")
	if err != nil || snap.Commit != w.base {
		t.Fatalf("%+v %v", snap, err)
	}
	w.Revoke(app)
	next := w.push(w.repo, "main", map[string]string{"a.toml": "two\n"})
	if snap, err = repo.Fetch(t.Context(), "main"); err != nil || snap.Commit != next {
		t.Fatalf("after it was revoked: %v", err)
	}
	if _, err := open("elsewhere.example").Fetch(t.Context(), "main"); !errors.Is(err, gitrepo.ErrAuth) {
		t.Errorf("bound to another host: %v", err)
	}
	var n int
	w.Set(func(*forgetest.Server) { n = app.Issued })
	if n != 2 {
		t.Errorf("%d tokens", n)
	}
}

package forge_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/forgetest"
)

// TestStory: a pull request from its opening to what it was merged as, on every forge.
func TestStory(t *testing.T) { each(t, story) }

func story(t *testing.T, w *world, c forge.Forge) {
	ctx := t.Context()
	n, head := w.pull("feature", map[string]string{"b.toml": "two\n", "a.toml": ""})
	prs, err := c.PullRequests(ctx, w.at)
	if err != nil || len(prs) != 1 {
		t.Fatal(prs, err)
	}
	one, err := c.PullRequest(ctx, w.at, n)
	if err != nil {
		t.Fatal(err)
	}
	for _, pr := range []forge.PullRequest{prs[0], one} {
		if pr.Number != n || pr.Title != "change feature" || pr.Author.Login != "ann" || pr.State != forge.Open || pr.Fork || pr.Draft ||
			pr.Head.SHA != head || pr.Head.Branch != "feature" || !pr.Head.Repo.Same(w.at) || pr.Base.Branch != "main" ||
			pr.StatusRepo != w.at || pr.Updated.IsZero() || pr.MergeCommit != "" {
			t.Errorf("got %+v", pr)
		}
	}
	if one.Base.SHA != w.base {
		t.Errorf("base is %s", one.Base.SHA)
	}
	if got := gitRefs(t, w.repo)[one.HeadRef]; got != head {
		t.Errorf("%s is %q", one.HeadRef, got)
	}
	if c.Capabilities().MergeRefs != (one.MergeRef != "") {
		t.Errorf("merge ref %q", one.MergeRef)
	} else if one.MergeRef != "" && gitRefs(t, w.repo)[one.MergeRef] == "" {
		t.Errorf("no %s in Git", one.MergeRef)
	}
	files, err := c.ChangedFiles(ctx, w.at, n)
	want := forge.Changes{Files: []forge.ChangedFile{{Path: "a.toml", Removed: true}, {Path: "b.toml"}}, Complete: true}
	if diff := cmp.Diff(files, want); diff != "" || err != nil {
		t.Error(diff, err)
	}
	sha, err := w.repo.Merge(n, "ann", forgetest.MergeCommit)
	if err != nil {
		t.Fatal(err)
	}
	of, err := c.PullRequestsOf(ctx, w.at, sha)
	if err != nil || len(of) != 1 || of[0].Number != n || of[0].State != forge.Merged || of[0].MergeCommit != sha {
		t.Errorf("%+v %v", of, err)
	}
	if of, err = c.PullRequestsOf(ctx, w.at, w.base); err != nil || len(of) != 0 {
		t.Errorf("a commit without pull request: %+v %v", of, err)
	}
	if prs, err = c.PullRequests(ctx, w.at); err != nil || len(prs) != 0 {
		t.Errorf("%+v %v", prs, err)
	}
	m, head := w.pull("other", map[string]string{"c.toml": "three\n"})
	if sha, err = w.repo.Merge(m, "ann", forgetest.FastForward); err != nil || sha != head {
		t.Fatal(sha, err)
	}
	if of, err = c.PullRequestsOf(ctx, w.at, sha); err != nil || len(of) != 1 || of[0].Number != m || of[0].MergeCommit != sha {
		t.Errorf("fast-forward: %+v %v", of, err)
	}
	k, _ := w.pull("closed", map[string]string{"d.toml": "x\n"})
	if err := w.repo.ClosePull(k, "ann"); err != nil {
		t.Fatal(err)
	}
	if one, err = c.PullRequest(ctx, w.at, k); err != nil || one.State != forge.Closed {
		t.Errorf("%+v %v", one, err)
	}
	for _, err := range []error{
		errOf(c.PullRequest(ctx, w.at, 99)), errOf(c.PullRequests(ctx, forge.Repo{Owner: "no", Name: "such"})),
		errOf(c.PullRequestsOf(ctx, forge.Repo{Owner: "no", Name: "such"}, sha)),
	} {
		if !errors.Is(err, forge.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	}
}

// TestFork: a stranger's pull request, also when the fork is gone.
func TestFork(t *testing.T) { each(t, fork) }

func fork(t *testing.T, w *world, c forge.Forge) {
	fork, err := w.repo.Fork("mallory")
	if err != nil {
		t.Fatal(err)
	}
	fork.Private = false
	head := w.push(fork, "evil", map[string]string{"a.toml": "evil\n"})
	n, err := w.repo.Open("mallory", "@everyone <b>", fork, "evil", "main")
	if err != nil {
		t.Fatal(err)
	}
	pr, err := c.PullRequest(t.Context(), w.at, n)
	if err != nil || !pr.Fork || pr.Head.SHA != head || !pr.Head.Repo.Same(fork.Repo) || pr.Title != "@everyone <b>" {
		t.Fatalf("%+v %v", pr, err)
	}
	if want := map[bool]forge.Repo{true: fork.Repo, false: w.at}[w.Kind == forge.GitLab]; pr.StatusRepo != want {
		t.Errorf("statuses go to %s", pr.StatusRepo)
	}
	if gitRefs(t, w.repo)[pr.HeadRef] != head {
		t.Error("the head is not in the base's repository")
	}
	err = c.SetStatus(t.Context(), pr.StatusRepo, pr.Head.SHA, forge.Status{Context: "varan/plan", State: forge.Success})
	if w.Kind == forge.GitLab { // a fork is its owner's: the note has to tell
		if !errors.Is(err, forge.ErrForbidden) && !errors.Is(err, forge.ErrNotFound) {
			t.Errorf("a status in a stranger's project: %v", err)
		}
	} else if err != nil || w.repo.Status(head, "varan/plan").State != "success" {
		t.Errorf("got %v", err)
	}
	fork.Delete()
	if pr, err = c.PullRequest(t.Context(), w.at, n); err != nil || !pr.Fork {
		t.Errorf("%+v %v", pr, err)
	}
	if w.Kind != forge.GitLab && !pr.Head.Repo.IsZero() { // GitLab's client knows the path from before
		t.Errorf("a repository that is gone: %+v", pr.Head)
	}
}

// TestManyPullRequests: more than one page, each once, in order.
func TestManyPullRequests(t *testing.T) {
	each(t, func(t *testing.T, w *world, c forge.Forge) {
		w.push(w.repo, "feature", map[string]string{"b.toml": "two\n"})
		if _, err := w.repo.Open("ann", "same", w.repo, "feature", "main"); err != nil {
			t.Fatal(err)
		}
		const many = 120
		w.repo.Multiply(1, many-1)
		prs, err := c.PullRequests(t.Context(), w.at)
		if err != nil || len(prs) != many {
			t.Fatal(len(prs), err)
		}
		for i, pr := range prs {
			if pr.Number != i+1 {
				t.Fatalf("%d stands at %d", pr.Number, i)
			}
		}
	})
}

// TestStatuses: set, read back, the newest of each context.
func TestStatuses(t *testing.T) { each(t, statuses) }

func statuses(t *testing.T, w *world, c forge.Forge) {
	ctx := t.Context()
	_, head := w.pull("feature", map[string]string{"b.toml": "two\n"})
	set := func(s forge.Status) {
		t.Helper()
		if err := c.SetStatus(ctx, w.at, head, s); err != nil {
			t.Fatal(err)
		}
	}
	set(forge.Status{Context: "varan/plan", State: forge.Pending, Description: "planning", Branch: "feature"})
	set(forge.Status{Context: "varan/plan", State: forge.Pending, Description: "planning", Branch: "feature"})
	set(forge.Status{Context: "varan/plan", State: forge.Success, Description: "2 create · 1 update", URL: "https://varan.example/runs/1"})
	set(forge.Status{Context: "varan/apply", State: forge.Failure, Description: "1 failed"})
	set(forge.Status{Context: "varan/apply", State: forge.Pending, Description: "again"})
	want := []forge.Status{
		{Context: "varan/apply", State: forge.Pending, Description: "again"},
		{Context: "varan/plan", State: forge.Success, Description: "2 create · 1 update", URL: "https://varan.example/runs/1"},
	}
	got, err := c.Statuses(ctx, w.at, head)
	if diff := cmp.Diff(got, want); diff != "" || err != nil {
		t.Error(diff, err)
	}
	set(forge.Status{Context: "varan/apply", State: forge.Error, Description: "cannot"})
	got, err = c.Statuses(ctx, w.at, head)
	if err != nil || len(got) != 2 || got[0].State != forge.Error && got[0].State != forge.Failure {
		t.Error(got, err)
	}
	if got, err = c.Statuses(ctx, w.at, w.base); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
	if err := c.SetStatus(ctx, w.at, strings.Repeat("1", 40), want[0]); !errors.Is(err, forge.ErrRefused) && !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("a commit that is not there: %v", err)
	}
}

// TestLimits: what is too long is not sent; at the limit it is taken.
func TestLimits(t *testing.T) {
	each(t, func(t *testing.T, w *world, c forge.Forge) {
		ctx := t.Context()
		n, head := w.pull("feature", map[string]string{"b.toml": "two\n"})
		long := func(n int) string { return strings.Repeat("é", n) }
		if err := c.SetStatus(ctx, w.at, head, forge.Status{Context: "c" + long(254), State: forge.Pending, Description: long(140)}); err != nil {
			t.Error(err)
		}
		body := long(65536)
		own, err := c.CreateComment(ctx, w.at, n, body)
		if err != nil || own.Body != body {
			t.Error(len(own.Body), err)
		}
		w.Forget()
		for what, err := range map[string]error{
			"description": c.SetStatus(ctx, w.at, head, forge.Status{Context: "c", State: forge.Pending, Description: long(141)}),
			"context":     c.SetStatus(ctx, w.at, head, forge.Status{Context: long(256), State: forge.Pending}),
			"url":         c.SetStatus(ctx, w.at, head, forge.Status{Context: "c", State: forge.Pending, URL: "https://x/" + long(255)}),
			"comment":     errOf(c.CreateComment(ctx, w.at, n, long(65537))),
			"edit":        errOf(c.EditComment(ctx, w.at, n, own.ID, long(65537))),
		} {
			if !errors.Is(err, forge.ErrTooLong) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if calls := w.Calls(); len(calls) > 0 {
			t.Errorf("sent %v", calls)
		}
	})
}

// TestComments: ours is found by marker and author; edits show; what is new is found, and only that.
func TestComments(t *testing.T) { each(t, comments) }

func comments(t *testing.T, w *world, c forge.Forge) {
	ctx := t.Context()
	n, _ := w.pull("feature", map[string]string{"b.toml": "two\n"})
	issue := w.repo.OpenIssue("bob", "no pull request")
	const marker = "<!-- varan:plan -->"
	say := func(number int, who, body string) int64 {
		t.Helper()
		id, err := w.repo.Say(number, who, body)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if _, err := c.OwnComment(ctx, w.at, n, marker); !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	say(n, "mallory", marker+" mine!")
	command := say(n, "ann", "/varan apply")
	if _, err := c.CreateComment(ctx, w.at, n, "of another fleet, in whose plan stands `"+marker+"`"); err != nil {
		t.Fatal(err)
	}
	own, err := c.CreateComment(ctx, w.at, n, marker+"\nthe plan")
	if err != nil || own.ID == 0 || own.URL == "" || own.Number != n || own.Edited {
		t.Fatalf("%+v %v", own, err)
	}
	if _, err := c.CreateComment(ctx, w.at, n, marker+" a second one"); err != nil {
		t.Fatal(err)
	}
	got, err := c.OwnComment(ctx, w.at, n, marker)
	if err != nil || got.ID != own.ID {
		t.Errorf("%+v %v", got, err)
	}
	if got, err = c.EditComment(ctx, w.at, n, own.ID, marker+" another plan"); err != nil || got.ID != own.ID {
		t.Fatalf("%+v %v", got, err)
	}
	if got, err = c.Comment(ctx, w.at, n, own.ID); err != nil || !got.Edited || !strings.HasSuffix(got.Body, "another plan") {
		t.Errorf("%+v %v", got, err)
	}
	if got, err = c.Comment(ctx, w.at, n, command); err != nil || got.Edited || got.Author.Login != "ann" || got.Body != "/varan apply" || got.Number != n {
		t.Errorf("%+v %v", got, err)
	}
	all, err := c.Comments(ctx, w.at, n)
	if err != nil || len(all) != 5 || all[0].Author.Login != "mallory" || all[4].Body != marker+" a second one" {
		t.Errorf("%+v %v", all, err)
	}
	me, err := c.Me(ctx)
	if err != nil || !me.Is(all[2].Author.Login) || me.Is("ann") || me.Is("") {
		t.Errorf("%+v %v", me, err)
	}
	if _, err := c.Comment(ctx, w.at, n, 1); !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if w.Kind != forge.GitLab {
		on := say(issue, "ann", "/varan apply")
		for _, number := range []int{0, n, issue} {
			if _, err := c.Comment(ctx, w.at, number, on); !errors.Is(err, forge.ErrNotFound) {
				t.Errorf("a comment on an issue: %v", err)
			}
		}
		if _, err := c.Comment(ctx, w.at, n+1, command); !errors.Is(err, forge.ErrNotFound) {
			t.Errorf("a comment of another pull request: %v", err)
		}
	}
	m, _ := w.pull("second", map[string]string{"c.toml": "x\n"})
	before, err := c.NewComments(ctx, w.at, time.Now().Add(-time.Hour))
	if err != nil || len(before) != 5 {
		t.Fatalf("%d %v", len(before), err)
	}
	time.Sleep(1100 * time.Millisecond) // forges tell seconds
	last := say(m, "ann", "new")
	if err := w.repo.EditComment(command, "ann", "/varan destroy"); err != nil {
		t.Fatal(err)
	}
	since := before[len(before)-1].Updated
	fresh, err := c.NewComments(ctx, w.at, since)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[int64]forge.Comment)
	for i, one := range fresh {
		seen[one.ID] = one
		if i > 0 && one.Updated.Before(fresh[i-1].Updated) {
			t.Error("not in order")
		}
	}
	if seen[last].Number != m || seen[last].Edited || !seen[command].Edited || seen[command].Body != "/varan destroy" || seen[own.ID].ID == 0 && w.Kind == "" {
		t.Errorf("got %+v", fresh)
	}
}

// TestSystemNotes: what GitLab writes itself is nobody's comment.
func TestSystemNotes(t *testing.T) {
	w := newWorld(t, forge.GitLab)
	c := w.bot()
	n, _ := w.pull("feature", map[string]string{"b.toml": "two\n"})
	if err := w.repo.Note(n, "ann", "/varan apply"); err != nil {
		t.Fatal(err)
	}
	id := w.repo.Comments(n)[0].ID
	if all, err := c.Comments(t.Context(), w.at, n); err != nil || len(all) != 0 {
		t.Errorf("%+v %v", all, err)
	}
	if _, err := c.Comment(t.Context(), w.at, n, id); !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// TestPermission: asked at the moment, of the forge itself.
func TestPermission(t *testing.T) { each(t, permission) }

func permission(t *testing.T, w *world, c forge.Forge) {
	for login, want := range map[string]forge.Permission{
		"reader": forge.Read, "writer": forge.Write, "keeper": forge.Maintain, "boss": forge.Admin, "stranger": forge.None,
	} {
		w.AddUser(login)
		w.repo.Grant(login, want)
		if want == forge.Maintain && w.Kind == forge.Gitea {
			want = forge.Write // it knows no such thing
		}
		if got, err := c.Permission(t.Context(), w.at, strings.ToUpper(login)); err != nil || got != want {
			t.Errorf("%s: %s %v", login, got, err)
		}
	}
	if got, err := c.Permission(t.Context(), w.at, "nobody-at-all"); err != nil || got != forge.None {
		t.Errorf("%s %v", got, err)
	}
	w.repo.Grant("writer", forge.None)
	if got, err := c.Permission(t.Context(), w.at, "writer"); err != nil || got != forge.None {
		t.Errorf("a permission taken away: %s %v", got, err)
	}
	if _, err := c.Permission(t.Context(), forge.Repo{Owner: "no", Name: "such"}, "boss"); !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("no repository: %v", err)
	}
	w.Set(func(*forgetest.Server) { w.repo.Private = false })
	if got, err := c.Permission(t.Context(), w.at, "stranger"); err != nil || got != forge.Read {
		t.Errorf("public: %s %v", got, err)
	}
	r, err := c.Repository(t.Context(), w.at)
	if err != nil || r.Private || r.Repo != w.at || r.DefaultBranch != "main" {
		t.Errorf("%+v %v", r, err)
	}
}

// TestPermissionWithoutRight: Gitea's answer to a user that is no administrator is no permission, and says why.
func TestPermissionWithoutRight(t *testing.T) {
	w := newWorld(t, forge.Gitea)
	u := w.AddUser("bot")
	w.repo.Grant("bot", forge.Write)
	w.repo.Grant("boss", forge.Admin)
	got, err := w.connect(w.Options(u.Token, nil)).Permission(t.Context(), w.at, "boss")
	if got != forge.None || !errors.Is(err, forge.ErrForbidden) || !strings.Contains(err.Error(), "administrators") {
		t.Errorf("%s %v", got, err)
	}
}

// TestForgejo: the same, held against Forgejo's own contract.
func TestForgejo(t *testing.T) {
	for name, f := range map[string]func(*testing.T, *world, forge.Forge){
		"story": story, "fork": fork, "statuses": statuses, "comments": comments, "permission": permission,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, forge.Gitea, func(o *forgetest.Options) { o.Forgejo = true })
			f(t, w, w.bot())
		})
	}
}

func errOf[T any](_ T, err error) error { return err }

// TestLongConversation: ours is found on a later page, and a page that did not change is not read again.
func TestLongConversation(t *testing.T) {
	each(t, func(t *testing.T, w *world, c forge.Forge) {
		n, _ := w.pull("feature", map[string]string{"b.toml": "two\n"})
		const many, marker = 130, "<!-- varan -->"
		for range many {
			if _, err := w.repo.Say(n, "ann", marker+" talk"); err != nil {
				t.Fatal(err)
			}
		}
		own, err := c.CreateComment(t.Context(), w.at, n, marker)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			w.Forget()
			if got, err := c.OwnComment(t.Context(), w.at, n, marker); err != nil || got.ID != own.ID {
				t.Errorf("%+v %v", got, err)
			}
			if all, err := c.Comments(t.Context(), w.at, n); err != nil || len(all) != many+1 {
				t.Errorf("%d %v", len(all), err)
			}
			if all, err := c.NewComments(t.Context(), w.at, time.Unix(0, 0)); err != nil || len(all) != many+1 {
				t.Errorf("%d %v", len(all), err)
			}
		}
		for _, call := range w.Calls() {
			if w.Kind != forge.Gitea && call.Status != 304 {
				t.Errorf("%s?%s: %d", call.Path, call.Query, call.Status)
			}
		}
	})
}

package forge_test

import (
	"strings"
	"testing"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/forgetest"
	"github.com/varanhq/varan/sync/forge/github"
)

// lacking are the findings that are not fine: what, and how to mend it.
func lacking(t *testing.T, w *world, c forge.Forge) map[string]string {
	t.Helper()
	found, err := c.Check(t.Context(), w.at)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, f := range found {
		if !f.OK && !f.Optional {
			out[f.What] = f.Fix
		}
		if f.OK != (f.Fix == "") || f.What == "" || f.Detail == "" {
			t.Errorf("a finding that helps nobody: %+v", f)
		}
	}
	return out
}

// TestCheckFine: with all it needs nothing is missing, and nothing was written.
func TestCheckFine(t *testing.T) {
	each(t, func(t *testing.T, w *world, c forge.Forge) {
		if got := lacking(t, w, c); len(got) > 0 {
			t.Errorf("got %v", got)
		}
		if n := w.ContentWrites(); n != 0 {
			t.Errorf("%d writes", n)
		}
	})
}

// TestCheckLacks: each thing that may be missing is named, with what to do about it.
func TestCheckLacks(t *testing.T) {
	type setting struct {
		kind forge.Kind
		set  func(w *world, u *forgetest.User)
		what string
		fix  string
	}
	github := forge.GitHub
	for name, tc := range map[string]setting{
		"github, wrong token":   {github, func(_ *world, u *forgetest.User) { u.Token = "other" }, "sign in", "scope repo"},
		"github, not invited":   {github, func(w *world, _ *forgetest.User) { w.repo.Grant("bot", forge.None) }, "see the repository", "invite"},
		"github, may only read": {github, func(w *world, _ *forgetest.User) { w.repo.Grant("bot", forge.Read) }, "write to the repository", "role Write"},
		"github, fine-grained":  {github, func(_ *world, u *forgetest.User) { u.Scopes = []string{"metadata:read", "pull_requests:write"} }, "set commit statuses", "Commit statuses"},
		"github, no pulls":      {github, func(_ *world, u *forgetest.User) { u.Scopes = []string{"metadata:read", "statuses:write"} }, "read pull requests", "Pull requests"},
		"gitea, wrong token":    {forge.Gitea, func(_ *world, u *forgetest.User) { u.Token = "other" }, "sign in", "read:user"},
		"gitea, not invited":    {forge.Gitea, func(w *world, _ *forgetest.User) { w.repo.Grant("bot", forge.None) }, "see the repository", "collaborator"},
		"gitea, may only read":  {forge.Gitea, func(w *world, _ *forgetest.User) { w.repo.Grant("bot", forge.Read) }, "write to the repository", "Write"},
		"gitea, no issues":      {forge.Gitea, func(_ *world, u *forgetest.User) { u.Scopes = []string{"read:user", "write:repository"} }, "read comments", "write:issue"},
		"gitea, reads only":     {forge.Gitea, func(_ *world, u *forgetest.User) { u.Scopes = []string{"read:repository", "read:issue"} }, "set commit statuses", "write:repository"},
		"gitlab, wrong token":   {forge.GitLab, func(_ *world, u *forgetest.User) { u.Token = "other" }, "sign in", "scope api"},
		"gitlab, read_api":      {forge.GitLab, func(_ *world, u *forgetest.User) { u.Scopes = []string{"read_api"} }, "the token's scope", "api"},
		"gitlab, not a member":  {forge.GitLab, func(w *world, _ *forgetest.User) { w.repo.Grant("bot", forge.None) }, "see the project", "member"},
		"gitlab, reporter":      {forge.GitLab, func(w *world, _ *forgetest.User) { w.repo.Grant("bot", forge.Read) }, "set statuses, write notes", "Developer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tc.kind)
			u := w.AddUser("bot")
			w.repo.Grant("bot", forge.Admin)
			c := w.connect(w.Options(u.Token, nil))
			tc.set(w, u)
			if fix, ok := lacking(t, w, c)[tc.what]; !ok || !strings.Contains(fix, tc.fix) {
				t.Errorf("got %v", lacking(t, w, c))
			}
		})
	}
}

// TestCheckApp: an App that is not installed, lacks permissions, or has another installation's number.
func TestCheckApp(t *testing.T) {
	for name, tc := range map[string]struct {
		set  func(w *world, a *forgetest.App, o *forge.Options)
		what string
		fix  string
	}{
		"wrong key":     {func(w *world, _ *forgetest.App, o *forge.Options) { o.App.ID = 1 }, "sign in as the App", "clock"},
		"not installed": {func(w *world, a *forgetest.App, _ *forge.Options) { w.Uninstall(a) }, "see the repository", "Install"},
		"no number yet": {func(_ *world, _ *forgetest.App, o *forge.Options) { o.App.Installation = 0 }, "see the repository", "installation_id = "},
		"suspended":     {func(_ *world, a *forgetest.App, _ *forge.Options) { a.Suspended = true }, "see the repository", "unsuspend"},
		"no statuses":   {func(_ *world, a *forgetest.App, _ *forge.Options) { a.Permissions["statuses"] = "read" }, "set varan/plan and varan/apply", "Commit statuses"},
		"no pulls":      {func(_ *world, a *forgetest.App, _ *forge.Options) { delete(a.Permissions, "pull_requests") }, "read pull requests, write the comment", "Pull requests"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, forge.GitHub)
			a, err := w.AddApp("varan", w.repo)
			if err != nil {
				t.Fatal(err)
			}
			o := w.Options("", a)
			tc.set(w, a, &o)
			if fix, ok := lacking(t, w, w.connect(o))[tc.what]; !ok || !strings.Contains(fix, tc.fix) {
				t.Errorf("got %v", lacking(t, w, w.connect(o)))
			}
		})
	}
}

// TestManifest: the App that a manifest makes has what Check asks for, once it is installed.
func TestManifest(t *testing.T) {
	w := newWorld(t, forge.GitHub)
	m := github.Manifest{Name: "varan-acme", Webhook: "https://varan.acme.example/webhook/github", Redirect: "http://127.0.0.1:1/created", Org: "acme"}
	text, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	code, err := w.Create(text, "acme")
	if err != nil {
		t.Fatal(err)
	}
	app, err := github.Convert(t.Context(), w.Options("", nil), code)
	if err != nil || app.ID == 0 || app.Slug != "varan-acme" || app.WebhookSecret == "" || !strings.Contains(app.Key, "PRIVATE KEY") {
		t.Fatalf("%s %v", app, err)
	}
	if _, err := github.Convert(t.Context(), w.Options("", nil), code); err == nil || strings.Contains(err.Error(), code) {
		t.Errorf("a code used twice: %v", err)
	}
	installation, err := w.Install(app.ID, w.repo)
	if err != nil {
		t.Fatal(err)
	}
	o := w.Options("", nil)
	o.App = &forge.App{ID: app.ID, Installation: installation, Key: app.Key}
	c := w.connect(o)
	if got := lacking(t, w, c); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	found, err := c.Check(t.Context(), w.at)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if !f.OK {
			t.Errorf("even what is optional: %+v", f)
		}
	}
	page, err := m.Page("github.com", `state"&`)
	if err != nil || !strings.Contains(string(page), `action="https://github.com/organizations/acme/settings/apps/new?state=state%22%26"`) {
		t.Errorf("%s %v", page, err)
	}
}

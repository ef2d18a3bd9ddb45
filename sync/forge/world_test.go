package forge_test

import (
	gosync "sync"
	"testing"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/connect"
	"github.com/varanhq/varan/sync/forge/forgetest"
)

// contracts are read once for all tests.
var contracts = gosync.OnceValues(func() (*forgetest.Contracts, error) { return forgetest.ReadContracts(forgetest.Shared()) })

// world is a forge with the repository acme/infra, which holds one commit on main.
type world struct {
	t *testing.T
	*forgetest.Server
	repo *forgetest.Repo
	at   forge.Repo
	base string
}

func newWorld(t *testing.T, kind forge.Kind, change ...func(*forgetest.Options)) *world {
	t.Helper()
	if forgetest.Shared() == "" {
		t.Skip("no ../shared/contracts beside the repository: the stand-in has nothing to be held against")
	}
	c, err := contracts()
	if err != nil {
		t.Fatal(err)
	}
	o := forgetest.Options{Kind: kind, Dir: t.TempDir(), Contracts: c, Fail: t.Errorf}
	for _, f := range change {
		f(&o)
	}
	s, err := forgetest.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w := &world{t: t, Server: s}
	path := "acme/infra"
	if kind == forge.GitLab {
		path = "acme/platform/infra" // groups nest
	}
	if w.repo, err = s.AddRepo(path); err != nil {
		t.Fatal(err)
	}
	w.at = w.repo.Repo
	w.base = w.push(w.repo, "main", map[string]string{"a.toml": "one\n", "README.md": "hello\n"})
	return w
}

func (w *world) push(r *forgetest.Repo, branch string, files map[string]string) string {
	w.t.Helper()
	sha, err := r.Push("ann", branch, files)
	if err != nil {
		w.t.Fatal(err)
	}
	return sha
}

// pull opens a pull request of a new branch.
func (w *world) pull(branch string, files map[string]string) (number int, head string) {
	w.t.Helper()
	head = w.push(w.repo, branch, files)
	number, err := w.repo.Open("ann", "change "+branch, w.repo, branch, "main")
	if err != nil {
		w.t.Fatal(err)
	}
	return number, head
}

// bot is a client whose user may administer the repository.
func (w *world) bot() forge.Forge {
	w.t.Helper()
	u := w.AddUser("varan-bot")
	w.repo.Grant("varan-bot", forge.Admin)
	return w.connect(w.Options(u.Token, nil))
}

// app is a client that comes as an App.
func (w *world) app() (forge.Forge, *forgetest.App) {
	w.t.Helper()
	a, err := w.AddApp("varan", w.repo)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.connect(w.Options("", a)), a
}

func (w *world) connect(o forge.Options) forge.Forge {
	w.t.Helper()
	f, err := connect.To(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// each runs a test against the three kinds, GitHub also as an App.
func each(t *testing.T, f func(t *testing.T, w *world, c forge.Forge)) {
	for _, kind := range []forge.Kind{forge.GitHub, forge.Gitea, forge.GitLab} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kind)
			f(t, w, w.bot())
		})
	}
	t.Run("github app", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, forge.GitHub)
		c, _ := w.app()
		f(t, w, c)
	})
}

package gitrepo

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/sync/gitrepo/gittest"
)

func open(t testing.TB, url string, opts Options) *Repo {
	t.Helper()
	addr, err := ParseAddress(url)
	if err != nil {
		t.Fatal(err)
	}
	opts.AllowHTTP, opts.AllowInternal, opts.AllowLocal = true, true, true
	r, err := Open(addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func fetch(t testing.TB, r *Repo) *Snapshot {
	t.Helper()
	s, err := r.Fetch(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t testing.TB, tree compose.Tree, name string) string {
	t.Helper()
	data, err := tree.Read(name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// remotes are the ways to one repository; each must behave the same.
func remotes(t *testing.T, run func(t *testing.T, g *gittest.Repo, r *Repo)) {
	t.Run("http memory", func(t *testing.T) {
		g := gittest.New(t)
		run(t, g, open(t, g.Serve(false).URL(), Options{}))
	})
	t.Run("http disk", func(t *testing.T) {
		g := gittest.New(t)
		run(t, g, open(t, g.Serve(false).URL(), Options{Mirrors: t.TempDir()}))
	})
	t.Run("ssh", func(t *testing.T) {
		g := gittest.New(t)
		s := gittest.SSH(t)
		run(t, g, open(t, "ssh://"+s.User+"@"+s.Addr+g.Bare, Options{Mirrors: t.TempDir(), KnownHosts: s.Known,
			Credential: &Credential{Scheme: "ssh", Host: s.Addr, SSHKey: s.Key}}))
	})
	t.Run("local bare", func(t *testing.T) {
		g := gittest.New(t)
		run(t, g, open(t, g.Bare, Options{}))
	})
	t.Run("file URL", func(t *testing.T) {
		g := gittest.New(t)
		run(t, g, open(t, "file://"+g.Bare, Options{}))
	})
}

func TestFollow(t *testing.T) {
	remotes(t, func(t *testing.T, g *gittest.Repo, r *Repo) {
		first := g.Push(map[string]string{"a.toml": "a", "d/b.toml": "b", "d/c.txt": "c"})
		s := fetch(t, r)
		if s.Commit != first || s.Branch != "main" || s.Author != "Ann" || s.Subject != "change" {
			t.Errorf("got %+v, want commit %s", s, first)
		}
		if again := fetch(t, r); again != s {
			t.Error("nothing new gave another snapshot")
		}
		for i := range 5 {
			want := fmt.Sprint("b", i)
			id := g.Push(map[string]string{"d/b.toml": want})
			next := fetch(t, r)
			if next.Commit != id || read(t, next, "d/b.toml") != want {
				t.Fatalf("commit %s, want %s", next.Commit, id)
			}
			if rel, err := r.Relate(t.Context(), "main", first, id); err != nil || rel != Descends {
				t.Errorf("relation %q, %v", rel, err)
			}
		}
		if read(t, s, "d/b.toml") != "b" {
			t.Error("an older snapshot changed")
		}
		at, err := r.At(t.Context(), "main", first)
		if err != nil || read(t, at, "d/b.toml") != "b" {
			t.Errorf("at %s: %v", first, err)
		}
	})
}

func TestRewritten(t *testing.T) {
	remotes(t, func(t *testing.T, g *gittest.Repo, r *Repo) {
		var ids []string
		for i := range 6 { // most of these are older than the mirror
			ids = append(ids, g.Push(map[string]string{"a.toml": fmt.Sprint(i)}))
		}
		fetch(t, r)
		for i := 6; i < 8; i++ {
			ids = append(ids, g.Push(map[string]string{"a.toml": fmt.Sprint(i)}))
			fetch(t, r)
		}
		applied := ids[7]
		check := func(what string, want Relation) {
			t.Helper()
			g.Send()
			s := fetch(t, r)
			if s.Commit != g.Head() {
				t.Fatalf("%s: fetched %s, want %s", what, s.Commit, g.Head())
			}
			got, err := r.Relate(t.Context(), "main", applied, s.Commit)
			if err != nil || got != want {
				t.Errorf("%s: got %q, %v, want %q", what, got, err, want)
			}
		}
		g.Git("reset", "-q", "--hard", ids[6])
		check("reset to the parent", Ancestor)
		g.Commit(map[string]string{"b.toml": "b"})
		check("amended", Diverged)
		g.Git("reset", "-q", "--hard", ids[1])
		check("reset to before the mirror", Ancestor)
		g.Commit(map[string]string{"c.toml": "c"})
		check("rebased to before the mirror", Diverged)
		g.Git("checkout", "-q", "--orphan", "fresh")
		g.Commit(map[string]string{"d.toml": "d"})
		check("orphan", Unrelated)
		g.Git("checkout", "-q", "main")
		g.Git("reset", "-q", "--hard", applied)
		g.Commit(map[string]string{"e.toml": "e"})
		check("back and on", Descends)
		g.Git("checkout", "-q", "-b", "side", ids[0])
		g.Commit(map[string]string{"s.toml": "s"})
		g.Git("checkout", "-q", "main")
		g.Git("merge", "-q", "--no-ff", "-m", "merge", "side")
		check("merge", Descends)
	})
}

func TestMissing(t *testing.T) {
	remotes(t, func(t *testing.T, g *gittest.Repo, r *Repo) {
		if _, err := r.Fetch(t.Context(), "main"); !errors.Is(err, ErrEmpty) {
			t.Errorf("empty repository: got %v, want ErrEmpty", err)
		}
		g.Push(map[string]string{"a.toml": "a"})
		fetch(t, r)
		if _, err := r.Fetch(t.Context(), "nope"); !errors.Is(err, ErrNoBranch) {
			t.Errorf("missing branch: got %v, want ErrNoBranch", err)
		}
		g.Git("push", "-q", "origin", "HEAD:other")
		gittest.Git(t, g.Bare, "symbolic-ref", "HEAD", "refs/heads/other")
		g.Git("push", "-q", "origin", ":main")
		if _, err := r.Fetch(t.Context(), "main"); !errors.Is(err, ErrNoBranch) || !strings.Contains(err.Error(), `it has "other"`) {
			t.Errorf("deleted branch: got %v, want ErrNoBranch that names the other", err)
		}
		if s, err := r.Fetch(t.Context(), ""); err != nil || s.Branch != "other" {
			t.Errorf("default branch: got %+v, %v", s, err)
		}
		h, err := r.Tip(t.Context(), "other")
		if err != nil || h.Commit != g.Head() {
			t.Errorf("tip: %+v, %v", h, err)
		}
	})
}

func TestRestartNeedsNoFetch(t *testing.T) {
	g := gittest.New(t)
	g.Push(map[string]string{"a.toml": "a"})
	srv := g.Serve(false)
	dir := t.TempDir()
	r := open(t, srv.URL(), Options{Mirrors: dir})
	fetch(t, r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	posts, gets := srv.Posts.Load(), srv.Gets.Load()
	r = open(t, srv.URL(), Options{Mirrors: dir})
	if s := fetch(t, r); read(t, s, "a.toml") != "a" {
		t.Error("not read")
	}
	if srv.Posts.Load() != posts || srv.Gets.Load() != gets+1 {
		t.Errorf("%d posts, %d gets after a restart, want 0 and 1", srv.Posts.Load()-posts, srv.Gets.Load()-gets)
	}
	first := g.Head()
	id := g.Push(map[string]string{"a.toml": "b"})
	if s := fetch(t, r); s.Commit != id {
		t.Errorf("got %s", s.Commit)
	}
	if rel, err := r.Relate(t.Context(), "main", first, id); rel != Descends {
		t.Errorf("%q, %v", rel, err)
	}
}

func TestDamagedMirror(t *testing.T) {
	g := gittest.New(t)
	g.Push(map[string]string{"a.toml": "a"})
	srv := g.Serve(false)
	dir := t.TempDir()
	r := open(t, srv.URL(), Options{Mirrors: dir})
	fetch(t, r)
	_ = r.Close()
	packs, _ := filepath.Glob(filepath.Join(dir, "*", "objects", "pack", "*"))
	for _, p := range packs {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	r = open(t, srv.URL(), Options{Mirrors: dir})
	if s := fetch(t, r); read(t, s, "a.toml") != "a" {
		t.Error("not read")
	}
}

func TestManyFetchesFewPacks(t *testing.T) {
	g := gittest.New(t)
	g.Push(map[string]string{"a.toml": "a", "big.txt": strings.Repeat("x\n", 5000)})
	dir := t.TempDir()
	r := open(t, g.Serve(false).URL(), Options{Mirrors: dir})
	first := fetch(t, r)
	for i := range maxPacks + 5 {
		g.Push(map[string]string{fmt.Sprintf("d/f%d.toml", i): fmt.Sprint(i)})
		fetch(t, r)
	}
	packs, _ := filepath.Glob(filepath.Join(dir, "*", "objects", "pack", "*.pack"))
	if len(packs) > maxPacks/2 {
		t.Errorf("%d packs", len(packs))
	}
	s := fetch(t, r)
	n := 0
	if err := s.Walk(".", func(e compose.Entry) error { n++; read(t, s, e.Path); return nil }); err != nil || n != maxPacks+7 {
		t.Errorf("%d files, %v", n, err)
	}
	if rel, err := r.Relate(t.Context(), "main", first.Commit, s.Commit); rel != Descends {
		t.Errorf("%q %v", rel, err)
	}
	if read(t, first, "a.toml") != "a" {
		t.Error("old snapshot lost")
	}
}

func TestCredentials(t *testing.T) {
	g := gittest.New(t)
	g.Push(map[string]string{"a.toml": "a"})
	srv := g.Serve(true)
	srv.Auth = "bot:t0ken"
	host := strings.TrimPrefix(srv.Server.URL, "https://")
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	good := Credential{Host: host, Username: "bot", Token: "t0ken"}
	for _, c := range []struct {
		name string
		cred *Credential
		want error
	}{
		{"right", &good, nil},
		{"none", nil, ErrAuth},
		{"wrong", &Credential{Host: host, Username: "bot", Token: "other"}, ErrAuth},
		{"for another host", &Credential{Host: "example.org", Username: "bot", Token: "t0ken"}, ErrAuth},
		{"for another path", &Credential{Host: host, Path: "team", Username: "bot", Token: "t0ken"}, ErrAuth},
		{"for http", &Credential{Scheme: "http", Host: host, Username: "bot", Token: "t0ken"}, ErrAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := open(t, srv.URL(), Options{Credential: c.cred, Roots: roots}).Fetch(t.Context(), "main")
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "t0ken") {
				t.Errorf("the token is in %q", err)
			}
		})
	}
	t.Run("no such repository", func(t *testing.T) {
		_, err := open(t, srv.Server.URL+"/nope.git", Options{Credential: &good, Roots: roots}).Fetch(t.Context(), "main")
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	})
	t.Run("redirect elsewhere", func(t *testing.T) {
		var seen []string
		other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			seen = append(seen, req.Header.Get("Authorization"))
			w.WriteHeader(http.StatusNotFound)
		}))
		defer other.Close()
		moved := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if _, _, ok := req.BasicAuth(); !ok {
				t.Error("no credential for the host it is bound to")
			}
			http.Redirect(w, req, other.URL+req.URL.Path, http.StatusFound)
		}))
		defer moved.Close()
		roots := x509.NewCertPool()
		roots.AddCert(other.Certificate())
		roots.AddCert(moved.Certificate())
		cred := &Credential{Host: strings.TrimPrefix(moved.URL, "https://"), Username: "bot", Token: "t0ken"}
		_, err := open(t, moved.URL+"/repo.git", Options{Credential: cred, Roots: roots}).Fetch(t.Context(), "main")
		if !errors.Is(err, ErrNotFound) || !slices.Equal(seen, []string{""}) {
			t.Errorf("got %v and credentials %q", err, seen)
		}
	})
	t.Run("redirect to http", func(t *testing.T) {
		plain := g.Serve(false)
		moved := httptest.NewTLSServer(http.RedirectHandler(plain.URL()+"/info/refs?service=git-upload-pack", http.StatusFound))
		defer moved.Close()
		roots := x509.NewCertPool()
		roots.AddCert(moved.Certificate())
		_, err := open(t, moved.URL+"/repo.git", Options{Roots: roots}).Fetch(t.Context(), "main")
		if !errors.Is(err, ErrRefused) || plain.Gets.Load() != 0 {
			t.Errorf("got %v", err)
		}
	})
}

func TestRefusedConnections(t *testing.T) {
	g := gittest.New(t)
	srv := g.Serve(false)
	addr, err := ParseAddress(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(addr, Options{}); !errors.Is(err, ErrRefused) {
		t.Errorf("http: got %v", err)
	}
	// A name is checked by what it resolves to.
	addr.Host = "localhost"
	r, err := Open(addr, Options{AllowHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Fetch(t.Context(), "main"); !errors.Is(err, ErrRefused) || srv.Gets.Load() != 0 {
		t.Errorf("localhost: got %v", err)
	}
	if _, err := Open(Address{Scheme: "file", Path: g.Bare}, Options{}); !errors.Is(err, ErrRefused) {
		t.Errorf("path: got %v", err)
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"https://Example.org:443/a/b.git": "https://example.org/a/b.git",
		"https://example.org:8443/a":      "https://example.org:8443/a",
		"git@example.org:a/b.git":         "ssh://example.org/a/b.git",
		"ssh://me@example.org:2222/a":     "ssh://example.org:2222/a",
		"file:///srv/a":                   "/srv/a",
		"/srv/a":                          "/srv/a",
	} {
		got, err := ParseAddress(in)
		if err != nil || got.String() != want {
			t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "git://example.org/a", "ext::sh -c id", "https://u:p@example.org/a", "https://u@example.org/a", "https://example.org", "file://other/a"} {
		if got, err := ParseAddress(in); !errors.Is(err, ErrAddress) || strings.Contains(fmt.Sprint(err), "u:p@") {
			t.Errorf("%q: got %s, %v", in, got, err)
		}
	}
	https, _ := ParseAddress("https://example.org/a/b.git")
	ssh, _ := ParseAddress("git@example.org:a/b")
	if !https.Same(ssh) {
		t.Error("https and ssh addresses of one repository differ")
	}
}

func TestSSHHostKeys(t *testing.T) {
	g := gittest.New(t)
	g.Push(map[string]string{"a.toml": "a"})
	s := gittest.SSH(t)
	url := "ssh://" + s.User + "@" + s.Addr + g.Bare
	cred := &Credential{Scheme: "ssh", Host: s.Addr, SSHKey: s.Key}
	empty := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, url, Options{Credential: cred, KnownHosts: empty}).Fetch(t.Context(), "main")
	if err == nil || !strings.Contains(err.Error(), s.Line) {
		t.Errorf("unknown host: got %v, want the line %q", err, s.Line)
	}
	other := gittest.SSH(t)
	host, _, _ := strings.Cut(s.Line, " ")
	_, key, _ := strings.Cut(other.Line, " ")
	if err := os.WriteFile(empty, []byte(host+" "+key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = open(t, url, Options{Credential: cred, KnownHosts: empty}).Fetch(t.Context(), "main")
	if err == nil || !strings.Contains(err.Error(), "is not the one in") {
		t.Errorf("another key: got %v", err)
	}
	_, err = open(t, url, Options{KnownHosts: s.Known}).Fetch(t.Context(), "main")
	if !errors.Is(err, ErrAuth) {
		t.Errorf("no key: got %v", err)
	}
	bad := &Credential{Scheme: "ssh", Host: s.Addr, SSHKey: other.Key}
	_, err = open(t, url, Options{Credential: bad, KnownHosts: s.Known}).Fetch(t.Context(), "main")
	if !errors.Is(err, ErrAuth) {
		t.Errorf("wrong key: got %v", err)
	}
	_, err = open(t, "ssh://"+s.User+"@"+s.Addr+"/no/such.git", Options{Credential: cred, KnownHosts: s.Known}).Fetch(t.Context(), "main")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("no such repository: got %v", err)
	}
}

func TestTreeContents(t *testing.T) {
	g := gittest.New(t)
	sub := gittest.New(t)
	sub.Push(map[string]string{"inner.toml": "x"})
	g.Write(map[string]string{"a.toml": "a", "a-b/x.toml": "x", "a/y.toml": "y", "sh": "#!/bin/sh\n"})
	for link, to := range map[string]string{"out.toml": "/etc/passwd", "up.toml": "../../x.toml", "in.toml": "a/y.toml", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(g.Work, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(g.Work, "sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(g.Work, "\xff\xfe.toml"), []byte("n"), 0o644); err != nil {
		t.Fatal(err)
	}
	g.Git("-c", "protocol.file.allow=always", "submodule", "add", "-q", sub.Bare, "sub")
	g.Push(nil)
	s := fetch(t, open(t, g.Serve(false).URL(), Options{}))
	var paths []string
	if err := s.Walk(".", func(e compose.Entry) error { paths = append(paths, e.Path); return nil }); err != nil {
		t.Fatal(err)
	}
	want := []string{".gitmodules", "a-b/x.toml", "a.toml", "a/y.toml", "in.toml", "loop", "out.toml", "sh", "up.toml", "\xff\xfe.toml"}
	if !slices.Equal(paths, want) {
		t.Errorf("got %q, want %q", paths, want)
	}
	if e, err := s.Lookup("sh"); err != nil || !e.Exec || e.Size != 10 {
		t.Errorf("sh: %+v, %v", e, err)
	}
	if e, err := Resolve(s, "in.toml"); err != nil || e.Path != "a/y.toml" {
		t.Errorf("in.toml: %+v, %v", e, err)
	}
	for _, name := range []string{"out.toml", "up.toml"} {
		if _, err := Resolve(s, name); !errors.Is(err, ErrOutside) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Resolve(s, "loop"); err == nil {
		t.Error("loop resolved")
	}
	for _, name := range []string{"out.toml", "a", "../x", "sub", "sub/inner.toml"} {
		if _, err := s.Read(name, 100); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	if _, err := s.Read("sh", 5); !errors.Is(err, ErrTooBig) {
		t.Errorf("limit: %v", err)
	}
	if _, err := s.Lookup("nope/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nope: %v", err)
	}
}

func TestPackBound(t *testing.T) {
	g := gittest.New(t)
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7)
	}
	g.Push(map[string]string{"a.toml": "a"})
	r := open(t, g.Serve(false).URL(), Options{Mirrors: t.TempDir(), MaxPack: 100})
	if _, err := r.Fetch(t.Context(), "main"); !errors.Is(err, ErrTooBig) {
		t.Errorf("got %v", err)
	}
}

func TestLocalRevisions(t *testing.T) {
	g := gittest.New(t)
	first := g.Commit(map[string]string{"a.toml": "1"})
	g.Git("tag", "-a", "-m", "one", "v1")
	second := g.Commit(map[string]string{"a.toml": "2"})
	r := open(t, g.Work, Options{})
	for rev, want := range map[string]string{
		"HEAD": second, "main": second, "HEAD~1": first, "HEAD^": first, "v1": first, "refs/heads/main": second,
		first: first, first[:9]: first, "main~0": second,
	} {
		s, err := r.At(t.Context(), "", rev)
		if err != nil || s.Commit != want {
			t.Errorf("%s: %+v, %v", rev, s, err)
		}
	}
	for _, rev := range []string{"nope", "HEAD~9", "HEAD@{1}", "HEAD:a.toml", ""} {
		if s, err := r.At(t.Context(), "", rev); err == nil {
			t.Errorf("%q gave %s", rev, s.Commit)
		}
	}
	// git gc packs everything behind our back.
	third := g.Commit(map[string]string{"a.toml": "3"})
	g.Git("gc", "-q", "--prune=now")
	s, err := r.Fetch(t.Context(), "")
	if err != nil || s.Commit != third || read(t, s, "a.toml") != "3" {
		t.Errorf("after gc: %+v, %v", s, err)
	}
	wt := filepath.Join(t.TempDir(), "linked")
	g.Git("worktree", "add", "-q", "-b", "other", wt, first)
	if s, err := open(t, wt, Options{}).Fetch(t.Context(), ""); err != nil || s.Commit != first || s.Branch != "other" {
		t.Errorf("linked worktree: %+v, %v", s, err)
	}
	if _, err := Open(Address{Scheme: "file", Path: t.TempDir()}, Options{AllowLocal: true}); !errors.Is(err, ErrNoGit) {
		t.Errorf("plain folder: %v", err)
	}
}

func TestWatchRefs(t *testing.T) {
	g := gittest.New(t)
	g.Commit(map[string]string{"a.toml": "1"})
	r := open(t, g.Work, Options{})
	ctx, stop := context.WithCancel(t.Context())
	changed := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { done <- r.WatchRefs(ctx, changed) }()
	waitFor(t, func() bool { // the watch may begin later than the first commit
		g.Commit(map[string]string{"a.toml": "2"})
		select {
		case <-changed:
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	g.Git("checkout", "-q", "-b", "deep/er/branch")
	g.Commit(map[string]string{"a.toml": "3"})
	<-changed
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if ok() {
			return
		}
	}
	t.Fatal("waited 10 s in vain")
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.toml": "a", "d/b.toml": "b", ".git/config": "x"} {
		_ = os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out.toml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo.toml"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v := f.View()
	var got []string
	if err := v.Walk(".", func(e compose.Entry) error { got = append(got, fmt.Sprint(e.Path, e.Mode)); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a.toml1", "d/b.toml1", "etc3", "fifo.toml0", "out.toml3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, name := range []string{"fifo.toml", "out.toml", "etc/passwd", "../x", ".git/config"} {
		if _, err := v.Read(name, 1<<20); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	if read(t, v, "a.toml") != "a" {
		t.Error("not read")
	}
	e, err := v.Lookup("a.toml")
	if err != nil || e.Hash != compose.BlobHash([]byte("a")) {
		t.Errorf("%+v, %v", e, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.toml"), []byte("b"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Read("a.toml", 100); !errors.Is(err, ErrChanged) {
		t.Errorf("changed file: %v", err)
	}
	if read(t, f.View(), "a.toml") != "b" {
		t.Error("a new view shows the old file")
	}

	ctx, stop := context.WithCancel(t.Context())
	changed := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { done <- f.Watch(ctx, changed) }()
	waitFor(t, func() bool {
		_ = os.MkdirAll(filepath.Join(dir, "new/er"), 0o755)
		_ = os.WriteFile(filepath.Join(dir, "new/er/c.toml"), []byte(time.Now().String()), 0o644)
		select {
		case <-changed:
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestFolderHash: a folder on disk has the hash that it has in a commit, so that committing it changes nothing.
func TestFolderHash(t *testing.T) {
	r := gittest.New(t)
	r.Commit(map[string]string{"d/hello": "one\n", "d/x/y": "2", "d/x.y": "3", "d/run.sh": "#!/bin/sh\n"})
	if err := errors.Join(os.Chmod(filepath.Join(r.Work, "d/run.sh"), 0o755), os.Symlink("x/y", filepath.Join(r.Work, "d/link")),
		os.Mkdir(filepath.Join(r.Work, "d/empty"), 0o755), syscall.Mkfifo(filepath.Join(r.Work, "d/fifo"), 0o644)); err != nil {
		t.Fatal(err)
	}
	r.Commit(nil)
	f, err := OpenFolder(r.Work)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, dir := range []string{"d", "d/x"} {
		e, err := f.View().Lookup(dir)
		if want := gittest.Git(t, r.Work, "rev-parse", "HEAD:"+dir); err != nil || e.Hash != want {
			t.Errorf("%s: %s, Git says %s, %v", dir, e.Hash, want, err)
		}
	}
}

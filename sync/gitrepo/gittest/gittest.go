// Package gittest makes real repositories for tests, and serves them with git's own http-backend and with sshd.
//
// In: a *testing.T and files. Out: repositories in its temporary folder and addresses that reach them. It needs
// git; nothing of ours imports it but tests. Start at New.
package gittest

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// A Repo is a worktree, with a bare repository beside it that it pushes to.
type Repo struct {
	t    testing.TB
	Work string // the worktree
	Bare string // what is served
}

// New makes an empty repository with the branch main.
func New(t testing.TB) *Repo {
	t.Helper()
	dir := t.TempDir()
	r := &Repo{t: t, Work: filepath.Join(dir, "work"), Bare: filepath.Join(dir, "srv", "repo.git")}
	Git(t, dir, "init", "-q", "-b", "main", r.Work)
	Git(t, dir, "init", "-q", "--bare", "-b", "main", r.Bare)
	r.Git("remote", "add", "origin", r.Bare)
	r.Git("config", "gc.auto", "0")
	return r
}

// Git runs git in the worktree and returns what it printed.
func (r *Repo) Git(args ...string) string { r.t.Helper(); return Git(r.t, r.Work, args...) }

// Write puts files into the worktree; "" as content removes one.
func (r *Repo) Write(files map[string]string) {
	r.t.Helper()
	for name, text := range files {
		p := filepath.Join(r.Work, name)
		if text == "" {
			if err := os.RemoveAll(p); err != nil {
				r.t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Commit writes files and commits everything; it returns the commit's id.
func (r *Repo) Commit(files map[string]string) string {
	r.t.Helper()
	r.Write(files)
	r.Git("add", "-A")
	r.Git("commit", "-q", "--allow-empty", "-m", "change")
	return r.Head()
}

// Push commits files and pushes the branch that is checked out, by force.
func (r *Repo) Push(files map[string]string) string {
	r.t.Helper()
	id := r.Commit(files)
	r.Send()
	return id
}

// Send pushes HEAD to main by force.
func (r *Repo) Send() { r.t.Helper(); r.Git("push", "-q", "-f", "origin", "HEAD:main") }

// Head is the id of what is checked out.
func (r *Repo) Head() string { r.t.Helper(); return r.Git("rev-parse", "HEAD") }

// Git runs git in a folder, free of the machine's settings.
func Git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.org",
		"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.org",
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(out.String())
}

// A Server serves repositories over smart HTTP.
type Server struct {
	*httptest.Server
	// Gets and Posts count requests: a poll with nothing new is one Get.
	Gets, Posts atomic.Int64
	// Auth, when set, is "user:password" that requests must carry. Set it before the first request.
	Auth string
}

// Serve serves the bare repository at URL(); TLS as asked.
func (r *Repo) Serve(tls bool) *Server {
	r.t.Helper()
	backend := filepath.Join(strings.TrimSpace(Git(r.t, r.Work, "--exec-path")), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		r.t.Fatalf("git http-backend: %v", err)
	}
	handler := &cgi.Handler{
		Path: backend,
		Dir:  filepath.Dir(r.Bare),
		Env: []string{
			"GIT_PROJECT_ROOT=" + filepath.Dir(r.Bare), "GIT_HTTP_EXPORT_ALL=1",
			"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=" + filepath.Dir(r.Bare),
		},
	}
	s := &Server{}
	serve := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet {
			s.Gets.Add(1)
		} else {
			s.Posts.Add(1)
		}
		if s.Auth != "" {
			user, pass, _ := req.BasicAuth()
			if user+":"+pass != s.Auth {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
		}
		handler.ServeHTTP(w, req)
	})
	if tls {
		s.Server = httptest.NewTLSServer(serve)
	} else {
		s.Server = httptest.NewServer(serve)
	}
	r.t.Cleanup(s.Close)
	return s
}

// URL is the repository's address on a server.
func (s *Server) URL() string { return s.Server.URL + "/repo.git" }

// Big fills a repository like the workload of the speed figures: tomls files of about 1.5 kB over folders, and
// others beside them.
func (r *Repo) Big(tomls, others int) string {
	r.t.Helper()
	files := make(map[string]string, tomls+others)
	for i := range tomls {
		files[fmt.Sprintf("d%03d/s%04d.toml", i/2, i)] = BigFile(i, "a")
	}
	for i := range others {
		files[fmt.Sprintf("d%03d/f%04d.txt", i%(max(tomls/2, 1)), i)] = fmt.Sprintf("file %d\n", i)
	}
	return r.Push(files)
}

// BigFile is one TOML file of Big.
func BigFile(i int, value string) string {
	return fmt.Sprintf("[[stack]]\nname = \"s%04d\"\ntags = [\"t\"]\n[stack.config]\nfile_contents = '''\n"+
		"services:\n  s:\n    image: demo\n    environment:\n      K: %q\n%s'''\n", i, value, strings.Repeat("# a line of comment that fills the file to its size\n", 26))
}

// History adds n commits to the branch, each changing the one file that change names, and pushes it.
func (r *Repo) History(n int, change func(i int) (path, text string)) {
	r.t.Helper()
	var b bytes.Buffer
	for i := range n {
		path, text := change(i)
		fmt.Fprintf(&b, "commit refs/heads/main\ncommitter t <t@example.com> %d +0000\ndata 6\nchange\n", 1_700_000_000+i)
		if i == 0 {
			b.WriteString("from refs/heads/main^0\n")
		}
		fmt.Fprintf(&b, "M 100644 inline %s\ndata %d\n%s\n", path, len(text), text)
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Stdin = r.Work, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("git fast-import: %v\n%s", err, out)
	}
	r.Git("reset", "-q", "--hard")
	r.Send()
}

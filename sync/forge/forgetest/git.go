package forgetest

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/varanhq/varan/sync/forge"
)

// git runs git in a folder, free of the machine's settings.
func git(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=Forge", "GIT_AUTHOR_EMAIL=forge@example.org",
		"GIT_COMMITTER_NAME=Forge", "GIT_COMMITTER_EMAIL=forge@example.org",
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// serveGit serves a repository with git's own http-backend. A token as password says who it is; without one
// public repositories can be read. After a push the forge does what forges do.
func (s *Server) serveGit(w http.ResponseWriter, r *http.Request) {
	path, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), ".git/")
	s.mu.Lock()
	repo := s.repos[strings.ToLower(path)]
	_, token, _ := r.BasicAuth()
	u, scope := s.whoHas(token)
	need := forge.Read
	if strings.HasSuffix(r.URL.Path, "/git-receive-pack") || r.URL.Query().Get("service") == "git-receive-pack" {
		need = forge.Write
	}
	ok := repo != nil && (repo.may(u) >= need || scope != nil && scope.allows(repo, "contents", need))
	s.mu.Unlock()
	if !ok {
		if u == nil && scope == nil { // nobody, or a token that counts no longer
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		http.NotFound(w, r)
		return
	}
	handler := &cgi.Handler{
		Path: s.backend, Dir: s.dir,
		Env: []string{
			"GIT_PROJECT_ROOT=" + s.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_CONFIG_GLOBAL=/dev/null", "HOME=" + s.dir, "REMOTE_USER=" + path,
		},
	}
	r2 := r.Clone(r.Context())
	rel, err := filepath.Rel(s.dir, repo.Bare)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	_, rest, _ := strings.Cut(r.URL.Path, ".git/")
	r2.URL.Path = "/" + filepath.ToSlash(rel) + "/" + rest // as it is spelled on disk
	handler.ServeHTTP(w, r2)
	if need == forge.Write && r.Method == http.MethodPost {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := repo.pushed(u); err != nil {
			s.fail("after a push to %s: %v", repo.Repo, err)
		}
	}
}

// Push writes files ("" removes one) on top of a branch, which is made from the default branch if it is new, and does
// what a forge does after a push. It returns the new commit.
func (r *Repo) Push(by, branch string, files map[string]string) (string, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	sha, err := r.write(branch, files, false)
	if err != nil {
		return "", err
	}
	return sha, r.pushed(r.s.user(by))
}

// ForcePush replaces a branch's last commit.
func (r *Repo) ForcePush(by, branch string, files map[string]string) (string, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	sha, err := r.write(branch, files, true)
	if err != nil {
		return "", err
	}
	return sha, r.pushed(r.s.user(by))
}

// DeleteBranch removes one.
func (r *Repo) DeleteBranch(by, branch string) error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if _, err := git(r.Bare, "update-ref", "-d", "refs/heads/"+branch); err != nil {
		return err
	}
	return r.pushed(r.s.user(by))
}

// Pushed does what a forge does after a push that went past it, straight into the folder.
func (r *Repo) Pushed(by string) error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return r.pushed(r.s.user(by))
}

// write makes a commit without a worktree.
func (r *Repo) write(branch string, files map[string]string, replace bool) (string, error) {
	ref := "refs/heads/" + branch
	parent := r.commit(branch)
	if parent == "" {
		parent = r.commit(r.Default)
	} else if replace {
		parent, _ = git(r.Bare, "rev-parse", "-q", "--verify", ref+"^1") // "" for a first commit
	}
	index := filepath.Join(r.Bare, "forgetest-index")
	defer os.Remove(index)
	run := func(stdin string, args ...string) (string, error) {
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Stdin = r.Bare, strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "GIT_INDEX_FILE="+index, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.org", "GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.org")
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	if parent != "" {
		if _, err := run("", "read-tree", parent); err != nil {
			return "", err
		}
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var entries strings.Builder
	for _, name := range names {
		if files[name] == "" {
			fmt.Fprintf(&entries, "0 %s\t%s\n", strings.Repeat("0", 40), name)
			continue
		}
		blob, err := run(files[name], "hash-object", "-w", "--stdin")
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&entries, "100644 %s\t%s\n", blob, name)
	}
	if _, err := run(entries.String(), "update-index", "--add", "--index-info"); err != nil {
		return "", err
	}
	tree, err := run("", "write-tree")
	if err != nil {
		return "", err
	}
	args := []string{"commit-tree", tree, "-m", "change " + strings.Join(names, ", ")}
	if parent != "" {
		args = append(args, "-p", parent)
	}
	sha, err := run("", args...)
	if err != nil {
		return "", err
	}
	_, err = run("", "update-ref", ref, sha)
	return sha, err
}

// refs are the branches and tags.
func (r *Repo) refs() (map[string]string, error) {
	out, err := git(r.Bare, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags")
	if err != nil {
		return nil, err
	}
	refs := make(map[string]string)
	for line := range strings.Lines(out) {
		if name, sha, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			refs[name] = sha
		}
	}
	return refs, nil
}

// look takes the refs as they are for seen.
func (r *Repo) look() error {
	refs, err := r.refs()
	r.seen = refs
	return err
}

// pushed finds out what changed, moves pull requests along and sends webhooks. The caller holds mu.
func (r *Repo) pushed(by *User) error {
	old := r.seen
	if err := r.look(); err != nil {
		return err
	}
	names := make([]string, 0, len(old)+len(r.seen))
	for name := range old {
		names = append(names, name)
	}
	for name := range r.seen {
		if _, has := old[name]; !has {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if old[name] == r.seen[name] {
			continue
		}
		if err := r.pushHook(name, old[name], r.seen[name], by); err != nil {
			return err
		}
		if err := r.moved(name, by); err != nil {
			return err
		}
	}
	return nil
}

// moved brings along the pull requests from or to a branch.
func (r *Repo) moved(ref string, by *User) error {
	branch, ok := strings.CutPrefix(ref, "refs/heads/")
	if !ok {
		return nil
	}
	for _, base := range r.s.repos {
		for _, p := range base.pulls() {
			if p.State != forge.Open {
				continue
			}
			from := p.Head == r && p.HeadBranch == branch
			if !from && !(base == r && p.BaseBranch == branch) {
				continue
			}
			if r.seen[ref] == "" { // the branch is gone, and with it the pull request
				p.State = forge.Closed
				if err := base.pullHook("closed", p, by, nil); err != nil {
					return err
				}
				continue
			}
			before := p.HeadSHA
			if err := base.refresh(p); err != nil {
				return err
			}
			if p.HeadSHA == before { // a moved base alone sends nothing
				continue
			}
			p.updated = r.s.after(p.updated)
			if err := base.pullHook("synchronize", p, by, map[string]any{"before": before}); err != nil {
				return err
			}
		}
	}
	return nil
}

// changedFiles are those between the merge base and the head.
func (r *Repo) changedFiles(p *Pull) ([][3]string, error) {
	out, err := git(r.Bare, "diff", "--name-status", "-M", "-z", p.BaseSHA+"..."+p.HeadSHA)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	var files [][3]string // status letter, path, former path
	for i := 0; i+1 < len(parts); i += 2 {
		letter := parts[i][:1]
		if letter == "R" && i+2 < len(parts) {
			files = append(files, [3]string{letter, parts[i+2], parts[i+1]})
			i++
			continue
		}
		files = append(files, [3]string{letter, parts[i+1], ""})
	}
	return files, nil
}

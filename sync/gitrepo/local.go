package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

// ErrNoGit: the folder is no repository; its files can be read as they lie.
var ErrNoGit = errors.New("not a Git repository")

// localGit is a repository on this machine, which others write to while we read.
type localGit struct {
	path   string
	gitDir string // where HEAD is
	common string // where objects and branches are: another folder for a linked worktree
}

// findGit finds the Git folder of a worktree, a linked worktree or a bare repository. It does not look above.
func findGit(path string) (*localGit, error) {
	l := &localGit{path: path, gitDir: filepath.Join(path, ".git")}
	info, err := os.Stat(l.gitDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.gitDir = path // bare, or nothing
	case err != nil:
		return nil, fmt.Errorf("open repository %s: %w", path, err)
	case info.Mode().IsRegular():
		text, err := os.ReadFile(l.gitDir)
		if err != nil {
			return nil, fmt.Errorf("open repository %s: %w", path, err)
		}
		to, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "gitdir: ")
		if !ok {
			return nil, fmt.Errorf("open repository %s: .git names no folder", path)
		}
		l.gitDir = absolute(path, to)
	}
	for _, need := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Stat(filepath.Join(l.gitDir, need)); err != nil && need == "HEAD" {
			return nil, fmt.Errorf("%s: %w", path, ErrNoGit)
		}
	}
	l.common = l.gitDir
	if text, err := os.ReadFile(filepath.Join(l.gitDir, "commondir")); err == nil {
		l.common = absolute(l.gitDir, strings.TrimSpace(string(text)))
	}
	if _, err := os.Stat(filepath.Join(l.common, "objects")); err != nil {
		return nil, fmt.Errorf("%s: %w", path, ErrNoGit)
	}
	return l, nil
}

func absolute(base, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(base, path)
}

// IsRepository reports whether dir itself is a repository, bare or not.
func IsRepository(dir string) bool {
	_, err := findGit(dir)
	return err == nil
}

func (l *localGit) storage() gitStorage {
	var files billy.Filesystem = osfs.New(l.gitDir)
	if l.common != l.gitDir {
		files = dotgit.NewRepositoryFilesystem(osfs.New(l.gitDir), osfs.New(l.common))
	}
	return filesystem.NewStorageWithOptions(files, cache.NewObjectLRU(objectCache), filesystem.Options{
		KeepDescriptors:      true,
		LargeObjectThreshold: 8 << 20,
		AlternatesFS:         osfs.New("/"),
	})
}

func (l *localGit) tip(branch string) (Head, error) {
	st := newStore(l.storage())
	defer func() { _ = st.close() }()
	return localTip(st, l.path, branch)
}

func localTip(st *store, path, branch string) (Head, error) {
	if branch == "" {
		branch = localHead(st)
	}
	name := plumbing.NewBranchReferenceName(branch)
	if branch == "" {
		name = plumbing.HEAD // detached
	}
	ref, err := st.ref(name)
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		if tips, terr := st.tips(); terr == nil && len(tips) == 0 {
			return Head{}, fmt.Errorf("read %s: %w", path, ErrEmpty)
		}
		return Head{}, fmt.Errorf("read %s: %w", path, noBranch(branch, st.branches()))
	}
	if err != nil {
		return Head{}, fmt.Errorf("read %s: %w", path, err)
	}
	return Head{Branch: branch, Commit: ref.Hash().String()}, nil
}

// branches are the names of those that are there; none when they cannot be read.
func (st *store) branches() []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	iter, err := st.git.IterReferences()
	if err != nil {
		return nil
	}
	var out []string
	_ = iter.ForEach(func(r *plumbing.Reference) error {
		if r.Name().IsBranch() {
			out = append(out, r.Name().Short())
		}
		return nil
	})
	return out
}

// localHead is the branch that is checked out, "" when none is.
func localHead(st *store) string {
	st.mu.Lock()
	defer st.mu.Unlock()
	head, err := st.git.Reference(plumbing.HEAD)
	if err != nil || head.Type() != plumbing.SymbolicReference {
		return ""
	}
	return head.Target().Short()
}

// fetchLocal reads the branch in place. Another process may have packed the objects anew since the storage
// listed them, so an object not found is looked for once more in a storage opened afresh.
func (r *Repo) fetchLocal(branch string) (*Snapshot, error) {
	head, err := localTip(r.store, r.addr.Path, branch)
	if err != nil {
		return nil, err
	}
	if s := r.last[head.Branch]; s != nil && s.Commit == head.Commit {
		return s, nil
	}
	h := plumbing.NewHash(head.Commit)
	if !r.store.has(h) {
		r.store.replace(r.local.storage()) // the old one's open files stay until it is collected
	}
	s, err := newSnapshot(r.store, h, head.Branch)
	if err == nil {
		_, err = r.store.tree(s.root)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.addr, err)
	}
	r.last[head.Branch] = s
	return s, nil
}

// revision is what `--ref` takes: a name or id, then any number of ~n and ^n.
var revision = regexp.MustCompile(`^([^~^:{}]+)((?:~\d*|\^\d*)*)$`)
var revisionStep = regexp.MustCompile(`([~^])(\d*)`)

// localRevision resolves a branch, a tag, a commit id or its beginning, HEAD, with ~n and ^n.
func (r *Repo) localRevision(rev string) (*Snapshot, error) {
	m := revision.FindStringSubmatch(rev)
	if m == nil {
		return nil, fmt.Errorf("%q is not a revision", rev)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h, branch, err := r.named(m[1])
	if err != nil {
		return nil, err
	}
	for _, step := range revisionStep.FindAllStringSubmatch(m[2], -1) {
		n := 1
		if step[2] != "" {
			if n, err = strconv.Atoi(step[2]); err != nil {
				return nil, fmt.Errorf("%q is not a revision", rev)
			}
		}
		times, parent := n, 1
		if step[1] == "^" {
			times, parent = 1, n
		}
		for range times {
			_, c, err := r.store.commit(h)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", rev, err)
			}
			if parent == 0 {
				continue
			}
			if parent > len(c.parents) {
				return nil, fmt.Errorf("%s: commit %s has no parent %d", rev, h.String()[:8], parent)
			}
			h = c.parents[parent-1]
		}
	}
	return newSnapshot(r.store, h, branch)
}

func (r *Repo) named(name string) (plumbing.Hash, string, error) {
	for _, prefix := range []string{"", "refs/", "refs/heads/", "refs/tags/", "refs/remotes/"} {
		full := plumbing.ReferenceName(prefix + name)
		if prefix == "" && name != "HEAD" && !strings.HasPrefix(name, "refs/") {
			continue
		}
		if ref, err := r.store.ref(full); err == nil {
			branch := ""
			if full.IsBranch() {
				branch = full.Short()
			}
			return ref.Hash(), branch, nil
		}
	}
	if plumbing.IsHash(name) {
		return plumbing.NewHash(name), "", nil
	}
	if h, ok := r.store.abbreviated(name); ok {
		return h, "", nil
	}
	return plumbing.ZeroHash, "", fmt.Errorf("read %s: no branch, tag or commit is called %q", r.addr, name)
}

// abbreviated finds the one commit whose id begins so.
func (st *store) abbreviated(prefix string) (plumbing.Hash, bool) {
	if len(prefix) < 4 || len(prefix) > 39 || strings.Trim(prefix, "0123456789abcdef") != "" {
		return plumbing.ZeroHash, false
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	iter, err := st.git.IterEncodedObjects(plumbing.CommitObject)
	if err != nil {
		return plumbing.ZeroHash, false
	}
	defer iter.Close()
	var found []plumbing.Hash
	err = iter.ForEach(func(o plumbing.EncodedObject) error {
		if strings.HasPrefix(o.Hash().String(), prefix) {
			found = append(found, o.Hash())
		}
		return nil
	})
	if err != nil || len(found) != 1 {
		return plumbing.ZeroHash, false
	}
	return found[0], true
}

// WatchRefs sends on changed, which has room for one, when a ref of a local repository may have changed, until
// ctx ends.
func (r *Repo) WatchRefs(ctx context.Context, changed chan<- struct{}) error {
	if r.local == nil {
		return fmt.Errorf("watch %s: only local repositories are watched", r.addr)
	}
	w := watch{
		roots: []string{r.local.common, r.local.gitDir},
		enter: func(dir string) bool {
			return dir == r.local.common || dir == r.local.gitDir ||
				dir == filepath.Join(r.local.common, "refs") || within(filepath.Join(r.local.common, "refs", "heads"), dir)
		},
		heed: func(path string) bool {
			if strings.HasSuffix(path, ".lock") {
				return false
			}
			base := filepath.Base(path)
			return base == "HEAD" || base == "packed-refs" || within(filepath.Join(r.local.common, "refs"), path)
		},
	}
	return w.run(ctx, changed)
}

func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, dir+string(filepath.Separator))
}

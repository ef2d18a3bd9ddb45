package sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	gosync "sync"
	"unicode/utf8"

	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// A tree is a commit's files, or a folder's.
type tree interface {
	compose.Tree
	// Find is Walk for what want picks, asked before anything is read.
	Find(dir string, want func(path string, folder bool) bool, fn func(compose.Entry) error) error
}

// A view is what a source holds at one moment.
type view struct {
	tree   tree
	commit string // "" = a folder outside Git
	branch string
}

// A source is where a ResourceSync's files come from.
type source interface {
	// fetch gives what is newest; the same commit as last time costs one question.
	fetch(ctx context.Context) (view, error)
	// relate tells how a new commit stands to the one applied.
	relate(ctx context.Context, applied, commit string) (gitrepo.Relation, error)
	// watch sends on changed until ctx ends; nil at once where only polling helps.
	watch(ctx context.Context, changed chan<- struct{}) error
	// watched reports whether watch notices everything, so that polling is only a safeguard.
	watched() bool
	address() gitrepo.Address
	close() error
}

// A gitSource is a branch of a repository.
type gitSource struct {
	repo   *gitrepo.Repo
	branch string
}

func (s *gitSource) fetch(ctx context.Context) (view, error) {
	snap, err := s.repo.Fetch(ctx, s.branch)
	if err != nil {
		return view{}, err
	}
	return view{tree: snap, commit: snap.Commit, branch: snap.Branch}, nil
}

// at gives an older commit of the branch.
func (s *gitSource) at(ctx context.Context, branch, commit string) (view, error) {
	snap, err := s.repo.At(ctx, branch, commit)
	if err != nil {
		return view{}, err
	}
	return view{tree: snap, commit: commit, branch: branch}, nil
}

func (s *gitSource) relate(ctx context.Context, applied, commit string) (gitrepo.Relation, error) {
	return s.repo.Relate(ctx, s.branch, applied, commit)
}

func (s *gitSource) watch(ctx context.Context, changed chan<- struct{}) error {
	if !s.watched() {
		return nil
	}
	return s.repo.WatchRefs(ctx, changed)
}

func (s *gitSource) watched() bool            { return s.repo.Address().Local() }
func (s *gitSource) address() gitrepo.Address { return s.repo.Address() }
func (s *gitSource) close() error             { return s.repo.Close() }

// A commitSource is one commit that stays: `--ref`.
type commitSource struct {
	gitSource
	snap *gitrepo.Snapshot
}

func (s *commitSource) fetch(context.Context) (view, error) {
	return view{tree: s.snap, commit: s.snap.Commit, branch: s.snap.Branch}, nil
}

// A folderSource is a plain folder.
type folderSource struct {
	folder *gitrepo.Folder
	addr   gitrepo.Address
}

func (s *folderSource) fetch(context.Context) (view, error) {
	return view{tree: s.folder.View()}, nil
}

func (s *folderSource) relate(context.Context, string, string) (gitrepo.Relation, error) {
	return gitrepo.Descends, nil // a folder has no history to go back in
}

func (s *folderSource) watch(ctx context.Context, changed chan<- struct{}) error {
	return s.folder.Watch(ctx, changed)
}

func (s *folderSource) watched() bool            { return true }
func (s *folderSource) address() gitrepo.Address { return s.addr }
func (s *folderSource) close() error             { return s.folder.Close() }

// A mirror is a repository that several may read: a sync, and stacks whose files lie in it.
type mirrors struct {
	opts *Options

	mu       gosync.Mutex // guards below
	settings Settings
	repos    map[repoKey]*gitrepo.Repo
}

type repoKey struct{ address, account string }

// open gives the repository at an address, read with that account ("" = any whose credential covers it).
// Paths on this machine are for the root sync alone.
func (m *mirrors) open(addr gitrepo.Address, account string, root bool) (*gitrepo.Repo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := repoKey{addr.User + "@" + addr.String(), account}
	if r := m.repos[key]; r != nil {
		return r, nil
	}
	opts, err := m.access(addr, account)
	if err != nil {
		return nil, err
	}
	opts.AllowLocal = root
	if m.opts.DataDir != "" {
		opts.Mirrors = path.Join(m.opts.DataDir, "mirrors")
	}
	r, err := gitrepo.Open(addr, opts)
	if err != nil {
		return nil, err
	}
	m.repos[key] = r
	return r, nil
}

// access is how a repository is reached; m.mu is held.
func (m *mirrors) access(addr gitrepo.Address, account string) (gitrepo.Options, error) {
	creds := make([]gitrepo.Credential, 0, len(m.settings.GitAccounts))
	for _, a := range m.settings.GitAccounts {
		creds = append(creds, gitrepo.Credential{Scheme: a.Scheme, Host: a.Host, Path: a.Path, Username: a.Username,
			Token: string(a.Token), SSHKey: string(a.SSHKey), Fresh: a.Fresh})
	}
	cred := gitrepo.Pick(creds, addr, account)
	if cred == nil && account != "" {
		return gitrepo.Options{}, fmt.Errorf("no account %q for %s is in [[git_provider]]", account, addr)
	}
	return gitrepo.Options{
		Credential: cred, KnownHosts: m.settings.KnownHosts,
		AllowHTTP: m.settings.AllowHTTP, AllowInternal: m.settings.AllowInternal,
	}, nil
}

// reload has every repository reached with the credentials and rules that count now. One that may be reached no longer
// is dropped: opening it again says why.
func (m *mirrors) reload(s Settings) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settings = s
	for key, r := range m.repos {
		opts, err := m.access(r.Address(), key.account)
		if err == nil {
			err = r.Reach(opts)
		}
		if err != nil {
			delete(m.repos, key) // those in use stay open until nobody reads from them
		}
	}
}

func (m *mirrors) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, r := range m.repos {
		errs = append(errs, r.Close())
	}
	clear(m.repos)
	return errors.Join(errs...)
}

// openSource opens what [config] url names: a folder that is no repository is read as it lies.
func openSource(m *mirrors, url, branch string) (source, error) {
	addr, err := gitrepo.ParseAddress(url)
	if err != nil {
		return nil, err
	}
	if addr.Local() && !gitrepo.IsRepository(addr.Path) {
		f, err := gitrepo.OpenFolder(addr.Path)
		if err != nil {
			return nil, err
		}
		return &folderSource{folder: f, addr: addr}, nil
	}
	repo, err := m.open(addr, "", true)
	if err != nil {
		return nil, err
	}
	return &gitSource{repo: repo, branch: branch}, nil
}

// Bounds of one config's files.
const (
	maxTOML      = 16 << 20 // bytes of one file
	maxTOMLFiles = 50_000
	maxTOMLBytes = 512 << 20 // of all together
)

// configFiles lists the TOML files below paths with their content, but for those a former call with the same
// seen brought: the parser still holds these by their blob id. A file reached twice is read once.
func configFiles(t tree, paths []string, seen map[fileKey]bool) ([]schema.File, schema.Diagnostics, error) {
	c := collector{tree: t, seen: seen, at: make(map[string]bool)}
	if len(paths) == 0 {
		paths = []string{"."}
	}
	for _, p := range paths {
		if err := c.path(p); err != nil {
			return nil, nil, err
		}
	}
	for _, link := range c.links {
		if err := c.link(link); err != nil {
			return nil, nil, err
		}
	}
	return c.files, c.diags, nil
}

type fileKey struct{ path, blob string }

type collector struct {
	tree  tree
	seen  map[fileKey]bool
	at    map[string]bool // paths taken
	files []schema.File
	links []compose.Entry
	bytes int64
	diags schema.Diagnostics
}

func (c *collector) say(sev schema.Severity, file, hint, format string, args ...any) {
	c.diags = append(c.diags, schema.Diagnostic{Severity: sev, Pos: schema.Pos{File: printable(file)}, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func printable(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return fmt.Sprintf("%q", s)
}

func (c *collector) path(p string) error {
	clean := path.Clean(strings.TrimPrefix(p, "./"))
	e, err := c.tree.Lookup(clean)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.say(schema.SeverityError, p, "", "the path to read, %q, is not in the repository", p)
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", p, err)
	case e.Mode != compose.ModeDir:
		return c.take(e)
	}
	below := func(name string) string {
		if clean == "." {
			return name
		}
		return strings.TrimPrefix(name, clean+"/")
	}
	want := func(name string, folder bool) bool {
		if folder {
			base := path.Base(name)
			return !strings.HasPrefix(base, ".") && !(strings.Contains(base, "{{") && strings.Contains(base, "}}"))
		}
		return schema.Wanted(below(name))
	}
	if err := c.tree.Find(clean, want, c.take); err != nil {
		return fmt.Errorf("read %s: %w", p, err)
	}
	return nil
}

func (c *collector) take(e compose.Entry) error {
	if c.at[e.Path] {
		return nil
	}
	c.at[e.Path] = true
	switch {
	case !utf8.ValidString(e.Path):
		c.say(schema.SeverityWarning, e.Path, "rename it", "the file's name is not UTF-8, so it is not read")
	case e.Mode == compose.ModeSymlink:
		c.links = append(c.links, e)
	case e.Mode != compose.ModeFile:
		c.say(schema.SeverityWarning, e.Path, "", "this is no regular file, so it is not read")
	case e.Size > maxTOML:
		c.say(schema.SeverityError, e.Path, "split it", "the file has %d bytes; at most %d are read", e.Size, maxTOML)
	default:
		return c.read(e.Path, e)
	}
	return nil
}

func (c *collector) read(name string, e compose.Entry) error {
	if len(c.files) >= maxTOMLFiles {
		return fmt.Errorf("more than %d TOML files", maxTOMLFiles)
	}
	f := schema.File{Path: name, Blob: e.Hash}
	if !c.seen[fileKey{name, e.Hash}] {
		if c.bytes += e.Size; c.bytes > maxTOMLBytes {
			return fmt.Errorf("the TOML files have more than %d bytes together", maxTOMLBytes)
		}
		data, err := c.tree.Read(e.Path, maxTOML)
		if err != nil {
			return err
		}
		f.Data = data
	}
	c.files = append(c.files, f)
	return nil
}

// link reads a symlinked file, unless its target is read anyway.
func (c *collector) link(l compose.Entry) error {
	e, err := gitrepo.Resolve(c.tree, l.Path)
	switch {
	case errors.Is(err, gitrepo.ErrOutside):
		c.say(schema.SeverityWarning, l.Path, "", "this symlink leads out of the repository (%s), so it is not read", printable(l.Link))
	case errors.Is(err, fs.ErrNotExist):
		c.say(schema.SeverityWarning, l.Path, "", "this symlink leads nowhere (%s)", printable(l.Link))
	case err != nil:
		c.say(schema.SeverityWarning, l.Path, "", "this symlink is not followed: %v", err)
	case e.Mode == compose.ModeFile && !c.at[e.Path] && e.Size <= maxTOML:
		return c.read(l.Path, e)
	}
	return nil
}

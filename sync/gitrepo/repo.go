package gitrepo

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"

	"github.com/varanhq/varan/sync/dial"
)

// Options of Open. Local addresses and plain http are refused unless allowed.
type Options struct {
	Credential    *Credential
	Mirrors       string // folder that holds the mirrors of remotes; "" = in memory
	KnownHosts    string
	AllowLocal    bool
	AllowHTTP     bool
	AllowInternal bool
	Roots         *x509.CertPool // nil = the system's
	MaxPack       int64          // bytes of one fetch; 0 = 1 GiB
}

// A Repo is one repository: a mirror of a remote, or a local one read in place. Safe for concurrent use.
type Repo struct {
	addr  Address
	opts  Options
	wire  atomic.Pointer[transport] // nil for a local repository
	dir   string                    // of the mirror, or the local repository's Git folder; "" = memory
	local *localGit

	mu    gosync.Mutex // one fetch at a time; guards store and last
	store *store
	last  map[string]*Snapshot // newest per branch, so that "nothing new" costs one question
}

// Open prepares a repository and asks nobody anything yet.
func Open(addr Address, opts Options) (*Repo, error) {
	if opts.MaxPack == 0 {
		opts.MaxPack = 1 << 30
	}
	r := &Repo{addr: addr, opts: opts, last: make(map[string]*Snapshot)}
	switch addr.Scheme {
	case "file":
		if !opts.AllowLocal {
			return nil, fmt.Errorf("%w: %s: paths are allowed only in [config] and --repo", ErrRefused, addr)
		}
		l, err := findGit(addr.Path)
		if err != nil {
			return nil, err
		}
		r.local, r.dir = l, l.gitDir
		r.store = newStore(l.storage())
		return r, nil
	}
	if err := r.Reach(opts); err != nil {
		return nil, err
	}
	if opts.Mirrors != "" {
		sum := sha256.Sum256([]byte(addr.User + "@" + addr.String()))
		r.dir = filepath.Join(opts.Mirrors, hex.EncodeToString(sum[:12]))
		if err := os.MkdirAll(r.dir, 0o700); err != nil {
			return nil, fmt.Errorf("make mirror folder: %w", err)
		}
	}
	git, err := mirrorStorage(r.dir)
	if err != nil {
		return nil, err
	}
	r.store = newStore(git)
	return r, nil
}

// Reach changes how a remote is reached from the next conversation on: credential, known hosts and what is allowed.
// It does nothing for a local repository.
func (r *Repo) Reach(opts Options) error {
	var wire transport
	switch r.addr.Scheme {
	case "file":
		return nil
	case "http":
		if !opts.AllowHTTP {
			return fmt.Errorf("%w: %s: plain http needs allow_http = true in varan.toml", ErrRefused, r.addr)
		}
		fallthrough
	case "https":
		wire = newSmartHTTP(r.addr, opts.Credential, opts.AllowInternal, opts.Roots)
	case "ssh":
		wire = &sshRemote{addr: r.addr, cred: opts.Credential, knownHosts: opts.KnownHosts, dial: dial.Dialer(opts.AllowInternal)}
	default:
		return fmt.Errorf("%w: scheme %q", ErrAddress, r.addr.Scheme)
	}
	if old := r.wire.Swap(&wire); old != nil {
		(*old).close() // conversations under way end by themselves
	}
	return nil
}

// remote is how the remote is reached now.
func (r *Repo) remote() transport { return *r.wire.Load() }

// Address is where the repository is.
func (r *Repo) Address() Address { return r.addr }

// Close lets go of files and connections. Snapshots must not be used any more.
func (r *Repo) Close() error {
	if wire := r.wire.Load(); wire != nil {
		(*wire).close()
	}
	return r.store.close()
}

// A Head is what a branch names.
type Head struct {
	Branch string // resolved, if it was ""
	Commit string
}

// Tip asks what a branch names now; "" is the default branch. A missing branch, repository or commit is
// ErrNoBranch, ErrNotFound, ErrEmpty; a refused credential ErrAuth.
func (r *Repo) Tip(ctx context.Context, branch string) (Head, error) {
	if r.local != nil {
		return r.local.tip(branch)
	}
	talk, err := r.remote().open(ctx)
	if err != nil {
		return Head{}, fmt.Errorf("ask %s: %w", r.addr, err)
	}
	defer talk.close()
	name, h, err := resolve(talk.refs(), branch)
	if err != nil {
		return Head{}, fmt.Errorf("ask %s: %w", r.addr, err)
	}
	return Head{Branch: name, Commit: h.String()}, nil
}

// Fetch gives the newest commit of a branch. It asks for the refs first, and when the commit is here already,
// that was all.
func (r *Repo) Fetch(ctx context.Context, branch string) (*Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.local != nil {
		return r.fetchLocal(branch)
	}
	s, err := r.fetchRemote(ctx, branch)
	if errors.Is(err, ErrTooBig) || errors.Is(err, plumbing.ErrObjectNotFound) || errors.Is(err, errDamaged) {
		// What we hold does not help the remote, or is damaged: begin anew with the newest commit alone.
		if werr := r.wipe(); werr != nil {
			return nil, errors.Join(err, werr)
		}
		s, err = r.fetchRemote(ctx, branch)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", r.addr, err)
	}
	return s, nil
}

func (r *Repo) fetchRemote(ctx context.Context, branch string) (*Snapshot, error) {
	talk, err := r.remote().open(ctx)
	if err != nil {
		return nil, err
	}
	defer talk.close()
	name, h, err := resolve(talk.refs(), branch)
	if err != nil {
		return nil, err
	}
	if s := r.last[name]; s != nil && s.Commit == h.String() {
		return s, nil
	}
	if err := plumbing.NewBranchReferenceName(name).Validate(); err != nil {
		return nil, fmt.Errorf("branch %q: %w", name, err)
	}
	if !r.store.has(h) {
		if err := r.get(ctx, talk, want{commits: []plumbing.Hash{h}}); err != nil {
			return nil, err
		}
	}
	if err := r.store.setRef(name, h); err != nil {
		return nil, fmt.Errorf("%w: keep ref %s: %w", errDamaged, name, err)
	}
	s, err := newSnapshot(r.store, h, name)
	if err != nil {
		return nil, err
	}
	r.last[name] = s
	return s, r.compact()
}

var errDamaged = errors.New("the mirror is damaged")

// get fetches what a want names, in the light of what is here: the newest commit alone into an empty mirror,
// later all since. Where the remote cut history is written before the objects are.
func (r *Repo) get(ctx context.Context, talk conversation, w want) (err error) {
	if w.haves, err = r.store.tips(); err != nil {
		return fmt.Errorf("%w: list refs: %w", errDamaged, err)
	}
	if w.shallows, err = r.store.shallows(); err != nil {
		return fmt.Errorf("%w: read where history is cut: %w", errDamaged, err)
	}
	if len(w.haves) == 0 {
		w.depth, w.shallows = 1, nil
	}
	req, err := w.request(talk.refs().Capabilities)
	if err != nil {
		return err
	}
	body, err := talk.pack(ctx, req)
	if err != nil {
		return err
	}
	defer body.Close()
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	return receive(body, req, r.store.git, r.opts.MaxPack, func(u packp.ShallowUpdate) error {
		cut := slices.DeleteFunc(slices.Clone(w.shallows), func(h plumbing.Hash) bool { return slices.Contains(u.Unshallows, h) })
		for _, h := range u.Shallows {
			if !slices.Contains(cut, h) {
				cut = append(cut, h)
			}
		}
		return r.store.git.SetShallow(cut)
	})
}

// wipe empties the mirror.
func (r *Repo) wipe() error {
	_ = r.store.close() // it is about to be deleted
	if r.dir != "" {
		if err := os.RemoveAll(r.dir); err != nil {
			return fmt.Errorf("empty mirror: %w", err)
		}
		if err := os.MkdirAll(r.dir, 0o700); err != nil {
			return fmt.Errorf("empty mirror: %w", err)
		}
	}
	git, err := mirrorStorage(r.dir)
	if err != nil {
		return err
	}
	r.store.replace(git)
	clear(r.last)
	return nil
}

// At gives a commit by its id, fetched through its branch when it is not here.
func (r *Repo) At(ctx context.Context, branch, commit string) (*Snapshot, error) {
	if !plumbing.IsHash(commit) {
		if r.local != nil {
			return r.localRevision(commit)
		}
		return nil, fmt.Errorf("%q is not a full commit id", commit)
	}
	h := plumbing.NewHash(commit)
	r.mu.Lock()
	has := r.store.has(h)
	r.mu.Unlock()
	if !has && r.local == nil {
		if _, err := r.Fetch(ctx, branch); err != nil {
			return nil, err
		}
		if err := r.deepen(ctx, branch, h); err != nil {
			return nil, fmt.Errorf("fetch %s: %w", r.addr, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := newSnapshot(r.store, h, branch)
	if err != nil {
		return nil, fmt.Errorf("read commit %s of %s: %w", commit, r.addr, err)
	}
	return s, nil
}

// deepen fetches the whole history of a branch, unless the commit looked for is there already.
func (r *Repo) deepen(ctx context.Context, branch string, until plumbing.Hash) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.store.has(until) {
		return nil
	}
	cut, err := r.store.shallows()
	if err != nil || len(cut) == 0 {
		return err
	}
	talk, err := r.remote().open(ctx)
	if err != nil {
		return err
	}
	defer talk.close()
	_, h, err := resolve(talk.refs(), branch)
	if err != nil {
		return err
	}
	const all = 1<<31 - 1 // Git's own word for "no cut at all"
	err = r.get(ctx, talk, want{commits: []plumbing.Hash{h}, depth: all})
	if s := err; s != nil && strings.Contains(s.Error(), "empty") {
		return nil // nothing deeper there
	}
	return err
}

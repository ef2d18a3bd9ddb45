package gitrepo

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/varanhq/varan/plan/compose"
)

const (
	maxTreeObject = 32 << 20 // bytes of one folder's list
	maxLink       = 4096     // bytes of a symlink's text
	maxDepth      = 64       // folders in folders
	maxEntries    = 1 << 20  // paths visited by one walk
)

// A Snapshot is an immutable view of one commit's files. It satisfies compose.Tree. Submodules, names that are
// not clean, and anything called ".git" are not in it.
type Snapshot struct {
	Commit  string // full id
	Branch  string
	Author  string
	Subject string
	When    time.Time

	root  plumbing.Hash
	store *store
}

// ID is the root tree's id: equal ids mean equal files.
func (s *Snapshot) ID() string { return s.root.String() }

func newSnapshot(st *store, h plumbing.Hash, branch string) (*Snapshot, error) {
	h, c, err := st.commit(h)
	if err != nil {
		return nil, err
	}
	st.grow()
	return &Snapshot{Commit: h.String(), Branch: branch, Author: c.author, Subject: c.subject, When: c.when,
		root: c.tree, store: st}, nil
}

// Lookup implements compose.Tree.
func (s *Snapshot) Lookup(name string) (compose.Entry, error) {
	it, err := s.find(name)
	if err != nil {
		return compose.Entry{}, err
	}
	return s.entry(name, it)
}

func (s *Snapshot) find(name string) (treeItem, error) {
	if !fs.ValidPath(name) {
		return treeItem{}, fmt.Errorf("path %q leaves its tree", name)
	}
	it := treeItem{mode: filemode.Dir, hash: s.root}
	if name == "." {
		return it, nil
	}
	for rest := name; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		if it.mode != filemode.Dir {
			return treeItem{}, &fs.PathError{Op: "look up", Path: name, Err: fs.ErrNotExist}
		}
		n, err := s.store.tree(it.hash)
		if err != nil {
			return treeItem{}, err
		}
		next, ok := n.find(part)
		if !ok {
			return treeItem{}, &fs.PathError{Op: "look up", Path: name, Err: fs.ErrNotExist}
		}
		it = next
	}
	return it, nil
}

// entry describes an item; a file's size and a link's text are read from the store.
func (s *Snapshot) entry(name string, it treeItem) (compose.Entry, error) {
	e := compose.Entry{Path: name, Hash: it.hash.String()}
	switch it.mode {
	case filemode.Dir:
		e.Mode = compose.ModeDir
	case filemode.Symlink:
		e.Mode = compose.ModeSymlink
		text, err := s.store.blob(it.hash, maxLink)
		if err != nil {
			return e, fmt.Errorf("read symlink %s: %w", name, err)
		}
		e.Link = string(text)
	default:
		e.Mode = compose.ModeFile
		e.Exec = it.mode == filemode.Executable
		size, err := s.store.blobSize(it.hash)
		if err != nil {
			return e, fmt.Errorf("read %s: %w", name, err)
		}
		e.Size = size
	}
	return e, nil
}

// Walk implements compose.Tree.
func (s *Snapshot) Walk(dir string, fn func(compose.Entry) error) error {
	return s.Find(dir, func(string, bool) bool { return true }, fn)
}

// Find is Walk for what want picks: it is asked for each path before anything of it is read, and a folder it
// does not want is not entered.
func (s *Snapshot) Find(dir string, want func(path string, folder bool) bool, fn func(compose.Entry) error) error {
	it, err := s.find(dir)
	if err != nil {
		return err
	}
	if it.mode != filemode.Dir {
		return fmt.Errorf("%s is not a folder", dir)
	}
	w := walker{s: s, want: want, fn: fn, left: maxEntries}
	return w.walk(dir, it.hash, 0)
}

type walker struct {
	s    *Snapshot
	want func(string, bool) bool
	fn   func(compose.Entry) error
	left int
}

// walk visits in the order of full paths: Git sorts a folder as if its name ended in a slash, and our nodes
// sort by bare name, so folders are merged in at that place.
func (w *walker) walk(dir string, h plumbing.Hash, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: %s: more than %d folders in folders", ErrTooBig, dir, maxDepth)
	}
	n, err := w.s.store.tree(h)
	if err != nil {
		return err
	}
	for _, it := range byPath(n.items) {
		if w.left--; w.left < 0 {
			return fmt.Errorf("%w: more than %d paths", ErrTooBig, maxEntries)
		}
		name := join(dir, it.name)
		folder := it.mode == filemode.Dir
		if !w.want(name, folder) {
			continue
		}
		if folder {
			if err := w.walk(name, it.hash, depth+1); err != nil {
				return err
			}
			continue
		}
		e, err := w.s.entry(name, it)
		if err != nil {
			return err
		}
		if err := w.fn(e); err != nil {
			return err
		}
	}
	return nil
}

// byPath orders items as their full paths sort. Most folders already are.
func byPath(items []treeItem) []treeItem {
	key := func(it treeItem) string {
		if it.mode == filemode.Dir {
			return it.name + "/"
		}
		return it.name
	}
	for i := 1; i < len(items); i++ {
		if key(items[i-1]) > key(items[i]) {
			sorted := append([]treeItem(nil), items...)
			sortBy(sorted, key)
			return sorted
		}
	}
	return items
}

// Read implements compose.Tree.
func (s *Snapshot) Read(name string, limit int64) ([]byte, error) {
	it, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if it.mode == filemode.Dir || it.mode == filemode.Symlink {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	data, err := s.store.blob(it.hash, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// Resolve follows the symlinks of a path inside the tree, whatever view of files it is. A link that leads out
// is ErrOutside.
func Resolve(t compose.Tree, name string) (compose.Entry, error) {
	todo := strings.Split(name, "/")
	at := "."
	for hops := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at == "." {
				return compose.Entry{}, fmt.Errorf("%s: %w", name, ErrOutside)
			}
			at = path.Dir(at)
			continue
		}
		e, err := t.Lookup(join(at, part))
		if err != nil {
			return compose.Entry{}, err
		}
		if e.Mode != compose.ModeSymlink {
			at = e.Path
			continue
		}
		if hops++; hops > 40 {
			return compose.Entry{}, fmt.Errorf("%s: too many symlinks", name)
		}
		if strings.HasPrefix(e.Link, "/") {
			return compose.Entry{}, fmt.Errorf("%s: %w", name, ErrOutside)
		}
		todo = append(strings.Split(e.Link, "/"), todo...)
	}
	return t.Lookup(at)
}

// ErrOutside marks a symlink that leads out of its tree.
var ErrOutside = errors.New("leads out of the tree")

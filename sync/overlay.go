package sync

import (
	"crypto/sha1" //nolint:gosec // Git's own id of a tree
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/varanhq/varan/plan/compose"
)

// An overlaid tree is a base tree with some paths of another in their place: what a merge gives when only one side
// touched each of them.
type overlaid struct {
	base, over tree
	paths      map[string]bool // taken from over, there or not
	touched    map[string]bool // folders above them
	hashes     map[string]string
}

const maxOverlaid = 10_000

func overlay(base, over tree, paths []string) (tree, error) {
	if len(paths) > maxOverlaid {
		return nil, fmt.Errorf("more than %d files changed", maxOverlaid)
	}
	o := &overlaid{base: base, over: over, paths: make(map[string]bool), touched: map[string]bool{".": true}, hashes: make(map[string]string)}
	for _, p := range paths {
		if !fs.ValidPath(p) || p == "." {
			return nil, fmt.Errorf("changed path %q leaves its tree", p)
		}
		o.paths[p] = true
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			o.touched[dir] = true
		}
	}
	return o, nil
}

// from is the tree that a path comes from.
func (o *overlaid) from(name string) tree {
	for p := name; p != "."; p = path.Dir(p) {
		if o.paths[p] {
			return o.over
		}
	}
	return o.base
}

func (o *overlaid) Lookup(name string) (compose.Entry, error) {
	if !o.touched[name] {
		return o.from(name).Lookup(name)
	}
	if o.paths[name] { // a folder became a file
		if e, err := o.over.Lookup(name); err == nil && e.Mode != compose.ModeDir {
			return e, nil
		}
	}
	if name != "." && len(o.children(name)) == 0 {
		return compose.Entry{}, &fs.PathError{Op: "look up", Path: name, Err: fs.ErrNotExist}
	}
	hash, err := o.hash(name)
	return compose.Entry{Path: name, Mode: compose.ModeDir, Hash: hash}, err
}

func (o *overlaid) Read(name string, limit int64) ([]byte, error) {
	return o.from(name).Read(name, limit)
}

func (o *overlaid) Walk(dir string, fn func(compose.Entry) error) error {
	if !o.touched[dir] {
		return o.from(dir).Walk(dir, fn)
	}
	entries, err := o.entries(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (o *overlaid) Find(dir string, want func(path string, folder bool) bool, fn func(compose.Entry) error) error {
	return find(o, dir, want, fn)
}

// entries are all files below a touched folder, sorted by path.
func (o *overlaid) entries(dir string) ([]compose.Entry, error) {
	var out []compose.Entry
	err := o.base.Walk(dir, func(e compose.Entry) error {
		if o.from(e.Path) == o.base {
			out = append(out, e)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for p := range o.paths {
		if dir != "." && !strings.HasPrefix(p, dir+"/") {
			continue
		}
		e, err := o.over.Lookup(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case e.Mode == compose.ModeDir: // a file became a folder
			err := o.over.Walk(p, func(e compose.Entry) error { out = append(out, e); return nil })
			if err != nil {
				return nil, err
			}
		default:
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b compose.Entry) int { return strings.Compare(a.Path, b.Path) })
	return slices.CompactFunc(out, func(a, b compose.Entry) bool { return a.Path == b.Path }), nil
}

// children are the names directly below a folder.
func (o *overlaid) children(dir string) []string {
	entries, err := o.entries(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		rest := e.Path
		if dir != "." {
			rest = strings.TrimPrefix(rest, dir+"/")
		}
		name, _, _ := strings.Cut(rest, "/")
		if len(out) == 0 || out[len(out)-1] != name {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// hash is the id Git would give the folder.
func (o *overlaid) hash(dir string) (string, error) {
	if h := o.hashes[dir]; h != "" {
		return h, nil
	}
	type item struct{ key, mode, name, hash string }
	var items []item
	for _, name := range o.children(dir) {
		e, err := o.Lookup(path.Join(dir, name))
		if err != nil {
			return "", err
		}
		it := item{key: name, mode: "100644", name: name, hash: e.Hash}
		switch {
		case e.Mode == compose.ModeDir:
			it.key, it.mode = name+"/", "40000"
		case e.Mode == compose.ModeSymlink:
			it.mode = "120000"
		case e.Exec:
			it.mode = "100755"
		}
		items = append(items, it)
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	var body []byte
	for _, it := range items {
		raw, err := hex.DecodeString(it.hash)
		if err != nil {
			return "", fmt.Errorf("hash of %s: %w", path.Join(dir, it.name), err)
		}
		body = append(append(body, it.mode+" "+it.name+"\x00"...), raw...)
	}
	sum := sha1.Sum(fmt.Appendf(nil, "tree %d\x00%s", len(body), body)) //nolint:gosec // Git's own
	o.hashes[dir] = hex.EncodeToString(sum[:])
	return o.hashes[dir], nil
}

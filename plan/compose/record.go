package compose

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
)

// A recorder is a Tree that remembers what was asked of the one below it.
type recorder struct {
	tree Tree
	seen map[string]string
}

func (r *recorder) Lookup(name string) (Entry, error) {
	e, err := r.tree.Lookup(name)
	switch {
	case err == nil:
		r.seen[name] = e.Hash
	case errors.Is(err, fs.ErrNotExist):
		r.seen[name] = ""
	}
	return e, err
}

func (r *recorder) Walk(dir string, fn func(Entry) error) error {
	if _, err := r.Lookup(dir); err != nil {
		return err
	}
	return r.tree.Walk(dir, fn)
}

func (r *recorder) Read(name string, limit int64) ([]byte, error) {
	if _, err := r.Lookup(name); err != nil {
		return nil, err
	}
	return r.tree.Read(name, limit)
}

func (r *recorder) reads() []Read {
	out := make([]Read, 0, len(r.seen))
	for p, h := range r.seen {
		out = append(out, Read{Path: p, Hash: h})
	}
	slices.SortFunc(out, func(a, b Read) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

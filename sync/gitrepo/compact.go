package gitrepo

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// maxPacks is how many packs a mirror gathers, one a fetch, before the small ones become one.
const maxPacks = 48

// compact keeps a mirror that is fetched into every minute from having a pack, and an open file, for each
// fetch. The caller holds r.mu.
func (r *Repo) compact() error {
	disk, ok := r.store.git.(*filesystem.Storage)
	if !ok {
		return nil
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	packs, err := disk.ObjectPacks()
	if err != nil || len(packs) < maxPacks {
		return err
	}
	files := osfs.New(r.dir)
	name := func(h plumbing.Hash, ext string) string {
		return filepath.Join("objects", "pack", "pack-"+h.String()+ext)
	}
	size := func(h plumbing.Hash) int64 {
		if info, err := files.Stat(name(h, ".pack")); err == nil {
			return info.Size()
		}
		return 0
	}
	slices.SortFunc(packs, func(a, b plumbing.Hash) int { return cmp.Compare(size(b), size(a)) })
	packs = packs[1:] // the largest stays
	seen := map[plumbing.Hash]bool{}
	var objects []plumbing.Hash
	for _, p := range packs {
		hashes, err := packed(filepath.Join(r.dir, name(p, ".idx")))
		if err != nil {
			return fmt.Errorf("compact mirror: %w", err)
		}
		for _, h := range hashes {
			if !seen[h] {
				seen[h] = true
				objects = append(objects, h)
			}
		}
	}
	w, err := disk.PackfileWriter()
	if err != nil {
		return fmt.Errorf("compact mirror: %w", err)
	}
	made, err := packfile.NewEncoder(w, disk, false).Encode(objects, 0)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("compact mirror: %w", err)
	}
	if err := disk.Close(); err != nil {
		return fmt.Errorf("compact mirror: %w", err)
	}
	for _, p := range packs {
		if p == made {
			continue
		}
		if err := disk.DeleteOldObjectPackAndIndex(p, time.Time{}); err != nil {
			return fmt.Errorf("compact mirror: %w", err)
		}
	}
	git, err := mirrorStorage(r.dir)
	if err != nil {
		return err
	}
	r.store.git = git // snapshots go on with the same store
	return nil
}

// packed lists the objects of a pack by its index.
func packed(path string) ([]plumbing.Hash, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	index := idxfile.NewMemoryIndex()
	if err := idxfile.NewDecoder(f).Decode(index); err != nil {
		return nil, err
	}
	entries, err := index.Entries()
	if err != nil {
		return nil, err
	}
	defer entries.Close()
	var all []plumbing.Hash
	for {
		e, err := entries.Next()
		if err != nil {
			return all, nil //nolint:nilerr // io.EOF is all it says
		}
		all = append(all, e.Hash)
	}
}

package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/fsnotify/fsnotify"
)

// maxWatched bounds the folders watched; beyond, the caller's period notices changes.
const maxWatched = 8192

// A watch tells of changes below its roots.
type watch struct {
	roots []string
	enter func(dir string) bool  // which folders are watched
	heed  func(path string) bool // which changes count
}

// run sends on changed after each change that counts until ctx ends. Changed has room for one; what is there
// already stands for this change too.
func (w watch) run(ctx context.Context, changed chan<- struct{}) error {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", w.roots[0], err)
	}
	defer n.Close()
	for _, root := range slices.Compact(w.roots) {
		if err := w.add(n, root); err != nil {
			return fmt.Errorf("watch %s: %w", root, err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-n.Events:
			if !ok {
				return nil
			}
			if e.Has(fsnotify.Create) {
				if info, err := os.Lstat(e.Name); err == nil && info.IsDir() {
					if err := w.add(n, e.Name); err != nil {
						return fmt.Errorf("watch %s: %w", e.Name, err)
					}
				}
			}
			if e.Op == fsnotify.Chmod || !w.heed(e.Name) {
				continue
			}
			notify(changed)
		case err, ok := <-n.Errors:
			if !ok {
				return nil
			}
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				notify(changed) // some were lost: look
				continue
			}
			return fmt.Errorf("watch %s: %w", w.roots[0], err)
		}
	}
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add watches a folder and those below it. A folder that is gone again is no error.
func (w watch) add(n *fsnotify.Watcher, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != root, errors.Is(err, fs.ErrPermission) && path != root:
			return nil
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case !w.enter(path):
			return filepath.SkipDir
		case len(n.WatchList()) >= maxWatched:
			return filepath.SkipAll
		}
		err = n.Add(path)
		if errors.Is(err, fs.ErrNotExist) {
			return filepath.SkipDir
		}
		return err
	})
}

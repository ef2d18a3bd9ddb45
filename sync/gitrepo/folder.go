package gitrepo

import (
	"context"
	"crypto/sha1" //nolint:gosec // Git's object ids, not a protection
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	gosync "sync"
	"syscall"
	"time"

	"github.com/varanhq/varan/plan/compose"
)

const (
	maxFolderFile = 64 << 20        // bytes of one file that is hashed
	racy          = 2 * time.Second // a file this young may change without its times showing it
)

// ErrChanged: a file changed while a view of its folder was in use.
var ErrChanged = errors.New("changed while it was read")

// A Folder is a plain folder of files as they lie on disk. Nothing but regular files is opened, no open waits,
// and no symlink is followed out.
type Folder struct {
	dir  string
	root *os.Root

	mu     gosync.Mutex // guards hashes
	hashes map[string]stamp
}

// A stamp remembers a file's hash for as long as the file looks the same.
type stamp struct {
	size, inode int64
	mtime       time.Time
	taken       time.Time
	hash        string
}

// OpenFolder opens a folder.
func OpenFolder(dir string) (*Folder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open folder %s: %w", dir, err)
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	return &Folder{dir: abs, root: root, hashes: make(map[string]stamp)}, nil
}

// Dir is where it is.
func (f *Folder) Dir() string { return f.dir }

// Close lets go of it.
func (f *Folder) Close() error { return f.root.Close() }

// View begins a view in which every file keeps the content it was first seen with: reading one that changed
// since is ErrChanged. It satisfies compose.Tree.
func (f *Folder) View() *View {
	return &View{f: f, seen: make(map[string]string)}
}

// Watch sends on changed, which has room for one, when something in the folder may have changed, until ctx
// ends. The caller waits for quiet before it reads.
func (f *Folder) Watch(ctx context.Context, changed chan<- struct{}) error {
	w := watch{
		roots: []string{f.dir},
		enter: func(dir string) bool { return filepath.Base(dir) != ".git" },
		heed:  func(p string) bool { return filepath.Base(p) != ".git" },
	}
	return w.run(ctx, changed)
}

// A View is one look at a Folder.
type View struct {
	f    *Folder
	mu   gosync.Mutex // guards seen
	seen map[string]string
}

// lstat follows no symlink, also not on the way to name.
func (v *View) lstat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("path %q leaves its tree", name)
	}
	for i, c := range name {
		if c != '/' {
			continue
		}
		info, err := v.f.root.Lstat(name[:i])
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return nil, &fs.PathError{Op: "look up", Path: name, Err: fs.ErrNotExist}
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".git" {
			return nil, &fs.PathError{Op: "look up", Path: name, Err: fs.ErrNotExist}
		}
	}
	return v.f.root.Lstat(name)
}

// Lookup implements compose.Tree. A folder's Hash is the one Git would give it, so that a commit of the same files is
// no change.
func (v *View) Lookup(name string) (compose.Entry, error) {
	info, err := v.lstat(name)
	if err != nil {
		return compose.Entry{}, err
	}
	e, err := v.entry(name, info)
	if err != nil || e.Mode != compose.ModeDir {
		return e, err
	}
	var all []compose.Entry
	err = v.Walk(name, func(below compose.Entry) error {
		if below.Hash != "" { // a FIFO or device has none, and Git does not keep it
			all = append(all, below)
		}
		return nil
	})
	e.Hash = compose.TreeHash(name, all)
	return e, err
}

func (v *View) entry(name string, info fs.FileInfo) (compose.Entry, error) {
	e := compose.Entry{Path: name}
	switch {
	case info.IsDir():
		e.Mode = compose.ModeDir
		return e, nil
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := v.f.root.Readlink(name)
		e.Mode, e.Link, e.Hash = compose.ModeSymlink, link, compose.BlobHash([]byte(link))
		return e, err
	case info.Mode().IsRegular():
		e.Mode, e.Size, e.Exec = compose.ModeFile, info.Size(), info.Mode()&0o100 != 0
		hash, err := v.hash(name, info)
		e.Hash = hash
		return e, err
	}
	return e, fmt.Errorf("%s is neither a file, a folder nor a symlink", name)
}

// hash is the blob id of a file, taken anew only when the file looks different from last time.
func (v *View) hash(name string, info fs.FileInfo) (string, error) {
	now := stamp{size: info.Size(), mtime: info.ModTime(), taken: time.Now()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		now.inode = int64(st.Ino) //nolint:gosec // compared only
		if c := time.Unix(st.Ctim.Unix()); c.After(now.mtime) {
			now.mtime = c
		}
	}
	v.f.mu.Lock()
	old, ok := v.f.hashes[name]
	v.f.mu.Unlock()
	if ok && old.size == now.size && old.inode == now.inode && old.mtime.Equal(now.mtime) && old.taken.Sub(old.mtime) > racy {
		return old.hash, v.keep(name, old.hash)
	}
	if info.Size() > maxFolderFile {
		return "", fmt.Errorf("%w: %s: %d bytes, at most %d", ErrTooBig, name, info.Size(), maxFolderFile)
	}
	file, err := v.open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha1.New() //nolint:gosec // see import
	h.Write([]byte("blob " + strconv.FormatInt(now.size, 10) + "\x00"))
	n, err := io.Copy(h, io.LimitReader(file, now.size+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if n != now.size {
		return "", fmt.Errorf("%s: %w", name, ErrChanged)
	}
	now.hash = hex.EncodeToString(h.Sum(nil))
	v.f.mu.Lock()
	v.f.hashes[name] = now
	v.f.mu.Unlock()
	return now.hash, v.keep(name, now.hash)
}

// keep holds the view to the first content seen.
func (v *View) keep(name, hash string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if first, ok := v.seen[name]; ok && first != hash {
		return fmt.Errorf("%s: %w", name, ErrChanged)
	}
	v.seen[name] = hash
	return nil
}

// open opens a regular file and nothing else, without waiting for a FIFO's other end.
func (v *View) open(name string) (*os.File, error) {
	file, err := v.f.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// Walk implements compose.Tree.
func (v *View) Walk(dir string, fn func(compose.Entry) error) error {
	return v.Find(dir, func(string, bool) bool { return true }, fn)
}

// Find is Walk for what want picks: it is asked for each path before anything of it is read, and a folder it
// does not want is not entered. What is neither file, folder nor symlink is given with Mode 0.
func (v *View) Find(dir string, want func(path string, folder bool) bool, fn func(compose.Entry) error) error {
	left := maxEntries
	return v.find(dir, want, fn, &left, 0)
}

func (v *View) find(dir string, want func(string, bool) bool, fn func(compose.Entry) error, left *int, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: %s: more than %d folders in folders", ErrTooBig, dir, maxDepth)
	}
	names, err := v.names(dir)
	if err != nil {
		return err
	}
	for _, d := range names {
		if *left--; *left < 0 {
			return fmt.Errorf("%w: more than %d paths", ErrTooBig, maxEntries)
		}
		name := join(dir, d.Name())
		if !want(name, d.IsDir()) {
			continue
		}
		if d.IsDir() {
			if err := v.find(name, want, fn, left, depth+1); err != nil {
				return err
			}
			continue
		}
		info, err := v.f.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		e := compose.Entry{Path: name}
		if info.Mode().IsRegular() || info.Mode()&fs.ModeSymlink != 0 {
			if e, err = v.entry(name, info); err != nil {
				return err
			}
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// names lists a folder in the order full paths sort.
func (v *View) names(dir string) ([]fs.DirEntry, error) {
	d, err := v.f.root.OpenFile(dir, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	all, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	good := all[:0]
	for _, e := range all {
		if goodName(e.Name()) {
			good = append(good, e)
		}
	}
	sortBy(good, func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	})
	return good, nil
}

// Read implements compose.Tree.
func (v *View) Read(name string, limit int64) ([]byte, error) {
	info, err := v.lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("read %s: %w: %d bytes, at most %d", name, ErrTooBig, info.Size(), limit)
	}
	file, err := v.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: %w: more than %d bytes", name, ErrTooBig, limit)
	}
	return data, v.keep(name, compose.BlobHash(data))
}

// Resolve follows symlinks inside the view; see [Resolve].
func (v *View) Resolve(name string) (compose.Entry, error) { return Resolve(v, path.Clean(name)) }

package stack

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
)

// maxFile bounds one file that is laid, compared or kept for a rollback.
const maxFile = 64 << 20

// A File is one file to lay. A Link makes it a symlink; Private files are readable by root alone.
type File struct {
	Path    string // slash-separated, relative to the folder
	Data    []byte
	Exec    bool
	Link    string
	Private bool
}

func (f File) hash() string {
	if f.Link != "" {
		return compose.BlobHash([]byte(f.Link))
	}
	return compose.BlobHash(f.Data)
}

func (f File) perm() uint32 {
	switch {
	case f.Private:
		return 0o600
	case f.Exec:
		return 0o755
	}
	return 0o644
}

// Seen is a file as it was when it was laid. Size, Ctime and Inode only save reading it again.
type Seen struct {
	Hash  string `json:"hash"` // Git's blob id of its content, or of a symlink's text
	Link  bool   `json:"link,omitempty"`
	Size  int64  `json:"size"`
	Ctime int64  `json:"ctime"` // nanoseconds since 1970
	Inode uint64 `json:"inode,omitempty"`
	// Made: nothing stood there before, or it was written over with values of secrets. What stood there when the stack
	// came is not taken away with it, unless the whole folder is the agent's.
	Made bool `json:"made,omitempty"`
}

// A Manifest lists the files a stack laid, by path.
type Manifest map[string]Seen

// A Dir is a stack's folder. It cannot be left, follows no symlink, waits for nothing and opens nothing but
// regular files with one name; whatever else a container has put in the way is an error that names it.
type Dir struct {
	path string
	root *os.File
	undo string
}

// OpenDir opens, or makes, the folder at path. undo names the file in which what Lay changes is kept until Keep.
func OpenDir(dir, undo string) (*Dir, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the stack's folder: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(undo), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for rollbacks: %w", err)
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open the stack's folder: %w", err)
	}
	return &Dir{path: dir, root: f, undo: undo}, nil
}

// Close releases the handle.
func (d *Dir) Close() error { return d.root.Close() }

func (d *Dir) wrong(name, what string) error {
	return fmt.Errorf("%s in the stack's folder %s", path.Join(d.path, name), what)
}

// parent opens the folder name stands in, making what is missing of the way if asked.
func (d *Dir) parent(name string, create bool) (*os.File, string, error) {
	if !fs.ValidPath(name) || name == "." {
		return nil, "", fmt.Errorf("path %q leaves the stack's folder", name)
	}
	at, err := unix.FcntlInt(d.root.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, "", err
	}
	parts := strings.Split(name, "/")
	for i, p := range parts[:len(parts)-1] {
		const how = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		next, err := unix.Openat(at, p, how, 0)
		if errors.Is(err, unix.ENOENT) && create {
			if err = unix.Mkdirat(at, p, 0o755); err == nil || errors.Is(err, unix.EEXIST) {
				next, err = unix.Openat(at, p, how, 0)
			}
		}
		unix.Close(at)
		switch here := path.Join(parts[:i+1]...); {
		case errors.Is(err, unix.ENOENT):
			return nil, "", &fs.PathError{Op: "open", Path: here, Err: fs.ErrNotExist}
		case errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR):
			return nil, "", d.wrong(here, "should be a folder, but something else stands there")
		case err != nil:
			return nil, "", &fs.PathError{Op: "open", Path: path.Join(d.path, here), Err: err}
		}
		at = next
	}
	return os.NewFile(uintptr(at), path.Dir(name)), parts[len(parts)-1], nil
}

// A node is what stands at a path: nothing, a regular file or a symlink.
type node struct {
	exists bool
	link   bool
	text   string // of a symlink
	data   []byte
	perm   uint32
	stat   unix.Stat_t
}

func (n node) hash() string {
	if n.link {
		return compose.BlobHash([]byte(n.text))
	}
	return compose.BlobHash(n.data)
}

func (n node) seen() Seen {
	return Seen{Hash: n.hash(), Link: n.link, Size: n.stat.Size, Ctime: n.stat.Ctim.Nano(), Inode: n.stat.Ino}
}

func (s Seen) by(made bool) Seen {
	s.Made = made
	return s
}

// look tells what stands at name, with its content.
func (d *Dir) look(name string) (node, error) {
	dir, base, err := d.parent(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return node{}, nil
	}
	if err != nil {
		return node{}, err
	}
	defer dir.Close()
	var n node
	if err := unix.Fstatat(int(dir.Fd()), base, &n.stat, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
		return node{}, nil
	} else if err != nil {
		return node{}, &fs.PathError{Op: "look at", Path: path.Join(d.path, name), Err: err}
	}
	n.exists = true
	if n.stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		buf := make([]byte, 4096)
		size, err := unix.Readlinkat(int(dir.Fd()), base, buf)
		if err != nil {
			return node{}, &fs.PathError{Op: "read link", Path: path.Join(d.path, name), Err: err}
		}
		n.link, n.text = true, string(buf[:size])
		return n, nil
	}
	f, stat, err := d.open(dir, base, name, unix.O_RDONLY)
	if err != nil {
		return node{}, err
	}
	defer f.Close()
	n.stat, n.perm = stat, stat.Mode&0o7777
	n.data, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return node{}, err
	}
	if len(n.data) > maxFile {
		return node{}, d.wrong(name, fmt.Sprintf("is larger than %d MB", maxFile>>20))
	}
	return n, nil
}

// open opens the regular file base of dir. A handle without access is looked at first, so that a device or FIFO
// is never opened and no other file than the one looked at is.
func (d *Dir) open(dir *os.File, base, name string, how int) (*os.File, unix.Stat_t, error) {
	var stat unix.Stat_t
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, stat, &fs.PathError{Op: "open", Path: path.Join(d.path, name), Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, stat, &fs.PathError{Op: "look at", Path: path.Join(d.path, name), Err: err}
	}
	switch {
	case stat.Mode&unix.S_IFMT == unix.S_IFDIR:
		return nil, stat, d.wrong(name, "should be a file, but is a folder")
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, stat, d.wrong(name, "is no regular file (a symlink, FIFO, socket or device); remove it")
	case stat.Nlink > 1:
		return nil, stat, d.wrong(name, "has a second name (a hard link); remove one of them")
	}
	// One name may be the other one by now: a hard link to a file elsewhere, taken away between the two looks. Only
	// a file whose one name is still this one is ours to write.
	var named unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), base, &named, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || named.Dev != stat.Dev || named.Ino != stat.Ino || named.Nlink != 1 {
		return nil, stat, d.wrong(name, "was replaced while it was looked at")
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), how|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, stat, &fs.PathError{Op: "open", Path: path.Join(d.path, name), Err: errors.Unwrap(err)}
	}
	return f, stat, nil
}

// put makes name what n says: in place where a file stands.
func (d *Dir) put(name string, n node) error {
	dir, base, err := d.parent(name, n.exists)
	if errors.Is(err, fs.ErrNotExist) && !n.exists {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	at := int(dir.Fd())
	var stat unix.Stat_t
	err = unix.Fstatat(at, base, &stat, unix.AT_SYMLINK_NOFOLLOW)
	here := err == nil
	isLink := here && stat.Mode&unix.S_IFMT == unix.S_IFLNK
	isFile := here && stat.Mode&unix.S_IFMT == unix.S_IFREG
	if here && !isLink && !isFile {
		return d.wrong(name, "is no regular file (a folder, FIFO, socket or device); remove it")
	}
	fail := func(op string, err error) error {
		return &fs.PathError{Op: op, Path: path.Join(d.path, name), Err: err}
	}
	if here && (!n.exists || n.link || isLink) {
		if err := unix.Unlinkat(at, base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return fail("remove", err)
		}
		here = false
	}
	switch {
	case !n.exists:
		d.prune(path.Dir(name))
		return nil
	case n.link:
		if err := unix.Symlinkat(n.text, at, base); err != nil {
			return fail("make symlink", err)
		}
		return nil
	}
	var f *os.File
	if here {
		if f, _, err = d.open(dir, base, name, unix.O_WRONLY); err != nil {
			return err
		}
	} else {
		fd, err := unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, n.perm)
		if err != nil {
			return fail("make", err)
		}
		f = os.NewFile(uintptr(fd), name)
	}
	defer f.Close()
	if err := f.Truncate(0); err != nil {
		return fail("empty", err)
	}
	if _, err := f.Write(n.data); err != nil {
		return fail("write", err)
	}
	if err := unix.Fchmod(int(f.Fd()), n.perm); err != nil {
		return fail("set mode of", err)
	}
	return nil
}

// prune removes folders that became empty.
func (d *Dir) prune(name string) {
	for ; name != "."; name = path.Dir(name) {
		dir, base, err := d.parent(name, false)
		if err != nil {
			return
		}
		err = unix.Unlinkat(int(dir.Fd()), base, unix.AT_REMOVEDIR)
		dir.Close()
		if err != nil {
			return
		}
	}
}

// kept is one path as it was before Lay.
type kept struct {
	Path   string `json:"path"`
	Exists bool   `json:"exists"`
	Link   string `json:"link,omitempty"`
	Data   []byte `json:"data,omitempty"`
	Perm   uint32 `json:"perm,omitempty"`
}

// Lay writes files into the folder, changed ones in place, and removes those of before that are gone, unless
// somebody changed them meanwhile. It first notes what it is about to change, so that Restore undoes it after a
// failure or a kill. A file that is as it should be is not written.
func (d *Dir) Lay(files []File, before Manifest) (Manifest, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	after := Manifest{}
	type change struct {
		path string
		to   node
	}
	var changes []change
	var undo []kept
	made := func(f File, n node) bool {
		if b, ok := before[f.Path]; ok {
			return b.Made
		}
		return f.Private || !n.exists
	}
	mades := map[string]bool{}
	note := func(name string, from, to node) {
		changes = append(changes, change{name, to})
		undo = append(undo, kept{Path: name, Exists: from.exists, Link: from.text, Data: from.data, Perm: from.perm})
	}
	wanted := map[string]bool{}
	for _, f := range files {
		wanted[f.Path] = true
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if wanted[name] {
			continue
		}
		if n, err := d.look(name); err == nil && n.exists && n.hash() == before[name].Hash && n.link == before[name].Link {
			note(name, n, node{})
		}
	}
	gone := len(changes)
	for _, f := range files {
		if f.Link != "" {
			if err := inside(f.Path, f.Link); err != nil {
				return nil, err
			}
		}
		n, err := d.look(f.Path)
		if err != nil && slices.ContainsFunc(changes[:gone], func(c change) bool { return strings.HasPrefix(f.Path, c.path+"/") }) {
			n, err = node{}, nil // a file that goes makes room for a folder
		}
		if err != nil {
			return nil, err
		}
		if n.exists && n.link && f.Link == "" && before[f.Path].Hash == "" {
			return nil, d.wrong(f.Path, "is a symlink that varan did not make; remove it")
		}
		same := n.exists && n.link == (f.Link != "") && n.hash() == f.hash() && (n.link || n.perm&0o111 == f.perm()&0o111 && (!f.Private || n.perm == 0o600))
		mades[f.Path] = made(f, n)
		if same {
			after[f.Path] = n.seen().by(mades[f.Path])
			continue
		}
		perm := f.perm()
		if n.exists && !n.link && !f.Private && n.perm&0o111 == perm&0o111 {
			perm = n.perm // somebody's wider or narrower mode is theirs
		}
		note(f.Path, n, node{exists: true, link: f.Link != "", text: f.Link, data: f.Data, perm: perm})
	}
	if len(changes) == 0 {
		return after, nil
	}
	if err := d.remember(undo); err != nil {
		return nil, err
	}
	for _, c := range changes {
		if err := d.put(c.path, c.to); err != nil {
			return nil, err
		}
		if !c.to.exists {
			continue
		}
		n, err := d.look(c.path)
		if err != nil {
			return nil, err
		}
		if n.hash() != c.to.hash() {
			return nil, d.wrong(c.path, "was changed while it was being written")
		}
		after[c.path] = n.seen().by(mades[c.path])
	}
	return after, nil
}

// inside reports whether a symlink at name that points to target stays in the folder.
func inside(name, target string) error {
	p := path.Join(path.Dir(name), target)
	if path.IsAbs(target) || p == ".." || strings.HasPrefix(p, "../") {
		return fmt.Errorf("symlink %s points to %s, outside the repository", name, target)
	}
	return nil
}

// remember adds to the undo file; a path that stands in it already keeps its older state.
func (d *Dir) remember(undo []kept) error {
	old, err := d.remembered()
	if err != nil {
		return err
	}
	for _, k := range undo {
		if !slices.ContainsFunc(old, func(o kept) bool { return o.Path == k.Path }) {
			old = append(old, k)
		}
	}
	data, err := json.Marshal(old)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(d.undo+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keep the files as they were: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), d.undo)
	}
	if err != nil {
		return fmt.Errorf("keep the files as they were: %w", err)
	}
	return nil
}

func (d *Dir) remembered() ([]kept, error) {
	data, err := os.ReadFile(d.undo)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the files as they were: %w", err)
	}
	var out []kept
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("read the files as they were: %w", err)
	}
	return out, nil
}

// Restore puts back everything Lay changed since the last Keep. Without anything to put back it does nothing.
func (d *Dir) Restore() error {
	undo, err := d.remembered()
	if err != nil {
		return err
	}
	// What was not there goes first, so that a folder may become a file again.
	slices.SortStableFunc(undo, func(a, b kept) int {
		if a.Exists != b.Exists {
			return map[bool]int{false: -1, true: 1}[a.Exists]
		}
		return cmp.Compare(a.Path, b.Path)
	})
	var errs []error
	for _, k := range undo {
		errs = append(errs, d.put(k.Path, node{exists: k.Exists, link: k.Link != "", text: k.Link, data: k.Data, perm: k.Perm}))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("put the files back: %w", err)
	}
	return d.Keep()
}

// Keep forgets how the files were: what was laid stays.
func (d *Dir) Keep() error {
	if err := os.Remove(d.undo); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Drifted lists the files of a manifest that are gone or were changed, and brings what it knows of the others
// up to date.
func (d *Dir) Drifted(m Manifest) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		seen := m[name]
		if d.unchanged(name, seen) {
			continue
		}
		n, err := d.look(name)
		if err != nil || !n.exists || n.link != seen.Link || n.hash() != seen.Hash {
			out = append(out, name)
			continue
		}
		m[name] = n.seen().by(seen.Made)
	}
	return out
}

func (d *Dir) unchanged(name string, seen Seen) bool {
	dir, base, err := d.parent(name, false)
	if err != nil {
		return false
	}
	defer dir.Close()
	var stat unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), base, &stat, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	return seen.Ctime != 0 && stat.Ino == seen.Inode && stat.Size == seen.Size && stat.Ctim.Nano() == seen.Ctime
}

// Remove takes away the files of a manifest that are ours and as they were laid, and folders that become empty by
// it. The names of ours that are otherwise by now, and stay, are returned. To do it again, or the rest of it, is fine.
func (d *Dir) Remove(m Manifest, ours func(name string, s Seen) bool) (stay []string, err error) {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !ours(name, m[name]) {
			continue
		}
		n, err := d.look(name)
		switch {
		case err != nil, n.exists && (n.link != m[name].Link || n.hash() != m[name].Hash):
			stay = append(stay, name) // somebody's by now
		case n.exists:
			errs = append(errs, d.put(name, node{}))
		}
	}
	return stay, errors.Join(errs...)
}

// Home is the folder of a stack's files below the agent's root, where nothing names another.
func Home(root string, id schema.ID) string { return filepath.Join(root, "stacks", Segment(id.Name())) }

// Unlay takes away what a stack laid in the folder base, its undo file, and base itself if that is left empty and is
// the agent's own. spare keeps files, by their absolute path, that others have laid too.
func Unlay(root string, id schema.ID, base string, m Manifest, spare func(abs string) bool) (stay []string, err error) {
	undo := UndoFile(root, id)
	if base == "" {
		return nil, nil
	}
	if _, err := os.Lstat(base); errors.Is(err, fs.ErrNotExist) {
		return nil, (&Dir{undo: undo}).Keep()
	}
	d, err := OpenDir(base, undo)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	// What an update that failed could not put back is tried once more; it is of no use after this.
	_ = d.Restore()
	if err := d.Keep(); err != nil {
		return nil, err
	}
	own := filepath.Dir(base) == filepath.Join(root, "stacks")
	stay, err = d.Remove(m, func(name string, s Seen) bool { return (own || s.Made) && !spare(filepath.Join(base, name)) })
	if err == nil && own {
		_ = os.Remove(base) // if empty
	}
	return stay, err
}

// ReadHost reads a regular file of the host without waiting for anything. ok is false where there is none.
func ReadHost(abs string) (data []byte, ok bool, err error) {
	fd, err := unix.Open(abs, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, &fs.PathError{Op: "open", Path: abs, Err: err}
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, false, &fs.PathError{Op: "look at", Path: abs, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, false, fmt.Errorf("%s is not a regular file (a symlink is not followed)", abs)
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, &fs.PathError{Op: "open", Path: abs, Err: errors.Unwrap(err)}
	}
	defer f.Close()
	data, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d MB", abs, maxFile>>20)
	}
	return data, err == nil, err
}

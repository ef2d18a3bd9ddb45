package compose

import (
	"bytes"
	"cmp"
	"crypto/sha1" //nolint:gosec // Git's object ids, not a protection
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"syscall"
)

// A Mode is what stands at a path.
type Mode uint8

const (
	ModeFile Mode = iota + 1
	ModeDir
	ModeSymlink
)

// An Entry is one path of a Tree.
type Entry struct {
	Path string // slash-separated, relative to the root; "." for the root
	Mode Mode
	Hash string // Git's id of the blob (of the link's text for a symlink) or tree
	Size int64  // of a file, in bytes
	Exec bool
	Link string // where a symlink points, as written
}

// A Tree is a commit's files, or a folder's. Paths are slash-separated and relative to the root; a Tree never
// gives anything that lies outside it and does not follow symlinks.
type Tree interface {
	// Lookup tells what stands at path. The error is fs.ErrNotExist if nothing does.
	Lookup(path string) (Entry, error)
	// Walk calls fn for every regular file and symlink below dir, sorted by path. It ends at fn's first error.
	Walk(dir string, fn func(Entry) error) error
	// Read returns a regular file's content; one larger than limit bytes is an error.
	Read(path string, limit int64) ([]byte, error)
}

// BlobHash is Git's id of a file's content.
func BlobHash(data []byte) string {
	h := sha1.New() //nolint:gosec // see import
	fmt.Fprintf(h, "blob %d\x00", len(data))
	h.Write(data)
	return hex.EncodeToString(h.Sum(nil))
}

// A treeItem is one entry of a Git tree object.
type treeItem struct {
	name string
	mode string
	hash string
}

// treeHash is Git's id of a folder with these entries.
func treeHash(items []treeItem) string {
	key := func(i treeItem) string {
		if i.mode == "40000" {
			return i.name + "/"
		}
		return i.name
	}
	slices.SortFunc(items, func(a, b treeItem) int { return cmp.Compare(key(a), key(b)) })
	var body bytes.Buffer
	for _, i := range items {
		raw, _ := hex.DecodeString(i.hash)
		fmt.Fprintf(&body, "%s %s\x00", i.mode, i.name)
		body.Write(raw)
	}
	h := sha1.New() //nolint:gosec // see import
	fmt.Fprintf(h, "tree %d\x00", body.Len())
	h.Write(body.Bytes())
	return hex.EncodeToString(h.Sum(nil))
}

// TreeHash is Git's id of a folder with these files and symlinks somewhere below it.
func TreeHash(dir string, below []Entry) string {
	prefix := dir + "/"
	if dir == "." {
		prefix = ""
	}
	var items []treeItem
	folders := make(map[string][]Entry)
	for _, e := range below {
		name, _, deeper := strings.Cut(strings.TrimPrefix(e.Path, prefix), "/")
		if deeper {
			folders[name] = append(folders[name], e)
		} else {
			items = append(items, treeItem{name: name, mode: gitMode(e), hash: e.Hash})
		}
	}
	for name, inside := range folders {
		items = append(items, treeItem{name: name, mode: "40000", hash: TreeHash(prefix+name, inside)})
	}
	return treeHash(items)
}

func gitMode(e Entry) string {
	switch {
	case e.Mode == ModeDir:
		return "40000"
	case e.Mode == ModeSymlink:
		return "120000"
	case e.Exec:
		return "100755"
	}
	return "100644"
}

// A Memory is a Tree of files held in memory: what an agent was sent, or a test's.
type Memory struct {
	files map[string]memoryFile
	dirs  map[string]map[string]bool // folder → names in it
}

type memoryFile struct {
	entry Entry
	data  []byte
}

// NewMemory returns an empty Tree.
func NewMemory() *Memory {
	return &Memory{files: map[string]memoryFile{}, dirs: map[string]map[string]bool{".": {}}}
}

// Add puts a file at path, which must be clean and inside the tree; link makes it a symlink.
func (m *Memory) Add(name string, data []byte, exec bool, link string) error {
	if !fs.ValidPath(name) || name == "." {
		return fmt.Errorf("path %q leaves its tree", name)
	}
	e := Entry{Path: name, Mode: ModeFile, Size: int64(len(data)), Exec: exec, Hash: BlobHash(data)}
	if link != "" {
		e = Entry{Path: name, Mode: ModeSymlink, Link: link, Hash: BlobHash([]byte(link))}
	}
	m.files[name] = memoryFile{entry: e, data: data}
	for name != "." {
		dir := path.Dir(name)
		if m.dirs[dir] == nil {
			m.dirs[dir] = map[string]bool{}
		}
		m.dirs[dir][path.Base(name)] = true
		name = dir
	}
	return nil
}

// Lookup implements Tree.
func (m *Memory) Lookup(name string) (Entry, error) {
	if f, ok := m.files[name]; ok {
		return f.entry, nil
	}
	names, ok := m.dirs[name]
	if !ok {
		return Entry{}, &fs.PathError{Op: "look up", Path: name, Err: fs.ErrNotExist}
	}
	var items []treeItem
	for n := range names {
		e, err := m.Lookup(path.Join(name, n))
		if err != nil {
			return Entry{}, err
		}
		items = append(items, treeItem{name: n, mode: gitMode(e), hash: e.Hash})
	}
	return Entry{Path: name, Mode: ModeDir, Hash: treeHash(items)}, nil
}

// Walk implements Tree.
func (m *Memory) Walk(dir string, fn func(Entry) error) error {
	var names []string
	for n := range m.files {
		if dir == "." || strings.HasPrefix(n, dir+"/") {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	for _, n := range names {
		if err := fn(m.files[n].entry); err != nil {
			return err
		}
	}
	return nil
}

// Read implements Tree.
func (m *Memory) Read(name string, limit int64) ([]byte, error) {
	f, ok := m.files[name]
	if !ok || f.entry.Mode != ModeFile {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	if int64(len(f.data)) > limit {
		return nil, tooLarge(name, limit)
	}
	return f.data, nil
}

func tooLarge(name string, limit int64) error {
	return fmt.Errorf("%s is larger than %d bytes", name, limit)
}

// A Folder is a Tree of what lies below an os.Root now. Nothing but regular files is opened, and no open
// waits: a FIFO or a device in the folder is an error that names it.
type Folder struct {
	root    *os.Root
	max     int64
	shallow bool // folders have no Hash
}

// NewFolder gives the files below root; root stays the caller's to close.
func NewFolder(root *os.Root) *Folder { return &Folder{root: root, max: 64 << 20} }

// NewHost gives the files of a host. Its folders have no Hash: they may hold anything.
func NewHost(root *os.Root) *Folder { return &Folder{root: root, max: 64 << 20, shallow: true} }

// Lookup implements Tree. A folder's Hash is computed from all files below it.
func (f *Folder) Lookup(name string) (Entry, error) {
	return f.lookup(name, true)
}

func (f *Folder) lookup(name string, hash bool) (Entry, error) {
	info, err := f.lstat(name)
	if err != nil {
		return Entry{}, err
	}
	switch {
	case info.IsDir():
		e := Entry{Path: name, Mode: ModeDir}
		if hash && !f.shallow {
			e.Hash, err = f.dirHash(name)
		}
		return e, err
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := f.root.Readlink(name)
		return Entry{Path: name, Mode: ModeSymlink, Link: link, Hash: BlobHash([]byte(link))}, err
	case info.Mode().IsRegular():
		e := Entry{Path: name, Mode: ModeFile, Size: info.Size(), Exec: info.Mode()&0o100 != 0}
		if hash {
			data, err := f.Read(name, f.max)
			if err != nil {
				return e, err
			}
			e.Hash = BlobHash(data)
		}
		return e, nil
	}
	return Entry{}, fmt.Errorf("%s is neither a file, a folder nor a symlink", name)
}

// lstat follows no symlink, also not on the way to name.
func (f *Folder) lstat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("path %q leaves its tree", name)
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		info, err := f.root.Lstat(dir)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return nil, &fs.PathError{Op: "look up", Path: name, Err: fs.ErrNotExist}
		}
	}
	return f.root.Lstat(name)
}

func (f *Folder) names(dir string) ([]string, error) {
	d, err := f.root.OpenFile(dir, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	sort.Strings(names)
	return names, err
}

func (f *Folder) dirHash(dir string) (string, error) {
	names, err := f.names(dir)
	if err != nil {
		return "", err
	}
	var items []treeItem
	for _, n := range names {
		if n == ".git" {
			continue
		}
		e, err := f.Lookup(path.Join(dir, n))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if e.Mode == ModeDir && e.Hash == treeHash(nil) {
			continue // Git keeps no empty folder
		}
		items = append(items, treeItem{name: n, mode: gitMode(e), hash: e.Hash})
	}
	return treeHash(items), nil
}

// Walk implements Tree.
func (f *Folder) Walk(dir string, fn func(Entry) error) error {
	names, err := f.names(dir)
	if err != nil {
		return err
	}
	// A folder sorts as its name with a slash, so that paths come in one order.
	type item struct {
		key string
		e   Entry
	}
	var items []item
	for _, n := range names {
		if n == ".git" {
			continue
		}
		e, err := f.lookup(path.Join(dir, n), false)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		key := e.Path
		if e.Mode == ModeDir {
			key += "/"
		}
		items = append(items, item{key, e})
	}
	slices.SortFunc(items, func(a, b item) int { return cmp.Compare(a.key, b.key) })
	for _, i := range items {
		if i.e.Mode == ModeDir {
			if err := f.Walk(i.e.Path, fn); err != nil {
				return err
			}
			continue
		}
		e, err := f.Lookup(i.e.Path)
		if err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// Read implements Tree.
func (f *Folder) Read(name string, limit int64) ([]byte, error) {
	if _, err := f.lstat(name); err != nil {
		return nil, err
	}
	file, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, tooLarge(name, limit)
	}
	return data, err
}

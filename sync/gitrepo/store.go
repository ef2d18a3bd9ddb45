package gitrepo

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/memory"
)

// objectCache bounds the memory go-git keeps for delta bases. Blobs are read once and parsed results are kept
// elsewhere, so little suffices.
const objectCache = 4 * cache.MiByte

// gitStorage is what a store needs of go-git, on disk or in memory.
type gitStorage interface {
	storer.EncodedObjectStorer
	storer.ReferenceStorer
	storer.ShallowStorer
}

// A store reads objects and keeps the trees it decoded. go-git's storage is not safe for concurrent use, so
// one mutex guards it all.
type store struct {
	mu    gosync.Mutex
	git   gitStorage
	trees map[plumbing.Hash]*treeNode
	sizes map[plumbing.Hash]int64 // of blobs: asking a loose object means to open and inflate it
	age   int                     // counts snapshots: a tree not used by the last two is forgotten
}

// maxSizes bounds sizes; beyond it they are learned anew.
const maxSizes = 100_000

// A treeNode is one decoded tree object.
type treeNode struct {
	items []treeItem // sorted by name
	age   int
}

type treeItem struct {
	name string
	mode filemode.FileMode
	hash plumbing.Hash
}

func newStore(git gitStorage) *store {
	return &store{git: git, trees: make(map[plumbing.Hash]*treeNode), sizes: make(map[plumbing.Hash]int64)}
}

// mirrorStorage is a bare repository that only we touch; dir "" keeps it in memory.
func mirrorStorage(dir string) (gitStorage, error) {
	if dir == "" {
		return memory.NewStorage(), nil
	}
	s := filesystem.NewStorageWithOptions(osfs.New(dir), cache.NewObjectLRU(objectCache), filesystem.Options{
		ExclusiveAccess:      true,
		KeepDescriptors:      true,
		LargeObjectThreshold: 8 << 20,
	})
	if err := s.Init(); err != nil {
		return nil, fmt.Errorf("open mirror %s: %w", dir, err)
	}
	return s, nil
}

func (st *store) close() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if c, ok := st.git.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// replace goes on with another storage; snapshots go on with it too.
func (st *store) replace(git gitStorage) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.git = git
	clear(st.trees)
	clear(st.sizes)
}

func (st *store) has(h plumbing.Hash) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.holds(h)
}

// holds asks for the object's size: with ExclusiveAccess go-git's HasEncodedObject overlooks packed objects.
// The caller holds st.mu.
func (st *store) holds(h plumbing.Hash) bool {
	_, err := st.git.EncodedObjectSize(h)
	return err == nil
}

// A commitInfo is what varan reads of a commit.
type commitInfo struct {
	tree    plumbing.Hash
	parents []plumbing.Hash
	when    time.Time
	author  string
	subject string
}

// commit reads a commit, following an annotated tag to it.
func (st *store) commit(h plumbing.Hash) (plumbing.Hash, commitInfo, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for range 5 {
		o, err := st.git.EncodedObject(plumbing.AnyObject, h)
		if err != nil {
			return h, commitInfo{}, err
		}
		switch o.Type() {
		case plumbing.TagObject:
			var t object.Tag
			if err := t.Decode(o); err != nil {
				return h, commitInfo{}, fmt.Errorf("read tag %s: %w", h, err)
			}
			h = t.Target
		case plumbing.CommitObject:
			var c object.Commit
			if err := c.Decode(o); err != nil {
				return h, commitInfo{}, fmt.Errorf("read commit %s: %w", h, err)
			}
			subject, _, _ := strings.Cut(c.Message, "\n")
			return h, commitInfo{tree: c.TreeHash, parents: c.ParentHashes, when: c.Committer.When,
				author: c.Author.Name, subject: subject}, nil
		default:
			return h, commitInfo{}, fmt.Errorf("%s is a %s, not a commit", h, o.Type())
		}
	}
	return h, commitInfo{}, fmt.Errorf("%s: too many tags on tags", h)
}

// grow begins a new snapshot: trees that neither it nor the one before uses are forgotten.
func (st *store) grow() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.age++
	for h, n := range st.trees {
		if n.age < st.age-2 {
			delete(st.trees, h)
		}
	}
}

func (st *store) tree(h plumbing.Hash) (*treeNode, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if n := st.trees[h]; n != nil {
		n.age = st.age
		return n, nil
	}
	o, err := st.git.EncodedObject(plumbing.TreeObject, h)
	if err != nil {
		return nil, fmt.Errorf("read tree %s: %w", h, err)
	}
	n, err := decodeTree(o)
	if err != nil {
		return nil, fmt.Errorf("read tree %s: %w", h, err)
	}
	n.age = st.age
	st.trees[h] = n
	return n, nil
}

func decodeTree(o plumbing.EncodedObject) (*treeNode, error) {
	if o.Size() > maxTreeObject {
		return nil, fmt.Errorf("%w: a folder's list", ErrTooBig)
	}
	var t object.Tree
	if err := t.Decode(o); err != nil {
		return nil, err
	}
	n := &treeNode{items: make([]treeItem, 0, len(t.Entries))}
	for _, e := range t.Entries {
		if !goodName(e.Name) || e.Mode == filemode.Submodule {
			continue
		}
		n.items = append(n.items, treeItem{name: e.Name, mode: e.Mode, hash: e.Hash})
	}
	slices.SortFunc(n.items, func(a, b treeItem) int { return strings.Compare(a.name, b.name) })
	return n, nil
}

func (n *treeNode) find(name string) (treeItem, bool) {
	i, ok := slices.BinarySearchFunc(n.items, name, func(t treeItem, name string) int { return strings.Compare(t.name, name) })
	if !ok {
		return treeItem{}, false
	}
	return n.items[i], true
}

// goodName refuses what could become another path once laid on a host.
func goodName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00") && !strings.EqualFold(name, ".git")
}

func (st *store) blobSize(h plumbing.Hash) (int64, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if size, ok := st.sizes[h]; ok {
		return size, nil
	}
	size, err := st.git.EncodedObjectSize(h)
	if err != nil {
		return 0, err
	}
	if len(st.sizes) >= maxSizes {
		clear(st.sizes)
	}
	st.sizes[h] = size
	return size, nil
}

// blob reads a blob of at most limit bytes.
func (st *store) blob(h plumbing.Hash, limit int64) (data []byte, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	size, err := st.git.EncodedObjectSize(h)
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooBig, size, limit)
	}
	o, err := st.git.EncodedObject(plumbing.BlobObject, h)
	if err != nil {
		return nil, err
	}
	r, err := o.Reader()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data = make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	return data, nil
}

func (st *store) shallows() ([]plumbing.Hash, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	s, err := st.git.Shallow()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return s, err
}

func (st *store) setRef(branch string, h plumbing.Hash) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.git.SetReference(plumbing.NewHashReference(plumbing.NewBranchReferenceName(branch), h))
}

func (st *store) ref(name plumbing.ReferenceName) (*plumbing.Reference, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return storer.ResolveReference(st.git, name)
}

// tips are the commits our refs name: what we have.
func (st *store) tips() ([]plumbing.Hash, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	iter, err := st.git.IterReferences()
	if err != nil {
		return nil, err
	}
	var tips []plumbing.Hash
	err = iter.ForEach(func(r *plumbing.Reference) error {
		if r.Type() == plumbing.HashReference && st.holds(r.Hash()) {
			tips = append(tips, r.Hash())
		}
		return nil
	})
	return tips, err
}

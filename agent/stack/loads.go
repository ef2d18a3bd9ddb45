package stack

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
)

// keptLoads bounds how many projects are kept, keptFor how long: they hold the values of secrets.
const (
	keptLoads = 8
	keptFor   = time.Minute
)

// Loads keeps projects as a Prepare op has loaded them, for the Deploy op that follows: to load one of 50 services
// takes longer than all else the agent does for a change. A kept one is used if it would be loaded from the very same
// again. The zero value is ready; it may be used side by side.
type Loads struct {
	mu   sync.Mutex // guards list
	list []loaded   // oldest first
}

// A loaded project, and what it was loaded from: key stands for all that came with the op.
type loaded struct {
	key     [sha256.Size]byte
	looks   []look
	project *compose.Project
}

// A look is one thing the loader asked about this host, and the answer.
type look struct {
	host bool // a file of the host, else a path of the stack's folder
	name string
	what string
}

func (l *Loads) find(key [sha256.Size]byte) (loaded, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.list, func(e loaded) bool { return e.key == key })
	if i < 0 {
		return loaded{}, false
	}
	return l.list[i], true
}

func (l *Loads) drop(key [sha256.Size]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(e loaded) bool { return e.key == key })
}

func (l *Loads) keep(e loaded) {
	l.drop(e.key)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
	if n := len(l.list) - keptLoads; n > 0 {
		l.list = slices.Delete(l.list, 0, n)
	}
	time.AfterFunc(keptFor, func() { l.drop(e.key) })
}

// key stands for everything a project is loaded from but this host's files.
func (s *Stack) key(early bool) ([sha256.Size]byte, error) {
	h := sha256.New()
	err := json.NewEncoder(h).Encode(struct {
		Resource schema.ID
		Config   *schema.StackConfig
		Secrets  map[string]string
		Dir      string
		Early    bool
		Files    int
	}{s.op.Resource, s.cfg(), s.secrets, s.dir, early, len(s.payload.Files)})
	for _, f := range s.payload.Files {
		fmt.Fprintf(h, "%q %q %v %d:", f.Path, f.Symlink, f.Exec, len(f.Data))
		h.Write(f.Data)
	}
	return [sha256.Size]byte(h.Sum(nil)), err
}

// load reads the project as compose will see it; early, what pre_deploy makes may be missing. last says that nobody
// asks for it after this.
func (s *Stack) load(ctx context.Context, early, last bool) (*compose.Project, error) {
	if s.cfg().FilesOnHost || s.opts.Loads == nil {
		return s.read(ctx, early, nil)
	}
	key, err := s.key(early)
	if err != nil {
		return nil, err
	}
	if e, ok := s.opts.Loads.find(key); ok {
		if last {
			s.opts.Loads.drop(key)
		}
		same, err := s.same(e.looks)
		if err != nil {
			return nil, err
		}
		if same {
			return e.project, nil
		}
	}
	var mu sync.Mutex
	var looks []look
	p, err := s.read(ctx, early, func(l look) {
		mu.Lock()
		defer mu.Unlock()
		looks = append(looks, l)
	})
	if err == nil && !last {
		s.opts.Loads.keep(loaded{key, looks, p})
	}
	return p, err
}

// same reports whether this host answers as it did.
func (s *Stack) same(looks []look) (bool, error) {
	tree, done, err := s.tree(nil)
	if err != nil {
		return false, err
	}
	defer done()
	for _, l := range looks {
		what := ""
		if l.host {
			what = answer(s.file(l.name))
		} else {
			what = entry(tree.Lookup(l.name))
		}
		if what != l.what {
			return false, nil
		}
	}
	return true, nil
}

func entry(e compose.Entry, err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "absent"
	}
	return fmt.Sprint(e.Mode, e.Hash, e.Exec, e.Link, err)
}

func answer(data []byte, ok bool, err error) string {
	return fmt.Sprintf("%x %v %v", sha256.Sum256(data), ok, err)
}

// tree is the files that were sent over those in the stack's folder, and how to let go of it. note hears what is
// asked about the folder.
func (s *Stack) tree(note func(look)) (overlay, func(), error) {
	sent, err := s.sent()
	if err != nil {
		return overlay{}, nil, err
	}
	o := overlay{sent: sent, note: note}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return o, func() {}, nil // nothing was laid yet
	}
	o.folder = compose.NewFolder(root)
	return o, func() { root.Close() }, nil
}

// read loads the project.
func (s *Stack) read(ctx context.Context, early bool, note func(look)) (*compose.Project, error) {
	in := compose.Input{Resource: s.res, OnHost: s.cfg().FilesOnHost}
	file := s.file
	if in.OnHost {
		root, err := os.OpenRoot(s.dir)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", s.dir, err)
		}
		defer root.Close()
		in.Tree = hostTree{compose.NewHost(root), s.fence}
	} else {
		tree, done, err := s.tree(note)
		if err != nil {
			return nil, err
		}
		defer done()
		in.Tree = tree
	}
	if note != nil {
		file = func(abs string) ([]byte, bool, error) {
			data, ok, err := s.file(abs)
			note(look{host: true, name: abs, what: answer(data, ok, err)})
			return data, ok, err
		}
	}
	p, err := compose.Load(ctx, in, compose.Host{Dir: s.dir, Secrets: s.secrets, Read: file, Early: early})
	if err != nil {
		return nil, errors.New(s.mask.String(err.Error()))
	}
	return p, nil
}

// An overlay is the files a stack was sent, over those that lie in its folder on the host: what was sent wins,
// whatever a container put in its place.
type overlay struct {
	sent   *compose.Memory
	folder *compose.Folder // nil: it is not there
	note   func(look)      // nil: nobody asks
}

// Lookup implements compose.Tree.
func (o overlay) Lookup(name string) (compose.Entry, error) {
	e, err := o.sent.Lookup(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	if o.folder != nil {
		e, err = o.folder.Lookup(name)
	}
	if o.note != nil {
		o.note(look{name: name, what: entry(e, err)})
	}
	return e, err
}

// Walk implements compose.Tree.
func (o overlay) Walk(dir string, fn func(compose.Entry) error) error { return o.sent.Walk(dir, fn) }

// Read implements compose.Tree.
func (o overlay) Read(name string, limit int64) ([]byte, error) {
	data, err := o.sent.Read(name, limit)
	if !errors.Is(err, fs.ErrNotExist) || o.folder == nil {
		return data, err
	}
	if o.note != nil {
		o.note(look{name: name, what: entry(o.folder.Lookup(name))})
	}
	return o.folder.Read(name, limit)
}

var _ compose.Tree = overlay{}

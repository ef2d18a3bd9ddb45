package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/stack"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// recordFormat is the format of a ledger file. A file of a higher one is set aside, not misread.
const recordFormat = 1

// A record is what the agent remembers of one resource. It holds no secret's value.
type record struct {
	Format   int                `json:"format"`
	Resource schema.ID          `json:"resource"`
	Entry    *plan.Entry        `json:"entry,omitempty"`
	Was      schema.ID          `json:"was,omitempty"` // its former id, still on containers' labels
	Ensure   schema.Ensure      `json:"ensure,omitempty"`
	Applying *schema.Applying   `json:"applying,omitempty"`
	Laid     stack.Manifest     `json:"laid,omitempty"`       // repository files on the host, by path
	Base     string             `json:"base,omitempty"`       // the folder they are laid in, absolute
	Hosts    map[string]laid    `json:"host_files,omitempty"` // host files, by absolute path
	Holds    []plan.Hold        `json:"holds,omitempty"`
	Ops      []protocol.Outcome `json:"ops,omitempty"` // the last few, oldest first
	Repairs  []repair           `json:"repairs,omitempty"`
	Doing    *doing             `json:"doing,omitempty"`
	// Left are containers that were replaced and that the engine would not remove: stopped for good, to be removed.
	Left []container.Old `json:"left,omitempty"`
}

// A laid file is a host file the resource uses, as it was when it was read. The times and sizes only save
// reading it again.
type laid struct {
	Hash  string `json:"hash"`
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime"` // nanoseconds since 1970
	Inode uint64 `json:"inode,omitempty"`
}

// A repair is an op that put right what drifted.
type repair struct {
	At     time.Time `json:"at"`
	Commit string    `json:"commit"`
}

// doing is an op on its way, written before anything is done for it.
type doing struct {
	Op       protocol.OpID     `json:"op"`
	Verb     protocol.Verb     `json:"verb"`
	Commit   string            `json:"commit"`
	Digest   plan.Digest       `json:"digest,omitempty"`
	Entry    *plan.Entry       `json:"entry,omitempty"` // what holds when it succeeds
	Was      schema.ID         `json:"was,omitempty"`
	Ensure   schema.Ensure     `json:"ensure,omitempty"`
	Hosts    map[string]laid   `json:"host_files,omitempty"`
	Laid     stack.Manifest    `json:"laid,omitempty"`
	Base     string            `json:"base,omitempty"`
	Hook     bool              `json:"hook,omitempty"` // a post_deploy belongs to it
	Applying *schema.Applying  `json:"applying,omitempty"`
	Repair   bool              `json:"repair,omitempty"`
	Intent   *container.Intent `json:"intent,omitempty"`
}

// entryToBe is what the ledger says once the op on its way has succeeded; nil without one.
func (r *record) entryToBe() *plan.Entry {
	if r.Doing == nil {
		return nil
	}
	return r.Doing.Entry
}

// keptOps is how many outcomes a resource remembers: a daemon asks again for the latest ones only.
const keptOps = 8

func (r *record) outcome(id protocol.OpID) *protocol.Outcome {
	for i := range r.Ops {
		if r.Ops[i].ID == id {
			return &r.Ops[i]
		}
	}
	return nil
}

func (r *record) remember(o protocol.Outcome) {
	r.Ops = slices.DeleteFunc(r.Ops, func(p protocol.Outcome) bool { return p.ID == o.ID })
	o.Tail = "" // what containers print is kept by the daemon, behind its token
	r.Ops = append(r.Ops, o)
	if n := len(r.Ops) - keptOps; n > 0 {
		r.Ops = slices.Delete(r.Ops, 0, n)
	}
}

// A ledger is the folder of records, and their copy in memory.
type ledger struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex // guards records and the files
	records map[schema.ID]*record
	server  []plan.Hold // holds of the whole server
}

func openLedger(dir string, log *slog.Logger) (*ledger, error) {
	l := &ledger{dir: dir, log: log, records: map[schema.ID]*record{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make ledger: %w", err)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".json") {
			return err
		}
		if filepath.Dir(path) == dir {
			return l.readServer(path)
		}
		return l.read(path)
	})
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	return l, nil
}

func (l *ledger) read(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var r record
	err = json.Unmarshal(data, &r)
	switch {
	case err == nil && r.Format == recordFormat && r.Resource != "":
		l.records[r.Resource] = &r
		return nil
	case err == nil && r.Format > recordFormat:
		l.log.Warn("ledger file of a newer varan is set aside", "file", path)
	default:
		l.log.Warn("unreadable ledger file is set aside", "file", path, "err", err)
	}
	return os.Rename(path, path+".aside")
}

func (l *ledger) readServer(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &l.server); err != nil {
		l.log.Warn("unreadable ledger file is set aside", "file", path, "err", err)
		return os.Rename(path, path+".aside")
	}
	return nil
}

// file is where a resource's record lies. Names become path segments by escaping, so that none leaves the folder.
func (l *ledger) file(id schema.ID) string {
	return filepath.Join(l.dir, segment(string(id.Kind())), segment(id.Name())+".json")
}

// segment turns any name into one path segment.
func segment(name string) string {
	s := url.PathEscape(name)
	if s == "" || strings.HasPrefix(s, ".") {
		return "%2E" + strings.TrimPrefix(s, ".")
	}
	return s
}

// clone is a copy that may be changed without the other noticing.
func (r *record) clone() *record {
	c := *r
	c.Holds, c.Ops, c.Repairs, c.Laid, c.Left = slices.Clone(r.Holds), slices.Clone(r.Ops), slices.Clone(r.Repairs), maps.Clone(r.Laid), slices.Clone(r.Left)
	return &c
}

// get returns a copy of a resource's record that may be changed; an empty one if there is none.
func (l *ledger) get(id schema.ID) *record {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r, ok := l.records[id]; ok {
		return r.clone()
	}
	return &record{Format: recordFormat, Resource: id}
}

// put writes a record and returns when it is on disk.
func (l *ledger) put(r *record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.write(r)
}

// write wants l.mu held.
func (l *ledger) write(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write ledger of %s: %w", r.Resource, err)
	}
	if err := writeSynced(l.file(r.Resource), data); err != nil {
		return fmt.Errorf("%w of %s: %w", errLedger, r.Resource, err)
	}
	l.records[r.Resource] = r.clone()
	return nil
}

// learnHosts notes how host files are seen to be, where known still is what is known of them. While an op is at work
// on the resource its record is the op's.
func (l *ledger) learnHosts(id schema.ID, known, seen map[string]laid) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, ok := l.records[id]
	if !ok || now.Doing != nil {
		return nil
	}
	r := now.clone()
	r.Hosts = maps.Clone(r.Hosts)
	if r.Hosts == nil {
		r.Hosts = map[string]laid{}
	}
	for p, file := range seen {
		if r.Hosts[p] == known[p] {
			r.Hosts[p] = file
		}
	}
	return l.write(r)
}

// errLedger: what is about to be done could not be written down, so it is not done.
var errLedger = errors.New("write ledger")

// drop forgets a resource but for the ops it has done.
func (l *ledger) drop(id schema.ID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.records, id)
	if err := os.Remove(l.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget %s: %w", id, err)
	}
	return nil
}

// all calls f with every record; f must not keep or change it.
func (l *ledger) all(f func(*record)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.records {
		f(r)
	}
}

// holdServer sets or lifts a hold of the whole server.
func (l *ledger) holdServer(h plan.Hold, lift bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	holds := changeHolds(slices.Clone(l.server), h, lift)
	data, err := json.Marshal(holds)
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(l.dir, "server.json"), data); err != nil {
		return fmt.Errorf("write hold of the server: %w", err)
	}
	l.server = holds
	return nil
}

func (l *ledger) serverHolds() []plan.Hold {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.server)
}

// changeHolds sets a hold in place of one of the same kind, or lifts it; lifting without a kind lifts all.
func changeHolds(holds []plan.Hold, h plan.Hold, lift bool) []plan.Hold {
	now := time.Now()
	holds = slices.DeleteFunc(holds, func(o plan.Hold) bool { return o.Kind == h.Kind || lift && h.Kind == "" || o.Over(now) })
	if !lift {
		holds = append(holds, h)
	}
	return holds
}

// writeSynced replaces a file by one that is on disk when it returns. The file is readable by its owner only.
func writeSynced(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

package sync

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/sandbox"
)

// A preview plans what a stranger wrote. Nothing of it is parsed in the daemon: its pack goes, as bytes, into a
// confined child, which is this program again. The child may ask for files of trees that the base branch uses, and
// answers with a plan. It is given names of secrets and no value, and no more of the State than a plan may show.

// PreviewArg is the argument with which the program must call PreviewChild at once.
const PreviewArg = "preview-child"

// Bounds of one preview.
const (
	maxPreviewPack  = 256 << 20 // bytes of the pull request's files, packed
	maxPreviewReads = 512 << 20 // bytes the child may read of other trees
	maxPreviewAsks  = 1 << 20   // questions
	maxFrame        = 96 << 20  // bytes of one message to the child
	maxAnswer       = 16 << 20  // bytes of one of its own: a plan of 50,000 steps
)

// setOnHost stands for a value that was observed and does not stand in the repository previewed.
const setOnHost = "(set on the host)"

// A Subject is the commit to preview.
type Subject struct {
	Ref    string // where the remote has it: "refs/pull/7/merge", or a branch
	Commit string // what Ref must stand at
	// Merges, when set, are the parents the commit must have, or the preview is stale: base tip and head.
	Merges []string
	// Over, unless nil, puts only these paths of the commit over the base branch's files: where the forge makes no
	// merge commit and the base went on.
	Over []string
}

// A Preview is what a pull request would do.
type Preview struct {
	Plan *plan.Plan // its Diagnostics hold the errors where Broken
	// Broken: the commit could not be applied as it is.
	Broken bool
	// Base is the commit of the config repository that State and other files were taken from.
	Base string
	// Stacks, of an app repository's preview, are the resources whose files it holds: the plan shows no others.
	Stacks []schema.ID
	// Files are those with errors in them, by the names the Diagnostics use.
	Files map[string][]byte
	Took  time.Duration
}

// ErrStale: the forge's merge commit is of another base or head. The preview is made when it has caught up.
var ErrStale = errors.New("the forge's merge commit is not of this head and base")

// ErrNotRead: the base branch was not read or its servers not observed yet.
var ErrNotRead = errors.New("the config repository was not planned yet")

// previewRequest opens the talk with the child.
type previewRequest struct {
	Compat  schema.Compat
	Fleet   string
	Sync    string
	Address string // of the config repository
	Branch  string
	Base    string
	Paths   []string
	Local   string
	Rules   plan.Rules
	Secrets []string // names only
	State   *plan.State
	Owed    map[schema.ID]bool

	Subject Subject
	// App and AppBranch are set when the subject is of another repository than the config's.
	App, AppBranch string
}

// A previewAsk is a question of the child, or its answer when Done.
type previewAsk struct {
	Op       string // "lookup", "walk", "read", "other", "done"
	Tree     string `json:",omitempty"`
	Path     string `json:",omitempty"`
	Limit    int64  `json:",omitempty"`
	Resource schema.ID
	Address  string `json:",omitempty"`
	Branch   string `json:",omitempty"`

	Plan   *plan.Plan        `json:",omitempty"`
	Broken bool              `json:",omitempty"`
	Stale  bool              `json:",omitempty"`
	Stacks []schema.ID       `json:",omitempty"`
	Files  map[string][]byte `json:",omitempty"`
	Err    string            `json:",omitempty"`
}

type previewTold struct {
	Entries []compose.Entry `json:",omitempty"`
	Data    []byte          `json:",omitempty"`
	Tree    string          `json:",omitempty"`
	ID      string          `json:",omitempty"`
	Commit  string          `json:",omitempty"`
	Missing bool            `json:",omitempty"` // fs.ErrNotExist
	Err     string          `json:",omitempty"`
}

// A basis is what a preview is made against: the base branch as read and observed last.
type basis struct {
	read  *reading
	state *plan.State
	owed  map[schema.ID]bool
}

// basis takes them together.
func (s *syncer) basis() (*basis, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastRead == nil || s.state == nil || s.lastRead.broken() {
		return nil, ErrNotRead
	}
	return &basis{read: s.lastRead, state: s.state, owed: maps.Clone(s.lastOwed)}, nil
}

// previewOf plans a commit of the config repository, or, with app set, of a repository that stacks take their files
// from. program is this program's own path.
func (s *syncer) previewOf(ctx context.Context, program string, repo *gitrepo.Repo, sub Subject, app *gitrepo.Address, appBranch string, limits sandbox.Limits) (*Preview, error) {
	began := time.Now()
	b, err := s.basis()
	if err != nil {
		return nil, err
	}
	set := s.settings()
	at := s.src.address()
	if origin, ok := gitrepo.Origin(at); ok {
		at = origin
	}
	req := previewRequest{
		Compat: set.Compat, Fleet: s.fleet(), Sync: s.name, Address: at.String(), Branch: b.read.branch, Base: b.read.commit,
		Paths: s.reader.scope.paths, Local: b.read.desired.Local, Rules: b.read.desired.Rules, Secrets: sortedKeys(set.Secrets),
		State: redacted(b.read, b.state, s.fleet()), Owed: b.owed, Subject: sub,
	}
	if app != nil {
		req.App, req.AppBranch = app.String(), appBranch
	}
	child, err := sandbox.Start(ctx, program, []string{PreviewArg}, limits)
	if err != nil {
		return nil, err
	}
	server := &previewServer{base: b.read, trees: map[string]tree{"base": b.read.tree}, left: maxPreviewReads}
	done, err := server.talk(ctx, child, &req, func(w io.Writer) error { return repo.Pack(ctx, sub.Ref, sub.Commit, w, maxPreviewPack) })
	if err != nil {
		child.Kill()
	}
	ended := child.Wait()
	switch {
	case err != nil && (ended == nil || !errors.Is(err, errTalk)):
		return nil, fmt.Errorf("preview %s: %w", plan.Short(sub.Commit), err)
	case ended != nil && done == nil:
		return nil, fmt.Errorf("preview %s: %w", plan.Short(sub.Commit), ended)
	case done.Stale:
		return nil, ErrStale
	case done.Err != "":
		return nil, fmt.Errorf("preview %s: %s", plan.Short(sub.Commit), done.Err)
	case done.Plan == nil:
		return nil, fmt.Errorf("preview %s: the child gave no plan", plan.Short(sub.Commit))
	}
	return &Preview{Plan: done.Plan, Broken: done.Broken, Base: b.read.commit, Stacks: done.Stacks, Files: done.Files, Took: time.Since(began)}, nil
}

// A previewServer answers the child. Trees are those of the base branch's reading alone.
type previewServer struct {
	base  *reading
	trees map[string]tree
	left  int64
	asks  int
}

// errTalk: the child went away while it was spoken to. Why is told by its end.
var errTalk = errors.New("the preview's process broke off")

func (v *previewServer) talk(ctx context.Context, child *sandbox.Child, req *previewRequest, pack func(io.Writer) error) (*previewAsk, error) {
	in := bufio.NewWriterSize(child.In, 64<<10)
	if err := writeFrame(in, req); err != nil {
		return nil, err
	}
	if err := pack(packWriter{in}); err != nil {
		return nil, err
	}
	if err := errors.Join(writeRaw(in, nil), in.Flush()); err != nil {
		return nil, fmt.Errorf("%w: %w", errTalk, err)
	}
	out := bufio.NewReaderSize(child.Out, 64<<10)
	for {
		var ask previewAsk
		if err := readFrame(out, maxAnswer, &ask); err != nil {
			return nil, fmt.Errorf("%w: %w", errTalk, err)
		}
		if ask.Op == "done" {
			return &ask, nil
		}
		if v.asks++; v.asks > maxPreviewAsks {
			return nil, errors.New("the preview asked too much")
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		told, err := v.answer(&ask)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(writeFrame(in, told), in.Flush()); err != nil {
			return nil, fmt.Errorf("%w: %w", errTalk, err)
		}
	}
}

func (v *previewServer) answer(ask *previewAsk) (*previewTold, error) {
	if ask.Op == "other" {
		return v.other(ask), nil
	}
	t := v.trees[ask.Tree]
	if t == nil {
		return nil, fmt.Errorf("the preview asked for the tree %q", ask.Tree)
	}
	told := &previewTold{}
	var err error
	switch ask.Op {
	case "lookup":
		var e compose.Entry
		if e, err = t.Lookup(ask.Path); err == nil {
			told.Entries = []compose.Entry{e}
		}
	case "walk":
		err = t.Walk(ask.Path, func(e compose.Entry) error {
			if v.left -= int64(len(e.Path)) + 64; v.left < 0 {
				return gitrepo.ErrTooBig
			}
			told.Entries = append(told.Entries, e)
			return nil
		})
	case "read":
		if told.Data, err = t.Read(ask.Path, min(ask.Limit, maxFrame/2)); err == nil {
			v.left -= int64(len(told.Data))
		}
	default:
		return nil, fmt.Errorf("the preview asked to %q", ask.Op)
	}
	if v.left < 0 {
		return nil, fmt.Errorf("the files used: %w", gitrepo.ErrTooBig)
	}
	if told.Missing = errors.Is(err, fs.ErrNotExist); err != nil {
		told.Err = err.Error()
	}
	return told, nil
}

// other gives the files of another repository as the base branch has them for that very resource.
func (v *previewServer) other(ask *previewAsk) *previewTold {
	why := &previewTold{Err: "this repository is not used by the base branch: read at apply"}
	addr, err := gitrepo.ParseAddress(ask.Address)
	if err != nil {
		return why
	}
	give := func(t tree, id, commit string) *previewTold {
		name := fmt.Sprintf("other %d", len(v.trees))
		v.trees[name] = t
		return &previewTold{Tree: name, ID: id, Commit: commit}
	}
	for _, c := range v.base.children {
		if schema.NewID(schema.KindResourceSync, c.name) == ask.Resource && c.snap != nil && c.addr.Same(addr) && c.branch == ask.Branch {
			return give(c.snap, c.snap.ID(), c.snap.commit)
		}
	}
	f, known := v.base.trees[ask.Resource]
	if !known || f.tree == nil || f.tree == v.base.tree || f.branch != ask.Branch || !sameRepo(f.repo, addr) {
		return why
	}
	return give(f.tree, treeID(f.tree), "")
}

func sameRepo(repo string, addr gitrepo.Address) bool {
	at, err := gitrepo.ParseAddress(repo)
	return err == nil && at.Same(addr)
}

// redacted is the State without what a plan for strangers may not tell: observed values, unless they were declared
// in a repository, and words of hosts and operators. What another repository declared is left out of the plan, by tell.
func redacted(r *reading, st *plan.State, fleet string) *plan.State {
	own := make(map[schema.ID]bool, len(r.config.Resources))
	for _, res := range r.config.Resources {
		d := r.declared[res.ID]
		own[res.ID] = d != nil && !d.OnHost
	}
	out := &plan.State{Servers: make(map[string]*plan.ServerState, len(st.Servers))}
	for name, server := range st.Servers {
		s := *server
		if s.Unreachable != "" {
			s.Unreachable = "it does not answer"
		}
		s.Containers = slices.Clone(s.Containers)
		for i := range s.Containers {
			if c := &s.Containers[i]; !own[c.Resource] || c.Fleet != fleet {
				c.Image, c.ImageID = "", ""
			}
		}
		s.Ledger = maps.Clone(s.Ledger)
		for id, e := range s.Ledger {
			if e == nil || own[id] {
				continue
			}
			hidden := *e
			hidden.Units = withoutSpecs(e.Units)
			hidden.Volumes = withoutDefinitions(e.Volumes)
			s.Ledger[id] = &hidden
		}
		s.Holds = slices.Clone(s.Holds)
		for i := range s.Holds {
			s.Holds[i].Reason = holdWords[s.Holds[i].Kind]
		}
		s.Facts = maps.Clone(s.Facts)
		for id, f := range s.Facts {
			if f != nil {
				s.Facts[id] = withoutValues(f)
			}
		}
		out.Servers[name] = &s
	}
	return out
}

var holdWords = map[plan.HoldKind]string{ //nolint:gochecknoglobals // a table that is never written
	plan.HoldUser: "by an operator", plan.HoldFailed: "it failed here before", plan.HoldContested: "something else changes it",
	plan.HoldPaused: "by an operator",
}

func withoutSpecs(units []plan.Unit) []plan.Unit {
	out := slices.Clone(units)
	for i := range out {
		out[i].Spec = nil
	}
	return out
}

func withoutDefinitions(defs map[string]plan.Definition) map[string]plan.Definition {
	out := maps.Clone(defs)
	for k, d := range out {
		d.Spec = nil
		out[k] = d
	}
	return out
}

func withoutValues(f *plan.Facts) *plan.Facts {
	out := *f
	if f.Problem != "" {
		out.Problem = "the server could not tell"
	}
	out.Compare = maps.Clone(f.Compare)
	for service, c := range out.Compare {
		c.Changes = slices.Clone(c.Changes)
		for i := range c.Changes {
			if c.Changes[i].Old != nil {
				c.Changes[i].Old = setOnHost
			}
		}
		out.Compare[service] = c
	}
	if f.Declared != nil {
		d := *f.Declared
		d.Units, d.Volumes = withoutSpecs(d.Units), withoutDefinitions(d.Volumes)
		out.Declared = &d
	}
	return &out
}

// Frames are a length and JSON, or, of a pack, bytes.

func writeRaw(w io.Writer, data []byte) error {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(data)))
	if _, err := w.Write(n[:]); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

func writeFrame(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if len(data) > maxFrame {
		return fmt.Errorf("a message of %d bytes: %w", len(data), gitrepo.ErrTooBig)
	}
	return writeRaw(w, data)
}

func readRaw(r io.Reader, most uint32) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > most {
		return nil, gitrepo.ErrTooBig
	}
	if size < 1<<20 {
		data := make([]byte, size)
		_, err := io.ReadFull(r, data)
		return data, err
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(size))) // grows with what really comes
	if err == nil && len(data) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	return data, err
}

func readFrame(r io.Reader, most uint32, v any) error {
	data, err := readRaw(r, most)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// A packWriter cuts a pack into frames; an empty one ends it.
type packWriter struct{ w io.Writer }

func (p packWriter) Write(data []byte) (int, error) {
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 64<<10)
		if err := writeRaw(p.w, rest[:n]); err != nil {
			return 0, fmt.Errorf("%w: %w", errTalk, err)
		}
		rest = rest[n:]
	}
	return len(data), nil
}

// A packReader puts the frames together again.
type packReader struct {
	r    io.Reader
	rest []byte
	end  bool
}

func (p *packReader) Read(data []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.end {
			return 0, io.EOF
		}
		var err error
		if p.rest, err = readRaw(p.r, maxFrame); err != nil {
			return 0, err
		}
		p.end = len(p.rest) == 0
	}
	n := copy(data, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// drain leaves the reader after the pack's end.
func (p *packReader) drain() error {
	_, err := io.Copy(io.Discard, p)
	return err
}

package sync

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/report"
	"github.com/varanhq/varan/sync/sandbox"
)

// PreviewLimits bound the child. Both ends must use the same.
func PreviewLimits() sandbox.Limits { return sandbox.Limits{Disk: maxPreviewPack + maxPreviewPack/8} }

// PreviewChild is the confined half of a preview: the program calls it, before anything else, when its only argument
// is PreviewArg. It returns the exit code.
func PreviewChild(stdin io.Reader, stdout, stderr io.Writer) int {
	if err := sandbox.Enter(PreviewLimits()); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	if err := previewChild(bufio.NewReaderSize(stdin, 64<<10), bufio.NewWriterSize(stdout, 64<<10)); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func previewChild(in io.Reader, out *bufio.Writer) error {
	var req previewRequest
	if err := readFrame(in, maxFrame, &req); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	pack := &packReader{r: in}
	snap, parents, err := gitrepo.Unpack(pack, "git", req.Subject.Commit)
	if err == nil {
		err = pack.drain()
	}
	p := &pipe{in: in, out: out}
	answer := &previewAsk{Op: "done"}
	switch {
	case err != nil:
		answer.Err = err.Error()
	case len(req.Subject.Merges) > 0 && !slices.Equal(parents, req.Subject.Merges):
		answer.Stale = true
	default:
		if err := answer.make(context.Background(), &req, p, snap); err != nil {
			answer.Err = err.Error()
		}
	}
	data, err := json.Marshal(answer)
	if err == nil && len(data) > maxAnswer {
		data, err = json.Marshal(&previewAsk{Op: "done", Err: fmt.Sprintf("its plan has more than %d MiB", maxAnswer>>20)})
	}
	return errors.Join(err, writeRaw(out, data), out.Flush())
}

// make plans the subject.
func (a *previewAsk) make(ctx context.Context, req *previewRequest, p *pipe, head tree) error {
	addr, err := gitrepo.ParseAddress(req.Address)
	if err != nil {
		return err
	}
	set := &Settings{Fleet: req.Fleet, Compat: req.Compat, Secrets: make(map[string]protocol.Secret, len(req.Secrets))}
	for _, name := range req.Secrets {
		set.Secrets[name] = ""
	}
	opts := &Options{Settings: *set, Local: req.Local, Log: slog.New(slog.DiscardHandler)}
	opts.complete()
	s := newSyncer(req.Sync, opts, set, nowhere{addr: addr}, nil, scope{paths: req.Paths})
	s.rules, s.owed = req.Rules, req.Owed
	base := view{tree: &pipeTree{pipe: p, name: "base"}, commit: req.Base, branch: req.Branch}
	if req.Subject.Over != nil { // empty: it changes nothing, whatever its own tree lacks of the base
		if head, err = overlay(base.tree, head, req.Subject.Over); err != nil {
			return err
		}
	}
	app := appOf(req, head)
	s.reader.other = func(ctx context.Context, id schema.ID, at gitrepo.Address, from schema.Source) (*fetched, error) {
		if app.is(at, from) && s.good != nil { // the base was read: this is the subject's turn
			return &fetched{tree: app.tree, commit: req.Subject.Commit}, nil
		}
		if from.Commit != "" {
			return nil, errors.New("a fixed commit of another repository: read at apply")
		}
		f, err := p.other(id, at, from)
		if err == nil && app.is(at, from) { // as it is on the base branch: it stands in the same repository
			f.tree = &recorded{tree: f.tree, text: app.was}
		}
		return f, err
	}
	before, err := s.read(ctx, base)
	if err != nil {
		return fmt.Errorf("read the base branch: %w", err)
	}
	s.good = before
	subject := view{tree: head, commit: req.Subject.Commit, branch: req.Branch}
	if req.App != "" {
		subject = base
		for id := range s.reader.kept {
			if app.uses(before, id) {
				delete(s.reader.kept, id)
			}
		}
	}
	r, err := s.read(ctx, subject)
	if err != nil {
		return err
	}
	defer func() { a.quote(head) }()
	if r.broken() {
		a.Broken, a.Plan = true, s.brokenPlan(r)
		a.Plan.Diagnostics = tellDiagnostics(a.Plan.Diagnostics, r)
		return nil
	}
	for _, c := range r.children {
		if app.on && c.addr.Same(app.addr) && c.state == "broken" {
			a.Broken, a.Plan = true, s.brokenPlan(r)
			a.Plan.Diagnostics = c.diags
			return nil
		}
	}
	if req.App != "" {
		app.unsay(ctx, r)
		a.Plan = s.make(r, req.State, job{trigger: triggerCommit})
		a.Stacks = app.only(a.Plan, r)
		return nil
	}
	a.Plan = tell(s.make(r, req.State, job{trigger: triggerCommit}), r, before)
	a.Plan.Diagnostics = append(schema.Diagnostics(a.Plan.Diagnostics), report.KeyChanges(before.config, r.config)...).Sorted()
	return nil
}

// quote brings along the files in which something is wrong, so that a report can show the lines.
func (a *previewAsk) quote(head tree) {
	const most, each = 1 << 20, 256 << 10
	size := 0
	for _, d := range a.Plan.Diagnostics {
		_, file, ok := strings.Cut(d.File, ":") // of a further sync: its name stands before
		if !ok {
			file = d.File
		}
		if d.Severity != schema.SeverityError || d.Line == 0 || a.Files[d.File] != nil || size >= most {
			continue
		}
		data, err := head.Read(file, each)
		if err != nil {
			continue
		}
		if a.Files == nil {
			a.Files = make(map[string][]byte)
		}
		a.Files[d.File], size = data, size+len(data)
	}
}

// An app is the repository of a preview that is not the config's.
type app struct {
	addr   gitrepo.Address
	branch string
	tree   *recorded
	was    *strings.Builder // what was read of its base branch
	on     bool
}

func appOf(req *previewRequest, head tree) app {
	if req.App == "" {
		return app{}
	}
	addr, err := gitrepo.ParseAddress(req.App)
	return app{addr: addr, branch: req.AppBranch, tree: &recorded{tree: head, text: new(strings.Builder)}, was: new(strings.Builder), on: err == nil}
}

func (a app) is(at gitrepo.Address, from schema.Source) bool {
	return a.on && from.Commit == "" && at.Same(a.addr) && (from.Branch == a.branch || from.Branch == "")
}

func (a app) uses(r *reading, id schema.ID) bool {
	f, ok := r.trees[id]
	return ok && sameRepo(f.repo, a.addr)
}

// unsay takes out of what is said about the app's files what the config repository sets.
func (a app) unsay(ctx context.Context, r *reading) {
	for id := range r.declared {
		if a.uses(r, id) {
			r.declared[id] = r.unquoted(ctx, id, a.tree)
		}
	}
}

// masks are the values that the config repository sets for the stacks of the app, but for those that stand in it.
func (a app) masks(r *reading) []string {
	var ids []schema.ID
	for id := range r.resolved {
		if a.uses(r, id) {
			ids = append(ids, id)
		}
	}
	return slices.DeleteFunc(r.secondhand(ids), func(text string) bool { return a.tells(text) })
}

// only leaves in a plan what the app's repository is about, and of values those that stand in it.
func (a app) only(p *plan.Plan, r *reading) []schema.ID {
	var stacks []schema.ID
	masked := masking(a.masks(r))
	mask := func(text *string) { *text = masked(*text) }
	p.Steps = slices.DeleteFunc(p.Steps, func(s plan.Step) bool { return !a.uses(r, s.Resource) })
	p.Summary = plan.Summary{}
	for _, action := range plan.Actions() {
		p.Summary[action] = 0
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		s.Changes, s.Source = cut(s.Changes), r.sourceAt(a.addr, *s)
		p.Summary[s.Action]++
		stacks = append(stacks, s.Resource)
		for j := range s.Changes {
			a.hide(&s.Changes[j].Old)
			a.hide(&s.Changes[j].New)
			blank(&s.Changes[j])
			mask(&s.Changes[j].Path)
		}
		for j := range s.Causes {
			mask(&s.Causes[j].Detail)
		}
	}
	p.Diagnostics = slices.DeleteFunc(p.Diagnostics, func(d schema.Diagnostic) bool {
		for _, c := range r.children {
			if file, ok := strings.CutPrefix(d.File, c.prefix()); ok {
				return !c.addr.Same(a.addr) || !a.tree.read[file]
			}
		}
		return !a.tree.read[d.File]
	})
	for i := range p.Diagnostics {
		mask(&p.Diagnostics[i].Message)
		mask(&p.Diagnostics[i].Hint)
	}
	p.Asks = nil
	return stacks
}

// tells reports whether a text stands in the app's files, as proposed or as they are.
func (a app) tells(text string) bool {
	return strings.Contains(a.tree.text.String(), text) || strings.Contains(a.was.String(), text)
}

// hide takes a value out of a plan unless it stands, as it is, in the files that were read of the app's repository.
func (a app) hide(v *any) {
	text, ok := (*v).(string)
	if *v == nil || ok && a.tells(text) {
		return
	}
	*v = elsewhere
}

// A recorded tree keeps what was read of it.
type recorded struct {
	tree
	text *strings.Builder
	read map[string]bool
}

const maxRecorded = 32 << 20

// ID is the tree's own.
func (t *recorded) ID() string { return treeID(t.tree) }

func (t *recorded) Read(name string, limit int64) ([]byte, error) {
	data, err := t.tree.Read(name, limit)
	if err == nil && t.text.Len()+len(data) < maxRecorded {
		if t.read == nil {
			t.read = make(map[string]bool)
		}
		t.read[name] = true
		t.text.Write(data)
		t.text.WriteByte(0)
	}
	return data, err
}

// nowhere is a source that only has an address: its views are handed in.
type nowhere struct{ addr gitrepo.Address }

func (n nowhere) fetch(context.Context) (view, error) { return view{}, errors.ErrUnsupported }
func (n nowhere) relate(context.Context, string, string) (gitrepo.Relation, error) {
	return "", errors.ErrUnsupported
}
func (n nowhere) watch(context.Context, chan<- struct{}) error { return nil }
func (n nowhere) watched() bool                                { return false }
func (n nowhere) address() gitrepo.Address                     { return n.addr }
func (n nowhere) close() error                                 { return nil }

// A pipe asks the daemon, one question at a time.
type pipe struct {
	in  io.Reader
	out *bufio.Writer
}

func (p *pipe) ask(q previewAsk) (*previewTold, error) {
	if err := errors.Join(writeFrame(p.out, &q), p.out.Flush()); err != nil {
		return nil, err
	}
	var told previewTold
	if err := readFrame(p.in, maxFrame, &told); err != nil {
		return nil, err
	}
	switch {
	case told.Missing:
		return nil, &fs.PathError{Op: q.Op, Path: q.Path, Err: fs.ErrNotExist}
	case told.Err != "":
		return nil, errors.New(told.Err)
	}
	return &told, nil
}

func (p *pipe) other(id schema.ID, at gitrepo.Address, from schema.Source) (*fetched, error) {
	told, err := p.ask(previewAsk{Op: "other", Resource: id, Address: at.String(), Branch: from.Branch})
	if err != nil {
		return nil, err
	}
	return &fetched{tree: &pipeTree{pipe: p, name: told.Tree, id: told.ID}, commit: told.Commit}, nil
}

// A pipeTree is a tree that the daemon holds.
type pipeTree struct {
	pipe *pipe
	name string
	id   string
	all  map[string][]compose.Entry
}

// ID is the tree's id, "" when it is not known.
func (t *pipeTree) ID() string { return t.id }

func (t *pipeTree) Lookup(name string) (compose.Entry, error) {
	told, err := t.pipe.ask(previewAsk{Op: "lookup", Tree: t.name, Path: name})
	if err != nil {
		return compose.Entry{}, err
	}
	if len(told.Entries) != 1 {
		return compose.Entry{}, errTalk
	}
	return told.Entries[0], nil
}

func (t *pipeTree) Read(name string, limit int64) ([]byte, error) {
	told, err := t.pipe.ask(previewAsk{Op: "read", Tree: t.name, Path: name, Limit: limit})
	if err != nil {
		return nil, err
	}
	return told.Data, nil
}

func (t *pipeTree) Walk(dir string, fn func(compose.Entry) error) error {
	list, ok := t.all[dir]
	if !ok {
		told, err := t.pipe.ask(previewAsk{Op: "walk", Tree: t.name, Path: dir})
		if err != nil {
			return err
		}
		if list = told.Entries; t.all == nil {
			t.all = make(map[string][]compose.Entry)
		}
		t.all[dir] = list
	}
	for _, e := range list {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// Find implements tree.
func (t *pipeTree) Find(dir string, want func(path string, folder bool) bool, fn func(compose.Entry) error) error {
	return find(t, dir, want, fn)
}

// find is Find over Walk: want is asked about every folder on the way, as a snapshot does.
func find(t compose.Tree, dir string, want func(path string, folder bool) bool, fn func(compose.Entry) error) error {
	folders := map[string]bool{".": true, dir: true}
	var entered func(folder string) bool
	entered = func(folder string) bool {
		yes, known := folders[folder]
		if !known {
			yes = entered(path.Dir(folder)) && want(folder, true)
			folders[folder] = yes
		}
		return yes
	}
	return t.Walk(dir, func(e compose.Entry) error {
		if !entered(path.Dir(e.Path)) || !want(e.Path, false) {
			return nil
		}
		return fn(e)
	})
}

package sync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// A reading is one commit, read: what it declares and all that is needed to plan and apply it. It is not
// written to once made.
type reading struct {
	view
	config   *schema.Config
	diags    schema.Diagnostics // of the TOML files; errors keep the commit from being applied
	declared map[schema.ID]*plan.Declared
	resolved map[schema.ID]*schema.Resource
	trees    map[schema.ID]files // where the files of each stack lie
	values   *values
	desired  *plan.Desired
	// others are the repositories read beside this one, with the commits seen.
	others map[string]string
	// unread are those that could not be asked; what they last held was used, if anything.
	unread []gitrepo.Address
	// children are the further syncs, and origin says which resource comes from which; absent: the root's own.
	children []*child
	origin   map[schema.ID]*child
}

// files is the tree a stack's files are read from, and the repository's name for labels.
type files struct {
	tree   tree
	repo   string
	branch string // of another repository
	why    string // why there is none
}

// noteUnread notes a repository that did not answer.
func (r *reading) noteUnread(addr gitrepo.Address, f *fetched, err error) {
	if (err != nil || f.old) && !slices.Contains(r.unread, addr) {
		r.unread = append(r.unread, addr)
	}
}

func (r *reading) broken() bool { return r.diags.HasErrors() }

// same reports whether applying either is the same work: nothing but the commit's id differs.
func (r *reading) same(o *reading) bool {
	return o != nil && !o.broken() && !r.broken() &&
		maps.EqualFunc(r.declared, o.declared, func(a, b *plan.Declared) bool { return a == b }) &&
		maps.Equal(r.values.known, o.values.known) && maps.Equal(r.values.secrets, o.values.secrets) &&
		slices.EqualFunc(r.config.Resources, o.config.Resources, func(a, b *schema.Resource) bool {
			return a.ID == b.ID && a.Config == b.Config && a.Pos == b.Pos && a.Deploy == b.Deploy && a.Ensure == b.Ensure &&
				a.Release == b.Release && slices.Equal(a.After, b.After)
		})
}

// A reader turns views into readings and keeps what need not be read again. One run at a time uses it.
type reader struct {
	name    string // of the sync
	opts    *Options
	mirrors *mirrors
	src     source
	scope   scope

	cache        *schema.Cache
	seen         map[fileKey]bool // files the cache holds
	kept         map[schema.ID]*keptDeclaration
	known        map[string]bool // what the kept declarations were made with
	plain        map[string]string
	goodChildren map[string]*goodChild
	snaps        map[string]*fetched // other repositories as last fetched, by address, account, branch and commit
	// other reads another repository for a resource: fetchOther, or, in a preview, what the base branch knows of it.
	other func(ctx context.Context, id schema.ID, addr gitrepo.Address, from schema.Source) (*fetched, error)
}

// A fetched is one commit of another repository.
type fetched struct {
	tree
	commit string
	old    bool // the repository could not be asked; this is what it last held
}

// ID is the tree's id, "" where it has none.
func (f *fetched) ID() string { return treeID(f.tree) }

// A keptDeclaration is a stack or deployment as declared last time, with what that depends on.
type keptDeclaration struct {
	config   any    // the very Config it was made from
	repo     string // address and commit-less place of its tree
	treeID   string
	reads    []compose.Read
	declared *plan.Declared
	resolved *schema.Resource
}

func newReader(name string, opts *Options, m *mirrors, src source, sc scope) *reader {
	rd := &reader{name: name, opts: opts, mirrors: m, src: src, scope: sc, cache: schema.NewCache(),
		kept: make(map[schema.ID]*keptDeclaration), snaps: make(map[string]*fetched), goodChildren: make(map[string]*goodChild)}
	rd.other = rd.fetchOther
	return rd
}

// read parses a view and reads the files that it names. What authors got wrong is in the reading's
// diagnostics; an error means that the repository could not be read.
func (rd *reader) read(ctx context.Context, v view, set *Settings) (*reading, error) {
	return rd.readPaths(ctx, v, set, rd.scope.paths)
}

// readPaths reads what is below paths, and, once more, what a [[resource_sync]] found there on this very repository
// adds to them.
func (rd *reader) readPaths(ctx context.Context, v view, set *Settings, paths []string) (*reading, error) {
	list, diags, err := configFiles(v.tree, paths, rd.seen)
	if err != nil {
		return nil, err
	}
	config, more := schema.Parse(list, schema.Options{Compat: set.Compat, Cache: rd.cache})
	rd.seen = make(map[fileKey]bool, len(list))
	for _, f := range list {
		rd.seen[fileKey{f.Path, f.Blob}] = true
	}
	r := &reading{view: v, config: config, others: make(map[string]string)}
	r.diags = append(diags, more...)
	if len(list) == 0 && !r.diags.HasErrors() {
		r.diags = append(r.diags, schema.Diagnostic{Severity: schema.SeverityWarning, Message: "no TOML file is below the paths to read"})
	}
	if extra := ownPaths(paths, config, rd.src.address(), v.branch); len(extra) > 0 {
		return rd.readPaths(ctx, v, set, append(slices.Clone(paths), extra...))
	}
	r.config = rd.scope.part(r.config, rd.src.address(), v.branch)
	if !r.diags.HasErrors() {
		rd.further(ctx, r, list, set)
	}
	r.diags = r.diags.Sorted()
	r.values = newValues(r.config.Variables, set.Secrets)
	rd.declare(ctx, r)
	if mistakes := r.mistakes(); len(mistakes) > 0 {
		r.diags = append(r.diags, mistakes...).Sorted()
	}
	return r, nil
}

// mistakes are the errors in files of this very commit that its stacks and deployments name: as a broken TOML file
// does, they keep the commit from being applied. Those of other repositories block only who takes files from there.
func (r *reading) mistakes() schema.Diagnostics {
	var out schema.Diagnostics
	for _, res := range r.config.Resources {
		d := r.declared[res.ID]
		if f := r.trees[res.ID]; d == nil || r.origin[res.ID] != nil || f.tree != nil && f.tree != r.tree {
			continue
		}
		for _, diag := range d.Diagnostics {
			said := slices.ContainsFunc(r.diags, func(o schema.Diagnostic) bool { return o.Severity == diag.Severity && o.Pos == diag.Pos })
			if diag.Severity == schema.SeverityError && !said { // schema said it in its own words
				out = append(out, diag)
			}
		}
	}
	return out
}

// declare reads what each stack and deployment declares, but for those whose files are as they were.
func (rd *reader) declare(ctx context.Context, r *reading) {
	if !maps.Equal(rd.known, r.values.known) || !maps.Equal(rd.plain, r.values.plain) {
		clear(rd.kept)
		rd.known, rd.plain = r.values.known, r.values.plain
	}
	r.declared = make(map[schema.ID]*plan.Declared)
	r.resolved = make(map[schema.ID]*schema.Resource)
	r.trees = make(map[schema.ID]files)
	kept := make(map[schema.ID]*keptDeclaration, len(rd.kept))
	for _, res := range r.config.Resources {
		if res.Template || res.Stack() == nil && res.Deployment() == nil {
			continue
		}
		k := rd.declareOne(ctx, r, res)
		kept[res.ID], r.declared[res.ID], r.resolved[res.ID] = k, k.declared, k.resolved
	}
	rd.kept = kept
}

func (rd *reader) declareOne(ctx context.Context, r *reading, res *schema.Resource) *keptDeclaration {
	old := rd.kept[res.ID]
	if res.Deployment() != nil {
		r.trees[res.ID] = files{repo: rd.at(r, res).String()}
		if old != nil && old.config == res.Config {
			return old
		}
		k := &keptDeclaration{config: res.Config, resolved: r.values.resolve(res)}
		k.declared = plan.DeclareDeployment(k.resolved, r.values.known)
		return k
	}
	f := rd.filesOf(ctx, r, res)
	r.trees[res.ID] = f
	if old != nil && old.config == res.Config && old.repo == f.repo && old.fresh(f.tree) {
		return old
	}
	k := &keptDeclaration{config: res.Config, repo: f.repo, treeID: treeID(f.tree), resolved: r.values.resolve(res)}
	in := compose.Input{Resource: k.resolved, Why: f.why, Known: r.values.known}
	if f.tree != nil {
		in.Tree = f.tree
	}
	k.declared, k.reads = compose.Declare(ctx, in)
	return k
}

func treeID(t tree) string {
	if s, ok := t.(interface{ ID() string }); ok {
		return s.ID()
	}
	return ""
}

// fresh reports whether all that was read for the declaration still is what it was.
func (k *keptDeclaration) fresh(t tree) bool {
	if d := k.declared; d.Unread != "" && (!d.OnHost || d.Tree && (treeID(t) == "" || treeID(t) != k.treeID)) {
		return false
	}
	if id := treeID(t); id != "" && id == k.treeID {
		return true
	}
	if t == nil {
		return len(k.reads) == 0
	}
	for _, r := range k.reads {
		hash := ""
		if e, err := t.Lookup(r.Path); err == nil {
			hash = e.Hash
		}
		if hash != r.Hash {
			return false
		}
	}
	k.treeID = treeID(t)
	return true
}

// filesOf finds the tree a stack's files lie in: the config repository at the same commit, or another one.
func (rd *reader) filesOf(ctx context.Context, r *reading, res *schema.Resource) files {
	c := res.Stack()
	own := files{tree: r.tree, repo: rd.src.address().String()}
	c0 := r.origin[res.ID]
	if c0 != nil {
		own = files{tree: c0.snap, repo: c0.addr.String()}
	}
	switch {
	case compose.Inline(c):
		return files{repo: own.repo}
	case c.FilesOnHost:
		return files{repo: own.repo}
	case c.LinkedRepo == "" && c.Repo == "":
		return own
	}
	from := c.Source
	if c.LinkedRepo != "" {
		repo := r.config.Get(schema.NewID(schema.KindRepo, schema.NormalName(schema.KindRepo, c.LinkedRepo)))
		if repo == nil {
			return files{why: fmt.Sprintf("no file declares the repo %q", c.LinkedRepo)}
		}
		rc, ok := repo.Config.(*schema.RepoConfig)
		if !ok {
			return files{why: fmt.Sprintf("%s has no config", repo.ID)}
		}
		from = rc.Source()
	}
	addr, err := gitrepo.SourceAddress(from)
	if err != nil {
		return files{why: err.Error()}
	}
	if c0 == nil && rd.isOwn(addr, from, r.branch) || c0 != nil && from.Commit == "" && c0.addr.Same(addr) && c0.branch == from.Branch {
		return own
	}
	snap, err := rd.other(ctx, res.ID, addr, from)
	r.noteUnread(addr, snap, err)
	if err != nil {
		return files{repo: addr.String(), why: err.Error()}
	}
	r.others[addr.String()+" "+from.Branch] = snap.commit
	return files{tree: snap, repo: addr.String(), branch: from.Branch}
}

// at is the repository that declares a resource.
func (rd *reader) at(r *reading, res *schema.Resource) gitrepo.Address {
	if c := r.origin[res.ID]; c != nil {
		return c.addr
	}
	return rd.src.address()
}

// isOwn reports whether a source is the sync's repository and branch.
func (rd *reader) isOwn(addr gitrepo.Address, from schema.Source, branch string) bool {
	if from.Commit != "" || branch != "" && from.Branch != "" && from.Branch != branch {
		return false
	}
	at := rd.src.address()
	if at.Same(addr) {
		return true
	}
	origin, ok := gitrepo.Origin(at)
	return ok && origin.Same(addr)
}

// fetchOther reads another repository. When it cannot be asked, what it last held is used, so that a forge
// that is down changes nothing.
func (rd *reader) fetchOther(ctx context.Context, _ schema.ID, addr gitrepo.Address, from schema.Source) (*fetched, error) {
	if addr.Local() {
		return nil, errors.New("a path on this machine is read only by [config] and --repo")
	}
	key := strings.Join([]string{addr.String(), from.GitAccount, from.Branch, from.Commit}, " ")
	repo, err := rd.mirrors.open(addr, from.GitAccount, false)
	if err != nil {
		return nil, err
	}
	var snap *gitrepo.Snapshot
	if from.Commit != "" {
		if old := rd.snaps[key]; old != nil {
			return old, nil
		}
		snap, err = repo.At(ctx, from.Branch, from.Commit)
	} else {
		snap, err = repo.Fetch(ctx, from.Branch)
	}
	if err != nil {
		if old := rd.snaps[key]; old != nil && ctx.Err() == nil {
			rd.opts.Log.WarnContext(ctx, "repository not read, going on with what it held", "repo", addr.String(), "commit", old.commit, "err", err)
			return &fetched{tree: old.tree, commit: old.commit, old: true}, nil
		}
		return nil, err
	}
	rd.snaps[key] = &fetched{tree: snap, commit: snap.Commit}
	return rd.snaps[key], nil
}

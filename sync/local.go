package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/sync/gitrepo"
)

// Local plans and applies one folder or commit without a daemon: `varan plan DIR`, `varan apply DIR`.
type Local struct {
	s       *syncer
	mirrors *mirrors
	view    view
	folder  bool

	made *plan.Plan // by the last Plan, with what it was made from
	read *reading
	job  job
}

// complete fills in what callers may leave out.
func (o *Options) complete() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Reporter == nil {
		o.Reporter = logReporter{o.Log}
	}
}

// OpenFolder reads dir as it lies on disk, uncommitted changes included.
func OpenFolder(ctx context.Context, dir string, opts Options) (*Local, error) {
	f, err := gitrepo.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	addr, err := gitrepo.ParseAddress(f.Dir())
	if err != nil {
		return nil, err
	}
	return openLocal(ctx, &folderSource{folder: f, addr: addr}, opts, true)
}

// OpenRepo reads a revision (a branch, tag or commit) of the local repository at dir.
func OpenRepo(ctx context.Context, dir, ref string, opts Options) (*Local, error) {
	addr, err := gitrepo.ParseAddress(dir)
	if err != nil {
		return nil, err
	}
	if !addr.Local() {
		return nil, fmt.Errorf("%s is no folder of this machine", dir)
	}
	repo, err := gitrepo.Open(addr, gitrepo.Options{AllowLocal: true})
	if err != nil {
		return nil, err
	}
	snap, err := repo.At(ctx, "", ref)
	if err != nil {
		return nil, errors.Join(err, repo.Close())
	}
	return openLocal(ctx, &commitSource{gitSource: gitSource{repo: repo}, snap: snap}, opts, false)
}

func openLocal(ctx context.Context, src source, opts Options, folder bool) (*Local, error) {
	opts.complete()
	opts.DataDir = "" // a daemon's mirrors are its own
	v, err := src.fetch(ctx)
	if err != nil {
		return nil, errors.Join(err, src.close())
	}
	l := &Local{view: v, folder: folder}
	l.mirrors = &mirrors{opts: &opts, settings: opts.Settings, repos: make(map[repoKey]*gitrepo.Repo)}
	l.s = newSyncer(RootName, &opts, &opts.Settings, src, l.mirrors, scope{paths: opts.Settings.Config.Path})
	l.s.configure(opts.Settings.Config, opts.Settings.Compat)
	l.s.here = !opts.whole
	return l, nil
}

// Close lets go of what was opened.
func (l *Local) Close() error { return errors.Join(l.mirrors.close(), l.s.src.close()) }

// Uncommitted reports whether what was read is a folder and not a commit.
func (l *Local) Uncommitted() bool { return l.folder }

// Plan observes and plans. A plan whose Diagnostics hold errors cannot be applied.
func (l *Local) Plan(ctx context.Context, req PlanRequest) (*plan.Plan, error) {
	l.job = job{trigger: triggerCommand, rules: req.rules()}
	r, p, err := l.s.preview(ctx, l.view, l.job)
	if err != nil {
		return nil, err
	}
	l.made, l.read = p, r
	return p, nil
}

// Apply carries out the plan that Plan made last: it was shown, so what it asks is answered.
func (l *Local) Apply(ctx context.Context, p *plan.Plan, actor string, events func(apply.Event)) (*apply.Result, error) {
	if l.made == nil || p != l.made {
		return nil, errors.New("apply: this is not the plan that was made last")
	}
	if l.read.broken() {
		return nil, errors.New("apply: the files have errors")
	}
	j := l.job
	j.actor, j.events, j.approved = actor, events, p.Digest
	return l.s.apply(ctx, l.read, p, &plan.State{}, j) // no agent of another host is updated from here
}

func (q PlanRequest) rules() plan.Rules {
	return plan.Rules{Retry: q.Retry, Only: q.Only, AllowRemovals: q.AllowRemovals, Delete: q.Remove}
}

// refresh has every server asked anew: a person wants to know, or the clock says so.
func (s *syncer) refresh() {
	if s.opts.Refresh != nil {
		s.opts.Refresh()
	}
}

// preview reads, observes and plans without applying.
func (s *syncer) preview(ctx context.Context, v view, j job) (*reading, *plan.Plan, error) {
	s.runLock.Lock()
	defer s.runLock.Unlock()
	r, err := s.read(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	if r.broken() {
		return r, s.brokenPlan(r), nil
	}
	if j.trigger == triggerCommand {
		s.refresh()
	}
	state := s.observe(ctx, r, s.servers(r))
	return r, s.make(r, state, j), nil
}

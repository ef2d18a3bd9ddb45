package sync

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	gosync "sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// Errors that callers tell apart.
var (
	ErrUnknown  = errors.New("not known")        // a run, a resource, a sync of that name
	ErrChanged  = errors.New("the plan differs") // from the one that was shown
	ErrBusy     = errors.New("busy")
	ErrNotAsked = errors.New("nothing waits for that digest")
)

// A Daemon follows the config repository and all that it names. Its methods may be called side by side, also
// while Run runs.
type Daemon struct {
	opts    Options
	mirrors *mirrors
	history History
	root    *follower
	began   time.Time
	gone    chan struct{} // closed when Run has returned
	// stopping is closed when Run's context ends.
	stopping chan struct{}

	mu       gosync.Mutex // guards below
	settings Settings
	pause    *plan.Hold
	running  map[*syncer]*activeRun
	ears     map[int]func(apply.Event)
	nextEar  int
	previews Previews // nil = pull requests are not previewed
}

// An activeRun is one that goes on now.
type activeRun struct {
	info   RunInfo
	cancel context.CancelCauseFunc
}

// New prepares a daemon; it touches nothing outside opts.DataDir.
func New(opts Options) (*Daemon, error) {
	opts.complete()
	d := &Daemon{opts: opts, settings: opts.Settings, began: time.Now().UTC(), gone: make(chan struct{}), stopping: make(chan struct{}),
		running: make(map[*syncer]*activeRun), ears: make(map[int]func(apply.Event))}
	if h, ok := opts.Journal.(History); ok && h != nil {
		d.history = h
	} else {
		d.history = &recent{}
		d.opts.Journal = d.history
	}
	d.mirrors = &mirrors{opts: &d.opts, settings: opts.Settings, repos: make(map[repoKey]*gitrepo.Repo)}
	set := opts.Settings
	src, err := openSource(d.mirrors, set.Config.URL, set.Config.Branch)
	if err != nil {
		return nil, fmt.Errorf("open [config] url: %w", err)
	}
	s := newSyncer(RootName, &d.opts, &set, src, d.mirrors, scope{paths: set.Config.Path})
	s.configure(set.Config, set.Compat)
	if err := d.recall(s); err != nil {
		return nil, err
	}
	d.root = &follower{
		syncer: s, poll: or(set.Config.Poll, time.Minute), paused: d.isPaused, pausedUntil: d.pausedUntil, started: d.started, relay: d.relay,
		stored: d.remember, contest: d.contest,
		changed: make(chan struct{}, 1), stirred: make(chan struct{}, 1), commands: make(chan job), pollNow: make(chan chan error), hinted: make(chan struct{}, 1),
	}
	return d, nil
}

// Run follows everything until ctx ends, and returns after the last run has stopped.
func (d *Daemon) Run(ctx context.Context) error {
	defer close(d.gone)
	defer context.AfterFunc(ctx, func() { close(d.stopping) })()
	if err := d.resume(ctx); err != nil {
		d.opts.Log.WarnContext(ctx, "journal not read, nothing is resumed", "err", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.root.follow(gctx) })
	g.Go(func() error { return d.hear(gctx) })
	g.Go(func() error { return d.keepHouse(gctx) })
	err := g.Wait()
	d.root.runLock.Lock() // a folder's run ends too, after its steps under way
	defer d.root.runLock.Unlock()
	return errors.Join(err, d.root.src.close(), d.mirrors.close())
}

// resume hands over what a killed daemon owed. What it did is on the containers and in the ledgers, and op ids
// keep what is under way from being done twice, so that the first run is a plan of its own.
func (d *Daemon) resume(ctx context.Context) error {
	records, err := d.history.Unfinished(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.Head.Sync != d.root.name {
			continue
		}
		d.root.owe(r)
		err := d.history.Append(ctx, apply.Entry{Run: r.ID, At: time.Now().UTC(), Kind: apply.EntryFinished, Status: apply.StatusInterrupted,
			Error: "the daemon was stopped; the next run goes on from what it had done"})
		if err != nil {
			return fmt.Errorf("close the cut-off run %s: %w", r.ID, err)
		}
	}
	return nil
}

// owe takes over the restarts that a cut-off run came to owe: of what comes after a resource it changed.
func (s *syncer) owe(r *apply.Record) {
	s.runLock.Lock()
	defer s.runLock.Unlock()
	if s.owed == nil {
		s.owed = make(map[schema.ID]bool)
	}
	for _, id := range r.Cascades {
		s.owed[id] = true
	}
	if r.Plan == nil {
		return
	}
	for i := range r.Plan.Steps {
		st := &r.Plan.Steps[i]
		if done := r.Steps[st.Resource]; done != nil && done.Status == apply.StatusDone || st.Action != plan.Restart {
			continue
		}
		if slices.ContainsFunc(st.Causes, func(c plan.Cause) bool { return c.Kind == plan.CameAfter }) {
			s.owed[st.Resource] = s.owed[st.Resource] || changedBefore(r, st)
		}
	}
}

// changedBefore reports whether something the step comes after was changed by the cut-off run, as far as is known.
func changedBefore(r *apply.Record, st *plan.Step) bool {
	return slices.ContainsFunc(st.After, func(id schema.ID) bool {
		p := r.Steps[id]
		return p == nil || p.Changed
	})
}

// hear turns the servers' events into looks for drift, gathered for a while so that a deploy's own events and
// a restarting host make one.
func (d *Daemon) hear(ctx context.Context) error {
	if d.opts.Events == nil {
		return nil
	}
	raw := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return debounce(ctx, raw, d.root.stirred, or(d.opts.Timing.Debounce, 500*time.Millisecond))
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case _, ok := <-d.opts.Events:
				if !ok {
					return nil
				}
				d.root.disturb()
				select {
				case raw <- struct{}{}:
				default:
				}
			}
		}
	})
	return g.Wait()
}

// started notes a run, and returns what ends the note.
func (d *Daemon) started(s *syncer, h apply.Head, cancel context.CancelCauseFunc) func() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running[s] = &activeRun{cancel: cancel, info: RunInfo{Sync: h.Sync, Commit: h.Commit, Trigger: h.Trigger, Actor: h.Actor,
		Started: time.Now().UTC(), Status: string(apply.StatusRunning)}}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.running, s)
	}
}

// relay hands an event to all who listen.
func (d *Daemon) relay(e apply.Event) {
	d.mu.Lock()
	ears := slices.Collect(maps.Values(d.ears))
	for _, a := range d.running {
		if e.Kind == apply.RunStarted && a.info.ID == "" {
			a.info.ID = e.Run
		}
	}
	d.mu.Unlock()
	for _, tell := range ears {
		tell(e)
	}
}

// Events calls fn with what happens in every run until ctx ends; fn must return soon.
func (d *Daemon) Events(ctx context.Context, fn func(apply.Event)) error {
	d.mu.Lock()
	id := d.nextEar
	d.nextEar++
	d.ears[id] = fn
	d.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-d.gone:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.ears, id)
	return nil
}

// Reload puts new settings in the place of the old: secrets that changed are planned at once. Another url,
// branch or path needs a restart.
func (d *Daemon) Reload(set Settings) error {
	d.mu.Lock()
	old := d.settings
	if old.Config.URL != set.Config.URL || old.Config.Branch != set.Config.Branch || !slices.Equal(old.Config.Path, set.Config.Path) || old.Fleet != set.Fleet {
		d.mu.Unlock()
		return errors.New("name, [config] url, branch and path are read at start only: restart the daemon")
	}
	d.settings = set
	d.mu.Unlock()
	d.mirrors.reload(set)
	d.root.reload(set)
	if secretsChanged(&old, &set) {
		go d.root.send(job{trigger: triggerSecret}, d.gone) // the loop takes it when it comes round
	}
	return nil
}

func (s *syncer) reload(set Settings) {
	s.runLock.Lock()
	defer s.runLock.Unlock()
	s.configure(set.Config, set.Compat)
	s.quiet = false
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set = &set
}

// send gives the loop a job unless the daemon ends first.
func (f *follower) send(j job, gone <-chan struct{}) bool {
	select {
	case f.commands <- j:
		return true
	case <-gone:
		return false
	}
}

var errStopped = errors.New("the daemon is stopping")

// command makes a run for somebody who waits for it.
func (d *Daemon) command(ctx context.Context, j job) (*plan.Plan, *apply.Result, error) {
	type end struct {
		p   *plan.Plan
		res *apply.Result
		err error
	}
	ended := make(chan end, 1)
	j.trigger = triggerCommand
	j.ended = func(p *plan.Plan, r *apply.Result, err error) { ended <- end{p, r, err} }
	select {
	case d.root.commands <- j:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	case <-d.gone:
		return nil, nil, errStopped
	}
	select {
	case e := <-ended:
		return e.p, e.res, e.err
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	case <-d.gone:
		return nil, nil, errStopped
	}
}

// Plan makes a plan and touches nothing. A plan whose Diagnostics hold errors cannot be applied.
func (d *Daemon) Plan(ctx context.Context, req PlanRequest) (*plan.Plan, error) {
	if err := d.named(req.Sync); err != nil {
		return nil, err
	}
	if req.Dir != "" {
		l, err := d.local(ctx, req)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		return l.Plan(ctx, req)
	}
	v, err := d.root.src.fetch(ctx)
	if err != nil {
		return nil, err
	}
	_, p, err := d.root.preview(ctx, v, job{trigger: triggerCommand, rules: req.rules()})
	return p, err
}

func (d *Daemon) named(sync string) error {
	if sync != "" && sync != d.root.name {
		return fmt.Errorf("sync %q: %w", sync, ErrUnknown)
	}
	return nil
}

// local opens a folder of this machine with the daemon's own fleet and rules.
func (d *Daemon) local(ctx context.Context, req PlanRequest) (*Local, error) {
	opts := d.opts
	d.mu.Lock()
	opts.Settings = d.settings
	d.mu.Unlock()
	opts.Settings.Config.Path = nil
	opts.whole, opts.Enrol = true, nil // a folder enrols nobody
	if req.Ref != "" {
		return OpenRepo(ctx, req.Dir, req.Ref, opts)
	}
	return OpenFolder(ctx, req.Dir, opts)
}

// Apply plans and applies. With a Digest another plan than that is ErrChanged. Events may be nil.
func (d *Daemon) Apply(ctx context.Context, req ApplyRequest, events func(apply.Event)) (*plan.Plan, *apply.Result, error) {
	if err := d.named(req.Sync); err != nil {
		return nil, nil, err
	}
	if req.Dir == "" {
		return d.command(ctx, job{actor: req.Actor, rules: req.rules(), preview: req.Digest, approved: req.Digest, events: events})
	}
	l, err := d.local(ctx, req.PlanRequest)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	p, err := l.Plan(ctx, req.PlanRequest)
	if err != nil {
		return nil, nil, err
	}
	if req.Digest != "" && req.Digest != p.Digest {
		return p, nil, ErrChanged
	}
	if err := d.root.persists(ctx, true); err != nil {
		return p, nil, err
	}
	if !d.root.lockSoon(ctx, lookTime) {
		return p, nil, fmt.Errorf("a run goes on: %w", ErrBusy)
	}
	defer d.root.runLock.Unlock()
	d.root.quiet = false
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx)) // it goes on when who asked is gone
	defer cancel(nil)
	defer d.whenStopping(func() { cancel(apply.ErrStopping) })()
	defer d.started(d.root.syncer, apply.Head{Sync: d.root.name, Trigger: triggerCommand, Actor: req.Actor, Commit: p.Commit}, cancel)()
	res, err := l.Apply(ctx, p, req.Actor, func(e apply.Event) {
		d.relay(e)
		if events != nil {
			events(e)
		}
	})
	d.root.relieve(res)
	return p, res, err
}

// relieve forgets the failures of what a person carried out from a folder since, and looks again, for what is told of
// it is not so any more. The caller has runLock.
func (f *follower) relieve(res *apply.Result) {
	if res == nil {
		return
	}
	failures, waits := maps.Clone(f.failures), maps.Clone(f.waits)
	for _, st := range res.Steps {
		if st.Status == apply.StatusDone {
			delete(failures, st.Resource)
			delete(waits, st.Resource)
		}
	}
	f.failures, f.waits = failures, waits
	f.disturb()
	select {
	case f.stirred <- struct{}{}:
	default:
	}
}

// whenStopping calls f when the daemon begins to stop, unless the function it returns was called before.
func (d *Daemon) whenStopping(f func()) (over func()) {
	done := make(chan struct{})
	go func() {
		select {
		case <-d.stopping:
			f()
		case <-done:
		}
	}()
	return func() { close(done) }
}

// lookTime is how long a command waits for what holds the run lock: a look for drift is over soon, a run may not be.
const lookTime = 5 * time.Second

// lockSoon takes the run lock unless it is held for longer than d.
func (s *syncer) lockSoon(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !s.runLock.TryLock() {
		select {
		case <-ctx.Done():
			return false
		case <-again.C:
		}
	}
	return true
}

// RunNow runs one resource now: a stack or deployment is made to run as declared.
func (d *Daemon) RunNow(ctx context.Context, id schema.ID, actor string, events func(apply.Event)) (*apply.Result, error) {
	if r := d.root.reading(); r == nil || r.config.Get(id) == nil {
		return nil, fmt.Errorf("%s: %w", id, ErrUnknown)
	}
	_, res, err := d.command(ctx, job{actor: actor, rules: plan.Rules{Only: []schema.ID{id}}, events: events})
	return res, err
}

// Remove removes one resource that no sync declares any more.
func (d *Daemon) Remove(ctx context.Context, id schema.ID, actor string, events func(apply.Event)) (*apply.Result, error) {
	r := d.root.reading()
	if r == nil {
		return nil, fmt.Errorf("nothing was read yet: %w", ErrBusy)
	}
	if res := r.config.Get(id); res != nil {
		return nil, fmt.Errorf("%s is declared at %s: take it out of the files first, or say release = true", id, place(res.Pos))
	}
	p, res, err := d.command(ctx, job{actor: actor, rules: plan.Rules{Only: []schema.ID{id}, Delete: true, AllowRemovals: 1}, events: events})
	if err == nil && p != nil && p.Step(id) == nil {
		return nil, fmt.Errorf("%s: no server has anything of it: %w", id, ErrUnknown)
	}
	return res, err
}

func (s *syncer) reading() *reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastRead
}

// Approve answers what the plan of that digest asks and applies it if the plan made now is still that.
func (d *Daemon) Approve(ctx context.Context, digest, actor string) error {
	d.root.mu.Lock()
	waits := d.root.pending
	d.root.mu.Unlock()
	if waits == nil || waits.digest != digest {
		return fmt.Errorf("%s: %w", digest, ErrNotAsked)
	}
	p, res, err := d.command(ctx, job{actor: actor, preview: digest, approved: digest})
	switch {
	case err != nil:
		return err
	case res == nil || p == nil || p.Digest != digest:
		return ErrChanged
	case !res.OK():
		return fmt.Errorf("run %s ended %s", res.Run, res.Status)
	}
	return nil
}

// Sync polls one sync, or all with "", without waiting for its period.
func (d *Daemon) Sync(ctx context.Context, name string) error {
	if err := d.named(name); err != nil {
		return err
	}
	answer := make(chan error, 1)
	select {
	case d.root.pollNow <- answer:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-d.gone:
		return errStopped
	}
	return <-answer
}

// Cancel ends a run after the steps in flight; "" = the one that runs.
func (d *Daemon) Cancel(_ context.Context, run string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.running {
		if run == "" || a.info.ID == run {
			a.cancel(apply.ErrCancelled)
			return nil
		}
	}
	if run == "" {
		return fmt.Errorf("no run goes on: %w", ErrUnknown)
	}
	return fmt.Errorf("no run %s goes on: %w", run, ErrUnknown)
}

// Pause stops new runs, or lets them go on. A run that goes on is left to end.
func (d *Daemon) Pause(ctx context.Context, req PauseRequest) error {
	h := plan.Hold{Kind: plan.HoldPaused, Reason: req.Reason, Since: time.Now().UTC()}
	if req.For > 0 {
		h.Until = h.Since.Add(req.For)
	}
	d.mu.Lock()
	d.pause = &h
	if req.Off {
		d.pause = nil
	}
	d.mu.Unlock()
	if err := d.storePause(); err != nil {
		return err
	}
	if err := d.pauseServers(ctx, h, req.Off); err != nil {
		return err
	}
	if req.Off {
		d.root.note(func(s *SyncStatus) { s.State = "ok" })
		go d.root.send(job{trigger: triggerCommit}, d.gone)
	}
	return nil
}

// pauseServers has every agent keep the pause, so that it outlives the daemon's data. A run under way is let end first.
func (d *Daemon) pauseServers(ctx context.Context, h plan.Hold, off bool) error {
	d.root.mu.Lock()
	var servers []string
	if d.root.state != nil {
		for _, name := range sortedKeys(d.root.state.Servers) {
			if d.root.state.Servers[name].Unreachable == "" {
				servers = append(servers, name)
			}
		}
	}
	if d.root.state == nil { // nothing was looked at yet
		servers = []string{cmp.Or(d.opts.Local, "local")}
	}
	d.root.mu.Unlock()
	tell := func(ctx context.Context) error {
		defer d.root.runLock.Unlock()
		if !off && !d.isPaused() { // lifted meanwhile
			return nil
		}
		var errs []error
		for _, server := range servers {
			errs = append(errs, d.setHold(ctx, server, &h, off))
		}
		d.root.disturb()
		select {
		case d.root.stirred <- struct{}{}:
		default:
		}
		return errors.Join(errs...)
	}
	if d.root.runLock.TryLock() {
		return tell(ctx)
	}
	go func() {
		d.root.runLock.Lock()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := tell(ctx); err != nil {
			d.opts.Log.Warn("pause is kept by the daemon alone", "err", err)
		}
	}()
	return nil
}

func (d *Daemon) isPaused() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pause != nil && d.pause.Over(time.Now()) {
		d.pause = nil
	}
	return d.pause != nil
}

func (d *Daemon) pausedUntil() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pause == nil {
		return time.Time{}
	}
	return d.pause.Until
}

// Hold keeps varan's hands off a resource or server, or lifts that. It is kept at the agent.
func (d *Daemon) Hold(ctx context.Context, req HoldRequest) error {
	server, err := d.serverOf(req)
	if err != nil {
		return err
	}
	h := &plan.Hold{Resource: req.Resource, Kind: plan.HoldUser, Reason: req.Reason, Since: time.Now().UTC()}
	if req.For > 0 {
		h.Until = h.Since.Add(req.For)
	}
	if req.Off && req.Resource != "" {
		h.Kind = "" // of any kind: a person has looked
	}
	if err := d.setHold(ctx, server, h, req.Off); err != nil {
		return err
	}
	d.root.disturb()
	select {
	case d.root.stirred <- struct{}{}:
	default:
	}
	return nil
}

// disturb says that the servers may no longer be as they were last seen.
func (s *syncer) disturb() {
	s.mu.Lock()
	s.stir++
	s.mu.Unlock()
}

func (d *Daemon) contest(ctx context.Context, server string, id schema.ID, reason string) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	h := &plan.Hold{Resource: id, Kind: plan.HoldContested, Reason: reason, Since: time.Now().UTC()}
	if err := d.setHold(ctx, server, h, false); err != nil {
		d.opts.Log.ErrorContext(ctx, "contested resource not held", "resource", id, "server", server, "err", err)
		return
	}
	d.opts.Log.ErrorContext(ctx, "resource held as contested", "resource", id, "server", server, "why", reason)
}

func (d *Daemon) setHold(ctx context.Context, server string, h *plan.Hold, lift bool) error {
	var attempt [8]byte
	_, _ = rand.Read(attempt[:]) // it never fails
	out, err := d.root.fleetOf(d.root.localName()).Do(ctx, protocol.Op{
		ID:   apply.OpIDOf(d.root.name, h.Resource, h.Digest, protocol.SetHold, hex.EncodeToString(attempt[:])),
		Verb: protocol.SetHold, Resource: h.Resource, Server: server, Fleet: d.root.fleet(), Sync: d.root.name, Hold: h, Lift: lift,
	}, nil)
	if err != nil {
		return fmt.Errorf("hold on %s: %w", server, err)
	}
	if out.Status != protocol.Done {
		return fmt.Errorf("hold on %s: %s", server, out.Error)
	}
	return nil
}

// serverOf finds the server a hold is for.
func (d *Daemon) serverOf(req HoldRequest) (string, error) {
	if req.Server != "" {
		return req.Server, nil
	}
	d.root.mu.Lock()
	defer d.root.mu.Unlock()
	if d.root.last != nil {
		if st := d.root.last.Step(req.Resource); st != nil && st.Server != "" {
			return st.Server, nil
		}
	}
	return "", fmt.Errorf("%s: %w", req.Resource, ErrUnknown)
}

// Runs lists the newest runs first, at most limit.
func (d *Daemon) Runs(ctx context.Context, limit int) ([]RunInfo, error) {
	records, err := d.history.Runs(ctx, limit)
	if err != nil {
		return nil, err
	}
	out := make([]RunInfo, 0, len(records))
	for i := range records {
		out = append(out, infoOf(&records[i]))
	}
	return out, nil
}

// RunByID tells all of one run; ErrUnknown if there is none.
func (d *Daemon) RunByID(ctx context.Context, id string) (*Run, error) {
	r, err := d.history.Run(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return runOf(r), nil
}

// place is file:line:col, as far as known.
func place(p schema.Pos) string {
	switch {
	case p.File == "":
		return ""
	case p.Line == 0:
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
}

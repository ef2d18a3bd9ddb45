package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/agent/container"
	machine "github.com/varanhq/varan/agent/host"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/stack"
	"github.com/varanhq/varan/agent/update"
	"github.com/varanhq/varan/schema"
)

// Options of an Agent.
type Options struct {
	Root       string // ledger, stacks' files, key; made if absent
	DockerHost string // "" = DOCKER_HOST, else the default socket
	Fleet      string
	Server     string // the name of this host's [[server]]
	Config     string // agent.toml; "" = <Root>/agent.toml, which may be absent
	Version    string // of this program: for people
	// Update makes another program of this one; nil = it is part of a daemon or command.
	Update *update.Self
	Log    *slog.Logger

	// Wrap, when set, stands between the agent and the engine's client. Tests use it.
	Wrap func(client.APIClient) client.APIClient
}

// An Agent does ops on one engine. Its methods may be called side by side.
type Agent struct {
	opts    Options
	log     *slog.Logger
	api     client.APIClient
	watcher *container.Watcher
	engine  *container.Engine
	ledger  *ledger
	marks   *marks
	images  *images
	prints  *prints
	allow   container.Allow
	figures *machine.Reader
	// engineID tells one engine from another.
	engineID string
	locks    []*os.File
	changed  chan struct{}
	updates  bool          // agent.toml allows them
	leaving  chan struct{} // closed when an update takes over
	ownSum   func() (string, error)

	policies policies
	streams  streams
	loads    stack.Loads
	shares   shares

	mu      sync.Mutex // guards what follows
	tasks   map[protocol.OpID]*task
	queue   []*task
	wake    chan struct{}
	busy    map[schema.ID]chan struct{} // one token each: who holds it may change the resource
	subs    map[*Subscription]chan protocol.Progress
	stopped bool
	// draining: an update waits for the ops under way, and none begins.
	draining bool
}

// A task is an op that was taken and has no outcome on disk yet.
type task struct {
	op      protocol.Op
	resume  bool          // its intent lies in the ledger; there is no payload
	done    chan struct{} // closed when outcome or err is set
	outcome protocol.Outcome
	err     error // interrupted: the op is unfinished
}

// connectTimeout is how long the engine may take to answer for the first time.
const connectTimeout = 5 * time.Second

// New locks the root and the engine, reads the ledger and finds what a killed process left behind; Run puts it
// right. It fails at once, with the socket it tried, where no engine answers.
func New(opts Options) (_ *Agent, err error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Fleet == "" {
		opts.Fleet = "main"
	}
	root, err := filepath.Abs(opts.Root)
	if err != nil {
		return nil, fmt.Errorf("find agent root %s: %w", opts.Root, err)
	}
	opts.Root = root
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make agent root: %w", err)
	}
	a := &Agent{opts: opts, log: opts.Log, tasks: map[protocol.OpID]*task{}, wake: make(chan struct{}, 1),
		busy: map[schema.ID]chan struct{}{}, subs: map[*Subscription]chan protocol.Progress{}, changed: make(chan struct{}, 1), leaving: make(chan struct{})}
	if opts.Update != nil {
		a.ownSum = sync.OnceValues(opts.Update.SHA256)
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if err := a.lockRoot(); err != nil {
		return nil, err
	}
	a.sweep()
	if a.allow, a.updates, err = readConfig(opts); err != nil {
		return nil, err
	}
	if err := a.connect(); err != nil {
		return nil, err
	}
	if a.ledger, err = openLedger(filepath.Join(root, "ledger"), a.log); err != nil {
		return nil, err
	}
	if a.prints, err = openPrints(root); err != nil {
		return nil, err
	}
	a.images = openImages(filepath.Join(root, "images.json"), a.log)
	a.marks = openMarks(filepath.Join(root, "events.json"), a.log)
	a.watcher = container.NewWatcher(a.api, a.marks.since())
	a.watcher.On, a.watcher.Missed = a.heard, a.poke
	a.engine = container.NewEngine(a.api, a.watcher, a.log)
	a.engine.Allow = a.allow
	a.engine.Self = a.self()
	a.engine.Brought = a.images.note
	a.figures = a.newFigures()
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	a.watcher.History(ctx)
	a.recover()
	return a, nil
}

func (a *Agent) connect() error {
	opts := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if a.opts.DockerHost != "" {
		opts = append(opts, client.WithHost(a.opts.DockerHost))
	}
	c, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return fmt.Errorf("connect to Docker: %w", err)
	}
	a.api = c
	if a.opts.Wrap != nil {
		a.api = a.opts.Wrap(c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	if _, err := a.api.Ping(ctx); err != nil {
		return fmt.Errorf("no Docker engine answers at %s: %w", c.DaemonHost(), err)
	}
	info, err := a.api.Info(ctx)
	if err != nil {
		return fmt.Errorf("ask the Docker engine at %s about itself: %w", c.DaemonHost(), err)
	}
	// Engines before 25.0 take their id from a file of the host, which several on one host share.
	// Machines made from one image may share their engines' id: the name tells these apart.
	a.engineID = info.ID + info.DockerRootDir + info.Name
	return a.lockEngine(info.ID + info.DockerRootDir)
}

// sweep removes what killed processes left behind of files they were writing and folders they were building in.
func (a *Agent) sweep() {
	for _, pattern := range []string{".build-*", ".new-*", "ledger/.new-*", "ledger/*/.new-*", "prints/*/.new-*", "undo/*.new", "update/.new-*"} {
		left, _ := filepath.Glob(filepath.Join(a.opts.Root, pattern)) // fails on bad patterns only
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				a.log.Warn("remove what a killed process left", "path", path, "err", err)
			}
		}
	}
}

// Run watches the engine's events and works on the ops submitted until ctx ends. It must run for ops to go on.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.watcher.Run(ctx) })
	g.Go(func() error { return a.marks.run(ctx, a.watcher.Last) })
	g.Go(func() error { return a.tidyUp(ctx) })
	g.Go(func() error {
		for {
			for t := a.next(); t != nil; t = a.next() {
				g.Go(func() error { a.work(ctx, t); return nil })
			}
			select {
			case <-a.wake:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
	err := g.Wait()
	a.mu.Lock()
	a.stopped = true
	for _, t := range a.queue {
		t.err = errInterrupted
		close(t.done)
	}
	a.queue = nil
	a.mu.Unlock()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// errInterrupted: the agent stops; the op goes on when it is submitted again, or by itself where it can.
var errInterrupted = errors.New("the agent is being stopped; the op is not finished")

func (a *Agent) next() *task {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 || a.draining {
		return nil
	}
	t := a.queue[0]
	a.queue = a.queue[1:]
	return t
}

// Close unlocks root and engine; call it when Run has returned.
func (a *Agent) Close() error {
	a.closeStreams()
	var errs []error
	for _, f := range a.locks {
		_ = os.Remove(f.Name()) // so that no engine's lock stays of a fleet that is gone
		errs = append(errs, f.Close())
	}
	a.locks = nil
	if a.api != nil {
		errs = append(errs, a.api.Close())
	}
	return errors.Join(errs...)
}

// ErrUnknownOp says that this agent neither works on the op nor remembers it.
var ErrUnknownOp = errors.New("unknown op")

// Submit takes an op and returns at once: accepted, running, done (with the Outcome) or refused (with one).
func (a *Agent) Submit(_ context.Context, op protocol.Op) protocol.Submit {
	s := protocol.Submit{Version: protocol.Version}
	if o := a.finished(op.ID); o != nil {
		o.Again = true
		s.State, s.Outcome = "done", o
		return s
	}
	if o := a.ledger.get(op.Resource).outcome(op.ID); o != nil {
		o.Again = true
		s.State, s.Outcome = "done", o
		return s
	}
	if o := a.refuse(op); o != nil {
		s.State, s.Outcome = "refused", o
		return s
	}
	if op.Verb == protocol.Carry {
		return a.carry(op)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.tasks[op.ID]; ok && !t.resume {
		s.State = "running"
		return s
	} else if ok {
		s.State = "running" // put right by itself since the start
		return s
	}
	if a.stopped {
		s.State = "refused"
		s.Outcome = &protocol.Outcome{Version: protocol.Version, ID: op.ID, Status: protocol.Refused, Error: "the agent is being stopped"}
		return s
	}
	a.enqueue(&task{op: op})
	s.State = "accepted"
	return s
}

// finished is the outcome of an op that has ended, nil if it is not in memory.
func (a *Agent) finished(id protocol.OpID) *protocol.Outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.tasks[id]
	if t == nil {
		return nil
	}
	select {
	case <-t.done:
	default:
		return nil
	}
	if t.err != nil {
		return nil
	}
	out := t.outcome
	return &out
}

// enqueue wants a.mu held, or nobody else to know a yet.
func (a *Agent) enqueue(t *task) {
	t.done = make(chan struct{})
	a.tasks[t.op.ID] = t
	a.queue = append(a.queue, t)
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// refuse says why an op is not taken, nil if it is.
func (a *Agent) refuse(op protocol.Op) *protocol.Outcome {
	o := &protocol.Outcome{Version: protocol.Version, ID: op.ID, Status: protocol.Refused}
	switch {
	case op.Version < 1:
		o.Error = "the op has no protocol version"
	case op.ID == "":
		o.Error = "the op has no id"
	case op.Fleet != a.opts.Fleet:
		o.Error = fmt.Sprintf("this agent belongs to fleet %q, the op to %q", a.opts.Fleet, op.Fleet)
	case op.Resource == "" && op.Verb != protocol.SetHold:
		o.Error = "the op names no resource"
	default:
		return nil
	}
	return o
}

// Wait returns the outcome of an op once it has one. The error says that ctx ended first or that the op is
// unknown here ([ErrUnknownOp]), in which case it is to be submitted again.
func (a *Agent) Wait(ctx context.Context, id protocol.OpID) (protocol.Outcome, error) {
	a.mu.Lock()
	t, ok := a.tasks[id]
	a.mu.Unlock()
	if ok {
		select {
		case <-t.done:
			return t.outcome, t.err
		case <-ctx.Done():
			return protocol.Outcome{}, context.Cause(ctx)
		}
	}
	var found *protocol.Outcome
	a.ledger.all(func(r *record) {
		if o := r.outcome(id); o != nil {
			c := *o
			found = &c
		}
	})
	if found == nil {
		return protocol.Outcome{}, ErrUnknownOp
	}
	found.Again = true
	return *found, nil
}

// keptTasks is how many finished ops are answered from memory, with what their containers printed.
const keptTasks = 200

// work does one op, alone on its resource.
func (a *Agent) work(ctx context.Context, t *task) {
	release, err := a.hold(ctx, subject(t.op))
	if err == nil {
		t.outcome, err = a.do(ctx, t)
		release()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	t.err = err
	t.op = protocol.Op{ID: t.op.ID, Resource: t.op.Resource} // its secrets are needed no longer
	close(t.done)
	if err != nil {
		delete(a.tasks, t.op.ID)
	} else if len(a.tasks) > keptTasks {
		for id, old := range a.tasks {
			select {
			case <-old.done:
				delete(a.tasks, id)
			default:
			}
		}
	}
	a.poke()
}

// subject is the resource an op changes the record of.
func subject(op protocol.Op) schema.ID {
	if op.Resource == "" && op.Hold != nil {
		return op.Hold.Resource
	}
	return op.Resource
}

// hold waits for the resource to be free and takes it.
func (a *Agent) hold(ctx context.Context, id schema.ID) (release func(), err error) {
	a.mu.Lock()
	c, ok := a.busy[id]
	if !ok {
		c = make(chan struct{}, 1)
		a.busy[id] = c
	}
	a.mu.Unlock()
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, errInterrupted
	}
}

// working reports whether an op of ours is on its way on the resource.
func (a *Agent) working(id schema.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.busy[id]) > 0
}

// Changed has a token whenever something about the host's containers may have changed since it was last read.
func (a *Agent) Changed() <-chan struct{} { return a.changed }

func (a *Agent) poke() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// Progress subscribes to the progress of all ops. A slow reader loses the oldest events, never the newest.
func (a *Agent) Progress() *Subscription {
	c := make(chan protocol.Progress, 256)
	s := &Subscription{C: c, agent: a}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.subs[s] = c
	return s
}

// A Subscription delivers progress until it is closed.
type Subscription struct {
	C     <-chan protocol.Progress // closed by Close
	agent *Agent
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	if c, ok := s.agent.subs[s]; ok {
		delete(s.agent.subs, s)
		close(c)
	}
}

func (a *Agent) tell(p protocol.Progress) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.subs {
		for sent := false; !sent; {
			select {
			case c <- p:
				sent = true
			default:
				select {
				case <-c:
				default:
				}
			}
		}
	}
}

// containerID finds the id of the container a process is in: in its cgroup's name, or in the files the engine mounts
// below its /etc. A process on the host sees mounts of containers too, the shared memory of those with a shareable IPC
// namespace for one, and is in none of them.
var containerID = regexp.MustCompile(`docker[-/]([0-9a-f]{64})|/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) /etc/`)

// self is the container this process runs in, as far as the kernel tells.
func (a *Agent) self() string { return ownContainer() }

func ownContainer() string {
	for _, f := range []string{"/proc/self/cgroup", "/proc/self/mountinfo"} {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if id := idIn(data); id != "" {
			return id
		}
	}
	return ""
}

func idIn(data []byte) string {
	m := containerID.FindSubmatch(data)
	if m == nil {
		return ""
	}
	return cmp.Or(string(m[1]), string(m[2]))
}

// newKey reads a key of 32 bytes from path, or makes one.
func newKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) == 32 {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read agent key: %w", err)
	}
	key = make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	if err := writeSynced(path, key); err != nil {
		return nil, fmt.Errorf("write agent key: %w", err)
	}
	return key, nil
}

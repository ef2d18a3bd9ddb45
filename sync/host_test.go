package sync

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo/gittest"
)

// A host is a fleet of one server in memory: ops make and remove containers in its list.
type host struct {
	events chan string

	mu         gosync.Mutex // guards below
	containers map[string]plan.Container
	ledger     map[schema.ID]*plan.Entry
	holds      []plan.Hold
	payloads   map[schema.ID]*protocol.Payload
	ops        []string // VERB RESOURCE
	observed   int
	secrets    map[schema.ID]map[string]protocol.Secret
	outcome    func(protocol.Op) *protocol.Outcome
	block      chan struct{} // when set, ops wait for it
}

func newHost() *host {
	return &host{events: make(chan string, 64), containers: map[string]plan.Container{}, ledger: map[schema.ID]*plan.Entry{},
		payloads: map[schema.ID]*protocol.Payload{}, secrets: map[schema.ID]map[string]protocol.Secret{}}
}

func (h *host) Observe(_ context.Context, server string, queries []protocol.Query) (plan.ServerState, error) {
	if server != "local" {
		return plan.ServerState{}, fmt.Errorf("server %s: %w", server, apply.ErrUnreachable)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.observed++
	st := plan.ServerState{Name: server, Ledger: maps.Clone(h.ledger), Holds: slices.Clone(h.holds), Facts: map[schema.ID]*plan.Facts{}}
	for _, name := range slices.Sorted(maps.Keys(h.containers)) {
		st.Containers = append(st.Containers, h.containers[name])
	}
	for _, q := range queries {
		f := &plan.Facts{}
		for name, v := range q.Payload.Secrets {
			if old, ok := h.secrets[q.Resource][name]; ok && old != v {
				f.SecretsChanged = append(f.SecretsChanged, name)
			}
		}
		st.Facts[q.Resource] = f
	}
	return st, nil
}

func (h *host) Do(ctx context.Context, op protocol.Op, _ func(protocol.Progress)) (protocol.Outcome, error) {
	h.mu.Lock()
	block := h.block
	h.mu.Unlock()
	if block != nil && op.Verb == protocol.Deploy {
		select {
		case <-block:
		case <-ctx.Done():
			return protocol.Outcome{}, ctx.Err()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, string(op.Verb)+" "+string(op.Resource))
	if h.outcome != nil {
		if out := h.outcome(op); out != nil {
			return *out, nil
		}
	}
	switch op.Verb {
	case protocol.Deploy, protocol.Restart:
		h.deploy(op)
	case protocol.Remove:
		for name, c := range h.containers {
			if c.Resource == op.Resource {
				delete(h.containers, name)
			}
		}
		delete(h.ledger, op.Resource)
	case protocol.SetHold:
		h.holds = slices.DeleteFunc(h.holds, func(x plan.Hold) bool { return x.Resource == op.Hold.Resource })
		if !op.Lift {
			h.holds = append(h.holds, *op.Hold)
		}
	}
	select {
	case h.events <- "local":
	default:
	}
	return protocol.Outcome{ID: op.ID, Status: protocol.Done}, nil
}

func (h *host) deploy(op protocol.Op) {
	h.payloads[op.Resource] = op.Payload
	h.secrets[op.Resource] = op.Payload.Secrets
	for _, u := range op.Payload.Units {
		name := u.Service
		c := plan.Container{Resource: op.Resource, Fleet: op.Fleet, Sync: op.Sync, Digest: u.Digest, Commit: op.Commit, Status: "running", Service: u.Service, Project: op.Payload.Project}
		if op.Payload.Project != "" {
			name = op.Payload.Project + "-" + u.Service + "-1"
		}
		c.Name, c.ID = name, fmt.Sprintf("%s-%d", name, len(h.ops))
		h.containers[name] = c
	}
	h.ledger[op.Resource] = &plan.Entry{Resource: op.Resource, Fleet: op.Fleet, Sync: op.Sync, Commit: op.Commit, Outcome: "done", Units: op.Payload.Units, Project: op.Payload.Project}
}

// kill removes a container behind varan's back.
func (h *host) kill(name string) {
	h.mu.Lock()
	delete(h.containers, name)
	h.mu.Unlock()
	h.events <- "local"
}

func (h *host) did() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.ops), func(s string) bool { return strings.HasPrefix(s, "prepare ") })
}

func (h *host) names() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(h.containers)), " ")
}

// reports gathers what a Reporter is told.
type reports struct {
	t  testing.TB
	ch chan Report
}

func (r *reports) Report(_ context.Context, rep Report) { r.ch <- rep }

// next waits for a report that is not about drift that found nothing.
func (r *reports) next() Report {
	r.t.Helper()
	for {
		select {
		case rep := <-r.ch:
			if rep.Stage == StageApplying || rep.Stage == StageApplied && rep.Trigger == triggerDrift && !needsRun(rep.Plan) {
				continue
			}
			return rep
		case <-time.After(10 * time.Second):
			r.t.Fatal("no report came in 10 s")
		}
	}
}

func (r *reports) applied(commit string) Report {
	r.t.Helper()
	for {
		rep := r.next()
		if rep.Stage != StageApplied {
			r.t.Fatalf("got %s (%v %v %v), want %s applied", rep.Stage, rep.Diagnostics, rep.Why, rep.Err, commit)
		}
		if rep.Commit == commit {
			return rep
		}
	}
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// A world is a daemon that follows a repository onto a host.
type world struct {
	*Daemon
	t    testing.TB
	git  *gittest.Repo
	host *host
	rep  *reports
	opts Options
	stop func()
}

func options(t testing.TB, h *host, url string) Options {
	return Options{
		Settings: Settings{AllowHTTP: true, AllowInternal: true, Config: Root{URL: url, Branch: "main", Path: []string{"."}, Poll: 20 * time.Millisecond, Delete: true}},
		DataDir:  t.TempDir(), Servers: h, Events: h.events, Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
		Timing: Timing{Drift: time.Hour, Debounce: 5 * time.Millisecond, Rewritten: 200 * time.Millisecond, RetryMin: 10 * time.Millisecond},
	}
}

func follow(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, git: gittest.New(t), host: newHost()}
	w.opts = options(t, w.host, w.git.Serve(false).URL())
	for _, c := range change {
		c(&w.opts)
	}
	return w
}

// start starts the daemon; stopping it waits for its end.
func (w *world) start() {
	w.t.Helper()
	w.rep = &reports{t: w.t, ch: make(chan Report, 256)}
	w.opts.Reporter = w.rep
	d, err := New(w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Daemon = d
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var once gosync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(w.stop)
}

func (w *world) until(what string, ok func(Status) bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok(w.Status()) {
			return
		}
	}
	w.t.Fatalf("waited in vain for %s: %+v", what, w.Status())
}

// deployment is the TOML of one.
func deployment(name, env string) string {
	return fmt.Sprintf("[[deployment]]\nname = %q\ndeploy = true\n[deployment.config]\nimage = { type = \"Image\", params = { image = \"demo\" } }\nnetwork = \"none\"\nenvironment = \"K = %s\"\n", name, env)
}

// stack is the TOML of one whose compose file is compose/NAME.yaml.
func stack(name string) string {
	return fmt.Sprintf("[[stack]]\nname = %q\ndeploy = true\n[stack.config]\nrun_directory = %q\n", name, name)
}

func gitDir(t testing.TB, dir string, args ...string) { gittest.Git(t, dir, args...) }

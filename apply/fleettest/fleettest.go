// Package fleettest is what every apply.Fleet must promise, as tests, with an agent made of memory to hold it to.
//
// In: a Fleet that reaches [Agent]s. Out: failures of the test that calls it. Start at [Run].
package fleettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
)

// A Maker connects a fleet to the agents, by server. It fails t where it cannot.
type Maker func(t *testing.T, agents map[string]*Agent) apply.Fleet

// Run holds a fleet to its promises.
func Run(t *testing.T, connect Maker) {
	t.Run("does an op once", func(t *testing.T) {
		a := NewAgent()
		fleet := connect(t, map[string]*Agent{"web1": a})
		op := protocol.Op{ID: "op1", Verb: protocol.Deploy, Resource: "stack/db", Server: "web1"}
		for again := range 3 {
			out, err := fleet.Do(t.Context(), op, nil)
			if err != nil || out.Status != protocol.Done || out.ID != op.ID || out.Again != (again > 0) {
				t.Fatalf("Do %d = %+v, %v", again, out, err)
			}
		}
		if got := a.Done(); len(got) != 1 {
			t.Errorf("done %d times: %v", len(got), got)
		}
	})
	t.Run("fills in version and term", func(t *testing.T) {
		a := NewAgent()
		fleet := connect(t, map[string]*Agent{"web1": a})
		if _, err := fleet.Do(t.Context(), protocol.Op{ID: "op1", Verb: protocol.Deploy, Resource: "stack/db", Server: "web1"}, nil); err != nil {
			t.Fatal(err)
		}
		if op := a.Done()[0]; op.Version != protocol.Version || op.Term == 0 {
			t.Errorf("version %d, term %d", op.Version, op.Term)
		}
	})
	t.Run("tells how it failed", func(t *testing.T) {
		a := NewAgent()
		a.Outcome = func(op protocol.Op) protocol.Outcome {
			return protocol.Outcome{Status: protocol.RolledBack, Error: "not healthy", Stopped: true, Held: "1:x"}
		}
		fleet := connect(t, map[string]*Agent{"web1": a})
		out, err := fleet.Do(t.Context(), protocol.Op{ID: "op1", Verb: protocol.Deploy, Resource: "stack/db", Server: "web1"}, nil)
		if err != nil || out.Status != protocol.RolledBack || out.Error != "not healthy" || !out.Stopped || out.Held != "1:x" {
			t.Errorf("Do = %+v, %v", out, err)
		}
	})
	t.Run("streams progress, not after the end", func(t *testing.T) {
		a := NewAgent()
		fleet := connect(t, map[string]*Agent{"web1": a})
		heard := make(chan protocol.Progress, 64)
		release := a.Hold("op1")
		over := make(chan error, 1)
		go func() {
			_, err := fleet.Do(t.Context(), protocol.Op{ID: "op1", Verb: protocol.Deploy, Resource: "stack/db", Server: "web1"}, func(p protocol.Progress) { heard <- p })
			over <- err
		}()
		a.Working(t, "op1")
		a.Say(protocol.Progress{ID: "op1", Resource: "stack/db", Server: "web1", Phase: "pulling", Detail: "43 %"})
		if p := <-heard; p.Phase != "pulling" || p.Detail != "43 %" {
			t.Errorf("heard %+v", p)
		}
		release()
		if err := <-over; err != nil {
			t.Fatal(err)
		}
		a.Say(protocol.Progress{ID: "op1", Phase: "late"})
		if _, err := fleet.Observe(t.Context(), "web1", nil); err != nil { // after it, whatever was said has come
			t.Fatal(err)
		}
		select {
		case p := <-heard:
			t.Errorf("heard %+v after the end", p)
		default:
		}
	})
	t.Run("a call that ends leaves the op going", func(t *testing.T) {
		a := NewAgent()
		fleet := connect(t, map[string]*Agent{"web1": a})
		release := a.Hold("op1")
		op := protocol.Op{ID: "op1", Verb: protocol.Deploy, Resource: "stack/db", Server: "web1"}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { _, err := fleet.Do(ctx, op, nil); over <- err }()
		a.Working(t, "op1")
		cancel()
		if err := <-over; err == nil {
			t.Error("no error although the outcome is unknown")
		}
		release()
		if out, err := fleet.Do(t.Context(), op, nil); err != nil || out.Status != protocol.Done {
			t.Errorf("Do = %+v, %v", out, err)
		}
		if n := len(a.Done()); n != 1 {
			t.Errorf("done %d times", n)
		}
	})
	t.Run("says that nothing was reached", func(t *testing.T) {
		fleet := connect(t, map[string]*Agent{"web1": NewAgent()})
		_, err := fleet.Do(t.Context(), protocol.Op{ID: "op1", Verb: protocol.Deploy, Resource: "stack/db", Server: "nowhere"}, nil)
		if !errors.Is(err, apply.ErrUnreachable) || !strings.Contains(err.Error(), "nowhere") {
			t.Errorf("Do = %v, want ErrUnreachable that names the server", err)
		}
		state := apply.Observe(t.Context(), fleet, []string{"web1", "nowhere"}, nil)
		if s := state.Servers["web1"]; s.Unreachable != "" || s.Name != "web1" {
			t.Errorf("web1 = %+v", s)
		}
		if s := state.Servers["nowhere"]; s.Unreachable == "" || s.Name != "nowhere" {
			t.Errorf("nowhere = %+v", s)
		}
	})
	t.Run("a slow server delays only itself", func(t *testing.T) {
		slow, quick := NewAgent(), NewAgent()
		fleet := connect(t, map[string]*Agent{"slow": slow, "quick": quick})
		release := slow.Hold("op1")
		over := make(chan error, 1)
		go func() {
			_, err := fleet.Do(t.Context(), protocol.Op{ID: "op1", Verb: protocol.Deploy, Resource: "stack/a", Server: "slow"}, nil)
			over <- err
		}()
		slow.Working(t, "op1")
		for i := range 50 {
			if _, err := fleet.Do(t.Context(), protocol.Op{ID: protocol.OpID(fmt.Sprint("q", i)), Verb: protocol.Deploy, Resource: "stack/b", Server: "quick"}, nil); err != nil {
				t.Fatal(err)
			}
		}
		release()
		if err := <-over; err != nil {
			t.Fatal(err)
		}
	})
	t.Run("carries what is large", func(t *testing.T) {
		a := NewAgent()
		for i := range 5000 {
			a.State.Containers = append(a.State.Containers, plan.Container{ID: fmt.Sprint(i), Name: strings.Repeat("n", 300)})
		}
		fleet := connect(t, map[string]*Agent{"web1": a})
		file := protocol.File{Path: "a.bin", Data: bytes.Repeat([]byte("varan\x00"), 1<<20)}
		op := protocol.Op{ID: "op1", Verb: protocol.Deploy, Resource: "stack/db", Server: "web1", Payload: &protocol.Payload{
			Files: []protocol.File{file}, Secrets: map[string]protocol.Secret{"PW": "hunter2"},
		}}
		if _, err := fleet.Do(t.Context(), op, nil); err != nil {
			t.Fatal(err)
		}
		got := a.Done()[0].Payload
		if !bytes.Equal(got.Files[0].Data, file.Data) || got.Secrets["PW"] != "hunter2" {
			t.Error("the payload did not arrive as it was sent")
		}
		state, err := fleet.Observe(t.Context(), "web1", nil)
		if err != nil || len(state.Containers) != 5000 {
			t.Errorf("Observe = %d containers, %v", len(state.Containers), err)
		}
	})
}

// An Agent is an agent of memory. Its fields are set before it is used.
type Agent struct {
	State plan.ServerState
	// Outcome says how an op ends; nil = done. ID and Version are filled in.
	Outcome func(op protocol.Op) protocol.Outcome
	// Progress carries what Say says.
	Progress chan protocol.Progress

	mu      sync.Mutex
	ops     map[protocol.OpID]*held
	done    []protocol.Op
	blocked map[protocol.OpID]chan struct{}
	news    *sync.Cond
}

type held struct {
	over    chan struct{}
	outcome protocol.Outcome
}

// NewAgent is an agent that does every op at once.
func NewAgent() *Agent {
	a := &Agent{Progress: make(chan protocol.Progress, 64), ops: make(map[protocol.OpID]*held), blocked: make(map[protocol.OpID]chan struct{})}
	a.news = sync.NewCond(&a.mu)
	return a
}

// Hold makes the op wait until the function it returns is called.
func (a *Agent) Hold(id protocol.OpID) (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := make(chan struct{})
	a.blocked[id] = c
	return sync.OnceFunc(func() { close(c) })
}

// Working returns when the op has been submitted.
func (a *Agent) Working(t *testing.T, id protocol.OpID) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.ops[id] == nil {
		a.news.Wait()
	}
}

// Say tells progress.
func (a *Agent) Say(p protocol.Progress) { a.Progress <- p }

// Done lists the ops that were carried out, in order, each once however often it was asked for.
func (a *Agent) Done() []protocol.Op {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]protocol.Op(nil), a.done...)
}

// Observe tells State.
func (a *Agent) Observe(ctx context.Context, q protocol.Observe) protocol.Observed {
	return protocol.Observed{Version: protocol.Version, State: a.State}
}

// Submit takes an op.
func (a *Agent) Submit(ctx context.Context, op protocol.Op) protocol.Submit {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h := a.ops[op.ID]; h != nil {
		select {
		case <-h.over:
			out := h.outcome
			out.Again = true
			return protocol.Submit{Version: protocol.Version, State: "done", Outcome: &out}
		default:
			return protocol.Submit{Version: protocol.Version, State: "running"}
		}
	}
	h := &held{over: make(chan struct{})}
	a.ops[op.ID] = h
	a.news.Broadcast()
	block := a.blocked[op.ID]
	go func() {
		if block != nil {
			<-block
		}
		h.outcome = protocol.Outcome{Status: protocol.Done}
		if a.Outcome != nil {
			h.outcome = a.Outcome(op)
		}
		h.outcome.ID, h.outcome.Version = op.ID, protocol.Version
		a.mu.Lock()
		defer a.mu.Unlock()
		a.done = append(a.done, op)
		close(h.over)
	}()
	return protocol.Submit{Version: protocol.Version, State: "accepted"}
}

// Wait waits for an op.
func (a *Agent) Wait(ctx context.Context, id protocol.OpID) (protocol.Outcome, error) {
	a.mu.Lock()
	h := a.ops[id]
	a.mu.Unlock()
	if h == nil {
		return protocol.Outcome{}, errors.New("unknown op")
	}
	select {
	case <-h.over:
		return h.outcome, nil
	case <-ctx.Done():
		return protocol.Outcome{}, ctx.Err()
	}
}

// Memory is a fleet of agents in this process, without a wire.
type Memory struct {
	agents map[string]*Agent
	mu     sync.Mutex
	told   map[protocol.OpID]func(protocol.Progress)
}

// NewMemory connects agents by server.
func NewMemory(agents map[string]*Agent) *Memory {
	m := &Memory{agents: agents, told: make(map[protocol.OpID]func(protocol.Progress))}
	return m
}

// Serve passes the agents' progress on until ctx ends.
func (m *Memory) Serve(ctx context.Context) {
	var wait sync.WaitGroup
	for _, a := range m.agents {
		wait.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case p := <-a.Progress:
					m.mu.Lock()
					if tell := m.told[p.ID]; tell != nil {
						tell(p)
					}
					m.mu.Unlock()
				}
			}
		})
	}
	wait.Wait()
}

// Observe asks an agent.
func (m *Memory) Observe(ctx context.Context, server string, queries []protocol.Query) (plan.ServerState, error) {
	a := m.agents[server]
	if a == nil {
		return plan.ServerState{}, fmt.Errorf("server %s: %w", server, apply.ErrUnreachable)
	}
	return a.Observe(ctx, protocol.Observe{Version: protocol.Version, Term: 1, Queries: queries}).State, nil
}

// Do asks an agent.
func (m *Memory) Do(ctx context.Context, op protocol.Op, progress func(protocol.Progress)) (protocol.Outcome, error) {
	a := m.agents[op.Server]
	if a == nil {
		return protocol.Outcome{}, fmt.Errorf("server %s: %w", op.Server, apply.ErrUnreachable)
	}
	op.Version, op.Term = protocol.Version, 1
	m.tell(op.ID, progress)
	defer m.tell(op.ID, nil)
	if s := a.Submit(ctx, op); s.Outcome != nil {
		return *s.Outcome, nil
	}
	return a.Wait(ctx, op.ID)
}

func (m *Memory) tell(id protocol.OpID, progress func(protocol.Progress)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told[id] = progress
}

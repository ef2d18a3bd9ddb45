package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/protocol/wire"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
)

const (
	helloTimeout = 5 * time.Second
	// arrival is how long after the hub's start an agent that is not there yet is waited for: the one in this
	// process connects at the same time.
	arrival       = 2 * time.Second
	submitTimeout = 30 * time.Second
	// waitFor is how long an agent holds back its answer while an op runs: often enough to notice a dead one.
	waitFor   = 15 * time.Second
	waitGrace = 10 * time.Second
)

// Observe asks a server's agent how it stands.
func (h *Hub) Observe(ctx context.Context, name string, queries []protocol.Query) (plan.ServerState, error) {
	var none plan.ServerState
	key, err := h.agent(name)
	if err != nil {
		return none, err
	}
	kept, change, ok := h.recall(key)
	if ok && len(queries) == 0 {
		return kept, nil
	}
	var observed protocol.Observed
	q := protocol.Observe{Version: protocol.Version, Fleet: h.opts.Name, Queries: queries}
	if err := h.call(ctx, key, wire.Observe, "", func(term uint64) any { q.Term = term; return q }, &observed); err != nil {
		return none, fmt.Errorf("observe server %s: %w", name, err)
	}
	if observed.Error != "" {
		return none, fmt.Errorf("observe server %s: %s", name, observed.Error)
	}
	if len(queries) == 0 {
		h.keep(key, change, observed.State)
	}
	return observed.State, nil
}

// Do submits an op and waits for its outcome.
func (h *Hub) Do(ctx context.Context, op protocol.Op, progress func(protocol.Progress)) (protocol.Outcome, error) {
	outcome, err := h.do(ctx, op, progress)
	if err != nil {
		return outcome, fmt.Errorf("%s %s on %s: %w", op.Verb, op.Resource, op.Server, err)
	}
	return outcome, nil
}

func (h *Hub) do(ctx context.Context, op protocol.Op, progress func(protocol.Progress)) (protocol.Outcome, error) {
	var none protocol.Outcome
	key, err := h.agent(op.Server)
	if err != nil {
		return none, err
	}
	if progress != nil {
		defer h.listen(key, op.ID, progress)()
	}
	touch := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.changedLocked(key)
	}
	touch()
	defer touch()
	op.Version = protocol.Version
	sent := false // from here on an unreachable agent may still be working
	unknown := 0
	for {
		var s protocol.Submit
		call, cancel := context.WithTimeout(ctx, submitTimeout)
		err := h.call(call, key, wire.Submit, op.ID, func(term uint64) any { op.Term = term; return op }, &s)
		cancel()
		if err != nil {
			return none, known(err, sent)
		}
		if s.Outcome != nil {
			return *s.Outcome, nil
		}
		if s.State == "refused" {
			return protocol.Outcome{Version: protocol.Version, ID: op.ID, Status: protocol.Refused, Error: "the agent refused the op and gave no reason"}, nil
		}
		sent = true
		w, err := h.wait(ctx, key, op.ID)
		if err != nil {
			return none, known(err, sent)
		}
		if w.Outcome != nil {
			return *w.Outcome, nil
		}
		// The agent does not know the op: it started anew and never had it on disk. Submit it again.
		if unknown++; unknown > 3 {
			return none, errors.New("the agent took the op and forgot it")
		}
	}
}

// known hides, once something was sent, that an agent is unreachable: nothing follows from that any more.
func known(err error, sent bool) error {
	if sent && errors.Is(err, apply.ErrUnreachable) {
		return errors.New(err.Error())
	}
	return err
}

// wait asks for an op's outcome until there is one, or the agent does not know the op.
func (h *Hub) wait(ctx context.Context, key string, op protocol.OpID) (wire.Waited, error) {
	for {
		var w wire.Waited
		call, cancel := context.WithTimeout(ctx, waitFor+waitGrace)
		ask := wire.Waiting{Op: op, Millis: waitFor.Milliseconds()}
		err := h.call(call, key, wire.Wait, op, func(uint64) any { return ask }, &w)
		cancel()
		if err != nil || w.State != "running" {
			return w, err
		}
	}
}

// listen tells progress of an op until the function it returns was called.
func (h *Hub) listen(agent string, op protocol.OpID, tell func(protocol.Progress)) (stop func()) {
	l := &listener{agent: agent, tell: tell}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.progress[op] = l
	return func() {
		h.mu.Lock()
		if h.progress[op] == l {
			delete(h.progress, op)
		}
		h.mu.Unlock()
		l.set(nil)
	}
}

// call asks an agent one thing and reads its answer. Nothing is asked twice, but for an agent that says it did not
// take the message because it, or its term, is not what this hub knew.
func (h *Hub) call(ctx context.Context, key string, kind wire.Kind, op protocol.OpID, body func(term uint64) any, answer any) error {
	asked := false // it may have taken the message although it was cut off before it said so
	for try := 0; ; try++ {
		s, err := h.session(ctx, key)
		if err != nil {
			return known(err, asked)
		}
		m := wire.Manifest{Kind: kind, Agent: key, Op: string(op), Session: s.id, To: s.curve}
		m.Term, m.Seq = h.next(key)
		reply, err := h.exchange(ctx, key, m, body(m.Term))
		var refusal wire.Refusal
		if try < 3 && errors.As(err, &refusal) && (refusal == wire.RefusedSession || refusal == wire.RefusedTerm) {
			h.forget(key, s)
			continue
		}
		if try < 3 && errors.Is(err, errGone) && kind != wire.Logs { // asking the same again does nothing twice
			h.forget(key, s)
			asked = true
			continue
		}
		if err != nil {
			return known(err, asked)
		}
		return h.read(reply, answer)
	}
}

// errGone: the agent's connection ended, or it came back as another, so what it was asked it will not answer.
var errGone = errors.New("its agent was cut off before it answered")

// giveUp ends the wait for answers of an agent that cannot come. The mutex is held.
func (h *Hub) giveUp(agent string, which func(waiter) bool) {
	for _, w := range h.answers {
		if w.agent == agent && which(w) {
			select {
			case w.ch <- nil:
			default: // answered
			}
		}
	}
}

// exchange sends one message and waits for the one that answers it.
func (h *Hub) exchange(ctx context.Context, key string, m wire.Manifest, body any) (*wire.Message, error) {
	if !h.leads() {
		return nil, errFollows
	}
	data, err := protocol.Encode(body)
	if err != nil {
		return nil, fmt.Errorf("write message: %w", err)
	}
	m.ID = wire.NewID()
	w := waiter{agent: key, session: m.Session, ch: make(chan *wire.Message, 1)}
	h.mu.Lock()
	h.answers[m.ID] = w
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.answers, m.ID)
		h.mu.Unlock()
	}()
	if err := h.endpoint.Send(ctx, wire.ToAgent(key), m, data); err != nil {
		if errors.Is(err, wire.ErrNobody) {
			return nil, fmt.Errorf("%w: its agent is %w", apply.ErrUnreachable, err)
		}
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer: %w", context.Cause(ctx))
	case reply := <-w.ch:
		if reply == nil {
			return nil, errGone
		}
		return reply, nil
	}
}

func (h *Hub) read(m *wire.Message, v any) error {
	data, err := h.endpoint.Open(m)
	if err != nil {
		return err
	}
	if err := protocol.Decode(data, v); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// session is what is known of an agent, asked for if nothing is.
func (h *Hub) session(ctx context.Context, key string) (*session, error) {
	h.mu.Lock()
	s := h.sessions[key]
	h.mu.Unlock()
	if s != nil {
		return s, nil
	}
	for {
		s, err := h.hello(ctx, key)
		if !errors.Is(err, apply.ErrUnreachable) || time.Since(h.started) > arrival {
			return s, err
		}
		select { // this hub has only just started, and its agents are on their way
		case <-ctx.Done():
			return nil, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (h *Hub) forget(key string, s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[key] == s {
		delete(h.sessions, key)
	}
}

// next counts the messages to an agent, over all its sessions, and names the term.
func (h *Hub) next(key string) (term, seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seqs[key]++
	if h.tenure != nil {
		return h.tenure.Term(), h.seqs[key]
	}
	return h.term, h.seqs[key]
}

// hello asks an agent who it is. Its answer is signed by its key, and with it the curve key to seal messages to.
func (h *Hub) hello(ctx context.Context, key string) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	reply, err := h.exchange(ctx, key, wire.Manifest{Kind: wire.Hello, Agent: key}, struct{}{})
	if err != nil {
		return nil, err
	}
	var g wire.Greeting
	if err := h.read(reply, &g); err != nil {
		return nil, err
	}
	if h.opts.Cluster != nil {
		if err := h.outranked(ctx, key, g.Term); err != nil {
			return nil, err
		}
	}
	return h.met(reply, g)
}

// met takes in what an agent says of itself.
func (h *Hub) met(m *wire.Message, g wire.Greeting) (*session, error) {
	if g.Version < protocol.Version-1 || g.Version > protocol.Version+1 {
		return nil, fmt.Errorf("the agent speaks version %d of the protocol, this daemon %d; one apart works: update the older", g.Version, protocol.Version)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// A leader takes 1 + the highest term of its agents. What they have obeyed since may be its own.
	if !h.led || g.Term > h.term {
		h.term = max(h.term, g.Term+1)
	}
	h.led = true
	s := h.sessions[m.Agent]
	if s == nil || s.id != g.Session || s.curve != m.Curve {
		s = &session{id: g.Session, curve: m.Curve}
		h.sessions[m.Agent] = s
	}
	return s, nil
}

// hears reports whether an agent that is let in speaks on subject, and not too often. It costs less than to check a
// signature, and a cluster's servers let everybody speak as fast as he likes.
func (h *Hub) hears(subject string, data []byte) bool {
	key := subject[strings.LastIndexByte(subject, '.')+1:]
	h.mu.Lock()
	in := h.tenure != nil && h.servers[key] != ""
	h.mu.Unlock()
	return in && h.contacts.mayGoOn(key, len(data), time.Now())
}

// accept lets in what an enrolled agent signed and this hub waits for.
func (h *Hub) accept(m *wire.Manifest) error {
	if m.To != "" && m.To != h.endpoint.CurveKey() {
		return wire.ErrIgnore // another daemon's
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.opts.Cluster != nil && h.tenure == nil {
		return wire.ErrIgnore // the leader's
	}
	if m.From != m.Agent || h.servers[m.From] == "" {
		return wire.Refusal("not an agent of this fleet")
	}
	if h.front.heard(m.From) { // what it told when it came may have been lost on its way through the cluster
		h.changedLocked(m.From)
		select {
		case h.changed <- h.servers[m.From]:
		default:
		}
	}
	switch m.Kind {
	case wire.Here, wire.Changed, wire.Progress, wire.Figures:
		if m.Chunks > 1 || m.To == "" && (m.Kind == wire.Progress || m.Kind == wire.Figures) {
			return wire.Refusal("too long, or not sealed")
		}
		return nil
	case wire.Answer:
		if w, ok := h.answers[m.Re]; ok && w.agent == m.From && m.To != "" {
			return nil
		}
		return wire.Refusal("nobody asked")
	}
	return wire.Refusal("not for a daemon")
}

// handle hands a message to who waits for it.
func (h *Hub) handle(m *wire.Message) {
	switch m.Kind {
	case wire.Answer:
		h.mu.Lock()
		w, ok := h.answers[m.Re]
		h.mu.Unlock()
		if ok {
			select {
			case w.ch <- m:
			default: // answered already
			}
		}
	case wire.Progress:
		h.tell(m)
	case wire.Figures:
		h.takeFigures(m)
	case wire.Here, wire.Changed:
		h.mu.Lock()
		if m.Kind == wire.Here {
			delete(h.sessions, m.Agent)
			var g wire.Greeting
			if h.read(m, &g) == nil {
				h.giveUp(m.Agent, func(w waiter) bool { return w.session != "" && w.session != g.Session })
			}
		}
		h.changedLocked(m.Agent)
		name := h.servers[m.Agent]
		h.mu.Unlock()
		if m.Kind == wire.Here {
			h.back(name)
		}
		select {
		case h.changed <- name:
		default:
		}
	}
}

// tell passes progress on to the Do that waits for that op of that agent.
func (h *Hub) tell(m *wire.Message) {
	h.mu.Lock()
	l := h.progress[protocol.OpID(m.Op)]
	h.mu.Unlock()
	if l == nil || l.agent != m.Agent {
		return
	}
	var p protocol.Progress
	if h.read(m, &p) != nil || string(p.ID) != m.Op {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tell != nil {
		l.tell(p)
	}
}

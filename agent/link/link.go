package link

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/protocol/wire"
)

// A Handler does what messages ask for: the agent. Its methods may be called side by side.
type Handler interface {
	Observe(ctx context.Context, q protocol.Observe) protocol.Observed
	// Submit takes an op and returns at once.
	Submit(ctx context.Context, op protocol.Op) protocol.Submit
	// Wait returns an op's outcome once it has one. An error while ctx has not ended means that the op is unknown.
	Wait(ctx context.Context, id protocol.OpID) (protocol.Outcome, error)
}

// Options of Serve.
type Options struct {
	Handler  Handler
	Key      nkeys.KeyPair // the agent's own key
	FleetKey string        // the fleet's public key, pinned
	TermFile string        // where the highest term obeyed is kept; "" = in memory only
	PinFile  string        // where it is kept what became of FleetKey; "" = in memory only
	Name     string        // what this agent calls itself: for people
	Progress <-chan protocol.Progress
	Changed  <-chan struct{} // a token whenever the host may have changed
	// Figures reads how the machine stands; nil = nobody is told.
	Figures func(context.Context) protocol.Figures
	// Logs answers for what containers print; nil = it is not told.
	Logs func(context.Context, protocol.Logs) protocol.Logged
	Log  *slog.Logger // nil = discarded

	hears func() // told once when orders can come
}

// LoadKey reads the agent's private key from path, or makes one there (0600).
func LoadKey(path string) (nkeys.KeyPair, error) {
	key, _, err := wire.LoadKey(path)
	return key, err
}

// Connect opens the connection Serve needs, under the agent's key. It goes on trying to come back when it is lost.
func Connect(url string, key nkeys.KeyPair, options ...nats.Option) (*nats.Conn, error) {
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("connect to the fleet: %w", err)
	}
	options = append([]nats.Option{
		nats.Name("varan agent"), wire.Login(public, key), nats.CustomInboxPrefix(wire.InboxPrefix(public)),
		nats.MaxReconnects(-1), nats.ReconnectWait(time.Second), nats.ReconnectJitter(500*time.Millisecond, 5*time.Second),
		nats.IgnoreAuthErrorAbort(), // until its key is committed a new agent is refused, and keeps asking
		nats.FlusherTimeout(10 * time.Second),
		nats.ReconnectBufSize(-1), // what could not be sent is asked for again, never sent late
	}, options...)
	conn, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to the fleet: %w", err)
	}
	return conn, nil
}

const (
	// answersAtOnce bounds the messages worked on side by side: ops of one host, its observations and their waits.
	answersAtOnce = 128
	maxHubs       = 16
	// tellChanged gathers changes this long: many containers of a host change together.
	tellChanged = 200 * time.Millisecond
)

// A link is one Serve.
type link struct {
	opts     Options
	log      *slog.Logger
	endpoint *wire.Endpoint
	public   string
	room     chan struct{}
	work     sync.WaitGroup
	ctx      context.Context // Serve's: messages arrive on NATS's goroutine, which has none of its own

	mu      sync.Mutex // guards below
	session string
	terms   terms
	pins    pins
	hubs    map[string]*wire.Window // by the daemon's curve key, which is new each time a daemon starts
	met     chan struct{}           // has a token when a daemon was met that knows no figures yet
	askers  map[protocol.OpID]string
}

// Serve answers the fleet's daemons over conn until ctx ends, and returns when nothing of it runs any more.
func Serve(ctx context.Context, conn *nats.Conn, opts Options) error {
	curve, err := nkeys.CreateCurveKeys()
	if err != nil {
		return fmt.Errorf("make curve key: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &link{
		opts: opts, log: cmp.Or(opts.Log, slog.New(slog.DiscardHandler)), room: make(chan struct{}, answersAtOnce), ctx: ctx,
		session: wire.NewID(), hubs: make(map[string]*wire.Window), met: make(chan struct{}, 1), askers: make(map[protocol.OpID]string),
	}
	if l.pins, err = openPins(opts.PinFile, opts.FleetKey); err != nil {
		return err
	}
	if l.terms, err = openTerms(opts.TermFile); err != nil {
		return err
	}
	if l.public, err = opts.Key.PublicKey(); err != nil {
		return fmt.Errorf("read the agent's key: %w", err)
	}
	l.endpoint = &wire.Endpoint{Conn: conn, Key: opts.Key, Curve: curve, Accept: l.accept, Handle: l.handle}
	sub, err := l.endpoint.Listen(wire.ToAgent(l.public))
	if err != nil {
		return err
	}
	if opts.hears != nil {
		if err := conn.FlushTimeout(dialTimeout); err != nil {
			return fmt.Errorf("listen to the hub: %w", err)
		}
		opts.hears()
	}
	if opts.Figures != nil {
		l.work.Go(func() { l.figures(ctx) })
	}
	l.forward(ctx, conn)
	err = sub.Unsubscribe()
	cancel()
	l.work.Wait()
	if errors.Is(err, nats.ErrConnectionClosed) {
		err = nil
	}
	return err
}

// forward tells the daemons what they did not ask for, until ctx ends.
func (l *link) forward(ctx context.Context, conn *nats.Conn) {
	back := conn.StatusChanged(nats.CONNECTED)
	defer conn.RemoveStatusListener(back)
	l.tell(wire.Here, l.greeting(), "", "")
	progress, changed := l.opts.Progress, l.opts.Changed
	var settled <-chan time.Time
	again := false // something changed since the last was told
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-back:
			if !ok { // the connection was closed for good
				back = nil
				continue
			}
			l.tell(wire.Here, l.greeting(), "", "")
		case p, ok := <-progress:
			if !ok {
				progress = nil
				continue
			}
			if to := l.asker(p.ID); to != "" {
				l.tell(wire.Progress, p, to, p.ID)
			}
		case _, ok := <-changed:
			if !ok {
				changed = nil
				continue
			}
			// The first is told at once, since what was said before no longer holds; what follows is gathered.
			if settled == nil {
				l.tell(wire.Changed, struct{}{}, "", "")
				settled = time.After(tellChanged)
			} else {
				again = true
			}
		case <-settled:
			settled = nil
			if again {
				again = false
				l.tell(wire.Changed, struct{}{}, "", "")
				settled = time.After(tellChanged)
			}
		}
	}
}

// figures tells every daemon met how the machine stands, when it is met and then every so often.
func (l *link) figures(ctx context.Context) {
	every := time.NewTicker(protocol.FiguresEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.met:
		case <-every.C:
		}
		l.mu.Lock()
		hubs := slices.Collect(maps.Keys(l.hubs))
		l.mu.Unlock()
		if len(hubs) == 0 {
			continue
		}
		f := l.opts.Figures(ctx)
		for _, to := range hubs { // one of them is the leader; the others' messages nobody hears
			l.tell(wire.Figures, f, to, "")
		}
	}
}

// tell sends what may be lost.
func (l *link) tell(kind wire.Kind, v any, to string, op protocol.OpID) {
	body, err := protocol.Encode(v)
	if err == nil {
		err = l.endpoint.Tell(wire.FromAgent(l.public), wire.Manifest{Kind: kind, Agent: l.public, To: to, Op: string(op)}, body)
	}
	if err != nil {
		l.log.Debug("message not sent", "kind", kind, "err", err)
	}
}

func (l *link) greeting() wire.Greeting {
	l.mu.Lock()
	defer l.mu.Unlock()
	return wire.Greeting{Version: protocol.Version, Session: l.session, Term: l.terms.highest, Name: l.opts.Name}
}

// accept decides whether a message is an order of our fleet, new, and not of a leader that was replaced.
func (l *link) accept(m *wire.Manifest) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ours, err := l.pins.has(m.From); err != nil {
		l.log.Error("the fleet's key cannot be kept, orders are refused", "err", err)
		return wire.Refusal("the agent cannot write: " + err.Error())
	} else if !ours {
		return wire.Refusal("not signed by the fleet's key")
	}
	if m.Agent != l.public {
		return wire.Refusal("for another agent")
	}
	if m.Kind == wire.Hello {
		return nil
	}
	if m.To != l.endpoint.CurveKey() {
		return wire.Refusal(wire.RefusedSession)
	}
	if m.Session != l.session {
		return wire.Refusal(wire.RefusedSession)
	}
	if m.Term < l.terms.highest {
		return wire.Refusal(wire.RefusedTerm)
	}
	w := l.hubs[m.Curve]
	if w == nil {
		if len(l.hubs) >= maxHubs { // forget them all, and with them whatever they had signed
			clear(l.hubs)
			l.session = wire.NewID()
			return wire.Refusal(wire.RefusedSession)
		}
		w = new(wire.Window)
		l.hubs[m.Curve] = w
		select {
		case l.met <- struct{}{}:
		default:
		}
	}
	if !w.Take(m.Seq) {
		return wire.Refusal("seen before")
	}
	if err := l.terms.raise(m.Term); err != nil {
		l.log.Error("term cannot be kept, ops are refused", "err", err)
		return wire.Refusal("the agent cannot write: " + err.Error())
	}
	return nil
}

// handle works on a message beside others, bounded.
func (l *link) handle(m *wire.Message) {
	select {
	case l.room <- struct{}{}:
	case <-l.ctx.Done():
		return
	}
	l.work.Go(func() {
		defer func() { <-l.room }()
		answer, err := l.answer(l.ctx, m)
		if err == nil {
			err = l.reply(l.ctx, m, answer)
		}
		if err != nil && l.ctx.Err() == nil {
			l.log.Warn("message not answered", "kind", m.Kind, "op", m.Op, "err", err)
		}
	})
}

func (l *link) answer(ctx context.Context, m *wire.Message) (any, error) {
	body, err := l.endpoint.Open(m)
	if err != nil {
		return nil, err
	}
	switch m.Kind {
	case wire.Hello:
		return l.greeting(), nil
	case wire.Rekey:
		return l.rekey(m, body)
	case wire.Observe:
		var q protocol.Observe
		if err := protocol.Decode(body, &q); err != nil {
			return nil, fmt.Errorf("read observe: %w", err)
		}
		return l.opts.Handler.Observe(ctx, q), nil
	case wire.Logs:
		var q protocol.Logs
		if err := protocol.Decode(body, &q); err != nil {
			return nil, fmt.Errorf("read logs: %w", err)
		}
		if l.opts.Logs == nil {
			return protocol.Logged{Version: protocol.Version, End: true, Error: "this agent tells no logs"}, nil
		}
		return l.opts.Logs(ctx, q), nil
	case wire.Submit:
		return l.submit(ctx, m, body)
	case wire.Wait:
		return l.wait(ctx, m, body)
	}
	return nil, fmt.Errorf("message of kind %q is not known here", m.Kind)
}

// rekey takes in the fleet's next key, which the present one names.
func (l *link) rekey(m *wire.Message, body []byte) (any, error) {
	var r wire.Rekeying
	if err := protocol.Decode(body, &r); err != nil {
		return nil, fmt.Errorf("read next key: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.pins.follow(m.From, r.Next); err != nil {
		return wire.Rekeyed{Error: err.Error()}, nil
	}
	l.log.Info("the fleet's key is being changed: the next one is known", "next", r.Next)
	return wire.Rekeyed{Next: r.Next}, nil
}

func (l *link) submit(ctx context.Context, m *wire.Message, body []byte) (any, error) {
	var op protocol.Op
	if err := protocol.Decode(body, &op); err != nil {
		return nil, fmt.Errorf("read op: %w", err)
	}
	if string(op.ID) != m.Op || op.Term != m.Term {
		return refuse(op, "the op and its signed manifest differ"), nil
	}
	if why := foreign(op); why != "" {
		return refuse(op, why), nil
	}
	l.ask(op.ID, m.Curve)
	s := l.opts.Handler.Submit(ctx, op)
	if s.Outcome != nil {
		l.done(op.ID)
	}
	return s, nil
}

// foreign says why an op of a daemon too old or too new is not understood, "" if it is.
func foreign(op protocol.Op) string {
	if op.Version >= protocol.Version-1 && op.Version <= protocol.Version+1 {
		return ""
	}
	return fmt.Sprintf("the daemon speaks version %d of the protocol, this agent %d; one apart works: update the older", op.Version, protocol.Version)
}

func refuse(op protocol.Op, why string) protocol.Submit {
	return protocol.Submit{Version: protocol.Version, State: "refused", Outcome: &protocol.Outcome{
		Version: protocol.Version, ID: op.ID, Status: protocol.Refused, Error: why,
	}}
}

func (l *link) wait(ctx context.Context, m *wire.Message, body []byte) (any, error) {
	var w wire.Waiting
	if err := protocol.Decode(body, &w); err != nil {
		return nil, fmt.Errorf("read wait: %w", err)
	}
	l.ask(w.Op, m.Curve)
	ctx, cancel := context.WithTimeout(ctx, min(time.Duration(w.Millis)*time.Millisecond, time.Minute))
	defer cancel()
	outcome, err := l.opts.Handler.Wait(ctx, w.Op)
	switch {
	case err == nil:
		l.done(w.Op)
		return wire.Waited{State: "done", Outcome: &outcome}, nil
	case ctx.Err() != nil:
		return wire.Waited{State: "running"}, nil
	}
	l.done(w.Op)
	return wire.Waited{State: "unknown"}, nil
}

// ask remembers which daemon wants to hear of an op's progress.
func (l *link) ask(op protocol.OpID, curve string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.askers[op] = curve
}

func (l *link) done(op protocol.OpID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.askers, op)
}

func (l *link) asker(op protocol.OpID) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.askers[op]
}

func (l *link) reply(ctx context.Context, m *wire.Message, answer any) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return l.endpoint.Send(ctx, wire.FromAgent(l.public), wire.Manifest{
		Kind: wire.Answer, Agent: l.public, To: m.Curve, Re: m.ID, Op: m.Op,
	}, body)
}

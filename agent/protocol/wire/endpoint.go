package wire

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// ToAgent is the subject on which an agent hears, FromAgent the one on which it speaks. No agent may use another's.
func ToAgent(key string) string   { return "varan.agent." + key }
func FromAgent(key string) string { return "varan.hub." + key }

// FromAgents matches all agents' FromAgent.
const FromAgents = "varan.hub.*"

// InboxPrefix is where an agent hears acknowledgements.
func InboxPrefix(key string) string { return "_INBOX_" + key }

// Refusals an acknowledgement carries; the sender can do something about these.
const (
	RefusedSession = "session" // the agent has started anew: say hello again
	RefusedTerm    = "term"    // a higher term was obeyed: say hello again
)

// A Refusal is the other side's reason for not taking a message.
type Refusal string

func (r Refusal) Error() string { return "refused by the other side: " + string(r) }

// ErrNobody says that nobody hears on the subject, so nothing arrived anywhere.
var ErrNobody = errors.New("not connected")

// A Message is one that arrived whole, with its manifest's signature and its hash checked.
type Message struct {
	Manifest
	body []byte // sealed if To is set
}

// An Endpoint sends and receives messages under one key. Its methods may be called side by side.
type Endpoint struct {
	Conn  *nats.Conn
	Key   nkeys.KeyPair // signs, until Rekey
	Curve nkeys.KeyPair // opens
	// Accept decides on a manifest whose signature is good, before a byte of its body is kept. A Refusal is told to
	// the sender, any other error only as "refused"; ErrIgnore answers nothing.
	Accept func(*Manifest) error
	// Shared: other processes hear on the same subject, and a chunk of what was not begun here is theirs.
	Shared bool
	// Hears says, before anything of a message is looked at, whether it is; nil = all are.
	Hears func(subject string, data []byte) bool
	// Handle gets each message. It is called one at a time and must not block.
	Handle func(*Message)

	curve string

	mu     sync.Mutex // guards below, and Key after Listen
	public string
	open   map[string]*assembly
	held   int64 // bytes announced by open assemblies
}

// An assembly is a message not all of whose chunks have come.
type assembly struct {
	Message
	next int
	seen time.Time
}

const (
	// AckTimeout is how long one frame may take to be acknowledged.
	AckTimeout = 10 * time.Second
	// maxHeld bounds what unfinished messages may take up together.
	maxHeld = 2 * MaxMessage
)

// ErrIgnore makes Accept pass over a message that is somebody else's.
var ErrIgnore = errors.New("for somebody else")

// Listen receives on subject until the subscription is drained or its connection closed.
func (e *Endpoint) Listen(subject string) (*nats.Subscription, error) {
	if err := e.Prepare(); err != nil {
		return nil, err
	}
	return e.Hear(subject)
}

// Prepare makes an endpoint ready that is to hear only later, by Hear.
func (e *Endpoint) Prepare() (err error) {
	if e.public, err = e.Key.PublicKey(); err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	if e.curve, err = e.Curve.PublicKey(); err != nil {
		return fmt.Errorf("read curve key: %w", err)
	}
	e.open = make(map[string]*assembly)
	return nil
}

// Hear is Listen for an endpoint that is prepared.
func (e *Endpoint) Hear(subject string) (*nats.Subscription, error) {
	sub, err := e.Conn.Subscribe(subject, e.received)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", subject, err)
	}
	return sub, sub.SetPendingLimits(-1, maxHeld)
}

// Public is the endpoint's public key, CurveKey its public curve key; both after Listen.
func (e *Endpoint) Public() string   { _, public := e.signer(); return public }
func (e *Endpoint) CurveKey() string { return e.curve }

// Rekey signs with another key from now on.
func (e *Endpoint) Rekey(key nkeys.KeyPair) error {
	public, err := key.PublicKey()
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.Key, e.public = key, public
	return nil
}

func (e *Endpoint) signer() (key nkeys.KeyPair, public string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.Key, e.public
}

// received takes one frame, acknowledges it and hands on a message that is whole.
func (e *Endpoint) received(msg *nats.Msg) {
	if e.Hears != nil && !e.Hears(msg.Subject, msg.Data) {
		return
	}
	m, err := e.take(msg.Data)
	if errors.Is(err, ErrIgnore) {
		return
	}
	if msg.Reply != "" {
		var refusal Refusal
		switch {
		case err == nil:
			_ = msg.Respond(nil) // a lost acknowledgement is a lost message to its sender
		case errors.As(err, &refusal):
			_ = msg.Respond([]byte(refusal))
		default:
			_ = msg.Respond([]byte("refused: " + err.Error()))
		}
	}
	if m != nil {
		e.Handle(m)
	}
}

// take adds a frame and returns the message it completes, if any.
func (e *Endpoint) take(data []byte) (*Message, error) {
	f, err := decodeFrame(data)
	if err != nil {
		return nil, err
	}
	if f.manifest != nil {
		return e.first(f)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.open[f.id]
	if a == nil && e.Shared {
		return nil, ErrIgnore
	}
	if a == nil || f.index != a.next || int64(len(a.body)+len(f.data)) > a.Size {
		e.forget(f.id)
		return nil, errors.New("chunk out of turn")
	}
	a.body, a.next, a.seen = append(a.body, f.data...), a.next+1, time.Now()
	if a.next < a.Chunks {
		return nil, nil
	}
	e.forget(f.id)
	return a.whole()
}

func (e *Endpoint) first(f *frame) (*Message, error) {
	if err := e.Accept(f.manifest); err != nil {
		return nil, err
	}
	m := Message{Manifest: *f.manifest, body: f.data}
	if m.Chunks == 1 {
		return m.whole()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for id, a := range e.open {
		if now.Sub(a.seen) > 2*AckTimeout {
			e.forget(id)
		}
	}
	if e.open[m.ID] != nil || e.held+m.Size > maxHeld {
		return nil, errors.New("too much is under way, try later")
	}
	e.held += m.Size
	m.body = append(make([]byte, 0, m.Size), f.data...) // what is held is bounded, and pages cost when written to
	e.open[m.ID] = &assembly{Message: m, next: 1, seen: now}
	return nil, nil
}

// forget drops an assembly. The mutex is held.
func (e *Endpoint) forget(id string) {
	if a := e.open[id]; a != nil {
		e.held -= a.Size
		delete(e.open, id)
	}
}

func (m *Message) whole() (*Message, error) {
	sum := sha256.Sum256(m.body)
	if int64(len(m.body)) != m.Size || hex.EncodeToString(sum[:]) != m.Hash {
		return nil, errors.New("body and manifest differ")
	}
	return m, nil
}

// Open unseals a message's body.
func (e *Endpoint) Open(m *Message) ([]byte, error) {
	if m.To == "" {
		return m.body, nil
	}
	if m.To != e.curve {
		return nil, errors.New("open message: sealed for somebody else")
	}
	body, err := e.Curve.Open(m.body, m.Curve)
	if err != nil {
		return nil, fmt.Errorf("open message: %w", err)
	}
	return body, nil
}

// NewID makes a message id.
func NewID() string {
	var b [idSize]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Send signs, seals (if m.To is set) and sends body on subject, and returns when every frame was acknowledged. It
// fills in what of the manifest derives from body and endpoint. [ErrNobody] and a [Refusal] are told apart.
func (e *Endpoint) Send(ctx context.Context, subject string, m Manifest, body []byte) error {
	first, sealed, err := e.prepare(&m, body)
	if err != nil {
		return err
	}
	if err := e.frame(ctx, subject, first); err != nil {
		return err
	}
	for i := 1; i < m.Chunks; i++ {
		part := sealed[i*ChunkSize : min(len(sealed), (i+1)*ChunkSize)]
		if err := e.frame(ctx, subject, encodeChunk(m.ID, i, part)); err != nil {
			return fmt.Errorf("chunk %d of %d: %w", i+1, m.Chunks, err)
		}
	}
	return nil
}

// Tell sends a short message and waits for nothing: it may be lost.
func (e *Endpoint) Tell(subject string, m Manifest, body []byte) error {
	first, _, err := e.prepare(&m, body)
	if err != nil {
		return err
	}
	if m.Chunks > 1 {
		return errors.New("too long to be told")
	}
	return e.Conn.Publish(subject, first)
}

func (e *Endpoint) prepare(m *Manifest, body []byte) (first, sealed []byte, err error) {
	sealed = body
	if m.To != "" {
		if sealed, err = e.Curve.Seal(body, m.To); err != nil {
			return nil, nil, fmt.Errorf("seal message: %w", err)
		}
	}
	if len(sealed) > MaxMessage {
		return nil, nil, fmt.Errorf("message of %d bytes: at most %d", len(sealed), MaxMessage)
	}
	sum := sha256.Sum256(sealed)
	key, public := e.signer()
	m.Version, m.From, m.Curve = Version, public, e.curve
	m.Size, m.Chunks, m.Hash = int64(len(sealed)), chunks(int64(len(sealed))), hex.EncodeToString(sum[:])
	if m.ID == "" {
		m.ID = NewID()
	}
	first, err = encodeFirst(m, key, sealed[:min(len(sealed), ChunkSize)])
	return first, sealed, err
}

func (e *Endpoint) frame(ctx context.Context, subject string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, AckTimeout)
	defer cancel()
	ack, err := e.Conn.RequestWithContext(ctx, subject, data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return ErrNobody
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrDisconnected):
		return fmt.Errorf("%w: %w", ErrNobody, err)
	case err != nil:
		return fmt.Errorf("send on %s: %w", subject, err)
	case len(ack.Data) > 0:
		return Refusal(ack.Data)
	}
	return nil
}

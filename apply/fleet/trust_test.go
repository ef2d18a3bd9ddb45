package fleet_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/protocol/wire"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/apply/fleettest"
	"github.com/varanhq/varan/plan"
)

func deploy(id protocol.OpID) protocol.Op {
	return protocol.Op{ID: id, Verb: protocol.Deploy, Resource: "stack/db", Server: "web1"}
}

// TestAgentIsConfined: a valid agent reaches its own subjects and nothing else.
func TestAgentIsConfined(t *testing.T) {
	hub := newHub(t, fleet.Options{JournalDir: t.TempDir()})
	key, public := newKey(t)
	_, other := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public, "web2": other}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var denied []string
	conn, err := link.Connect("", key, hub.InProcess(), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		mu.Lock()
		defer mu.Unlock()
		denied = append(denied, err.Error())
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	subjects := []string{">", "*", "_INBOX.>", "$JS.>", "$KV.>", "$SYS.>", "run.>", wire.ToAgent(other), "varan.agent.*", wire.FromAgents, wire.InboxPrefix(other) + ".>"}
	for _, s := range subjects {
		if _, err := conn.SubscribeSync(s); err != nil {
			t.Fatal(err)
		}
	}
	publish := []string{"$JS.API.INFO", "$JS.API.STREAM.DELETE.RUNS", "$SYS.REQ.SERVER.PING", "run.x.started", wire.FromAgent(other), wire.ToAgent(other), "_INBOX.x"}
	for _, s := range publish {
		if err := conn.Publish(s, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		mu.Lock()
		n := len(denied)
		mu.Unlock()
		if n >= len(subjects)+len(publish) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d refused: %v", n, len(subjects)+len(publish), denied)
		}
		time.Sleep(time.Millisecond)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := js.AccountInfo(ctx); err == nil {
		t.Error("an agent has JetStream")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	hub := newHub(t, fleet.Options{})
	key, public := newKey(t)
	// In process both ends of a refused connection write at once, and nobody reads: it takes the client's patience.
	quick := nats.FlusherTimeout(200 * time.Millisecond)
	if _, err := link.Connect("", key, hub.InProcess(), quick); err == nil {
		t.Error("a key that is not enrolled was let in")
	}
	if _, err := nats.Connect("", hub.InProcess(), quick); err == nil {
		t.Error("no key at all was let in")
	}
	stranger, _ := newKey(t)
	if _, err := nats.Connect("", hub.InProcess(), nats.Nkey(hub.FleetKey(), stranger.Sign), quick); err == nil {
		t.Error("the fleet's public key without its private half was let in")
	}
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	conn, _ := serve(t, hub, link.Options{Handler: fleettest.NewAgent(), Key: key})
	if _, err := hub.Do(t.Context(), deploy("op1"), nil); err != nil {
		t.Fatal(err)
	}
	closed := conn.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	if err := hub.Enrol(nil); err != nil {
		t.Fatal(err)
	}
	<-closed // locked out at once
	if _, err := hub.Do(t.Context(), deploy("op2"), nil); !errors.Is(err, apply.ErrUnreachable) {
		t.Errorf("Do = %v", err)
	}
	if err := hub.Enrol(map[string]string{"a": public, "b": public}); err == nil {
		t.Error("one key stands for two servers")
	}
}

// TestForgedAndReplayed: who has the NATS cluster, but not the fleet's key, cannot make an agent act.
func TestForgedAndReplayed(t *testing.T) {
	hubKey, _ := newKey(t)
	hub := newHub(t, fleet.Options{Key: hubKey})
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	agent := fleettest.NewAgent()
	_, stop := serve(t, hub, link.Options{Handler: agent, Key: key})
	bus, err := nats.Connect("", hub.InProcess(), nats.Nkey(hub.FleetKey(), hubKey.Sign))
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	heard := make(chan *nats.Msg, 64)
	if _, err := bus.ChanSubscribe(wire.ToAgent(public), heard); err != nil {
		t.Fatal(err)
	}
	if err := bus.Flush(); err != nil {
		t.Fatal(err)
	}
	op := deploy("op1")
	op.Payload = &protocol.Payload{Secrets: map[string]protocol.Secret{"PW": "canary-hunter2"}}
	if _, err := hub.Do(t.Context(), op, nil); err != nil {
		t.Fatal(err)
	}
	var submit []byte
	for submit == nil {
		m := <-heard
		if strings.Contains(string(m.Data), "canary") {
			t.Error("a secret is on the wire")
		}
		if strings.Contains(string(m.Data), `"kind":"submit"`) {
			submit = m.Data
		}
	}
	ask := func(what string, data []byte, want string) {
		t.Helper()
		reply, err := bus.Request(wire.ToAgent(public), data, 5*time.Second)
		if err != nil || !strings.Contains(string(reply.Data), want) {
			t.Errorf("%s: %q, %v", what, reply.Data, err)
		}
	}
	ask("replayed", submit, "seen before")
	changed := []byte(strings.Replace(string(submit), `"term":1`, `"term":9`, 1))
	ask("altered", changed, "not signed")
	ask("noise", []byte("Mxxxx"), "refused")
	ask("empty", nil, "refused")

	mallory, _ := newKey(t)
	curve, _ := nkeys.CreateCurveKeys()
	forger := &wire.Endpoint{Conn: bus, Key: mallory, Curve: curve, Accept: func(*wire.Manifest) error { return wire.ErrIgnore }, Handle: func(*wire.Message) {}}
	if _, err := forger.Listen("nowhere"); err != nil {
		t.Fatal(err)
	}
	body, _ := json.Marshal(deploy("op2"))
	err = forger.Send(t.Context(), wire.ToAgent(public), wire.Manifest{Kind: wire.Submit, Agent: public, Op: "op2"}, body)
	if err == nil || !strings.Contains(err.Error(), "not signed by the fleet's key") {
		t.Errorf("forged: %v", err)
	}
	if n := len(agent.Done()); n != 1 {
		t.Errorf("%d ops done", n)
	}

	// The agent starts anew: what an earlier one of it was sent is void, and the hub goes on by itself.
	stop()
	serve(t, hub, link.Options{Handler: agent, Key: key})
	ask("replayed to a new agent", submit, wire.RefusedSession)
	if out, err := hub.Do(t.Context(), op, nil); err != nil || !out.Again {
		t.Errorf("Do = %+v, %v", out, err)
	}
}

// TestTerms: an agent that obeyed a leader obeys no earlier one, over restarts; a new leader goes above.
func TestTerms(t *testing.T) {
	file := filepath.Join(t.TempDir(), "term")
	if err := os.WriteFile(file, []byte("50\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hub := newHub(t, fleet.Options{})
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	agent := fleettest.NewAgent()
	_, stop := serve(t, hub, link.Options{Handler: agent, Key: key, TermFile: file})
	if _, err := hub.Do(t.Context(), deploy("op1"), nil); err != nil {
		t.Fatal(err)
	}
	if got := agent.Done()[0].Term; got != 51 {
		t.Errorf("term %d, want 51", got)
	}
	if data, _ := os.ReadFile(file); string(data) != "51\n" {
		t.Errorf("kept %q", data)
	}
	stop()
	if err := os.WriteFile(file, []byte("60\n"), 0o600); err != nil { // meanwhile it obeyed somebody else
		t.Fatal(err)
	}
	serve(t, hub, link.Options{Handler: agent, Key: key, TermFile: file})
	if _, err := hub.Do(t.Context(), deploy("op2"), nil); err != nil {
		t.Fatal(err)
	}
	if got := agent.Done()[1].Term; got != 61 {
		t.Errorf("term %d, want 61", got)
	}
}

func TestDeadAgentIsToldAtOnce(t *testing.T) {
	hub := newHub(t, fleet.Options{})
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	_, stop := serve(t, hub, link.Options{Handler: fleettest.NewAgent(), Key: key})
	if err := hub.Present(t.Context(), "web1"); err != nil {
		t.Fatal(err)
	}
	stop()
	began := time.Now()
	_, err := hub.Do(t.Context(), deploy("op1"), nil)
	if !errors.Is(err, apply.ErrUnreachable) || time.Since(began) > 4*time.Second {
		t.Errorf("Do = %v after %v", err, time.Since(began))
	}
}

func TestOtherProtocolVersionIsRefused(t *testing.T) {
	hub := newHub(t, fleet.Options{})
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	conn, err := link.Connect("", key, hub.InProcess())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	curve, _ := nkeys.CreateCurveKeys()
	var e *wire.Endpoint
	e = &wire.Endpoint{Conn: conn, Key: key, Curve: curve, Accept: func(*wire.Manifest) error { return nil }, Handle: func(m *wire.Message) {
		go func() {
			body, _ := json.Marshal(wire.Greeting{Version: protocol.Version + 2, Session: "s"})
			_ = e.Send(context.Background(), wire.FromAgent(public), wire.Manifest{Kind: wire.Answer, Agent: public, To: m.Curve, Re: m.ID}, body)
		}()
	}}
	if _, err := e.Listen(wire.ToAgent(public)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Do(t.Context(), deploy("op1"), nil); err == nil || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("Do = %v", err)
	}
}

// TestAgentThatIsOnItsWay: the first plan after a start does not find the machine's own agent missing.
func TestAgentThatIsOnItsWay(t *testing.T) {
	hub := newHub(t, fleet.Options{})
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { _, err := hub.Observe(t.Context(), "web1", nil); over <- err }()
	time.Sleep(100 * time.Millisecond) // not for something to happen: so that it has not
	serve(t, hub, link.Options{Handler: fleettest.NewAgent(), Key: key})
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func TestChangedIsTold(t *testing.T) {
	hub := newHub(t, fleet.Options{})
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 1)
	serve(t, hub, link.Options{Handler: fleettest.NewAgent(), Key: key, Changed: changed})
	changed <- struct{}{}
	if got := <-hub.Changed(); got != "web1" {
		t.Errorf("%q changed", got)
	}
}

func TestLoadKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "hub.key")
	key, made, err := fleet.LoadKey(path)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	again, made, err := fleet.LoadKey(path)
	if err != nil || made {
		t.Fatal(made, err)
	}
	a, _ := key.PublicKey()
	b, _ := again.PublicKey()
	if a != b || !strings.HasPrefix(a, "U") {
		t.Errorf("%s, then %s", a, b)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := fleet.LoadKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key others can read: %v", err)
	}
	if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := fleet.LoadKey(path); err == nil || strings.Contains(err.Error(), "rubbish") {
		t.Errorf("a damaged key: %v", err)
	}
}

func BenchmarkDo(b *testing.B) {
	fleetKey, err := nkeys.CreateUser()
	if err != nil {
		b.Fatal(err)
	}
	hub, err := fleet.Start(fleet.Options{Key: fleetKey})
	if err != nil {
		b.Fatal(err)
	}
	defer hub.Close()
	key, _ := nkeys.CreateUser()
	public, _ := key.PublicKey()
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		b.Fatal(err)
	}
	conn, err := link.Connect("", key, hub.InProcess())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() {
		over <- link.Serve(ctx, conn, link.Options{Handler: fleettest.NewAgent(), Key: key, FleetKey: hub.FleetKey()})
	}()
	<-hub.Changed()
	n := 0
	for b.Loop() {
		n++
		op := deploy(apply.OpIDOf("main", "stack/db", "1:x", protocol.Deploy, string(rune(n))))
		if _, err := hub.Do(ctx, op, nil); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	if err := <-over; err != nil {
		b.Fatal(err)
	}
}

func bigPayload(size int) *protocol.Payload {
	return &protocol.Payload{Files: []protocol.File{{Path: "big", Data: make([]byte, size)}}}
}

// TestInTheMiddle: who ends the TLS of agent and hub, with a certificate from another century, sees no secret, and what
// it heard it can play to nobody again.
func TestInTheMiddle(t *testing.T) {
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	m := newMiddle(t, hub.Addr().String())
	agent := fleettest.NewAgent()
	agent.State.Containers = []plan.Container{{Name: "canary-observed"}}
	r := dialOut(t, m.Addr().String(), link.Options{Handler: agent, Key: key, FleetKey: hub.FleetKey(), Name: "web1"})
	r.want(t, link.Connected)
	op := deploy("op1")
	op.Payload = &protocol.Payload{Secrets: map[string]protocol.Secret{"PW": "canary-hunter2"}}
	if _, err := hub.Do(t.Context(), op, nil); err != nil {
		t.Fatal(err)
	}
	if s, err := hub.Observe(t.Context(), "web1", nil); err != nil || len(s.Containers) != 1 {
		t.Fatal(s, err)
	}
	heard := m.heard()
	if !strings.Contains(heard, `"kind":"submit"`) {
		t.Fatal("nothing was heard in the middle")
	}
	if strings.Contains(heard, "canary") {
		t.Error("what is sealed was heard in the middle")
	}
	// The connection it has in the agent's name says nothing the hub believes: all it has is what was said before.
	m.replay.Store(true)
	for range 3 {
		if _, err := hub.Observe(t.Context(), "web1", nil); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := hub.Do(t.Context(), op, nil); err != nil || !out.Again {
		t.Errorf("Do = %+v, %v", out, err)
	}
	if n := len(agent.Done()); n != 1 {
		t.Errorf("%d ops done", n)
	}
}

// A middle ends the TLS of both sides and hears everything. With replay it sends each message of the agent twice.
type middle struct {
	net.Listener
	replay atomic.Bool
	mu     sync.Mutex
	said   strings.Builder
}

func newMiddle(t *testing.T, hub string) *middle {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2091, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	m := &middle{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			h, err := tls.Dial("tcp", hub, &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				a.Close()
				continue
			}
			go m.pass(h, a, true)
			go m.pass(a, h, false)
		}
	}()
	return m
}

func (m *middle) pass(to, from net.Conn, agent bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 1<<20)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		m.mu.Lock()
		m.said.Write(buf[:n])
		m.mu.Unlock()
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		// What is one whole message of NATS's protocol can be said again.
		if agent && m.replay.Load() && (bytes.HasPrefix(buf[:n], []byte("PUB ")) || bytes.HasPrefix(buf[:n], []byte("HPUB "))) && bytes.HasSuffix(buf[:n], []byte("\r\n")) {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func (m *middle) heard() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said.String()
}

// TestLowerTermIsRefused: an order signed by the fleet's key, but by a leader that another one has followed, is void.
func TestLowerTermIsRefused(t *testing.T) {
	hubKey, hubPublic := newKey(t)
	hub := newHub(t, fleet.Options{Key: hubKey})
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "term")
	if err := os.WriteFile(file, []byte("50\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := fleettest.NewAgent()
	serve(t, hub, link.Options{Handler: agent, Key: key, TermFile: file})
	bus, err := nats.Connect("", hub.InProcess(), nats.Nkey(hubPublic, hubKey.Sign))
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	curve, _ := nkeys.CreateCurveKeys()
	greeted := make(chan wire.Greeting, 1)
	var agentCurve string
	var e *wire.Endpoint
	e = &wire.Endpoint{Conn: bus, Key: hubKey, Curve: curve,
		Accept: func(m *wire.Manifest) error {
			if m.To != e.CurveKey() {
				return wire.ErrIgnore
			}
			return nil
		},
		Handle: func(m *wire.Message) {
			var g wire.Greeting
			if body, err := e.Open(m); err == nil && json.Unmarshal(body, &g) == nil {
				agentCurve = m.Curve
				greeted <- g
			}
		}}
	if _, err := e.Listen(wire.FromAgents); err != nil {
		t.Fatal(err)
	}
	if err := e.Send(t.Context(), wire.ToAgent(public), wire.Manifest{Kind: wire.Hello, Agent: public}, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	g := <-greeted
	send := func(term, seq uint64) error {
		op := deploy("stale")
		op.Version, op.Term = protocol.Version, term
		body, _ := json.Marshal(op)
		return e.Send(t.Context(), wire.ToAgent(public), wire.Manifest{Kind: wire.Submit, Agent: public, To: agentCurve, Session: g.Session, Term: term, Seq: seq, Op: "stale"}, body)
	}
	if err := send(49, 1); !errors.Is(err, wire.Refusal(wire.RefusedTerm)) {
		t.Errorf("term 49 after 50: %v", err)
	}
	if n := len(agent.Done()); n != 0 {
		t.Errorf("%d ops done", n)
	}
	if data, _ := os.ReadFile(file); string(data) != "50\n" {
		t.Errorf("kept %q", data)
	}
}

// FuzzHubHears: whatever an enrolled agent says, the hub stands, and what it signs in another's name counts for nothing.
func FuzzHubHears(f *testing.F) {
	f.Add([]byte("M"), byte(0), "", "", []byte("{}"))
	f.Add([]byte("Cxxxxxxxxxxxxxxxxxxxxxxxxxxx"), byte(1), "x", "y", []byte(`{"version":1,"session":"s","term":18446744073709551615}`))
	f.Add([]byte(nil), byte(2), "op1", "", []byte(`{"state":"done","outcome":{}}`))
	fleetKey, err := nkeys.CreateUser()
	if err != nil {
		f.Fatal(err)
	}
	hub, err := fleet.Start(fleet.Options{Key: fleetKey})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(hub.Close)
	key, _ := nkeys.CreateUser()
	public, _ := key.PublicKey()
	_, other := func() (nkeys.KeyPair, string) { k, _ := nkeys.CreateUser(); p, _ := k.PublicKey(); return k, p }()
	if err := hub.Enrol(map[string]string{"web1": public, "web2": other}); err != nil {
		f.Fatal(err)
	}
	conn, err := link.Connect("", key, hub.InProcess())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(conn.Close)
	curve, _ := nkeys.CreateCurveKeys()
	var answer atomic.Pointer[[]byte] // to every question but who it is
	var e *wire.Endpoint
	e = &wire.Endpoint{Conn: conn, Key: key, Curve: curve, Accept: func(*wire.Manifest) error { return nil }, Handle: func(m *wire.Message) {
		body, _ := json.Marshal(wire.Greeting{Version: protocol.Version, Session: "s"})
		if m.Kind != wire.Hello {
			body = *answer.Load()
		}
		go func() {
			_ = e.Send(context.Background(), wire.FromAgent(public), wire.Manifest{Kind: wire.Answer, Agent: public, To: m.Curve, Re: m.ID}, body)
		}()
	}}
	if _, err := e.Listen(wire.ToAgent(public)); err != nil {
		f.Fatal(err)
	}
	kinds := []wire.Kind{wire.Hello, wire.Here, wire.Changed, wire.Answer, wire.Progress, wire.Figures, wire.Submit, wire.Rekey, "nonsense"}
	f.Add([]byte(nil), byte(3), "op1", "", []byte(`{"version":1,"state":{"containers":[{}],"ledger":{"x/y":null},"facts":{"x":{}}}}`))
	f.Add([]byte(nil), byte(3), "op1", "", []byte(`{"state":"running"}`))
	f.Fuzz(func(t *testing.T, frame []byte, kind byte, op, re string, body []byte) {
		answer.Store(&body)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, _ = hub.Observe(ctx, "web1", []protocol.Query{{Resource: "stack/db"}})
		_, _ = hub.Do(ctx, deploy("op1"), nil)
		cancel()
		_ = conn.Publish(wire.FromAgent(public), frame)
		k := kinds[int(kind)%len(kinds)]
		_ = e.Tell(wire.FromAgent(public), wire.Manifest{Kind: k, Agent: public, Op: op, Re: re}, body)
		_ = e.Tell(wire.FromAgent(public), wire.Manifest{Kind: k, Agent: other, Op: op, Re: re}, body)
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		for len(hub.Changed()) > 0 {
			if name := <-hub.Changed(); name != "web1" {
				t.Errorf("an agent spoke for %q", name)
			}
		}
		if st := hub.Status(); len(st.Agents) != 2 {
			t.Error("the hub lost its agents")
		}
	})
}

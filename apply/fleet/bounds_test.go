package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/protocol/wire"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/apply/fleettest"
	"github.com/varanhq/varan/plan"
)

// A freezing connection stops reading and writing when it is told to, as that of a stopped process does.
type freezing struct {
	net.Conn
	frozen *atomic.Bool
	thaw   chan struct{} // closed when the test ends
}

func (f freezing) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if f.frozen.Load() {
		<-f.thaw
		return 0, net.ErrClosed
	}
	return n, err
}

func (f freezing) Write(p []byte) (int, error) {
	if f.frozen.Load() {
		<-f.thaw
		return 0, net.ErrClosed
	}
	return f.Conn.Write(p)
}

// TestFrozenAgentsDelayNobody: a hundred agents that are connected and neither read nor answer any more delay their own
// steps and nobody else's.
func TestFrozenAgentsDelayNobody(t *testing.T) {
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	key, public := newKey(t)
	enrol := map[string]string{"web1": public}
	type frozenAgent struct {
		key    nkeys.KeyPair
		public string
	}
	agents := map[string]frozenAgent{}
	for i := range 100 {
		k, p := newKey(t)
		name := fmt.Sprintf("frozen%d", i)
		enrol[name], agents[name] = p, frozenAgent{k, p}
	}
	if err := hub.Enrol(enrol); err != nil {
		t.Fatal(err)
	}
	var frozen atomic.Bool
	thaw := make(chan struct{})
	for _, a := range agents {
		conn, err := nats.Connect("nats://127.0.0.1", nats.SetCustomDialer(given{freezing{dialTLS(t, hub.Addr().String()), &frozen, thaw}}),
			wire.Login(a.public, a.key), nats.CustomInboxPrefix(wire.InboxPrefix(a.public)), nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		over := make(chan error, 1)
		go func() {
			over <- link.Serve(ctx, conn, link.Options{Handler: fleettest.NewAgent(), Key: a.key, FleetKey: hub.FleetKey()})
		}()
		t.Cleanup(func() { cancel(); conn.Close(); <-over })
	}
	t.Cleanup(func() { close(thaw) }) // then the connections can be closed
	dialOut(t, hub.Addr().String(), link.Options{Handler: fleettest.NewAgent(), Key: key, FleetKey: hub.FleetKey()}).want(t, link.Connected)
	sized := func(server, id string, size int) protocol.Op {
		op := deploy(protocol.OpID(id))
		op.Server, op.Payload = server, bigPayload(size)
		return op
	}
	names := []string{"web1"}
	for name := range agents { // each is well to begin with
		names = append(names, name)
		if err := hub.Present(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	do := func(id string) time.Duration {
		began := time.Now()
		if _, err := hub.Do(t.Context(), sized("web1", id, 2<<20), nil); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	alone := do("alone")

	frozen.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var ended atomic.Int64
	for name := range agents {
		wg.Go(func() {
			if _, err := hub.Do(ctx, sized(name, "op-"+name, wire.ChunkSize/8), nil); err == nil {
				t.Errorf("%s did an op", name)
			}
			ended.Add(1)
		})
	}
	looked := make(chan *plan.State, 1)
	go func() { looked <- apply.Observe(ctx, hub, names, nil) }()
	var worst time.Duration
	for i := range 20 {
		worst = max(worst, do(fmt.Sprint("beside", i)))
	}
	t.Logf("an op of 2 MB alone %s, the slowest of 20 beside 100 frozen agents %s", alone, worst)
	if worst > 10*alone+wire.AckTimeout/2 { // who waited for one of them would wait for its time-out
		t.Errorf("beside 100 frozen agents an op took %s, alone %s", worst, alone)
	}
	select {
	case st := <-looked: // one time-out of them all side by side, not one after the other
		if s := st.Servers["web1"]; s.Unreachable != "" {
			t.Errorf("web1: %s", s.Unreachable)
		}
		if s := st.Servers["frozen7"]; s.Unreachable == "" {
			t.Error("a frozen server was observed")
		}
	case <-time.After(45 * time.Second):
		t.Error("an observation waits for the frozen for ever")
	}
	wg.Wait() // each ends by itself
	if n := ended.Load(); n != 100 {
		t.Errorf("%d of 100 ended", n)
	}
}

// TestWaitingInAll: from however many addresses they come, a hundred keys wait and no more.
func TestWaitingInAll(t *testing.T) {
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	if err := hub.Enrol(nil); err != nil {
		t.Fatal(err)
	}
	var from atomic.Pointer[netip.Addr]
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hub.WebSocket(w, r, *from.Load()) }))
	defer daemon.Close()
	address := strings.Replace(daemon.URL, "http", "ws", 1)
	for i := range 13 {
		at := netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i+1))
		from.Store(&at)
		for range 9 {
			key, _ := newKey(t)
			r := dialOut(t, address, link.Options{Handler: fleettest.NewAgent(), Key: key, FleetKey: hub.FleetKey(), Name: "web1"})
			r.want(t, link.Refused)
			r.stop()
		}
	}
	if n := len(hub.Waiting()); n != 100 {
		t.Errorf("%d keys wait, want 100", n)
	}
}

// TestTooLarge: what is larger than any message may be ends its sender's connection and nothing else, and what announces
// itself as such is refused.
func TestTooLarge(t *testing.T) {
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	key, public := newKey(t)
	other, otherPublic := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public, "web2": otherPublic}); err != nil {
		t.Fatal(err)
	}
	dialOut(t, hub.Addr().String(), link.Options{Handler: fleettest.NewAgent(), Key: key, FleetKey: hub.FleetKey()}).want(t, link.Connected)
	conn := dialTLS(t, hub.Addr().String())
	bad, err := nats.Connect("nats://127.0.0.1", nats.SetCustomDialer(given{conn}), wire.Login(otherPublic, other), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	closed := bad.StatusChanged(nats.CLOSED)
	size := 3 * wire.ChunkSize
	_, _ = conn.Write(append(fmt.Appendf(nil, "PUB %s %d\r\n", wire.FromAgent(otherPublic), size), make([]byte, size)...))
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("a message of three chunks in one was taken")
	}
	if _, err := hub.Do(t.Context(), deploy("op1"), nil); err != nil {
		t.Errorf("web1: %v", err)
	}
	op := deploy("op2")
	op.Payload = bigPayload(wire.MaxMessage)
	if _, err := hub.Do(t.Context(), op, nil); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("an op larger than any message: %v", err)
	}
	if _, err := hub.Do(t.Context(), deploy("op3"), nil); err != nil {
		t.Errorf("web1 after it: %v", err)
	}
}

// FuzzAgentHears: whatever comes to an agent, signed by the fleet's key or not, well formed or not, it stands and
// answers the next question.
func FuzzAgentHears(f *testing.F) {
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
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		f.Fatal(err)
	}
	agentConn, err := link.Connect("", key, hub.InProcess())
	if err != nil {
		f.Fatal(err)
	}
	agent := fleettest.NewAgent()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() {
		over <- link.Serve(ctx, agentConn, link.Options{Handler: agent, Key: key, FleetKey: hub.FleetKey()})
	}()
	f.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			f.Error(err)
		}
		agentConn.Close()
	})
	<-hub.Changed()
	// A daemon that holds the fleet's key and has lost its mind.
	bus, err := nats.Connect("", hub.InProcess(), nats.Nkey(hub.FleetKey(), fleetKey.Sign))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(bus.Close)
	greeted := make(chan wire.Greeting, 1)
	curve, _ := nkeys.CreateCurveKeys()
	var mad *wire.Endpoint
	var agentCurve string
	mad = &wire.Endpoint{Conn: bus, Key: fleetKey, Curve: curve, Accept: func(m *wire.Manifest) error {
		if m.To != mad.CurveKey() {
			return wire.ErrIgnore
		}
		return nil
	}, Handle: func(m *wire.Message) {
		var g wire.Greeting
		if body, err := mad.Open(m); err == nil && json.Unmarshal(body, &g) == nil && g.Session != "" {
			agentCurve = m.Curve
			select {
			case greeted <- g:
			default:
			}
		}
	}}
	if _, err := mad.Listen(wire.FromAgents); err != nil {
		f.Fatal(err)
	}
	if err := mad.Send(context.Background(), wire.ToAgent(public), wire.Manifest{Kind: wire.Hello, Agent: public}, nil); err != nil {
		f.Fatal(err)
	}
	session := (<-greeted).Session
	f.Add([]byte("M\x00\x02{}"), byte(2), "op1", []byte(`{"version":1,"id":"op1","verb":"deploy","resource":"stack/db"}`))
	f.Add([]byte("Cxxxxxxxxxxxxxxxxxxxxxxxxxxx"), byte(3), "op1", []byte(`{"op":"op1","millis":-1}`))
	f.Add([]byte(nil), byte(1), "", []byte(`{"queries":[{"resource":"x/y","payload":{"units":[{}]}}]}`))
	f.Add([]byte(nil), byte(4), "", []byte(`{"next":"UXXX"}`))
	f.Add([]byte(nil), byte(5), "", []byte(`{"tail":-9}`))
	kinds := []wire.Kind{wire.Hello, wire.Observe, wire.Submit, wire.Wait, wire.Rekey, wire.Logs, wire.Answer, wire.Here, "nonsense"}
	var seq uint64
	f.Fuzz(func(t *testing.T, frame []byte, kind byte, op string, body []byte) {
		_ = bus.Publish(wire.ToAgent(public), frame)
		m := wire.Manifest{Kind: kinds[int(kind)%len(kinds)], Agent: public, Op: op, Session: session, To: agentCurve, Term: 1}
		if m.Kind == wire.Rekey && strings.Contains(string(body), `"U`) {
			return // an order like any other: it would be obeyed
		}
		seq++
		m.Seq = seq
		_ = mad.Tell(wire.ToAgent(public), m, body)
		m.To, m.Seq = "", seq // unsealed, and the number again
		_ = mad.Tell(wire.ToAgent(public), m, body)
		if err := bus.Flush(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := hub.Present(ctx, "web1"); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("the agent answers no more: %v", err)
		}
	})
}

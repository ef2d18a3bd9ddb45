package fleet_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/apply/fleettest"
)

// remote is an agent that dials out, as one on another machine does.
type remote struct {
	news chan link.News
	stop func()
}

func dialOut(t *testing.T, hub string, opts link.Options) *remote {
	t.Helper()
	address, err := link.ParseAddress(hub)
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{news: make(chan link.News, 64)}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() {
		over <- link.Follow(ctx, link.Following{Hub: address, Tell: func(n link.News, err error) { r.news <- n }}, opts)
	}()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-over; err != nil {
			t.Errorf("Follow: %v", err)
		}
	}
	t.Cleanup(r.stop)
	return r
}

func (r *remote) want(t *testing.T, want link.News) {
	t.Helper()
	for {
		select {
		case n := <-r.news:
			if n == want {
				return
			}
		case <-time.After(15 * time.Second):
			t.Fatalf("news %v did not come", want)
		}
	}
}

// TestEnrolment: a key is let in by being committed, is shown while it is not, and is out at once when it is taken
// back or revoked.
func TestEnrolment(t *testing.T) {
	keyFile := filepath.Join(t.TempDir(), "hub.key")
	fleetKey, _, err := fleet.LoadKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	hub := newHub(t, fleet.Options{Key: fleetKey, KeyFile: keyFile, Listen: "127.0.0.1:0"})
	key, public := newKey(t)
	agent := fleettest.NewAgent()
	r := dialOut(t, hub.Addr().String(), link.Options{Handler: agent, Key: key, FleetKey: hub.FleetKey(), Name: "web\x1b[31m1\n\u202e"})
	r.want(t, link.Lost) // no commit was read yet: nobody is told that his key is not in it
	if err := hub.Enrol(nil); err != nil {
		t.Fatal(err)
	}
	r.want(t, link.Refused)
	w := hub.Waiting()
	if len(w) != 1 || w[0].Key != public || w[0].Claim != "web31m1" || w[0].From != netip.MustParseAddr("127.0.0.1") {
		t.Fatalf("waiting: %+v", w)
	}
	if want := fmt.Sprintf("[[server]]\nname = \"web31m1\"\nconfig.public_key = %q\n", public); w[0].TOML() != want {
		t.Errorf("TOML:\n%s", w[0].TOML())
	}
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	r.want(t, link.Connected)
	if _, err := hub.Do(t.Context(), deploy("op1"), nil); err != nil {
		t.Fatal(err)
	}
	st := hub.Status()
	if len(st.Waiting) != 0 || len(st.Agents) != 1 || !st.Agents[0].Connected || st.Agents[0].Server != "web1" {
		t.Errorf("status: %+v", st)
	}

	if err := hub.Revoke(public, false); err != nil {
		t.Fatal(err)
	}
	r.want(t, link.Refused)
	if _, err := hub.Do(t.Context(), deploy("op2"), nil); !errors.Is(err, apply.ErrUnreachable) {
		t.Errorf("Do = %v", err)
	}
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil { // a commit does not undo it
		t.Fatal(err)
	}
	if st := hub.Status(); len(st.Waiting) != 1 && st.Agents[0].Connected || !st.Agents[0].Revoked {
		t.Errorf("status: %+v", st)
	}
	if data, _ := os.ReadFile(keyFile + ".revoked"); !strings.Contains(string(data), public) {
		t.Errorf("kept: %q", data)
	}
	again := newHub(t, fleet.Options{Key: fleetKey, KeyFile: keyFile, Listen: "127.0.0.1:0"}) // and no restart
	if err := again.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Do(t.Context(), deploy("op2"), nil); !errors.Is(err, apply.ErrUnreachable) {
		t.Errorf("Do = %v", err)
	}
	if err := hub.Revoke(public, true); err != nil {
		t.Fatal(err)
	}
	r.want(t, link.Connected)
	if err := hub.Enrol(nil); err != nil {
		t.Fatal(err)
	}
	r.want(t, link.Refused)
	if n := len(agent.Done()); n != 1 {
		t.Errorf("%d ops done", n)
	}
}

// TestWebSocketThroughProxy: an ordinary reverse proxy on the way is enough.
func TestWebSocketThroughProxy(t *testing.T) {
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/agent" {
			http.NotFound(w, r)
			return
		}
		hub.WebSocket(w, r, netip.MustParseAddr("192.0.2.7"))
	}))
	defer daemon.Close()
	target, _ := url.Parse(daemon.URL)
	proxy := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(target))
	defer proxy.Close()

	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	agent := fleettest.NewAgent()
	address := strings.Replace(proxy.URL, "https", "wss", 1)
	r := dialOut(t, address, link.Options{Handler: agent, Key: key, FleetKey: hub.FleetKey()})
	r.want(t, link.Connected)
	op := deploy("op1")
	op.Payload = bigPayload(3 << 20)
	if _, err := hub.Do(t.Context(), op, nil); err != nil {
		t.Fatal(err)
	}
	if from := hub.Status().Agents[0].From; from != netip.MustParseAddr("192.0.2.7") {
		t.Errorf("from %v", from)
	}
	if err := hub.Enrol(nil); err != nil {
		t.Fatal(err)
	}
	r.want(t, link.Refused)

	page, err := http.NewRequest("GET", daemon.URL+"/agent", nil)
	if err != nil {
		t.Fatal(err)
	}
	page.Header = http.Header{"Origin": {"https://evil.example"}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}}
	resp, err := http.DefaultClient.Do(page)
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a browser's page: %v, %v", resp, err)
	}
	daemon.CloseClientConnections()
}

// TestBeforeAuthentication: who shows no key has 4 kB, 5 s and 20 connections.
func TestBeforeAuthentication(t *testing.T) {
	t.Parallel()
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	address := hub.Addr().String()
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	began := time.Now()
	if n, err := io.Copy(io.Discard, raw); n > 0 || time.Since(began) < 3*time.Second || time.Since(began) > 8*time.Second {
		t.Errorf("a silent connection was cut after %v: %d bytes, %v", time.Since(began), n, err)
	}

	conn := dialTLS(t, address)
	_, _ = conn.Write([]byte("CONNECT {\"name\":\"" + strings.Repeat("x", 8<<10) + "\"}\r\n"))
	began = time.Now()
	if got, _ := io.ReadAll(conn); time.Since(began) > 2*time.Second {
		t.Errorf("8 kB were read for %v: %q", time.Since(began), got)
	}

	var held []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	extra, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	_ = extra.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := extra.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Errorf("the 21st connection: %v", err)
	}
	for _, c := range held {
		_ = c.Close()
	}
	// Those that are in do not count.
	dialOut(t, address, link.Options{Handler: fleettest.NewAgent(), Key: key, FleetKey: hub.FleetKey()}).want(t, link.Connected)
}

func dialTLS(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestWaitingIsBounded: nobody fills the list of waiting agents, and nobody fills it alone.
func TestWaitingIsBounded(t *testing.T) {
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	if err := hub.Enrol(nil); err != nil {
		t.Fatal(err)
	}
	refused := func(public string, key nkeys.KeyPair) {
		t.Helper()
		var err error
		for range 5 { // on a machine that is very busy a connection may have had its five seconds
			conn := dialTLS(t, hub.Addr().String())
			if _, err = nats.Connect("nats://127.0.0.1", nats.SetCustomDialer(given{conn}), nats.Nkey(public, key.Sign), nats.Name("db")); errors.Is(err, nats.ErrAuthorization) {
				return
			}
		}
		t.Fatal(err)
	}
	for range 15 {
		key, public := newKey(t)
		refused(public, key)
	}
	if n := len(hub.Waiting()); n != 10 {
		t.Errorf("%d keys wait, of one address", n)
	}
	thief, _ := newKey(t) // who does not hold the key cannot have it shown
	_, public := newKey(t)
	refused(public, thief)
	for _, w := range hub.Waiting() {
		if w.Key == public {
			t.Error("a key is shown that nobody proved to hold")
		}
	}
}

// given is a dialer with the connection already made.
type given struct{ net.Conn }

func (g given) Dial(string, string) (net.Conn, error) { return g.Conn, nil }
func (g given) SkipTLSHandshake() bool                { return true }

// TestFalseHub: who answers in the hub's place is not obeyed, has nothing signed that could be a message, and passing
// the true hub's challenge on to the agent gains it nothing but a connection.
func TestFalseHub(t *testing.T) {
	key, _ := newKey(t)
	agent := fleettest.NewAgent()
	trueKey, truePublic := newKey(t)
	_ = trueKey
	_, falsePublic := newKey(t)
	if falsePublic == truePublic {
		t.Fatal("keys")
	}
	public, _ := key.PublicKey()

	t.Run("another fleet's hub", func(t *testing.T) {
		hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
		if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
			t.Fatal(err)
		}
		dialOut(t, hub.Addr().String(), link.Options{Handler: agent, Key: key, FleetKey: truePublic}).want(t, link.Connected)
		if _, err := hub.Do(t.Context(), deploy("op1"), nil); err == nil || !strings.Contains(err.Error(), "not signed by the fleet's key") {
			t.Errorf("Do = %v", err)
		}
	})
	t.Run("a challenge that is a message", func(t *testing.T) {
		l, err := tls.Listen("tcp", "127.0.0.1:0", httptestTLS(t))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		r := dialOut(t, l.Addr().String(), link.Options{Handler: agent, Key: key, FleetKey: truePublic})
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, `INFO {"server_id":"x","max_payload":1048576,"headers":true,"auth_required":true,"nonce":"varan message 1\n{\"v\":1}"}`+"\r\n")
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		got, _ := io.ReadAll(conn)
		if strings.Contains(string(got), `"sig"`) && !strings.Contains(string(got), `"sig":""`) {
			t.Errorf("signed: %s", got)
		}
		r.want(t, link.Lost)
	})
	if n := len(agent.Done()); n != 0 {
		t.Errorf("%d ops done", n)
	}
}

func httptestTLS(t *testing.T) *tls.Config {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	return &tls.Config{Certificates: s.TLS.Certificates}
}

// TestNewestConnectionCounts: an agent that comes again takes its older, half dead connection's place.
func TestNewestConnectionCounts(t *testing.T) {
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	old := dialTLS(t, hub.Addr().String())
	first, err := nats.Connect("nats://127.0.0.1", nats.SetCustomDialer(given{old}), nats.Nkey(public, key.Sign), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	closed := first.StatusChanged(nats.CLOSED)
	dialOut(t, hub.Addr().String(), link.Options{Handler: fleettest.NewAgent(), Key: key, FleetKey: hub.FleetKey()}).want(t, link.Connected)
	<-closed
	if _, err := hub.Do(t.Context(), deploy("op1"), nil); err != nil {
		t.Fatal(err)
	}
}

// TestAddresses: what a hub can be called.
func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"h:8443": "h:8443", "tls://h:8443": "h:8443", "wss://h": "wss://h/agent", "wss://h/x/": "wss://h/x/", "https://h": "wss://h/agent",
		"ws://127.0.0.1:8080": "ws://127.0.0.1:8080/agent", "[::1]:8443": "[::1]:8443",
		"h": "", "ws://h": "", "wss://u@h": "", "ftp://h:1": "", "": "", "wss://h?x=1": "",
	} {
		a, err := link.ParseAddress(in)
		if (err == nil) != (want != "") || err == nil && a.String() != want {
			t.Errorf("%q: %q, %v", in, a, err)
		}
	}
}

// TestFleetKeyChanges: both keys are obeyed until every agent has confirmed the next, a missing one is listed and told
// when it comes back, and what the old key signs afterwards is refused.
func TestFleetKeyChanges(t *testing.T) {
	dir := t.TempDir()
	keyFile := filepath.Join(dir, "hub.key")
	oldKey, _, err := fleet.LoadKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	start := func(key nkeys.KeyPair) *fleet.Hub {
		return newHub(t, fleet.Options{Key: key, KeyFile: keyFile, Listen: "127.0.0.1:0"})
	}
	hub := start(oldKey)
	was := hub.FleetKey()
	key1, public1 := newKey(t)
	key2, public2 := newKey(t)
	enrol := map[string]string{"web1": public1, "web2": public2}
	if err := hub.Enrol(enrol); err != nil {
		t.Fatal(err)
	}
	agent := fleettest.NewAgent()
	options := func(key nkeys.KeyPair, name string) link.Options {
		return link.Options{Handler: agent, Key: key, FleetKey: was, PinFile: filepath.Join(dir, name)}
	}
	first := dialOut(t, hub.Addr().String(), options(key1, "pins1"))
	first.want(t, link.Connected)
	r, err := hub.Rotate(t.Context(), false)
	if err != nil || r.Next == "" || len(r.Confirmed) != 1 || len(r.Missing) != 1 || r.Missing[0] != "web2" {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := hub.Do(t.Context(), deploy("op1"), nil); err != nil { // under the present key
		t.Fatal(err)
	}
	if st := hub.Status(); st.Rotation == nil || st.Key != was {
		t.Errorf("%+v", st)
	}
	// The daemon starts anew in the middle of it.
	hub.Close()
	first.stop()
	hub = start(oldKey)
	if err := hub.Enrol(enrol); err != nil {
		t.Fatal(err)
	}
	if got := hub.Rotation(); got.Next != r.Next {
		t.Fatalf("next %q, was %q", got.Next, r.Next)
	}
	first = dialOut(t, hub.Addr().String(), options(key1, "pins1"))
	second := dialOut(t, hub.Addr().String(), options(key2, "pins2"))
	first.want(t, link.Connected)
	second.want(t, link.Connected)
	for deadline := time.Now().Add(10 * time.Second); hub.FleetKey() != r.Next; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the key was not changed: %+v", hub.Rotation())
		}
	}
	for _, server := range []string{"web1", "web2"} {
		op := deploy(protocol.OpID("new-" + server))
		op.Server = server
		if _, err := hub.Do(t.Context(), op, nil); err != nil {
			t.Fatal(err)
		}
	}
	newKey, _, err := fleet.LoadKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := newKey.PublicKey(); p != r.Next {
		t.Errorf("the file holds %s", p)
	}
	hub.Close()
	first.stop()
	second.stop()
	stale := start(oldKey) // who kept the old key has no say any more, also not over the agent's restart
	if err := stale.Enrol(map[string]string{"web1": public1}); err != nil {
		t.Fatal(err)
	}
	dialOut(t, stale.Addr().String(), options(key1, "pins1")).want(t, link.Connected)
	if _, err := stale.Do(t.Context(), deploy("op9"), nil); err == nil || !strings.Contains(err.Error(), "not signed by the fleet's key") {
		t.Errorf("Do = %v", err)
	}
}

// TestAgentKeyChanges: the next key takes the old one's place when a commit says so, and the old one is out.
func TestAgentKeyChanges(t *testing.T) {
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	file := filepath.Join(t.TempDir(), "agent.key")
	key, err := link.LoadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	public, _ := key.PublicKey()
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	address, err := link.ParseAddress(hub.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	news := make(chan link.News, 64)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		over <- link.Follow(ctx, link.Following{Hub: address, KeyFile: file, Tell: func(n link.News, _ error) { news <- n }},
			link.Options{Handler: fleettest.NewAgent(), Key: key, FleetKey: hub.FleetKey()})
	}()
	r := &remote{news: news}
	r.want(t, link.Connected)
	next, err := link.LoadKey(link.NextKeyFile(file))
	if err != nil {
		t.Fatal(err)
	}
	nextPublic, _ := next.PublicKey()
	if err := hub.Enrol(map[string]string{"web1": nextPublic}); err != nil {
		t.Fatal(err)
	}
	r.want(t, link.Refused)
	r.want(t, link.Connected)
	if _, err := hub.Do(t.Context(), deploy("op1"), nil); err != nil {
		t.Fatal(err)
	}
	if key, err = link.LoadKey(file); err != nil {
		t.Fatal(err)
	}
	if p, _ := key.PublicKey(); p != nextPublic {
		t.Errorf("the file holds %s", p)
	}
	if _, err := os.Stat(link.NextKeyFile(file)); err == nil {
		t.Error("the next key still waits")
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// TestDaemonForgetsEverything: another daemon with nothing but the fleet's key takes the first one's place, and agents
// come back by themselves, whatever term they obeyed.
func TestDaemonForgetsEverything(t *testing.T) {
	fleetKey, _ := newKey(t)
	start := func(listen string) *fleet.Hub {
		return newHub(t, fleet.Options{Key: fleetKey, JournalDir: t.TempDir(), Listen: listen})
	}
	hub := start("127.0.0.1:0")
	address := hub.Addr().String()
	enrol, agents, remotes := map[string]string{}, map[string]*fleettest.Agent{}, map[string]*remote{}
	for _, name := range []string{"web1", "web2", "web3"} {
		key, public := newKey(t)
		term := filepath.Join(t.TempDir(), "term")
		if err := os.WriteFile(term, []byte("50\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		enrol[name], agents[name] = public, fleettest.NewAgent()
		remotes[name] = dialOut(t, address, link.Options{Handler: agents[name], Key: key, FleetKey: hub.FleetKey(), TermFile: term})
	}
	do := func(id string) {
		t.Helper()
		for name, r := range remotes {
			r.want(t, link.Connected)
			op := deploy(protocol.OpID(id))
			op.Server = name
			if out, err := hub.Do(t.Context(), op, nil); err != nil || out.Status != protocol.Done {
				t.Fatalf("%+v, %v", out, err)
			}
		}
	}
	if err := hub.Enrol(enrol); err != nil {
		t.Fatal(err)
	}
	do("op1")
	hub.Close()
	for _, r := range remotes {
		r.want(t, link.Lost)
	}
	hub = start(address)
	if err := hub.Enrol(enrol); err != nil {
		t.Fatal(err)
	}
	do("op2")
	do2 := deploy("op1") // what was done stays done
	if out, err := hub.Do(t.Context(), do2, nil); err != nil || !out.Again {
		t.Errorf("%+v, %v", out, err)
	}
	for name, a := range agents {
		if n := len(a.Done()); n != 2 {
			t.Errorf("%s did %d ops", name, n)
		}
	}
}

// TestNoNameIsAsked: an agent that was given an address asks no name server on its way there, which may be slow or gone.
func TestNoNameIsAsked(t *testing.T) {
	var asked atomic.Int64
	was := net.DefaultResolver
	defer func() { net.DefaultResolver = was }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked.Add(1)
		return nil, errors.New("no name server")
	}}
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	key, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	r := dialOut(t, hub.Addr().String(), link.Options{Handler: fleettest.NewAgent(), Key: key, FleetKey: hub.FleetKey()})
	r.want(t, link.Connected)
	r.stop()
	if n := asked.Load(); n > 0 {
		t.Errorf("a name server was asked %d times", n)
	}
}

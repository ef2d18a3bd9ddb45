package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/protocol/wire"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/apply/fleettest"
	"github.com/varanhq/varan/apply/lease"
)

// A post is one daemon's share of a cluster: a hub, and its candidacy.
type post struct {
	t     *testing.T
	hub   *fleet.Hub
	lease *lease.Lease
	stop  func()

	mu     sync.Mutex // guards tenure
	tenure *lease.Tenure
}

// newPost joins the cluster and stands for the lease.
func newPost(t *testing.T, c *fleettest.Cluster, key nkeys.KeyPair, name string) *post {
	t.Helper()
	p := &post{t: t, hub: newHub(t, fleet.Options{Key: key, Name: "f", KeyFile: filepath.Join(t.TempDir(), "hub.key"), Cluster: &fleet.Cluster{URL: c.URL("127.0.0.1"), CAFile: c.CAFile()}})}
	p.lease = lease.New(lease.Options{Store: p.hub.Lease(), Fleet: "f", Name: name, Time: 3 * time.Second, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() {
		over <- p.lease.Run(ctx, func(ctx context.Context, tenure *lease.Tenure) error {
			rest, err := p.hub.Lead(tenure)
			if err != nil {
				return err
			}
			defer rest()
			p.set(tenure)
			defer p.set(nil)
			<-ctx.Done()
			return nil
		})
	}()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-over; err != nil {
			t.Errorf("lease: %v", err)
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *post) set(t *lease.Tenure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tenure = t
}

func (p *post) now() *lease.Tenure {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tenure
}

func within(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

func cluster(t *testing.T, n int) (*fleettest.Cluster, nkeys.KeyPair) {
	t.Helper()
	key, _ := newKey(t)
	auth, err := fleet.ClusterConfig(key)
	if err != nil {
		t.Fatal(err)
	}
	return fleettest.NewCluster(t, n, auth), key
}

// dialCluster is an agent that knows all servers of the cluster.
func dialCluster(t *testing.T, c *fleettest.Cluster, opts link.Options) *remote {
	t.Helper()
	addresses, err := link.ParseAddresses(c.URL("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{news: make(chan link.News, 64)}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() {
		over <- link.Follow(ctx, link.Following{Hub: addresses[0], Others: addresses[1:], Tell: func(n link.News, err error) { r.news <- n }}, opts)
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-over; err != nil {
			t.Errorf("Follow: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// TestCluster: agents are let in by whichever daemon is asked, orders come from the one that leads, and a term above
// all that agents obeyed is taken.
func TestCluster(t *testing.T) {
	c, fleetKey := cluster(t, 1)
	a := newPost(t, c, fleetKey, "a")
	within(t, "a leads", 10*time.Second, func() bool { return a.now() != nil })
	b := newPost(t, c, fleetKey, "b")

	key, public := newKey(t)
	agent := fleettest.NewAgent()
	term := filepath.Join(t.TempDir(), "term")
	if err := os.WriteFile(term, []byte("50\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := dialCluster(t, c, link.Options{Handler: agent, Key: key, FleetKey: a.hub.FleetKey(), Name: "web1", TermFile: term})
	r.want(t, link.Lost) // nobody has read a commit: who is none of ours is not known yet
	if err := a.hub.Enrol(nil); err != nil {
		t.Fatal(err)
	}
	within(t, "every daemon shows who waits", 15*time.Second, func() bool { return len(a.hub.Waiting()) == 1 && len(b.hub.Waiting()) == 1 })
	if err := a.hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	r.want(t, link.Connected)
	if _, err := a.hub.Do(t.Context(), deploy("op1"), nil); err != nil {
		t.Fatal(err)
	}
	if got := a.now().Term(); got != 51 {
		t.Errorf("term %d, want 51: the agent obeyed 50", got)
	}
	within(t, "the agent is shown", 10*time.Second, func() bool {
		st := a.hub.Status()
		return len(st.Agents) == 1 && st.Agents[0].Connected && len(st.Waiting) == 0
	})
	if _, err := b.hub.Do(t.Context(), deploy("op2"), nil); err == nil {
		t.Error("who follows gave an order")
	}
	if err := b.hub.Revoke(public, false); err == nil {
		t.Error("who follows locked an agent out")
	}

	if err := a.hub.Write("syncs/main", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := b.hub.Write("syncs/main", nil); err == nil {
		t.Error("who follows changed what is remembered")
	}
	old := a.now()
	a.stop() // given back
	within(t, "b leads", 10*time.Second, func() bool { return b.now() != nil })
	if _, err := b.hub.Do(t.Context(), deploy("op2"), nil); err != nil { // who is let in it was told
		t.Fatal(err)
	}
	if data, err := b.hub.Read("syncs/main"); err != nil || string(data) != "kept" {
		t.Errorf("read %q, %v", data, err)
	}
	if data, err := b.hub.Read("other"); err != nil || data != nil {
		t.Errorf("read %q, %v", data, err)
	}
	if got := b.now().Term(); got != 52 {
		t.Errorf("b's term %d, want 52", got)
	}
	// Who led before and was not told, as after a long pause, is refused by the agent, whatever it believes.
	rest, err := a.hub.Lead(old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.hub.Do(t.Context(), deploy("op3"), nil); err == nil {
		t.Error("who led before gave an order")
	}
	rest()
	if n := len(agent.Done()); n != 2 {
		t.Errorf("%d ops done, want 2", n)
	}

	if err := b.hub.Revoke(public, false); err != nil {
		t.Fatal(err)
	}
	if _, err := b.hub.Do(t.Context(), deploy("op4"), nil); !errors.Is(err, apply.ErrUnreachable) {
		t.Errorf("Do = %v", err)
	}
	r.stop()
	within(t, "the other daemon knows who is locked out", 10*time.Second, func() bool { return len(a.hub.Status().Revoked) == 1 })
	r = dialCluster(t, c, link.Options{Handler: agent, Key: key, FleetKey: a.hub.FleetKey(), Name: "web1", TermFile: term})
	r.want(t, link.Refused)
	for _, p := range []*post{a, b} {
		if tr := p.hub.Trouble(); len(tr) > 0 {
			t.Errorf("trouble: %v", tr)
		}
	}
}

// TestClusterIsolation: an agent reaches its own two subjects and its inbox and nothing else, and a daemon's login is
// no way in for an agent.
func TestClusterIsolation(t *testing.T) {
	c, fleetKey := cluster(t, 1)
	a := newPost(t, c, fleetKey, "a")
	within(t, "a leads", 10*time.Second, func() bool { return a.now() != nil })
	key, public := newKey(t)
	_, other := newKey(t)
	if err := a.hub.Enrol(map[string]string{"web1": public, "web2": other}); err != nil {
		t.Fatal(err)
	}
	refused := make(chan string, 100)
	conn, err := nats.Connect(c.URL("127.0.0.1"), wire.Login(public, key), nats.RootCAs(c.CAFile()), nats.TLSHandshakeFirst(), nats.CustomInboxPrefix(wire.InboxPrefix(public)),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err.Error() }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := func(what string, do func() error) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case said := <-refused:
			if !strings.Contains(strings.ToLower(said), "permissions violation") {
				t.Errorf("%s: %s", what, said)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s is allowed", what)
		}
	}
	for _, subject := range []string{">", "*", wire.ToAgent(other), wire.FromAgents, wire.FromAgent(other), "_INBOX.>", wire.InboxPrefix(other) + ".>", "$JS.>", "$KV.>", "$SYS.>", "varan.daemon.>"} {
		want("listen on "+subject, func() error { _, err := conn.SubscribeSync(subject); return err })
	}
	for _, subject := range []string{wire.ToAgent(other), wire.FromAgent(other), "$JS.API.INFO", "$KV.VARAN.leader", "$SYS.REQ.USER.AUTH", "varan.daemon.roll", "_INBOX.x", "run.x.started", "hook.queue"} {
		want("publish on "+subject, func() error { return conn.Publish(subject, []byte("x")) })
	}
	if _, err := nats.Connect(c.URL("127.0.0.1"), nats.RootCAs(c.CAFile()), nats.TLSHandshakeFirst()); err == nil {
		t.Error("who shows no key is let in")
	}
	if _, err := nats.Connect(c.URL("127.0.0.1"), nats.RootCAs(c.CAFile()), nats.TLSHandshakeFirst(), nats.UserInfo("varan", "x")); err == nil {
		t.Error("who gives a password is let in")
	}
}

// TestClusterShared: in a cluster that others use too their users log in as ever, and a daemon may come without TLS where
// the servers allow it, while agents have it.
func TestClusterShared(t *testing.T) {
	key, _ := newKey(t)
	auth, err := fleet.ClusterConfig(key)
	if err != nil {
		t.Fatal(err)
	}
	auth = strings.Replace(auth, "accounts {", "accounts {\n  SHOP { users: [ { user: shop, password: open-sesame } ] }", 1)
	c := fleettest.NewClusterOf(t, 1, auth, func(conf string) string {
		return "allow_non_tls: true\n" + strings.Replace(conf, "handshake_first: true", "handshake_first: auto", 1)
	})
	plain := strings.ReplaceAll(c.URL("127.0.0.1"), "tls://", "nats://")
	conn, err := nats.Connect(plain, nats.UserInfo("shop", "open-sesame"))
	if err != nil {
		t.Fatalf("another user of the cluster: %v", err)
	}
	defer conn.Close()
	if err := conn.Publish("varan.daemon.roll", []byte("x")); err != nil || conn.Flush() != nil {
		t.Error(err) // in an account of its own it is nobody's
	}
	if _, err := nats.Connect(plain, nats.UserInfo("shop", "guess")); err == nil {
		t.Error("a wrong password is let in")
	}
	hub := newHub(t, fleet.Options{Key: key, Name: "f", Cluster: &fleet.Cluster{URL: plain}})
	if _, err := nats.Connect(plain, nats.UserInfo("shop", "guess")); err == nil {
		t.Error("a wrong password is let in by a daemon")
	}
	agentKey, public := newKey(t)
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	dialCluster(t, c, link.Options{Handler: fleettest.NewAgent(), Key: agentKey, FleetKey: hub.FleetKey(), Name: "web1"}).want(t, link.Connected)
	if tr := hub.Trouble(); len(tr) > 0 {
		t.Errorf("trouble: %v", tr)
	}
}

// TestClusterErased: whoever leads goes on, in a term above, when JetStream lost everything.
func TestClusterErased(t *testing.T) {
	c, fleetKey := cluster(t, 1)
	a := newPost(t, c, fleetKey, "a")
	within(t, "a leads", 10*time.Second, func() bool { return a.now() != nil })
	key, public := newKey(t)
	agent := fleettest.NewAgent()
	r := dialCluster(t, c, link.Options{Handler: agent, Key: key, FleetKey: a.hub.FleetKey(), Name: "web1"})
	if err := a.hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	r.want(t, link.Connected)
	if _, err := a.hub.Do(t.Context(), deploy("op1"), nil); err != nil {
		t.Fatal(err)
	}
	before := a.now().Term()
	c.Erase()
	within(t, "a leads again", 20*time.Second, func() bool { now := a.now(); return now != nil && now.Held() && now.Term() > before })
	within(t, "ops are done again", 20*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := a.hub.Do(ctx, deploy("op2"), nil)
		return err == nil
	})
}

// TestClusterQuorum: without most of the cluster's servers nobody leads, and says why; with them somebody does again.
func TestClusterQuorum(t *testing.T) {
	c, fleetKey := cluster(t, 3)
	a := newPost(t, c, fleetKey, "a")
	within(t, "a leads", 15*time.Second, func() bool { return a.now() != nil })
	if n := a.hub.Replicas(); n != 3 {
		t.Errorf("%d replicas in a cluster of three", n)
	}
	c.Stop(0)
	c.Stop(1)
	within(t, "nobody leads", 40*time.Second, func() bool { return a.now() == nil || !a.now().Held() })
	within(t, "it is said why", 20*time.Second, func() bool { st := a.lease.Status(); return !st.Leading && st.Trouble != "" })
	c.Start()
	within(t, "a leads again", 40*time.Second, func() bool { now := a.now(); return now != nil && now.Held() })
}

// TestClusterUnfit: what is wrong with a cluster is said so that a person can put it right.
func TestClusterUnfit(t *testing.T) {
	key, _ := newKey(t)
	auth, err := fleet.ClusterConfig(key)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := newKey(t)
	foreign, err := fleet.ClusterConfig(other)
	if err != nil {
		t.Fatal(err)
	}
	start := func(auth string, url func(string) string) error {
		c := fleettest.NewCluster(t, 1, auth)
		hub, err := fleet.Start(fleet.Options{Key: key, Name: "f", Cluster: &fleet.Cluster{URL: url(c.URL("127.0.0.1")), CAFile: c.CAFile()}})
		if err == nil {
			hub.Close()
		}
		return err
	}
	same := func(s string) string { return s }
	for _, tt := range []struct {
		name string
		auth string
		url  func(string) string
		want string
	}{
		{"not running", auth, func(string) string { return "tls://127.0.0.1:1" }, "connect to the NATS cluster at tls://127.0.0.1:1"},
		{"another fleet's", foreign, same, "varan key --nats"},
		{"without JetStream", strings.Replace(auth, "jetstream: enabled", "", 1), same, "jetstream: enabled"},
		{"a password in the address", auth, func(s string) string { return strings.Replace(s, "tls://", "tls://u:hush@", 1) }, "holds a user or password"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := start(tt.auth, tt.url)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hush") {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	t.Run("without auth callout", func(t *testing.T) {
		c := fleettest.NewCluster(t, 1, auth[:strings.Index(auth, "authorization")])
		hub := newHub(t, fleet.Options{Key: key, Name: "f", Cluster: &fleet.Cluster{URL: c.URL("127.0.0.1"), CAFile: c.CAFile()}})
		within(t, "it is said", 10*time.Second, func() bool { return strings.Contains(fmt.Sprint(hub.Trouble()), "auth_callout") })
	})
}

// TestClusterConformance: a hub at a cluster keeps what apply expects of a fleet.
func TestClusterConformance(t *testing.T) {
	c, fleetKey := cluster(t, 1)
	fleettest.Run(t, func(t *testing.T, agents map[string]*fleettest.Agent) apply.Fleet {
		p := newPost(t, c, fleetKey, "a")
		within(t, "it leads", 10*time.Second, func() bool { return p.now() != nil })
		enrol := make(map[string]string)
		for name, a := range agents {
			key, public := newKey(t)
			enrol[name] = public
			if err := p.hub.Enrol(enrol); err != nil {
				t.Fatal(err)
			}
			dialCluster(t, c, link.Options{Handler: a, Key: key, FleetKey: p.hub.FleetKey(), Name: name, Progress: a.Progress, TermFile: filepath.Join(t.TempDir(), "term")}).want(t, link.Connected)
		}
		return p.hub
	})
}

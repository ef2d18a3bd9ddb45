package fleet

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/protocol/wire"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/lease"
)

// A Cluster is an existing NATS cluster, where any number of daemons meet the agents and one of them leads.
type Cluster struct {
	URL    string // nats://HOST:PORT or tls://HOST:PORT, several with commas between
	CAFile string // authorities that sign its certificates; "" = the system's
}

// ParseCluster checks a cluster's addresses.
func ParseCluster(text string) ([]string, error) {
	var out []string
	for _, s := range strings.Split(text, ",") {
		s = strings.TrimSpace(s)
		u, err := url.Parse(s)
		switch {
		case err != nil || u.Hostname() == "" || u.Scheme != "nats" && u.Scheme != "tls" || u.Path != "" && u.Path != "/" || u.RawQuery != "":
			return nil, errors.New("each address is nats://HOST:PORT or tls://HOST:PORT")
		case u.User != nil:
			return nil, errors.New("an address holds a user or password: the daemon logs in with keys that derive from the fleet's, and varan key --nats prints what the cluster needs to know of them")
		case len(out) > 0 && !strings.HasPrefix(out[0], u.Scheme+":"):
			return nil, errors.New("all addresses are nats:// or all are tls://")
		}
		if u.Port() == "" {
			u.Host += ":4222"
		}
		out = append(out, u.Scheme+"://"+u.Host)
	}
	return out, nil
}

const (
	clusterTimeout = 5 * time.Second
	// clusterPing is how often a daemon makes sure of its server; two unanswered and it turns to another one.
	clusterPing = 2 * time.Second
	// minPayload is what one message takes at most.
	minPayload = wire.ChunkSize + 16<<10
	bucketName = "VARAN"
	leaderKey  = "leader"
	rollKey    = "agents"
	bucketMax  = 64 << 20
)

// errFollows is why a daemon that does not lead asks nothing of agents.
var errFollows = errors.New("this daemon does not lead the fleet")

// join connects to the cluster.
func (h *Hub) join(ctx context.Context) (err error) {
	if h.fleetKey, err = h.opts.Key.PublicKey(); err != nil {
		return fmt.Errorf("read the fleet's key: %w", err)
	}
	if h.coming != nil {
		return fmt.Errorf("a change of the fleet's key is under way (%s): finish it without [hub] url first", h.nextFile())
	}
	if h.logins, err = newLogins(h.opts.Key); err != nil {
		return err
	}
	h.contacts = &contacts{byKey: make(map[string]*contact)}
	h.front = h.contacts
	if h.own, err = h.connectTo("daemon", h.logins.daemon); err != nil {
		return err
	}
	if n := h.own.MaxPayload(); n < minPayload {
		return fmt.Errorf("the cluster takes messages of %d bytes at most (max_payload); varan needs %d, and 1 MB is what NATS servers begin with", n, minPayload)
	}
	if h.js, err = jetstream.New(h.own); err != nil {
		return err
	}
	if err := h.openCluster(ctx); err != nil {
		return err
	}
	if h.agents, err = h.connectTo("bus", h.logins.bus); err != nil {
		return err
	}
	curve, err := nkeys.CreateCurveKeys()
	if err != nil {
		return err
	}
	h.endpoint = &wire.Endpoint{Conn: h.agents, Key: h.opts.Key, Curve: curve, Accept: h.accept, Handle: h.handle, Shared: true, Hears: h.hears}
	if err := h.endpoint.Prepare(); err != nil {
		return err
	}
	for range 10 { // a bucket that was only just made is not at every server yet; later followRoll goes on
		if err = h.readRoll(ctx); err == nil {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	return h.answerCallout()
}

// connectTo logs in to the cluster with one of the derived keys.
func (h *Hub) connectTo(as string, key nkeys.KeyPair) (*nats.Conn, error) {
	public, err := key.PublicKey()
	if err != nil {
		return nil, err
	}
	options := []nats.Option{
		nats.Name("varan " + as), wire.Login(public, key), nats.Timeout(clusterTimeout), nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.IgnoreAuthErrorAbort(), nats.PingInterval(clusterPing), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1), // what could not be sent is asked for again, never sent late
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				h.complain("connection", err)
				return
			}
			h.log.Warn("the NATS cluster says that something is wrong", "as", as, "err", err)
		}),
		nats.DisconnectErrHandler(func(c *nats.Conn, err error) {
			if err != nil && !c.IsClosed() {
				h.log.Warn("the connection to the NATS cluster was lost; it is tried again for ever", "as", as, "err", err)
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) {
			h.log.Info("connected to the NATS cluster again", "as", as, "server", c.ConnectedServerName())
			h.complain("connection", nil)
			h.nudgeRoll()
		}),
	}
	servers, err := ParseCluster(h.opts.Cluster.URL)
	if err != nil {
		return nil, fmt.Errorf("[hub] url: %w", err)
	}
	if strings.HasPrefix(servers[0], "tls:") {
		conf := &tls.Config{MinVersion: tls.VersionTLS12}
		if f := h.opts.Cluster.CAFile; f != "" {
			pem, err := os.ReadFile(f)
			if err != nil {
				return nil, fmt.Errorf("read [hub] ca_file: %w", err)
			}
			conf.RootCAs = x509.NewCertPool()
			if !conf.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("read [hub] ca_file: %s holds no certificate", f)
			}
		}
		options = append(options, nats.Secure(conf), nats.TLSHandshakeFirst())
	}
	conn, err := nats.Connect(strings.Join(servers, ","), options...)
	if err == nil {
		return conn, nil
	}
	hint := ""
	var unknown x509.UnknownAuthorityError
	switch text := err.Error(); {
	case errors.Is(err, nats.ErrAuthorization) || strings.Contains(strings.ToLower(text), "authorization") || unanswered(err):
		hint = "; the cluster does not know this fleet's keys: varan key --nats prints what belongs into its configuration"
	case errors.As(err, &unknown):
		hint = "; name the authority's file with [hub] ca_file"
	case strings.Contains(text, "first record does not look like a TLS handshake"):
		hint = "; its servers need tls { handshake_first: true }"
	}
	return nil, fmt.Errorf("connect to the NATS cluster at %s: %w%s", strings.Join(servers, ", "), err, hint)
}

// unanswered reports whether a server let somebody wait because nobody answered it whom to let in.
func unanswered(err error) bool {
	return strings.Contains(err.Error(), "expected 'PONG'") || strings.Contains(strings.ToLower(err.Error()), "authentication timeout")
}

// complain keeps what is wrong with the cluster, for status; nil = it is well again.
func (h *Hub) complain(about string, err error) {
	h.mu.Lock()
	before := h.troubles[about]
	if err == nil {
		delete(h.troubles, about)
	} else {
		if h.troubles == nil {
			h.troubles = make(map[string]string)
		}
		h.troubles[about] = err.Error()
	}
	h.mu.Unlock()
	if err != nil && before != err.Error() {
		h.log.Error("the NATS cluster is not as varan needs it", "about", about, "err", err)
	}
}

// Trouble is what is wrong with the cluster.
func (h *Hub) Trouble() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for about, why := range h.troubles {
		out = append(out, "NATS cluster, "+about+": "+why)
	}
	if h.opts.Cluster != nil && (h.own != nil && !h.own.IsConnected() || h.agents != nil && !h.agents.IsConnected()) {
		out = append(out, "the NATS cluster cannot be reached")
	}
	slices.Sort(out)
	return out
}

// Joined reports whether daemons and agents meet at a cluster.
func (h *Hub) Joined() bool { return h.opts.Cluster != nil }

// Read returns what was kept under a name for whichever daemon leads, nil if nothing was; Write keeps it, and nil
// forgets it. Only who leads writes.
func (h *Hub) Read(name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(h.ctx, clusterTimeout)
	defer cancel()
	e, err := h.kv().Get(ctx, stateKey(name))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s from the cluster: %w", name, err)
	}
	return e.Value(), nil
}

// Write keeps data under a name.
func (h *Hub) Write(name string, data []byte) error {
	if !h.leads() {
		return errFollows
	}
	ctx, cancel := context.WithTimeout(h.ctx, clusterTimeout)
	defer cancel()
	var err error
	if data == nil {
		err = h.kv().Purge(ctx, stateKey(name))
	} else {
		_, err = h.kv().Put(ctx, stateKey(name), data)
	}
	if err != nil {
		return fmt.Errorf("keep %s in the cluster: %w", name, err)
	}
	return nil
}

// stateKey escapes a name for a bucket.
func stateKey(name string) string { return "state." + hex.EncodeToString([]byte(name)) }

// Replicas is how many servers of the cluster are to keep each stream.
func (h *Hub) Replicas() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.replicas
}

// openCluster opens the bucket of lease and roll, and finds out how many servers can keep it.
func (h *Hub) openCluster(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*clusterTimeout)
	defer cancel()
	var err error
	for try := 0; try < 20; try++ { // a cluster that has only just started has no leader of its own yet
		one, cancel := context.WithTimeout(ctx, clusterTimeout/2) // a server that only just started may not answer at all
		_, err = h.openBucket(one)
		cancel()
		if err == nil || ctx.Err() != nil {
			break
		}
		if errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) && try > 2 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("JetStream is off for the account %s: say jetstream: enabled in it (%w)", clusterAccount, err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("the cluster has no JetStream: say jetstream { store_dir: … } in its servers' configuration (%w)", err)
	}
	return fmt.Errorf("open the cluster's JetStream: %w; it needs more than half of its servers, and jetstream: enabled in the account %s", err, clusterAccount)
}

// openBucket opens the bucket, or makes it; made tells the latter.
func (h *Hub) openBucket(ctx context.Context) (made bool, err error) {
	conf := jetstream.KeyValueConfig{Bucket: bucketName, Description: "varan: who leads, and which agents are let in", History: 1, Storage: jetstream.FileStorage, MaxBytes: bucketMax, Replicas: 3}
	kv, err := h.js.KeyValue(ctx, bucketName)
	if err == nil {
		stream, err := h.js.Stream(ctx, "KV_"+bucketName)
		if err != nil {
			return false, err
		}
		n := stream.CachedInfo().Config.Replicas
		if n < 3 && h.Replicas() == 0 { // the cluster may have grown
			if _, err := h.js.UpdateKeyValue(ctx, conf); err == nil {
				n = 3
			}
		}
		h.bucketIs(kv, n)
		return false, nil
	}
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return false, err
	}
	kv, err = h.js.CreateKeyValue(ctx, conf)
	if h.one(err) {
		conf.Replicas = 1
		kv, err = h.js.CreateKeyValue(ctx, conf)
	}
	if err != nil {
		return false, err
	}
	h.bucketIs(kv, conf.Replicas)
	return true, nil
}

// fewFor is how long a cluster may say that it has too few servers for three replicas before that is believed: servers
// that only just started do not know of each other yet.
const fewFor = 5 * time.Second

// one reports whether err says that there can be one replica only.
func (h *Hub) one(err error) bool {
	var e *jetstream.APIError
	if !errors.As(err, &e) || e.ErrorCode != 10005 && e.ErrorCode != 10074 {
		return false
	}
	if e.ErrorCode == 10074 { // a server that is in no cluster
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.few.IsZero() {
		h.few = time.Now()
	}
	return time.Since(h.few) > fewFor
}

func (h *Hub) bucketIs(kv jetstream.KeyValue, replicas int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bucket, h.replicas, h.few = kv, replicas, time.Time{}
}

func (h *Hub) kv() jetstream.KeyValue {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bucket
}

// Lease is where the lease of this fleet is kept; for a hub that joined a cluster.
func (h *Hub) Lease() lease.Store { return shelf{h} }

// A shelf keeps the lease's record in the bucket.
type shelf struct{ h *Hub }

// Get reads the record, of whichever server is near: it may be late.
func (s shelf) Get(ctx context.Context) (lease.Record, uint64, error) {
	var r lease.Record
	e, err := s.h.kv().Get(ctx, leaderKey)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return r, 0, nil
	case err != nil:
		if made, again := s.h.openBucket(ctx); again != nil || !made { // or it was erased
			return r, 0, fmt.Errorf("read the lease: %w", err)
		}
		return r, 0, nil
	}
	if err := json.Unmarshal(e.Value(), &r); err != nil {
		return r, 0, fmt.Errorf("read the lease: %w", err)
	}
	return r, e.Revision(), nil
}

// Put replaces the record of that revision.
func (s shelf) Put(ctx context.Context, r lease.Record, revision uint64) (uint64, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	var next uint64
	if revision == 0 {
		next, err = s.h.kv().Create(ctx, leaderKey, data)
	} else {
		next, err = s.h.kv().Update(ctx, leaderKey, data, revision)
	}
	var e *jetstream.APIError
	switch {
	case err == nil:
		return next, nil
	case errors.Is(err, jetstream.ErrKeyExists), errors.Is(err, jetstream.ErrKeyRevisionMismatch),
		errors.As(err, &e) && e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return 0, fmt.Errorf("%w (%w)", lease.ErrMoved, err)
	}
	return 0, fmt.Errorf("write the lease: %w", err)
}

// Lead makes this hub the one that gives orders, in the terms of t, until the function it returns is called.
func (h *Hub) Lead(t *lease.Tenure) (rest func(), err error) {
	sub, err := h.endpoint.Hear(wire.FromAgents)
	if err != nil {
		return nil, fmt.Errorf("listen to agents: %w", err)
	}
	if err := h.agents.FlushTimeout(clusterTimeout); err != nil {
		_ = sub.Unsubscribe()
		return nil, fmt.Errorf("listen to agents: %w", err)
	}
	h.contacts.begin()
	h.mu.Lock()
	h.tenure, h.greeted, h.rollDue = t, make(map[string]bool), false
	clear(h.sessions)
	clear(h.states)
	h.mu.Unlock()
	ctx, stop := context.WithCancel(h.ctx)
	var work sync.WaitGroup
	work.Go(func() { h.keepContact(ctx) })
	return func() {
		stop()
		_ = sub.Unsubscribe()
		h.mu.Lock()
		h.tenure = nil
		for _, w := range h.answers {
			select {
			case w.ch <- nil:
			default: // answered
			}
		}
		h.mu.Unlock()
		work.Wait()
	}, nil
}

// leads reports whether this hub may give orders now. A hub that has its own server always may.
func (h *Hub) leads() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leadsLocked()
}

func (h *Hub) leadsLocked() bool {
	return h.opts.Cluster == nil || h.tenure != nil && h.tenure.Held()
}

// outranked takes a term above an agent's where the tenure's is no higher: an agent met for the first time in this
// tenure obeyed that term of somebody else. It is an error, and the end of the tenure, if the lease is not held.
func (h *Hub) outranked(ctx context.Context, agent string, term uint64) error {
	h.mu.Lock()
	t, first := h.tenure, !h.greeted[agent]
	h.mu.Unlock()
	if t == nil {
		return errFollows
	}
	mine := t.Term()
	if term > mine || first && term == mine {
		if _, err := t.Raise(ctx, term); err != nil {
			return fmt.Errorf("an agent obeyed term %d: %w", term, err)
		}
		h.log.Info("an agent obeyed a higher term, one above it is taken", "agent", agent, "obeyed", term, "term", t.Term())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tenure != t {
		return errFollows
	}
	h.greeted[agent] = true
	return nil
}

// contacts are the agents of a cluster as far as they were heard of: the cluster tells nobody who is connected to it.
type contacts struct {
	mu    sync.Mutex // guards below
	byKey map[string]*contact
}

type contact struct {
	from   netip.Addr // known to the daemon that let it in
	heard  time.Time
	there  bool
	missed int // questions without an answer, in a row
	// What it may still say, as a pace counts it, and since when.
	left float64
	paid time.Time
}

// mayGoOn charges an agent for a message of so many bytes, and reports whether it is heard. No server of the cluster
// makes who floods wait, as the gate does: what is too much is lost.
func (c *contacts) mayGoOn(key string, bytes int, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.get(key)
	if k.paid.IsZero() {
		k.left = paceBurst
	} else {
		k.left = min(paceBurst, k.left+now.Sub(k.paid).Seconds()*paceRate)
	}
	k.paid = now
	if k.left < 0 {
		return false
	}
	k.left -= max(1, float64(bytes)/(8*paceBytes)) // the largest answer, at once, must not be too much
	return true
}

func (c *contacts) get(key string) *contact {
	k := c.byKey[key]
	if k == nil {
		k = &contact{}
		c.byKey[key] = k
	}
	return k
}

// connected tells whether an agent was heard of late, and where it comes from if that is known.
func (c *contacts) connected(key string) (from netip.Addr, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.byKey[key]
	if k == nil || !k.there {
		return netip.Addr{}, false
	}
	return k.from, true
}

func (c *contacts) entered(key string, from netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.get(key).from = from
}

func (c *contacts) heard(key string) (came bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.get(key)
	came = !k.there
	k.heard, k.there, k.missed = time.Now(), true, 0
	return came
}

// begin forgets who was there in an earlier tenure.
func (c *contacts) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.byKey {
		k.there, k.missed = false, 0
	}
}

// due reports whether an agent was not heard of for a heartbeat.
func (c *contacts) due(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.byKey[key]
	return k == nil || !k.there || time.Since(k.heard) >= wire.Heartbeat
}

// miss notes a question without an answer; gone tells that the agent counts as not connected from now on.
func (c *contacts) miss(key string, sure bool) (gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.get(key)
	k.missed++
	gone = k.there && (sure || k.missed >= 2)
	if gone {
		k.there = false
	}
	return gone
}

func (c *contacts) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byKey, key)
}

// unlock and shut have nothing to do: the cluster's servers listen, whoever leads.
func (c *contacts) unlock() {}
func (c *contacts) shut()   {}

// askAtOnce bounds the questions under way to agents that were not heard of.
const askAtOnce = 32

// keepContact asks the agents that were not heard of whether they are there, until ctx ends.
func (h *Hub) keepContact(ctx context.Context) {
	every := time.NewTicker(wire.Heartbeat / 2)
	defer every.Stop()
	for {
		h.mu.Lock()
		var quiet []string
		for key := range h.servers {
			if h.contacts.due(key) {
				quiet = append(quiet, key)
			}
		}
		h.mu.Unlock()
		room := make(chan struct{}, askAtOnce)
		var wait sync.WaitGroup
		for _, key := range quiet {
			room <- struct{}{}
			wait.Go(func() {
				defer func() { <-room }()
				if _, err := h.hello(ctx, key); err != nil && ctx.Err() == nil && h.contacts.miss(key, errors.Is(err, apply.ErrUnreachable)) {
					h.left(key)
				}
			})
		}
		wait.Wait()
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// probeCallout finds out whether the cluster asks daemons whom to let in.
func (h *Hub) probeCallout(ctx context.Context) {
	for {
		conn, err := h.tryProbe()
		if err == nil {
			conn.Close()
			h.complain("auth callout", nil)
			return
		}
		if errors.Is(err, nats.ErrAuthorization) || strings.Contains(strings.ToLower(err.Error()), "authorization") || unanswered(err) {
			err = errors.New("its servers do not ask varan whom to let in, so no agent can connect: auth_callout is not in their configuration, or names other keys; varan key --nats prints it")
		}
		h.complain("auth callout", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(30*time.Second + rand.N(10*time.Second)):
		}
	}
}

func (h *Hub) tryProbe() (*nats.Conn, error) {
	public, err := h.logins.probe.PublicKey()
	if err != nil {
		return nil, err
	}
	opts := h.own.Opts
	o := nats.GetDefaultOptions()
	o.Servers, o.Secure, o.TLSConfig, o.TLSHandshakeFirst = opts.Servers, opts.Secure, opts.TLSConfig, opts.TLSHandshakeFirst
	o.Timeout, o.AllowReconnect, o.Name = cmp.Or(opts.Timeout, clusterTimeout), false, "varan probe"
	if err := wire.Login(public, h.logins.probe)(&o); err != nil {
		return nil, err
	}
	return o.Connect()
}

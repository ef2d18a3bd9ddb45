package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/protocol/wire"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/lease"
)

var _ apply.Fleet = (*Hub)(nil)

// Options of Start.
type Options struct {
	Key nkeys.KeyPair // the fleet's; see LoadKey
	// JournalDir is where JetStream keeps its streams; "" = no JetStream, as for a one-shot command.
	JournalDir string
	JournalMax int64        // bytes JetStream may keep, 0 = 256 MiB
	Name       string       // the fleet's name
	Listen     string       // HOST:PORT where agents connect over TLS; "" = only from within this process
	Own        string       // public key of this process's own agent, which no commit enrols; it stands for [This]
	KeyFile    string       // where Key came from: keys locked out by hand are listed beside it; "" = nothing is kept
	Cluster    *Cluster     // nil = the NATS server is in this process; else JournalDir, Listen and Own count for nothing
	Log        *slog.Logger // nil = discarded
}

// LoadKey reads the fleet's private key from path, or makes one there (0600). Made tells the latter: it is the one
// file to back up.
func LoadKey(path string) (key nkeys.KeyPair, made bool, err error) { return wire.LoadKey(path) }

// A Hub is the daemon's end of the connections to its agents, and the NATS server they meet at.
type Hub struct {
	opts   Options
	log    *slog.Logger
	server *server.Server
	gate   *gate // nil = the server is a cluster's
	front  front
	addr   net.Addr // where it listens; nil = nowhere

	// Of a cluster.
	logins   logins
	contacts *contacts
	rollTurn chan struct{} // has a token when the roll is to be read or written

	own      *nats.Conn // in the daemon's account: JetStream
	agents   *nats.Conn // in the agents' account
	js       jetstream.JetStream
	endpoint *wire.Endpoint
	changed  chan string
	started  time.Time
	rotating sync.Mutex // held while the fleet's key is changed
	work     sync.WaitGroup
	ctx      context.Context // of work, which begins when an agent comes: it ends with Close
	stop     context.CancelFunc

	mu        sync.Mutex          // guards below, and opts.Key
	fleetKey  string              // public
	coming    nkeys.KeyPair       // the fleet's next key, nil as a rule
	comingKey string              // its public half
	confirmed map[string]bool     // agents that know it, by public key
	keys      map[string]string   // server → agent's public key, of those who may come in
	servers   map[string]string   // the other way round
	sessions  map[string]*session // by agent's public key
	seqs      map[string]uint64   // messages sent, by agent's public key; never reset, an agent takes none twice
	answers   map[string]waiter   // by the id of the message asked with
	progress  map[protocol.OpID]*listener
	figures   map[string]told   // by agent's public key
	states    map[string]kept   // by agent's public key
	changes   map[string]uint64 // heard of an agent's host, by its public key
	term      uint64
	waiting   map[string]*Waiting // by public key
	revoked   map[string]bool     // public keys locked out by hand
	enrolled  map[string]string   // what was committed last: server by public key
	tenure    *lease.Tenure       // in a cluster: nil = another daemon leads
	greeted   map[string]bool     // agents met in this tenure, by public key
	bucket    jetstream.KeyValue  // of the cluster
	replicas  int                 // of each stream there
	few       time.Time           // since when the cluster says that it has few servers, zero = it does not
	troubles  map[string]string   // what is wrong with the cluster
	serial    uint64              // of the roll
	rollDue   bool                // the roll is not yet as decided here
	rolled    time.Time           // when it was written last
	led       bool                // an agent was met, so term is above what agents obeyed before
}

// A front is where agents come in.
type front interface {
	// connected tells from where the agent with this key is connected, if that is known.
	connected(key string) (from netip.Addr, ok bool)
	// heard notes that an agent said something; came tells that it was not known to be there.
	heard(key string) (came bool)
	unlock() // lets agents in from now on
	shut()
}

// A session is what an agent said of itself, from its hello until it starts anew.
type session struct {
	id    string
	curve string
}

type waiter struct {
	agent   string
	session string             // the agent's that was asked; "" = any, it is asked who it is
	ch      chan *wire.Message // has room for one; nil comes when no answer can
}

// A listener is told the progress of one op, until it is closed.
type listener struct {
	agent string
	mu    sync.Mutex
	tell  func(protocol.Progress) // nil: closed
}

func (l *listener) set(tell func(protocol.Progress)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell = tell
}

const (
	daemonAccount = "DAEMON"
	agentsAccount = "AGENTS"
)

// Start starts the NATS server inside this process and connects to it.
func Start(opts Options) (*Hub, error) {
	h := &Hub{
		opts: opts, log: cmp.Or(opts.Log, slog.New(slog.DiscardHandler)), changed: make(chan string, 256),
		keys: make(map[string]string), servers: make(map[string]string), sessions: make(map[string]*session), seqs: make(map[string]uint64),
		answers: make(map[string]waiter), progress: make(map[protocol.OpID]*listener), figures: make(map[string]told), states: make(map[string]kept), changes: make(map[string]uint64), term: 1,
		waiting: make(map[string]*Waiting), revoked: make(map[string]bool), rollTurn: make(chan struct{}, 1),
		started: time.Now(),
	}
	h.ctx, h.stop = context.WithCancel(context.Background())
	if err := errors.Join(h.readRevoked(), h.resumeRotation()); err != nil {
		return nil, err
	}
	if opts.Cluster != nil {
		h.opts.Own = ""
	}
	h.admit()
	begin := h.start
	if opts.Cluster != nil {
		begin = func() error { return h.join(h.ctx) }
	}
	if err := begin(); err != nil {
		h.Close()
		if opts.Cluster != nil {
			return nil, err
		}
		return nil, fmt.Errorf("start the fleet's message server: %w", err)
	}
	return h, nil
}

func (h *Hub) start() error {
	var err error
	if h.fleetKey, err = h.opts.Key.PublicKey(); err != nil {
		return fmt.Errorf("read the fleet's key: %w", err)
	}
	daemonKey, err := nkeys.CreateUser() // for this process's connections
	if err != nil {
		return err
	}
	daemonPublic, err := daemonKey.PublicKey()
	if err != nil {
		return err
	}
	door := &door{hub: h, daemonKey: daemonPublic}
	if h.server, err = server.NewServer(&server.Options{
		ServerName: "varan", DontListen: true, NoLog: true, NoSigs: true,
		MaxPayload: 2 * wire.ChunkSize, MaxControlLine: 4096, AlwaysEnableNonce: true, AuthTimeout: earlyTime.Seconds(),
		MaxSubs: 1024, PingInterval: wire.Heartbeat, MaxPingsOut: 2,
		Accounts: []*server.Account{server.NewAccount(daemonAccount), server.NewAccount(agentsAccount)}, CustomClientAuthentication: door,
		JetStream: h.opts.JournalDir != "", StoreDir: h.opts.JournalDir, SyncAlways: true,
		JetStreamMaxMemory: journalMemory, JetStreamMaxStore: cmp.Or(h.opts.JournalMax, journalMax),
		DisableJetStreamBanner: true,
	}); err != nil {
		return err
	}
	if door.daemon, err = h.server.LookupAccount(daemonAccount); err != nil { // its own copy of what was given
		return err
	}
	if door.agents, err = h.server.LookupAccount(agentsAccount); err != nil {
		return err
	}
	if h.gate, err = newGate(h.server, h.log, h.left); err != nil {
		return err
	}
	h.front = h.gate
	h.server.SetLoggerV2(natsLog{h.log}, false, false, false)
	h.server.Start()
	if !h.server.ReadyForConnections(20 * time.Second) {
		return errors.New("not ready after 20 s")
	}
	busKey, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	if door.busKey, err = busKey.PublicKey(); err != nil {
		return err
	}
	if h.agents, err = h.connect(door.busKey, busKey); err != nil {
		return err
	}
	curve, err := nkeys.CreateCurveKeys()
	if err != nil {
		return err
	}
	h.endpoint = &wire.Endpoint{Conn: h.agents, Key: h.opts.Key, Curve: curve, Accept: h.accept, Handle: h.handle}
	if _, err := h.endpoint.Listen(wire.FromAgents); err != nil {
		return err
	}
	if err := h.journal(door.daemon, daemonPublic, daemonKey); err != nil {
		return err
	}
	if err := h.agents.Flush(); err != nil || h.opts.Listen == "" {
		return err
	}
	h.addr, err = h.gate.listen(h.opts.Listen)
	return err
}

const (
	journalMemory = 1 << 20
	journalMax    = 256 << 20
)

// journal opens JetStream in the daemon's account.
func (h *Hub) journal(daemon *server.Account, public string, key nkeys.KeyPair) (err error) {
	if h.opts.JournalDir == "" {
		return nil
	}
	if !daemon.JetStreamEnabled() {
		if err := daemon.EnableJetStream(nil, nil); err != nil {
			return fmt.Errorf("open the journal's folder: %w", err)
		}
	}
	if h.own, err = h.connect(public, key); err != nil {
		return err
	}
	h.js, err = jetstream.New(h.own)
	return err
}

func (h *Hub) connect(public string, key nkeys.KeyPair) (*nats.Conn, error) {
	return nats.Connect("", nats.InProcessServer(h.server), wire.Login(public, key), nats.Name("varan"), nats.MaxReconnects(-1))
}

// Close ends all connections and the server. Ops under way end with unknown outcomes.
func (h *Hub) Close() {
	h.stop()
	h.work.Wait()
	if h.agents != nil {
		h.agents.Close()
	}
	if h.own != nil {
		h.own.Close()
	}
	if h.front != nil {
		h.front.shut()
	}
	if h.server != nil {
		h.server.Shutdown()
		h.server.WaitForShutdown()
	}
}

// JetStream is where the daemon keeps its streams; nil without a JournalDir.
func (h *Hub) JetStream() jetstream.JetStream { return h.js }

// ReopenJournal makes JetStream writable again: it gives up on a disk that was full or failed, for good.
func (h *Hub) ReopenJournal() error {
	if h.server == nil || h.opts.JournalDir == "" {
		return nil
	}
	if err := h.server.ShutdownJetStream(); err != nil {
		return fmt.Errorf("close the journal: %w", err)
	}
	err := h.server.EnableJetStream(&server.JetStreamConfig{StoreDir: h.opts.JournalDir, SyncAlways: true, Strict: true, CompressOK: true,
		MaxMemory: journalMemory, MaxStore: cmp.Or(h.opts.JournalMax, journalMax)})
	if err != nil {
		return fmt.Errorf("open the journal again: %w", err)
	}
	account, err := h.server.LookupAccount(daemonAccount)
	if err == nil && !account.JetStreamEnabled() {
		err = account.EnableJetStream(nil, nil)
	}
	if err != nil {
		return fmt.Errorf("open the journal again: %w", err)
	}
	return nil
}

// JournalIsOpen reports whether JetStream runs: it ends by itself on a disk that is full.
func (h *Hub) JournalIsOpen() bool {
	return h.server == nil || h.opts.JournalDir == "" || h.server.JetStreamEnabled()
}

// Addr is where agents connect; nil if from nowhere outside this process.
func (h *Hub) Addr() net.Addr { return h.addr }

// WebSocket takes in an agent that came by HTTP from the address given. A hub that does not listen takes in nobody.
func (h *Hub) WebSocket(w http.ResponseWriter, r *http.Request, from netip.Addr) {
	if h.gate == nil || h.opts.Listen == "" {
		http.NotFound(w, r)
		return
	}
	h.gate.serveWebSocket(w, r, from)
}

// FleetKey is the public key agents pin.
func (h *Hub) FleetKey() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fleetKey
}

// InProcess is the option with which link.Connect reaches this hub from within the process.
func (h *Hub) InProcess() nats.Option { return nats.InProcessServer(h.server) }

// Changed delivers the names of servers that say that something changed, or that came back. Names are left out
// while it is full.
func (h *Hub) Changed() <-chan string { return h.changed }

// This is the name of the server that [Options].Own stands for.
const This = "(this machine)"

// Enrol says which agents, by their public keys, stand for which servers. Whoever is not among them is locked out
// at once. Until it was called for the first time no agent is let in from outside. A key that is none, or that stands for two servers, enrols nobody and is an error; the others count.
func (h *Hub) Enrol(keys map[string]string) error {
	var errs []error
	holders := make(map[string][]string) // key → servers
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		holders[keys[name]] = append(holders[keys[name]], name)
	}
	servers := make(map[string]string, len(keys))
	for _, key := range slices.Sorted(maps.Keys(holders)) {
		names := holders[key]
		switch {
		case !nkeys.IsValidPublicUserKey(key):
			errs = append(errs, fmt.Errorf("enrol server %s: %q is no public key of an agent (U…)", names[0], key))
		case key == h.FleetKey() || key == h.opts.Own:
			errs = append(errs, fmt.Errorf("enrol server %s: its key is the daemon's own", names[0]))
		case len(names) > 1:
			errs = append(errs, fmt.Errorf("enrol server %s: its key is also that of %s", names[1], names[0]))
		default:
			servers[key] = names[0]
		}
	}
	h.mu.Lock()
	h.enrolled = servers
	gone := h.admit()
	h.mu.Unlock()
	for _, key := range gone {
		h.disconnect(key)
	}
	h.front.unlock()
	h.passOn()
	return errors.Join(errs...)
}

// admit makes those enrolled and not revoked the fleet, and lists the keys that are in it no more. The mutex is held.
func (h *Hub) admit() (gone []string) {
	before := h.servers
	h.keys, h.servers = make(map[string]string, len(h.enrolled)+1), make(map[string]string, len(h.enrolled)+1)
	for key, name := range h.enrolled {
		if !h.revoked[key] {
			h.keys[name], h.servers[key] = key, name
		}
	}
	if h.opts.Own != "" {
		h.keys[This], h.servers[h.opts.Own] = h.opts.Own, This
	}
	for key := range before {
		if h.servers[key] == "" {
			gone = append(gone, key)
			delete(h.sessions, key)
		}
	}
	return gone
}

// passOn has the other daemons told soon who is let in.
func (h *Hub) passOn() {
	if h.opts.Cluster == nil {
		return
	}
	h.mu.Lock()
	h.rollDue = true
	h.mu.Unlock()
	h.nudgeRoll()
}

// disconnect drops an agent's connections. In a cluster, which cuts nobody for us, nothing it says is heard any more.
func (h *Hub) disconnect(key string) {
	if h.server == nil {
		h.contacts.forget(key)
		h.mu.Lock()
		h.giveUp(key, func(waiter) bool { return true })
		h.mu.Unlock()
		return
	}
	conns, err := h.server.Connz(&server.ConnzOptions{Username: true, Account: agentsAccount, Limit: 1 << 20})
	if err != nil {
		h.log.Error("agent cannot be disconnected", "err", err)
		return
	}
	for _, c := range conns.Conns {
		if c.AuthorizedUser == key || c.NameTag == key {
			_ = h.server.DisconnectClientByID(c.Cid)
		}
	}
}

// Present asks whether a server's agent is connected and answers.
func (h *Hub) Present(ctx context.Context, name string) error {
	key, err := h.agent(name)
	if err != nil {
		return err
	}
	_, err = h.hello(ctx, key)
	return err
}

func (h *Hub) agent(name string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := h.keys[name]
	if key == "" {
		more := ""
		if h.opts.Cluster != nil {
			more = "; with [hub] url no agent runs inside the daemon: start varan agent on that machine and commit its public_key"
		}
		return "", fmt.Errorf("server %s: %w: no agent is enrolled for it%s", name, apply.ErrUnreachable, more)
	}
	return key, nil
}

// natsLog hands on what the NATS server has to say when it matters.
type natsLog struct{ log *slog.Logger }

func (l natsLog) Noticef(format string, v ...any) {}
func (l natsLog) Warnf(format string, v ...any) {
	l.log.Debug("message server", "msg", fmt.Sprintf(format, v...))
}
func (l natsLog) Fatalf(format string, v ...any) { l.Errorf(format, v...) }
func (l natsLog) Errorf(format string, v ...any) {
	if text := fmt.Sprintf(format, v...); strings.HasPrefix(text, "pipe - ") { // of one connection: whoever can connect could fill the log
		l.log.Debug("message server", "msg", text)
		return
	}
	l.log.Warn("message server", "msg", fmt.Sprintf(format, v...))
}
func (l natsLog) Debugf(format string, v ...any) {}
func (l natsLog) Tracef(format string, v ...any) {}

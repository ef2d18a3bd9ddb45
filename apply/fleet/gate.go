package fleet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats-server/v2/server"
)

const (
	// What a connection may take before its key was seen: bytes it sends, the TLS handshake included, and time.
	earlyBytes = 4 << 10
	earlyTime  = 5 * time.Second
	// earlyEach and earlyAll bound such connections from one address and in total.
	earlyEach = 20
	earlyAll  = 1000
	// pumpSize is what one direction of a connection keeps in memory, pumpMost what it takes while much is carried.
	pumpSize = 512
	pumpMost = 32 << 10
)

// A gate lets agents in from outside the process. The NATS server itself listens nowhere: the gate speaks TLS or
// WebSocket, bounds whoever has not shown a key yet, and passes what it hears on to the server inside the process.
type gate struct {
	server *server.Server
	log    *slog.Logger
	left   func(key string) // told when an agent has no connection any more
	tls    *tls.Config

	work  sync.WaitGroup
	large sync.Pool // of *[pumpMost]byte

	mu        sync.Mutex // guards below
	closed    bool
	open      bool // it is known who is enrolled; before that nobody is told that he is not
	listeners []net.Listener
	all       map[*visitor]struct{}
	early     map[netip.Prefix]int // visitors without a key yet, by where they come from
	earlyAll  int
	nonces    map[string]*visitor // by the nonce the server gave them
	agents    map[string]*visitor // by key; the newest of each
}

// A visitor is one connection from outside.
type visitor struct {
	net.Conn
	cut   func() // closes Conn without a word to the other side
	from  netip.Addr
	early atomic.Bool
	left  int // bytes it may still send while early; its reader's own
	nonce string
	key   string
}

// Read bounds what is read of who has shown no key yet.
func (v *visitor) Read(p []byte) (int, error) {
	if !v.early.Load() {
		return v.Conn.Read(p)
	}
	if v.left <= 0 {
		return 0, errors.New("too much before it said who it is")
	}
	n, err := v.Conn.Read(p[:min(len(p), v.left)])
	v.left -= n
	return n, err
}

func newGate(s *server.Server, log *slog.Logger, left func(key string)) (*gate, error) {
	cert, err := ownCertificate()
	if err != nil {
		return nil, err
	}
	return &gate{
		large:  sync.Pool{New: func() any { return new([pumpMost]byte) }},
		server: s, log: log, left: left, all: make(map[*visitor]struct{}), early: make(map[netip.Prefix]int),
		nonces: make(map[string]*visitor), agents: make(map[string]*visitor),
		tls: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true},
	}, nil
}

// ownCertificate makes one for this process's life. Agents look at the fleet's key and never at a certificate, so it
// needs no name and no date that anybody checks.
func ownCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "varan"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// listen accepts agents at address, HOST:PORT, over TLS.
func (g *gate) listen(address string) (net.Addr, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for agents on %s: %w", address, err)
	}
	g.mu.Lock()
	g.listeners = append(g.listeners, l)
	g.mu.Unlock()
	g.work.Go(func() { g.accept(l) })
	return l.Addr(), nil
}

func (g *gate) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptor left, as a rule: those who are in go on
			g.log.Warn("agents cannot connect", "err", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
		v := g.enter(conn, func() { _ = conn.Close() }, from.Addr())
		if v == nil {
			_ = conn.Close()
			continue
		}
		go g.serve(v, tls.Server(v, g.tls))
	}
}

// serveWebSocket accepts an agent that came by HTTP, through a reverse proxy as a rule, from the address given.
func (g *gate) serveWebSocket(w http.ResponseWriter, r *http.Request, from netip.Addr) {
	if r.Header.Get("Origin") != "" { // a browser's page: no agent of ours
		http.Error(w, "not for browsers", http.StatusForbidden)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // it was answered
	}
	conn := websocket.NetConn(context.WithoutCancel(r.Context()), ws, websocket.MessageBinary)
	v := g.enter(conn, func() { _ = ws.CloseNow() }, from)
	if v == nil {
		_ = ws.CloseNow()
		return
	}
	g.serve(v, v)
}

// place is what one address counts as: an IPv6 host has a whole /64.
func place(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// enter takes a connection in, nil if there are too many of its kind.
func (g *gate) enter(conn net.Conn, cut func(), from netip.Addr) *visitor {
	p := place(from)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || !g.open || g.early[p] >= earlyEach || g.earlyAll >= earlyAll {
		return nil
	}
	v := &visitor{Conn: conn, cut: cut, from: from, left: earlyBytes}
	v.early.Store(true)
	g.early[p]++
	g.earlyAll++
	g.all[v] = struct{}{}
	g.work.Add(1)
	_ = conn.SetDeadline(time.Now().Add(earlyTime))
	return v
}

// late ends a visitor's time without a key. The mutex is held.
func (g *gate) late(v *visitor) {
	if !v.early.Swap(false) {
		return
	}
	p := place(v.from)
	if g.early[p]--; g.early[p] <= 0 {
		delete(g.early, p)
	}
	g.earlyAll--
	delete(g.nonces, v.nonce)
}

func (g *gate) leave(v *visitor) {
	defer g.work.Done()
	v.cut()
	g.mu.Lock()
	g.late(v)
	delete(g.all, v)
	gone := g.agents[v.key] == v
	if gone {
		delete(g.agents, v.key)
	}
	closed := g.closed
	g.mu.Unlock()
	if gone && !closed {
		g.left(v.key)
	}
}

// serve passes a visitor's bytes to the server and back until either side is done, and returns when that goes by
// itself. Outer is the visitor's connection without its encryption.
func (g *gate) serve(v *visitor, outer net.Conn) {
	if !g.begin(v, outer) {
		g.leave(v)
	}
}

// begin greets a visitor and starts what passes its bytes on.
func (g *gate) begin(v *visitor, outer net.Conn) bool {
	if t, ok := outer.(*tls.Conn); ok {
		if err := t.Handshake(); err != nil { // bounded by the deadline
			return false
		}
	}
	inner, err := g.server.InProcessConn()
	if err != nil {
		return false
	}
	if err := g.introduce(v, outer, inner); err != nil {
		g.log.Debug("visitor left", "from", v.from, "err", err)
		_ = inner.Close()
		return false
	}
	// What has greeted and shaken hands has a large stack; who only pumps, for weeks, begins with a small one.
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.pump(outer, inner, nil)
		v.cut() // what waits for the visitor waits no longer
	}()
	go func() {
		g.pump(inner, outer, newPace())
		_ = inner.Close()
		<-done
		g.leave(v)
	}()
	return true
}

// introduce hands the server's first line on, and remembers whom it gave its nonce.
func (g *gate) introduce(v *visitor, outer, inner net.Conn) error {
	line := make([]byte, 0, 4<<10)
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == cap(line) {
			return errors.New("the message server's greeting is too long")
		}
		n, err := inner.Read(line[len(line):cap(line)])
		if err != nil {
			return err
		}
		line = line[:len(line)+n]
	}
	var info struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal(bytes.TrimPrefix(bytes.TrimSpace(line), []byte("INFO ")), &info); err != nil || info.Nonce == "" {
		return errors.New("the message server's greeting is not understood")
	}
	g.mu.Lock()
	v.nonce = info.Nonce
	g.nonces[info.Nonce] = v
	g.mu.Unlock()
	_, err := outer.Write(line)
	return err
}

// pump copies until either side ends. A connection that rests keeps a small buffer; one that carries much borrows a
// large one for as long. With a pace it reads no faster, so that who floods waits himself.
func (g *gate) pump(to io.Writer, from io.Reader, p *pace) {
	small := make([]byte, pumpSize)
	buf := small
	var lent *[pumpMost]byte
	defer func() {
		if lent != nil {
			g.large.Put(lent)
		}
	}()
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.wait(buf[:n])
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
		switch {
		case lent == nil && n == len(small):
			lent = g.large.Get().(*[pumpMost]byte)
			buf = lent[:]
		case lent != nil && n < len(small):
			g.large.Put(lent)
			lent, buf = nil, small
		}
	}
}

// from is where the connection with this nonce comes from; not valid: from inside the process.
func (g *gate) from(nonce string) netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v := g.nonces[nonce]; v != nil {
		return v.from
	}
	return netip.Addr{}
}

// unlock lets agents in from now on.
func (g *gate) unlock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
}

// passed notes that the connection with this nonce showed an enrolled key. An agent has one connection: an older one
// is half dead as a rule, and its machine has not noticed.
func (g *gate) passed(nonce, key string) {
	g.mu.Lock()
	v := g.nonces[nonce]
	if v == nil {
		g.mu.Unlock()
		return
	}
	g.late(v)
	old := g.agents[key]
	v.key, g.agents[key] = key, v
	g.mu.Unlock()
	_ = v.Conn.SetDeadline(time.Time{})
	if old != nil {
		if old.from != v.from {
			g.log.Warn("an agent's key connects from a second address: if both machines run, their agents share a key file", "key", key, "from", v.from, "before", old.from)
		}
		old.cut()
	}
}

// heard needs no note: a connection is seen to begin and to end.
func (g *gate) heard(string) bool { return false }

// connected tells from where the agent with this key is connected.
func (g *gate) connected(key string) (from netip.Addr, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.agents[key]
	if v == nil {
		return netip.Addr{}, false
	}
	return v.from, true
}

// shut ends everybody's connection and returns when nothing of the gate runs any more.
func (g *gate) shut() {
	g.mu.Lock()
	g.closed = true
	for _, l := range g.listeners {
		_ = l.Close()
	}
	for v := range g.all {
		v.cut()
	}
	g.mu.Unlock()
	g.work.Wait()
}

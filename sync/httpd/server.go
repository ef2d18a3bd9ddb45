package httpd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	gosync "sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/apply/lease"
)

// A Token lets a caller in.
type Token struct {
	Name    string
	Operate bool
	Hash    [32]byte // SHA-256
}

// Options of a Server.
type Options struct {
	Daemon  Daemon
	Log     *slog.Logger
	Version string

	Socket string // path of the unix socket; "" = none
	Listen string // HOST:PORT; "" = none
	// CertFile and KeyFile turn on TLS; they are read again when they change.
	CertFile, KeyFile string
	TrustedProxies    []netip.Prefix
	// Lead tells who leads, of several daemons; nil = this is the only one.
	Lead func() lease.Status
	// Problems tells what secrets and settings cannot be read; may be nil.
	Problems func() []string
	// Tokens tells who may come in; it is asked at every request, so that a reload counts at once.
	Tokens func() []Token
	// Hub is where agents meet the daemon; nil = there is none.
	Hub Hub
	// Hooks answers what forges send, which needs no token: it checks signatures itself. Nil = 404.
	Hooks Hooks
	// ReadToken is a file with a token of the role read, made 0600 when absent; "" = none.
	ReadToken string
}

// Hooks answers what forges send. Keeps reports whether it can keep it; while it cannot, the daemon is not ready.
type Hooks interface {
	http.Handler
	Keeps() bool
}

// A Server answers until its Run ends.
type Server struct {
	opts    Options
	metrics *metrics
	page    *page
	own     []Token
	fails   limiter
	cert    *certificate // nil = plain HTTP
	listen  net.Listener
	socket  net.Listener
}

// New opens the listeners, so that a taken port is an error at once.
func New(opts Options) (*Server, error) {
	s := &Server{opts: opts, metrics: newMetrics(opts)}
	var err error
	if s.page, err = newPage(s); err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	if opts.ReadToken != "" {
		t, err := readToken(opts.ReadToken)
		if err != nil {
			return nil, fmt.Errorf("read token: %w", err)
		}
		s.own = append(s.own, t)
	}
	if opts.Listen != "" && opts.CertFile != "" {
		s.cert = &certificate{cert: opts.CertFile, key: opts.KeyFile}
		if _, err := s.cert.get(nil); err != nil {
			return nil, fmt.Errorf("read tls_cert_file %s and tls_key_file: %w", opts.CertFile, err)
		}
	}
	if opts.Socket != "" {
		l, err := listenSocket(opts.Socket)
		if err != nil {
			return nil, err
		}
		s.socket = l
	}
	if opts.Listen != "" {
		l, err := net.Listen("tcp", opts.Listen)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("listen on %s: %w", opts.Listen, err)
		}
		s.listen = &bounded{Listener: l, slots: make(chan struct{}, maxConns)}
	}
	return s, nil
}

// Addr is where HTTP is served; nil if nowhere.
func (s *Server) Addr() net.Addr {
	if s.listen == nil {
		return nil
	}
	return s.listen.Addr()
}

// Close gives the listeners back of a Server that is not run.
func (s *Server) Close() {
	for _, l := range []net.Listener{s.listen, s.socket} {
		if l != nil {
			_ = l.Close()
		}
	}
}

const (
	maxConns = 256
	// drain is how long running requests may take to end; streams are cut by their context before.
	drain = 3 * time.Second
)

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.metrics.follow(gctx) })
	serve := func(l net.Listener, local bool, cert bool) {
		base, stop := context.WithCancel(context.WithoutCancel(ctx))
		srv := &http.Server{
			Handler:           s.routes(local),
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       30 * time.Second,
			IdleTimeout:       60 * time.Second,
			MaxHeaderBytes:    16 << 10,
			BaseContext:       func(net.Listener) context.Context { return base },
			ConnState:         letGo,
			ErrorLog:          slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug),
		}
		g.Go(func() error {
			var err error
			if cert {
				srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.cert.get}
				err = srv.ServeTLS(l, "", "")
			} else {
				err = srv.Serve(l)
			}
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return err
		})
		g.Go(func() error {
			<-gctx.Done()
			stop()
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
			defer cancel()
			if err := srv.Shutdown(end); err != nil {
				_ = srv.Close()
			}
			return nil
		})
	}
	if s.socket != nil {
		serve(s.socket, true, false)
	}
	if s.listen != nil {
		serve(s.listen, false, s.cert != nil)
	}
	g.Go(func() error { <-gctx.Done(); return nil })
	return g.Wait()
}

// listenSocket opens the socket for its owner alone. Who calls holds the data directory's lock, so a socket that
// is there is a dead daemon's.
func listenSocket(path string) (net.Listener, error) {
	if len(path) > 100 {
		return nil, fmt.Errorf("listen on %s: a socket's path can have at most 100 bytes; choose a shorter data_dir", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	// The name appears only once the mode is right: listen under a name of our own in a folder of our own.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &socket{l, path}, nil
}

// socket removes its name when it is closed.
type socket struct {
	net.Listener
	path string
}

func (s *socket) Close() error {
	err := s.Listener.Close()
	_ = os.Remove(s.path)
	return err
}

// bounded admits so many connections at once.
type bounded struct {
	net.Listener
	slots chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	select {
	case b.slots <- struct{}{}:
		return &boundedConn{Conn: c, free: gosync.OnceFunc(func() { <-b.slots })}, nil
	default:
		_ = c.Close() // full: better a clear refusal than a queue
		return &boundedConn{Conn: c, free: func() {}}, nil
	}
}

type boundedConn struct {
	net.Conn
	free func()
}

// letGo frees the place of a connection that is HTTP's no more: an agent's, which stays for good.
func letGo(conn net.Conn, state http.ConnState) {
	if state != http.StateHijacked {
		return
	}
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if b, ok := conn.(*boundedConn); ok {
		b.free()
	}
}

func (c *boundedConn) Close() error {
	c.free()
	return c.Conn.Close()
}

// certificate reads its files again when they change.
type certificate struct {
	cert, key string
	mu        gosync.Mutex // guards the rest
	print     string
	now       *tls.Certificate
	bad       error // why the files as they are now are not in use; nil = they are
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	print := ""
	for _, f := range []string{c.cert, c.key} {
		if i, err := os.Stat(f); err == nil {
			print += fmt.Sprint(i.ModTime().UnixNano(), i.Size(), ";")
		}
	}
	if c.now != nil && print == c.print {
		c.bad = nil
		return c.now, nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	c.bad = err
	if err != nil {
		if c.now != nil { // half written: the old one is still good
			return c.now, nil
		}
		return nil, err
	}
	c.now, c.print = &pair, print
	return c.now, nil
}

// problem says why renewed files are not in use, "" if they are.
func (c *certificate) problem() string {
	_, _ = c.get(nil) // looks at the files as they are now
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bad == nil {
		return ""
	}
	return fmt.Sprintf("tls_cert_file %s: %v; the certificate read before stays in use", c.cert, c.bad)
}

// readToken reads or makes the token of the role read.
func readToken(path string) (Token, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		data = []byte(rand.Text() + "\n")
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return Token{}, err
		}
		if _, err := f.Write(data); err != nil {
			f.Close()
			return Token{}, err
		}
		if err := f.Close(); err != nil {
			return Token{}, err
		}
	} else if err != nil {
		return Token{}, err
	}
	v := strings.TrimSpace(string(data))
	if len(v) < 16 {
		return Token{}, fmt.Errorf("%s holds less than 16 characters; delete it and a new one is made", path)
	}
	return Token{Name: "read-token", Hash: sha256.Sum256([]byte(v))}, nil
}

// ParseHash reads the hash of a [[token]].
func ParseHash(s string) (h [32]byte, err error) {
	b, err := hex.DecodeString(strings.TrimPrefix(s, "sha256:"))
	if err != nil || len(b) != len(h) {
		return h, errors.New("a token's hash is 64 hex digits")
	}
	copy(h[:], b)
	return h, nil
}

// refusal is an error with a status of its own.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return r.message }

type actorKey struct{}

// actor is who a token says, or on the socket who the caller says.
func actor(r *http.Request, claimed string) string {
	if a, ok := r.Context().Value(actorKey{}).(string); ok {
		return a
	}
	return claimed
}

// guard lets in who may, and tells errors.
func (s *Server) guard(local, acts bool, h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if !local {
			from := s.client(r)
			if !s.fails.allow(from, time.Now()) {
				fail(w, http.StatusTooManyRequests, Fault{"slow_down", "too many failed log-ins; wait a minute"})
				return
			}
			t, ok := s.who(r)
			if !ok {
				s.fails.fail(from, time.Now())
				w.Header().Set("WWW-Authenticate", "Bearer")
				fail(w, http.StatusUnauthorized, Fault{"unauthorized", "a token is needed: Authorization: Bearer TOKEN"})
				return
			}
			if acts && !t.Operate {
				fail(w, http.StatusForbidden, Fault{"forbidden", "this token may read only; it takes one of the role operate"})
				return
			}
			r = r.WithContext(context.WithValue(r.Context(), actorKey{}, "token "+t.Name))
		}
		// A stream outlives the read timeout.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		err := h(w, r)
		if err == nil {
			return
		}
		var ref *refusal
		if errors.As(err, &ref) {
			fail(w, ref.status, Fault{"refused", ref.message})
			return
		}
		f, status := faultOf(err)
		fail(w, status, f)
	})
}

func fail(w http.ResponseWriter, status int, f Fault) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]Fault{"error": f})
}

// who finds the token of a request.
func (s *Server) who(r *http.Request) (found Token, ok bool) {
	v, is := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !is {
		return Token{}, false
	}
	return s.known(v)
}

// tokens are all that count now.
func (s *Server) tokens() []Token {
	if s.opts.Tokens == nil {
		return s.own
	}
	return append(append([]Token(nil), s.opts.Tokens()...), s.own...)
}

// known finds a token by its value. All are compared, so that time tells nothing.
func (s *Server) known(value string) (found Token, ok bool) {
	if value == "" {
		return Token{}, false
	}
	hash := sha256.Sum256([]byte(value))
	for _, t := range s.tokens() {
		if subtle.ConstantTimeCompare(hash[:], t.Hash[:]) == 1 && !ok {
			found, ok = t, true
		}
	}
	return found, ok
}

// client is who connects; a forwarded address counts from trusted proxies only.
func (s *Server) client(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && s.trusted(host); i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		host = a.String()
	}
	return host
}

// trustedPeer reports whether the connection itself comes from a trusted proxy.
func (s *Server) trustedPeer(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && s.trusted(host)
}

func (s *Server) trusted(host string) bool {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	for _, p := range s.opts.TrustedProxies {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// limiter counts failed log-ins by address, in windows of a minute.
type limiter struct {
	mu    gosync.Mutex // guards the rest
	start time.Time
	count map[string]int
	all   int
}

const (
	failsEach = 10
	failsAll  = 300
)

func (l *limiter) roll(now time.Time) {
	if now.Sub(l.start) > time.Minute {
		l.start, l.count, l.all = now, map[string]int{}, 0
	}
}

func (l *limiter) allow(from string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.roll(now)
	return l.count[from] < failsEach && (l.all < failsAll || l.count[from] == 0)
}

func (l *limiter) fail(from string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.roll(now)
	l.all++
	if len(l.count) < 10_000 {
		l.count[from]++
	}
}

// mutexed runs one function at a time.
type mutexed struct{ mu gosync.Mutex }

func (m *mutexed) do(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// ErrFollows says that another daemon acts.
var ErrFollows = errors.New("this daemon follows")

// follows reports whether another daemon acts and this one stands by: it knows who leads and keeps webhooks.
func (s *Server) follows() bool {
	if s.opts.Lead == nil {
		return false
	}
	l := s.opts.Lead()
	return !l.Leading && l.Leader != "" && (s.opts.Hooks == nil || s.opts.Hooks.Keeps())
}

func (s *Server) ready() bool {
	return s.opts.Daemon.Status().Ready && (s.opts.Hooks == nil || s.opts.Hooks.Keeps())
}

func (s *Server) status() Status {
	st := Status{Status: s.opts.Daemon.Status(), Version: s.opts.Version}
	if s.opts.Hub != nil {
		hub := s.opts.Hub.Status()
		st.Hub = &hub
	}
	if s.opts.Lead != nil {
		l := s.opts.Lead()
		st.Lead = &l
	}
	if s.opts.Problems != nil {
		st.Problems = s.opts.Problems()
	}
	if s.cert != nil {
		if p := s.cert.problem(); p != "" {
			st.Problems = append(st.Problems, p)
		}
	}
	return st
}

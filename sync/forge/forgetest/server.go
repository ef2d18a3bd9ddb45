package forgetest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	gosync "sync"
	"time"

	"github.com/varanhq/varan/sync/forge"
)

// Options of New.
type Options struct {
	Kind      forge.Kind
	Forgejo   bool                             // a Gitea that is one
	Dir       string                           // where repositories lie; it must exist
	Contracts *Contracts                       // nil = nothing is checked
	Fail      func(format string, args ...any) // told of what breaks a contract: t.Errorf; nil = panic
	TLS       bool
	Addr      string // "" = any port of 127.0.0.1
}

// Server is one forge. Its exported fields are to be set before the first request or under Set.
type Server struct {
	Kind forge.Kind
	URL  string // http(s)://127.0.0.1:port, also the base of repositories' addresses

	// TokenLife is how long an installation's token lives.
	TokenLife time.Duration
	// MaxContent is how many content writes GitHub lets through before it names a secondary limit; 0 = any number.
	MaxContent int
	// Remaining is how many requests the hour's limit has left; below 0 = it is not looked at.
	Remaining int

	forgejo   bool
	dir       string
	contracts *Contracts
	fail      func(format string, args ...any)
	http      *httptest.Server
	backend   string // git http-backend
	hooks     gosync.WaitGroup
	client    *http.Client

	mu         gosync.Mutex // guards what follows and all that hangs below it
	nextID     int64
	users      map[string]*User // by login, lower case
	repos      map[string]*Repo // by owner/name, lower case
	apps       map[int64]*App
	codes      map[string]*App // of manifests, not traded yet
	troubles   []*trouble
	calls      []Call
	deliveries []Delivery
	closed     bool
}

// User of the forge.
type User struct {
	ID     int64
	Login  string
	Token  string
	Scopes []string // of the token, as the kind names them
	Bot    bool
}

// Call is a request to the API.
type Call struct {
	Method, Path, Query string
	Status              int
	Content             bool // it wrote what people see: a status, a comment, a check run
}

// New starts a forge.
func New(o Options) (*Server, error) {
	s := &Server{
		Kind: o.Kind, forgejo: o.Forgejo, dir: o.Dir, contracts: o.Contracts, fail: o.Fail, nextID: 1000,
		TokenLife: time.Hour, Remaining: -1,
		users: make(map[string]*User), repos: make(map[string]*Repo), apps: make(map[int64]*App), codes: make(map[string]*App),
	}
	if s.fail == nil {
		s.fail = func(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
	}
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, fmt.Errorf("find git: %w", err)
	}
	s.backend = filepath.Join(strings.TrimSpace(string(path)), "git-http-backend")
	if _, err := os.Stat(s.backend); err != nil {
		return nil, fmt.Errorf("find git http-backend: %w", err)
	}
	api, err := s.api()
	if err != nil {
		return nil, err
	}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, ".git/") {
			s.serveGit(w, r)
			return
		}
		s.serveAPI(w, r, api)
	}))
	if o.Addr != "" {
		l, err := net.Listen("tcp", o.Addr)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		_ = s.http.Listener.Close()
		s.http.Listener = l
	}
	if o.TLS {
		s.http.StartTLS()
	} else {
		s.http.Start()
	}
	s.URL = s.http.URL
	s.client = &http.Client{Timeout: 20 * time.Second}
	return s, nil
}

// Close ends it, after the webhooks under way.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.hooks.Wait()
	s.http.CloseClientConnections()
	s.http.Close()
}

// Set changes the exported fields, or anything else, while requests run.
func (s *Server) Set(f func(*Server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// Roots trust the server's certificate; nil without TLS.
func (s *Server) Roots() *x509.CertPool {
	if s.http.TLS == nil {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.http.Certificate())
	return pool
}

// CertPEM is the server's certificate, for a client that reads a file; nil without TLS.
func (s *Server) CertPEM() []byte {
	if s.http.TLS == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
}

// Domain is host:port.
func (s *Server) Domain() string { _, host, _ := strings.Cut(s.URL, "://"); return host }

// APIURL is what to set as api_url.
func (s *Server) APIURL() string { return s.URL + s.prefix() }

func (s *Server) prefix() string {
	switch s.Kind {
	case forge.GitHub:
		return "/api/v3"
	case forge.GitLab:
		return "/api/v4"
	}
	return "/api/v1"
}

// Options are those of a client that comes with a token, or as the App if there is no token.
func (s *Server) Options(token string, app *App) forge.Options {
	o := forge.Options{
		Kind: s.Kind, Domain: s.Domain(), APIURL: s.APIURL(), Token: token,
		AllowInternal: true, AllowHTTP: true, Roots: s.Roots(),
	}
	if app != nil {
		o.App = &forge.App{ID: app.ID, Installation: app.Installation, Key: app.Key}
	}
	return o
}

// AddUser makes a user whose token may do all that the user may.
func (s *Server) AddUser(login string) *User {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addUser(login)
}

func (s *Server) addUser(login string) *User {
	u := &User{ID: s.id(), Login: login, Token: fmt.Sprintf("token-%s-%d", login, s.nextID)}
	switch s.Kind {
	case forge.GitHub:
		u.Scopes = []string{"repo"}
	case forge.Gitea:
		u.Scopes = []string{"read:user", "write:repository", "write:issue"}
	case forge.GitLab:
		u.Scopes = []string{"api"}
	}
	s.users[strings.ToLower(login)] = u
	return u
}

// user is one that exists. The caller holds mu.
func (s *Server) user(login string) *User {
	if u := s.users[strings.ToLower(login)]; u != nil {
		return u
	}
	return s.addUser(login)
}

func (s *Server) id() int64 { s.nextID++; return s.nextID }

// now is a moment as the forge tells it. Only GitLab tells parts of a second.
func (s *Server) now() time.Time {
	if s.Kind == forge.GitLab {
		return time.Now().UTC().Truncate(time.Millisecond)
	}
	return time.Now().UTC().Truncate(time.Second)
}

// after is now, or a little later than t if that is not before it: an edit must show.
func (s *Server) after(t time.Time) time.Time {
	if now := s.now(); now.After(t) {
		return now
	}
	return t.Add(time.Second)
}

// Calls are the requests to the API so far.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Forget empties Calls.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

// ContentWrites counts the writes that people see and that were done.
func (s *Server) ContentWrites() int {
	n := 0
	for _, c := range s.Calls() {
		if c.Content && c.Status < 300 {
			n++
		}
	}
	return n
}

// A Trouble is what a request meets instead of its answer.
type Trouble struct {
	Match  func(*http.Request) bool // nil = every request to the API
	Times  int                      // 0 = for good
	Status int                      // answer so; 0 = as ever
	Header map[string]string
	Body   string        // "" = the forge's way of saying the status
	Delay  time.Duration // first wait
	Drop   bool          // lose the connection before anything is done
	Lose   bool          // do it, then lose the connection before the answer
	Cut    bool          // do it, then break off in the middle of the answer
}

type trouble struct{ Trouble }

// Trouble makes requests fail; the returned func ends it.
func (s *Server) Trouble(t Trouble) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := &trouble{t}
	s.troubles = append(s.troubles, x)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range s.troubles {
			if s.troubles[i] == x {
				s.troubles = append(s.troubles[:i], s.troubles[i+1:]...)
				return
			}
		}
	}
}

// Writes matches requests that change something.
func Writes(r *http.Request) bool { return r.Method != http.MethodGet && r.Method != http.MethodHead }

// SecondaryLimit is GitHub's answer to too much at once; without seconds it does not say for how long.
func SecondaryLimit(times int, seconds string) Trouble {
	t := Trouble{
		Times: times, Status: http.StatusForbidden, Header: map[string]string{},
		Body: `{"message":"You have exceeded a secondary rate limit. Please wait a few minutes before you try again.","documentation_url":"https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`,
	}
	if seconds != "" {
		t.Header["Retry-After"] = seconds
	}
	return t
}

// pick takes the first trouble that a request meets. The caller holds mu.
func (s *Server) pick(r *http.Request) (Trouble, bool) {
	for i, t := range s.troubles {
		if t.Match != nil && !t.Match(r) {
			continue
		}
		if t.Times > 0 {
			if t.Times--; t.Times == 0 {
				s.troubles = append(s.troubles[:i:i], s.troubles[i+1:]...)
			}
		}
		return t.Trouble, true
	}
	return Trouble{}, false
}

// serveAPI counts, troubles and answers.
func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request, api http.Handler) {
	s.mu.Lock()
	t, troubled := s.pick(r)
	s.mu.Unlock()
	rec := &recorder{header: make(http.Header), status: http.StatusOK}
	if troubled {
		select {
		case <-time.After(t.Delay):
		case <-r.Context().Done():
			return
		}
		if t.Drop {
			s.count(r, 0)
			drop(w)
			return
		}
	}
	switch {
	case troubled && t.Status != 0:
		rec.foreign = true
		if t.Body == "" {
			t.Body = `{"message":"` + http.StatusText(t.Status) + `"}`
		}
		rec.header.Set("Content-Type", "application/json; charset=utf-8")
		rec.WriteHeader(t.Status)
		_, _ = rec.Write([]byte(t.Body))
	case s.limited(rec, r):
	default:
		api.ServeHTTP(rec, r)
		s.etag(rec, r)
	}
	s.count(r, rec.status)
	if t.Lose {
		drop(w)
		return
	}
	for k, v := range rec.header {
		w.Header()[k] = v
	}
	for k, v := range t.Header {
		w.Header().Set(k, v)
	}
	body := rec.body.Bytes()
	if t.Cut {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		body = body[:len(body)/2]
	}
	w.WriteHeader(rec.status)
	_, _ = w.Write(body)
	if t.Cut {
		drop(w)
	}
}

// drop loses the connection.
func drop(w http.ResponseWriter) {
	if h, ok := w.(http.Hijacker); ok {
		if c, _, err := h.Hijack(); err == nil {
			_ = c.Close()
			return
		}
	}
	panic(http.ErrAbortHandler)
}

func (s *Server) count(r *http.Request, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, Call{
		Method: r.Method, Path: strings.TrimPrefix(r.URL.Path, s.prefix()), Query: r.URL.RawQuery, Status: status, Content: s.content(r),
	})
}

// content reports whether a request writes what people see.
func (s *Server) content(r *http.Request) bool {
	if !Writes(r) {
		return false
	}
	for _, part := range []string{"/statuses/", "/comments", "/check-runs", "/notes"} {
		if strings.Contains(r.URL.Path, part) {
			return true
		}
	}
	return false
}

var errGone = errors.New("no such thing")

// TLSConfig is the server's, for another one that is to be trusted alike.
func (s *Server) TLSConfig() *tls.Config { return s.http.TLS.Clone() }

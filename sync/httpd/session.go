package httpd

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	gosync "sync"
	"time"
)

// cookieName is that of the page's cookie. It opens the pages and nothing else: what acts takes a token alone.
const cookieName = "varan-session"

const (
	sessionLife = 12 * time.Hour
	maxSessions = 1000
)

// sessions are the logged-in browsers. They end with the process, with their token and after sessionLife.
type sessions struct {
	mu   gosync.Mutex           // guards the rest
	open map[[32]byte]*loggedIn // by the hash of the cookie's value
}

type loggedIn struct {
	token [32]byte // its hash
	until time.Time
}

// begin makes a session of a token and returns the cookie's value.
func (s *sessions) begin(token Token, now time.Time) string {
	value := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[[32]byte]*loggedIn{}
	}
	var oldest [32]byte
	for k, l := range s.open {
		if now.After(l.until) {
			delete(s.open, k)
		} else if o := s.open[oldest]; o == nil || l.until.Before(o.until) {
			oldest = k
		}
	}
	if len(s.open) >= maxSessions {
		delete(s.open, oldest)
	}
	s.open[sha256.Sum256([]byte(value))] = &loggedIn{token: token.Hash, until: now.Add(sessionLife)}
	return value
}

// holds reports whether a cookie's value is a session's whose token still is one.
func (s *sessions) holds(value string, tokens []Token, now time.Time) bool {
	s.mu.Lock()
	l := s.open[sha256.Sum256([]byte(value))]
	s.mu.Unlock()
	if l == nil || now.After(l.until) {
		return false
	}
	for _, t := range tokens {
		if subtle.ConstantTimeCompare(t.Hash[:], l.token[:]) == 1 {
			return true
		}
	}
	return false
}

func (s *sessions) end(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(value)))
}

func (p *page) login(w http.ResponseWriter, r *http.Request) {
	if err := p.origin.Check(r); err != nil {
		p.write(w, http.StatusForbidden, "login", view{Title: "varan", Next: "/", Error: "This log-in came from another site."})
		return
	}
	from := p.s.client(r)
	if !p.s.fails.allow(from, time.Now()) {
		p.slowDown(w)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	if err := r.ParseForm(); err != nil {
		p.write(w, http.StatusBadRequest, "login", view{Title: "varan", Next: "/", Error: "The form was not understood."})
		return
	}
	next := localPath(r.PostForm.Get("next"))
	token, ok := p.s.known(strings.TrimSpace(r.PostForm.Get("token")))
	if !ok {
		p.s.fails.fail(from, time.Now())
		p.write(w, http.StatusUnauthorized, "login", view{Title: "varan", Next: next, Error: "This is no token of this fleet."})
		return
	}
	http.SetCookie(w, p.cookie(r, p.sessions.begin(token, time.Now()), int(sessionLife/time.Second)))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (p *page) logout(w http.ResponseWriter, r *http.Request) {
	if p.origin.Check(r) == nil {
		if c, err := r.Cookie(cookieName); err == nil {
			p.sessions.end(c.Value)
		}
		http.SetCookie(w, p.cookie(r, "", -1))
	}
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// cookie is sent over TLS only, where there is TLS: ours, or that of a proxy we trust.
func (p *page) cookie(r *http.Request, value string, age int) *http.Cookie {
	secure := r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" && p.s.trustedPeer(r)
	return &http.Cookie{Name: cookieName, Value: value, Path: "/", MaxAge: age, HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode}
}

package forgetest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v4"

	"github.com/varanhq/varan/sync/forge"
)

// App is a GitHub App, installed once.
type App struct {
	ID, Installation int64
	Slug             string
	Key              string            // PEM
	Permissions      map[string]string // "statuses": "write"
	Events           []string
	Owner            string // of the installation
	Suspended        bool

	bot    *User
	public *rsa.PublicKey
	tokens map[string]time.Time // until when
	repos  []*Repo              // it is installed on
	Issued int                  // tokens so far
}

// AppPermissions are those that varan's documentation asks for.
func AppPermissions() map[string]string {
	return map[string]string{
		"metadata": "read", "contents": "read", "issues": "read", "pull_requests": "write", "statuses": "write",
		"checks": "write", "merge_queues": "read",
	}
}

// AddApp makes an App and installs it on repositories.
func (s *Server) AddApp(slug string, repos ...*Repo) (*App, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bot := s.user(slug + "[bot]")
	bot.Bot, bot.Token = true, ""
	a := &App{
		ID: s.id(), Installation: s.id(), Slug: slug, Permissions: AppPermissions(),
		Events: []string{"issue_comment", "merge_group", "pull_request", "push"},
		Key:    string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		bot:    bot, public: &key.PublicKey, tokens: make(map[string]time.Time), repos: repos,
	}
	if len(repos) > 0 {
		a.Owner = repos[0].Repo.Owner
	}
	s.apps[a.ID] = a
	return a, nil
}

// Create does what the page behind a manifest's form does: it makes the App and returns the code that GitHub leads
// the browser back with, once it is given what the form sent.
func (s *Server) Create(manifest []byte, owner string) (code string, err error) {
	var m struct {
		Name        string            `json:"name"`
		Redirect    string            `json:"redirect_url"`
		Permissions map[string]string `json:"default_permissions"`
		Events      []string          `json:"default_events"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return "", fmt.Errorf("read the manifest: %w", err)
	}
	if m.Name == "" || m.Redirect == "" {
		return "", fmt.Errorf("a manifest needs a name and a redirect_url: %s", manifest)
	}
	a, err := s.AddApp(strings.ToLower(strings.ReplaceAll(m.Name, " ", "-")))
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.Permissions, a.Events, a.Owner = m.Permissions, m.Events, s.user(owner).Login
	code = rand.Text()
	s.codes[code] = a
	return code, nil
}

// Install puts an App on a repository, as its page's button does.
func (s *Server) Install(id int64, on *Repo) (installation int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.apps[id]
	if a == nil {
		return 0, fmt.Errorf("App %d: %w", id, errGone)
	}
	a.repos = append(a.repos, on)
	return a.Installation, nil
}

// Revoke ends every token of the App's installation at once.
func (s *Server) Revoke(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(a.tokens)
}

// scope is what a token may do beside its user's permissions.
type scope struct {
	app  *App
	user *User
}

// allows reports whether an installation may do something; only installations are limited so.
func (sc *scope) allows(r *Repo, what string, need forge.Permission) bool {
	if sc == nil || sc.app == nil {
		return false
	}
	for _, on := range sc.app.repos {
		if on == r {
			have := sc.app.Permissions[what]
			return have == "write" || have == "read" && need <= forge.Read
		}
	}
	return false
}

// whoHas finds a token's user; for an installation's token also its App. The caller holds mu.
func (s *Server) whoHas(token string) (*User, *scope) {
	if token == "" {
		return nil, nil
	}
	for _, u := range s.users {
		if u.Token == token {
			return u, nil
		}
	}
	for _, a := range s.apps {
		if until, ok := a.tokens[token]; ok && time.Now().Before(until) && !a.Suspended {
			return a.bot, &scope{app: a, user: a.bot}
		}
	}
	return nil, nil
}

// bearer is the token of a request, in whatever way the kinds send it.
func bearer(r *http.Request) string {
	if t := r.Header.Get("Private-Token"); t != "" {
		return t
	}
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return token
}

// appOf is the App that signed a request. The caller holds mu.
func (s *Server) appOf(r *http.Request) (*App, error) {
	var app *App
	_, err := jwt.ParseWithClaims(bearer(r), &jwt.RegisteredClaims{}, func(t *jwt.Token) (any, error) {
		claims, ok := t.Claims.(*jwt.RegisteredClaims)
		if !ok || t.Method != jwt.SigningMethodRS256 {
			return nil, fmt.Errorf("signed with %v", t.Header["alg"])
		}
		id, err := strconv.ParseInt(claims.Issuer, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", claims.Issuer, err)
		}
		if app = s.apps[id]; app == nil {
			return nil, fmt.Errorf("no App %d", id)
		}
		if claims.ExpiresAt == nil || claims.IssuedAt == nil || claims.ExpiresAt.Sub(claims.IssuedAt.Time) > 10*time.Minute {
			return nil, fmt.Errorf("the token lives longer than ten minutes")
		}
		return app.public, nil
	})
	return app, err
}

// issue makes an installation's token.
func (s *Server) issue(a *App) (string, time.Time) {
	until := time.Now().Add(s.TokenLife)
	token := fmt.Sprintf("ghs_%d_%s", a.ID, rand.Text()+rand.Text())
	a.tokens[token] = until
	a.Issued++
	return token, until
}

// Uninstall takes an App off every repository.
func (s *Server) Uninstall(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.repos = nil
}

package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/varanhq/varan/schema"
)

const testSecret = "It's a Secret to Everybody"

// memory is a Store that can be told to fail, and that another inbox reads after a "kill".
type memory struct {
	mu      sync.Mutex // guards below
	records map[uint64][]byte
	last    uint64
	fail    error
	wait    chan struct{} // Append waits for it
	writes  int
}

func newMemory() *memory { return &memory{records: map[uint64][]byte{}} }

func (m *memory) Append(ctx context.Context, data []byte) (uint64, error) {
	m.mu.Lock()
	wait := m.wait
	m.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	m.last++
	m.writes++
	m.records[m.last] = bytes.Clone(data)
	return m.last, nil
}

func (m *memory) Replay(_ context.Context, fn func(uint64, []byte) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for seq := uint64(1); seq <= m.last; seq++ {
		if data, ok := m.records[seq]; ok {
			if err := fn(seq, data); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) Trim(_ context.Context, before uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for seq := range m.records {
		if seq < before {
			delete(m.records, seq)
		}
	}
	return nil
}

func (m *memory) size() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.records {
		n += len(d)
	}
	return n
}

// target remembers what it was given, and ends it as its answer says.
type target struct {
	mu      sync.Mutex // guards below
	taken   []*Hint
	answer  func(h *Hint, ended func(error)) // nil: done at once
	nobody  string                           // why nothing concerns it; "" = all does
	known   map[schema.ID]*Resource
	notRead bool
	came    chan struct{}
}

func (g *target) Concerns(*Hint) (bool, string) {
	if g.nobody != "" {
		return false, g.nobody
	}
	return true, "looking"
}

func (g *target) Take(h *Hint, ended func(error)) {
	g.mu.Lock()
	g.taken = append(g.taken, h)
	answer := g.answer
	g.mu.Unlock()
	select {
	case g.came <- struct{}{}:
	default:
	}
	if answer == nil {
		ended(nil)
		return
	}
	answer(h, ended)
}

func (g *target) Resource(id schema.ID) (*Resource, bool) { return g.known[id], !g.notRead }

func (g *target) hints() []*Hint {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.taken)
}

// wait waits until n hints were taken.
func (g *target) wait(t *testing.T, n int) []*Hint {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		if h := g.hints(); len(h) >= n {
			return h
		}
		select {
		case <-g.came:
		case <-limit:
			t.Fatalf("%d of %d hints were taken", len(g.hints()), n)
		}
	}
}

type world struct {
	*Receiver
	t       *testing.T
	target  *target
	store   *memory
	secrets []Secret
	kill    func()
}

func newWorld(t *testing.T, edit ...func(*Options)) *world { return withStore(t, newMemory(), edit...) }

func withStore(t *testing.T, store *memory, edit ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, target: &target{came: make(chan struct{}, 1)}, store: store, secrets: []Secret{
		{Forge: GitHub, Domain: "github.com", Value: testSecret}, {Forge: GitHub, Domain: "ghe.example.com", Value: "another"},
		{Forge: Gitea, Domain: "git.example.com", Value: testSecret}, {Forge: GitLab, Value: testSecret},
	}}
	opts := Options{Target: w.target, Store: store, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Secrets: func() []Secret { return w.secrets }, Timing: Timing{Pace: time.Millisecond, Retry: time.Millisecond, Answer: 5 * time.Second}}
	for _, e := range edit {
		e(&opts)
	}
	w.Receiver = New(opts)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- w.Run(ctx) }()
	w.kill = sync.OnceFunc(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.kill)
	select {
	case <-w.inbox.begun:
	case <-w.inbox.gone:
	}
	return w
}

// A delivery is one request of a forge.
type delivery struct {
	path    string
	forge   Forge
	event   string
	id      string
	body    []byte
	secret  string
	sha1    bool
	bare    bool // no signature
	form    bool
	media   string
	headers map[string]string
}

var deliveries struct { //nolint:gochecknoglobals // fresh ids
	mu sync.Mutex
	n  int
}

func freshID() string {
	deliveries.mu.Lock()
	defer deliveries.mu.Unlock()
	deliveries.n++
	return fmt.Sprintf("id-%d", deliveries.n)
}

func sign(h func() hash.Hash, secret string, body []byte) string {
	mac := hmac.New(h, []byte(secret))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

func (d delivery) request() *http.Request {
	body := d.body
	media := "application/json"
	if d.form {
		body = []byte("payload=" + url.QueryEscape(string(body)))
		media = "application/x-www-form-urlencoded"
	}
	if d.media != "" {
		media = d.media
	}
	if d.path == "" {
		d.path = "/webhook/" + string(d.forge)
	}
	if d.id == "" {
		d.id = freshID()
	}
	r := httptest.NewRequest(http.MethodPost, d.path, bytes.NewReader(body))
	r.Header.Set("Content-Type", media)
	switch d.forge {
	case GitHub:
		r.Header.Set("X-GitHub-Event", d.event)
		r.Header.Set("X-GitHub-Delivery", d.id)
		if d.sha1 {
			r.Header.Set("X-Hub-Signature", "sha1="+sign(sha1.New, d.secret, body))
		} else if !d.bare {
			r.Header.Set("X-Hub-Signature-256", "sha256="+sign(sha256.New, d.secret, body))
		}
	case Gitea, Forgejo:
		r.Header.Set("X-Gitea-Event", d.event)
		r.Header.Set("X-Gitea-Delivery", d.id)
		r.Header.Set("X-GitHub-Event", d.event)
		if d.sha1 {
			r.Header.Set("X-Hub-Signature", "sha1="+sign(sha1.New, d.secret, body))
		} else if !d.bare {
			r.Header.Set("X-Gitea-Signature", sign(sha256.New, d.secret, body))
		}
	case GitLab:
		r.Header.Set("X-Gitlab-Event", d.event)
		r.Header.Set("Idempotency-Key", d.id)
		if !d.bare && !d.sha1 {
			r.Header.Set("X-Gitlab-Token", d.secret)
		}
	}
	for k, v := range d.headers {
		r.Header.Set(k, v)
	}
	return r
}

// send delivers and returns status and answer.
func (w *world) send(d delivery) (int, string) {
	if d.secret == "" {
		d.secret = testSecret
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, d.request())
	return rec.Code, strings.TrimSpace(rec.Body.String())
}

func push(repo, branch, before, after string, paths ...string) []byte {
	return fmt.Appendf(nil, `{"ref":"refs/heads/%s","before":%q,"after":%q,"commits":[{"id":%q,"modified":["%s"]}],
		"repository":{"full_name":%q,"clone_url":"https://github.com/%s.git","ssh_url":"git@github.com:%s.git"}}`,
		branch, before, after, after, strings.Join(paths, `","`), repo, repo, repo)
}

var errTest = errors.New("test")

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

func (w *world) serve(r *http.Request) int {
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec.Code
}

// emptySigned are the headers of a hook whose secret is empty: a digest made with it, or none.
func emptySigned(d *delivery) map[string]string {
	switch d.forge {
	case GitHub:
		return map[string]string{"X-Hub-Signature-256": "sha256=" + sign(sha256.New, "", d.body)}
	case GitLab:
		return map[string]string{"X-Gitlab-Token": ""}
	}
	return map[string]string{"X-Gitea-Signature": sign(sha256.New, "", d.body), "X-Hub-Signature-256": "sha256="}
}

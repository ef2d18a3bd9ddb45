package forge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"github.com/varanhq/varan/sync/dial"
)

const (
	maxAnswer   = 32 << 20 // bytes: a hundred pull requests with bodies of 64 KiB fit
	callTimeout = 60 * time.Second
	readTries   = 3
	atOnce      = 8 // reads; GitHub allows a hundred requests of all clients of a credential
)

// HTTP is what the three clients send through: it holds to the rules of TRUST, obeys rate limits, tries reads
// again and makes them conditional.
type HTTP struct {
	Client *http.Client      // authorizes as the credential
	Plain  http.RoundTripper // the rules only: no credential, no second try
	base   *url.URL
	gate   *gate

	mu      gosync.Mutex  // guards below
	secrets []string      // texts that no error may show
	ahead   time.Duration // of the forge's clock before ours
}

// Now is the forge's clock, as its last answer told it.
func (h *HTTP) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Add(h.ahead)
}

// sets notes the forge's clock.
func (h *HTTP) sets(date string) {
	at, err := http.ParseTime(date)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ahead = time.Until(at)
}

// NewHTTP prepares one forge's connections. authorize wraps what sends with what adds the credential.
func NewHTTP(o Options, base *url.URL, authorize func(http.RoundTripper) http.RoundTripper) *HTTP {
	h := &HTTP{base: base, gate: newGate()}
	h.Secret(o.Token)
	agent := o.Agent
	if agent == "" {
		agent = "varan"
	}
	h.Plain = &guard{h: h, agent: agent, reads: make(chan struct{}, atOnce), writes: make(chan struct{}, 1), next: &http.Transport{
		// no Proxy: nothing of the environment decides where a credential goes
		DialContext:           dial.Dialer(o.AllowInternal).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       5 * time.Minute,
		TLSHandshakeTimeout:   20 * time.Second,
		ResponseHeaderTimeout: 45 * time.Second,
	}}
	h.Client = &http.Client{
		Transport:     &again{next: &conditional{next: authorize(h.Plain), kept: newKept(32 << 20)}},
		CheckRedirect: h.redirect,
		Timeout:       callTimeout,
	}
	return h
}

// Secret names a text that no error may show.
func (h *HTTP) Secret(s string) {
	if len(s) < 4 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.secrets, s) {
		h.secrets = append(h.secrets, s)
		if len(h.secrets) > 16 { // an App has a new token every hour; the first is varan.toml's
			h.secrets = slices.Delete(h.secrets, 1, 2)
		}
	}
}

// redirect follows to https only, and only reads: a write that is sent elsewhere becomes a read by the rules of
// HTTP. The credential is taken off by the guard when the host changes.
func (h *HTTP) redirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > 5:
		return fmt.Errorf("%w: more than five redirects", dial.ErrRefused)
	case via[0].Method != http.MethodGet && via[0].Method != http.MethodHead:
		return fmt.Errorf("%w: the forge moved it to %s: set the new address", dial.ErrRefused, req.URL.Redacted())
	case req.URL.Scheme != "https":
		return fmt.Errorf("%w: redirect to %s: only https is followed", dial.ErrRefused, req.URL.Redacted())
	}
	req.URL.User = nil
	return nil
}

// ours reports whether the credential may go there.
func (h *HTTP) ours(u *url.URL) bool {
	return u.Scheme == h.base.Scheme && strings.EqualFold(u.Host, h.base.Host)
}

// guard is the last before the wire.
type guard struct {
	h      *HTTP
	agent  string
	reads  chan struct{} // room for those under way
	writes chan struct{} // one after another, as GitHub asks for
	next   http.RoundTripper
}

// credentials are the headers that hold one, of all three forges.
var credentials = []string{"Authorization", "Private-Token", "Job-Token", "Cookie", "X-Gitea-Otp", "Sudo"}

// RoundTrip sends, unless a rate limit stands, and learns of new ones.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	room := g.writes
	if read(req) {
		room = g.reads
	}
	select {
	case room <- struct{}{}:
		defer func() { <-room }()
	case <-req.Context().Done():
		closeBody(req)
		return nil, context.Cause(req.Context())
	}
	if err := g.h.gate.open(time.Now()); err != nil {
		closeBody(req)
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", g.agent)
	if !g.h.ours(req.URL) {
		for _, name := range credentials {
			req.Header.Del(name)
		}
	}
	for _, name := range credentials {
		_, value, _ := strings.Cut(req.Header.Get(name), " ")
		g.h.Secret(value)
		g.h.Secret(req.Header.Get(name))
	}
	res, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = &bounded{ReadCloser: res.Body, left: maxAnswer}
	if links := res.Header.Values("Link"); len(links) > 0 {
		res.Header.Set("Link", wellFormed(strings.Join(links, ",")))
	}
	if g.h.ours(req.URL) {
		g.h.sets(res.Header.Get("Date"))
		if err := g.h.gate.learn(res, time.Now()); err != nil {
			_ = res.Body.Close()
			return nil, err
		}
	}
	return res, nil
}

// aLink is one entry of a Link header as the three forges write it (RFC 8288): <URL>; rel="next".
var aLink = regexp.MustCompile(`^\s*<[^<>;\s]+>(\s*;\s*[a-z]+="?[^";,]*"?)+\s*$`)

// wellFormed leaves out what is no link: GitLab's client panics on a parameter without a value.
func wellFormed(links string) string {
	var keep []string
	for entry := range strings.SplitSeq(links, ",") {
		if aLink.MatchString(entry) {
			keep = append(keep, entry)
		}
	}
	return strings.Join(keep, ",")
}

func read(req *http.Request) bool {
	return req.Method == http.MethodGet || req.Method == http.MethodHead
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// bounded ends an answer that is longer than any forge's.
type bounded struct {
	io.ReadCloser
	left int64
}

var errTooBig = errors.New("the answer is longer than 32 MiB")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooBig
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// again tries a read a few times when the forge is down or the connection breaks, also in the midst of an answer.
type again struct{ next http.RoundTripper }

// RoundTrip returns answers to reads whole, so that what follows cannot break.
func (a *again) RoundTrip(req *http.Request) (*http.Response, error) {
	if !read(req) {
		return a.next.RoundTrip(req)
	}
	for try := 1; ; try++ {
		res, err := a.once(req)
		var limited *RateLimited
		final := err != nil && (errors.As(err, &limited) || errors.Is(err, dial.ErrRefused) || errors.Is(err, errTooBig))
		fine := err == nil && res.StatusCode < 500
		if fine || final || try == readTries || req.Context().Err() != nil {
			return res, err
		}
		select { // 0.2 s, then 0.8 s, give or take
		case <-time.After(jitter(50*time.Millisecond) + 150*time.Millisecond<<(2*(try-1))):
		case <-req.Context().Done():
			return res, err
		}
	}
}

func (a *again) once(req *http.Request) (*http.Response, error) {
	res, err := a.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

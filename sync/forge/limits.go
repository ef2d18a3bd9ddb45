package forge

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	gosync "sync"
	"time"
)

const (
	firstWait = time.Minute // GitHub asks for at least that when it does not say how long
	longWait  = 16 * time.Minute
	maxWait   = 2 * time.Hour // no forge's window is longer; an absurd header must not silence us for good
)

// gate keeps calls back while a rate limit stands.
type gate struct {
	mu     gosync.Mutex // guards what follows
	until  time.Time
	detail string
	grow   time.Duration // the next wait when the forge does not say how long
}

func newGate() *gate { return &gate{grow: firstWait} }

// open is nil when calls may be made.
func (g *gate) open(now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Before(g.until) {
		return &RateLimited{Until: g.until, Detail: g.detail}
	}
	return nil
}

// learn looks at an answer for a limit. One that is refused for it is an error. The headers are taken away: the
// clients' libraries keep books of their own, some of them wrong.
func (g *gate) learn(res *http.Response, now time.Time) error {
	limited := false
	switch res.StatusCode {
	case http.StatusTooManyRequests:
		limited = true
	case http.StatusForbidden:
		limited = res.Header.Get("Retry-After") != "" || spent(res.Header) || saysLimited(res)
	case http.StatusServiceUnavailable:
		limited = res.Header.Get("Retry-After") != ""
	}
	wait, nothingLeft := told(res.Header, now), spent(res.Header)
	for _, names := range [][]string{remaining, reset} {
		for _, name := range names {
			res.Header.Del(name)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case limited && wait > 0:
		g.close(now, wait, "the forge said how long")
	case limited:
		g.close(now, g.grow, "the forge did not say how long")
		g.grow = min(2*g.grow, longWait)
	case res.StatusCode < 400 && nothingLeft && wait > 0:
		g.close(now, wait, "no request is left in this hour") // the next one would be refused
	case res.StatusCode < 400:
		g.grow = firstWait
	}
	if limited {
		return &RateLimited{Until: g.until, Detail: g.detail}
	}
	return nil
}

// close puts the gate off; never to an earlier time. The caller holds mu.
func (g *gate) close(now time.Time, wait time.Duration, detail string) {
	wait = min(wait, maxWait)
	if until := now.Add(wait + jitter(wait/10+time.Second/2)); until.After(g.until) {
		g.until, g.detail = until, detail
	}
}

// jitter is some time up to max.
func jitter(max time.Duration) time.Duration { return rand.N(max + 1) }

// remaining and reset are GitHub's names, then GitLab's.
var (
	remaining = []string{"X-Ratelimit-Remaining", "Ratelimit-Remaining"}
	reset     = []string{"X-Ratelimit-Reset", "Ratelimit-Reset"}
)

func first(h http.Header, names []string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}

func spent(h http.Header) bool { return first(h, remaining) == "0" }

// told is how long the forge says to wait; 0 = it does not. Moments are compared with the forge's own clock.
func told(h http.Header, now time.Time) time.Duration {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	if after := h.Get("Retry-After"); after != "" {
		if s, err := strconv.Atoi(after); err == nil {
			return time.Duration(min(max(s, 1), 1<<20)) * time.Second
		}
		if t, err := http.ParseTime(after); err == nil {
			return max(t.Sub(now), time.Second)
		}
	}
	if !spent(h) {
		return 0
	}
	if s, err := strconv.ParseInt(first(h, reset), 10, 64); err == nil && s > 0 && s < 1<<40 {
		return max(time.Unix(s, 0).Sub(now), time.Second)
	}
	return 0
}

// saysLimited reads a 403's text, which is all that tells a secondary limit from a missing permission at times.
func saysLimited(res *http.Response) bool {
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), res.Body), res.Body}
	if err != nil {
		return false
	}
	text := strings.ToLower(string(body))
	return strings.Contains(text, "rate limit") || strings.Contains(text, "rate-limit") || strings.Contains(text, "abuse detection")
}

// CheckStatus refuses what a forge would.
func CheckStatus(s Status) error {
	for _, f := range []struct {
		what, text string
		max        int
	}{{"description", s.Description, MaxDescription}, {"context", s.Context, MaxContext}, {"link", s.URL, MaxURL}} {
		if n := len([]rune(f.text)); n > f.max {
			return fmt.Errorf("%w: a status's %s of %d characters, at most %d", ErrTooLong, f.what, n, f.max)
		}
	}
	if s.Context == "" {
		return fmt.Errorf("%w: a status without a context", ErrRefused)
	}
	switch s.State {
	case Pending, Success, Failure, Error:
		return nil
	}
	return fmt.Errorf("%w: no status has the state %q", ErrRefused, s.State)
}

// CheckBody refuses a comment that a forge would.
func CheckBody(body string) error {
	if n := len([]rune(body)); n > MaxComment {
		return fmt.Errorf("%w: a comment of %d characters, at most %d", ErrTooLong, n, MaxComment)
	}
	if strings.TrimSpace(body) == "" {
		return fmt.Errorf("%w: an empty comment", ErrRefused)
	}
	return nil
}

// CheckCheckRun refuses a check run that a forge would.
func CheckCheckRun(run CheckRun) error {
	switch {
	case len(run.Annotations) > MaxAnnotations:
		return fmt.Errorf("%w: %d annotations, at most %d", ErrTooLong, len(run.Annotations), MaxAnnotations)
	case len([]rune(run.Summary)) > MaxSummary:
		return fmt.Errorf("%w: a summary of %d characters, at most %d", ErrTooLong, len([]rune(run.Summary)), MaxSummary)
	case run.Name == "" || run.Title == "" || run.Summary == "":
		return fmt.Errorf("%w: a check run needs a name, a title and a summary", ErrRefused)
	}
	for _, a := range run.Annotations {
		if a.Path == "" || a.Line < 1 || a.Message == "" {
			return fmt.Errorf("%w: an annotation needs a path, a line and a message", ErrRefused)
		}
	}
	return nil
}

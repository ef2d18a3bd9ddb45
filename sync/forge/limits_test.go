package forge

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestGate: how long nothing is sent, by what the forge answered. Its clock, not ours, says when a moment is.
func TestGate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	theirs := now.Add(-3 * time.Hour) // their clock is wrong, or ours
	for name, tc := range map[string]struct {
		status int
		header map[string]string
		body   string
		wait   time.Duration // 0 = open
		passes bool          // the answer itself is not a refusal
	}{
		"fine":               {status: 200, header: map[string]string{"X-RateLimit-Remaining": "4999"}, passes: true},
		"retry after":        {status: 429, header: map[string]string{"Retry-After": "30"}, wait: 30 * time.Second},
		"retry after a date": {status: 429, header: map[string]string{"Retry-After": theirs.Add(time.Minute).Format(http.TimeFormat)}, wait: time.Minute},
		"reset":              {status: 403, header: map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": unix(theirs.Add(10 * time.Minute))}, wait: 10 * time.Minute},
		"gitlab's reset":     {status: 429, header: map[string]string{"RateLimit-Remaining": "0", "RateLimit-Reset": unix(theirs.Add(time.Minute))}, wait: time.Minute},
		"nothing said":       {status: 429, wait: time.Minute},
		"reset, some left":   {status: 429, header: map[string]string{"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": unix(theirs.Add(time.Hour))}, wait: time.Minute},
		"only in words":      {status: 403, body: `{"message":"You have triggered an abuse detection mechanism."}`, wait: time.Minute},
		"a missing right":    {status: 403, body: `{"message":"Resource not accessible by integration"}`, passes: true},
		"down":               {status: 503, passes: true},
		"down, comes back":   {status: 503, header: map[string]string{"Retry-After": "120"}, wait: 2 * time.Minute},
		"the last one":       {status: 200, header: map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": unix(theirs.Add(time.Minute))}, wait: time.Minute, passes: true},
		"absurd":             {status: 429, header: map[string]string{"Retry-After": "99999999"}, wait: 2 * time.Hour},
		"absurd reset":       {status: 403, header: map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "999999999999"}, wait: 2 * time.Hour},
		"in the past":        {status: 403, header: map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}, wait: time.Second},
		"negative":           {status: 429, header: map[string]string{"Retry-After": "-5"}, wait: time.Second},
		"no number":          {status: 429, header: map[string]string{"Retry-After": "soon"}, wait: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			res := &http.Response{StatusCode: tc.status, Header: http.Header{}, Body: http.NoBody}
			res.Header.Set("Date", theirs.Format(http.TimeFormat))
			for k, v := range tc.header {
				res.Header.Set(k, v)
			}
			if tc.body != "" {
				res.Body = body{strings.NewReader(tc.body)}
			}
			g := newGate()
			if err := g.learn(res, now); (err == nil) != tc.passes {
				t.Errorf("got %v", err)
			}
			var limited *RateLimited
			err := g.open(now)
			if tc.wait == 0 {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if !errors.As(err, &limited) {
				t.Fatal("the gate is open")
			}
			if wait := limited.Until.Sub(now); wait < tc.wait || wait > tc.wait+tc.wait/10+time.Second {
				t.Errorf("waits %s, want %s and a little", wait, tc.wait)
			}
			if err := g.open(limited.Until); err != nil {
				t.Errorf("still closed at its time: %v", err)
			}
			if res.Header.Get("X-Ratelimit-Remaining") != "" {
				t.Error("the library keeps books too")
			}
		})
	}
}

// TestGateGrows: each time the forge does not say how long, twice as long, until something goes through.
func TestGateGrows(t *testing.T) {
	g, now := newGate(), time.Now()
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 16} {
		err := g.learn(&http.Response{StatusCode: 429, Header: http.Header{}, Body: http.NoBody}, now)
		limited := (*RateLimited)(nil)
		if !errors.As(err, &limited) || limited.Until.Sub(now) < want*time.Minute {
			t.Fatalf("want %d minutes: %v", want, err)
		}
		now = limited.Until
	}
	if err := g.learn(&http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, now); err != nil || g.grow != firstWait {
		t.Errorf("%v %s", err, g.grow)
	}
}

// TestKept: answers are kept within their bytes, those used last.
func TestKept(t *testing.T) {
	k := newKept(100_000)
	for i := range 100 {
		k.put(strconv.Itoa(i), answer{body: make([]byte, 5000)})
		k.get("0") // used all the time
	}
	if k.bytes > k.max || len(k.byKey) != k.order.Len() || len(k.byKey) < 10 {
		t.Errorf("%d answers of %d bytes", len(k.byKey), k.bytes)
	}
	if _, ok := k.get("0"); !ok {
		t.Error("the one used most is gone")
	}
	if _, ok := k.get("99"); !ok {
		t.Error("the newest is gone")
	}
	k.put("huge", answer{body: make([]byte, 90_000)})
	if _, ok := k.get("huge"); ok {
		t.Error("one that fills all is kept")
	}
	for i := range 100 {
		k.drop(strconv.Itoa(i))
	}
	if k.bytes != 0 || len(k.byKey) != 0 {
		t.Errorf("%d bytes are left", k.bytes)
	}
}

// TestParseRepo: OWNER/NAME from the path of an address, and nothing that means something in a URL.
func TestParseRepo(t *testing.T) {
	for path, want := range map[string]Repo{
		"/acme/infra.git": {"acme", "infra"}, "acme/infra": {"acme", "infra"}, "/a/b/c.git/": {"a/b", "c"},
		"": {}, "infra": {}, "/": {}, "a//b": {}, "../x": {}, "a/..": {}, "a/b?c": {}, "a/b#c": {}, "a/%2e%2e": {}, "a b/c": {}, "a/b\n": {},
	} {
		if got, err := ParseRepo(path); got != want || (err == nil) != (want != Repo{}) {
			t.Errorf("%q: %v %v", path, got, err)
		}
	}
}

// TestBase: where an API lies, and what is refused as one.
func TestBase(t *testing.T) {
	for _, tc := range []struct {
		o    Options
		want string
	}{
		{Options{Kind: GitHub, Domain: "github.com"}, "https://api.github.com"},
		{Options{Kind: GitHub, Domain: "ghe.acme.example"}, "https://ghe.acme.example/api/v3"},
		{Options{Kind: GitHub, Domain: "x", APIURL: "https://ghe/api/v3/"}, "https://ghe/api/v3"},
		{Options{Kind: Gitea, Domain: "git.acme.example:3000"}, "https://git.acme.example:3000"},
		{Options{Kind: Gitea, Domain: "x", APIURL: "https://git/sub/api/v1/"}, "https://git/sub"},
		{Options{Kind: GitLab, Domain: "gitlab.com"}, "https://gitlab.com/api/v4"},
		{Options{Kind: GitLab, Domain: "x", APIURL: "https://git/sub"}, "https://git/sub/api/v4"},
		{Options{Kind: GitLab, Domain: "x", APIURL: "http://git", AllowHTTP: true}, "http://git/api/v4"},
		{Options{Kind: GitHub}, ""},
		{Options{Kind: "svn", Domain: "x"}, ""},
		{Options{Kind: GitHub, Domain: "x", APIURL: "http://ghe/api/v3"}, ""},
		{Options{Kind: GitHub, Domain: "x", APIURL: "https://me:secret-word@ghe/api/v3"}, ""},
		{Options{Kind: GitHub, Domain: "x", APIURL: "https://ghe/?token=secret-word"}, ""},
		{Options{Kind: GitHub, Domain: "x", APIURL: "file:///etc/passwd"}, ""},
		{Options{Kind: GitHub, Domain: "x", APIURL: "ghe"}, ""},
	} {
		u, err := tc.o.Base()
		if (err == nil) != (tc.want != "") || err == nil && u.String() != tc.want {
			t.Errorf("%s %q: %v %v", tc.o, tc.o.APIURL, u, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret-word") {
			t.Errorf("a password in %v", err)
		}
	}
}

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

type body struct{ *strings.Reader }

func (body) Close() error { return nil }

package httpd

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
)

// shown is a daemon with something to show.
type shown struct {
	fake
	status sync.Status
	runs   []sync.RunInfo
	run    *sync.Run
}

func (s *shown) Status() sync.Status                               { return s.status }
func (s *shown) Runs(context.Context, int) ([]sync.RunInfo, error) { return s.runs, nil }
func (s *shown) RunByID(_ context.Context, id string) (*sync.Run, error) {
	if s.run == nil || id != s.run.ID {
		return nil, fmt.Errorf("run %s: %w", id, sync.ErrUnknown)
	}
	return s.run, nil
}

// browser follows no redirect and keeps cookies.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func fetch(t *testing.T, c *http.Client, method, u string, form url.Values, header ...string) (*http.Response, string) {
	t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, u, body)
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

func TestPageSession(t *testing.T) {
	d := &shown{status: sync.Status{Fleet: "t"}, run: &sync.Run{RunInfo: sync.RunInfo{ID: "20261122T230501Z-7f3a", Status: "done"}}}
	s, dir := startWith(t, d)
	base := "http://" + s.Addr().String()
	data, err := os.ReadFile(filepath.Join(dir, "read-token"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(data))
	runPage := "/runs/" + d.run.ID
	c := browser(t)

	resp, _ := fetch(t, c, "GET", base+runPage, nil)
	if resp.StatusCode != 303 || resp.Header.Get("Location") != "/login?next="+url.QueryEscape(runPage) {
		t.Errorf("a run without a session: %d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	if resp, body := fetch(t, c, "GET", base+runPage, nil, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"); resp.StatusCode != 200 || !strings.Contains(body, "0;url="+runPage) {
		t.Errorf("a click on a forge: %d %s", resp.StatusCode, body)
	}
	if resp, body := fetch(t, c, "POST", base+"/login", url.Values{"token": {"wrong"}}); resp.StatusCode != 401 || len(resp.Cookies()) > 0 {
		t.Errorf("wrong token: %d %s", resp.StatusCode, body)
	}
	for _, next := range []string{"https://evil.example/", "//evil.example", `/\evil.example`, "/runs/../api", "/runs/%2e%2e", "javascript:alert(1)", "/runs/a/b"} {
		resp, _ := fetch(t, browser(t), "POST", base+"/login", url.Values{"token": {token}, "next": {next}})
		if got := resp.Header.Get("Location"); got != "/" {
			t.Errorf("next %q leads to %q", next, got)
		}
	}
	if resp, _ := fetch(t, c, "POST", base+"/login", url.Values{"token": {token}}, "Sec-Fetch-Site", "cross-site"); resp.StatusCode != 403 || len(resp.Cookies()) > 0 {
		t.Errorf("log-in from another site: %d", resp.StatusCode)
	}
	resp, _ = fetch(t, c, "POST", base+"/login", url.Values{"token": {token}, "next": {runPage}})
	if resp.StatusCode != 303 || resp.Header.Get("Location") != runPage || len(resp.Cookies()) != 1 {
		t.Fatalf("log-in: %d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	cookie := resp.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || cookie.Domain != "" || cookie.MaxAge <= 0 {
		t.Errorf("cookie %s", resp.Header.Get("Set-Cookie"))
	}
	if strings.Contains(resp.Header.Get("Set-Cookie"), token) {
		t.Error("the cookie holds the token")
	}
	for _, path := range []string{"/", runPage} {
		resp, body := fetch(t, c, "GET", base+path, nil)
		if resp.StatusCode != 200 {
			t.Errorf("%s with a session: %d", path, resp.StatusCode)
		}
		checkHeaders(t, resp)
		_, css, _ := strings.Cut(body, "<style>")
		css, _, _ = strings.Cut(css, "</style>")
		sum := sha256.Sum256([]byte(css))
		if len(css) < 1000 || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
			t.Errorf("%s: the policy does not let its own style in", path)
		}
		if strings.Contains(body, token) || strings.Contains(body, cookie.Value) {
			t.Errorf("%s shows the token or the session", path)
		}
	}
	if resp, _ := fetch(t, c, "GET", base+"/runs/none", nil); resp.StatusCode != 404 {
		t.Errorf("unknown run: %d", resp.StatusCode)
	}
	if resp, _ := fetch(t, browser(t), "GET", base+"/", nil, "Authorization", "Bearer "+token); resp.StatusCode != 200 {
		t.Errorf("the page with a token: %d", resp.StatusCode)
	}

	// The cookie opens pages and nothing else.
	for _, x := range [][2]string{{"GET", "/api/v1/status"}, {"GET", "/api/v1/runs"}, {"GET", "/api/v1/logs"}, {"GET", "/metrics"}, {"POST", "/api/v1/plan"}, {"POST", "/api/v1/apply"}, {"POST", "/api/v1/run"},
		{"POST", "/api/v1/remove"}, {"POST", "/api/v1/hold"}, {"POST", "/api/v1/pause"}, {"POST", "/api/v1/cancel"}, {"POST", "/api/v1/approve"}, {"POST", "/api/v1/sync"}} {
		c := &http.Client{Jar: c.Jar}
		if resp, _ := fetch(t, c, x[0], base+x[1], url.Values{}); resp.StatusCode != 401 && resp.StatusCode != 429 {
			t.Errorf("%s %s by cookie: %d, want 401", x[0], x[1], resp.StatusCode)
		}
	}
	for _, path := range []string{"/", runPage} {
		if resp, _ := fetch(t, c, "POST", base+path, url.Values{"approve": {"1"}}); resp.StatusCode != 405 {
			t.Errorf("POST %s: %d, want 405", path, resp.StatusCode)
		}
	}
	if len(d.asked) > 0 {
		t.Errorf("the daemon was asked to act: %v", d.asked)
	}

	if resp, _ := fetch(t, c, "POST", base+"/logout", url.Values{}); resp.StatusCode != 303 {
		t.Errorf("log-out: %d", resp.StatusCode)
	}
	old := browser(t)
	if resp, _ := fetch(t, old, "GET", base+"/", nil, "Cookie", cookieName+"="+cookie.Value); resp.StatusCode != 303 {
		t.Errorf("an ended session: %d", resp.StatusCode)
	}
}

// TestPageSecure: behind TLS the cookie never leaves it; a header counts from trusted proxies only.
func TestPageSecure(t *testing.T) {
	p := &page{s: &Server{opts: Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}}
	for _, tt := range []struct {
		from, proto string
		tls, want   bool
	}{{"10.1.2.3:4", "https", false, true}, {"10.1.2.3:4", "http", false, false}, {"192.0.2.1:4", "https", false, false}, {"192.0.2.1:4", "", true, true}} {
		r := httptest.NewRequest("POST", "/login", nil)
		r.RemoteAddr = tt.from
		r.Header.Set("X-Forwarded-Proto", tt.proto)
		if tt.tls {
			r.TLS = &tls.ConnectionState{}
		}
		if got := p.cookie(r, "x", 1).Secure; got != tt.want {
			t.Errorf("%+v: secure %v", tt, got)
		}
	}
}

// TestPageGuesses: failed log-ins are bounded for the form too.
func TestPageGuesses(t *testing.T) {
	s, _ := startWith(t, &shown{})
	last := 0
	for range failsEach + 1 {
		resp, _ := fetch(t, browser(t), "POST", "http://"+s.Addr().String()+"/login", url.Values{"token": {"guess"}})
		last = resp.StatusCode
	}
	if last != 429 {
		t.Errorf("after many guesses: %d, want 429", last)
	}
}

func TestSessions(t *testing.T) {
	var s sessions
	now := time.Unix(0, 0)
	token := Token{Name: "a", Hash: [32]byte{1}}
	v := s.begin(token, now)
	if !s.holds(v, []Token{token}, now.Add(sessionLife)) || s.holds(v, []Token{token}, now.Add(sessionLife+1)) {
		t.Error("a session does not last as long as it should")
	}
	if s.holds(v, []Token{{Hash: [32]byte{2}}}, now) || s.holds(v, nil, now) {
		t.Error("a session outlives its token")
	}
	if s.holds("", []Token{token}, now) || s.holds("x", []Token{token}, now) {
		t.Error("anything is a session")
	}
	for i := range maxSessions + 10 {
		s.begin(token, now.Add(time.Duration(i)*time.Millisecond))
	}
	if len(s.open) > maxSessions || s.holds(v, []Token{token}, now) {
		t.Errorf("%d sessions", len(s.open))
	}
}

func checkHeaders(t *testing.T, resp *http.Response) {
	t.Helper()
	csp := resp.Header.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "style-src 'sha256-", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"} {
		if !strings.Contains(csp, part) {
			t.Errorf("policy %q lacks %s", csp, part)
		}
	}
	if strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") {
		t.Errorf("policy %q", csp)
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Access-Control-Allow-Origin": ""} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

const canary = "\"'><script>alert(1)</script><img src=x onerror=y>\u202e{{.}}</style></title></pre>javascript:z\x00"

// poison puts text into every string that v holds.
func poison(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		poison(v.Elem(), text)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1_800_000_000, 0)))
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() && v.Type().Field(i).Name != "Declared" {
				poison(v.Field(i), text)
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			poison(v.Index(i), text)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
	case reflect.Interface:
		if v.NumMethod() == 0 {
			v.Set(reflect.ValueOf(text))
		}
	case reflect.String:
		v.SetString(text)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	}
}

// poisoned is a daemon whose every text is text, with one failed and one good step.
func poisoned(text string) *shown {
	d := &shown{run: &sync.Run{}}
	poison(reflect.ValueOf(&d.status).Elem(), text)
	poison(reflect.ValueOf(&d.runs).Elem(), text)
	poison(reflect.ValueOf(d.run).Elem(), text)
	d.run.Plan.Summary = plan.Summary{plan.Create: 1}
	for i := range d.run.Steps {
		d.run.Steps[i].Resource, d.run.Steps[i].Status = schema.ID(fmt.Sprint(text, i)), []string{"failed", "done"}[i]
		d.run.Plan.Steps[i].Resource = d.run.Steps[i].Resource
	}
	d.run.ID = "r1"
	return d
}

// checkPage looks for anything in a page that is not ours. It returns the elements it consists of.
func checkPage(t *testing.T, name, body string) (skeleton []string) {
	t.Helper()
	if strings.ContainsFunc(body, func(r rune) bool { return r != '\n' && unicode.In(r, unicode.Cc, unicode.Cf) }) {
		t.Errorf("%s shows hidden characters", name)
	}
	root, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode {
			skeleton = append(skeleton, n.Data)
			switch n.Data {
			case "script", "img", "iframe", "object", "base", "link":
				t.Errorf("%s has a <%s>", name, n.Data)
			}
			for _, a := range n.Attr {
				if strings.HasPrefix(a.Key, "on") || (a.Key == "href" || a.Key == "action") && !strings.HasPrefix(a.Val, "/") || strings.Contains(a.Val, "<script") {
					t.Errorf("%s: <%s %s=%q>", name, n.Data, a.Key, a.Val)
				}
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(root)
	return skeleton
}

// FuzzPage: whatever stands in whatever field, a page consists of the same elements as with a harmless text there.
func FuzzPage(f *testing.F) {
	for _, s := range []string{canary, "name", "</td></table>", "</pre>", "<", "&lt;", "`", "\u202e", "\xff", "a\nb", "+ a", "https://x", "{{.}}"} {
		f.Add(s)
	}
	s := &Server{opts: Options{Log: slog.New(slog.DiscardHandler)}}
	p, err := newPage(s)
	if err != nil {
		f.Fatal(err)
	}
	pages := func(t *testing.T, text string) (out [][]string) {
		s.opts.Daemon, s.opts.Version = poisoned(text), text
		s.opts.Problems = func() []string { return []string{text} }
		for path, h := range map[string]http.HandlerFunc{"/": p.overview, "/runs/r1": p.run} {
			w, r := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
			r.SetPathValue("id", strings.TrimPrefix(path, "/runs/"))
			h(w, r)
			if w.Code != 200 {
				t.Errorf("%s of %q: %d %s", path, text, w.Code, w.Body)
			}
			out = append(out, checkPage(t, fmt.Sprintf("%s of %q", path, text), w.Body.String()))
		}
		slices.SortFunc(out, func(a, b []string) int { return cmp.Compare(len(a), len(b)) })
		return out
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.TrimSpace(text) == "" || strings.ContainsAny(text, "\n\r") || len(text) > 2000 {
			return // other parts are shown, or more lines of them
		}
		got, want := pages(t, text), pages(t, "name")
		if d := gocmp.Diff(want, got); d != "" {
			t.Errorf("%q has another structure: %s", text, d)
		}
	})
}

// TestPageCanary: text from elsewhere, in whatever field, is text and nothing else.
func TestPageCanary(t *testing.T) {
	d := poisoned(canary)
	s, _ := startWith(t, d)
	base := "http://" + s.Addr().String()
	for _, path := range []string{"/", "/runs/r1", "/runs/" + url.PathEscape(canary), "/login?next=" + url.QueryEscape(canary)} {
		resp, body := fetch(t, browser(t), "GET", base+path, nil, "Authorization", "Bearer operate")
		checkHeaders(t, resp)
		if n := strings.Count(body, "alert(1)"); n < 3 && path != "/login?next="+url.QueryEscape(canary) && !strings.HasPrefix(path, "/runs/%") {
			t.Errorf("%s shows the text %d times: the test looks at too little", path, n)
		}
		checkPage(t, path, body)
	}
}

// TestPageShows is what people come for: what failed, what it printed, what waits.
func TestPageShows(t *testing.T) {
	d := sampleDaemon()
	s, _ := startWith(t, d)
	base := "http://" + s.Addr().String()
	for path, wants := range map[string][]string{
		"/":                    {"nas: no agent answers", "varan approve 1:9d31c04be2a7", "stack/photos", "20261122T230501Z-7f3a", "2 run as declared", "port 8080 is taken"},
		"/runs/" + d.run.ID:    {"port 8080 is taken", "bind: address already in use", "free the port", "postgres:16.4", "4f2c1e9", "rolled back", "41.3 s"},
		"/runs/" + "elsewhere": {"No such run"},
	} {
		_, body := fetch(t, browser(t), "GET", base+path, nil, "Authorization", "Bearer operate")
		root, err := html.Parse(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		text := pageText(root)
		for _, want := range wants {
			if !strings.Contains(text, want) && !strings.Contains(body, want) {
				t.Errorf("%s does not show %q:\n%s", path, want, text)
			}
		}
		if dir := os.Getenv("VARAN_LOOK"); dir != "" {
			if err := os.WriteFile(filepath.Join(dir, "page"+strings.ReplaceAll(path, "/", "-")+".html"), []byte(body), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func pageText(n *html.Node) string {
	if n.Type == html.TextNode {
		return n.Data + " "
	}
	var b strings.Builder
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		b.WriteString(pageText(c))
	}
	return b.String()
}

func sampleDaemon() *shown {
	at := time.Date(2026, 11, 22, 23, 5, 1, 0, time.UTC)
	commit := "4f2c1e9a0b3d5c7e9f1a2b3c4d5e6f708192a3b4"
	d := &shown{}
	d.status = sync.Status{Fleet: "acme", Started: at.Add(-49 * time.Hour), Ready: true, Problem: "1 step failed, 1 server is unreachable",
		Syncs: []sync.SyncStatus{
			{Name: "main", URL: "https://github.com/acme/infra.git", Branch: "main", Tip: commit, Applied: strings.Repeat("7", 40), State: "failed", Error: "stack/app on web1: port 8080 is taken by container \"legacy-api\"", Summary: plan.Summary{plan.Create: 2, plan.Update: 1, plan.None: 58}, Planned: at},
			{Name: "shop", URL: "https://github.com/acme/shop.git", Branch: "release", Tip: commit, State: "asking", Asks: []string{"3 resources would be removed, more than max_removals allows (1)"}, Digest: "1:9d31c04be2a7", Summary: plan.Summary{plan.Remove: 3}, Planned: at},
		},
		Servers: []sync.ServerStatus{{Name: "db1", State: "ok", Resources: 4, Containers: 9}, {Name: "web1", State: "warning", Why: []string{"disk / is 84 % full"}, Resources: 31, Containers: 40, Region: "fra"}, {Name: "nas", State: "unreachable", Unreachable: "nas: no agent answers since 14:02", Resources: 2}},
		Resources: []sync.ResourceStatus{{Resource: "stack/db", Server: "db1", State: "running", Action: plan.None, Commit: commit, Source: plan.Source{File: "stacks/db.toml", Line: 12}}, {Resource: "stack/web", Server: "web1", State: "running", Action: plan.None, Commit: commit},
			{Resource: "stack/app", Server: "web1", State: "absent", Action: plan.Create, Cause: "not running", Source: plan.Source{File: "stacks/app.toml", Line: 1}}, {Resource: "stack/photos", Server: "nas", State: "unknown", Action: plan.Unknown, Cause: "server nas: no agent answers"}},
		Holds: []plan.Hold{{Resource: "stack/app-eu", Kind: plan.HoldFailed, Reason: "app was unhealthy after 5 m: GET /health answers 500", Since: at}},
	}
	info := sync.RunInfo{ID: "20261122T230501Z-7f3a", Sync: "main", Commit: commit, Trigger: "commit", Started: at, Ended: at.Add(41_280 * time.Millisecond), Status: "failed", Summary: plan.Summary{plan.Create: 2, plan.Update: 1, plan.Restart: 1, plan.None: 58}}
	d.runs = []sync.RunInfo{info, {ID: "20261122T181200Z-11aa", Sync: "main", Commit: strings.Repeat("7", 40), Trigger: "drift", Started: at.Add(-5 * time.Hour), Ended: at.Add(-5*time.Hour + 3*time.Second), Status: "done", Summary: plan.Summary{plan.Restart: 1, plan.None: 61}}}
	d.run = &sync.Run{RunInfo: info, Plan: &plan.Plan{Steps: []plan.Step{
		{Resource: "stack/db", Causes: []plan.Cause{{Kind: plan.ImageChanged, Detail: "db gets another image"}}, Changes: []plan.Change{{Path: "services.db.image", Old: "postgres:16.3", New: "postgres:16.4"}, {Path: "services.db.environment.PASSWORD", Old: "[[DB_PASSWORD]]", New: "[[DB_PASSWORD_2]]"}}},
		{Resource: "stack/app", Wave: 1, Causes: []plan.Cause{{Kind: plan.NotRunning}}}, {Resource: "stack/app-eu", Wave: 1, Causes: []plan.Cause{{Kind: plan.NotRunning}}}, {Resource: "deployment/edge", Wave: 2, Causes: []plan.Cause{{Kind: plan.CameAfter, Detail: "comes after stack/app, which changes"}}},
	}}, Steps: []sync.RunStep{
		{Resource: "stack/db", Server: "db1", Action: "update", Status: "done", Millis: 5900},
		{Resource: "stack/app", Server: "web1", Action: "create", Status: "failed", Error: `port 8080 is taken by container "legacy-api" (not varan's)`, Hint: "free the port or change it at stacks/app/compose.yaml:9", Tail: "app-1  | listen tcp 0.0.0.0:8080: bind: address already in use\napp-1  | exit status 1\n", Millis: 2190},
		{Resource: "stack/app-eu", Server: "web2", Action: "update", Status: "rolled_back", Error: "app was unhealthy after 5 m: GET /health answers 500", Held: "1:x", Millis: 302_500},
		{Resource: "deployment/edge", Server: "web1", Action: "restart", Status: "not_tried", Error: "stack/app failed"},
	}}
	return d
}

package httpd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
)

// fake is a daemon that remembers what it was asked.
type fake struct {
	ready bool
	asked []string
}

func (f *fake) note(format string, args ...any) {
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
}
func (f *fake) Status() sync.Status {
	return sync.Status{Fleet: "t", Ready: f.ready, Holds: []plan.Hold{{Kind: plan.HoldUser}},
		Resources: []sync.ResourceStatus{{Resource: "stack/a", State: "stopped", Action: plan.Restart}}}
}
func (f *fake) Runs(context.Context, int) ([]sync.RunInfo, error) {
	return []sync.RunInfo{{ID: "r1"}}, nil
}
func (f *fake) RunByID(_ context.Context, id string) (*sync.Run, error) {
	return nil, fmt.Errorf("run %s: %w", id, sync.ErrUnknown)
}
func (f *fake) Plan(_ context.Context, req sync.PlanRequest) (*plan.Plan, error) {
	f.note("plan %s", req.Dir)
	return &plan.Plan{Version: 1, Digest: "1:a"}, nil
}
func (f *fake) Apply(_ context.Context, req sync.ApplyRequest, events func(apply.Event)) (*plan.Plan, *apply.Result, error) {
	f.note("apply by %s", req.Actor)
	if req.Digest == "1:old" {
		return nil, nil, sync.ErrChanged
	}
	events(apply.Event{Kind: apply.RunStarted, Run: "r1"})
	events(apply.Event{Kind: apply.RunFinished, Run: "r1"})
	return &plan.Plan{Digest: "1:a"}, &apply.Result{Run: "r1", Status: apply.StatusDone}, nil
}
func (f *fake) Events(ctx context.Context, fn func(apply.Event)) error {
	fn(apply.Event{Kind: apply.RunFinished, Detail: "done"})
	fn(apply.Event{Kind: apply.StepDone, Action: plan.Create, Step: &apply.StepResult{Status: apply.StatusDone}})
	<-ctx.Done()
	return ctx.Err()
}
func (f *fake) Hold(_ context.Context, req sync.HoldRequest) error {
	f.note("hold %s", req.Resource)
	return nil
}
func (f *fake) Pause(context.Context, sync.PauseRequest) error { f.note("pause"); return nil }
func (f *fake) Cancel(context.Context, string) error           { f.note("cancel"); return nil }
func (f *fake) Remove(context.Context, schema.ID, string, func(apply.Event)) (*apply.Result, error) {
	return nil, errors.New("no")
}
func (f *fake) Approve(_ context.Context, digest, actor string) error {
	f.note("approve %s by %s", digest, actor)
	return nil
}
func (f *fake) RunNow(context.Context, schema.ID, string, func(apply.Event)) (*apply.Result, error) {
	return &apply.Result{}, nil
}
func (f *fake) Sync(context.Context, string) error { return nil }
func (f *fake) Logs(_ context.Context, req sync.LogsRequest, w io.Writer) error {
	if req.Resource == "stack/gone" {
		_, err := w.Write(nil) // nothing was printed before it failed
		return errors.Join(errors.New("no container is there"), err)
	}
	_, err := io.WriteString(w, "printed by "+string(req.Resource)+"\n")
	return err
}

func start(t *testing.T, f *fake) (s *Server, dir string) {
	t.Helper()
	return startWith(t, f)
}

func startWith(t *testing.T, d Daemon) (s *Server, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "v")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err = New(Options{
		Daemon: d, Log: slog.New(slog.DiscardHandler), Version: "v1", Socket: filepath.Join(dir, "varan.sock"),
		Listen: "127.0.0.1:0", ReadToken: filepath.Join(dir, "read-token"),
		Tokens:   func() []Token { return []Token{{Name: "op", Operate: true, Hash: sha256.Sum256([]byte("operate"))}} },
		Problems: func() []string { return []string{"secrets.A: gone"} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run did not end")
		}
		if _, err := os.Stat(filepath.Join(dir, "varan.sock")); err == nil {
			t.Error("the socket stayed")
		}
	})
	return s, dir
}

func TestSocket(t *testing.T) {
	f := &fake{}
	_, dir := start(t, f)
	sock := filepath.Join(dir, "varan.sock")
	if i, err := os.Stat(sock); err != nil || i.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v %v, want mode 0600", i, err)
	}
	if i, err := os.Stat(filepath.Join(dir, "read-token")); err != nil || i.Mode().Perm() != 0o600 {
		t.Fatalf("read-token: %v %v, want mode 0600", i, err)
	}
	c := Dial(sock)
	ctx := t.Context()
	st, err := c.Status(ctx)
	if err != nil || st.Fleet != "t" || st.Version != "v1" || len(st.Problems) != 1 {
		t.Errorf("status %+v, %v", st, err)
	}
	if _, err := c.RunByID(ctx, "x"); !errors.Is(err, sync.ErrUnknown) {
		t.Errorf("unknown run: %v", err)
	}
	if p, err := c.Plan(ctx, sync.PlanRequest{Dir: "/d"}); err != nil || p.Digest != "1:a" {
		t.Errorf("plan %v, %v", p, err)
	}
	var kinds []apply.EventKind
	_, r, err := c.Apply(ctx, sync.ApplyRequest{Actor: "me"}, func(e apply.Event) { kinds = append(kinds, e.Kind) })
	if err != nil || !r.OK() || len(kinds) != 2 {
		t.Errorf("apply %v, %v, events %v", r, err, kinds)
	}
	if _, _, err := c.Apply(ctx, sync.ApplyRequest{Digest: "1:old"}, nil); !errors.Is(err, sync.ErrChanged) {
		t.Errorf("another plan: %v", err)
	}
	var b bytes.Buffer
	if err := c.Logs(ctx, sync.LogsRequest{Resource: "stack/a"}, &b); err != nil || b.String() != "printed by stack/a\n" {
		t.Errorf("logs %q, %v", b.String(), err)
	}
	b.Reset()
	if err := c.Logs(ctx, sync.LogsRequest{Resource: "stack/gone"}, &b); err == nil || b.Len() > 0 {
		t.Errorf("logs of nothing: %q, %v", b.String(), err)
	}
	for _, err := range []error{c.Hold(ctx, sync.HoldRequest{Resource: "stack/a"}), c.Pause(ctx, sync.PauseRequest{}), c.Cancel(ctx, ""), c.Approve(ctx, "1:a", "me")} {
		if err != nil {
			t.Error(err)
		}
	}
	if got := strings.Join(f.asked, ", "); got != "plan /d, apply by me, apply by , hold stack/a, pause, cancel, approve 1:a by me" {
		t.Errorf("asked: %s", got)
	}
	if err := Dial(sock + "x").Ping(ctx); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("no socket: %v", err)
	}
}

func TestTokens(t *testing.T) {
	f := &fake{}
	s, dir := start(t, f)
	base := "http://" + s.Addr().String()
	reader, err := os.ReadFile(filepath.Join(dir, "read-token"))
	if err != nil {
		t.Fatal(err)
	}
	do := func(method, path, token, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(data)
	}
	read := strings.TrimSpace(string(reader))
	tests := []struct {
		name, method, path, token, body string
		status                          int
		has                             string
	}{
		{"health", "GET", "/healthz", "", "", 200, "ok"},
		{"not ready", "GET", "/readyz", "", "", 503, "waiting"},
		{"no token", "GET", "/api/v1/status", "", "", 401, "token"},
		{"metrics need one", "GET", "/metrics", "", "", 401, "token"},
		{"wrong token", "GET", "/api/v1/status", "wrong", "", 401, "token"},
		{"may read", "GET", "/api/v1/status", read, "", 200, `"fleet":"t"`},
		{"may not act", "POST", "/api/v1/cancel", read, "{}", 403, "operate"},
		{"may act", "POST", "/api/v1/approve", "operate", `{"digest":"1:a","actor":"liar"}`, 200, "{}"},
		{"no folders", "POST", "/api/v1/plan", "operate", `{"dir":"/etc"}`, 403, "socket"},
		{"broken", "POST", "/api/v1/plan", "operate", `{`, 400, "not understood"},
		{"too large", "POST", "/api/v1/plan", "operate", `{"dir":"` + strings.Repeat("a", maxBody) + `"}`, 400, "too large"},
		{"metrics", "GET", "/metrics", read, "", 200, "varan_secret_errors 1"},
		{"drift", "GET", "/metrics", read, "", 200, "varan_drifted_resources 1"},
		{"runs", "GET", "/metrics", read, "", 200, `varan_runs_total{status="done"} 1`},
		{"steps", "GET", "/metrics", read, "", 200, `varan_steps_total{action="create",status="done"} 1`},
		{"no pprof", "GET", "/debug/pprof/", "operate", "", 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body := do(tt.method, tt.path, tt.token, tt.body)
			if status != tt.status || !strings.Contains(body, tt.has) {
				t.Errorf("%s %s: %d %.200q, want %d with %q", tt.method, tt.path, status, body, tt.status, tt.has)
			}
		})
	}
	if got := f.asked[len(f.asked)-1]; got != "approve 1:a by token op" {
		t.Errorf("%q: the actor must be the token's name", got)
	}
	for range failsEach {
		do("GET", "/api/v1/status", "guess", "")
	}
	if status, _ := do("GET", "/api/v1/status", read, ""); status != 429 {
		t.Errorf("after many failed log-ins: %d, want 429", status)
	}
	if status, _ := do("GET", "/healthz", "", ""); status != 200 {
		t.Errorf("health after failed log-ins: %d", status)
	}
}

// TestSlowHeader: a connection that never ends its header is closed.
func TestSlowHeader(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	s, _ := start(t, &fake{})
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
	c.SetReadDeadline(time.Now().Add(8 * time.Second))
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the connection stayed open: %v", err)
	}
}

// hooks keeps deliveries, or says that it cannot.
type hooks struct{ keeps bool }

func (h *hooks) Keeps() bool { return h.keeps }
func (h *hooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprint(w, r.URL.EscapedPath())
}

// TestHooks: webhooks need no token, nothing but POST reaches them, and who cannot keep one is not ready.
func TestHooks(t *testing.T) {
	h := &hooks{keeps: true}
	s, err := New(Options{Daemon: &fake{ready: true}, Log: slog.New(slog.DiscardHandler), Hooks: h})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		keeps        bool
		code         int
		body         string
	}{
		{"POST", "/webhook/github", true, 202, "/webhook/github"},
		{"POST", "/listener/github/procedure/p/a%2Fb", true, 202, "/listener/github/procedure/p/a%2Fb"},
		{"GET", "/webhook/github", true, 405, ""},
		{"GET", "/readyz", true, 200, "ready"},
		{"GET", "/readyz", false, 503, "waiting"},
		{"GET", "/api/v1/status", true, 401, ""},
	} {
		h.keeps = c.keeps
		rec := httptest.NewRecorder()
		s.routes(false).ServeHTTP(rec, httptest.NewRequest(c.method, c.path, strings.NewReader("{}")))
		if rec.Code != c.code || !strings.Contains(rec.Body.String(), c.body) {
			t.Errorf("%s %s: %d %s", c.method, c.path, rec.Code, rec.Body)
		}
	}
	rec := httptest.NewRecorder()
	s.routes(true).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if !strings.Contains(rec.Body.String(), `varan_webhooks_total{code="202"} 2`) {
		t.Error("webhooks are not counted")
	}
}

package forge_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/varanhq/varan/sync/dial"
	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/forgetest"
)

// TestRateLimits: what the forge says is obeyed to the second, without asking again in between.
func TestRateLimits(t *testing.T) {
	for name, trouble := range map[string]forgetest.Trouble{
		"secondary, 403":       forgetest.SecondaryLimit(1, "1"),
		"429":                  {Times: 1, Status: 429, Header: map[string]string{"Retry-After": "1"}},
		"down for maintenance": {Times: 1, Status: 503, Header: map[string]string{"Retry-After": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world, c forge.Forge) {
				ctx := t.Context()
				_, head := w.pull("feature", map[string]string{"b.toml": "two\n"})
				if _, err := c.PullRequests(ctx, w.at); err != nil { // an App has its token now
					t.Fatal(err)
				}
				w.Trouble(trouble)
				start := time.Now()
				err := c.SetStatus(ctx, w.at, head, forge.Status{Context: "varan/plan", State: forge.Pending})
				until, ok := forge.Retry(err)
				if wait := until.Sub(start); !ok || wait < time.Second || wait > 20*time.Second {
					t.Fatalf("wait %s: %v", until.Sub(start), err)
				}
				w.Forget()
				limited := (*forge.RateLimited)(nil)
				if _, err := c.PullRequests(ctx, w.at); !errors.As(err, &limited) || !limited.Until.Equal(until) {
					t.Errorf("got %v", err)
				}
				if calls := w.Calls(); len(calls) > 0 {
					t.Errorf("it asked all the same: %v", calls)
				}
				time.Sleep(time.Until(until))
				if err := c.SetStatus(ctx, w.at, head, forge.Status{Context: "varan/plan", State: forge.Pending}); err != nil {
					t.Error(err)
				}
				if n := len(w.repo.History(head)); n != 1 {
					t.Errorf("%d statuses", n)
				}
			})
		})
	}
}

// TestPrimaryLimit: the hour's last request closes the gate by itself, until the reset that the forge named.
func TestPrimaryLimit(t *testing.T) {
	for _, kind := range []forge.Kind{forge.GitHub, forge.GitLab} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t, kind)
			c := w.bot()
			w.Set(func(s *forgetest.Server) { s.Remaining = 2 })
			for range 2 {
				if _, err := c.Repository(t.Context(), w.at); err != nil {
					t.Fatal(err)
				}
			}
			w.Forget()
			w.push(w.repo, "feature", map[string]string{"b.toml": "two\n"})
			_, err := c.PullRequests(t.Context(), w.at)
			until, ok := forge.Retry(err)
			if wait := time.Until(until); !ok || wait < 55*time.Minute || wait > 75*time.Minute {
				t.Errorf("wait %s: %v", wait, err)
			}
			if kind == forge.GitHub && len(w.Calls()) > 0 {
				t.Errorf("it asked: %v", w.Calls())
			}
		})
	}
}

// TestGrowingWait: when GitHub does not say how long, at least a minute, and more each time.
func TestGrowingWait(t *testing.T) {
	w := newWorld(t, forge.GitHub)
	c := w.bot()
	w.Trouble(forgetest.SecondaryLimit(1, ""))
	_, err := c.PullRequests(t.Context(), w.at)
	until, ok := forge.Retry(err)
	if wait := time.Until(until); !ok || wait < 45*time.Second || wait > 70*time.Second {
		t.Errorf("wait %s: %v", wait, err)
	}
}

// TestForbiddenIsNoLimit: a missing permission is not waited for.
func TestForbiddenIsNoLimit(t *testing.T) {
	w := newWorld(t, forge.GitHub)
	c, app := w.app()
	_, head := w.pull("feature", map[string]string{"b.toml": "two\n"})
	w.Set(func(*forgetest.Server) { app.Permissions["statuses"] = "read" })
	err := c.SetStatus(t.Context(), w.at, head, forge.Status{Context: "varan/plan", State: forge.Pending})
	if _, later := forge.Retry(err); later || !errors.Is(err, forge.ErrForbidden) {
		t.Errorf("got %v", err)
	}
	if _, err := c.PullRequests(t.Context(), w.at); err != nil {
		t.Errorf("the gate is closed: %v", err)
	}
}

// TestBadWeather: reads survive a forge that fails twice; writes are sent once and say that the outcome is open.
func TestBadWeather(t *testing.T) {
	for name, trouble := range map[string]forgetest.Trouble{
		"500": {Status: 500}, "502 with a page": {Status: 502, Body: "<html>Bad Gateway</html>"},
		"lost before": {Drop: true}, "lost after": {Lose: true}, "cut in the middle": {Cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world, c forge.Forge) {
				ctx := t.Context()
				n, head := w.pull("feature", map[string]string{"b.toml": "two\n"})
				if _, err := c.PullRequests(ctx, w.at); err != nil {
					t.Fatal(err)
				}
				bad := trouble
				bad.Times = 1
				if name == "500" {
					bad.Times = 2 // as often as it is tried again
				}
				bad.Match = func(r *http.Request) bool { return !forgetest.Writes(r) }
				w.Trouble(bad)
				if pr, err := c.PullRequest(ctx, w.at, n); err != nil || pr.Head.SHA != head {
					t.Errorf("%+v %v", pr, err)
				}
				once := trouble
				once.Match = forgetest.Writes
				end := w.Trouble(once)
				w.Forget()
				_, err := c.CreateComment(ctx, w.at, n, "hello")
				if !errors.Is(err, forge.ErrTemporary) {
					t.Errorf("got %v", err)
				}
				writes := 0
				for _, call := range w.Calls() {
					if call.Method == http.MethodPost {
						writes++
					}
				}
				if writes != 1 {
					t.Errorf("sent %d times: %v", writes, w.Calls())
				}
				end()
				want := 0
				if trouble.Lose || trouble.Cut {
					want = 1 // it was done, only we were not told: read back finds it
				}
				if all, err := c.Comments(ctx, w.at, n); err != nil || len(all) != want {
					t.Errorf("%+v %v", all, err)
				}
				if name != "500" {
					return
				}
				w.Trouble(forgetest.Trouble{Drop: true})
				if _, err := c.PullRequests(ctx, w.at); !errors.Is(err, forge.ErrTemporary) {
					t.Errorf("down for good: %v", err)
				}
			})
		})
	}
}

// TestSlow: a caller's patience ends the call, and the next one works.
func TestSlow(t *testing.T) {
	each(t, func(t *testing.T, w *world, c forge.Forge) {
		if _, err := c.PullRequests(t.Context(), w.at); err != nil {
			t.Fatal(err)
		}
		stop := w.Trouble(forgetest.Trouble{Delay: 5 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		if _, err := c.PullRequests(ctx, w.at); !errors.Is(err, forge.ErrTemporary) || time.Since(start) > 4*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.PullRequests(gone, w.at); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		stop()
		if _, err := c.PullRequests(t.Context(), w.at); err != nil {
			t.Error(err)
		}
	})
}

// TestPollingIsFree: asked again with nothing changed GitHub and GitLab answer "not modified", which costs nothing
// of the hour's limit, and the answer is the same; a change is seen at once.
func TestPollingIsFree(t *testing.T) {
	for _, kind := range []forge.Kind{forge.GitHub, forge.GitLab} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t, kind)
			c := w.bot()
			ctx := t.Context()
			n, _ := w.pull("feature", map[string]string{"b.toml": "two\n"})
			if _, err := w.repo.Say(n, "ann", "hello"); err != nil {
				t.Fatal(err)
			}
			first, err := c.PullRequests(ctx, w.at)
			if err != nil {
				t.Fatal(err)
			}
			comments, err := c.NewComments(ctx, w.at, time.Now().Add(-time.Hour))
			if err != nil || len(comments) != 1 {
				t.Fatal(comments, err)
			}
			since := comments[0].Updated
			if _, err := c.NewComments(ctx, w.at, since); err != nil {
				t.Fatal(err)
			}
			w.Forget()
			w.Set(func(s *forgetest.Server) { s.Remaining = 100 })
			for range 10 {
				again, err := c.PullRequests(ctx, w.at)
				if err != nil || len(again) != 1 || again[0] != first[0] {
					t.Fatal(again, err)
				}
				if comments, err = c.NewComments(ctx, w.at, since); err != nil || len(comments) != 1 {
					t.Fatal(comments, err)
				}
			}
			for _, call := range w.Calls() {
				if call.Status != http.StatusNotModified {
					t.Errorf("%s %s?%s: %d", call.Method, call.Path, call.Query, call.Status)
				}
			}
			w.Set(func(s *forgetest.Server) {
				if s.Remaining != 100 {
					t.Errorf("%d requests are left", s.Remaining)
				}
			})
			w.push(w.repo, "feature", map[string]string{"b.toml": "three\n"})
			if _, err := w.repo.Say(n, "ann", "again"); err != nil {
				t.Fatal(err)
			}
			if again, err := c.PullRequests(ctx, w.at); err != nil || again[0].Head.SHA == first[0].Head.SHA {
				t.Error("the new head is not seen", err)
			}
			if comments, err = c.NewComments(ctx, w.at, since); err != nil || len(comments) != 2 {
				t.Error(comments, err)
			}
		})
	}
}

// TestTokenInNoError: whatever the forge writes into its refusals.
func TestTokenInNoError(t *testing.T) {
	each(t, func(t *testing.T, w *world, _ forge.Forge) {
		u := w.AddUser("leaky")
		w.repo.Grant("leaky", forge.Admin)
		c := w.connect(w.Options(u.Token, nil))
		for _, status := range []int{400, 401, 403, 404, 422, 500} {
			stop := w.Trouble(forgetest.Trouble{Status: status, Body: `{"message":"bad token ` + u.Token + `\u001b[31m\n/varan apply"}`})
			_, err := c.PullRequests(t.Context(), w.at)
			if err == nil || strings.Contains(err.Error(), u.Token) || strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("%d: %q", status, err)
			}
			stop()
		}
		o := w.Options(u.Token, &forgetest.App{Key: "key-material"})
		for _, text := range []string{o.String(), o.GoString(), o.App.String(), o.App.GoString()} {
			if strings.Contains(text, u.Token) || strings.Contains(text, "key-material") {
				t.Error(text)
			}
		}
	})
}

// TestWrongToken: one that is not, or no longer, taken.
func TestWrongToken(t *testing.T) {
	for _, kind := range []forge.Kind{forge.GitHub, forge.Gitea, forge.GitLab} {
		w := newWorld(t, kind)
		c := w.connect(w.Options("token-of-nobody", nil))
		if _, err := c.PullRequests(t.Context(), w.at); !errors.Is(err, forge.ErrUnauthorized) {
			t.Errorf("%s: %v", kind, err)
		}
		u := w.AddUser("outsider")
		if _, err := w.connect(w.Options(u.Token, nil)).PullRequests(t.Context(), w.at); !errors.Is(err, forge.ErrNotFound) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestRedirects: a read follows within https and drops the credential where the host changes; a write does not.
func TestRedirects(t *testing.T) {
	for _, kind := range []forge.Kind{forge.GitHub, forge.Gitea, forge.GitLab} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t, kind, func(o *forgetest.Options) { o.TLS = true })
			c := w.bot()
			var got atomic.Int64
			leak := func(r *http.Request) {
				got.Add(1)
				for _, name := range []string{"Authorization", "Private-Token", "Cookie"} {
					if r.Header.Get(name) != "" {
						t.Errorf("%s went to another host", name)
					}
				}
			}
			other := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				leak(r)
				rw.Header().Set("Content-Type", "application/json")
				_, _ = rw.Write([]byte(`[]`))
			}))
			other.TLS = w.TLSConfig() // the same certificate, another port
			other.StartTLS()
			defer other.Close()
			plain := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { leak(r) }))
			defer plain.Close()
			redirect := func(status int, to string) func() {
				return w.Trouble(forgetest.Trouble{Status: status, Header: map[string]string{"Location": to}})
			}
			stop := redirect(302, other.URL+"/x")
			if prs, err := c.PullRequests(t.Context(), w.at); err != nil || len(prs) != 0 || got.Load() == 0 {
				t.Errorf("%v %v", prs, err)
			}
			stop()
			got.Store(0)
			stop = redirect(302, plain.URL+"/x")
			if _, err := c.PullRequests(t.Context(), w.at); !errors.Is(err, dial.ErrRefused) || got.Load() != 0 {
				t.Errorf("to plain http: %v", err)
			}
			stop()
			n, _ := w.pull("feature", map[string]string{"b.toml": "two\n"})
			for _, status := range []int{301, 302, 307, 308} {
				stop = redirect(status, w.APIURL()+"/elsewhere")
				if _, err := c.CreateComment(t.Context(), w.at, n, "hello"); !errors.Is(err, forge.ErrRefused) {
					t.Errorf("a write: %v", err)
				}
				stop()
			}
		})
	}
}

// TestConnections: the daemon's own rules hold for forges too.
func TestConnections(t *testing.T) {
	w := newWorld(t, forge.GitHub)
	o := w.Options("token", nil)
	o.AllowInternal = false
	c := w.connect(o)
	if _, err := c.PullRequests(t.Context(), w.at); !errors.Is(err, dial.ErrRefused) || !strings.Contains(err.Error(), "allow_internal") {
		t.Errorf("got %v", err)
	}
	if calls := w.Calls(); len(calls) > 0 {
		t.Errorf("it was asked: %v", calls)
	}
	down := w.Options("token", nil)
	down.APIURL = "http://127.0.0.1:1/api/v3"
	if _, err := w.connect(down).PullRequests(t.Context(), w.at); !errors.Is(err, forge.ErrTemporary) {
		t.Errorf("got %v", err)
	}
}

package webhook

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func pushDelivery(n int) delivery {
	return delivery{forge: GitHub, event: "push", body: push("acme/infra", "main", commit(n), commit(n+1), "a.toml")}
}

func commit(n int) string { return fmt.Sprintf("c%039x", n) }

// never ends a hint: its target is killed before.
func never(*Hint, func(error)) {}

// TestNothingIsLost: what was answered 2xx is brought again by the next process until it is done, and not after.
func TestNothingIsLost(t *testing.T) {
	store := newMemory()
	w := withStore(t, store)
	w.target.answer = never
	for i := range 3 {
		if status, text := w.send(pushDelivery(i)); status != http.StatusAccepted {
			t.Fatal(status, text)
		}
	}
	w.send(delivery{forge: GitHub, event: "push", body: push("acme/app", "main", one, two, "x")})
	w.kill()

	w = withStore(t, store)
	hints := w.target.wait(t, 2)
	w.store.settled(t, w)
	w.kill()
	if len(hints) != 2 || hints[0].Push.After != commit(3) || hints[1].Repo.Path != "acme/app" || !hints[0].Push.Complete {
		t.Errorf("%+v", hints)
	}

	w = withStore(t, store)
	if status, text := w.send(pushDelivery(2)); status != http.StatusOK || !strings.HasPrefix(text, "had before") {
		t.Errorf("a delivery of before the restart: %d %s", status, text)
	}
	w.kill()
	if n := len(w.target.hints()); n > 0 {
		t.Errorf("%d hints that were done are brought again", n)
	}
}

// settled waits until everything given is noted as done.
func (m *memory) settled(t *testing.T, w *world) {
	t.Helper()
	limit := time.Now().Add(10 * time.Second)
	for {
		store := newMemory()
		m.mu.Lock()
		for k, v := range m.records {
			store.records[k] = v
		}
		store.last = m.last
		m.mu.Unlock()
		b := newInbox(store, w.target, w.opts.Log, w.opts.Timing)
		if err := b.replay(context.Background()); err != nil {
			t.Fatal(err)
		}
		if len(b.pending) == 0 {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%d hints are not done", len(b.pending))
		}
		<-time.After(time.Millisecond)
	}
}

// TestCannotKeep: a disk that takes nothing is a 503, and the sender's next try is news.
func TestCannotKeep(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Timing.Probe = time.Millisecond })
	if !w.Keeps() {
		t.Error("it keeps nothing from the start")
	}
	w.store.mu.Lock()
	w.store.fail = errTest
	w.store.mu.Unlock()
	status, text := w.send(pushDelivery(1))
	if status != http.StatusServiceUnavailable || strings.Contains(text, errTest.Error()) {
		t.Fatal(status, text)
	}
	if w.Keeps() {
		t.Error("it says that it keeps what it cannot")
	}
	w.store.mu.Lock()
	w.store.fail = nil
	w.store.mu.Unlock()
	for end := time.Now().Add(10 * time.Second); !w.Keeps(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not see that the disk is well again")
		}
	}
	if status, text := w.send(pushDelivery(1)); status != http.StatusAccepted {
		t.Fatal(status, text)
	}
	if h := w.target.wait(t, 1); len(h) != 1 {
		t.Error(h)
	}
}

// TestSlowDisk: a sender is answered in time all the same.
func TestSlowDisk(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Timing.Answer = 30 * time.Millisecond })
	gate := make(chan struct{})
	w.store.mu.Lock()
	w.store.wait = gate
	w.store.mu.Unlock()
	begun := time.Now()
	if status, text := w.send(pushDelivery(1)); status != http.StatusServiceUnavailable {
		t.Fatal(status, text)
	}
	if d := time.Since(begun); d > time.Second {
		t.Errorf("answered after %s", d)
	}
	close(gate)
}

func TestNotRunning(t *testing.T) {
	r := New(Options{Target: &target{}, Store: newMemory(), Secrets: func() []Secret { return []Secret{{Forge: GitHub, Value: testSecret}} }})
	rec := httptest.NewRecorder()
	d := pushDelivery(1)
	d.secret = testSecret
	r.ServeHTTP(rec, d.request())
	if rec.Code != http.StatusServiceUnavailable {
		t.Error(rec.Code, rec.Body)
	}
}

// TestDuplicates: the same delivery, and the same body under another id, are one; a branch that went there, back, and
// there again is three.
func TestDuplicates(t *testing.T) {
	w := newWorld(t)
	there := delivery{forge: GitHub, event: "push", id: "a", body: push("acme/infra", "main", one, two, "x")}
	back := delivery{forge: GitHub, event: "push", id: "b", body: push("acme/infra", "main", two, one, "x")}
	elsewhere := delivery{forge: GitHub, event: "push", id: "e", body: push("acme/infra", "dev", one, two, "x")}
	replay, again := there, there
	replay.id, again.id = "r", "c"
	for i, c := range []struct {
		delivery
		want int
	}{
		{there, 202}, {there, 200}, {replay, 200}, {elsewhere, 202}, {replay, 200}, {back, 202}, {there, 200}, {again, 202}, {again, 200}, {back, 200},
	} {
		if status, text := w.send(c.delivery); status != c.want {
			t.Errorf("%d: %d %s", i, status, text)
		}
	}
	other := back // an id that another body had is no proof of anything
	other.id, other.body = "a", push("acme/infra", "main", one, strings.Repeat("3", 40), "x")
	if status, text := w.send(other); status != http.StatusAccepted {
		t.Error(status, text)
	}
}

// TestRetry: a target that cannot look gets the hint again, with all that came meanwhile.
func TestRetry(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	tries := 0
	w.target.answer = func(_ *Hint, ended func(error)) {
		mu.Lock()
		defer mu.Unlock()
		if tries++; tries < 4 {
			ended(errTest)
			return
		}
		ended(nil)
	}
	w.send(pushDelivery(1))
	w.target.wait(t, 4)
	w.store.settled(t, w)
}

// TestLaggingReplica: a commit that is not to be seen is looked for a few times.
func TestLaggingReplica(t *testing.T) {
	w := newWorld(t)
	w.target.answer = func(_ *Hint, ended func(error)) { ended(fmt.Errorf("%w: c", ErrNotYet)) }
	w.send(pushDelivery(1))
	w.store.settled(t, w)
	if n := len(w.target.hints()); n != maxNotYet+1 {
		t.Errorf("%d looks", n)
	}
}

// TestNewerIsNotHeldUp: while a target works on a hint, a newer one on the same subject reaches it.
func TestNewerIsNotHeldUp(t *testing.T) {
	w := newWorld(t)
	w.target.answer = never
	w.send(pushDelivery(1))
	w.target.wait(t, 1)
	w.send(pushDelivery(2))
	hints := w.target.wait(t, 2)
	if hints[1].Push.After != commit(3) || hints[1].Push.Before != commit(1) {
		t.Errorf("%+v", hints[1].Push)
	}
}

// TestBurst: thousands of deliveries at once, valid, duplicate and forged: every valid one is answered by a look that
// began after it came, looks are far fewer, writes too, and what is kept has a bound.
func TestBurst(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Timing.Pace = 20 * time.Millisecond; o.Timing.Answer = 20 * time.Second })
	const senders, each = 16, 250
	var g sync.WaitGroup
	for s := range senders {
		g.Go(func() {
			for i := range each {
				d := pushDelivery(s*each + i)
				switch i % 4 {
				case 1:
					d.secret = "forged"
				case 3:
					d = pushDelivery(s*each + i - 1)
				}
				status, text := w.send(d)
				if want := map[bool]int{true: http.StatusUnauthorized, false: http.StatusAccepted}[i%4 == 1]; status != want && i%4 != 3 {
					t.Errorf("%d: %d %s", i, status, text)
				}
			}
		})
	}
	g.Wait()
	w.store.settled(t, w)
	hints := w.target.hints()
	if len(hints) > senders*each/8 {
		t.Errorf("%d looks for %d deliveries", len(hints), senders*each/2)
	}
	t.Logf("%d deliveries, %d looks, %d writes, %d bytes", senders*each, len(hints), w.store.writes, w.store.size())
}

// TestManySubjects: what waits has a bound; beyond it the sender is told to come again.
func TestManySubjects(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Timing.Answer = 20 * time.Second })
	w.target.answer = never
	refused := 0
	for i := range maxPending + 100 {
		status, _ := w.send(delivery{forge: GitHub, event: "push", body: push("acme/infra", fmt.Sprintf("b%d", i), one, two, "x")})
		if status == http.StatusServiceUnavailable {
			refused++
		}
	}
	if refused != 100 {
		t.Errorf("%d refused", refused)
	}
}

// TestCompaction: what is over leaves the store, what waits and what was seen stays.
func TestCompaction(t *testing.T) {
	store := newMemory()
	w := withStore(t, store)
	w.target.answer = func(h *Hint, ended func(error)) {
		if h.Push.Branch != "waits" {
			ended(nil)
		}
	}
	w.send(delivery{forge: GitHub, event: "push", body: push("acme/infra", "waits", one, two, "x")})
	paths := make([]string, 200)
	for i := range paths {
		paths[i] = fmt.Sprintf("some/long/path/of/a/file/%d", i)
	}
	most := 0
	for i := range 4000 {
		d := pushDelivery(i)
		d.body = push("acme/infra", "main", commit(i), commit(i+1), paths...)
		if status, text := w.send(d); status != http.StatusAccepted {
			t.Fatal(status, text)
		}
		most = max(most, store.size())
	}
	if most > 2*compactAfter {
		t.Errorf("the store grew to %d bytes", most)
	}
	w.kill()
	w = withStore(t, store)
	found := false
	for _, h := range w.target.wait(t, 1) {
		found = found || h.Push.Branch == "waits"
	}
	if !found {
		t.Error("what waits was forgotten")
	}
	d := pushDelivery(0)
	d.body = push("acme/infra", "main", commit(3999), commit(4000), paths...)
	if status, text := w.send(d); status != http.StatusOK {
		t.Errorf("what was seen was forgotten: %d %s", status, text)
	}
}

// TestKeptByANewerVersion: records in another format are left aside.
func TestKeptByANewerVersion(t *testing.T) {
	store := newMemory()
	store.Append(t.Context(), []byte(`{"format":2,"hooks":"not ours"}`))
	store.Append(t.Context(), []byte(`{"format":7,"hooks":[{"n":1,"hint":{"event":"push"}}]}`))
	w := withStore(t, store)
	if status, text := w.send(pushDelivery(1)); status != http.StatusAccepted {
		t.Error(status, text)
	}
}

// endless is a body that never ends.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

func TestLargeBodies(t *testing.T) {
	w := newWorld(t)
	body := &endless{}
	r := httptest.NewRequest(http.MethodPost, "/webhook/github", io.NopCloser(body))
	r.Header.Set("Content-Type", "application/json")
	if status := w.serve(r); status != http.StatusRequestEntityTooLarge || body.read > 2*maxBody {
		t.Errorf("%d after %d bytes", status, body.read)
	}
	r = httptest.NewRequest(http.MethodPost, "/webhook/github", strings.NewReader("x"))
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = maxBody + 1
	if status := w.serve(r); status != http.StatusRequestEntityTooLarge {
		t.Error(status)
	}
	if w.bodies.left != maxUnverified {
		t.Errorf("%d bytes were not given back", maxUnverified-w.bodies.left)
	}
}

// TestUnverifiedBodiesTogether: what strangers send at once has one bound, and a real delivery comes through after it.
func TestUnverifiedBodiesTogether(t *testing.T) {
	w := newWorld(t)
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	var g sync.WaitGroup
	var mu sync.Mutex
	counts := map[int]int{}
	for range 40 {
		g.Go(func() {
			r := httptest.NewRequest(http.MethodPost, "/webhook/github", io.NopCloser(io.MultiReader(io.LimitReader(&endless{}, 5<<20), waitFor(gate))))
			r.Header.Set("Content-Type", "application/json")
			status := w.serve(r)
			mu.Lock()
			defer mu.Unlock()
			if counts[status]++; counts[http.StatusServiceUnavailable] == 30 {
				open()
			}
		})
	}
	g.Wait()
	if counts[http.StatusServiceUnavailable] < 30 || counts[http.StatusUnauthorized] > 10 {
		t.Error(counts)
	}
	if status, text := w.send(pushDelivery(1)); status != http.StatusAccepted || w.bodies.left != maxUnverified {
		t.Error(status, text, w.bodies.left)
	}
}

type waitFor chan struct{}

func (g waitFor) Read([]byte) (int, error) { <-g; return 0, io.EOF }

// TestSlowBody: a connection that sends its body drop by drop is given up.
func TestSlowBody(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Timing.Body = 50 * time.Millisecond })
	s := httptest.NewServer(w)
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /webhook/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 400") {
		t.Errorf("%q", answer)
	}
}

package webhook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/webhook"
)

// A looker is a target that remembers which repositories it was given.
type looker struct {
	mu    sync.Mutex // guards repos
	repos []string
}

func (l *looker) Concerns(*webhook.Hint) (bool, string) { return true, "looking" }

func (l *looker) Take(h *webhook.Hint, ended func(error)) {
	l.mu.Lock()
	l.repos = append(l.repos, h.Repo.Path)
	l.mu.Unlock()
	ended(nil)
}

func (l *looker) Resource(schema.ID) (*webhook.Resource, bool) { return nil, false }

func (l *looker) taken() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(slices.Values(l.repos))
}

// TestQueue: what a follower took in while nobody led, the one that leads next acts on, each delivery once; a leader
// that holds the lease no more takes nothing out.
func TestQueue(t *testing.T) {
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	hub, err := fleet.Start(fleet.Options{Key: key, JournalDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Close)
	queue, err := webhook.OpenQueue(t.Context(), hub.JetStream(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	const secret = "of the test"
	secrets := func() []webhook.Secret {
		return []webhook.Secret{{Forge: webhook.Gitea, Domain: "git.example.com", Value: secret}}
	}
	follower := webhook.New(webhook.Options{Target: &looker{}, Queue: queue, Secrets: secrets})
	if !follower.Keeps() {
		t.Error("a follower that has not failed says that it keeps nothing")
	}
	send := func(n int, id, secret string) int {
		body := fmt.Appendf(nil, `{"ref":"refs/heads/main","before":"%040d","after":"%040d","commits":[],"repository":{"full_name":"acme/r%d","clone_url":"https://git.example.com/acme/r%d.git"}}`, 1, 2, n, n)
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		r := httptest.NewRequest(http.MethodPost, "/webhook/gitea", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Gitea-Event", "push")
		r.Header.Set("X-Gitea-Delivery", id)
		r.Header.Set("X-Gitea-Signature", hex.EncodeToString(mac.Sum(nil)))
		w := httptest.NewRecorder()
		follower.ServeHTTP(w, r)
		return w.Code
	}
	for n := range 3 {
		for range 2 { // each comes twice
			if code := send(n, fmt.Sprint("d", n), secret); code != http.StatusAccepted {
				t.Fatalf("a delivery at a follower: %d", code)
			}
		}
	}
	if code := send(9, "d9", "guess"); code != http.StatusUnauthorized {
		t.Errorf("a forged delivery: %d", code)
	}
	lead := func(held func() bool) (*looker, func()) {
		store, err := webhook.OpenStore(t.Context(), hub.JetStream(), 1)
		if err != nil {
			t.Fatal(err)
		}
		l := &looker{}
		r := webhook.New(webhook.Options{Target: l, Store: store, Queue: queue, Held: held, Secrets: secrets})
		ctx, cancel := context.WithCancel(context.Background())
		over := make(chan error, 1)
		go func() { over <- r.Run(ctx) }()
		return l, sync.OnceFunc(func() {
			cancel()
			if err := <-over; err != nil {
				t.Error(err)
			}
		})
	}
	var asked atomic.Int64
	lost, stop := lead(func() bool { asked.Add(1); return false })
	for limit := time.Now().Add(10 * time.Second); asked.Load() < 2 && time.Now().Before(limit); {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	if got := lost.taken(); len(got) > 0 {
		t.Errorf("who holds the lease no more acted on %v", got)
	}
	leader, stop := lead(func() bool { return true })
	want := []string{"acme/r0", "acme/r1", "acme/r2"}
	for limit := time.Now().Add(20 * time.Second); len(leader.taken()) < len(want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("taken: %v", leader.taken())
		}
	}
	stop()
	again, stop := lead(func() bool { return true })
	time.Sleep(300 * time.Millisecond) // for what must not come there is no event
	stop()
	if got := leader.taken(); !slices.Equal(got, want) {
		t.Errorf("taken: %v, want %v", got, want)
	}
	if got := again.taken(); len(got) > 0 {
		t.Errorf("done, and taken again: %v", got)
	}
}

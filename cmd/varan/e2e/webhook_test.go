package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/varanhq/varan/sync/gitrepo/gittest"
)

const hookSecret = "a secret of the tests"

// hooked is a world whose config repository is on a server and polled so rarely that only webhooks tell of pushes.
func hooked(t *testing.T) (w *world, repo *gittest.Repo, url string) {
	w = newWorld(t)
	repo = gittest.New(t)
	w.repo = repo.Work
	url = repo.Serve(false).URL()
	w.configure(fmt.Sprintf("allow_http = true\nallow_internal = true\n---\n[config]\nurl = %q\npoll = \"12h\"\n[[forge]]\ntype = \"gitea\"\nwebhook_secret = %q\n", url, hookSecret))
	return w, repo, url
}

// hook is what a Gitea sends of a push.
func hook(url, before, after, note string) []byte {
	return fmt.Appendf(nil, `{"ref":"refs/heads/main","before":%q,"after":%q,"note":%q,"commits":[{"id":%q,"modified":["a.toml"]}],"repository":{"full_name":"repo","clone_url":%q}}`,
		before, after, note, after, url)
}

// deliver sends a webhook; 0 = nobody answered.
func deliver(client *http.Client, base, id, secret string, body []byte) (status int, took time.Duration) {
	req, err := http.NewRequest(http.MethodPost, base+"/webhook/gitea", bytes.NewReader(body))
	if err != nil {
		return 0, 0
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Gitea-Event", "push")
	req.Header.Set("X-Gitea-Delivery", id)
	req.Header.Set("X-Gitea-Signature", hex.EncodeToString(mac.Sum(nil)))
	begun := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, time.Since(begun)
}

// peak is the most memory a process ever had, in MB.
func (d *daemon) peak() int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	kb, _ := strconv.Atoi(strings.Fields(rest)[0])
	return kb >> 10
}

// TestWebhook: a push that a webhook tells of runs within seconds, though polling would find it in 12 hours; a forged
// one does nothing.
func TestWebhook(t *testing.T) {
	w, repo, url := hooked(t)
	port := freePort(t)
	base := "http://127.0.0.1:" + port
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("first")
	repo.Send()
	d := w.start("--listen", "127.0.0.1:"+port)
	w.good(first)
	w.replace("a.toml", "K = x", "K = y")
	second := w.commit("second")
	repo.Send()
	if status, _ := deliver(http.DefaultClient, base, "1", "guess", hook(url, first, second, "")); status != http.StatusUnauthorized {
		t.Fatal(status)
	}
	begun := time.Now()
	if status, _ := deliver(http.DefaultClient, base, "1", hookSecret, hook(url, first, second, "")); status != http.StatusAccepted {
		t.Fatal(status)
	}
	w.good(second)
	t.Logf("from webhook to applied: %s", time.Since(begun).Round(time.Millisecond))
	d.stop()
}

// TestWebhookOutlivesAKill: a hook that got 2xx and could not be acted on is acted on by the next process.
func TestWebhookOutlivesAKill(t *testing.T) {
	w, repo, url := hooked(t)
	port := freePort(t)
	base := "http://127.0.0.1:" + port
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("first")
	repo.Send()
	d := w.start("--listen", "127.0.0.1:"+port)
	w.good(first)
	if r := w.varan("pause", "test"); r.exit != 0 {
		t.Fatal(r.stderr)
	}
	w.replace("a.toml", "K = x", "K = y")
	second := w.commit("second")
	repo.Send()
	if status, _ := deliver(http.DefaultClient, base, "1", hookSecret, hook(url, first, second, "")); status != http.StatusAccepted {
		t.Fatal(status)
	}
	d.kill()
	d = w.start("--listen", "127.0.0.1:"+port)
	w.eventually("the hook is brought again", 30*time.Second, func() (bool, string) {
		return strings.Contains(w.log(), "kept by an earlier process are brought again"), w.log()
	})
	if r := w.varan("pause", "--off"); r.exit != 0 {
		t.Fatal(r.stderr)
	}
	w.good(second)
	d.stop()
	d = w.start("--listen", "127.0.0.1:"+port)
	w.good(second)
	if n := strings.Count(w.log(), "brought again"); n != 1 {
		t.Errorf("a hook that was done was brought again: %d times", n)
	}
	d.stop()
}

// TestWebhookBurst: many webhooks at once, valid, duplicate and forged, and the daemon killed with -9 in the middle:
// every valid one led to its commit being planned or superseded, nothing ran twice, and memory has a bound.
func TestWebhookBurst(t *testing.T) {
	w, repo, url := hooked(t)
	port := freePort(t)
	base := "http://127.0.0.1:" + port
	total := rounds(1000, 10_000)
	const pushes = 10
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("v0")
	repo.Send()
	start := time.Now()
	d := w.start("--listen", "127.0.0.1:"+port)
	w.good(first)
	before := d.peak()

	// What was pushed so far; a hook tells of any of it, as hooks that are late do.
	var mu sync.Mutex
	commits := []string{first}
	push := func() {
		w.replace("a.toml", fmt.Sprintf("K = %s", value(len(commits)-1)), fmt.Sprintf("K = %s", value(len(commits))))
		id := w.commit(fmt.Sprintf("v%d", len(commits)))
		repo.Send()
		mu.Lock()
		commits = append(commits, id)
		mu.Unlock()
	}

	var sent, accepted, refused, slow, down atomic.Int64
	var next, allowed atomic.Int64 // hooks follow what was pushed
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	var senders sync.WaitGroup
	for range 32 {
		senders.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(total) {
					return
				}
				for n > allowed.Load() {
					<-time.After(time.Millisecond)
				}
				mu.Lock()
				at := len(commits) - 1
				if n%3 == 0 {
					at = 1 + rand.IntN(at)
				}
				body := hook(url, commits[at-1], commits[at], fmt.Sprint(n))
				mu.Unlock()
				id, secret := fmt.Sprint(n), hookSecret
				forged, twice := n%5 == 1, n%5 == 3
				if forged {
					secret = "forged"
				}
				for { // as whoever redelivers does; a delivery that was not answered 2xx was not promised anything
					status, took := deliver(client, base, id, secret, body)
					sent.Add(1)
					if took > time.Second {
						slow.Add(1)
					}
					switch {
					case status == 0 || status == http.StatusServiceUnavailable:
						down.Add(1)
						<-time.After(20 * time.Millisecond)
						continue
					case forged && status == http.StatusUnauthorized:
						refused.Add(1)
					case !forged && (status == http.StatusAccepted || status == http.StatusOK):
						accepted.Add(1)
					default:
						t.Errorf("hook %d (forged %v): %d", n, forged, status)
					}
					if !twice {
						break
					}
					twice = false
				}
			}
		})
	}
	peak := 0
	for i := range pushes {
		push()
		allowed.Add(int64(total / pushes))
		if i != pushes/2 {
			w.eventually("the burst goes on", 5*time.Minute, func() (bool, string) {
				return next.Load() >= allowed.Load(), fmt.Sprint(next.Load())
			})
			continue
		}
		for next.Load() < allowed.Load()-int64(total/pushes/2) {
			<-time.After(time.Millisecond)
		}
		peak = d.peak()
		d.kill()
		d = w.start("--listen", "127.0.0.1:"+port)
	}
	senders.Wait()
	tip := commits[len(commits)-1]
	w.good(tip)
	peak = max(peak, d.peak())
	t.Logf("%d requests, %d accepted, %d forged, %d found nobody or were told to come again, %d slower than 1 s; memory %d MB, %d MB at most",
		sent.Load(), accepted.Load(), refused.Load(), down.Load(), slow.Load(), before, peak)
	if limit := before + 64; peak > limit && !raceDetector {
		t.Errorf("memory grew to %d MB", peak)
	}
	if refused.Load() != int64((total+4)/5) {
		t.Errorf("%d forged ones were refused", refused.Load())
	}
	for what, n := range w.opsSince(start) {
		if n > 1 {
			t.Errorf("%s happened %d times", what, n)
		}
	}
	// Every commit is the tip or before it: planned, or superseded by what was.
	for _, id := range commits {
		repo.Git("merge-base", "--is-ancestor", id, tip)
	}
	d.stop()
	d = w.start("--listen", "127.0.0.1:"+port)
	w.good(tip)
	if n := strings.Count(w.log(), "brought again"); n > 1 {
		t.Errorf("hooks were left over at the end: %d starts brought some again", n)
	}
	d.stop()
	w.nothingToDo()
}

// value is K at the n-th push.
func value(n int) string {
	if n == 0 {
		return "x"
	}
	return fmt.Sprintf("v%d", n)
}

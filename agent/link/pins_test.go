package link

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

func fleetKey(t *testing.T) string {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// TestPins: which fleet keys an agent obeys while the key changes, over restarts, and when it is started with another.
func TestPins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet-key")
	first, second, third, stranger := fleetKey(t), fleetKey(t), fleetKey(t), fleetKey(t)
	open := func(started string) *pins {
		t.Helper()
		p, err := openPins(path, started)
		if err != nil {
			t.Fatal(err)
		}
		return &p
	}
	obeys := func(p *pins, key string, want bool) {
		t.Helper()
		if got, err := p.has(key); got != want || err != nil {
			t.Errorf("obeys %v, %v; want %v", got, err, want)
		}
	}
	p := open(first)
	obeys(p, first, true)
	obeys(p, second, false)
	if err := p.follow(first, "rubbish"); err == nil {
		t.Error("rubbish was taken for a key")
	}
	if err := p.follow(first, second); err != nil {
		t.Fatal(err)
	}
	p = open(first) // started anew in the middle
	obeys(p, first, true)
	obeys(p, second, true) // and with this the first is over
	obeys(p, first, false)
	p = open(first) // its unit still names the first
	obeys(p, first, false)
	obeys(p, second, true)
	if err := p.follow(second, third); err != nil {
		t.Fatal(err)
	}
	obeys(p, third, true)
	obeys(open(third), third, true)
	obeys(open(third), second, false)
	p = open(stranger) // whoever starts it has the last word
	obeys(p, stranger, true)
	obeys(p, third, false)
	if !slices.Equal(p.keys, []string{stranger}) {
		t.Errorf("keys: %v", p.keys)
	}
	if err := os.WriteFile(path, []byte(first+"\nrubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openPins(path, first); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged file: %v", err)
	}
}

// TestNextKey: the next key waits in its own file, and there is none as a rule.
func TestNextKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.key")
	if key, err := nextKey(file); key != nil || err != nil {
		t.Errorf("%v, %v", key, err)
	}
	made, err := LoadKey(NextKeyFile(file))
	if err != nil {
		t.Fatal(err)
	}
	got, err := nextKey(file)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := made.PublicKey()
	if b, _ := got.PublicKey(); a != b {
		t.Errorf("%s, want %s", b, a)
	}
}

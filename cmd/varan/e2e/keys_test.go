package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/sync/httpd"
)

// TestKeys: an agent's key is revoked, let in again and changed, the fleet's key is changed, and the agent's is taken out
// of the repository; nothing that runs is touched.
func TestKeys(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "web2")
	f.write(map[string]string{"a.toml": on("web2", "web", "1")})
	f.commit("first")
	h := f.hosts["web2"]
	d := f.daemon()
	f.enrol()
	printed := f.varan("status", "--json").stdout
	var s httpd.Status
	if err := json.Unmarshal([]byte(printed), &s); err != nil || s.Hub == nil || len(s.Hub.Agents) != 1 {
		t.Fatalf("%v: %s", err, printed)
	}
	key := s.Hub.Agents[0].Key
	server := "[[server]]\nname = \"web2\"\nconfig.public_key = \"" + key + "\"\n"
	f.eventually("what is declared runs", 30*time.Second, func() (bool, string) {
		_, said := f.status()
		return len(f.running()) == 1, said
	})
	before := f.running()

	connected := func(what string, want bool) {
		t.Helper()
		f.eventually(what, 30*time.Second, func() (bool, string) {
			s, said := f.status()
			in := false
			if s.Hub != nil {
				for _, a := range s.Hub.Agents {
					in = in || a.Connected
				}
			}
			return in == want, said
		})
	}
	f.varan("agent", "revoke", key)
	connected("the revoked agent is out", false)
	f.varan("agent", "revoke", key, "--off")
	connected("it is in again", true)

	// Its next key takes over by a commit alone.
	r := h.inside(h.bin, "agent", "rotate", "--root", h.dir+"/root")
	out, err := r.Output()
	if err != nil {
		t.Fatalf("varan agent rotate: %v", err)
	}
	next := keyIn(t, string(out))
	if next == key {
		t.Fatal("the next key is the old one")
	}
	f.write(map[string]string{"servers.toml": strings.Replace(server, key, next, 1)})
	f.commit("web2 has a new key")
	f.eventually("it is in under its next key", 30*time.Second, func() (bool, string) {
		s, said := f.status()
		return s.Hub != nil && len(s.Hub.Agents) == 1 && s.Hub.Agents[0].Key == next && s.Hub.Agents[0].Connected, said
	})

	// The fleet's key too.
	if r := f.varan("key", "rotate"); r.exit != 0 {
		t.Fatalf("varan key rotate: %s%s", r.stdout, r.stderr)
	}
	f.deploy(on("web2", "web", "1") + on("web2", "other", "1"))
	f.eventually("what is declared then runs", 30*time.Second, func() (bool, string) {
		_, said := f.status()
		return len(f.running()) == len(before)+1, said
	})

	f.write(map[string]string{"servers.toml": "[[server]]\nname = \"web2\"\n"})
	f.commit("web2 leaves")
	f.eventually("it is out and waits", 30*time.Second, func() (bool, string) {
		s, said := f.status()
		return s.Hub != nil && len(s.Hub.Agents) == 0 && slices.ContainsFunc(s.Hub.Waiting, func(w fleet.Waiting) bool { return w.Key == next }), said
	})
	for name, id := range before {
		if now := f.running()[name]; now != id {
			t.Errorf("%s was touched: %s, now %s", name, id, now)
		}
	}
	d.stop()
}

// keyIn is the public key in TOML that enrols.
func keyIn(t *testing.T, text string) string {
	t.Helper()
	_, after, _ := strings.Cut(text, `config.public_key = "`)
	key, _, found := strings.Cut(after, `"`)
	if !found {
		t.Fatalf("no key in %q", text)
	}
	return key
}

package fleet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	maxWaiting     = 100
	maxWaitingEach = 10 // from one address, so that nobody alone fills the list
	// waitingFor is how long a key is shown after its agent last asked; agents ask every few seconds.
	waitingFor = time.Minute
	maxClaim   = 64 // characters of a claimed name
)

// A Waiting agent holds a key that no commit enrols. It proved that it holds it; what it says of itself is a claim.
type Waiting struct {
	Key   string     `json:"key"`
	Claim string     `json:"claim,omitempty"` // the name it gives itself
	From  netip.Addr `json:"from,omitzero"`
	Since time.Time  `json:"since"`
	Seen  time.Time  `json:"seen"`
	// Revoked: somebody locked this key out by hand.
	Revoked bool `json:"revoked,omitempty"`
}

// waits notes an agent that was refused. The mutex is held.
func (h *Hub) waits(key, claim string, from netip.Addr, now time.Time) {
	if w := h.waiting[key]; w != nil {
		w.Seen, w.From, w.Claim, w.Revoked = now, from, claimed(claim), h.revoked[key]
		return
	}
	here := 0
	for k, w := range h.waiting {
		if now.Sub(w.Seen) > waitingFor {
			delete(h.waiting, k)
		} else if place(w.From) == place(from) {
			here++
		}
	}
	if len(h.waiting) >= maxWaiting || here >= maxWaitingEach {
		return
	}
	h.waiting[key] = &Waiting{Key: key, Claim: claimed(claim), From: from, Since: now, Seen: now, Revoked: h.revoked[key]}
	h.log.Info("an agent waits: commit its key to enrol it", "key", key, "claims", claimed(claim), "from", from)
}

// claimed is what of a name somebody gives himself is shown: never more than a server's name may hold.
func claimed(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return -1
	}, name)
	return name[:min(len(name), maxClaim)]
}

// Waiting lists the agents that were refused of late, who came first first.
func (h *Hub) Waiting() []Waiting {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	var out []Waiting
	for _, w := range h.waiting {
		if now.Sub(w.Seen) <= waitingFor && h.servers[w.Key] == "" {
			out = append(out, *w)
		}
	}
	slices.SortFunc(out, func(a, b Waiting) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return out
}

// TOML is what to commit to enrol it.
func (w Waiting) TOML() string { return EnrolTOML(w.Claim, w.Key) }

// EnrolTOML is the table that enrols an agent. Whoever commits it may call the server otherwise.
func EnrolTOML(name, key string) string {
	if name = claimed(name); name == "" {
		name = "server-" + strings.ToLower(key[1:min(len(key), 7)])
	}
	return fmt.Sprintf("[[server]]\nname = %q\nconfig.public_key = %q\n", name, key)
}

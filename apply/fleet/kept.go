package fleet

import (
	"time"

	"github.com/varanhq/varan/plan"
)

// keptFor is how long an observation is believed while its agent says of no change: agents tell on the engine's
// events, but what tells may be lost.
const keptFor = time.Minute

// A kept observation stands for asking again, so that a plan over many servers does not wait for as many round trips.
// Its state is shared by all who asked and must not be written to.
type kept struct {
	state plan.ServerState
	until time.Time // monotonic, this process's
}

// A watch counts what may have changed a server since it was looked at.
type watch struct {
	changes uint64
	ops     int // in flight
	kept    *kept
}

// watched is the watch of an agent's key. The mutex is held.
func (h *Hub) watched(key string) *watch {
	w := h.watches[key]
	if w == nil {
		w = new(watch)
		h.watches[key] = w
	}
	return w
}

// stirred says that what was seen of a server may no longer be so.
func (h *Hub) stirred(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watched(key)
	w.changes++
	w.kept = nil
}

// working says that an op is under way on a server, until the function it returns was called: meanwhile nothing that
// is seen of it is kept.
func (h *Hub) working(key string) (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watched(key)
	w.ops++
	w.changes++
	w.kept = nil
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		w.ops--
		w.changes++
		w.kept = nil
	}
}

// seen is the observation that still stands, if one does, and what to hand to keep with a new one.
func (h *Hub) seen(key string) (state *plan.ServerState, changes uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watched(key)
	if w.kept != nil && time.Now().Before(w.kept.until) {
		return &w.kept.state, w.changes
	}
	w.kept = nil
	return nil, w.changes
}

// keep keeps what was seen, unless something changed since it was asked for. This process's own agent is asked each
// time: that costs next to nothing.
func (h *Hub) keep(key string, changes uint64, state plan.ServerState) {
	if key == h.opts.Own {
		return
	}
	until := time.Now().Add(keptFor)
	for _, hold := range state.Holds {
		if left := time.Until(hold.Until); !hold.Until.IsZero() && left < keptFor {
			until = time.Now().Add(max(left, 0))
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.watched(key); w.changes == changes && w.ops == 0 {
		w.kept = &kept{state: state, until: until}
	}
}

// left is told by the gate that an agent's last connection has ended.
func (h *Hub) left(key string) {
	h.stirred(key)
	h.mu.Lock()
	name := h.servers[key]
	h.mu.Unlock()
	if name == "" {
		return
	}
	select {
	case h.changed <- name:
	default:
	}
}

package fleet

import (
	"slices"
	"time"

	"github.com/varanhq/varan/plan"
)

// keptFor bounds how long what an agent said of its host is taken for how it stands, though nothing was heard of a
// change. Who looks by the clock, or because a person asks, asks anew: see Refresh.
const keptFor = 6 * time.Minute

// What an agent answered last to an observation without questions. It holds while the agent's session goes on, it is
// connected, has said nothing of a change, and nothing was done through this hub: agents say so at once when the
// engine tells of a container. What has no event (host files, a volume) is what questions are for, and those are
// always asked. An op never relies on it: the agent looks for itself.
type kept struct {
	state   plan.ServerState
	session *session
	at      time.Time
}

// recall is what is kept of an agent's host, if it still holds. This process's own agent is asked anew, which costs
// nothing. change counts what was heard of it, for keep.
func (h *Hub) recall(key string) (state plan.ServerState, change uint64, ok bool) {
	_, connected := h.front.connected(key)
	h.mu.Lock()
	defer h.mu.Unlock()
	change = h.changes[key]
	k, ok := h.states[key]
	if !ok || !connected || key == h.opts.Own || k.session != h.sessions[key] || time.Since(k.at) > keptFor {
		return state, change, false
	}
	state = k.state
	now := time.Now()
	state.Holds = slices.DeleteFunc(slices.Clone(state.Holds), func(o plan.Hold) bool { return o.Over(now) })
	return state, change, true
}

// keep remembers an answer, unless something was heard of a change since recall counted.
func (h *Hub) keep(key string, change uint64, state plan.ServerState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sessions[key]; s != nil && h.changes[key] == change && h.servers[key] != "" {
		h.states[key] = kept{state, s, time.Now()}
	}
}

// changedLocked notes that an agent's host may be different now. The mutex is held.
func (h *Hub) changedLocked(key string) {
	h.changes[key]++
	delete(h.states, key)
}

// Refresh has every agent asked anew at the next observation.
func (h *Hub) Refresh() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.states)
}

// left is told by the gate that an agent's last connection has ended.
func (h *Hub) left(key string) {
	h.mu.Lock()
	h.giveUp(key, func(waiter) bool { return true })
	h.changedLocked(key)
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

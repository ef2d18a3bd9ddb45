package fleet

import (
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/protocol/wire"
)

// figuresStale is after how long what an agent said of its machine says nothing any more.
const figuresStale = 3 * protocol.FiguresEvery

// told is what an agent said last of its machine.
type told struct {
	protocol.Figures
	at time.Time // by this process's clock
}

// Figures is what a server's agent said last of its machine; not ok when that is long ago, or it never did.
func (h *Hub) Figures(server string) (f protocol.Figures, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.figures[h.keys[server]]
	if !ok || time.Since(t.at) > figuresStale {
		return f, false
	}
	return t.Figures, true
}

// takeFigures keeps what an agent says of its machine.
func (h *Hub) takeFigures(m *wire.Message) {
	var f protocol.Figures
	if err := h.read(m, &f); err != nil {
		h.log.Debug("figures not read", "agent", m.Agent, "err", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.servers[m.Agent] == "" {
		return // locked out meanwhile
	}
	h.figures[m.Agent] = told{f, time.Now()}
	for key := range h.figures {
		if h.servers[key] == "" {
			delete(h.figures, key)
		}
	}
}

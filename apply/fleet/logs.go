package fleet

import (
	"context"
	"fmt"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/protocol/wire"
)

// Logs asks a server's agent for the next of what containers print. Nothing comes that was not asked for, so that a
// slow reader slows down the one who prints for him and nobody else.
func (h *Hub) Logs(ctx context.Context, server string, q protocol.Logs) (protocol.Logged, error) {
	var l protocol.Logged
	key, err := h.agent(server)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, submitTimeout)
		defer cancel()
		err = h.call(ctx, key, wire.Logs, "", func(uint64) any { return q }, &l)
	}
	if err != nil {
		return l, fmt.Errorf("logs on server %s: %w", server, err)
	}
	return l, nil
}

package link

import (
	"context"
	"errors"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/protocol"
)

// A Handler does what messages ask for: the agent. Its methods may be called side by side.
type Handler interface {
	Observe(ctx context.Context, q protocol.Observe) protocol.Observed
	// Submit takes an op and returns at once.
	Submit(ctx context.Context, op protocol.Op) protocol.Submit
	// Wait returns an op's outcome once it has one. An error while ctx has not ended means that the op is unknown.
	Wait(ctx context.Context, id protocol.OpID) (protocol.Outcome, error)
}

// Options of Serve.
type Options struct {
	Handler  Handler
	Key      nkeys.KeyPair // the agent's own key
	FleetKey string        // the fleet's public key, pinned
	TermFile string        // where the highest term obeyed is kept; "" = in memory only
	Name     string        // what this agent calls itself: for people
	Progress <-chan protocol.Progress
	Changed  <-chan struct{} // a token whenever the host may have changed
	Log      *slog.Logger    // nil = discarded
}

// Serve answers the fleet's daemons over conn until ctx ends.
func Serve(ctx context.Context, conn *nats.Conn, opts Options) error {
	return errors.New("agent link: not built yet")
}

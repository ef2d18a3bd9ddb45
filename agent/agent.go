package agent

import (
	"context"
	"errors"
	"log/slog"

	"github.com/varanhq/varan/agent/protocol"
)

// Options of an Agent.
type Options struct {
	Root       string // ledger, stacks' files, key; made if absent
	DockerHost string // "" = DOCKER_HOST, else the default socket
	Fleet      string
	Server     string // the name of this host's [[server]]
	Log        *slog.Logger
}

// An Agent does ops on one engine. Its methods may be called side by side.
type Agent struct{}

// New locks the root and the engine, reads the ledger and puts right what a killed process left behind. It
// fails at once, with the socket it tried, where no engine answers.
func New(opts Options) (*Agent, error) { return nil, errors.New("agent: not built yet") }

// Run watches the engine's events and works on the ops submitted until ctx ends. It must run for ops to go on.
func (a *Agent) Run(ctx context.Context) error { return errors.New("agent: not built yet") }

// Close unlocks root and engine; call it when Run has returned.
func (a *Agent) Close() error { return nil }

// Observe tells the host's state. What could not be told stands in the answer's Error.
func (a *Agent) Observe(ctx context.Context, q protocol.Observe) protocol.Observed {
	return protocol.Observed{Version: protocol.Version, Error: "agent: not built yet"}
}

// Submit takes an op and returns at once: accepted, running, done (with the Outcome) or refused (with one).
func (a *Agent) Submit(ctx context.Context, op protocol.Op) protocol.Submit {
	return protocol.Submit{Version: protocol.Version, State: "refused"}
}

// Wait returns the outcome of an op once it has one. The error says that ctx ended first or that the op is
// unknown here ([ErrUnknownOp]), in which case it is to be submitted again.
func (a *Agent) Wait(ctx context.Context, id protocol.OpID) (protocol.Outcome, error) {
	return protocol.Outcome{}, ErrUnknownOp
}

// ErrUnknownOp says that this agent neither works on the op nor remembers it.
var ErrUnknownOp = errors.New("unknown op")

// Progress subscribes to the progress of all ops. A slow reader loses the oldest events, never the newest.
func (a *Agent) Progress() *Subscription { return nil }

// Changed has a token whenever something about the host's containers may have changed since it was last read.
func (a *Agent) Changed() <-chan struct{} { return nil }

// A Subscription delivers progress until it is closed.
type Subscription struct {
	C <-chan protocol.Progress // closed by Close
}

// Close ends the subscription.
func (s *Subscription) Close() {}

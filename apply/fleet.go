package apply

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
)

// A Fleet reaches the servers. Its methods may be called side by side.
type Fleet interface {
	// Observe tells how a server stands and answers the queries. An error means that it could not be told.
	Observe(ctx context.Context, server string, queries []protocol.Query) (plan.ServerState, error)

	// Do carries an op out and returns how it ended. Called again with an op already done it returns the first
	// outcome. An error means that the outcome is unknown: ask again with the same op and assume nothing; only
	// [ErrUnreachable] says that this call brought nothing to the server. The fleet fills in the op's version and
	// term. Progress, which may be nil, is not called after Do has returned.
	Do(ctx context.Context, op protocol.Op, progress func(protocol.Progress)) (protocol.Outcome, error)
}

// ErrUnreachable is in the chain of a [Fleet]'s error when nothing reached the server.
var ErrUnreachable = errors.New("unreachable")

// ObserveTimeout bounds how long one server may take to answer: a slow one delays a plan by no more.
const ObserveTimeout = 30 * time.Second

// Observe asks all servers at once, each with its queries. A server that does not answer is a fact in the State.
func Observe(ctx context.Context, fleet Fleet, servers []string, queries map[string][]protocol.Query) *plan.State {
	states := make([]*plan.ServerState, len(servers))
	var wait sync.WaitGroup
	for i, server := range servers {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, ObserveTimeout)
			defer cancel()
			s, err := fleet.Observe(ctx, server, queries[server])
			if err != nil {
				s = plan.ServerState{Unreachable: why(err, server)}
			}
			s.Name = server
			states[i] = &s
		})
	}
	wait.Wait()
	state := &plan.State{Servers: make(map[string]*plan.ServerState, len(servers))}
	for _, s := range states {
		state.Servers[s.Name] = s
	}
	return state
}

// why is an error of a server for where its name stands before it.
func why(err error, server string) string {
	text := err.Error()
	for {
		short := text
		for _, p := range []string{"observe server " + server + ": ", "server " + server + ": ", ErrUnreachable.Error() + ": "} {
			short = strings.TrimPrefix(short, p)
		}
		if short == text {
			return text
		}
		text = short
	}
}

// Payloads says what a step's op brings along: the declaration with its variables resolved, files, secrets. It is
// called once for a step, when its turn has come; an error fails the step with nothing stopped.
type Payloads interface {
	Payload(ctx context.Context, step plan.Step) (*protocol.Payload, error)
}

// PayloadFunc makes a function a [Payloads].
type PayloadFunc func(ctx context.Context, step plan.Step) (*protocol.Payload, error)

// Payload calls f.
func (f PayloadFunc) Payload(ctx context.Context, step plan.Step) (*protocol.Payload, error) {
	return f(ctx, step)
}

package apply

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// Options of one run. Plan and Fleet are required; Payloads too if a step brings something about.
type Options struct {
	Plan     *plan.Plan
	Fleet    Fleet
	Payloads Payloads
	Journal  Journal // nil = Forget
	Head     Head
	Log      *slog.Logger // nil = discarded

	// Events is called with each event, one at a time and in order; it must return soon. nil = none.
	Events func(Event)

	// Run is this run's id, "" = a new one. Op ids derive from it, so only a resumed run has that of another.
	Run string
	// Resume is the record of the cut-off run that this one finishes; Plan may then be nil. Payloads must be those
	// of the record's commit.
	Resume *Record

	// Preview is the digest of the plan that was shown, "" = none was.
	Preview string
	// Approved answers the plan's Asks if it equals its Digest.
	Approved string

	PerServer   int // ops in flight on one server, 0 = 8
	Parallel    int // ops in flight in all, 0 = 256
	MaxFailures int // failed updates after which no further one starts, 0 = 5, negative = no bound

	// Failures counts, by resource, the failures in a row before this run that stopped nothing.
	Failures map[schema.ID]int
	// Patience is how long an op's outcome is asked for again before the step counts as unknown, 0 = 10 m; and
	// Reach how long a server that nothing ever reached may take to appear, 0 = 20 s.
	Patience, Reach time.Duration
}

// Run carries a plan out. Failed steps are in the Result; an error means that the run could not be started or
// recorded. See [ErrSuperseded] and [ErrCancelled] for how to end one early.
func Run(ctx context.Context, opts Options) (*Result, error) {
	return nil, errors.New("apply: not built yet")
}

package apply

import (
	"errors"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// The causes with which a caller ends a run's context and lets what is in flight finish. Any other end of the
// context abandons it: the run stays unfinished in the journal and is resumed.
var (
	ErrSuperseded = errors.New("a newer commit took its place")
	ErrCancelled  = errors.New("cancelled")
	// ErrStopping lets what is in flight finish too, but the run stays unfinished: it is resumed.
	ErrStopping = errors.New("the daemon is being stopped")
)

// Status says how a run, or one of its steps, stands.
type Status string

const (
	StatusRunning     Status = "running"     // runs only
	StatusDone        Status = "done"        // did what it was to do; a step that changes nothing is done too
	StatusFailed      Status = "failed"      // a run: at least one step
	StatusRolledBack  Status = "rolled_back" // steps only: failed, and what ran before runs again
	StatusNotTried    Status = "not_tried"   // steps only: Why says the reason
	StatusUnknown     Status = "unknown"     // steps only: the server stopped answering; asked again by the next run
	StatusAsks        Status = "asks"        // runs only: nothing was applied, Asks lists what must be approved
	StatusSuperseded  Status = "superseded"  // runs only
	StatusCancelled   Status = "cancelled"   // runs only
	StatusInterrupted Status = "interrupted" // runs only: cut off, to be resumed
)

// A Result is how a run went.
type Result struct {
	Run     string       `json:"run"`
	Head    Head         `json:"head"`
	Status  Status       `json:"status"`
	Steps   []StepResult `json:"steps"` // in the plan's order, one each
	Asks    []string     `json:"asks,omitempty"`
	Started time.Time    `json:"started"`
	Millis  int64        `json:"millis"`
	// Differs: the plan carried out is not the one that was shown (Options.Preview).
	Differs bool `json:"differs,omitempty"`
	// Cascades are restarts this run owes and did not come to: they go to the next plan (plan.Rules.Owed).
	Cascades []schema.ID `json:"cascades,omitempty"`
	// Retry is when the first of the failures that stopped nothing is to be tried again, 0 = none.
	Retry time.Duration `json:"retry,omitempty"`
}

// OK reports whether every step is done.
func (r *Result) OK() bool { return r.Status == StatusDone }

// Step finds a resource's result, nil if the plan had no such step.
func (r *Result) Step(id schema.ID) *StepResult {
	for i := range r.Steps {
		if r.Steps[i].Resource == id {
			return &r.Steps[i]
		}
	}
	return nil
}

// A StepResult is what became of one step.
type StepResult struct {
	Resource schema.ID   `json:"resource"`
	Server   string      `json:"server,omitempty"`
	Action   plan.Action `json:"action"`
	Status   Status      `json:"status"`
	// Why it was not tried, in words that name the step or rule in the way.
	Why     string    `json:"why,omitempty"`
	Because schema.ID `json:"because,omitempty"` // the step whose failure is behind Why
	Error   string    `json:"error,omitempty"`
	Hint    string    `json:"hint,omitempty"`
	Tail    string    `json:"tail,omitempty"` // what was printed last: never for a forge

	Stopped  bool                      `json:"stopped,omitempty"` // something that ran was stopped
	Services []protocol.ServiceOutcome `json:"services,omitempty"`
	Held     plan.Digest               `json:"held,omitempty"`

	Wait          int64 `json:"wait_millis,omitempty"` // from the run's start to its first op
	PrepareMillis int64 `json:"prepare_millis,omitempty"`
	Millis        int64 `json:"millis,omitempty"` // of the op that changed things, gate included

	// Failures in a row that stopped nothing, this one included, and when to try again; 0 = not to be retried.
	Failures int           `json:"failures,omitempty"`
	Retry    time.Duration `json:"retry,omitempty"`
	// Unreachable: it ended because its server could not be reached, or was cut off in the middle of it. It is tried
	// again as soon as the server is back.
	Unreachable bool `json:"unreachable,omitempty"`
	// Changed: the server is different now, so what comes after it is restarted.
	Changed bool `json:"changed,omitempty"`
}

// Backoff is the pause before trying again after that many failures in a row: 1 m, doubling, at most 1 h.
func Backoff(failures int) time.Duration {
	const least, most = time.Minute, time.Hour
	d := least
	for range failures - 1 {
		if d *= 2; d >= most {
			return most
		}
	}
	return d
}

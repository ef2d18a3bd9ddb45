package apply

import (
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// An EventKind says what an [Event] tells.
type EventKind string

const (
	RunStarted  EventKind = "run_started"
	OpStarted   EventKind = "op_started"   // Verb is set
	OpProgress  EventKind = "op_progress"  // Progress is set
	OpAsked     EventKind = "op_asked"     // the outcome is not known, it is asked again; Detail says why
	OpFinished  EventKind = "op_finished"  // Verb and Outcome are set
	StepDone    EventKind = "step_done"    // Step is set; every step ends with exactly one StepDone
	RunFinished EventKind = "run_finished" // Detail is the Result's Status
)

// An Event is live progress of a run, for terminal and page. It holds no secret.
type Event struct {
	At       time.Time          `json:"at"`
	Run      string             `json:"run"`
	Kind     EventKind          `json:"kind"`
	Resource schema.ID          `json:"resource,omitempty"`
	Server   string             `json:"server,omitempty"`
	Action   plan.Action        `json:"action,omitempty"`
	Verb     protocol.Verb      `json:"verb,omitempty"`
	Progress *protocol.Progress `json:"progress,omitempty"`
	Outcome  *protocol.Outcome  `json:"outcome,omitempty"`
	Step     *StepResult        `json:"step,omitempty"`
	Detail   string             `json:"detail,omitempty"`
}

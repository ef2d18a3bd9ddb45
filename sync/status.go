package sync

import (
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// Status is everything a person on call wants to see at once.
type Status struct {
	Fleet   string    `json:"fleet"`
	Started time.Time `json:"started"`
	// Ready: every sync was read and planned once. Problem says why not, or what needs a person now.
	Ready   bool   `json:"ready"`
	Problem string `json:"problem,omitempty"`

	Paused    *plan.Hold       `json:"paused,omitempty"`
	Syncs     []SyncStatus     `json:"syncs"`
	Servers   []ServerStatus   `json:"servers"`
	Resources []ResourceStatus `json:"resources"`
	Holds     []plan.Hold      `json:"holds"`
	Running   []RunInfo        `json:"running"`
}

// SyncStatus is one ResourceSync.
type SyncStatus struct {
	Name    string `json:"name"`
	URL     string `json:"url"` // without userinfo
	Branch  string `json:"branch,omitempty"`
	Tip     string `json:"tip,omitempty"`     // what the branch says
	Good    string `json:"good,omitempty"`    // the newest commit that could be read: drift is checked against it
	Applied string `json:"applied,omitempty"` // the newest commit whose run ended without a failure
	// State: reading, waiting, asking, broken, unreachable, running, failed, retrying, paused, cancelled, ok.
	State       string              `json:"state"`
	Error       string              `json:"error,omitempty"`
	Diagnostics []schema.Diagnostic `json:"diagnostics,omitempty"` // of the tip
	// Asks and Digest: what waits for `varan approve DIGEST`.
	Asks    []string     `json:"asks,omitempty"`
	Digest  string       `json:"digest,omitempty"`
	Summary plan.Summary `json:"summary,omitempty"` // of the last plan
	Polled  time.Time    `json:"polled,omitzero"`
	Planned time.Time    `json:"planned,omitzero"`
	Retry   time.Time    `json:"retry,omitzero"`
}

// ServerStatus is one server.
type ServerStatus struct {
	Name string `json:"name"`
	// State: ok, warning, critical, unreachable, disabled, maintenance.
	State       string `json:"state"`
	Unreachable string `json:"unreachable,omitempty"` // why
	// Why it is warning or critical, in words.
	Why         []string          `json:"why,omitempty"`
	Maintenance string            `json:"maintenance,omitempty"` // the window that is open
	Region      string            `json:"region,omitempty"`
	Containers  int               `json:"containers"`
	Resources   int               `json:"resources"`
	Figures     *protocol.Figures `json:"figures,omitempty"` // of its machine; nil = not told of late
}

// ResourceStatus is one declared stack or deployment, as last seen.
type ResourceStatus struct {
	Resource schema.ID   `json:"resource"`
	Sync     string      `json:"sync"`
	Server   string      `json:"server,omitempty"`
	State    string      `json:"state"`  // running, partly, stopped, completed, unhealthy, absent, unknown, held
	Action   plan.Action `json:"action"` // of the last plan
	Cause    string      `json:"cause,omitempty"`
	Commit   string      `json:"commit,omitempty"` // that created what runs
	Source   plan.Source `json:"source"`
}

// RunInfo is one run in short.
type RunInfo struct {
	ID      string       `json:"id"`
	Sync    string       `json:"sync"`
	Commit  string       `json:"commit,omitempty"`
	Trigger string       `json:"trigger"` // commit, drift, secret, command, retry, start
	Actor   string       `json:"actor,omitempty"`
	Started time.Time    `json:"started"`
	Ended   time.Time    `json:"ended,omitzero"`
	Status  string       `json:"status"` // running, done, failed, cancelled, superseded, interrupted
	Summary plan.Summary `json:"summary,omitempty"`
	Error   string       `json:"error,omitempty"`
}

// Run is one run in full.
type Run struct {
	RunInfo
	Plan  *plan.Plan `json:"plan,omitempty"`
	Steps []RunStep  `json:"steps"`
}

// RunStep is what became of one step.
type RunStep struct {
	Resource schema.ID `json:"resource"`
	Server   string    `json:"server,omitempty"`
	Action   string    `json:"action"`
	Status   string    `json:"status"`
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"`
	Tail     string    `json:"tail,omitempty"` // what was printed last: not for a forge
	Millis   int64     `json:"millis"`
	// Held: the version that failed is not tried again by itself. Retry: it is, so long after it failed.
	Held  plan.Digest   `json:"held,omitempty"`
	Retry time.Duration `json:"retry,omitempty"`
}

// HoldRequest is `varan hold`; Resource "" holds the whole Server.
type HoldRequest struct {
	Resource schema.ID     `json:"resource,omitempty"`
	Server   string        `json:"server,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	For      time.Duration `json:"for,omitempty"` // 0 = until lifted
	Off      bool          `json:"off,omitempty"`
}

// PauseRequest is `varan pause`.
type PauseRequest struct {
	Reason string        `json:"reason,omitempty"`
	For    time.Duration `json:"for,omitempty"`
	Off    bool          `json:"off,omitempty"`
}

// PlanRequest asks for a plan without touching anything.
type PlanRequest struct {
	Sync  string      `json:"sync,omitempty"` // "" = the root
	Dir   string      `json:"dir,omitempty"`  // read this folder instead of the sync's branch
	Ref   string      `json:"ref,omitempty"`  // with Dir: this revision of the repository there
	Retry bool        `json:"retry,omitempty"`
	Only  []schema.ID `json:"only,omitempty"`

	AllowRemovals int  `json:"allow_removals,omitempty"`
	Remove        bool `json:"remove,omitempty"` // remove orphans as if delete = true
}

// ApplyRequest asks for a run. Digest, when set, is the plan that was shown: another plan is refused.
type ApplyRequest struct {
	PlanRequest
	Digest string `json:"digest,omitempty"`
	Actor  string `json:"actor,omitempty"`
}

// LogsRequest asks for what containers printed.
type LogsRequest struct {
	Resource schema.ID `json:"resource"`
	Server   string    `json:"server,omitempty"`
	Service  string    `json:"service,omitempty"`
	Tail     int       `json:"tail,omitempty"` // lines; 0 = 100
	Follow   bool      `json:"follow,omitempty"`
	Since    string    `json:"since,omitempty"`
}

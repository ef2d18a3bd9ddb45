package plan

import "github.com/varanhq/varan/schema"

// An Action is what a step does.
type Action string

const (
	Create         Action = "create"   // nothing of it exists
	Update         Action = "update"   // some services are created, recreated, restarted or removed
	Recreate       Action = "recreate" // every container is replaced
	Restart        Action = "restart"  // container ids stay; also starts what was stopped
	Stop           Action = "stop"     // runs, but ensure = "stopped"
	Run            Action = "run"      // builds and procedures
	Adopt          Action = "adopt"    // runs as declared without our labels: taken over, untouched
	Remove         Action = "remove"
	ReleaseObjects Action = "release" // let go, leave running
	None           Action = "none"
	Unknown        Action = "unknown" // server unreachable, not this machine, files not read
	Blocked        Action = "blocked" // a [[NAME]] without a value, or a thing this version does not carry out
	Held           Action = "held"
)

// Changes reports whether the action does something to a host.
func (a Action) Changes() bool {
	switch a {
	case Create, Update, Recreate, Restart, Stop, Run, Remove, ReleaseObjects:
		return true
	}
	return false
}

// A Plan is an ordered list of steps. Equal inputs give equal bytes.
type Plan struct {
	Version     int                 `json:"version"`
	Commit      string              `json:"commit"`
	Digest      string              `json:"digest"` // of the redacted plan
	Summary     Summary             `json:"summary"`
	Steps       []Step              `json:"steps"`
	Diagnostics []schema.Diagnostic `json:"diagnostics"`
	// Asks lists what must be approved before this plan may be applied by itself.
	Asks []string `json:"asks,omitempty"`
}

// Summary counts steps by action; every action is present.
type Summary map[Action]int

// A Step is one resource's part of a plan.
type Step struct {
	Resource schema.ID     `json:"resource"`
	Action   Action        `json:"action"`
	Server   string        `json:"server,omitempty"`
	Wave     int           `json:"wave"`
	After    []schema.ID   `json:"after"`
	Causes   []Cause       `json:"causes"`
	Services []ServiceStep `json:"services"`
	Changes  []Change      `json:"changes"`
	Source   Source        `json:"source"`
	// Of is set where the step is about what a resource left behind on another server than its own, or an orphan on
	// a further one: Resource is then Of with "@server", so that every step has a name of its own.
	Of schema.ID `json:"of,omitempty"`

	// Sync and Commit are set where the resource comes from a further sync: they go on its labels.
	Sync   string `json:"-"`
	Commit string `json:"-"`
	// Digest covers all units: what a failed gate holds. Not part of the JSON.
	Digest Digest `json:"-"`
	// Declared is what the step brings about; nil for removals.
	Declared *Declared `json:"-"`
	// Gate: dependents wait for this resource to be healthy although its own step changes nothing.
	Gate bool `json:"-"`
}

// Source is where a step's resource is declared.
type Source struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

// A CauseKind is a fixed word; Detail says the rest for people.
type CauseKind string

const (
	NotRunning      CauseKind = "not_running"
	SpecChanged     CauseKind = "spec_changed"
	FileChanged     CauseKind = "file_changed"
	HostFileChanged CauseKind = "host_file_changed"
	SecretChanged   CauseKind = "secret_changed"
	ImageChanged    CauseKind = "image_changed"
	Drifted         CauseKind = "drifted"
	CameAfter       CauseKind = "came_after"
	Shares          CauseKind = "shares" // a network, a namespace or volumes of what is replaced or restarted
	Needs           CauseKind = "needs"  // depends_on with restart: true, and what it names is replaced or restarted
	Orphaned        CauseKind = "orphaned"
	Released        CauseKind = "released"
	NotAdoptable    CauseKind = "differs" // runs, without our labels, and differs
	Unreachable     CauseKind = "unreachable"
	NotRead         CauseKind = "not_read"
	NoValue         CauseKind = "no_value"
	NotCarriedOut   CauseKind = "not_carried_out"
	OnHold          CauseKind = "on_hold"
	EnsureChanged   CauseKind = "ensure"
	Elsewhere       CauseKind = "not_this_machine"
	NotAsked        CauseKind = "not_asked" // deploy = false, or follow and not running
	Unhealthy       CauseKind = "unhealthy" // runs as declared and is not well: shown, nothing is done
	Conflict        CauseKind = "conflict"  // somebody else holds a name, a port or a volume it needs
	Invalid         CauseKind = "invalid"   // its files or their consequences are refused; see the diagnostics
	WaitsFor        CauseKind = "waits_for" // what it comes after cannot be changed now
	ServerDisabled  CauseKind = "server_disabled"
	UnderWay        CauseKind = "under_way" // an op of an earlier run still works on it
	Moved           CauseKind = "moved"     // to another server
	Renamed         CauseKind = "renamed"   // was: takes over the objects of its former name
	Adopted         CauseKind = "adopted"
	OwnContainer    CauseKind = "self" // varan runs in it
	AgentVersion    CauseKind = "agent_version"
)

// A Cause says why a step is what it is.
type Cause struct {
	Kind   CauseKind `json:"kind"`
	Detail string    `json:"detail,omitempty"`
}

// A ServiceStep is what happens to one container of a step.
type ServiceStep struct {
	Name   string `json:"name"`
	Action Action `json:"action"` // create, recreate, restart, remove, none
}

// A Change is one field's old and new value. Old nil: not known, or new here. A secret's value never appears.
type Change struct {
	Path   string `json:"path"`
	Old    any    `json:"old"`
	New    any    `json:"new"`
	Secret bool   `json:"secret"`
}

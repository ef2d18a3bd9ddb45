package container

import (
	"time"

	"github.com/varanhq/varan/schema"
)

// A Phase is how far a change has come. Up to Creating nothing that ran was touched.
type Phase string

const (
	Creating   Phase = "creating"   // new containers are being created, nothing runs of them
	Swapping   Phase = "swapping"   // all are created; old ones are stopped, new ones started and watched
	Committing Phase = "committing" // the gate has passed; old ones are removed
	Rolling    Phase = "rolling"    // the gate has failed; new ones are removed, old ones put back
)

// An Intent is what a change is about to do, written down before it does it. With it, and a look at the engine,
// a new process finishes what a killed one began without doing anything twice.
type Intent struct {
	Resource schema.ID `json:"resource"`
	Fleet    string    `json:"fleet"`
	Project  string    `json:"project,omitempty"`
	Phase    Phase     `json:"phase"`
	Services []Service `json:"services,omitempty"`
	Olds     []Old     `json:"olds,omitempty"`
	News     []New     `json:"news,omitempty"`
	Agains   []Again   `json:"agains,omitempty"`
	Networks []Taken   `json:"networks,omitempty"`

	Settle        time.Duration `json:"settle"`
	HealthTimeout time.Duration `json:"health_timeout"`
	Keep          bool          `json:"keep,omitempty"`
	Failure       *Failure      `json:"failure,omitempty"` // Rolling: why; Committing: what failed and is kept
}

// An Old is a container the change replaces or removes.
type Old struct {
	ID      string `json:"id"`
	Name    string `json:"name"` // before the change
	Service string `json:"service"`
	Ran     bool   `json:"ran,omitempty"`
}

// A New is a container the change has created.
type New struct {
	ID      string `json:"id"`
	Name    string `json:"name"` // what it is to be called
	Service string `json:"service"`
	Temp    bool   `json:"temp,omitempty"` // created as Name+NewSuffix
}

// An Again is a container that is stopped and started, or only started.
type Again struct {
	ID        string `json:"id"`
	Service   string `json:"service"`
	StartedAt string `json:"started_at"`    // before the change; another one means it is done
	Ran       bool   `json:"ran,omitempty"` // before the change: a rollback starts it
}

// A Journal keeps the Intent of a change. Save must have it on disk when it returns; if it cannot, the change
// goes no further.
type Journal interface {
	Save(Intent) error
}

// A Failure is why a change did not succeed, for people.
type Failure struct {
	Service string `json:"service,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Tail    string `json:"tail,omitempty"` // what the container printed last
	// Gate: the new containers were tried and found bad, so that trying again makes no sense.
	Gate bool `json:"gate,omitempty"`
	// Refused: agent.toml does not allow it.
	Refused bool `json:"refused,omitempty"`

	joins bool // what it shares the network or a namespace of does not run
}

func (f *Failure) Error() string { return f.Message }

// A Result is how a change ended.
type Result struct {
	Failure    *Failure // nil: done
	Stopped    bool     // something that ran was stopped
	RolledBack bool     // what ran before runs again
	Services   []ServiceResult
	// Left is what the change replaced or removed and the engine did not take away. It is stopped for good; to
	// remove it is to be tried again.
	Left []Left
}

// Left is an old container that could not be removed.
type Left struct {
	Old
	Why string
}

// A ServiceResult is what became of one service.
type ServiceResult struct {
	Name      string
	Container string        // id of its first container
	State     string        // healthy, completed, failed, removed
	Took      time.Duration // from its start
}

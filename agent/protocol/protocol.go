// Package protocol holds the messages a daemon and an agent exchange.
//
// In and out: data only. Both sides import it; it imports schema's and plan's data types and nothing else.
// Every message carries the protocol's Version and, where it orders something, the leader's Term.
package protocol

import (
	"encoding/json"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// Version of the messages. One release apart works both ways: fields are added, never renamed.
const Version = 1

// An OpID makes an op happen once: an agent that has done it returns its outcome. It derives from the sync,
// the resource, the digest and the attempt.
type OpID string

// Verb is what an op does.
type Verb string

const (
	Prepare Verb = "prepare" // pull and build; stops nothing, lays nothing
	Deploy  Verb = "deploy"  // create, update, recreate: swap, gate, roll back
	Restart Verb = "restart" // restart or start the named services, then gate
	Adopt   Verb = "adopt"   // write the ledger entry of what runs
	Remove  Verb = "remove"
	Release Verb = "release" // forget it and leave it running
	Stop    Verb = "stop"    // ensure = "stopped"
	SetHold Verb = "hold"    // set or lift a hold
	Prune   Verb = "prune"   // remove images that nothing uses; Resource is the server
	// Carry brings a part of a binary that an Update will ask for; Update makes it the agent's own. Resource is the
	// server.
	Carry  Verb = "carry"
	Update Verb = "update"
	// Await changes nothing: done once the resource's containers are healthy (the gate), for what comes after a
	// resource whose own step is none. Payload (without files) has the timeouts; Digest is not compared.
	Await Verb = "await"
)

// An Op asks an agent for one change of one resource.
type Op struct {
	Version  int                `json:"version"`
	Term     uint64             `json:"term"`
	ID       OpID               `json:"id"`
	Verb     Verb               `json:"verb"`
	Resource schema.ID          `json:"resource"`
	Server   string             `json:"server"`
	Fleet    string             `json:"fleet"`
	Sync     string             `json:"sync"`
	Commit   string             `json:"commit"`
	Digest   plan.Digest        `json:"digest,omitempty"` // of all units
	Services []plan.ServiceStep `json:"services,omitempty"`
	Payload  *Payload           `json:"payload,omitempty"` // Prepare, Deploy, Adopt
	Hold     *plan.Hold         `json:"hold,omitempty"`
	Lift     bool               `json:"lift,omitempty"`
	All      bool               `json:"all,omitempty"` // Prune: whoever brought the images
}

// A Payload is what a deployment or stack needs to come to be on a host.
type Payload struct {
	After     []string `json:"after,omitempty"`
	Repo      string   `json:"repo,omitempty"` // without userinfo, for the label
	Project   string   `json:"project,omitempty"`
	Directory string   `json:"directory,omitempty"` // working directory, relative to the tree's root
	Pinned    string   `json:"pinned,omitempty"`    // config.directory: absolute folder on the host
	// Within: everything the stack uses of the tree lies in Directory, so that a project's folder on the host may
	// stand for Directory alone, whatever it is called.
	Within     bool                       `json:"within,omitempty"`
	Units      []plan.Unit                `json:"units"`
	Volumes    map[string]plan.Definition `json:"volumes,omitempty"`
	Binds      []plan.Bind                `json:"binds,omitempty"`
	Hooks      plan.Digest                `json:"hooks,omitempty"`
	Privileges []string                   `json:"privileges,omitempty"` // plan.Privilege.What of its containers
	Deployment *schema.DeploymentConfig   `json:"deployment,omitempty"` // variables resolved, secrets as [[NAME]]
	Stack      *schema.StackConfig        `json:"stack,omitempty"`
	Files      []File                     `json:"files,omitempty"` // at their paths in the repository
	Secrets    map[string]Secret          `json:"secrets,omitempty"`
	Registries []Registry                 `json:"registries,omitempty"`
	// OnHost: what the stack declares depends on files of its host; the agent reads them and declares it itself.
	OnHost bool          `json:"on_host,omitempty"`
	Ensure schema.Ensure `json:"ensure,omitempty"`
	Was    string        `json:"was,omitempty"`
	Agent  *Binary       `json:"agent,omitempty"` // Carry, Update
}

// A File is one file of the repository to lay on the host.
type File struct {
	Path    string `json:"path"`
	Hash    string `json:"hash"` // Git blob id of Data
	Exec    bool   `json:"exec,omitempty"`
	Symlink string `json:"symlink,omitempty"`
	Data    []byte `json:"data,omitempty"`
}

// A Registry is one login for pulls.
type Registry struct {
	Domain   string `json:"domain"`
	Username string `json:"username"`
	Password Secret `json:"password"`
}

// A Secret is a value that prints and logs as "[secret]". Only the wire carries it.
type Secret string

func (Secret) String() string   { return "[secret]" }
func (Secret) GoString() string { return "[secret]" }

// Status of an Outcome.
type Status string

const (
	Done       Status = "done"
	Failed     Status = "failed"      // nothing was stopped, or on_failure = "keep"
	RolledBack Status = "rolled_back" // what ran before runs again
	Refused    Status = "refused"     // agent.toml, term, version, disk
)

// An Outcome is how an op ended. Messages are for people and hold no secret.
type Outcome struct {
	Version int    `json:"version"`
	ID      OpID   `json:"id"`
	Status  Status `json:"status"`
	// Cause in plain words and what to do about it; empty when done.
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	// Tail is what the container or command printed last: never for a forge.
	Tail string `json:"tail,omitempty"`
	// Stopped reports whether something that ran was stopped: a failure without it may be retried.
	Stopped  bool             `json:"stopped,omitempty"`
	Services []ServiceOutcome `json:"services,omitempty"`
	Held     plan.Digest      `json:"held,omitempty"` // the digest now on hold
	Millis   int64            `json:"millis"`
	Again    bool             `json:"again,omitempty"` // the op was done before; this is its first outcome
}

// A ServiceOutcome is what became of one container.
type ServiceOutcome struct {
	Name      string `json:"name"`
	Container string `json:"container,omitempty"` // id
	State     string `json:"state"`               // healthy, completed, failed, removed
	Millis    int64  `json:"millis"`
}

// A Progress event of a running op.
type Progress struct {
	ID       OpID      `json:"id"`
	Resource schema.ID `json:"resource"`
	Server   string    `json:"server"`
	Service  string    `json:"service,omitempty"`
	Phase    string    `json:"phase"`            // pulling, building, creating, stopping, starting, waiting, healthy, rolling back
	Detail   string    `json:"detail,omitempty"` // "43 %"
}

// An Observe asks an agent for its State.
type Observe struct {
	Version int     `json:"version"`
	Term    uint64  `json:"term"`
	Fleet   string  `json:"fleet"`
	Queries []Query `json:"queries,omitempty"`
}

// A Query asks for Facts about one resource, with what is needed to tell them.
type Query struct {
	Resource schema.ID `json:"resource"`
	// Compare asks how containers without our labels differ from the declaration.
	Compare bool `json:"compare,omitempty"`
	// Declare asks what the stack declares, from its files on the host.
	Declare bool     `json:"declare,omitempty"`
	Payload *Payload `json:"payload,omitempty"`
}

// An Observed answers Observe.
type Observed struct {
	Version int              `json:"version"`
	State   plan.ServerState `json:"state"`
	Error   string           `json:"error,omitempty"`
}

// A Submit answers an Op at once; the Outcome follows.
type Submit struct {
	Version int      `json:"version"`
	State   string   `json:"state"` // accepted, running, done, refused
	Outcome *Outcome `json:"outcome,omitempty"`
}

// Encode is the one encoding of messages: JSON.
func Encode(v any) ([]byte, error) { return json.Marshal(v) }

// Decode reads a message, leaving fields it does not know.
func Decode(data []byte, v any) error { return json.Unmarshal(data, v) }

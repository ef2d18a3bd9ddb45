package plan

import (
	"encoding/json"

	"github.com/varanhq/varan/schema"
)

// Desired is everything a run wants: the Config of a commit with what its files declare, and the rules of
// the ResourceSync it comes from. It holds no secret's value.
type Desired struct {
	Fleet  string // varan.toml name, default "main"
	Sync   string // the ResourceSync's name; "main" for the root one
	Commit string // full id; "" when read from a folder outside Git
	Config *schema.Config

	// Declared has an entry for every stack and deployment whose files could be read.
	// A stack without an entry is Unread: its step is unknown.
	Declared map[schema.ID]*Declared

	// Local is the server this machine acts as ("local" when none is declared); resources without a
	// server stand on it.
	Local string

	// Binaries says of the binaries that agents are to be, by [BinaryName], why they cannot be had; absent = they can.
	Binaries map[string]string

	// Known names every [[NAME]] that has a value, secret (true) or not (false).
	Known map[string]bool

	Rules Rules
}

// Rules are the ResourceSync's settings that planning obeys.
type Rules struct {
	Delete      bool // remove orphans
	MaxRemovals int  // 0 = a quarter, at least 1, never everything
	ReportDrift bool // drift = "report": shown, not corrected
	Complete    bool // every sync of the fleet was read in this run, so orphans can be told
	Retry       bool // --retry: failed-digest holds are tried again
	// AllowRemovals lifts MaxRemovals to this many for one run (--allow-removals, an approval).
	AllowRemovals int
	// Only, when not empty, limits the plan to these resources (varan run, varan remove).
	Only []schema.ID
	// Owed are resources whose restart after a change of what they come after an earlier run did not come to.
	Owed map[schema.ID]bool
	// Further maps each further sync that was read in this run to its own delete rule.
	Further map[string]bool
	// Elsewhere names the resources other syncs of the fleet declare: they are no orphans.
	Elsewhere map[schema.ID]bool
}

// A Digest identifies a declared spec: "1:" and 32 hex digits, of SHA-256. It derives from no secret's value.
type Digest string

// A Unit is one container's declared spec: a deployment has one, a stack one per service replica set.
type Unit struct {
	Service   string          `json:"service"` // compose service; the deployment's name for a deployment
	Container string          `json:"container,omitempty"`
	Scale     int             `json:"scale,omitempty"` // replicas; 0 counts as 1
	Digest    Digest          `json:"digest"`
	Spec      json.RawMessage `json:"spec"`            // canonical JSON, secrets as [[NAME]]
	Files     []FileHash      `json:"files,omitempty"` // files it mounts or reads, part of Digest
	HostFiles []string        `json:"host_files,omitempty"`
	Needs     []string        `json:"needs,omitempty"`    // depends_on
	Restarts  []string        `json:"restarts,omitempty"` // those of Needs whose restart it must follow
	Shares    []Share         `json:"shares,omitempty"`   // what it has of another container
	Image     string          `json:"image,omitempty"`    // as written
	Build     bool            `json:"build,omitempty"`    // has a build section
	OneShot   bool            `json:"one_shot,omitempty"` // restart "no" or "on-failure": exit 0 is completed
	Ignored   bool            `json:"ignored,omitempty"`  // ignore_services
	Secrets   []string        `json:"secrets,omitempty"`
}

// A Share is something a container has of another one. The engine keeps the other's id, so that who shares must be
// made anew with it.
type Share struct {
	What      string `json:"what"`                // network, ipc, pid or volumes
	Service   string `json:"service,omitempty"`   // of the same stack
	Container string `json:"container,omitempty"` // or the name of a container elsewhere
}

// A FileHash is a repository file a unit uses and the Git blob id of its content.
type FileHash struct {
	Path string     `json:"path"` // relative to the repository's root; "environment" for the generated env file
	Hash string     `json:"hash"`
	Pos  schema.Pos `json:"-"`
}

// Declared is what one stack or deployment declares, read from TOML and the files it names.
type Declared struct {
	Resource schema.ID
	Project  string // compose project; "" for a deployment
	Units    []Unit // sorted by Service
	// Volumes maps a named volume (its real name) to a digest of its definition.
	Volumes map[string]Definition
	// Binds are bind mounts whose source is relative to the project's folder.
	Binds []Bind
	// Ports are the published host ports.
	Ports []Port
	// Warnings worth showing on top of a plan: privileged, host network, the Docker socket.
	Privileges []Privilege
	// Missing are [[NAME]] without a value; the step is blocked.
	Missing []Missing
	// Diagnostics of its files, with their places. An error keeps the resource as it is.
	Diagnostics []schema.Diagnostic
	// Unread says why its files are not known ("" = they are): the step is unknown.
	Unread string
	// OnHost: its files lie on its server. What they declare comes as Facts.Declared.
	OnHost bool
	// Blocked says what it needs that this version does not carry out.
	Blocked string
	// Paths are the repository files the agent needs, sorted; Tree asks for the whole tree (pre_deploy).
	Paths []string
	Tree  bool
	// Directory is the working directory relative to the repository's root.
	Directory string
	// Hooks is a digest of pre_deploy and post_deploy; a change of it alone deploys nothing.
	Hooks Digest
}

// A Definition is a named object's canonical definition.
type Definition struct {
	Digest Digest          `json:"digest"`
	Spec   json.RawMessage `json:"spec"`
	Pos    schema.Pos      `json:"-"`
}

// A Bind is one bind mount below the project's folder, or an absolute one.
type Bind struct {
	Service  string     `json:"service"`
	Source   string     `json:"source"` // relative to the repository's root, or absolute on the host
	Target   string     `json:"target"`
	InGit    bool       `json:"in_git,omitempty"`    // the source is in the commit
	NoCreate bool       `json:"no_create,omitempty"` // create_host_path: false
	Pos      schema.Pos `json:"-"`
}

// A Port is one published port.
type Port struct {
	HostIP   string     `json:"host_ip,omitempty"`
	Host     uint16     `json:"host"`
	Protocol string     `json:"protocol"` // tcp, udp, sctp
	Service  string     `json:"service,omitempty"`
	Pos      schema.Pos `json:"-"`
}

// A Privilege is something a reader must see first.
type Privilege struct {
	Service string
	What    string // "privileged", "host network", "docker socket", "host pid"
	Pos     schema.Pos
}

// A Missing is a [[NAME]] that has no value anywhere.
type Missing struct {
	Name string
	Pos  schema.Pos
}

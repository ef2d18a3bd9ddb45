package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/varanhq/varan/schema"
)

// State is what the servers report. An unreachable server is a fact in it.
type State struct {
	Servers map[string]*ServerState
}

// ServerState is one host as its agent sees it.
type ServerState struct {
	Name        string               `json:"name"`
	Unreachable string               `json:"unreachable,omitempty"` // why; "" = reachable
	Containers  []Container          `json:"containers"`            // every container of the engine, sorted by name
	Ledger      map[schema.ID]*Entry `json:"ledger"`
	Holds       []Hold               `json:"holds,omitempty"`
	// Volumes maps the named volumes that exist to the digest they were created with ("" = not by varan).
	Volumes map[string]Digest `json:"volumes,omitempty"`
	// Facts answers the questions asked with the observation, per resource.
	Facts map[schema.ID]*Facts `json:"facts,omitempty"`
	Self  string               `json:"self,omitempty"` // the container the agent runs in: never stopped
	// Busy are the resources on which an op is under way that an earlier run began: nothing is decided about them until
	// it has ended, which the agent tells. Sorted.
	Busy []schema.ID `json:"busy,omitempty"`
	// Engine is the Docker engine's identity: two servers that name the same one are one machine. "" = not told.
	Engine string `json:"engine,omitempty"`
	// Agent is the agent itself; nil = it does not tell, for it is too old.
	Agent *AgentState `json:"agent,omitempty"`
}

// Of are the containers that stand for a resource: those labelled with it, those that still bear its former name, and
// those it took over as they ran. What varan left half done is none. was is the former name that is declared, "" = the
// ledger alone knows.
func (s *ServerState) Of(id, was schema.ID, fleet string) []*Container {
	var out []*Container
	for i := range s.Containers {
		if c := &s.Containers[i]; c.Leftover == "" && s.belongs(c, id, was, fleet) {
			out = append(out, c)
		}
	}
	return out
}

func (s *ServerState) belongs(c *Container, id, was schema.ID, fleet string) bool {
	if c.Resource == id || was != "" && c.Resource == was {
		return c.Fleet == fleet
	}
	e := s.Ledger[id]
	switch {
	case e == nil || e.Fleet != fleet:
		return false
	case c.Resource == "" && c.Fleet == "":
		return e.took(c) && (len(e.Containers) > 0 || e.names(c))
	case c.Fleet != fleet || s.Ledger[c.Resource] != nil:
		return false
	}
	return c.Resource == e.Was || e.Adopted && c.Resource.Kind() == id.Kind() && e.names(c)
}

// names reports whether a container bears a name that the entry's have.
func (e *Entry) names(c *Container) bool {
	if e.Project != "" {
		return c.Project == e.Project && !c.OneOff
	}
	return c.Project == "" && slices.ContainsFunc(e.Units, func(u Unit) bool { return cmp.Or(u.Container, u.Service) == c.Name })
}

// An AgentState is the program a host's agent runs.
type AgentState struct {
	Version  string `json:"version"`
	Platform string `json:"platform"`         // "linux-amd64"
	SHA256   string `json:"sha256,omitempty"` // of its binary, hex; "" = Fixed
	// Fixed says why it cannot be made another over the hub, "" = it can.
	Fixed string `json:"fixed,omitempty"`
}

// Facts are what only a look at the live objects or host files can tell about one resource.
type Facts struct {
	HostFilesChanged []string `json:"host_files_changed,omitempty"`
	SecretsChanged   []string `json:"secrets_changed,omitempty"` // names whose value differs from the live object's
	// FilesDrifted are laid repository files somebody changed or removed on the host.
	FilesDrifted []string `json:"files_drifted,omitempty"`
	// Compare holds, per service, how an object without our labels differs from the declaration.
	Compare map[string]Comparison `json:"compare,omitempty"`
	// MissingBinds are bind sources that are absent on the host.
	MissingBinds []string `json:"missing_binds,omitempty"`
	// Refused are agent.toml's refusals, in words that name the key.
	Refused   []string `json:"refused,omitempty"`
	Directory string   `json:"directory,omitempty"` // the working directory in use on the host
	// Declared is what a stack declares whose files lie on the server. Values of host files stand in it as
	// "(set on the host)" with a fingerprint under the agent's own key.
	Declared *Declared `json:"declared,omitempty"`
	// Place is the working directory the next change would use.
	Place   string `json:"place,omitempty"`
	Problem string `json:"problem,omitempty"` // why the facts could not be told
}

// A Comparison says whether a running container equals its declaration.
type Comparison struct {
	Equal   bool     `json:"equal"`
	Changes []Change `json:"changes,omitempty"`
}

// Over reports whether the hold has ended by itself.
func (h Hold) Over(now time.Time) bool {
	until := h.Until
	if !h.Ends.IsZero() {
		until = h.Ends
	}
	return !until.IsZero() && !now.Before(until)
}

// A Container is one container as one list call shows it.
type Container struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Image   string `json:"image"`
	ImageID string `json:"image_id"`
	Status  string `json:"status"`           // created, running, paused, restarting, removing, exited, dead
	Health  string `json:"health,omitempty"` // healthy, unhealthy, starting; "" = no check
	Exit    int    `json:"exit,omitempty"`
	// Completed: it ended with exit 0 by itself and its restart policy leaves it so.
	Completed bool `json:"completed,omitempty"`
	// Rebuilt: set for varan's own half-done containers (temporary or kept for rollback).
	Leftover string `json:"leftover,omitempty"`

	Resource schema.ID `json:"resource,omitempty"` // varan.resource
	Fleet    string    `json:"fleet,omitempty"`    // varan.fleet
	Sync     string    `json:"sync,omitempty"`
	Digest   Digest    `json:"digest,omitempty"`
	Commit   string    `json:"commit,omitempty"`
	After    []string  `json:"after,omitempty"` // varan.after

	Project string `json:"project,omitempty"` // compose labels
	Service string `json:"service,omitempty"` // compose service, or the deployment's name
	WorkDir string `json:"work_dir,omitempty"`
	OneOff  bool   `json:"one_off,omitempty"`
	Ports   []Port `json:"ports,omitempty"`
	// NetworkOf, IPCOf and PIDOf are the ids of the containers whose network or namespace it was made with, which may
	// be gone; "" = its own. The last two are looked up only where the ledger tells of such sharing.
	NetworkOf string `json:"network_of,omitempty"`
	IPCOf     string `json:"ipc_of,omitempty"`
	PIDOf     string `json:"pid_of,omitempty"`
	// Severed: the container whose network it has was started again since, so that it runs without one.
	Severed bool `json:"severed,omitempty"`
}

// An Entry is the agent's ledger of one resource: what was applied here last.
type Entry struct {
	Resource  schema.ID `json:"resource"`
	Fleet     string    `json:"fleet"`
	Sync      string    `json:"sync"`
	Commit    string    `json:"commit"`
	Op        string    `json:"op"`
	Outcome   string    `json:"outcome"` // done, failed, rolled_back
	At        time.Time `json:"at"`      // for people; no decision reads it
	Project   string    `json:"project,omitempty"`
	Directory string    `json:"directory,omitempty"` // absolute, on the host
	Adopted   bool      `json:"adopted,omitempty"`
	// Containers are the ids of what was adopted without labels: another container under the same name is not it.
	// Empty in an adopted entry means any.
	Containers []string `json:"containers,omitempty"`
	// Was is the resource's former name: containers that were not made anew since still bear it.
	Was     schema.ID             `json:"was,omitempty"`
	After   []string              `json:"after,omitempty"`
	Units   []Unit                `json:"units"`
	Volumes map[string]Definition `json:"volumes,omitempty"`
	Binds   []Bind                `json:"binds,omitempty"`
	Hooks   Digest                `json:"hooks,omitempty"`
}

// HoldKind says who holds.
type HoldKind string

const (
	HoldUser      HoldKind = "user"      // varan hold
	HoldFailed    HoldKind = "failed"    // this digest failed its gate here
	HoldContested HoldKind = "contested" // put right three times within an hour
	HoldPaused    HoldKind = "paused"    // varan pause: the whole fleet
)

// A Hold keeps varan's hands off a resource, or a whole server.
type Hold struct {
	Resource schema.ID `json:"resource,omitempty"` // "" = the whole server
	Kind     HoldKind  `json:"kind"`
	Digest   Digest    `json:"digest,omitempty"` // HoldFailed: ends when the declared digest differs
	Reason   string    `json:"reason"`
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until,omitzero"` // by the daemon's clock; zero: until lifted
	// Ends is Until by the clock of the agent that keeps the hold. It stays there: no decision compares two clocks.
	Ends time.Time `json:"ends,omitzero"`
}

package container

import (
	"context"
	"time"

	"github.com/docker/docker/client"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// A Creator creates the containers of the named services by calling ContainerCreate on api and starts none.
// It may create networks and volumes too.
//
// The api it gets is not the engine itself: containers that are about to be replaced are hidden from its lists,
// and its ContainerCreate works under a temporary name where the final one is still taken, adds varan's labels
// and inherits anonymous volumes. The Creator uses final names and need know nothing of that. Images are there
// already; it pulls and builds nothing.
type Creator interface {
	Create(ctx context.Context, api client.APIClient, services []string) error
}

// A Filler is a Creator that puts content into a container between its creation and its start (inline configs,
// secrets from the environment).
type Filler interface {
	Fill(ctx context.Context, api client.APIClient, service, id string) error
}

// A Follower is a Creator that has something to do in a container right after its start (post_start).
type Follower interface {
	Started(ctx context.Context, api client.APIClient, service, id string) error
}

// Conditions of a [Need], as compose spells them.
const (
	Started   = "service_started"
	Healthy   = "service_healthy"
	Completed = "service_completed_successfully"
)

// A Need is one entry of a service's depends_on.
type Need struct {
	Service   string `json:"service"`
	Condition string `json:"condition,omitempty"` // "" is Started
	Optional  bool   `json:"optional,omitempty"`  // required: false
}

// A Service is one service of a Job.
type Service struct {
	Name   string      `json:"name"`
	Action plan.Action `json:"action"` // Create, Recreate, Restart, Remove or None
	Digest plan.Digest `json:"digest,omitempty"`
	Needs  []Need      `json:"needs,omitempty"`
	// OneShot: the restart policy is no or on-failure, so that exit 0 is an end and not a failure.
	OneShot bool `json:"one_shot,omitempty"`
	// MustEnd: the gate waits for exit 0 (ensure = "completed").
	MustEnd bool `json:"must_end,omitempty"`
	// Ignored services are started but are no part of the gate (ignore_services).
	Ignored bool `json:"ignored,omitempty"`
	// Zero: it is declared with no replica, so that creating nothing is right.
	Zero bool `json:"zero,omitempty"`
}

// A Job is one change of one resource's containers.
type Job struct {
	Resource schema.ID
	Fleet    string
	Project  string    // compose project; "" for a deployment
	Names    []string  // the container names of a deployment
	Was      schema.ID // the resource's former id: its containers are this one's now
	// Labels are put on every container created, beside varan.resource, varan.fleet and varan.digest.
	Labels   map[string]string
	Services []Service // all of the resource, also those that do not change
	Creator  Creator   // nil if nothing is created

	Settle        time.Duration
	HealthTimeout time.Duration
	Keep          bool // on_failure = "keep"
	// DownFirst stops and removes every old container before anything is created (destroy_before_deploy).
	DownFirst bool
	// Adopted holds the ids of containers that are the resource's without bearing its labels.
	Adopted []string
	// Take lets the job replace containers of the resource's names that bear no labels of a fleet.
	Take bool

	// Quiet: values may stand in what the engine says of new or old containers that the caller does not know and cannot
	// take out of it, so that it is left out.
	Quiet Quiet

	Progress func(service, phase, detail string) // may be nil
}

// Labels on every container varan creates.
const (
	LabelResource = "varan.resource"
	LabelFleet    = "varan.fleet"
	LabelSync     = "varan.sync"
	LabelDigest   = "varan.digest"
	LabelCommit   = "varan.commit"
	LabelAfter    = "varan.after" // comma-separated ids
	LabelRepo     = "varan.repo"
)

// Names of containers that are half done: the new one before it takes its name, and the old one that is kept
// until the new one has passed its gate.
const (
	NewSuffix = ".varan-new"
	OldSuffix = ".varan-old"
)

package apply

import (
	"context"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// A Journal remembers what ran. Losing it loses history, never a decision.
type Journal interface {
	// Append adds an entry after all earlier ones of its run. EntryStarted and EntryFinished are on disk when it
	// returns; the others may follow, and an error with them may come with a later Append.
	Append(ctx context.Context, e Entry) error
}

// An EntryKind says what an [Entry] records.
type EntryKind string

const (
	EntryStarted  EntryKind = "started"  // Head and Plan
	EntryIntended EntryKind = "intended" // Resource, Verb, Op: about to be sent
	EntryOutcome  EntryKind = "outcome"  // Resource, Verb, Op, Outcome
	EntryStep     EntryKind = "step"     // Step: one step's end
	EntryCascades EntryKind = "cascades" // Cascades: restarts this run owes and did not do
	EntryFinished EntryKind = "finished" // Status, Error
)

// An Entry is one line of the journal. It holds no secret.
type Entry struct {
	Run  string    `json:"run"`
	At   time.Time `json:"at"`
	Kind EntryKind `json:"kind"`

	Head *Head       `json:"head,omitempty"`
	Plan *StoredPlan `json:"plan,omitempty"`

	Resource schema.ID         `json:"resource,omitempty"`
	Verb     protocol.Verb     `json:"verb,omitempty"`
	Op       protocol.OpID     `json:"op,omitempty"`
	Outcome  *protocol.Outcome `json:"outcome,omitempty"`
	Step     *StepResult       `json:"step,omitempty"`

	Cascades []schema.ID `json:"cascades,omitempty"`
	Status   Status      `json:"status,omitempty"`
	Error    string      `json:"error,omitempty"`
}

// A Head says what a run is about.
type Head struct {
	Sync    string `json:"sync"`
	Fleet   string `json:"fleet"`
	Commit  string `json:"commit"`
	Trigger string `json:"trigger,omitempty"` // commit, drift, secret, command, retry, start
	Actor   string `json:"actor,omitempty"`
	Resumed bool   `json:"resumed,omitempty"`
}

// A StoredPlan is a plan as the journal keeps it: with what carrying it out needs beside its public form.
type StoredPlan struct {
	Plan    *plan.Plan    `json:"plan"`
	Digests []plan.Digest `json:"digests"` // of each step
	Gates   []bool        `json:"gates"`
}

// Store makes a plan storable. Steps that change nothing and gate nothing are left out: the Summary counts them.
func Store(p *plan.Plan) *StoredPlan {
	short := *p
	short.Steps = nil
	s := &StoredPlan{Plan: &short}
	needed := make(map[schema.ID]bool)
	for _, step := range p.Steps {
		if step.Action != plan.None {
			for _, id := range step.After {
				needed[id] = true
			}
		}
	}
	for _, step := range p.Steps {
		if step.Action == plan.None && !needed[step.Resource] {
			continue
		}
		short.Steps = append(short.Steps, step)
		s.Digests = append(s.Digests, step.Digest)
		s.Gates = append(s.Gates, step.Gate)
	}
	return s
}

// Restore puts the plan together again. Its steps have no Declared.
func (s *StoredPlan) Restore() *plan.Plan {
	if s == nil || s.Plan == nil {
		return nil
	}
	for i := range s.Plan.Steps {
		if i < len(s.Digests) {
			s.Plan.Steps[i].Digest = s.Digests[i]
		}
		if i < len(s.Gates) {
			s.Plan.Steps[i].Gate = s.Gates[i]
		}
	}
	return s.Plan
}

// A Record is all that the journal knows of one run.
type Record struct {
	ID       string                              `json:"id"`
	Head     Head                                `json:"head"`
	Started  time.Time                           `json:"started"`
	Ended    time.Time                           `json:"ended,omitzero"`
	Status   Status                              `json:"status"` // StatusRunning while it has not ended
	Error    string                              `json:"error,omitempty"`
	Plan     *plan.Plan                          `json:"plan,omitempty"`  // Record in full only
	Steps    map[schema.ID]*StepResult           `json:"steps,omitempty"` // of those that changed something or failed
	Outcomes map[protocol.OpID]*protocol.Outcome `json:"outcomes,omitempty"`
	Intended map[protocol.OpID]schema.ID         `json:"intended,omitempty"` // about to be sent, and without an outcome
	Cascades []schema.ID                         `json:"cascades,omitempty"`
}

// Add takes one entry into the record. Entries are added in the order they were appended.
func (r *Record) Add(e Entry) {
	r.ID = e.Run
	switch e.Kind {
	case EntryStarted:
		if e.Head != nil {
			r.Head = *e.Head
		}
		if e.Plan != nil {
			r.Plan = e.Plan.Restore()
		}
		if r.Started.IsZero() {
			r.Started = e.At
		}
		r.Status, r.Ended = StatusRunning, time.Time{}
	case EntryIntended:
		if r.Intended == nil {
			r.Intended = make(map[protocol.OpID]schema.ID)
		}
		r.Intended[e.Op] = e.Resource
	case EntryOutcome:
		if r.Outcomes == nil {
			r.Outcomes = make(map[protocol.OpID]*protocol.Outcome)
		}
		r.Outcomes[e.Op] = e.Outcome
		delete(r.Intended, e.Op)
	case EntryStep:
		if r.Steps == nil {
			r.Steps = make(map[schema.ID]*StepResult)
		}
		if e.Step != nil {
			r.Steps[e.Step.Resource] = e.Step
		}
	case EntryCascades:
		r.Cascades = e.Cascades
	case EntryFinished:
		r.Status, r.Error, r.Ended = e.Status, e.Error, e.At
	}
}

// Unfinished reports whether the run was cut off and is to be resumed.
func (r *Record) Unfinished() bool { return r.Status == StatusRunning }

// Forget is the Journal of one-shot commands: it keeps nothing.
type Forget struct{}

// Append keeps nothing.
func (Forget) Append(context.Context, Entry) error { return nil }

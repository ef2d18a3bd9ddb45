package apply

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// Options of one run. Plan and Fleet are required; Payloads too if a step brings something about.
type Options struct {
	Plan     *plan.Plan
	Fleet    Fleet
	Payloads Payloads
	Journal  Journal // nil = Forget
	Head     Head
	Log      *slog.Logger // nil = discarded

	// Events is called with each event, one at a time and in order; it must return soon. nil = none.
	Events func(Event)

	// Run is this run's id, "" = a new one. Op ids derive from it, so only a resumed run has that of another.
	Run string
	// Resume is the record of the cut-off run that this one finishes; Plan may then be nil. Payloads must be those
	// of the record's commit.
	Resume *Record

	// Preview is the digest of the plan that was shown, "" = none was.
	Preview string
	// Approved answers the plan's Asks if it equals its Digest.
	Approved string

	// Owed are restarts an earlier run owes (Result.Cascades), as they were given to the plan (plan.Rules.Owed).
	Owed map[schema.ID]bool

	PerServer   int // ops in flight on one server, 0 = 8
	Parallel    int // ops in flight in all, 0 = 256
	MaxFailures int // failed updates after which no further one starts, 0 = 5, negative = no bound

	// Failures counts, by resource, the failures in a row before this run that stopped nothing.
	Failures map[schema.ID]int
	// Patience is how long an op's outcome is asked for again before the step counts as unknown, 0 = 10 m; and
	// Reach how long a server that nothing ever reached may take to appear, 0 = 20 s.
	Patience, Reach time.Duration
}

// Run carries a plan out. Failed steps are in the Result; an error means that the run could not be started or
// recorded. See [ErrSuperseded] and [ErrCancelled] for how to end one early.
func Run(ctx context.Context, opts Options) (*Result, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	start := time.Now()
	result := &Result{Run: opts.Run, Head: opts.Head, Status: StatusDone, Started: start.UTC()}
	result.Differs = opts.Preview != "" && opts.Preview != opts.Plan.Digest
	if len(opts.Plan.Asks) > 0 && (opts.Approved == "" || opts.Approved != opts.Plan.Digest) {
		result.Status, result.Asks = StatusAsks, opts.Plan.Asks
		for i := range opts.Plan.Steps {
			r := describe(&opts.Plan.Steps[i])
			if changes(r.Action) {
				r.Status, r.Why = StatusNotTried, "this plan waits for approval"
			}
			result.Steps = append(result.Steps, r)
		}
		return result, nil
	}

	r := newRun(opts, start)
	entry := Entry{Kind: EntryStarted, Head: &opts.Head}
	if opts.Resume == nil {
		entry.Plan = Store(opts.Plan)
	}
	if err := r.record(ctx, entry); err != nil {
		return nil, fmt.Errorf("start run %s: %w", opts.Run, err)
	}
	r.emit(Event{Kind: RunStarted})
	status := r.schedule(ctx)
	return r.finish(context.WithoutCancel(ctx), result, status)
}

// finish sums up and closes the run in the journal, unless it was abandoned: then it stays open to be resumed.
func (r *run) finish(ctx context.Context, result *Result, status Status) (*Result, error) {
	for _, s := range r.steps {
		result.Steps = append(result.Steps, s.result)
		if status == StatusDone && s.result.failed() {
			status = StatusFailed
		}
		if s.result.Retry > 0 && (result.Retry == 0 || s.result.Retry < result.Retry) {
			result.Retry = s.result.Retry
		}
		if r.owes(s) {
			result.Cascades = append(result.Cascades, s.Resource)
		}
	}
	result.Status = status
	result.Millis = time.Since(r.start).Milliseconds()
	defer r.emit(Event{Kind: RunFinished, Detail: string(status)})
	if status == StatusInterrupted {
		return result, nil
	}
	if len(result.Cascades) > 0 {
		if err := r.record(ctx, Entry{Kind: EntryCascades, Cascades: result.Cascades}); err != nil {
			return result, fmt.Errorf("record run %s: %w", r.opts.Run, err)
		}
	}
	if err := r.record(ctx, Entry{Kind: EntryFinished, Status: status}); err != nil {
		return result, fmt.Errorf("record end of run %s: %w", r.opts.Run, err)
	}
	return result, nil
}

// failed reports whether the step keeps its run from being done: it failed, or was to change something and was not
// tried.
func (s *StepResult) failed() bool {
	switch s.Status {
	case StatusFailed, StatusRolledBack, StatusUnknown:
		return true
	case StatusNotTried:
		return changes(s.Action)
	}
	return false
}

// complete checks the options and fills in defaults.
func (o *Options) complete() error {
	if o.Resume != nil {
		o.Run, o.Head = o.Resume.ID, o.Resume.Head
		o.Head.Resumed = true
		if o.Plan == nil {
			o.Plan = o.Resume.Plan
		}
	}
	if o.Plan == nil {
		return errors.New("apply: no plan")
	}
	if o.Fleet == nil {
		return errors.New("apply: no fleet")
	}
	if o.Payloads == nil {
		o.Payloads = PayloadFunc(noPayload)
	}
	if o.Journal == nil {
		o.Journal = Forget{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Run == "" {
		o.Run = NewRunID(time.Now())
	}
	if o.Head.Commit == "" {
		o.Head.Commit = o.Plan.Commit
	}
	setDefault(&o.PerServer, 8)
	setDefault(&o.Parallel, 256)
	setDefault(&o.MaxFailures, 5)
	setDefault(&o.Patience, 10*time.Minute)
	setDefault(&o.Reach, 20*time.Second)
	return nil
}

func setDefault[T ~int | ~int64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// NewRunID makes a run's id: it begins with the time, so ids sort as runs began, and fits in a subject.
func NewRunID(now time.Time) string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return now.UTC().Format("20060102T150405") + "-" + hex.EncodeToString(b[:])
}

// changes reports whether a step of this action sends an op that changes host or ledger.
func changes(a plan.Action) bool { return a.Changes() || a == plan.Adopt }

// describe begins the result of a step.
func describe(s *plan.Step) StepResult {
	r := StepResult{Resource: s.Resource, Server: s.Server, Action: s.Action, Status: StatusDone}
	switch s.Action {
	case plan.Unknown, plan.Blocked, plan.Held:
		r.Status, r.Why = StatusNotTried, string(s.Action)
		if len(s.Causes) > 0 {
			r.Why = string(s.Action) + ": " + cause(s.Causes[0])
		}
	}
	return r
}

func cause(c plan.Cause) string {
	if c.Detail != "" {
		return c.Detail
	}
	return string(c.Kind)
}

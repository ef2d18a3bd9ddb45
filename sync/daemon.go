package sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// errNotBuilt is what this version does not do yet.
var errNotBuilt = errors.New("not built yet")

// Errors that callers tell apart.
var (
	ErrUnknown  = errors.New("not known")        // a run, a resource, a sync of that name
	ErrChanged  = errors.New("the plan differs") // from the one that was shown
	ErrBusy     = errors.New("busy")
	ErrNotAsked = errors.New("nothing waits for that digest")
)

// A Daemon follows the config repository and all that it names. Its methods may be called side by side, also
// while Run runs.
type Daemon struct {
	opts Options
}

// New prepares a daemon; it touches nothing outside opts.DataDir.
func New(opts Options) (*Daemon, error) {
	return &Daemon{opts: opts}, nil
}

// Run follows everything until ctx ends, and returns after the last run has stopped.
func (d *Daemon) Run(ctx context.Context) error {
	return fmt.Errorf("follow %s: %w", d.opts.Settings.Config.URL, errNotBuilt)
}

// Reload puts new settings in the place of the old: secrets that changed are planned at once.
func (d *Daemon) Reload(s Settings) error { return errNotBuilt }

// Status tells how everything stands.
func (d *Daemon) Status() Status { return Status{Fleet: d.opts.Settings.Fleet} }

// Runs lists the newest runs first, at most limit.
func (d *Daemon) Runs(ctx context.Context, limit int) ([]RunInfo, error) { return nil, errNotBuilt }

// RunByID tells all of one run; ErrUnknown if there is none.
func (d *Daemon) RunByID(ctx context.Context, id string) (*Run, error) { return nil, errNotBuilt }

// Plan makes a plan and touches nothing. A plan whose Diagnostics hold errors cannot be applied.
func (d *Daemon) Plan(ctx context.Context, req PlanRequest) (*plan.Plan, error) {
	return nil, errNotBuilt
}

// Apply plans and applies. With a Digest another plan than that is ErrChanged. Events may be nil.
func (d *Daemon) Apply(ctx context.Context, req ApplyRequest, events func(apply.Event)) (*plan.Plan, *apply.Result, error) {
	return nil, nil, errNotBuilt
}

// Events calls fn with what happens in every run until ctx ends; fn must return soon.
func (d *Daemon) Events(ctx context.Context, fn func(apply.Event)) error { return errNotBuilt }

// Hold keeps varan's hands off a resource or server, or lifts that.
func (d *Daemon) Hold(ctx context.Context, req HoldRequest) error { return errNotBuilt }

// Pause stops new runs, or lets them go on.
func (d *Daemon) Pause(ctx context.Context, req PauseRequest) error { return errNotBuilt }

// Cancel ends a run after the steps in flight; "" = the one that runs.
func (d *Daemon) Cancel(ctx context.Context, run string) error { return errNotBuilt }

// Remove removes one resource that no sync declares any more.
func (d *Daemon) Remove(ctx context.Context, id schema.ID, actor string, events func(apply.Event)) (*apply.Result, error) {
	return nil, errNotBuilt
}

// Approve answers what the plan of that digest asks and applies it if the plan made now is still that.
func (d *Daemon) Approve(ctx context.Context, digest, actor string) error { return errNotBuilt }

// RunNow runs one resource now: a stack or deployment is made to run as declared.
func (d *Daemon) RunNow(ctx context.Context, id schema.ID, actor string, events func(apply.Event)) (*apply.Result, error) {
	return nil, errNotBuilt
}

// Sync polls one sync, or all with "", without waiting for its period.
func (d *Daemon) Sync(ctx context.Context, name string) error { return errNotBuilt }

// Logs copies what containers printed to w.
func (d *Daemon) Logs(ctx context.Context, req LogsRequest, w io.Writer) error { return errNotBuilt }

// place is file:line:col, as far as known.
func place(p schema.Pos) string {
	switch {
	case p.File == "":
		return ""
	case p.Line == 0:
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
}

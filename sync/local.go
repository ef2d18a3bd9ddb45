package sync

import (
	"context"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
)

// Local plans and applies one folder or commit without a daemon: `varan plan DIR`, `varan apply DIR`.
type Local struct {
	opts Options
}

// OpenFolder reads dir as it lies on disk, uncommitted changes included.
func OpenFolder(ctx context.Context, dir string, opts Options) (*Local, error) {
	return nil, errNotBuilt
}

// OpenRepo reads a revision (a branch, tag or commit) of the local repository at dir.
func OpenRepo(ctx context.Context, dir, ref string, opts Options) (*Local, error) {
	return nil, errNotBuilt
}

// Close lets go of what was opened.
func (l *Local) Close() error { return nil }

// Uncommitted reports whether what was read is a folder and not a commit.
func (l *Local) Uncommitted() bool { return true }

// Plan observes and plans. A plan whose Diagnostics hold errors cannot be applied.
func (l *Local) Plan(ctx context.Context, req PlanRequest) (*plan.Plan, error) {
	return nil, errNotBuilt
}

// Apply carries out the plan that Plan made last.
func (l *Local) Apply(ctx context.Context, p *plan.Plan, actor string, events func(apply.Event)) (*apply.Result, error) {
	return nil, errNotBuilt
}

package sync

import (
	"context"
	"log/slog"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// A Stage says what a Report tells.
type Stage string

const (
	StageBroken      Stage = "broken"      // the commit cannot be applied: Diagnostics
	StageUnreachable Stage = "unreachable" // the repository could not be read: Err
	StageWaiting     Stage = "waiting"     // a rewritten branch waits to stand still: Why
	StagePlanned     Stage = "planned"     // Plan, which asks
	StageApplying    Stage = "applying"    // Plan of a commit, about to be applied
	StageApplied     Stage = "applied"     // Plan and Result
)

// A Report is what is to be said about one commit. It holds no secret but what Result's Tails may print.
type Report struct {
	Stage       Stage
	Sync        string
	Commit      string
	Run         string
	Trigger     string
	Plan        *plan.Plan
	Result      *apply.Result
	Diagnostics schema.Diagnostics
	Why         string
	Err         error

	// Moved are the other repositories whose commits are new in this run; Stays: the config repository's is not.
	Moved []Moved
	Stays bool
}

// A Moved is another repository whose newest commit a run brought in: what it meant for the stacks that take their
// files from there, with nothing in it of what other repositories say.
type Moved struct {
	Address gitrepo.Address
	Branch  string
	Commit  string
	Plan    *plan.Plan
	Result  *apply.Result // nil but for StageApplied
}

// A Reporter tells the world about commits. It is called from the run that the Report is about, never twice at
// once for one sync, also after the run's context has ended; it logs its own failures.
type Reporter interface {
	Report(ctx context.Context, r Report)
}

// Reporters tells all of them, in order.
type Reporters []Reporter

// Report implements Reporter.
func (rs Reporters) Report(ctx context.Context, r Report) {
	for _, one := range rs {
		one.Report(ctx, r)
	}
}

// LogReporter tells the log.
func LogReporter(log *slog.Logger) Reporter { return logReporter{log} }

type logReporter struct{ log *slog.Logger }

func (l logReporter) Report(ctx context.Context, r Report) {
	attrs := []any{"sync", r.Sync, "commit", r.Commit}
	switch r.Stage {
	case StageBroken:
		for _, d := range r.Diagnostics {
			if d.Severity == schema.SeverityError {
				l.log.ErrorContext(ctx, "commit not applied", append(attrs, "at", place(d.Pos), "err", d.Message)...)
			}
		}
	case StageUnreachable:
		l.log.WarnContext(ctx, "repository not read", append(attrs, "err", r.Err)...)
	case StageWaiting:
		l.log.WarnContext(ctx, "commit waits", append(attrs, "why", r.Why)...)
	case StagePlanned:
		if len(r.Plan.Asks) > 0 {
			l.log.WarnContext(ctx, "plan waits for an approval", append(attrs, "digest", r.Plan.Digest, "asks", r.Plan.Asks)...)
		}
	case StageApplied:
		if r.Run == "" {
			l.log.DebugContext(ctx, "commit needs nothing", attrs...)
			return
		}
		l.log.InfoContext(ctx, "run ended", append(attrs, "run", r.Run, "status", r.Result.Status, "ms", r.Result.Millis)...)
	}
}

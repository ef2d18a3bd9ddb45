package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/report"
)

// applyCommand plans, asks and applies.
type applyCommand struct {
	*source
	Yes, Retry    bool
	AllowRemovals int
	BreakGlass    string
	NoPlan        bool // it was shown already
}

func newApply(sh *shell) *cobra.Command {
	c := &applyCommand{}
	cmd := &cobra.Command{
		Use: "apply [DIR]", Short: "plan, ask, and do it, live",
		Long: `apply shows the plan, asks, and carries it out: images are pulled first, what comes after something waits until
that is healthy, and a failed update puts back what ran. The first Ctrl-C starts no further step and finishes those
under way; the second leaves at once. If a daemon manages this host, the work goes through it.`,
		Example: `  varan apply                       the folder you are in
  varan apply infra --yes           without asking
  varan apply infra --ref v1.4      a commit instead of the folder as it lies on disk
  varan apply --retry               try again what failed and is held
  varan apply --allow-removals 3    remove up to three resources in this run`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				c.Dir = args[0]
			}
			return c.Run(cmd.Context())
		},
	}
	c.source = newSource(sh, cmd)
	cmd.Flags().BoolVarP(&c.Yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&c.Retry, "retry", false, "try again versions that failed and are held")
	cmd.Flags().IntVar(&c.AllowRemovals, "allow-removals", 0, "remove up to `N` resources in this run")
	cmd.Flags().StringVar(&c.BreakGlass, "break-glass", "", "apply although the forge is down, with a `REASON` (not in this version)")
	return cmd
}

// Run plans, asks and applies.
func (c *applyCommand) Run(ctx context.Context) error {
	if c.BreakGlass != "" {
		return errors.New("--break-glass is not carried out by this version; varan pause keeps a daemon's hands off meanwhile")
	}
	if c.AllowRemovals < 0 {
		return errors.New("--allow-removals must not be negative")
	}
	signals, give := interrupts()
	defer give()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	// Until the run starts, an interrupt ends everything.
	planned := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-signals:
			cancel(errors.New("interrupted: nothing was changed"))
		case <-planned:
		}
	}()
	o, p, req, err := c.plan(ctx)
	close(planned)
	<-watched
	if o != nil {
		defer func() {
			if o != nil {
				o.Close()
			}
		}()
	}
	if err != nil || p == nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}

	l := newLive(c.sh, p)
	runCtx, stopRun := context.WithCancelCause(ctx)
	defer stopRun(nil)
	var result *apply.Result
	var failed error
	finished := l.watch(ctx, signals, func() { stopRun(apply.ErrCancelled) }, func() {
		result, failed = o.Apply(runCtx, req, p, l.Event)
	})
	if !finished {
		o = nil // its goroutines are left behind with the process
		c.sh.say(leftNote)
		return silent(130)
	}
	return tell(c.sh, result, failed)
}

// tell prints how a run went and turns it into an exit code.
func tell(sh *shell, result *apply.Result, err error) error {
	if result != nil {
		sh.print(report.Result(result, sh.terminal(sh.out)))
	}
	if errors.Is(err, sync.ErrChanged) {
		return fmt.Errorf("%w: the world moved since the plan was shown; run varan apply again to see the new one", err)
	}
	if errors.Is(err, sync.ErrBusy) {
		return fmt.Errorf("%w; varan status shows it, varan cancel ends it after the steps under way", err)
	}
	if err != nil {
		return err
	}
	if result != nil && !result.OK() {
		return silent(1)
	}
	return nil
}

// plan makes and shows the plan and asks. A nil plan without an error: there is nothing to carry out.
func (c *applyCommand) plan(ctx context.Context) (*opened, *plan.Plan, sync.PlanRequest, error) {
	req := sync.PlanRequest{Retry: c.Retry, AllowRemovals: c.AllowRemovals}
	o, err := c.open(ctx)
	if err != nil {
		return nil, nil, req, err
	}
	p, err := o.Plan(ctx, req)
	if err != nil {
		return o, nil, req, err
	}
	if !c.NoPlan || p.HasErrors() {
		c.sh.print(report.Plan(p, c.head(o, p, ""), c.sh.terminal(c.sh.out)))
	}
	switch {
	case p.HasErrors():
		return o, nil, req, silent(1)
	case !p.Changes() && !adopts(p):
		return o, nil, req, nil
	case !p.Changes() || c.Yes && len(p.Asks) == 0:
		return o, p, req, nil
	case c.Yes:
		return o, nil, req, errors.New("the plan asks first, and --yes does not answer that: apply without --yes, or with --allow-removals")
	}
	question := "Carry this out? [y/N]"
	if len(p.Asks) > 0 {
		question = "Carry this out, with what it asks? [y/N]"
	}
	yes, err := c.sh.ask(ctx, question)
	if err != nil {
		return o, nil, req, err
	}
	if !yes {
		c.sh.say("Nothing was changed.")
		return o, nil, req, silent(1)
	}
	return o, p, req, nil
}

func adopts(p *plan.Plan) bool {
	for _, s := range p.Steps {
		if s.Action == plan.Adopt {
			return true
		}
	}
	return false
}

// quoteArg quotes a word for a shell when it needs that.
func quoteArg(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-+:@%", r))
	}) < 0
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/report"
)

// runsCommand lists runs, or tells one.
type runsCommand struct {
	*caller
	JSON  bool
	Limit int
	ID    string
}

func newRuns(sh *shell) *cobra.Command {
	c := &runsCommand{}
	cmd := &cobra.Command{
		Use: "runs [RUN]", Short: "what ran when, why, and how it ended",
		Example: "  varan runs\n  varan runs RUN            all of one, with what containers printed last\n  varan runs -n 100 --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				c.ID = args[0]
			}
			return c.Run(cmd.Context())
		},
	}
	c.caller = newCaller(sh, cmd)
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	cmd.Flags().IntVarP(&c.Limit, "limit", "n", 20, "how many")
	return cmd
}

// Run asks and shows.
func (c *runsCommand) Run(ctx context.Context) error {
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	t := c.sh.terminal(c.sh.out)
	if c.ID != "" {
		r, err := client.RunByID(ctx, c.ID)
		if err != nil {
			return err
		}
		if c.JSON {
			return c.json(r)
		}
		c.sh.print(runsTable([]sync.RunInfo{r.RunInfo}, time.Now(), t))
		for _, s := range r.Steps {
			c.sh.print(fmt.Sprintf("\n%s  %s %s in %s\n", report.Escape(string(s.Resource)), report.Escape(s.Action), report.Escape(strings.ReplaceAll(s.Status, "_", " ")), report.Millis(s.Millis)))
			next := ""
			switch {
			case s.Held != "":
				next = "this version is held until it changes, or varan apply --retry"
			case s.Retry > 0:
				next = "it is tried again " + s.Retry.String() + " after it failed, or by varan apply"
			}
			for _, l := range []string{s.Error, s.Hint, next, s.Tail} {
				if l != "" {
					c.sh.print(report.Lines(l, "  "))
				}
			}
		}
		return nil
	}
	runs, err := client.Runs(ctx, c.Limit)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.json(runs)
	}
	c.sh.print(runsTable(runs, time.Now(), t))
	return nil
}

func runsTable(runs []sync.RunInfo, now time.Time, t report.Terminal) string {
	if len(runs) == 0 {
		return "Nothing ran yet.\n"
	}
	e := report.Escape
	var rows [][]string
	for _, r := range runs {
		took := ""
		if !r.Ended.IsZero() {
			took = report.Millis(r.Ended.Sub(r.Started).Milliseconds())
		}
		why := e(r.Trigger)
		if r.Actor != "" {
			why += " by " + e(r.Actor)
		}
		what := ""
		if len(r.Summary) > 0 {
			what = report.Counts(r.Summary)
		}
		if r.Error != "" {
			what = strings.TrimPrefix(what+": "+e(r.Error), ": ")
		}
		rows = append(rows, []string{e(r.ID), ago(now, r.Started), e(r.Status), took, e(short(r.Commit)), why, what})
	}
	return report.Table([]string{"run", "started", "status", "took", "commit", "because", "what"}, rows, t)
}

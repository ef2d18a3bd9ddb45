package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/httpd"
	"github.com/varanhq/varan/sync/report"
)

// statusCommand shows how everything stands.
type statusCommand struct {
	*caller
	JSON, All, TOML bool
}

func newStatus(sh *shell) *cobra.Command {
	c := &statusCommand{}
	cmd := &cobra.Command{
		Use: "status", Short: "how everything stands",
		Example: "  varan status\n  varan status -a          every resource, also those that are well\n  varan status --json | jq .syncs\n  varan status --toml         what to commit to enrol the agents that wait",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	c.caller = newCaller(sh, cmd)
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	cmd.Flags().BoolVarP(&c.All, "all", "a", false, "list resources that are well too")
	cmd.Flags().BoolVar(&c.TOML, "toml", false, "the TOML that enrols the agents that wait")
	return cmd
}

// Run asks and shows.
func (c *statusCommand) Run(ctx context.Context) error {
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.json(s)
	}
	if c.TOML {
		c.sh.print(waitingTOML(s.Hub))
		return nil
	}
	c.sh.print(statusText(s, c.All, time.Now(), c.sh.terminal(c.sh.out)))
	return nil
}

// statusText is the answer first: well or not, then what needs a person, then the tables.
func statusText(s httpd.Status, all bool, now time.Time, t report.Terminal) string {
	var b strings.Builder
	e := report.Escape
	word := "well"
	switch {
	case s.Problem != "":
		word = e(s.Problem)
	case !s.Ready:
		word = "starting"
	case len(s.Running) > 0:
		word = "at work"
	}
	fmt.Fprintf(&b, "fleet %s: %s\n", e(s.Fleet), word)
	if l := s.Lead; l != nil && l.Leading {
		fmt.Fprintf(&b, "this daemon, %s, leads in term %d\n", e(l.Leader), l.Term)
	}
	if s.Paused != nil {
		fmt.Fprintf(&b, "paused: %s%s (varan pause --off)\n", e(s.Paused.Reason), until(s.Paused.Until))
	}
	for _, p := range s.Problems {
		fmt.Fprintf(&b, "problem: %s\n", e(p))
	}
	for _, x := range s.Syncs {
		fmt.Fprintf(&b, "\n%s  %s", e(x.Name), e(x.URL))
		if x.Branch != "" {
			fmt.Fprintf(&b, " %s", e(x.Branch))
		}
		fmt.Fprintf(&b, "\n  %s", e(x.State))
		if x.Applied != "" {
			fmt.Fprintf(&b, ", applied %s", e(short(x.Applied)))
		}
		if x.Tip != "" && x.Tip != x.Applied {
			fmt.Fprintf(&b, ", tip %s", e(short(x.Tip)))
		}
		if !x.Planned.IsZero() {
			fmt.Fprintf(&b, ", planned %s", ago(now, x.Planned))
		}
		if len(x.Summary) > 0 {
			fmt.Fprintf(&b, ": %s", report.Counts(x.Summary))
		}
		b.WriteString("\n")
		said := slices.ContainsFunc(x.Diagnostics, func(d schema.Diagnostic) bool { return strings.Contains(x.Error, d.Message) })
		if x.Error != "" && !said {
			fmt.Fprintf(&b, "  %s\n", e(x.Error))
		}
		for _, a := range x.Asks {
			fmt.Fprintf(&b, "  asks: %s\n", e(a))
		}
		if len(x.Asks) > 0 && x.Digest != "" {
			fmt.Fprintf(&b, "  varan approve %s\n", e(x.Digest))
		}
		if len(x.Diagnostics) > 0 {
			b.WriteString(report.Diagnostics(x.Diagnostics, nil, t))
		}
	}
	for _, r := range s.Running {
		if r.ID != "" { // a look that found nothing to do yet has none
			fmt.Fprintf(&b, "\nrun %s, begun %s (%s)\n", e(r.ID), ago(now, r.Started), e(r.Trigger))
		}
	}
	b.WriteString(serverTable(s.Servers, all, t))
	b.WriteString(waitingText(s.Hub, now))
	b.WriteString(resourceTable(s.Resources, all, t))
	if len(s.Holds) > 0 {
		b.WriteString("\n")
		var rows [][]string
		for _, h := range s.Holds {
			what := string(h.Resource)
			if what == "" {
				what = "(the whole server)"
			}
			rows = append(rows, []string{e(what), e(string(h.Kind)), ago(now, h.Since), e(h.Reason) + until(h.Until)})
		}
		b.WriteString(report.Table([]string{"held", "by", "since", "because"}, rows, t))
	}
	return b.String()
}

// resourceTable lists what is not well, or everything, and counts the rest.
func resourceTable(rs []sync.ResourceStatus, all bool, t report.Terminal) string {
	var rows [][]string
	well := 0
	for _, r := range rs {
		ok := (r.State == "running" || r.State == "completed") && !r.Action.Changes() && r.Cause == ""
		if ok && !all {
			well++
			continue
		}
		rows = append(rows, []string{report.Escape(string(r.Resource)), report.Escape(r.Server), report.Escape(r.State),
			string(r.Action), report.Escape(short(r.Commit)), report.Escape(causeDetail(r.Cause))})
	}
	s := ""
	if len(rows) > 0 {
		s = "\n" + report.Table([]string{"resource", "server", "state", "plan", "commit", "because"}, rows, t)
	}
	if well > 0 {
		s += fmt.Sprintf("\n%d of %d resources run as declared.\n", well, len(rs))
	}
	return s
}

// causeDetail drops the fixed word before a cause's own words.
func causeDetail(s string) string {
	if _, rest, ok := strings.Cut(s, " "); ok {
		return rest // the kind says the same in one word
	}
	return s
}

func until(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return ", until " + t.UTC().Format("2006-01-02 15:04 UTC")
}

// short is a commit as people quote it.
func short(id string) string {
	if len(id) == 40 {
		return id[:7]
	}
	return id
}

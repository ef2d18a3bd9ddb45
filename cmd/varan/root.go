package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// newRoot wires all subcommands.
func newRoot(sh *shell) *cobra.Command {
	root := &cobra.Command{
		Use:   "varan",
		Short: "make Docker hosts match a Git repository",
		Long: `varan makes Docker hosts match a Git repository: you commit TOML, see the plan, and it is applied
in the right order.`,
		Example: `  varan demo                    a whole small world on this machine, offline
  varan validate infra          every mistake at once, with file, line and column
  varan plan infra              what would happen, and why
  varan apply infra             ask, do it, show it live
  varan serve --repo infra      from now on by itself, at every commit`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(sh.in)
	root.SetOut(sh.out)
	root.SetErr(sh.err)
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w\nvaran %s --help shows how it is used", err, strings.TrimPrefix(c.CommandPath(), "varan "))
	})
	root.AddGroup(
		&cobra.Group{ID: "write", Title: "Write and check:"},
		&cobra.Group{ID: "do", Title: "Plan and apply:"},
		&cobra.Group{ID: "daemon", Title: "A running daemon:"},
		&cobra.Group{ID: "more", Title: "More:"},
	)
	in := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	in("write", newValidate(sh), newSchema(sh))
	in("do", newPlan(sh), newApply(sh), newDemo(sh))
	in("daemon", newServe(sh), newStatus(sh), newRuns(sh), newLogs(sh), newRun(sh), newApprove(sh), newHold(sh),
		newPause(sh), newCancel(sh), newRemove(sh), newAgent(sh), newKey(sh))
	in("more", newVersion(sh), newDoctor(sh), newForge(sh))
	root.SetHelpCommandGroupID("more")
	root.SetCompletionCommandGroupID("more")
	root.AddCommand(newDemoApp(sh))
	return root
}

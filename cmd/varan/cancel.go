package main

import (
	"context"

	"github.com/spf13/cobra"
)

// cancelCommand ends a run after the steps in flight.
type cancelCommand struct {
	*caller
	ID string
}

func newCancel(sh *shell) *cobra.Command {
	c := &cancelCommand{}
	cmd := &cobra.Command{
		Use: "cancel [RUN]", Short: "end a run after the steps under way",
		Example: "  varan cancel              the run that is under way\n  varan cancel RUN",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				c.ID = args[0]
			}
			return c.Run(cmd.Context())
		},
	}
	c.caller = newCaller(sh, cmd)
	return cmd
}

// Run cancels.
func (c *cancelCommand) Run(ctx context.Context) error {
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	if err := client.Cancel(ctx, c.ID); err != nil {
		return err
	}
	c.sh.say("Cancelled: the steps under way are finished, no further one starts.")
	return nil
}

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/apply"
)

// runCommand makes one resource run as declared, now.
type runCommand struct {
	*caller
	Resource string
}

func newRun(sh *shell) *cobra.Command {
	c := &runCommand{}
	cmd := &cobra.Command{
		Use: "run KIND/NAME", Short: "make one resource run as declared, now",
		Long:    "run also deploys what has deploy = false. It says how that went.",
		Example: "  varan run stack/shop",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Resource = args[0]
			return c.Run(cmd.Context())
		},
	}
	c.caller = newCaller(sh, cmd)
	cmd.ValidArgsFunction = c.completeResources
	return cmd
}

// Run asks the daemon and shows it live.
func (c *runCommand) Run(ctx context.Context) error {
	id, err := resourceID(c.Resource)
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	return c.drive(ctx, client, func(ctx context.Context, events func(apply.Event)) (*apply.Result, error) {
		return client.RunNow(ctx, id, c.sh.actor(), events)
	})
}

package main

import (
	"context"

	"github.com/spf13/cobra"
)

// approveCommand answers what a plan asks.
type approveCommand struct {
	*caller
	Digest string
}

func newApprove(sh *shell) *cobra.Command {
	c := &approveCommand{}
	cmd := &cobra.Command{
		Use: "approve DIGEST", Short: "agree to a plan that asks",
		Long:    "approve applies exactly the plan of that digest: if the plan made now differs, nothing is applied.",
		Example: "  varan status              shows the digest and what is asked\n  varan approve 1:9d31…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Digest = args[0]
			return c.Run(cmd.Context())
		},
	}
	c.caller = newCaller(sh, cmd)
	return cmd
}

// Run approves.
func (c *approveCommand) Run(ctx context.Context) error {
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	if err := client.Approve(ctx, c.Digest, c.sh.actor()); err != nil {
		return err
	}
	c.sh.say("Approved. varan status shows how it goes.")
	return nil
}

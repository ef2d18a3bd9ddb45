package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/apply"
)

// removeCommand removes an orphan.
type removeCommand struct {
	*caller
	Resource string
	Yes      bool
}

func newRemove(sh *shell) *cobra.Command {
	c := &removeCommand{}
	cmd := &cobra.Command{
		Use: "remove KIND/NAME", Short: "remove what nothing declares any more",
		Long: `remove takes away the containers of a resource that no sync declares any more and that a plan does not remove by
itself. Named volumes and bind sources stay.`,
		Example: "  varan remove stack/old",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Resource = args[0]
			return c.Run(cmd.Context())
		},
	}
	c.caller = newCaller(sh, cmd)
	cmd.Flags().BoolVarP(&c.Yes, "yes", "y", false, "do not ask")
	cmd.ValidArgsFunction = c.completeResources
	return cmd
}

// Run asks and removes.
func (c *removeCommand) Run(ctx context.Context) error {
	id, err := resourceID(c.Resource)
	if err != nil {
		return err
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	if !c.Yes {
		yes, err := c.sh.ask(ctx, "Remove the containers of "+string(id)+"? Volumes stay. [y/N]")
		if err != nil {
			return err
		}
		if !yes {
			c.sh.say("Nothing was changed.")
			return silent(1)
		}
	}
	return c.drive(ctx, client, func(ctx context.Context, events func(apply.Event)) (*apply.Result, error) {
		return client.Remove(ctx, id, c.sh.actor(), events)
	})
}

package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/sync"
)

// holdCommand keeps varan's hands off something.
type holdCommand struct {
	*caller
	What, Reason string
	For          time.Duration
	Off          bool
}

func newHold(sh *shell) *cobra.Command {
	c := &holdCommand{}
	cmd := &cobra.Command{
		Use: "hold KIND/NAME|SERVER [REASON]", Short: "keep hands off a resource or a whole server",
		Example: `  varan hold stack/shop --for 2h "moving the disk"
  varan hold web1 "hardware swap"
  varan hold stack/shop --off`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.What, c.Reason = args[0], strings.Join(args[1:], " ")
			return c.Run(cmd.Context())
		},
	}
	c.caller = newCaller(sh, cmd)
	cmd.ValidArgsFunction = c.completeResources
	cmd.Flags().DurationVar(&c.For, "for", 0, "lift it by itself after so long")
	cmd.Flags().BoolVar(&c.Off, "off", false, "lift it")
	return cmd
}

// Run holds or lifts.
func (c *holdCommand) Run(ctx context.Context) error {
	req := sync.HoldRequest{Reason: c.Reason, For: c.For, Off: c.Off}
	if strings.Contains(c.What, "/") {
		id, err := resourceID(c.What)
		if err != nil {
			return err
		}
		req.Resource = id
	} else {
		req.Server = c.What
	}
	if c.Reason == "" && !c.Off {
		return errors.New("say why, for whoever finds it held: varan hold " + c.What + ` "REASON"`)
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	if req.Reason != "" {
		req.Reason += " (" + c.sh.actor() + ")"
	}
	if err := client.Hold(ctx, req); err != nil {
		return err
	}
	if c.Off {
		c.sh.say("%s is no longer held.", c.What)
	} else {
		c.sh.say("%s is held. varan hold %s --off lifts it.", c.What, c.What)
	}
	return nil
}

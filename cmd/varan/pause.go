package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/sync"
)

// pauseCommand stops new runs.
type pauseCommand struct {
	*caller
	Reason string
	For    time.Duration
	Off    bool
}

func newPause(sh *shell) *cobra.Command {
	c := &pauseCommand{}
	cmd := &cobra.Command{
		Use: "pause [REASON]", Short: "start no further run, of anything",
		Example: "  varan pause \"incident 42\"\n  varan pause --for 1h \"maintenance\"\n  varan pause --off",
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Reason = strings.Join(args, " ")
			return c.Run(cmd.Context())
		},
	}
	c.caller = newCaller(sh, cmd)
	cmd.Flags().DurationVar(&c.For, "for", 0, "go on by itself after so long")
	cmd.Flags().BoolVar(&c.Off, "off", false, "go on")
	return cmd
}

// Run pauses or goes on.
func (c *pauseCommand) Run(ctx context.Context) error {
	if c.Reason == "" && !c.Off {
		return errors.New(`say why, for whoever finds it paused: varan pause "REASON"`)
	}
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	reason := c.Reason
	if reason != "" {
		reason += " (" + c.sh.actor() + ")"
	}
	if err := client.Pause(ctx, sync.PauseRequest{Reason: reason, For: c.For, Off: c.Off}); err != nil {
		return err
	}
	if c.Off {
		c.sh.say("Going on.")
	} else {
		c.sh.say("Paused: runs under way end, no further one starts. varan pause --off goes on.")
	}
	return nil
}

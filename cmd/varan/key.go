package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/apply/fleet"
)

// keyCommand shows the fleet's public key and how agents are started with it.
type keyCommand struct {
	sh     *shell
	config *config
}

func newKey(sh *shell) *cobra.Command {
	c := &keyCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "key", Short: "the fleet's public key, and how an agent is started with it",
		Long: `key prints the fleet's public key on standard output and says how to start an agent with it. The private half never
leaves [hub] key_file, the one file of the daemon to back up.`,
		Example: "  varan key",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	c.config = newConfig(sh, cmd.Flags())
	return cmd
}

// Run prints.
func (c *keyCommand) Run(ctx context.Context) error {
	set, _, err := c.config.read(ctx)
	if err != nil {
		return err
	}
	if _, err := os.Stat(set.Hub.KeyFile); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there: varan serve makes it at its first start", set.Hub.KeyFile)
	}
	key, _, err := fleet.LoadKey(set.Hub.KeyFile)
	if err != nil {
		return err
	}
	public, err := key.PublicKey()
	if err != nil {
		return err
	}
	c.sh.print(public + "\n")
	start := "varan agent --hub HOST:PORT --fleet-key " + public
	if _, port, err := net.SplitHostPort(set.Hub.Listen); err == nil {
		start = fmt.Sprintf("varan agent --hub %s:%s --fleet-key %s", hostName(), port, public)
	}
	if set.Name != "main" {
		start += " --fleet " + set.Name
	}
	c.sh.say("\nOn a host that is to join the fleet:\n\n  %s\n", start)
	if set.Hub.Listen == "" {
		c.sh.say("No agent can connect directly: [hub] listen is empty. Through a reverse proxy in front of %s they can: --hub wss://HOST", set.Listen)
	}
	return nil
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "HOST"
	}
	return name
}

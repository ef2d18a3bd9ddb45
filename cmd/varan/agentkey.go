package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/sync/settings"
)

// agentRotateCommand makes an agent's next key.
type agentRotateCommand struct {
	sh   *shell
	Root string
}

func newAgentRotate(sh *shell) *cobra.Command {
	c := &agentRotateCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "rotate", Short: "make this agent's next key",
		Long: `rotate makes the next key of the agent with this root and prints its public half. Commit that in the agent's [[server]]
in place of the old one: the commit locks the old key out, and the agent, which need not be restarted, comes back under
the new one.`,
		Example: "  varan agent rotate --root /var/lib/varan-agent",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	cmd.Flags().StringVar(&c.Root, "root", cmp.Or(sh.env["VARAN_AGENT_ROOT"], settings.Defaults(sh.where()).Agent.Root), "the agent's root (VARAN_AGENT_ROOT)")
	return cmd
}

// Run makes the key; one that waits already is shown again.
func (c *agentRotateCommand) Run(context.Context) error {
	file := filepath.Join(c.Root, agentKeyFile)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no agent has its key in %s; --root names the agent's folder", c.Root)
	}
	key, err := link.LoadKey(link.NextKeyFile(file))
	if err != nil {
		return err
	}
	public, err := key.PublicKey()
	if err != nil {
		return err
	}
	c.sh.print(fmt.Sprintf("config.public_key = %q\n", public))
	c.sh.say("Commit this in the agent's [[server]] in place of the old key; the agent follows by itself.")
	return nil
}

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
	"github.com/varanhq/varan/sync/httpd"
	"github.com/varanhq/varan/sync/report"
)

// keyCommand shows the fleet's public key and how agents are started with it.
type keyCommand struct {
	sh     *shell
	config *config
	NATS   bool
}

func newKey(sh *shell) *cobra.Command {
	c := &keyCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "key", Short: "the fleet's public key, and how an agent is started with it",
		Long: `key prints the fleet's public key on standard output and says how to start an agent with it. The private half never
leaves [hub] key_file, the one file of the daemon to back up.`,
		Example: "  varan key\n  varan key --nats > varan.conf     what a NATS cluster for [hub] url needs; the key is made if there is none",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	c.config = newConfig(sh, cmd.Flags())
	cmd.Flags().BoolVar(&c.NATS, "nats", false, "print what the servers of a NATS cluster need in their configuration; it holds no secret")
	cmd.AddCommand(newKeyRotate(sh))
	return cmd
}

// Run prints.
func (c *keyCommand) Run(ctx context.Context) error {
	set, _, err := c.config.read(ctx)
	if err != nil {
		return err
	}
	if c.NATS {
		return c.nats(set.Hub.KeyFile)
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
	if set.Hub.URL != "" {
		start = fmt.Sprintf("varan agent --hub %s --fleet-key %s", set.Hub.URL, public)
	} else if _, port, err := net.SplitHostPort(set.Hub.Listen); err == nil {
		start = fmt.Sprintf("varan agent --hub %s:%s --fleet-key %s", hostName(), port, public)
	}
	if set.Name != "main" {
		start += " --fleet " + set.Name
	}
	c.sh.say("\nOn a host that is to join the fleet:\n\n  %s\n", start)
	if set.Hub.Listen == "" && set.Hub.URL == "" {
		c.sh.say("No agent can connect yet: [hub] listen is empty. Set it to \":8443\" in varan.toml and restart the daemon.")
	}
	return nil
}

// nats prints what a cluster's servers need, which derives from the key; the first daemon's is made here.
func (c *keyCommand) nats(file string) error {
	key, made, err := fleet.LoadKey(file)
	if err != nil {
		return err
	}
	text, err := fleet.ClusterConfig(key)
	if err != nil {
		return err
	}
	c.sh.print(text)
	if made {
		c.sh.say("Made the fleet's key, %s: back it up, and copy it to every machine that a daemon of this fleet runs on.", file)
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

// keyRotateCommand changes the fleet's key.
type keyRotateCommand struct {
	*caller
	Finish bool
}

func newKeyRotate(sh *shell) *cobra.Command {
	c := &keyRotateCommand{}
	cmd := &cobra.Command{
		Use: "rotate", Short: "change the fleet's key",
		Long: `rotate makes the fleet's next key and tells it every agent under the present one. Both are obeyed until all agents have
confirmed; then the next is the fleet's key, and its file is to be backed up. Who is missing is listed, and told when it
comes back. --finish does not wait for them: they obey nothing until they are started with --fleet-key and the new key.`,
		Example: "  varan key rotate\n  varan key rotate --finish",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	c.caller = newCaller(sh, cmd)
	cmd.Flags().BoolVar(&c.Finish, "finish", false, "do not wait for the agents that are missing")
	return cmd
}

// Run rotates; exit 2 while agents are missing.
func (c *keyRotateCommand) Run(ctx context.Context) error {
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	r, err := client.Rotate(ctx, httpd.KeyChange{Finish: c.Finish})
	if err != nil {
		return err
	}
	if r.Next == "" {
		c.sh.print(r.Present + "\n")
		c.sh.say("That is the fleet's key now: back its file up. Agents that confirmed it follow by themselves; start new ones with it.")
		return nil
	}
	c.sh.print(r.Next + "\n")
	c.sh.say("The fleet's next key. %d agents have confirmed it; missing:", len(r.Confirmed))
	for _, name := range r.Missing {
		c.sh.say("  %s", report.Escape(name))
	}
	c.sh.say("They are told when they come back, and then the key is changed. varan key rotate --finish does not wait for them.")
	return silent(2)
}

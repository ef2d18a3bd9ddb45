package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/agent"
	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/update"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/sync/httpd"
	"github.com/varanhq/varan/sync/settings"
)

// agentCommand is the agent of one Docker host.
type agentCommand struct {
	sh                   *shell
	Hub, FleetKey, Fleet string
	Name, Root           string
	LogFormat, LogLevel  string
	UpdateWait           time.Duration
	printed              bool // the TOML that enrols it
}

func newAgent(sh *shell) *cobra.Command {
	c := &agentCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "agent --hub HOST:PORT --fleet-key U…", Short: "run the agent of a Docker host",
		Long: `agent connects out to a daemon's hub and does on this host's Docker engine what the fleet's key signed. It listens
nowhere. At its first start it makes a key of its own and prints the TOML that enrols it: commit that. It comes back by
itself whatever happens to the connection. agent.toml in its root has the last word on what it may do.

varan key prints the fleet's public key on the daemon's machine.`,
		Example: `  varan agent --hub varan.example.com:8443 --fleet-key UAFX…
  varan agent --hub wss://varan.example.com --fleet-key UAFX… --name web2    through a reverse proxy
  varan agent --hub nats1:4222,nats2:4222,nats3:4222 --fleet-key UAFX…       of a fleet with [hub] url
  VARAN_HUB=… VARAN_FLEET_KEY=… varan agent                                  as a container is told`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&c.Hub, "hub", sh.env["VARAN_HUB"], "the hub: HOST:PORT, wss://HOST through a reverse proxy, or a NATS cluster's servers with commas between (VARAN_HUB)")
	f.StringVar(&c.FleetKey, "fleet-key", sh.env["VARAN_FLEET_KEY"], "the fleet's public key (VARAN_FLEET_KEY)")
	f.StringVar(&c.Fleet, "fleet", cmp.Or(sh.env["VARAN_FLEET"], "main"), "the fleet's name, name in varan.toml (VARAN_FLEET)")
	f.StringVar(&c.Name, "name", sh.env["VARAN_AGENT_NAME"], "what this host proposes to be called; default its host name (VARAN_AGENT_NAME)")
	f.StringVar(&c.Root, "root", cmp.Or(sh.env["VARAN_AGENT_ROOT"], settings.Defaults(sh.where()).Agent.Root), "key, ledger and stacks' files (VARAN_AGENT_ROOT)")
	f.StringVar(&c.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.DurationVar(&c.UpdateWait, "update-wait", time.Minute, "how long a new binary has to reach the hub") // tests shorten it
	_ = f.MarkHidden("update-wait")
	cmd.AddCommand(newAgentRevoke(sh), newAgentRotate(sh))
	return cmd
}

// Run works until a signal.
func (c *agentCommand) Run(ctx context.Context) error {
	if c.Hub == "" || c.FleetKey == "" {
		return errors.New("which fleet? Give --hub HOST:PORT and --fleet-key U…; varan key on the daemon's machine prints both")
	}
	hubs, err := link.ParseAddresses(c.Hub)
	if err != nil {
		return err
	}
	if strings.HasPrefix(c.FleetKey, "S") {
		return errors.New("--fleet-key is a private key: agents are started with the public one (U…), which varan key prints. Who saw this command line has the fleet's key: change it with varan key rotate")
	}
	if !nkeys.IsValidPublicUserKey(c.FleetKey) {
		return fmt.Errorf("--fleet-key %q is no public key (U…); varan key on the daemon's machine prints it", c.FleetKey)
	}
	log := logger(c.sh, &settings.Settings{LogFormat: c.LogFormat, LogLevel: c.LogLevel})
	signals, give := interrupts()
	defer give()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case sig := <-signals:
			log.Info("stopping", "signal", sig.String())
			notify(c.sh, "STOPPING=1")
			stop()
		case <-ctx.Done():
			return
		}
		<-signals
		os.Exit(130)
	}()
	root, err := agent.HostRoot(ctx, c.Root, "")
	if err != nil {
		return err
	}
	if t := newTrial(c.sh); t != nil {
		return c.prove(ctx, root, hubs, t, log)
	}
	self, err := update.New(root, buildVersion(), c.UpdateWait, log)
	if err != nil {
		return err
	}
	for {
		execute, err := c.serve(ctx, root, hubs, self, log)
		if errors.Is(err, errLeaving) {
			execute, err = self.Swap(ctx, try(self.Wait, log)), nil
			if ctx.Err() == nil && execute == "" {
				continue // it goes on and tells why
			}
		}
		if execute == "" || err != nil {
			return err
		}
		log.Info("another binary takes over", "path", execute)
		err = syscall.Exec(execute, os.Args, os.Environ())
		log.Error("the binary could not be executed", "path", execute, "err", err)
		self.NotExecuted(err)
	}
}

// prove is the new binary's part of its trial: it opens all it needs, connects, and touches nothing.
func (c *agentCommand) prove(ctx context.Context, root string, hubs []link.Address, t *trial, log *slog.Logger) error {
	a, err := agent.New(agent.Options{Root: root, Fleet: c.Fleet, Server: c.name(), Version: buildVersion(), Log: log})
	if err != nil {
		return err
	}
	defer a.Close()
	key, err := link.LoadKey(filepath.Join(root, agentKeyFile))
	if err != nil {
		return err
	}
	return link.Follow(ctx, link.Following{Hub: hubs[0], Others: hubs[1:], Tell: t.news}, link.Options{
		Handler: t, Key: key, FleetKey: c.FleetKey, TermFile: filepath.Join(root, termFile), PinFile: filepath.Join(root, "fleet-key"), Name: c.name(), Log: log,
	})
}

// serve works until a signal or an update ends it; then it may name another binary to execute.
func (c *agentCommand) serve(ctx context.Context, root string, hubs []link.Address, self *update.Self, log *slog.Logger) (execute string, err error) {
	begin := self.Begin()
	if begin.Execute != "" {
		return begin.Execute, nil
	}
	a, err := agent.New(agent.Options{Root: root, Fleet: c.Fleet, Server: c.name(), Version: buildVersion(), Update: self, Log: log})
	if err != nil {
		return "", err
	}
	defer a.Close()
	if e := begin.Ended; e != nil {
		log.Error("the agent was not updated", "op", e.Op, "err", e.Outcome.Error)
		if err := a.Updated(e); err != nil {
			log.Error("that could not be written down", "err", err)
		}
	}
	keyFile := filepath.Join(root, agentKeyFile)
	_, had := os.Stat(keyFile)
	key, err := link.LoadKey(keyFile)
	if err != nil {
		return "", err
	}
	public, err := key.PublicKey()
	if err != nil {
		return "", err
	}
	if errors.Is(had, fs.ErrNotExist) {
		c.printTOML(public)
	}
	log.Info("varan agent", "hub", c.Hub, "key", public, "root", root, "version", buildVersion())
	notify(c.sh, "READY=1")
	progress := a.Progress()
	defer progress.Close()
	h := &counted{Handler: a}

	// The link ends first, so that no op is taken that nobody works on any more.
	agentCtx, stopAgent := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAgent()
	var g errgroup.Group
	linkCtx, stopLink := context.WithCancel(ctx)
	defer stopLink()
	leaving := false
	g.Go(func() error {
		select {
		case <-a.Leaving():
			leaving = true
			stopLink()
		case <-linkCtx.Done():
		}
		return nil
	})
	unproven := newProbation(self, a, begin.Unproven, log)
	g.Go(func() error {
		if unproven.late(linkCtx) {
			stopLink()
		}
		return nil
	})
	g.Go(func() error {
		defer stopLink()
		return a.Run(agentCtx)
	})
	g.Go(func() error { return h.keepSmall(linkCtx) })
	g.Go(func() error {
		defer stopAgent()
		return link.Follow(linkCtx, link.Following{Hub: hubs[0], Others: hubs[1:], KeyFile: keyFile, Tell: func(n link.News, err error) { unproven.news(n, err); c.tell(log, public, n, err) }}, link.Options{
			Handler: h, Key: key, FleetKey: c.FleetKey, TermFile: filepath.Join(root, termFile), PinFile: filepath.Join(root, "fleet-key"), Name: c.name(),
			Progress: progress.C, Changed: a.Changed(), Figures: a.Figures, Logs: a.Logs, Log: log,
		})
	})
	err = g.Wait()
	switch {
	case err != nil || ctx.Err() != nil:
		return "", err
	case leaving:
		return "", errLeaving
	case unproven.failed != nil:
		return self.Back(unproven.failed)
	}
	return "", nil
}

// name is what this host proposes to be called.
func (c *agentCommand) name() string {
	if c.Name != "" {
		return c.Name
	}
	host, _ := os.Hostname()
	host, _, _ = strings.Cut(host, ".")
	return cmp.Or(host, "server")
}

// tell says how the connection stands; once what to commit.
func (c *agentCommand) tell(log *slog.Logger, public string, n link.News, err error) {
	switch n {
	case link.Connected:
		log.Info("connected: this agent is enrolled", "hub", c.Hub)
	case link.Lost:
		log.Warn("no connection to the hub; it is tried again for ever", "hub", c.Hub, "err", err)
	case link.Refused:
		log.Warn("the hub does not know this agent's key: commit it, and the agent is let in by itself", "key", public)
		c.printTOML(public)
	}
}

// printTOML says once what enrols this agent.
func (c *agentCommand) printTOML(public string) {
	if c.printed {
		return
	}
	c.printed = true
	c.sh.say("\nCommit this to the config repository to enrol this agent:\n")
	c.sh.print(fleet.EnrolTOML(c.name(), public))
	c.sh.say("")
}

// counted is an agent that knows whether anything was asked of it of late.
type counted struct {
	link.Handler
	ops atomic.Int64
}

// Submit takes an op.
func (h *counted) Submit(ctx context.Context, op protocol.Op) protocol.Submit {
	h.ops.Add(1)
	return h.Handler.Submit(ctx, op)
}

// keepSmall gives memory back after the start, and after work was done.
func (h *counted) keepSmall(ctx context.Context) error {
	rest := time.NewTimer(restAfter)
	defer rest.Stop()
	for seen := int64(-1); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
			if n := h.ops.Load(); n != seen {
				seen = n
				giveBack()
			}
			rest.Reset(time.Minute)
		}
	}
}

// agentRevokeCommand locks an agent out.
type agentRevokeCommand struct {
	*caller
	Key string
	Off bool
}

func newAgentRevoke(sh *shell) *cobra.Command {
	c := &agentRevokeCommand{}
	cmd := &cobra.Command{
		Use: "revoke KEY", Short: "lock an agent out at once, by its public key",
		Long: `revoke cuts an agent's connection and lets its key in no more, whatever is committed. The list lies beside the fleet's
key (KEY_FILE.revoked). Take the key out of the repository too: a commit is what enrols.`,
		Example: "  varan agent revoke UDXU…\n  varan agent revoke UDXU… --off",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Key = args[0]
			return c.Run(cmd.Context())
		},
	}
	c.caller = newCaller(sh, cmd)
	cmd.Flags().BoolVar(&c.Off, "off", false, "let it in again")
	return cmd
}

// Run revokes.
func (c *agentRevokeCommand) Run(ctx context.Context) error {
	client, err := c.client(ctx)
	if err != nil {
		return err
	}
	if err := client.Revoke(ctx, httpd.Revocation{Key: c.Key, Off: c.Off}); err != nil {
		return err
	}
	if c.Off {
		c.sh.say("%s is let in again if a commit holds it.", c.Key)
	} else {
		c.sh.say("%s is locked out. Take it out of the repository too: a commit is what enrols.", c.Key)
	}
	return nil
}

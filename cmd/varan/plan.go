package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/httpd"
	"github.com/varanhq/varan/sync/report"
	"github.com/varanhq/varan/sync/settings"
)

// A source is what is planned: a folder or a commit of it, on this machine.
type source struct {
	sh     *shell
	config *config
	Dir    string // as typed; "" = the working directory
	Ref    string
	As     string
	// fleet stands in for this machine's engine in tests.
	fleet func(context.Context, *settings.Settings, *slog.Logger) (*localFleet, error)
}

func newSource(sh *shell, cmd *cobra.Command) *source {
	s := &source{sh: sh, config: newConfig(sh, cmd.Flags()), fleet: openFleet}
	cmd.Flags().StringVar(&s.Ref, "ref", "", "read this branch, tag or commit of the repository, not the folder as it lies on disk")
	cmd.Flags().StringVar(&s.As, "as", "", "act as this [[server]]")
	s.config.compatFlag(cmd)
	s.config.key(cmd.Flags(), "data-dir", "data_dir", "the daemon's folder")
	s.config.key(cmd.Flags(), "root", "agent.root", "the agent's folder")
	_ = cmd.RegisterFlagCompletionFunc("ref", cobra.NoFileCompletions)
	return s
}

// An opened source makes plans and carries them out: through the daemon that manages this host, or by itself.
type opened struct {
	Dir    string
	Name   string
	OnDisk bool // the folder as it lies on disk, not a commit
	Daemon bool // through a daemon
	Plan   func(context.Context, sync.PlanRequest) (*plan.Plan, error)
	// Apply carries out p, which Plan made last and a person or --yes agreed to.
	Apply func(context.Context, sync.PlanRequest, *plan.Plan, func(apply.Event)) (*apply.Result, error)
	Close func()
}

// open reads varan.toml and finds who plans.
func (s *source) open(ctx context.Context) (*opened, error) {
	set, w, err := s.config.read(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.Dir, err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is a file; name the folder that it stands in", s.Dir)
	}
	o := &opened{Dir: dir, Name: filepath.Base(dir), OnDisk: s.Ref == "", Close: func() {}}
	client := httpd.Dial(set.Socket())
	err = client.Ping(ctx)
	switch {
	case err == nil:
		if s.As != "" {
			return nil, errors.New("a daemon manages this host, and it acts as one server: --as is not for it")
		}
		s.sh.say("A daemon manages this host; it does the work (%s).", set.Socket())
		o.Daemon = true
		ask := func(req sync.PlanRequest) sync.PlanRequest { req.Dir, req.Ref = dir, s.Ref; return req }
		o.Plan = func(ctx context.Context, req sync.PlanRequest) (*plan.Plan, error) { return client.Plan(ctx, ask(req)) }
		o.Apply = func(ctx context.Context, req sync.PlanRequest, p *plan.Plan, events func(apply.Event)) (*apply.Result, error) {
			return daemonApply(ctx, client, sync.ApplyRequest{PlanRequest: ask(req), Digest: p.Digest, Actor: s.sh.actor()}, events)
		}
		return o, nil
	case !errors.Is(err, httpd.ErrNoDaemon):
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	if s.sh.env["VARAN_DEBUG"] != "" {
		log = slog.New(slog.NewTextHandler(s.sh.err, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: report.LogAttr}))
	}
	engine, err := s.fleet(ctx, set, log)
	if err != nil {
		return nil, err
	}
	opts := sync.Options{Settings: syncSettings(set, filepath.Dir(w.Path)), DataDir: set.DataDir, Local: s.As, Servers: engine.Hub, This: fleet.This, Log: log}
	var local *sync.Local
	if s.Ref != "" {
		local, err = sync.OpenRepo(ctx, dir, s.Ref, opts)
	} else {
		local, err = sync.OpenFolder(ctx, dir, opts)
	}
	if err != nil {
		engine.Close()
		return nil, err
	}
	o.Plan = local.Plan
	o.Apply = func(ctx context.Context, _ sync.PlanRequest, p *plan.Plan, events func(apply.Event)) (*apply.Result, error) {
		return local.Apply(ctx, p, s.sh.actor(), events)
	}
	o.Close = func() { _ = local.Close(); engine.Close() }
	return o, nil
}

// daemonApply asks the daemon to apply; a context ended with ErrCancelled asks it to stop and waits for the end.
func daemonApply(ctx context.Context, client *httpd.Client, req sync.ApplyRequest, events func(apply.Event)) (*apply.Result, error) {
	base := context.WithoutCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = client.Cancel(base, "") })
	defer stop()
	_, r, err := client.Apply(base, req, events)
	return r, err
}

func (s *source) head(o *opened, p *plan.Plan, next string) report.Head {
	h := report.Head{Name: o.Name, Commit: p.Commit, OnDisk: o.OnDisk, Next: next}
	if o.OnDisk {
		h.Source = sourceIn(o.Dir)
	}
	return h
}

// planCommand shows what would happen.
type planCommand struct {
	*source
	JSON, Detailed, All bool
	Retry               bool
}

func newPlan(sh *shell) *cobra.Command {
	c := &planCommand{}
	cmd := &cobra.Command{
		Use: "plan [DIR]", Short: "show what would happen, and why",
		Long: `plan reads a config repository, looks at what runs, and shows every step with its cause, its old and new
values and its order. It touches nothing. DIR is read as it lies on disk, uncommitted changes included.`,
		Example: `  varan plan                              the folder you are in
  varan plan infra --ref main             what that commit would do
  varan plan infra --as web1              as if this machine were [[server]] web1
  varan plan --json | jq .summary         for scripts
  varan plan --detailed-exitcode          0 nothing to do, 1 error, 2 changes`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				c.Dir = args[0]
			}
			return c.Run(cmd.Context())
		},
	}
	c.source = newSource(sh, cmd)
	cmd.Flags().BoolVar(&c.JSON, "json", false, "the plan as JSON, of a documented shape")
	cmd.Flags().BoolVar(&c.Detailed, "detailed-exitcode", false, "exit 2 when there is something to do")
	cmd.Flags().BoolVarP(&c.All, "all", "a", false, "list unchanged resources too")
	cmd.Flags().BoolVar(&c.Retry, "retry", false, "plan as apply --retry would")
	return cmd
}

// Run plans once.
func (c *planCommand) Run(ctx context.Context) error {
	signals, give := interrupts()
	defer give()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-signals:
			stop(errors.New("interrupted"))
		case <-ctx.Done():
		}
	}()
	o, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer o.Close()
	p, err := o.Plan(ctx, sync.PlanRequest{Retry: c.Retry})
	if err != nil {
		return err
	}
	if c.JSON {
		data, err := p.JSON()
		if err != nil {
			return err
		}
		c.sh.print(string(data))
	} else {
		h := c.head(o, p, "varan apply"+argument(c.Dir, c.Ref))
		h.All = c.All
		c.sh.print(report.Plan(p, h, c.sh.terminal(c.sh.out)))
	}
	switch {
	case p.HasErrors():
		return silent(1)
	case c.Detailed && detailed(p):
		return silent(2)
	}
	return nil
}

// detailed reports whether --detailed-exitcode says 2: anything but none and adopt.
func detailed(p *plan.Plan) bool {
	for _, s := range p.Steps {
		if s.Action != plan.None && s.Action != plan.Adopt {
			return true
		}
	}
	return false
}

// argument is what a person types after the command to name the same thing again.
func argument(dir, ref string) string {
	s := ""
	if dir != "" {
		s = " " + quoteArg(dir)
	}
	if ref != "" {
		s += " --ref " + quoteArg(ref)
	}
	return s
}

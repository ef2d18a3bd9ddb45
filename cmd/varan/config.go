package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/report"
	"github.com/varanhq/varan/sync/settings"

	"time"
)

// A config is varan.toml with the flags that stand above it. Commands share it; each adds the flags it needs.
type config struct {
	sh   *shell
	File string // --config
	over map[string]settings.Override
}

func newConfig(sh *shell, flags *pflag.FlagSet) *config {
	c := &config{sh: sh, over: map[string]settings.Override{}}
	flags.StringVar(&c.File, "config", "", "varan.toml (also VARAN_CONFIG; default "+sh.where().File()+")")
	return c
}

// key adds a flag that sets a key of varan.toml.
func (c *config) key(flags *pflag.FlagSet, name, key, usage string) {
	flags.Var(&keyFlag{c: c, name: name, key: key}, name, usage)
}

// keyFlag is a flag whose value overrides a key.
type keyFlag struct {
	c         *config
	name, key string
	v         string
}

func (f *keyFlag) String() string { return f.v }
func (f *keyFlag) Type() string   { return "string" }
func (f *keyFlag) Set(s string) error {
	f.v = s
	f.c.over[f.key] = settings.Override{Text: s, From: "--" + f.name}
	return nil
}

// watcher makes what reads varan.toml.
func (c *config) watcher(log *slog.Logger) *settings.Watcher {
	values := settings.Environment(c.sh.environ)
	maps.Copy(values, c.over)
	file, must := c.File, true
	if file == "" {
		file = c.sh.env["VARAN_CONFIG"]
	}
	if file == "" {
		file, must = c.sh.where().File(), false
	}
	if abs, err := filepath.Abs(file); err == nil {
		file = abs
	}
	return &settings.Watcher{Input: settings.Input{Where: c.sh.where(), Values: values}, Path: file, Must: must, Log: log}
}

// read reads varan.toml once and says what is wrong with it.
func (c *config) read(ctx context.Context) (*settings.Settings, *settings.Watcher, error) {
	w := c.watcher(slog.New(slog.DiscardHandler))
	s, diags, err := w.Read(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(diags) > 0 {
		t := c.sh.terminal(c.sh.err)
		fmt.Fprint(c.sh.err, report.Diagnostics(diags, sourceOf(w.Path), t))
	}
	if s == nil {
		return nil, nil, silent(1)
	}
	for _, p := range w.Problems() {
		c.sh.say("varan: %s", report.Escape(p.String()))
	}
	return s, w, nil
}

// syncSettings is the part of varan.toml that sync obeys.
func syncSettings(s *settings.Settings, dir string) sync.Settings {
	out := sync.Settings{
		Fleet: s.Name, Compat: schema.Compat(s.Compat),
		Config: sync.Root{
			URL: s.Config.URL, Branch: s.Config.Branch, Path: s.Config.Path, Poll: time.Duration(s.Config.Poll), Apply: s.Config.Apply,
			Delete: s.Config.Delete, Drift: s.Config.Drift, MaxRemovals: s.Config.MaxRemovals, MaxFailures: s.Config.MaxFailures,
			OnSurprise: s.Config.OnSurprise,
		},
		Secrets: map[string]protocol.Secret{}, AgentsDir: s.Hub.AgentsDir,
		AllowInternal: s.AllowInternal, AllowHTTP: s.AllowHTTP, KnownHosts: below(dir, s.KnownHostsFile),
	}
	for name, v := range s.Secrets {
		if v.Secret.Reveal() != "" {
			out.Secrets[name] = protocol.Secret(v.Secret.Reveal())
		}
	}
	for _, p := range s.GitProvider {
		for _, a := range p.Accounts {
			acc := sync.GitAccount{Scheme: "https", Host: p.Domain, Path: p.Path, Username: a.Username, Token: protocol.Secret(a.Token.Reveal())}
			if p.HTTPS != nil && !*p.HTTPS {
				acc.Scheme = "http"
			}
			if acc.Token != "" {
				out.GitAccounts = append(out.GitAccounts, acc)
			}
			if key := a.SSHKey.Reveal(); key != "" {
				out.GitAccounts = append(out.GitAccounts, sync.GitAccount{Scheme: "ssh", Host: p.Domain, Path: p.Path, Username: "git", SSHKey: protocol.Secret(key)})
			}
		}
	}
	out.GitAccounts = append(out.GitAccounts, appAccounts(s)...) // after those that are written down
	for _, p := range s.DockerRegistry {
		for _, a := range p.Accounts {
			out.Registries = append(out.Registries, sync.RegistryAccount{Domain: p.Domain, Username: a.Username, Token: protocol.Secret(a.Token.Reveal())})
		}
	}
	return out
}

// compatFlag adds --compat[=komodo].
func (c *config) compatFlag(cmd *cobra.Command) {
	c.key(cmd.Flags(), "compat", "compat", "read the files as Komodo does: --compat=komodo")
	cmd.Flags().Lookup("compat").NoOptDefVal = "komodo"
	_ = cmd.RegisterFlagCompletionFunc("compat", cobra.FixedCompletions([]string{"komodo"}, cobra.ShellCompDirectiveNoFileComp))
}

// logger makes the log of a daemon.
func logger(sh *shell, s *settings.Settings) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.LogLevel))
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: report.LogAttr}
	if strings.EqualFold(s.LogFormat, "json") {
		return slog.New(slog.NewJSONHandler(sh.err, opts))
	}
	// The journal of systemd has times of its own.
	if sh.env["JOURNAL_STREAM"] != "" {
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return report.LogAttr(groups, a)
		}
	}
	return slog.New(slog.NewTextHandler(sh.err, opts))
}

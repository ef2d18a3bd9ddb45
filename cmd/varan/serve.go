package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/lease"
	"github.com/varanhq/varan/sync/httpd"
	"github.com/varanhq/varan/sync/settings"
	"github.com/varanhq/varan/sync/webhook"
)

// serveCommand is the daemon.
type serveCommand struct {
	sh     *shell
	config *config
	Repo   string
	As     string
}

func newServe(sh *shell) *cobra.Command {
	c := &serveCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "serve", Short: "follow a repository and apply every commit",
		Long: `serve follows the config repository and applies every commit of its branch, puts right what drifts, and answers the
other commands. varan.toml says the rest; it and the files of secrets are read again when they change. SIGINT and
SIGTERM finish the steps under way; a second one leaves at once. Killing it at any moment is safe.`,
		Example: `  varan serve --repo infra                          a folder or local repository, followed
  varan serve --repo https://github.com/acme/infra.git
  varan serve --config /etc/varan/varan.toml        all settings from a file
  VARAN_LISTEN= varan serve --repo infra            without HTTP, the socket alone`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	f := cmd.Flags()
	c.config = newConfig(sh, f)
	f.StringVar(&c.Repo, "repo", "", "URL or folder of the config repository ([config] url)")
	f.StringVar(&c.As, "as", "", "act as this [[server]]")
	c.config.key(f, "branch", "config.branch", "the branch to follow")
	c.config.key(f, "path", "config.path", "paths in the repository, separated by commas")
	c.config.key(f, "data-dir", "data_dir", "journal, mirrors and socket (default "+settings.Defaults(sh.where()).DataDir+")")
	c.config.key(f, "root", "agent.root", "the agent's folder (default "+settings.Defaults(sh.where()).Agent.Root+")")
	c.config.key(f, "listen", "listen", "HOST:PORT of HTTP; empty: none (default 127.0.0.1:8080)")
	c.config.key(f, "log-format", "log_format", "text or json")
	c.config.key(f, "log-level", "log_level", "debug, info, warn or error")
	c.config.compatFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// Run serves until a signal.
func (c *serveCommand) Run(ctx context.Context) error {
	if c.Repo != "" {
		url := c.Repo
		if info, err := os.Stat(url); err == nil && info.IsDir() {
			if url, err = filepath.Abs(url); err != nil {
				return err
			}
		}
		c.config.over["config.url"] = settings.Override{Text: url, From: "--repo"}
	}
	set, watcher, err := c.config.read(ctx)
	if err != nil {
		return err
	}
	if set.Config.URL == "" {
		return fmt.Errorf("which repository? Give --repo URL or DIR, or [config] url in %s", watcher.Path)
	}
	log := logger(c.sh, set)
	watcher.Log = log
	log.Info("varan follows a repository and makes this machine's containers what it says", "repo", withoutUser(set.Config.URL),
		"branch", set.Config.Branch, "fleet", set.Name, "version", buildVersion(), "data_dir", set.DataDir, "root", set.Agent.Root)

	signals, give := interrupts()
	defer give()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case sig := <-signals:
			log.Info("stopping: no further step begins; a second signal leaves at once", "signal", sig.String())
			notify(c.sh, "STOPPING=1")
			stop(errStopped)
		case <-ctx.Done():
			return
		}
		sig := <-signals
		log.Warn("left at once: what is half done is put right at the next start", "signal", sig.String())
		os.Exit(130)
	}()
	err = c.serve(ctx, set, watcher, log)
	if errors.Is(err, errStopped) {
		err = nil
	}
	if err == nil {
		log.Info("stopped")
	}
	return err
}

var errStopped = fmt.Errorf("stopped by a signal: %w", apply.ErrStopping)

// serve starts everything in order and stops it in reverse.
func (c *serveCommand) serve(ctx context.Context, set *settings.Settings, watcher *settings.Watcher, log *slog.Logger) error {
	if err := os.MkdirAll(set.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	unlock, err := lock(filepath.Join(set.DataDir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()

	dir := filepath.Dir(watcher.Path)
	fl, err := serveFleet(ctx, set, dir, log)
	if err != nil {
		return err
	}
	defer fl.Close()
	if fl.Made {
		log.Info("made the fleet's key: back this file up, it is the only one that cannot be made again", "file", set.Hub.KeyFile)
	}

	var now atomic.Pointer[settings.Settings]
	now.Store(set)
	how := opening{serve: c, set: set, dir: dir, fleet: fl, log: log, hooked: func() []webhook.Secret { return hookSecrets(now.Load()) }}
	var leads *lease.Lease // nil = this daemon is alone
	var lead func() lease.Status
	if set.Hub.URL != "" {
		leads = lease.New(lease.Options{Store: fl.Hub.Lease(), Fleet: set.Name, Name: daemonName(set), URL: set.PublicURL, Log: log})
		lead = leads.Status
	}
	seat := newSeat(set.Name, lead)
	var acting atomic.Pointer[office]
	var hooks *webhook.Receiver
	if leads == nil {
		o, err := how.open(ctx)
		if err != nil {
			return err
		}
		acting.Store(o)
		seat.take(o.daemon)
		hooks = o.hooks
	} else {
		for try := range 10 { // a cluster whose servers only just found each other refuses at first
			if how.queue, err = webhook.OpenQueue(ctx, fl.Hub.JetStream(), fl.Hub.Replicas(), log); err == nil || try == 9 || ctx.Err() != nil {
				break
			}
			time.Sleep(500 * time.Millisecond)
		}
		if err != nil {
			return err
		}
		hooks = webhook.New(webhook.Options{Target: seat, Queue: how.queue, Log: log, Secrets: how.hooked})
	}
	watcher.Changed = func(s *settings.Settings) {
		old := now.Swap(s)
		for _, k := range fixed(old, s) {
			log.Warn("this setting counts from the next start on", "key", k)
		}
		if o := acting.Load(); o != nil {
			o.reload(s, dir, log)
		}
	}
	server, err := httpd.New(httpd.Options{
		Hooks: hooks, Daemon: seat, Lead: lead, Log: log, Version: buildVersion(), Socket: set.Socket(), Listen: set.Listen,
		CertFile: below(dir, set.TLSCertFile), KeyFile: below(dir, set.TLSKeyFile), TrustedProxies: prefixes(set.TrustedProxies),
		ReadToken: filepath.Join(set.DataDir, "read-token"), Hub: fl.Hub,
		Tokens: func() []httpd.Token { return tokens(now.Load()) },
		Problems: func() []string {
			out := fl.Hub.Trouble()
			for _, p := range watcher.Problems() {
				out = append(out, p.String())
			}
			return out
		},
	})
	if err != nil {
		return err
	}
	attrs := []any{"socket", set.Socket()}
	if a := server.Addr(); a != nil {
		attrs = append(attrs, "http", a.String())
	}
	if a := fl.Hub.Addr(); a != nil {
		attrs = append(attrs, "agents", a.String())
	}
	if set.Hub.URL != "" {
		attrs = append(attrs, "cluster", set.Hub.URL, "name", daemonName(set))
	}
	attrs = append(attrs, "fleet_key", fl.Hub.FleetKey())
	log.Info("ready for commands", attrs...)
	notify(c.sh, "READY=1")

	// The surface outlives the runs: while steps are being finished, status still answers.
	httpCtx, stopHTTP := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHTTP()
	var surface errgroup.Group
	surface.Go(func() error { return server.Run(httpCtx) })
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if leads == nil {
			return acting.Load().run(gctx)
		}
		err := c.several(gctx, leads, seat, func(t *lease.Tenure) opening {
			begin := how
			begin.set, begin.tenure = now.Load(), t
			return begin
		}, func(o *office) {
			acting.Store(o)
			if s := now.Load(); o != nil && s != o.set { // changed while it was opened
				o.reload(s, dir, log)
			}
		})
		if err == nil {
			err = context.Cause(gctx)
		}
		return err
	})
	g.Go(func() error { return watcher.Run(gctx) })
	g.Go(func() error {
		select {
		case err := <-fl.Lost:
			return err
		case <-gctx.Done():
			return nil
		}
	})
	err = g.Wait()
	stopHTTP()
	return errors.Join(err, surface.Wait())
}

// fixed lists what changed that only a start takes up.
func fixed(a, b *settings.Settings) []string {
	var keys []string
	for _, k := range []struct{ key, a, b string }{
		{"name", a.Name, b.Name}, {"data_dir", a.DataDir, b.DataDir}, {"listen", a.Listen, b.Listen},
		{"agent.root", a.Agent.Root, b.Agent.Root}, {"hub.listen", a.Hub.Listen, b.Hub.Listen}, {"hub.key_file", a.Hub.KeyFile, b.Hub.KeyFile},
		{"hub.url", a.Hub.URL, b.Hub.URL}, {"hub.ca_file", a.Hub.CAFile, b.Hub.CAFile}, {"hub.name", a.Hub.Name, b.Hub.Name},
		{"log_format", a.LogFormat, b.LogFormat}, {"log_level", a.LogLevel, b.LogLevel},
	} {
		if k.a != k.b {
			keys = append(keys, k.key)
		}
	}
	return keys
}

func tokens(s *settings.Settings) []httpd.Token {
	var out []httpd.Token
	for _, t := range s.Token {
		if h, err := httpd.ParseHash(t.Hash); err == nil {
			out = append(out, httpd.Token{Name: t.Name, Operate: t.Role == "operate", Hash: h})
		}
	}
	return out
}

// hookSecrets are what forges sign their deliveries with.
func hookSecrets(s *settings.Settings) []webhook.Secret {
	var out []webhook.Secret
	for _, f := range s.Forge {
		if v := f.WebhookSecret.Reveal(); v != "" {
			out = append(out, webhook.Secret{Forge: webhook.Forge(f.Type), Domain: f.Domain, Value: v})
		}
	}
	return out
}

// below is a path that varan.toml names, which starts at its folder.
func below(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func prefixes(list []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p)
		} else if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// lock holds path for this process; the kernel lets go of it with the process.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data_dir: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid := make([]byte, 32)
		n, _ := f.ReadAt(pid, 0)
		f.Close()
		return nil, fmt.Errorf("another varan serves from %s (process %s)", filepath.Dir(path), strings.TrimSpace(string(pid[:n])))
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(fmt.Sprintf("%d\n", os.Getpid())), 0)
	return func() { _ = f.Close() }, nil
}

// notify tells systemd how the daemon stands, where systemd asked for it.
func notify(sh *shell, state string) {
	path := sh.env["NOTIFY_SOCKET"]
	if path == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}

// withoutUser drops a URL's userinfo.
func withoutUser(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return url
	}
	host, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	return scheme + "://" + host + "/" + path
}

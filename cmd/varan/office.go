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
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/apply/journal"
	"github.com/varanhq/varan/apply/lease"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/pulls"
	"github.com/varanhq/varan/sync/settings"
	"github.com/varanhq/varan/sync/webhook"
)

// An office is all that acts: the daemon, what remembers its runs, what talks to forges, what brings webhooks. A daemon
// that is alone has one from its start to its end, one of several while it leads.
type office struct {
	daemon *sync.Daemon
	desk   *pulls.Desk
	hooks  *webhook.Receiver
	set    *settings.Settings // it was opened with
}

// opening is what an office is opened with.
type opening struct {
	serve  *serveCommand
	set    *settings.Settings
	dir    string // of varan.toml
	fleet  *localFleet
	log    *slog.Logger
	hooked func() []webhook.Secret
	// Of one of several daemons; nil = it is alone.
	tenure *lease.Tenure
	queue  *webhook.Queue
}

func (o opening) open(ctx context.Context) (*office, error) {
	set, hub := o.set, o.fleet.Hub
	kept, err := openJournal(ctx, o.fleet)
	if err != nil {
		return nil, err
	}
	store, err := webhook.OpenStore(ctx, hub.JetStream(), hub.Replicas())
	if err != nil {
		return nil, err
	}
	opts := sync.Options{
		Settings: syncSettings(set, o.dir), DataDir: set.DataDir, Local: o.serve.As, Servers: hub, This: fleet.This, Refresh: hub.Refresh, Figures: hub.Figures,
		Logs: hub.Logs, Patience: time.Duration(set.Hub.Patience), Enrol: hub.Enrol,
		Journal: kept, Mend: func() error { return mend(o.fleet, kept) }, Log: o.log, Events: hub.Changed(),
	}
	var may, held func() bool
	if t := o.tenure; t != nil {
		held = t.Held
		may = func() bool { // a forge knows no terms: the cluster is asked, whatever this machine's clock says
			ctx, cancel := context.WithTimeout(context.Background(), confirmTimeout)
			defer cancel()
			return t.Confirm(ctx) == nil
		}
		opts.This, opts.Journal, opts.Memory = "", heldJournal{kept, held}, hub
		store = heldStore{store, held}
		if err := o.succeed(); err != nil {
			return nil, err
		}
	}
	desk, err := openDesk(set, may, o.log)
	if err != nil {
		return nil, err
	}
	opts.Reporter, opts.Surprises = sync.Reporters{sync.LogReporter(o.log), desk}, desk.Surprises
	daemon, err := sync.New(opts)
	if err != nil {
		return nil, err
	}
	daemon.HearPulls(desk.Take)
	hooks := webhook.New(webhook.Options{Target: daemon, Store: store, Queue: o.queue, Held: held, Log: o.log, Secrets: o.hooked})
	return &office{daemon: daemon, desk: desk, hooks: hooks, set: set}, nil
}

// confirmTimeout is how long the cluster may take to say that this daemon still leads.
const confirmTimeout = 3 * time.Second

// reload takes new settings over.
func (o *office) reload(s *settings.Settings, dir string, log *slog.Logger) {
	if err := o.daemon.Reload(syncSettings(s, dir)); err != nil {
		log.Error("settings not taken over", "err", err)
	}
	list, err := forges(s)
	if err := errors.Join(err, o.desk.Reload(pullSettings(s), list)); err != nil {
		log.Error("forges not taken over", "err", err)
	}
}

// run acts until ctx ends.
func (o *office) run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := o.daemon.Run(gctx); err != nil {
			return err
		}
		return context.Cause(gctx)
	})
	g.Go(func() error { return o.hooks.Run(gctx) })
	g.Go(func() error { return o.desk.Run(gctx, o.daemon) })
	g.Go(func() error { return keepSmall(gctx, o.daemon) })
	return g.Wait()
}

// succeed forgets what an earlier tenure knew of pull requests if somebody else led since: what was still to be said he
// has said, or this daemon will by what the forge shows, and which comments he took for commands is not known here.
func (o opening) succeed() error {
	path := filepath.Join(o.set.DataDir, "term")
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the last term: %w", err)
	}
	last, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if last+1 != o.tenure.Term() {
		if err := os.RemoveAll(filepath.Join(o.set.DataDir, "pulls")); err != nil {
			return fmt.Errorf("forget the pull requests of an earlier tenure: %w", err)
		}
	}
	return o.inTerm()
}

// inTerm notes the term, for succeed.
func (o opening) inTerm() error {
	path := filepath.Join(o.set.DataDir, "term")
	if err := os.WriteFile(path+".new", []byte(strconv.FormatUint(o.tenure.Term(), 10)+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the term: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("keep the term: %w", err)
	}
	return nil
}

var errNotHeld = errors.New("another daemon leads now")

// heldJournal takes entries while the lease is held only.
type heldJournal struct {
	*journal.Journal
	held func() bool
}

// Append adds an entry.
func (j heldJournal) Append(ctx context.Context, e apply.Entry) error {
	if !j.held() {
		return errNotHeld
	}
	return j.Journal.Append(ctx, e)
}

// heldStore takes records while the lease is held only.
type heldStore struct {
	webhook.Store
	held func() bool
}

// Append adds a record.
func (s heldStore) Append(ctx context.Context, record []byte) (uint64, error) {
	if !s.held() {
		return 0, errNotHeld
	}
	return s.Store.Append(ctx, record)
}

// Trim forgets records.
func (s heldStore) Trim(ctx context.Context, before uint64) error {
	if !s.held() {
		return errNotHeld
	}
	return s.Store.Trim(ctx, before)
}

// again is how long a leader that could not begin waits before it stands again, so that another one may lead.
const again = 2 * time.Second

// several runs one of several daemons: it leads while it holds the lease.
func (c *serveCommand) several(ctx context.Context, l *lease.Lease, s *seat, open func(*lease.Tenure) opening, led func(*office)) error {
	return l.Run(ctx, func(ctx context.Context, t *lease.Tenure) error {
		how := open(t)
		rest, err := how.fleet.Hub.Lead(t)
		if err != nil {
			return c.notBegun(ctx, how.log, err)
		}
		defer rest()
		o, err := how.open(ctx)
		if err != nil {
			return c.notBegun(ctx, how.log, err)
		}
		led(o)
		s.take(o.daemon)
		err = o.run(ctx)
		s.take(nil)
		led(nil)
		if t.Held() {
			err = errors.Join(err, how.inTerm())
		}
		return err
	})
}

// notBegun waits a while, so that another daemon may try.
func (c *serveCommand) notBegun(ctx context.Context, log *slog.Logger, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	log.ErrorContext(ctx, "this daemon was to lead and could not begin", "err", err)
	select {
	case <-ctx.Done():
	case <-time.After(again):
	}
	return nil
}

// daemonName is what people call this daemon.
func daemonName(set *settings.Settings) string { return cmp.Or(set.Hub.Name, hostName()) }

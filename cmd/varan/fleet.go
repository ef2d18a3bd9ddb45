package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	gosync "sync"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent"
	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/sync/settings"
)

// A localFleet is the hub, with an agent for this machine's engine that is reached as a remote one is.
type localFleet struct {
	Hub   *fleet.Hub
	Made  bool         // the fleet's key was made just now
	Lost  <-chan error // the agent or its link ended by itself
	Close func()
}

// openFleet starts an agent for one command: keys of its own, which nobody needs to keep, and no journal.
func openFleet(ctx context.Context, set *settings.Settings, log *slog.Logger) (*localFleet, error) {
	hub, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	own, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	return startFleet(ctx, set, log, fleet.Options{Key: hub}, own, "")
}

// serveFleet starts the agent inside a daemon: with the fleet's key, the agent's own, and the journal.
func serveFleet(ctx context.Context, set *settings.Settings, dir string, log *slog.Logger) (*localFleet, error) {
	if set.Hub.URL != "" {
		return joinFleet(set, dir, log)
	}
	key, made, err := fleet.LoadKey(set.Hub.KeyFile)
	if err != nil {
		return nil, err
	}
	own, err := link.LoadKey(filepath.Join(set.Agent.Root, agentKeyFile))
	if err != nil {
		return nil, err
	}
	f, err := startFleet(ctx, set, log, fleet.Options{
		Key: key, KeyFile: set.Hub.KeyFile, JournalDir: filepath.Join(set.DataDir, "journal"), Listen: set.Hub.Listen,
	}, own, filepath.Join(set.Agent.Root, termFile))
	if err != nil {
		return nil, err
	}
	f.Made = made
	return f, nil
}

// joinFleet meets the fleet's agents and its other daemons at a NATS cluster. No agent runs inside: which machine leads
// changes, and what is declared for one must not move to another.
func joinFleet(set *settings.Settings, dir string, log *slog.Logger) (*localFleet, error) {
	if _, err := os.Stat(set.Hub.KeyFile); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("[hub] key_file %s is not there: all daemons of a fleet have the same one. Copy it from another, or make the first with varan key --nats", set.Hub.KeyFile)
	}
	key, _, err := fleet.LoadKey(set.Hub.KeyFile)
	if err != nil {
		return nil, err
	}
	hub, err := fleet.Start(fleet.Options{Key: key, KeyFile: set.Hub.KeyFile, Name: set.Name, Log: log, Cluster: &fleet.Cluster{URL: set.Hub.URL, CAFile: below(dir, set.Hub.CAFile)}})
	if err != nil {
		return nil, err
	}
	return &localFleet{Hub: hub, Close: hub.Close}, nil
}

// Files of an agent's root that are its link's.
const (
	agentKeyFile = "agent.key"
	termFile     = "term"
)

// startFleet starts agent, message server and the link between them, in this order; Close ends them in reverse.
func startFleet(ctx context.Context, set *settings.Settings, log *slog.Logger, opts fleet.Options, own nkeys.KeyPair, term string) (*localFleet, error) {
	root, err := agent.HostRoot(ctx, set.Agent.Root, "")
	if err != nil {
		return nil, err
	}
	a, err := agent.New(agent.Options{Root: root, Fleet: set.Name, Version: buildVersion(), Log: log})
	if err != nil {
		return nil, err
	}
	opts.Name, opts.Log = set.Name, log
	if opts.Own, err = own.PublicKey(); err != nil {
		return nil, errors.Join(fmt.Errorf("read the agent's key: %w", err), a.Close())
	}
	hub, err := fleet.Start(opts)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	conn, err := link.Connect("", own, hub.InProcess())
	if err != nil {
		hub.Close()
		return nil, errors.Join(err, a.Close())
	}
	base := context.WithoutCancel(ctx) // a command's end lets ops in flight end first: Close does that
	agentCtx, stopAgent := context.WithCancel(base)
	linkCtx, stopLink := context.WithCancel(base)
	progress := a.Progress()
	lost := make(chan error, 2)
	var wg, linked gosync.WaitGroup
	wg.Go(func() {
		if err := a.Run(agentCtx); err != nil && agentCtx.Err() == nil {
			lost <- fmt.Errorf("agent: %w", err)
		}
	})
	linked.Go(func() {
		err := link.Serve(linkCtx, conn, link.Options{Handler: a, Key: own, FleetKey: hub.FleetKey(), TermFile: term,
			Name: "local", Progress: progress.C, Changed: a.Changed(), Figures: a.Figures, Logs: a.Logs, Log: log})
		if err != nil && linkCtx.Err() == nil {
			lost <- fmt.Errorf("agent's link: %w", err)
		}
	})
	local := &localFleet{Hub: hub, Lost: lost, Close: gosync.OnceFunc(func() {
		stopLink()
		linked.Wait()
		conn.Close()
		progress.Close()
		stopAgent()
		wg.Wait()
		if err := a.Close(); err != nil {
			log.Warn("agent not closed well", "err", err)
		}
		hub.Close()
	})}
	if err := local.connected(ctx, lost); err != nil {
		local.Close()
		return nil, err
	}
	return local, nil
}

// connectTimeout bounds how long this process's own agent may take to be there.
const connectTimeout = 20 * time.Second

// connected waits until the agent answers, so that the first look at this machine is not that nobody is there.
func (l *localFleet) connected(ctx context.Context, lost <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		err := l.Hub.Present(ctx, fleet.This)
		if err == nil {
			return nil
		}
		select {
		case err := <-lost:
			return err
		case <-ctx.Done():
			return fmt.Errorf("reach this machine's own agent: %w", err)
		case <-again.C:
		}
	}
}

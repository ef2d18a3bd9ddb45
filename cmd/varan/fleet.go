package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	gosync "sync"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent"
	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/sync/settings"
)

// A localFleet is this machine's engine with an agent on it, reached over NATS as a remote one is.
type localFleet struct {
	Fleet   apply.Fleet
	Hub     *fleet.Hub
	Changed <-chan string
	Made    bool         // the fleet's key was made just now
	Lost    <-chan error // the agent or its link ended by itself
	Close   func()
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
func serveFleet(ctx context.Context, set *settings.Settings, log *slog.Logger) (*localFleet, error) {
	key, made, err := fleet.LoadKey(set.Hub.KeyFile)
	if err != nil {
		return nil, err
	}
	own, err := link.LoadKey(filepath.Join(set.Agent.Root, "agent.key"))
	if err != nil {
		return nil, err
	}
	f, err := startFleet(ctx, set, log, fleet.Options{Key: key, JournalDir: filepath.Join(set.DataDir, "journal")}, own,
		filepath.Join(set.Agent.Root, "term"))
	if err != nil {
		return nil, err
	}
	f.Made = made
	return f, nil
}

// startFleet starts agent, message server and the link between them, in this order; Close ends them in reverse.
func startFleet(ctx context.Context, set *settings.Settings, log *slog.Logger, opts fleet.Options, own nkeys.KeyPair, term string) (*localFleet, error) {
	a, err := agent.New(agent.Options{Root: set.Agent.Root, Fleet: set.Name, Log: log})
	if err != nil {
		return nil, err
	}
	opts.Name, opts.Log = set.Name, log
	hub, err := fleet.Start(opts)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	public, err := own.PublicKey()
	if err != nil {
		hub.Close()
		return nil, errors.Join(fmt.Errorf("read the agent's key: %w", err), a.Close())
	}
	l := &localServer{hub: hub, key: public}
	if err := l.enrol("local"); err != nil {
		hub.Close()
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
			Name: "local", Progress: progress.C, Changed: a.Changed(), Log: log})
		if err != nil && linkCtx.Err() == nil {
			lost <- fmt.Errorf("agent's link: %w", err)
		}
	})
	local := &localFleet{Fleet: l, Hub: hub, Changed: hub.Changed(), Lost: lost, Close: gosync.OnceFunc(func() {
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
		err := l.Hub.Present(ctx, "local")
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

// localServer enrols this process's agent under the name that the config gives this machine, which is known only
// once a commit was read: sync asks for no other server in this version.
type localServer struct {
	hub *fleet.Hub
	key string

	mu   gosync.Mutex // guards name
	name string
}

func (l *localServer) enrol(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.name == name {
		return nil
	}
	if err := l.hub.Enrol(map[string]string{name: l.key}); err != nil {
		return err
	}
	l.name = name
	return nil
}

// Observe asks this machine's agent.
func (l *localServer) Observe(ctx context.Context, name string, queries []protocol.Query) (plan.ServerState, error) {
	if err := l.enrol(name); err != nil {
		return plan.ServerState{}, err
	}
	return l.hub.Observe(ctx, name, queries)
}

// Do gives this machine's agent an op.
func (l *localServer) Do(ctx context.Context, op protocol.Op, progress func(protocol.Progress)) (protocol.Outcome, error) {
	if err := l.enrol(op.Server); err != nil {
		return protocol.Outcome{}, err
	}
	return l.hub.Do(ctx, op, progress)
}

package fleet_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/apply/fleettest"
)

func newKey(t *testing.T) (nkeys.KeyPair, string) {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key, public
}

func newHub(t *testing.T, opts fleet.Options) *fleet.Hub {
	t.Helper()
	if opts.Key == nil {
		opts.Key, _ = newKey(t)
	}
	opts.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	hub, err := fleet.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Close)
	return hub
}

// serve connects an agent and answers with it until the function it returns is called, or the test ends.
func serve(t *testing.T, hub *fleet.Hub, opts link.Options) (conn *nats.Conn, stop func()) {
	t.Helper()
	conn, err := link.Connect("", opts.Key, hub.InProcess())
	if err != nil {
		t.Fatal(err)
	}
	if opts.FleetKey == "" {
		opts.FleetKey = hub.FleetKey()
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- link.Serve(ctx, conn, opts) }()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-over; err != nil {
			t.Errorf("Serve: %v", err)
		}
		conn.Close()
	}
	t.Cleanup(stop)
	<-hub.Changed() // it is here
	return conn, stop
}

func TestConformance(t *testing.T) {
	fleettest.Run(t, func(t *testing.T, agents map[string]*fleettest.Agent) apply.Fleet {
		hub := newHub(t, fleet.Options{})
		enrol := make(map[string]string)
		keys := make(map[string]nkeys.KeyPair)
		for name := range agents {
			keys[name], enrol[name] = newKey(t)
		}
		if err := hub.Enrol(enrol); err != nil {
			t.Fatal(err)
		}
		for name, a := range agents {
			serve(t, hub, link.Options{
				Handler: a, Key: keys[name], Name: name, Progress: a.Progress,
				TermFile: filepath.Join(t.TempDir(), "term"),
			})
		}
		return hub
	})
}

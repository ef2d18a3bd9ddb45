package apply_test

import (
	"context"
	"testing"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleettest"
)

func TestMemoryFleet(t *testing.T) {
	fleettest.Run(t, func(t *testing.T, agents map[string]*fleettest.Agent) apply.Fleet {
		m := fleettest.NewMemory(agents)
		ctx, cancel := context.WithCancel(context.Background())
		over := make(chan struct{})
		go func() { defer close(over); m.Serve(ctx) }()
		t.Cleanup(func() { cancel(); <-over })
		return m
	})
}

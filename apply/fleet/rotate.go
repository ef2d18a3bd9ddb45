package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/varanhq/varan/agent/protocol/wire"
)

// A Rotation is how far the change of the fleet's key has come.
type Rotation struct {
	Present string `json:"present"`
	Next    string `json:"next,omitempty"` // "" = no change is under way
	// Confirmed and Missing are servers whose agents know the next key, or do not yet.
	Confirmed []string `json:"confirmed,omitempty"`
	Missing   []string `json:"missing,omitempty"`
}

// nextFile is where the next key waits until all agents know it.
func (h *Hub) nextFile() string { return h.opts.KeyFile + ".next" }

// rekeyTimeout bounds how long one agent may take to confirm.
const rekeyTimeout = 10 * time.Second

// resumeRotation takes up a change of the key that an earlier daemon left.
func (h *Hub) resumeRotation() error {
	if h.opts.KeyFile == "" {
		return nil
	}
	if _, err := os.Stat(h.nextFile()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	key, _, err := wire.LoadKey(h.nextFile())
	if err != nil {
		return err
	}
	public, err := key.PublicKey()
	if err != nil {
		return fmt.Errorf("read next key: %w", err)
	}
	h.mu.Lock()
	h.coming, h.comingKey, h.confirmed = key, public, make(map[string]bool)
	h.mu.Unlock()
	return nil
}

// Rotate changes the fleet's key. The next key is made and kept beside the present one, and every agent is told it
// under the present one. Once all enrolled agents have confirmed, it is the fleet's key; until then Rotate may be
// called again, and agents that come back are told by themselves. Finish makes it so although some are missing: these
// obey nothing until they are started with the next key.
func (h *Hub) Rotate(ctx context.Context, finish bool) (Rotation, error) {
	if h.opts.Cluster != nil {
		return Rotation{}, errors.New("change the fleet's key: not while daemons meet at a cluster, whose configuration names keys that derive from it (docs/high-availability.md says how)")
	}
	if h.opts.KeyFile == "" {
		return Rotation{}, errors.New("change the fleet's key: it was not read from a file")
	}
	h.rotating.Lock()
	defer h.rotating.Unlock()
	if h.Rotation().Next == "" {
		if finish {
			return h.Rotation(), errors.New("no change of the fleet's key is under way")
		}
		if _, _, err := wire.LoadKey(h.nextFile()); err != nil {
			return Rotation{}, err
		}
		if err := h.resumeRotation(); err != nil {
			return Rotation{}, err
		}
	}
	return h.advance(ctx, finish)
}

// advance tells the next key to who does not know it, and makes it the fleet's when all do. Rotating is held.
func (h *Hub) advance(ctx context.Context, finish bool) (Rotation, error) {
	var wait sync.WaitGroup
	for _, name := range h.Rotation().Missing {
		wait.Go(func() { h.tellNext(ctx, name) })
	}
	if h.opts.Own != "" {
		wait.Go(func() { h.tellNext(ctx, This) })
	}
	wait.Wait()
	r := h.Rotation()
	if len(r.Missing) > 0 && !finish {
		return r, nil
	}
	if err := h.turn(); err != nil {
		return r, err
	}
	return h.Rotation(), nil
}

// tellNext tells one agent the next key, and notes that it knows it.
func (h *Hub) tellNext(ctx context.Context, server string) {
	h.mu.Lock()
	key, next := h.keys[server], h.comingKey
	h.mu.Unlock()
	if key == "" || next == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, rekeyTimeout)
	defer cancel()
	var done wire.Rekeyed
	err := h.call(ctx, key, wire.Rekey, "", func(uint64) any { return wire.Rekeying{Next: next} }, &done)
	if err == nil && done.Next != next {
		err = errors.New(done.Error)
	}
	if err != nil {
		h.log.Debug("agent not told the next key", "server", server, "err", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.comingKey == next {
		h.confirmed[key] = true
	}
}

// Rotation tells how far a change of the key has come.
func (h *Hub) Rotation() Rotation {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := Rotation{Present: h.fleetKey, Next: h.comingKey}
	if h.coming == nil {
		return r
	}
	for key, server := range h.enrolled {
		switch {
		case h.revoked[key]:
		case h.confirmed[key]:
			r.Confirmed = append(r.Confirmed, server)
		default:
			r.Missing = append(r.Missing, server)
		}
	}
	slices.Sort(r.Confirmed)
	slices.Sort(r.Missing)
	return r
}

// turn makes the next key the fleet's. The rename is the moment: whoever starts after it has the next key.
func (h *Hub) turn() error {
	if err := os.Rename(h.nextFile(), h.opts.KeyFile); err != nil {
		return fmt.Errorf("change the fleet's key: %w", err)
	}
	if dir, err := os.Open(filepath.Dir(h.opts.KeyFile)); err == nil {
		_ = dir.Sync()
		dir.Close()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.endpoint.Rekey(h.coming); err != nil {
		return err
	}
	h.opts.Key, h.fleetKey = h.coming, h.comingKey
	h.coming, h.comingKey, h.confirmed = nil, "", nil
	h.log.Info("the fleet has a new key: back its file up", "fleet_key", h.fleetKey, "file", h.opts.KeyFile)
	return nil
}

// back carries a change of the key on when an agent has come back.
func (h *Hub) back(server string) {
	h.mu.Lock()
	under := h.coming != nil && !h.confirmed[h.keys[server]]
	h.mu.Unlock()
	if !under {
		return
	}
	h.work.Go(func() {
		h.rotating.Lock()
		defer h.rotating.Unlock()
		if h.Rotation().Next == "" {
			return
		}
		if _, err := h.advance(h.ctx, false); err != nil {
			h.log.Error("the fleet's key is not changed", "err", err)
		}
	})
}

// isFleet reports whether key is the fleet's.
func (h *Hub) isFleet(key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return key == h.fleetKey
}

package sync

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

const (
	houseFirst = 10 * time.Minute // after the start, when what had to be put right is
	houseAgain = time.Hour        // a server that was away, or at work, has its turn then
)

// keepHouse has each server prune its images once a day. An op's id holds the day, so that an agent that has done it
// today does it no second time, whichever daemon asks.
func (d *Daemon) keepHouse(ctx context.Context) error {
	next := time.NewTimer(houseFirst)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			next.Reset(houseAgain)
			d.pruneImages(ctx, time.Now().UTC().Format(time.DateOnly))
		}
	}
}

// pruneImages asks every server that is there and wants it.
func (d *Daemon) pruneImages(ctx context.Context, day string) {
	if d.isPaused() {
		return
	}
	s := d.root.syncer
	s.mu.Lock()
	var state *plan.State
	var config *schema.Config
	local := ""
	if s.state != nil && s.lastRead != nil {
		state, config, local = s.state, s.lastRead.config, s.lastRead.desired.Local
	}
	s.mu.Unlock()
	if state == nil {
		return
	}
	fleet := s.fleetOf(local)
	var g errgroup.Group
	g.SetLimit(16)
	for _, name := range sortedKeys(state.Servers) {
		c := serverConfig(config, name)
		if state.Servers[name].Unreachable != "" || !c.Enabled || c.AutoPrune == schema.PruneNothing || config.Get(schema.NewID(schema.KindServer, name)) == nil {
			continue
		}
		id := schema.NewID(schema.KindServer, name)
		prune := func(ctx context.Context, attempt string) (protocol.Outcome, error) {
			return fleet.Do(ctx, protocol.Op{
				ID: apply.OpIDOf(d.root.name, id, "", protocol.Prune, attempt), Verb: protocol.Prune, Resource: id, Server: name,
				Fleet: d.root.fleet(), Sync: d.root.name, All: c.AutoPrune == schema.PruneAll,
			}, nil)
		}
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
			defer cancel()
			out, err := prune(ctx, day)
			if err == nil && out.Status != protocol.Done { // it had other things to do, now or an hour ago
				out, err = prune(ctx, day+time.Now().UTC().Format("T15"))
			}
			if err != nil || out.Status != protocol.Done {
				d.opts.Log.DebugContext(ctx, "images not pruned now", "server", name, "err", err, "why", out.Error)
			}
			return nil
		})
	}
	_ = g.Wait()
}

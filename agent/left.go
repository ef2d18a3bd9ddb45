package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	docker "github.com/docker/docker/api/types/container"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// leave notes what a change did not get rid of, and says so in its outcome. A service that was to go and is not gone
// makes it a failure; what was replaced is only in the way.
func (r *record) leave(list []container.Left, out *protocol.Outcome) {
	for _, l := range list {
		r.Left = append(slices.DeleteFunc(r.Left, func(o container.Old) bool { return o.ID == l.ID }), l.Old)
		toGo := r.Doing.Intent != nil && slices.ContainsFunc(r.Doing.Intent.Services, func(s container.Service) bool {
			return s.Name == l.Service && s.Action == plan.Remove
		})
		text := "what ran before is stopped and stays for now, varan tries again: " + l.Why
		if toGo {
			out.Status = protocol.Failed
			text = "service " + l.Service + " is stopped but not removed: " + l.Why
		}
		out.Error = strings.TrimPrefix(out.Error+"; "+text, "; ")
	}
}

// clearLeft tries again to remove what changes have left, and reports whether the record is another now. What somebody
// has started meanwhile is wanted: it is no longer ours to remove.
func (a *Agent) clearLeft(ctx context.Context, rec *record) bool {
	n := len(rec.Left)
	rec.Left = slices.DeleteFunc(rec.Left, func(o container.Old) bool {
		if i, err := a.api.ContainerInspect(ctx, o.ID); err == nil && i.State.Running {
			a.log.Warn("what ran before was started by somebody, and stays", "resource", rec.Resource, "container", i.Name)
			return true
		}
		err := a.engine.Discard(ctx, o.ID, false)
		if err != nil {
			a.log.Warn("remove what ran before", "resource", rec.Resource, "container", o.Name, "err", err)
		}
		return err == nil
	})
	return len(rec.Left) != n
}

// tidyEvery is how often the agent looks for what changes have left.
const tidyEvery = 10 * time.Minute

// tidyUp looks at the start and now and then for what changes have left on the engine, and removes it.
func (a *Agent) tidyUp(ctx context.Context) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	var half map[string]schema.ID
	for {
		half = a.tidy(ctx, half)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tidy removes what could not be removed before: containers that were replaced, and files of a resource that is gone.
// And it removes half-made containers, already seen at the last look, of a resource that came to nothing: a killed
// process had made them, and nobody has asked for the resource since. It gives those it sees now.
func (a *Agent) tidy(ctx context.Context, before map[string]schema.ID) map[string]schema.ID {
	var left []schema.ID
	a.ledger.all(func(r *record) {
		if len(r.Left) > 0 || r.Entry == nil && r.Doing == nil && r.Base != "" {
			left = append(left, r.Resource)
		}
	})
	for _, id := range left {
		a.alone(ctx, id, func(rec *record) {
			changed := a.clearLeft(ctx, rec)
			if rec.Entry == nil && rec.Doing == nil && rec.Base != "" { // its files outlived its removal
				_, err := a.unlay(rec)
				if err != nil {
					a.log.Warn("remove the files of a resource that is gone", "resource", id, "err", err)
				}
				changed = changed || err == nil
			}
			if !changed {
				return
			}
			if err := a.ledger.put(rec); err != nil {
				a.log.Warn("write ledger", "resource", id, "err", err)
			}
		})
	}
	now := a.halfMade(ctx)
	for c, id := range now {
		if before[c] != id {
			continue
		}
		a.alone(ctx, id, func(rec *record) {
			i, err := a.api.ContainerInspect(ctx, c)
			if err != nil || i.State.Status != docker.StateCreated || rec.Entry != nil || rec.Doing != nil {
				return // on_failure = "keep" keeps such containers, in an entry
			}
			err = a.engine.Discard(ctx, c, true)
			if p := i.Config.Labels["com.docker.compose.project"]; p != "" && err == nil {
				err = a.engine.RemoveNetworks(ctx, p)
			}
			if err != nil {
				a.log.Warn("remove a half-made container", "resource", id, "err", err)
			}
		})
	}
	return now
}

// alone calls f with a resource's record while no op works on it.
func (a *Agent) alone(ctx context.Context, id schema.ID, f func(*record)) {
	release, err := a.hold(ctx, id)
	if err != nil {
		return
	}
	defer release()
	f(a.ledger.get(id))
}

// halfMade are the containers of this fleet that were made and never started, by id.
func (a *Agent) halfMade(ctx context.Context) map[string]schema.ID {
	list, err := a.api.ContainerList(ctx, docker.ListOptions{All: true})
	if err != nil {
		return nil
	}
	out := map[string]schema.ID{}
	for _, c := range list {
		if id := c.Labels[container.LabelResource]; id != "" && c.Labels[container.LabelFleet] == a.opts.Fleet && c.State == docker.StateCreated && !a.marks.released(c.ID) {
			out[c.ID] = schema.ID(id)
		}
	}
	return out
}

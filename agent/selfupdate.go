package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/update"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// drainTime is how long an update waits for the ops under way: longer than their gates as a rule take.
const drainTime = 15 * time.Minute

// platform is what this program was built for.
const platform = runtime.GOOS + "-" + runtime.GOARCH

// program tells which program the agent is.
func (a *Agent) program() *plan.AgentState {
	s := &plan.AgentState{Version: a.opts.Version, Platform: platform, Fixed: a.fixed()}
	if s.Fixed != "" {
		return s
	}
	var err error
	if s.SHA256, err = a.ownSum(); err != nil {
		s.Fixed = fmt.Sprintf("its own binary cannot be read: %v", err)
	}
	return s
}

// fixed says why the agent cannot become another program over the hub, "" if it can.
func (a *Agent) fixed() string {
	switch {
	case a.opts.Update == nil:
		return "it is part of the varan that serves: update that by hand"
	case a.engine.Self != "":
		return "it runs in a container: run it from the image of that version"
	case !a.updates:
		return "agent.toml on its host forbids it: [allow] self_update"
	}
	return ""
}

// Leaving is closed when the agent is to be closed so that another binary may take its place: see [update.Self.Swap].
func (a *Agent) Leaving() <-chan struct{} { return a.leaving }

// Updated keeps how an update ended, so that whoever waits for it is told.
func (a *Agent) Updated(e *update.Ended) error {
	if err := a.holdBinary(e.Resource, e.Outcome); err != nil {
		return err
	}
	a.opts.Update.Told()
	ended := &task{op: protocol.Op{ID: e.Op, Resource: e.Resource}, done: make(chan struct{}), outcome: e.Outcome} // with its tail
	close(ended.done)
	a.mu.Lock()
	if a.tasks[e.Op] == nil {
		a.tasks[e.Op] = ended
	}
	a.mu.Unlock()
	a.poke()
	return nil
}

// holdBinary keeps an outcome, and holds the binary if it is to blame.
func (a *Agent) holdBinary(server schema.ID, out protocol.Outcome) error {
	rec := a.ledger.get(server)
	rec.Holds = slices.DeleteFunc(rec.Holds, func(h plan.Hold) bool { return h.Kind == plan.HoldFailed })
	if out.Held != "" {
		rec.Holds = append(rec.Holds, plan.Hold{Resource: server, Kind: plan.HoldFailed, Digest: out.Held, Reason: out.Error, Since: time.Now().UTC()})
	}
	if out.ID != "" {
		rec.remember(out)
	}
	return a.ledger.put(rec)
}

// carry takes a part of a binary. It is done when it returns, and done again if it is asked for again.
func (a *Agent) carry(op protocol.Op) protocol.Submit {
	out := protocol.Outcome{Version: protocol.Version, ID: op.ID, Status: protocol.Done}
	if err := a.mayUpdate(op); err != nil {
		out.Status, out.Error = protocol.Refused, err.Error()
	} else if own, err := a.ownSum(); err != nil || own != op.Payload.Agent.SHA256 {
		if err := a.opts.Update.Carry(op.Payload.Agent); err != nil {
			out.Status, out.Error = protocol.Failed, err.Error()
		}
	}
	return protocol.Submit{Version: protocol.Version, State: "done", Outcome: &out}
}

func (a *Agent) mayUpdate(op protocol.Op) error {
	if why := a.fixed(); why != "" {
		return errors.New("the agent is not updated: " + why)
	}
	if op.Payload == nil || op.Payload.Agent == nil {
		return errors.New("the op names no binary")
	}
	if b := op.Payload.Agent; b.Platform != platform {
		return fmt.Errorf("the binary is for %s, and this is %s", b.Platform, platform)
	}
	return nil
}

// update has the agent left for the binary that was brought. What it does not refuse ends in another process: the op
// is answered there.
func (a *Agent) update(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	if err := a.mayUpdate(op); err != nil {
		return protocol.Outcome{Status: protocol.Refused, Error: err.Error()}, nil
	}
	b := op.Payload.Agent
	if own, err := a.ownSum(); err == nil && own == b.SHA256 {
		return protocol.Outcome{Status: protocol.Done}, nil // an update of an earlier run, or by hand
	}
	say := a.say(op)
	say("", "checking", b.Version)
	path, err := a.opts.Update.Stage(ctx, b)
	var unfit *update.UnfitError
	if errors.As(err, &unfit) && ctx.Err() == nil {
		out := protocol.Outcome{Status: protocol.Failed, Error: err.Error(), Held: op.Digest}
		return out, a.holdBinary(op.Resource, out)
	}
	if err != nil {
		return protocol.Outcome{}, err
	}
	if err := a.drain(ctx, op, say); err != nil {
		return protocol.Outcome{}, err
	}
	say("", "trying", b.Version)
	if err := a.opts.Update.Intend(op, path); err != nil {
		a.resumeWork()
		return protocol.Outcome{}, fmt.Errorf("%w: %w", errLedger, err)
	}
	close(a.leaving)
	<-ctx.Done()
	return protocol.Outcome{}, errInterrupted
}

// drain begins no further op and waits until those under way have ended. What waits to begin is asked for again by the
// daemon, of the agent that comes.
func (a *Agent) drain(ctx context.Context, op protocol.Op, say func(service, phase, detail string)) error {
	a.mu.Lock()
	a.draining = true
	var open []*task
	for _, t := range a.tasks {
		if t.op.ID != op.ID && !slices.Contains(a.queue, t) {
			open = append(open, t)
		}
	}
	a.mu.Unlock()
	limit := time.NewTimer(drainTime)
	defer limit.Stop()
	for i, t := range open {
		say("", "waiting", fmt.Sprintf("for %d ops under way", len(open)-i))
		select {
		case <-t.done:
		case <-ctx.Done():
			return errInterrupted
		case <-limit.C:
			a.resumeWork()
			return fmt.Errorf("%d ops are still under way after %s; the update is tried again", len(open)-i, drainTime)
		}
	}
	return nil
}

// resumeWork ends draining.
func (a *Agent) resumeWork() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.draining = false
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

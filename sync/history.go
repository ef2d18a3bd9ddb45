package sync

import (
	"context"
	"fmt"
	"slices"
	gosync "sync"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
)

// A History is a Journal that can be read: what apply/journal is.
type History interface {
	apply.Journal
	Runs(ctx context.Context, n int) ([]apply.Record, error)
	Run(ctx context.Context, id string) (*apply.Record, error)
	Unfinished(ctx context.Context) ([]*apply.Record, error)
}

// recent is the History of a daemon without a journal: the last runs, in memory.
type recent struct {
	mu   gosync.Mutex // guards runs
	runs []*apply.Record
}

const recentRuns = 50

func (h *recent) Append(_ context.Context, e apply.Entry) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.runs, func(r *apply.Record) bool { return r.ID == e.Run })
	if i < 0 {
		h.runs = append(h.runs, &apply.Record{})
		i = len(h.runs) - 1
	}
	h.runs[i].Add(e)
	if len(h.runs) > recentRuns {
		h.runs = slices.Delete(h.runs, 0, 1)
	}
	return nil
}

func (h *recent) Runs(_ context.Context, n int) ([]apply.Record, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []apply.Record
	for _, r := range slices.Backward(h.runs) {
		if n > 0 && len(out) == n {
			break
		}
		out = append(out, *r)
	}
	return out, nil
}

func (h *recent) Run(_ context.Context, id string) (*apply.Record, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.runs {
		if r.ID == id {
			c := *r
			return &c, nil
		}
	}
	return nil, fmt.Errorf("run %s: %w", id, ErrUnknown)
}

func (h *recent) Unfinished(context.Context) ([]*apply.Record, error) { return nil, nil }

// infoOf is a record in short.
func infoOf(r *apply.Record) RunInfo {
	i := RunInfo{ID: r.ID, Sync: r.Head.Sync, Commit: r.Head.Commit, Trigger: r.Head.Trigger, Actor: r.Head.Actor,
		Started: r.Started, Ended: r.Ended, Status: string(r.Status), Error: r.Error}
	if r.Plan != nil {
		i.Summary = r.Plan.Summary
	}
	return i
}

// runOf is a record in full, its steps in the plan's order.
func runOf(r *apply.Record) *Run {
	out := &Run{RunInfo: infoOf(r), Plan: r.Plan, Steps: []RunStep{}}
	if r.Plan == nil {
		return out
	}
	for i := range r.Plan.Steps {
		ps := &r.Plan.Steps[i]
		st := r.Steps[ps.Resource]
		if st == nil {
			if !ps.Action.Changes() && ps.Action != plan.Adopt {
				continue
			}
			out.Steps = append(out.Steps, RunStep{Resource: ps.Resource, Server: ps.Server, Action: string(ps.Action), Status: string(r.Status)})
			continue
		}
		msg := st.Error
		if msg == "" {
			msg = st.Why
		}
		out.Steps = append(out.Steps, RunStep{Resource: st.Resource, Server: st.Server, Action: string(st.Action),
			Status: string(st.Status), Error: msg, Hint: st.Hint, Tail: st.Tail, Millis: st.PrepareMillis + st.Millis,
			Held: st.Held, Retry: st.Retry})
	}
	return out
}

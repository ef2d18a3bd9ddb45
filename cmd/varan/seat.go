package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	gosync "sync"
	"time"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/lease"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/httpd"
	"github.com/varanhq/varan/sync/webhook"
)

var (
	_ httpd.Daemon   = (*seat)(nil)
	_ webhook.Target = (*seat)(nil)
)

// A seat is what the HTTP surface asks: the daemon that acts while this process leads, and else nobody, with the word
// who does.
type seat struct {
	fleet string
	began time.Time
	lead  func() lease.Status // nil = nobody else can lead

	mu      gosync.Mutex // guards below
	daemon  *sync.Daemon // nil = this process follows
	changed chan struct{}
}

func newSeat(fleet string, lead func() lease.Status) *seat {
	return &seat{fleet: fleet, began: time.Now().UTC(), lead: lead, changed: make(chan struct{})}
}

// take seats a daemon; nil leaves the seat.
func (s *seat) take(d *sync.Daemon) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.daemon = d
	close(s.changed)
	s.changed = make(chan struct{})
}

// now is who sits here, and what is closed when that changes.
func (s *seat) now() (*sync.Daemon, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.daemon, s.changed
}

// acts is the daemon, or the error that says where the one is that leads.
func (s *seat) acts() (*sync.Daemon, error) {
	d, _ := s.now()
	if d == nil {
		return nil, fmt.Errorf("%w: %s", httpd.ErrFollows, s.whoLeads())
	}
	return d, nil
}

// whoLeads says it in words.
func (s *seat) whoLeads() string {
	st := s.lead()
	switch {
	case st.Leading:
		return "this one has only just taken the lead; ask again"
	case st.Leader == "" && st.Trouble != "":
		return "nobody is known to lead: " + st.Trouble
	case st.Leader == "":
		return "nobody leads yet"
	case st.URL != "":
		return fmt.Sprintf("%s leads, ask it at %s", st.Leader, st.URL)
	}
	return st.Leader + " leads, ask there"
}

// Status tells how everything stands; of a follower, who leads.
func (s *seat) Status() sync.Status {
	if d, _ := s.now(); d != nil {
		return d.Status()
	}
	return sync.Status{Fleet: s.fleet, Started: s.began, Problem: "this daemon follows: " + s.whoLeads(), Syncs: []sync.SyncStatus{}, Servers: []sync.ServerStatus{},
		Resources: []sync.ResourceStatus{}, Holds: []plan.Hold{}, Running: []sync.RunInfo{}}
}

// Runs lists the newest runs.
func (s *seat) Runs(ctx context.Context, limit int) ([]sync.RunInfo, error) {
	d, err := s.acts()
	if err != nil {
		return nil, err
	}
	return d.Runs(ctx, limit)
}

// RunByID tells all of one run.
func (s *seat) RunByID(ctx context.Context, id string) (*sync.Run, error) {
	d, err := s.acts()
	if err != nil {
		return nil, err
	}
	return d.RunByID(ctx, id)
}

// Plan plans.
func (s *seat) Plan(ctx context.Context, req sync.PlanRequest) (*plan.Plan, error) {
	d, err := s.acts()
	if err != nil {
		return nil, err
	}
	return d.Plan(ctx, req)
}

// Apply plans and applies.
func (s *seat) Apply(ctx context.Context, req sync.ApplyRequest, events func(apply.Event)) (*plan.Plan, *apply.Result, error) {
	d, err := s.acts()
	if err != nil {
		return nil, nil, err
	}
	return d.Apply(ctx, req, events)
}

// Events calls fn with what happens until ctx ends, whoever sits here meanwhile.
func (s *seat) Events(ctx context.Context, fn func(apply.Event)) error {
	for ctx.Err() == nil {
		d, changed := s.now()
		if d != nil {
			if err := d.Events(ctx, fn); err != nil {
				return err
			}
			if s.lead == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return nil
}

// Hold keeps varan's hands off something.
func (s *seat) Hold(ctx context.Context, req sync.HoldRequest) error {
	return s.do(func(d *sync.Daemon) error { return d.Hold(ctx, req) })
}

// Pause stops new runs.
func (s *seat) Pause(ctx context.Context, req sync.PauseRequest) error {
	return s.do(func(d *sync.Daemon) error { return d.Pause(ctx, req) })
}

// Cancel ends a run.
func (s *seat) Cancel(ctx context.Context, run string) error {
	return s.do(func(d *sync.Daemon) error { return d.Cancel(ctx, run) })
}

// Approve answers what a plan asks.
func (s *seat) Approve(ctx context.Context, digest, actor string) error {
	return s.do(func(d *sync.Daemon) error { return d.Approve(ctx, digest, actor) })
}

// Sync polls.
func (s *seat) Sync(ctx context.Context, name string) error {
	return s.do(func(d *sync.Daemon) error { return d.Sync(ctx, name) })
}

// Logs shows what containers print.
func (s *seat) Logs(ctx context.Context, req sync.LogsRequest, w io.Writer) error {
	return s.do(func(d *sync.Daemon) error { return d.Logs(ctx, req, w) })
}

func (s *seat) do(f func(*sync.Daemon) error) error {
	d, err := s.acts()
	if err != nil {
		return err
	}
	return f(d)
}

// Remove removes one resource.
func (s *seat) Remove(ctx context.Context, id schema.ID, actor string, events func(apply.Event)) (*apply.Result, error) {
	d, err := s.acts()
	if err != nil {
		return nil, err
	}
	return d.Remove(ctx, id, actor, events)
}

// RunNow runs one resource.
func (s *seat) RunNow(ctx context.Context, id schema.ID, actor string, events func(apply.Event)) (*apply.Result, error) {
	d, err := s.acts()
	if err != nil {
		return nil, err
	}
	return d.RunNow(ctx, id, actor, events)
}

// Concerns says whether anybody is to look at a hint; a follower keeps them all for who leads.
func (s *seat) Concerns(h *webhook.Hint) (look bool, why string) {
	if d, _ := s.now(); d != nil {
		return d.Concerns(h)
	}
	return true, "kept for the daemon that leads"
}

// Take is not called: what a follower keeps the leader takes out of the queue.
func (s *seat) Take(_ *webhook.Hint, ended func(error)) {
	ended(errors.New("a follower brings nothing"))
}

// Resource finds what one of Komodo's URLs names; a follower has read nothing.
func (s *seat) Resource(id schema.ID) (r *webhook.Resource, ready bool) {
	if d, _ := s.now(); d != nil {
		return d.Resource(id)
	}
	return nil, false
}

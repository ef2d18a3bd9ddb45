package lease

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// A Record is what candidates share.
type Record struct {
	Format int    `json:"format"`
	Fleet  string `json:"fleet"`
	Holder string `json:"holder,omitempty"` // of one process, random; "" = given back
	Name   string `json:"name,omitempty"`   // what people call the holder
	URL    string `json:"url,omitempty"`    // where people reach it
	Term   uint64 `json:"term"`             // never falls
	Beat   uint64 `json:"beat"`             // counts the holder's renewals
}

const format = 1

// A Store keeps one record. Its methods may be called side by side.
type Store interface {
	// Get returns the record and its revision, 0 if there is none. It may be late: Put is what decides.
	Get(ctx context.Context) (Record, uint64, error)
	// Put replaces the record if it still is the one of that revision (0: if there is none), and returns the new one's;
	// [ErrMoved] if it is not. After any other error it may have been replaced or not.
	Put(ctx context.Context, r Record, revision uint64) (uint64, error)
}

// Errors that callers tell apart.
var (
	ErrMoved = errors.New("the lease's record was changed by somebody else")
	// ErrLost ends the context of who led.
	ErrLost = errors.New("the lease is lost")
)

// Options of New. Zero fields take the defaults named.
type Options struct {
	Store Store
	Fleet string
	Name  string // what people call this process
	URL   string // where they reach it
	// Time is how long the record must stand unchanged before somebody else takes it: 6 s. Its holder stops a sixth of it
	// earlier, which is what clocks may differ in how fast they run.
	Time time.Duration
	Log  *slog.Logger // nil = discarded
}

// A Lease is one candidate.
type Lease struct {
	opts   Options
	log    *slog.Logger
	holder string

	mu      sync.Mutex // guards below
	seen    Record     // the newest record seen
	fresh   time.Time  // when it was first seen, or renewed by us
	now     *Tenure    // nil = this process does not lead
	reading string     // why the record cannot be read, "" = it can
	writing string     // why it could not be written last, "" = it was, by us or somebody else
	highest uint64     // the highest term seen: it counts if the record is lost
	// erased is when the record vanished while this process held it, so that nobody else did; zero = it did not.
	erased time.Time
}

// New makes a candidate.
func New(opts Options) *Lease {
	opts.Time = cmp.Or(opts.Time, 6*time.Second)
	return &Lease{opts: opts, log: cmp.Or(opts.Log, slog.New(slog.DiscardHandler)), holder: rand.Text()}
}

// valid is how long a renewal lets its holder act, every how often it renews, poll how often others look.
func (l *Lease) valid() time.Duration { return l.opts.Time * 5 / 6 }
func (l *Lease) every() time.Duration { return l.opts.Time / 5 }
func (l *Lease) poll() time.Duration  { return l.opts.Time / 15 }

// patience is how long one question to the store may take: several fit into the time for which a renewal counts, since
// one that is asked while the store's own servers change their leader is lost.
func (l *Lease) patience() time.Duration { return l.opts.Time / 4 }

// Status is what is known of who leads.
type Status struct {
	Leading bool   `json:"leading"`          // this process does
	Leader  string `json:"leader,omitempty"` // the holder's name, "" = nobody does as far as is known
	URL     string `json:"url,omitempty"`
	Term    uint64 `json:"term,omitempty"`
	Trouble string `json:"trouble,omitempty"` // why that is not known
}

// Status tells who leads.
func (l *Lease) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := Status{Term: l.seen.Term, Trouble: l.trouble()}
	if l.now != nil && l.now.Held() {
		return Status{Leading: true, Leader: l.opts.Name, URL: l.opts.URL, Term: l.now.Term(), Trouble: l.trouble()}
	}
	if l.seen.Holder != "" && l.seen.Holder != l.holder && time.Since(l.fresh) < l.opts.Time {
		st.Leader, st.URL = l.seen.Name, l.seen.URL
	}
	return st
}

// Run stands for the lease until ctx ends, and calls lead each time it is won. The context of lead ends with ctx, or
// because of [ErrLost]; the lease is renewed until lead returns. An error of lead ends Run, unless the lease was lost.
func (l *Lease) Run(ctx context.Context, lead func(ctx context.Context, t *Tenure) error) error {
	for {
		t := l.win(ctx)
		if t == nil {
			return nil
		}
		l.mu.Lock()
		l.now = t
		l.mu.Unlock()
		l.log.InfoContext(ctx, "this daemon leads", "term", t.Term())
		err := l.hold(ctx, t, lead)
		l.mu.Lock()
		l.now = nil
		l.mu.Unlock()
		switch {
		case t.Lost():
			l.log.WarnContext(ctx, "this daemon leads no more", "term", t.Term(), "err", err)
			if ctx.Err() != nil {
				return nil
			}
			continue
		case err != nil || ctx.Err() != nil:
			t.giveBack(ctx)
			return err
		}
		t.giveBack(ctx)
	}
}

// win returns once the lease is held, or nil when ctx ends.
func (l *Lease) win(ctx context.Context) *Tenure {
	var at uint64 // the revision that is watched
	var since time.Time
	first := true
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		pause.Reset(l.poll())
		r, revision, err := l.look(ctx)
		if err != nil {
			continue // whether somebody renewed meanwhile shows at the next look
		}
		now := time.Now()
		if first || revision != at {
			first, at, since = false, revision, now
		}
		l.mu.Lock()
		if revision != 0 || time.Since(l.erased) > l.valid() {
			l.erased = time.Time{}
		}
		free := r.Holder == l.holder || // of an earlier tenure, or of a Put that did not say how it ended
			revision != 0 && r.Holder == "" ||
			revision == 0 && !l.erased.IsZero() ||
			now.Sub(since) >= l.opts.Time
		term := max(l.highest, r.Term) + 1
		l.mu.Unlock()
		if !free {
			continue
		}
		t := &Tenure{lease: l, writing: make(chan struct{}, 1), rec: Record{Format: format, Fleet: l.opts.Fleet, Holder: l.holder, Name: l.opts.Name, URL: l.opts.URL, Term: term}, rev: revision}
		if t.renew(ctx) == nil {
			return t
		}
	}
}

// look reads the record, and keeps what it says for Status.
func (l *Lease) look(ctx context.Context) (Record, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, l.patience())
	defer cancel()
	r, revision, err := l.opts.Store.Get(ctx)
	if err == nil && revision != 0 && (r.Format > format || r.Fleet != l.opts.Fleet) {
		err = fmt.Errorf("the lease is of fleet %q in format %d: each fleet needs an account of its own", r.Fleet, r.Format)
	}
	l.note(ctx, &l.reading, err)
	if err != nil {
		return r, 0, err
	}
	l.mu.Lock()
	news := r != l.seen && l.seen.Term != 0
	l.mu.Unlock()
	if news { // somebody wrote it
		l.note(ctx, &l.writing, nil)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r != l.seen {
		l.seen, l.fresh = r, time.Now()
	}
	l.highest = max(l.highest, r.Term)
	return r, revision, nil
}

// trouble is why it is not known who leads, or nobody can. The mutex is held.
func (l *Lease) trouble() string { return cmp.Or(l.writing, l.reading) }

// note keeps and logs whether the record can be read, or written: where most servers of a cluster are down, one that is
// left still tells what it has.
func (l *Lease) note(ctx context.Context, of *string, err error) {
	if err != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return // nobody wants to know any more
	}
	l.mu.Lock()
	before := l.trouble()
	*of = ""
	if err != nil {
		*of = err.Error()
	}
	now := l.trouble()
	l.mu.Unlock()
	switch {
	case now != "" && before == "":
		l.log.WarnContext(ctx, "the lease cannot be read or written", "err", err)
	case now == "" && before != "":
		l.log.InfoContext(ctx, "the lease can be read and written again")
	}
}

// hold calls lead and renews the lease until lead has returned.
func (l *Lease) hold(ctx context.Context, t *Tenure, lead func(context.Context, *Tenure) error) error {
	leadCtx, end := context.WithCancelCause(ctx)
	defer end(nil)
	done := make(chan error, 1)
	go func() { done <- lead(leadCtx, t) }()
	base := context.WithoutCancel(ctx) // a leader that is to stop leads until it has
	pause := time.NewTimer(l.every())
	defer pause.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-t.over(): // somebody who asked the store saw it first
		case <-pause.C:
			if err := t.renew(base); err != nil && t.Held() {
				pause.Reset(l.every() / 5)
				continue
			}
		}
		if !t.Held() {
			t.lose()
			end(ErrLost)
			return <-done
		}
		pause.Reset(l.every())
	}
}

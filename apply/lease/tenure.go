package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Tenure is the time for which this process holds the lease. Its methods may be called side by side.
type Tenure struct {
	lease *Lease

	writing chan struct{} // has room for one, who writes the record: one write at a time

	mu    sync.Mutex // guards below
	rec   Record
	rev   uint64
	sure  bool      // rev is the revision of our last write
	until time.Time // by this process's clock, which goes on while the process is stopped
	lost  bool
	ended chan struct{} // closed when it is lost; made when first asked for
}

// Held reports whether the lease is held, by this process's clock. What it allows must be done at once.
func (t *Tenure) Held() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.lost && time.Now().Before(t.until)
}

// Lost reports whether somebody else leads, or may.
func (t *Tenure) Lost() bool { return !t.Held() }

// Term is the number of this tenure. It rises when agents obeyed a higher one.
func (t *Tenure) Term() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec.Term
}

// Confirm renews the lease now: nil means that nobody else has had it. Unlike Held it does not rest on this machine's
// clock, which stands still while the machine is suspended.
func (t *Tenure) Confirm(ctx context.Context) error {
	if !t.Held() {
		return ErrLost
	}
	return t.renew(ctx)
}

// Raise takes a term above the one given, unless this tenure's is, and returns it once it is on record. A leader that
// hears of a higher term goes on only this way: if it no longer holds the lease that is [ErrLost].
func (t *Tenure) Raise(ctx context.Context, above uint64) (uint64, error) {
	if err := t.turn(ctx); err != nil {
		return 0, fmt.Errorf("take a term above %d: %w", above, err)
	}
	defer t.done()
	if term := t.Term(); term > above {
		return term, nil
	}
	for try := 0; ; try++ {
		if !t.Held() {
			return 0, ErrLost
		}
		err := t.write(ctx, above+1)
		if err == nil {
			return t.Term(), nil
		}
		if try == 2 || ctx.Err() != nil {
			return 0, fmt.Errorf("take a term above %d: %w", above, err)
		}
	}
}

// over is closed when the tenure is lost.
func (t *Tenure) over() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended == nil {
		t.ended = make(chan struct{})
		if t.lost {
			close(t.ended)
		}
	}
	return t.ended
}

func (t *Tenure) lose() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.lost && t.ended != nil {
		close(t.ended)
	}
	t.lost = true
}

// turn waits until nobody else writes the record; done ends it.
func (t *Tenure) turn(ctx context.Context) error {
	select {
	case t.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *Tenure) done() { <-t.writing }

func (t *Tenure) renew(ctx context.Context) error {
	if err := t.turn(ctx); err != nil {
		return err
	}
	defer t.done()
	return t.write(ctx, 0)
}

// write puts the record, with a higher term if one is given. Writing is held.
func (t *Tenure) write(ctx context.Context, term uint64) error {
	ctx, cancel := context.WithTimeout(ctx, t.lease.patience())
	defer cancel()
	err := t.put(ctx, term)
	if !errors.Is(err, ErrMoved) && !errors.Is(err, ErrLost) {
		t.lease.note(ctx, &t.lease.writing, err)
	}
	return err
}

func (t *Tenure) put(ctx context.Context, term uint64) error {
	t.mu.Lock()
	r, rev, lost := t.rec, t.rev, t.lost
	fresh := r.Beat == 0
	unsure := !fresh && !(t.sure && time.Now().Before(t.until))
	t.mu.Unlock()
	if lost {
		return ErrLost
	}
	if unsure { // the last write did not say how it ended, or much may have happened since
		at, now, err := t.lease.opts.Store.Get(ctx)
		switch {
		case err != nil:
			return err
		case now == 0:
			t.vanished()
			return ErrLost
		case at.Holder != r.Holder:
			t.lose()
			return ErrLost
		}
		rev = now
		r.Term = max(r.Term, at.Term)
	}
	r.Beat++
	r.Term = max(r.Term, term)
	began := time.Now()
	next, err := t.lease.opts.Store.Put(ctx, r, rev)
	t.mu.Lock()
	t.sure = err == nil
	t.rec.Beat = r.Beat
	if err == nil {
		t.rec, t.rev, t.until = r, next, began.Add(t.lease.valid())
	}
	t.mu.Unlock()
	if err == nil {
		t.lease.renewed(r)
		return nil
	}
	if errors.Is(err, ErrMoved) && fresh {
		t.lose()
		return err
	}
	if errors.Is(err, ErrMoved) { // by a write of our own that did not say how it ended, by nobody since it is gone, or by who leads now
		return t.moved(ctx, err)
	}
	return err
}

// moved finds out who changed the record.
func (t *Tenure) moved(ctx context.Context, why error) error {
	at, rev, err := t.lease.opts.Store.Get(ctx)
	switch {
	case err != nil:
		return err
	case rev == 0:
		t.vanished()
		return ErrLost
	case at.Holder != t.lease.holder:
		t.lose()
		return fmt.Errorf("%w: %s leads in term %d", ErrLost, at.Name, at.Term)
	}
	return why // ours, as a late answer shows it: tried again
}

// vanished: the record is gone while this process was the last to hold it, so it may make a new one at once.
func (t *Tenure) vanished() {
	held := t.Held()
	t.lose()
	if !held {
		return
	}
	t.lease.mu.Lock()
	defer t.lease.mu.Unlock()
	t.lease.erased = time.Now()
}

// giveBack lets another daemon take the lease at once.
func (t *Tenure) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.lease.every())
	defer cancel()
	if t.turn(ctx) != nil {
		return
	}
	defer t.done()
	t.mu.Lock()
	r, rev, sure := t.rec, t.rev, t.sure
	t.mu.Unlock()
	held := t.Held()
	t.lose()
	if !held || !sure {
		return
	}
	r.Holder, r.Name, r.URL = "", "", ""
	if _, err := t.lease.opts.Store.Put(ctx, r, rev); err != nil {
		t.lease.log.Info("the lease was not given back; it ends by itself", "err", err)
	}
}

// renewed keeps what this process wrote for Status.
func (l *Lease) renewed(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen, l.fresh, l.highest = r, time.Now(), max(l.highest, r.Term)
}

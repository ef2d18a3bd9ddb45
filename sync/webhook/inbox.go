package webhook

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Store keeps records in order. Append returns once a record is on disk, where it is found again after the process
// is killed; Trim forgets all before a sequence number.
type Store interface {
	Append(ctx context.Context, record []byte) (seq uint64, err error)
	Replay(ctx context.Context, fn func(seq uint64, record []byte) error) error
	Trim(ctx context.Context, before uint64) error
}

// Timing holds periods. Zero fields take the defaults named.
type Timing struct {
	Answer time.Duration // a delivery is answered within this: 800 ms
	Body   time.Duration // its body has come within this: 10 s
	Pace   time.Duration // one subject is brought no more often than this: 250 ms
	Probe  time.Duration // while nothing can be written, it is tried this often: 5 s
	Retry  time.Duration // a hint that its target could not look at is brought again after this, then later and later: 2 s
}

func (t *Timing) complete() {
	t.Answer, t.Body = cmp.Or(t.Answer, 800*time.Millisecond), cmp.Or(t.Body, 10*time.Second)
	t.Probe = cmp.Or(t.Probe, 5*time.Second)
	t.Pace, t.Retry = cmp.Or(t.Pace, 250*time.Millisecond), cmp.Or(t.Retry, 2*time.Second)
}

const (
	maxPending = 4096    // subjects that wait for their target
	maxSeen    = 1 << 15 // deliveries that are known again
	keepSeen   = 7 * 24 * time.Hour
	maxBatch   = 192 << 10 // bytes of one record, so that the store takes it
	maxRetry   = 2 * time.Minute
	maxNotYet  = 6 // tries: about half a minute
	// compactAfter is how many bytes are written before what is over is left out.
	compactAfter = 8 << 20
)

// ErrNotYet ends a hint of a commit that the repository does not show: a replica lags behind, or it never will. Such a
// hint is brought again a few times and not for ever.
var ErrNotYet = errors.New("the repository does not show the commit yet")

var (
	errPending = errors.New("too many hints wait")
	errAbsent  = errors.New("the receiver does not run")
)

// A key is a hash cut to what tells deliveries apart.
type key [16]byte

// MarshalText writes a key as hex.
func (k key) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

// UnmarshalText reads it back.
func (k *key) UnmarshalText(text []byte) error {
	if len(text) != 2*len(k) {
		return errors.New("a key has 32 hex digits")
	}
	_, err := hex.Decode(k[:], text)
	return err
}

func keyOf(parts ...string) key {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return key(sum[:16])
}

// A hook is one delivery that was kept.
type hook struct {
	N    uint64    `json:"n"` // counts deliveries
	At   time.Time `json:"at"`
	ID   key       `json:"id"`   // of delivery id and body
	Body key       `json:"body"` // of the body alone
	On   key       `json:"on"`   // of the subject
	Hint *Hint     `json:"hint,omitempty"`
}

// done says that all hooks on a subject up to N are over.
type done struct {
	On key    `json:"on"`
	N  uint64 `json:"n"`
}

// A record is what one write keeps. A format that is not known is passed over.
type record struct {
	Format int    `json:"format"`
	Hooks  []hook `json:"hooks,omitempty"`
	Done   []done `json:"done,omitempty"`
}

const format = 1

// A wait is a subject whose target has not yet said that all is done.
type wait struct {
	hint  *Hint
	upto  uint64    // its newest hook
	given uint64    // up to which it was brought
	next  time.Time // after a failure: when to try again
	tries int
}

// inbox keeps hints until they are done. Its writer alone changes what is kept, so that many deliveries at once cost
// one write.
type inbox struct {
	store  Store
	target Target
	log    *slog.Logger
	timing Timing

	puts  chan *put
	wake  chan struct{} // something in ended
	begun chan struct{} // closed when all was read
	gone  chan struct{} // closed when run has returned

	failing atomic.Bool // the last write failed

	mu    sync.Mutex // guards ended
	ended []ending

	// Owned by run.
	n       uint64
	pending map[key]*wait
	paced   map[key]time.Time // subject → when it may be brought again
	order   []hook            // seen, the oldest first; hints left out
	ids     map[key]uint64    // delivery and body → n
	bodies  map[key]uint64    // body → n
	latest  map[key]uint64    // subject → its newest n
	over    []done            // to be written
	written int               // bytes since the last compaction
}

type put struct {
	hook hook
	news bool
	err  error
	over chan struct{}
}

type ending struct {
	on  key
	n   uint64
	err error
}

func newInbox(store Store, target Target, log *slog.Logger, timing Timing) *inbox {
	return &inbox{store: store, target: target, log: log, timing: timing,
		puts: make(chan *put, 256), wake: make(chan struct{}, 1), begun: make(chan struct{}), gone: make(chan struct{}),
		pending: make(map[key]*wait), paced: make(map[key]time.Time), ids: make(map[key]uint64), bodies: make(map[key]uint64), latest: make(map[key]uint64)}
}

// put returns once the hint is on disk; news is false for a delivery that was had before. After an error it may be on
// disk or not.
func (b *inbox) put(ctx context.Context, id string, body [32]byte, h *Hint) (news bool, err error) {
	select {
	case <-b.begun:
	default:
		return false, errAbsent
	}
	on, text := h.Subject(), string(body[:]) // one body may come to several of Komodo's URLs
	p := &put{over: make(chan struct{}), hook: hook{At: time.Now().UTC(), ID: keyOf(on, text, id), Body: keyOf(on, text), On: keyOf(on), Hint: h}}
	if id == "" {
		p.hook.ID = p.hook.Body
	}
	select {
	case b.puts <- p:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-b.gone:
		return false, errAbsent
	}
	select {
	case <-p.over:
		return p.news, p.err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-b.gone:
		return false, errAbsent
	}
}

// run reads what is left to do, then writes and brings until ctx ends.
func (b *inbox) run(ctx context.Context) error {
	defer close(b.gone)
	if err := b.replay(ctx); err != nil {
		return fmt.Errorf("read the webhooks that were kept: %w", err)
	}
	if n := len(b.pending); n > 0 {
		b.log.InfoContext(ctx, "webhooks kept by an earlier process are brought again", "hints", n)
	}
	close(b.begun)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-b.puts:
			b.write(ctx, p)
		case <-b.wake:
			b.settle(ctx)
			for left := len(b.over) + 1; len(b.over) > 0 && len(b.over) < left; {
				left = len(b.over)
				b.write(ctx)
			}
		case <-timer.C:
			if b.failing.Load() {
				b.write(ctx) // to see whether the disk takes something again
			}
		}
		next := b.bring(time.Now())
		if b.failing.Load() && (next == 0 || next > b.timing.Probe) {
			next = b.timing.Probe
		}
		if next > 0 {
			timer.Reset(next)
		}
	}
}

// replay makes of the records what they left.
func (b *inbox) replay(ctx context.Context) error {
	finished := make(map[key]uint64)
	err := b.store.Replay(ctx, func(_ uint64, data []byte) error {
		b.written += len(data)
		var r record
		if err := json.Unmarshal(data, &r); err != nil || r.Format != format {
			b.log.WarnContext(ctx, "a kept webhook is not understood and left aside", "format", r.Format)
			return nil
		}
		for i := range r.Hooks {
			h := &r.Hooks[i]
			b.n = max(b.n, h.N)
			b.see(h)
			if h.Hint != nil && h.N > finished[h.On] {
				b.hold(h)
			}
		}
		for _, d := range r.Done {
			finished[d.On] = max(finished[d.On], d.N)
			b.finish(d.On, d.N)
		}
		return nil
	})
	b.over = nil // what the records say need not be said again
	return err
}

// see remembers a delivery, so that it is known again.
func (b *inbox) see(h *hook) {
	b.ids[h.ID], b.bodies[h.Body] = h.N, h.N
	b.latest[h.On] = max(b.latest[h.On], h.N)
	slim := *h
	slim.Hint = nil
	b.order = append(b.order, slim)
	for len(b.order) > maxSeen || len(b.order) > 0 && time.Since(b.order[0].At) > keepSeen {
		old := &b.order[0]
		drop(b.ids, old.ID, old.N)
		drop(b.bodies, old.Body, old.N)
		drop(b.latest, old.On, old.N)
		b.order = b.order[1:]
	}
}

func drop(m map[key]uint64, k key, n uint64) {
	if m[k] == n {
		delete(m, k)
	}
}

// had reports whether a delivery was kept before: the same one sent again, or the same body under another id, as a
// stranger replays it. When something else came on its subject since, an equal body is news: a branch that was moved
// there, back, and there again.
func (b *inbox) had(h *hook) bool {
	if _, same := b.ids[h.ID]; same {
		return true
	}
	n, same := b.bodies[h.Body]
	return same && n == b.latest[h.On]
}

// hold adds a hook to what waits.
func (b *inbox) hold(h *hook) {
	w := b.pending[h.On]
	if w == nil {
		w = &wait{}
		b.pending[h.On] = w
	}
	if h.N > w.upto {
		w.hint, w.upto = join(w.hint, h.Hint), h.N
	}
}

// write keeps deliveries, as many as wait, with what is over, in one record.
func (b *inbox) write(ctx context.Context, puts ...*put) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	r := record{Format: format, Done: b.over[:min(len(b.over), 1000)]}
	size := 64 * len(r.Done)
	var fresh, again []*put
	known := make(map[key]bool) // in this record
	last := make(map[key]key)   // subject → body that came last in this record
	fail := func(p *put, err error) { p.err = err; close(p.over) }
	take := func(p *put) {
		h := &p.hook
		body, within := last[h.On]
		switch {
		case known[h.ID] || within && body == h.Body || !within && b.had(h):
			again = append(again, p) // answered when the first is on disk
			return
		case b.pending[h.On] == nil && !within && len(b.pending)+len(last) >= maxPending:
			fail(p, errPending)
			return
		}
		data, err := json.Marshal(h)
		if err != nil {
			fail(p, err)
			return
		}
		h.N = b.n + uint64(len(fresh)) + 1
		size += len(data) + 20
		known[h.ID], last[h.On] = true, h.Body
		fresh = append(fresh, p)
	}
	for _, p := range puts {
		take(p)
	}
	for size < maxBatch && len(puts) > 0 {
		select {
		case p := <-b.puts:
			take(p)
			continue
		default:
		}
		break
	}
	for _, p := range fresh {
		r.Hooks = append(r.Hooks, p.hook)
	}
	var err error
	if len(r.Hooks) > 0 || len(r.Done) > 0 || b.failing.Load() {
		err = b.append(ctx, &r)
		b.failing.Store(err != nil)
	}
	if err == nil {
		b.over = b.over[len(r.Done):]
		for _, p := range fresh {
			b.n = p.hook.N
			b.see(&p.hook)
			b.hold(&p.hook)
			p.news = true
		}
	} else {
		b.n += uint64(len(fresh)) // it may be on disk all the same
		b.log.ErrorContext(ctx, "webhooks not kept", "err", err)
	}
	for _, p := range slices.Concat(fresh, again) {
		fail(p, err)
	}
	if b.written > compactAfter {
		if err := b.compact(ctx); err != nil {
			b.log.WarnContext(ctx, "kept webhooks not made smaller", "err", err)
		}
	}
}

func (b *inbox) append(ctx context.Context, r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := b.store.Append(ctx, data); err != nil {
		return err
	}
	b.written += len(data)
	return nil
}

// compact writes what is still of use and forgets all before it. Killed in between, both are read and say the same.
func (b *inbox) compact(ctx context.Context) error {
	b.written = 0
	first := uint64(0)
	var hooks []hook
	flush := func() error {
		data, err := json.Marshal(&record{Format: format, Hooks: hooks})
		if err != nil {
			return err
		}
		seq, err := b.store.Append(ctx, data)
		if first == 0 {
			first = seq
		}
		hooks = nil
		return err
	}
	size := 0
	add := func(h hook) error {
		hooks = append(hooks, h)
		size += 300
		if h.Hint != nil {
			data, err := json.Marshal(h.Hint)
			if err != nil {
				return err
			}
			size += len(data)
		}
		if size < maxBatch {
			return nil
		}
		size = 0
		return flush()
	}
	for _, h := range b.order {
		if w := b.pending[h.On]; w != nil && w.upto == h.N {
			h.Hint = w.hint
		}
		if err := add(h); err != nil {
			return err
		}
	}
	for on, w := range b.pending { // whose delivery is too old to be known again
		if b.latest[on] != w.upto {
			if err := add(hook{N: w.upto, At: time.Now().UTC(), On: on, Hint: w.hint}); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return b.store.Trim(ctx, first)
}

// bring gives the target what is due and returns how long until more is, 0 = nothing waits for its time.
func (b *inbox) bring(now time.Time) time.Duration {
	var next time.Duration
	later := func(d time.Duration) {
		if next == 0 || d < next {
			next = max(d, time.Millisecond)
		}
	}
	maps.DeleteFunc(b.paced, func(_ key, at time.Time) bool { return !at.After(now) })
	var due []key
	for on, w := range b.pending {
		at := b.paced[on]
		if at.Before(w.next) {
			at = w.next
		}
		switch {
		case w.given >= w.upto:
		case at.After(now):
			later(at.Sub(now))
		default:
			due = append(due, on)
		}
	}
	slices.SortFunc(due, func(x, y key) int { return cmp.Compare(b.pending[x].upto, b.pending[y].upto) })
	for _, on := range due {
		w := b.pending[on]
		n := w.upto
		w.given, b.paced[on] = n, now.Add(b.timing.Pace)
		b.target.Take(w.hint, func(err error) { b.end(ending{on, n, err}) })
	}
	return next
}

// end notes what a target said, from whatever goroutine.
func (b *inbox) end(e ending) {
	b.mu.Lock()
	b.ended = append(b.ended, e)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// settle takes in what targets said.
func (b *inbox) settle(ctx context.Context) {
	b.mu.Lock()
	ended := b.ended
	b.ended = nil
	b.mu.Unlock()
	for _, e := range ended {
		w := b.pending[e.on]
		if w == nil {
			continue
		}
		if e.err == nil {
			b.finish(e.on, e.n)
			w.tries = 0
			continue
		}
		if e.n < w.given { // a newer one is under way
			continue
		}
		wait := min(b.timing.Retry<<min(w.tries, 10), maxRetry)
		if errors.Is(e.err, ErrNotYet) {
			if wait /= 4; w.tries >= maxNotYet {
				b.finish(e.on, e.n)
				w.tries = 0
				continue
			}
		}
		w.tries++
		w.given, w.next = 0, time.Now().Add(wait)
		b.log.WarnContext(ctx, "webhook not acted on yet", "hint", w.hint.Event, "repo", short(w.hint.Repo.Path), "again_in", wait, "err", e.err)
	}
}

// finish notes that a subject is done up to n.
func (b *inbox) finish(on key, n uint64) {
	w := b.pending[on]
	if w == nil {
		return
	}
	b.over = append(b.over, done{on, n})
	if w.upto <= n {
		delete(b.pending, on)
	}
}

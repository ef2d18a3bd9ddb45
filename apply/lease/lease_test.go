package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A shelf is a Store in memory, with the weather of a network before it.
type shelf struct {
	mu    sync.Mutex // guards below
	rec   Record
	rev   uint64
	cut   map[string]bool // by the candidate's name: nothing goes through
	lose  float64         // the share of answers that get lost
	slow  time.Duration   // at most
	rand  *rand.Rand
	terms []uint64 // of every record ever put
}

// door is a candidate's way to the shelf.
type door struct {
	*shelf
	name string
}

var errCut = errors.New("nothing comes back")

// pass waits as the network does; lost is whether the answer gets lost.
func (d door) pass(ctx context.Context) (lost bool, err error) {
	d.mu.Lock()
	cut, wait := d.cut[d.name], time.Duration(0)
	if d.slow > 0 {
		wait = time.Duration(d.rand.Int64N(int64(d.slow)))
	}
	lost = d.rand != nil && d.rand.Float64() < d.lose
	d.mu.Unlock()
	if cut {
		<-ctx.Done()
		return false, errCut
	}
	select {
	case <-ctx.Done():
		return false, errCut
	case <-time.After(wait):
	}
	return lost, nil
}

func (d door) Get(ctx context.Context) (Record, uint64, error) {
	lost, err := d.pass(ctx)
	if err != nil {
		return Record{}, 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if lost {
		return Record{}, 0, errCut
	}
	return d.rec, d.rev, nil
}

func (d door) Put(ctx context.Context, r Record, revision uint64) (uint64, error) {
	lost, err := d.pass(ctx)
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rev != revision {
		return 0, ErrMoved
	}
	d.rec, d.rev = r, d.rev+1
	d.terms = append(d.terms, r.Term)
	if lost {
		return 0, errCut
	}
	return d.rev, nil
}

// erase loses the record and its revisions.
func (s *shelf) erase() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec, s.rev, s.terms = Record{}, 0, nil
}

func (s *shelf) link(name string, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut[name] = cut
}

// A watch notes who leads when.
type watch struct {
	mu      sync.Mutex // guards below
	leading map[string]*Tenure
	won     []string // "NAME TERM", in order
	bad     []string
}

// lead is what a leader does: nothing, and it is seen.
func (w *watch) lead(name string) func(context.Context, *Tenure) error {
	return func(ctx context.Context, t *Tenure) error {
		w.mu.Lock()
		w.leading[name] = t
		w.won = append(w.won, fmt.Sprintf("%s %d", name, t.Term()))
		w.mu.Unlock()
		<-ctx.Done()
		w.mu.Lock()
		delete(w.leading, name)
		w.mu.Unlock()
		return nil
	}
}

// of is a leader's tenure, nil if it does not lead.
func (w *watch) of(name string) *Tenure {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leading[name]
}

// who may act at this moment.
func (w *watch) who() (held []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, t := range w.leading {
		if t.Held() {
			held = append(held, name)
		}
	}
	if len(held) > 1 {
		w.bad = append(w.bad, fmt.Sprintf("two may act: %v", held))
	}
	slices.Sort(held)
	return held
}

// world runs candidates until the test's function returns.
func world(t *testing.T, s *shelf, names []string, do func(w *watch, leases map[string]*Lease)) *watch {
	w := &watch{leading: map[string]*Tenure{}}
	if s.cut == nil {
		s.cut = map[string]bool{}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		leases := map[string]*Lease{}
		var wait sync.WaitGroup
		for _, name := range names {
			l := New(Options{Store: door{s, name}, Fleet: "f", Name: name})
			leases[name] = l
			wait.Go(func() { _ = l.Run(ctx, w.lead(name)) })
		}
		do(w, leases)
		stop()
		wait.Wait()
	})
	return w
}

func TestTakeOver(t *testing.T) {
	s := &shelf{rec: Record{Format: format, Fleet: "f", Term: 7}, rev: 1}
	world(t, s, []string{"a", "b"}, func(w *watch, leases map[string]*Lease) {
		time.Sleep(time.Second)
		first := w.who()
		if len(first) != 1 {
			t.Fatalf("%v lead after a second, want one", first)
		}
		if term := leases[first[0]].Status().Term; term != 8 {
			t.Errorf("term %d after one of 7 was given back, want 8", term)
		}
		other := map[string]string{"a": "b", "b": "a"}[first[0]]
		if st := leases[other].Status(); st.Leading || st.Leader != first[0] {
			t.Errorf("the other says %+v, want that %s leads", st, first[0])
		}
		time.Sleep(time.Hour)
		if now := w.who(); !slices.Equal(now, first) {
			t.Errorf("after an hour %v lead, want %v", now, first)
		}
		s.link(first[0], true)
		start := time.Now()
		for len(w.who()) == 0 || w.who()[0] == first[0] {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > 7*time.Second {
			t.Errorf("take-over took %s", took)
		}
		if now := w.who(); !slices.Equal(now, []string{other}) {
			t.Errorf("%v lead, want %s", now, other)
		}
		s.link(first[0], false)
		time.Sleep(10 * time.Second)
		if st := leases[first[0]].Status(); st.Leading || st.Leader != other || st.Term != 9 || st.Trouble != "" {
			t.Errorf("who was cut off says %+v, want that %s leads in term 9", st, other)
		}
	})
}

func TestGivenBack(t *testing.T) {
	s := &shelf{cut: map[string]bool{}}
	synctest.Test(t, func(t *testing.T) {
		w := &watch{leading: map[string]*Tenure{}}
		actx, stop := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		a, b := New(Options{Store: door{s, "a"}, Fleet: "f", Name: "a"}), New(Options{Store: door{s, "b"}, Fleet: "f", Name: "b"})
		wait.Go(func() { _ = a.Run(actx, w.lead("a")) })
		start := time.Now()
		for len(w.who()) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took < 6*time.Second {
			t.Errorf("taken after %s though nothing tells whether somebody held a record that is lost", took)
		}
		bctx, stopB := context.WithCancel(t.Context())
		wait.Go(func() { _ = b.Run(bctx, w.lead("b")) })
		time.Sleep(time.Second)
		stop()
		start = time.Now()
		for !slices.Equal(w.who(), []string{"b"}) {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("a lease that was given back was taken after %s", took)
		}
		stopB()
		wait.Wait()
	})
}

// Whoever heard of a higher term takes one above it, on record.
func TestRaise(t *testing.T) {
	s := &shelf{}
	world(t, s, []string{"a"}, func(w *watch, leases map[string]*Lease) {
		time.Sleep(10 * time.Second)
		tenure := w.of("a")
		term, err := tenure.Raise(context.Background(), 50)
		if err != nil || term != 51 {
			t.Fatalf("Raise(50) = %d, %v", term, err)
		}
		if term, err := tenure.Raise(context.Background(), 3); err != nil || term != 51 {
			t.Errorf("Raise(3) = %d, %v; a term never falls", term, err)
		}
		if s.rec.Term != 51 {
			t.Errorf("term %d is on record", s.rec.Term)
		}
	})
}

// The record is erased under a leader: it makes a new one at once, in a term above, and the other waits.
func TestErased(t *testing.T) {
	s := &shelf{}
	world(t, s, []string{"a", "b"}, func(w *watch, leases map[string]*Lease) {
		time.Sleep(10 * time.Second)
		first := w.who()
		term := leases[first[0]].Status().Term
		s.erase()
		time.Sleep(3 * time.Second)
		if now := w.who(); !slices.Equal(now, first) {
			t.Errorf("%v lead, want %v", now, first)
		}
		if after := leases[first[0]].Status().Term; after <= term {
			t.Errorf("term %d after %d", after, term)
		}
	})
}

// A leader whose machine stood still believes its clock; Confirm does not.
func TestConfirm(t *testing.T) {
	s := &shelf{}
	world(t, s, []string{"a"}, func(w *watch, leases map[string]*Lease) {
		time.Sleep(10 * time.Second)
		tenure := w.of("a")
		s.mu.Lock()
		s.rec, s.rev = Record{Format: format, Fleet: "f", Holder: "x", Name: "x", Term: s.rec.Term + 1}, s.rev+1 // meanwhile
		s.mu.Unlock()
		if !tenure.Held() {
			t.Fatal("by its clock it still leads")
		}
		if err := tenure.Confirm(context.Background()); !errors.Is(err, ErrLost) {
			t.Errorf("Confirm = %v, want ErrLost", err)
		}
		if tenure.Held() {
			t.Error("it believes its clock after Confirm said otherwise")
		}
		if _, err := tenure.Raise(context.Background(), 99); !errors.Is(err, ErrLost) {
			t.Errorf("Raise = %v, want ErrLost", err)
		}
	})
}

func TestOtherFleet(t *testing.T) {
	s := &shelf{rec: Record{Format: format, Fleet: "theirs", Term: 3}, rev: 9}
	world(t, s, []string{"a"}, func(w *watch, leases map[string]*Lease) {
		time.Sleep(time.Minute)
		if st := leases["a"].Status(); st.Leading || st.Trouble == "" {
			t.Errorf("another fleet's lease: %+v", st)
		}
	})
}

// Whatever the network does: never two who may act, never two tenures in one term, never a term that falls, and when it
// is well again somebody leads within two lease times.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		n := rapid.IntRange(2, 4).Draw(rt, "candidates")
		steps := rapid.IntRange(5, 40).Draw(rt, "steps")
		s := &shelf{rand: rand.New(rand.NewPCG(seed, 1)), slow: time.Duration(rapid.IntRange(1, 3000).Draw(rt, "slow ms")) * time.Millisecond,
			lose: rapid.Float64Range(0, 0.5).Draw(rt, "lost")}
		random := rand.New(rand.NewPCG(seed, 2))
		names := []string{"a", "b", "c", "d"}[:n]
		failed := ""
		w := world(t, s, names, func(w *watch, leases map[string]*Lease) {
			for range steps {
				name := names[random.IntN(n)]
				switch random.IntN(4) {
				case 0:
					s.link(name, true)
				case 1, 2:
					s.link(name, false)
				case 3:
					if tenure := w.of(name); tenure != nil {
						ctx, cancel := context.WithTimeout(context.Background(), time.Second)
						_, _ = tenure.Raise(ctx, tenure.Term()+uint64(random.IntN(3)))
						cancel()
					}
				}
				for range random.IntN(200) {
					time.Sleep(50 * time.Millisecond)
					w.who()
				}
			}
			for _, name := range names {
				s.link(name, false)
			}
			s.mu.Lock()
			s.lose, s.slow = 0, 0
			s.mu.Unlock()
			time.Sleep(12 * time.Second)
			if len(w.who()) != 1 {
				failed = fmt.Sprintf("%v lead although all is well", w.who())
			}
		})
		if failed != "" || len(w.bad) > 0 {
			rt.Fatal(failed, w.bad)
		}
		if !slices.IsSorted(s.terms) {
			rt.Fatalf("terms fell: %v", s.terms)
		}
		seen := map[string]string{}
		for _, won := range w.won {
			var name, term string
			fmt.Sscan(won, &name, &term)
			if by, had := seen[term]; had {
				rt.Fatalf("term %s was %s's and %s's", term, by, name)
			}
			seen[term] = name
		}
	})
}

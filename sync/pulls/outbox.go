package pulls

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"github.com/varanhq/varan/sync/forge"
)

// A letter is one thing to be written to a forge. Its key says what it is about: a newer letter takes the place of an
// older one that was not sent.
type letter struct {
	Seq    uint64     `json:"seq"`
	Domain string     `json:"domain"`
	Repo   forge.Repo `json:"repo"`

	SHA    string          `json:"sha,omitempty"`
	Status *forge.Status   `json:"status,omitempty"`
	Check  *forge.CheckRun `json:"check,omitempty"`

	Number int    `json:"number,omitempty"`
	Marker string `json:"marker,omitempty"`
	Body   string `json:"body,omitempty"`
	// Edit: only a comment that stands there is changed, none is made.
	Edit bool `json:"edit,omitempty"`

	// Last: it goes behind all that are not: what strangers can make many of keeps nobody waiting.
	Last bool `json:"last,omitempty"`

	// Tried: an attempt was begun, and whether it was done is not known.
	Tried bool `json:"tried,omitempty"`
	// Misses counts how often the forge did not know what it is about, or did not let us write it.
	Misses int `json:"misses,omitempty"`

	after time.Time // not to be tried before
	why   string    // it waits, while the others go on
}

func (l *letter) key() string {
	switch {
	case l.Status != nil:
		return strings.Join([]string{l.Domain, l.Repo.String(), l.SHA, "status", l.Status.Context}, "\n")
	case l.Check != nil:
		return strings.Join([]string{l.Domain, l.Repo.String(), l.SHA, "check", l.Check.Name}, "\n")
	}
	return fmt.Sprintf("%s\n%s\n%d\ncomment", l.Domain, l.Repo, l.Number)
}

// content names what it says, to know the same letter again.
func (l *letter) content() string {
	c := *l
	c.Seq, c.Tried, c.Misses, c.Last = 0, false, 0, false
	if l.Status != nil { // another link alone is not worth a write
		s := *l.Status
		s.URL = ""
		c.Status = &s
	}
	data, err := json.Marshal(c)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

// Bounds of the outbox.
const (
	maxLetters = 5000 // waiting for forges that do not answer
	maxSent    = 5000 // known not to need sending again
	maxMisses  = 3    // then the forge is believed that there is no such thing
	maxRefused = 12   // half an hour or so: then nobody gives the credential what it lacks
)

// An outbox keeps letters on disk until they are sent.
type outbox struct {
	dir    string
	forge  func(domain string) (Forge, bool)
	log    *slog.Logger
	timing Timing
	// sent is told which comment stands for a pull request now.
	sent func(l *letter, c forge.Comment)
	may  func() bool // whether this process still is the one that writes; nil = it is

	mu      gosync.Mutex // guards below
	seq     uint64
	waiting map[string]*letter
	known   map[string]string // key → content last sent
	order   []string          // of known
	wake    map[string]chan struct{}
	trouble map[string]string // why a forge's letters wait
}

func openOutbox(dir string, domains []string, at func(string) (Forge, bool), log *slog.Logger, timing Timing) (*outbox, error) {
	o := &outbox{dir: dir, forge: at, log: log, timing: timing, waiting: make(map[string]*letter), known: make(map[string]string),
		wake: make(map[string]chan struct{}), trouble: make(map[string]string)}
	for _, domain := range domains {
		o.wake[domain] = make(chan struct{}, 1)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the outbox: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open the outbox: %w", err)
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) != ".json" {
			continue
		}
		var l letter
		if err := load(filepath.Join(dir, f.Name()), &l); err != nil {
			log.Warn("a letter is not understood and left aside", "file", f.Name(), "err", err)
			continue
		}
		if o.path(&l) != filepath.Join(dir, f.Name()) {
			continue
		}
		o.waiting[l.key()] = &l
		o.seq = max(o.seq, l.Seq)
	}
	return o, nil
}

func (o *outbox) path(l *letter) string {
	sum := sha256.Sum256([]byte(l.key()))
	return filepath.Join(o.dir, hex.EncodeToString(sum[:16])+".json")
}

// put keeps letters; they are sent in the order they came. What stands there already is not sent again.
func (o *outbox) put(letters ...*letter) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range letters {
		key := l.key()
		old := o.waiting[key]
		if old == nil && o.known[key] == l.content() {
			continue
		}
		if old != nil {
			if old.content() == l.content() {
				continue
			}
			l.Tried = old.Tried // it may have been done: look before writing
		} else if len(o.waiting) >= maxLetters {
			return fmt.Errorf("%d messages wait for forges that do not answer", len(o.waiting))
		}
		o.seq++
		l.Seq = o.seq
		if err := store(o.path(l), l); err != nil {
			return err
		}
		o.waiting[key] = l
		o.nudge(l.Domain)
	}
	return nil
}

// forget has letters written though they say what was written last: somebody may have taken it away since.
func (o *outbox) forget(letters ...*letter) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range letters {
		key := l.key()
		delete(o.known, key)
		o.order = slices.DeleteFunc(o.order, func(k string) bool { return k == key })
	}
}

// waits is the letter of the same key that was not sent yet, nil if there is none.
func (o *outbox) waits(l *letter) *letter {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.waiting[l.key()]
	if w == nil {
		return nil
	}
	c := *w
	return &c
}

func (o *outbox) nudge(domain string) {
	if w := o.wake[domain]; w != nil {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// next is the oldest letter for a forge that may be tried, else how long until one may be, 0 = none waits.
func (o *outbox) next(domain string) (*letter, time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var first *letter
	var soonest time.Duration
	for _, l := range o.waiting {
		if l.Domain != domain {
			continue
		}
		if wait := time.Until(l.after); wait > 0 {
			if soonest == 0 || wait < soonest {
				soonest = wait
			}
			continue
		}
		if first == nil || l.Last != first.Last && first.Last || l.Last == first.Last && l.Seq < first.Seq {
			first = l
		}
	}
	if first == nil {
		return nil, soonest
	}
	c := *first
	return &c, 0
}

// run sends one forge's letters, one after another, until ctx ends.
func (o *outbox) run(ctx context.Context, domain string) error {
	fails := 0
	for {
		l, soonest := o.next(domain)
		if l == nil {
			var due <-chan time.Time
			if soonest > 0 {
				due = time.After(soonest)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-o.wake[domain]:
			case <-due:
			}
			continue
		}
		err := o.send(ctx, l)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			fails = 0
			o.complain(domain, "")
			continue
		}
		if aside := (*asideError)(nil); errors.As(err, &aside) { // the others go on
			fails = 0
			o.complain(domain, "")
			o.log.WarnContext(ctx, "not written yet", "forge", domain, "repo", l.Repo.String(), "number", l.Number, "commit", l.SHA, "again_in", aside.wait.Round(time.Millisecond), "err", err)
			continue
		}
		fails++
		wait := o.wait(err, fails)
		o.complain(domain, err.Error())
		o.log.WarnContext(ctx, "forge not written to yet", "forge", domain, "repo", l.Repo.String(), "again_in", wait.Round(time.Millisecond), "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (o *outbox) complain(domain, why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.trouble[domain] = why
}

// wait is how long to leave a forge alone after a failure: what it asks for, else longer and longer.
func (o *outbox) wait(err error, fails int) time.Duration {
	if until, ok := forge.Retry(err); ok && !until.IsZero() {
		return max(time.Until(until), 0)
	}
	d := min(o.timing.Retry<<min(fails-1, 12), 10*time.Minute)
	return d/2 + rand.N(d/2+1)
}

// givenUp reports whether the forge will never take it.
func givenUp(err error) bool {
	return errors.Is(err, forge.ErrTooLong) || errors.Is(err, forge.ErrRefused) || errors.Is(err, forge.ErrNotCapable) ||
		errors.Is(err, forge.ErrNotFound) || errors.Is(err, forge.ErrForbidden)
}

// patience is how often a letter is tried again when its own failure says nothing about the others: a replica lags, a
// conversation is locked, the credential may not write in that one repository.
func patience(err error) int {
	switch {
	case errors.Is(err, forge.ErrNotFound):
		return maxMisses
	case errors.Is(err, forge.ErrForbidden):
		return maxRefused
	}
	return 0
}

// An asideError keeps back one letter and no other.
type asideError struct {
	err  error
	wait time.Duration
}

func (e *asideError) Error() string { return e.err.Error() }
func (e *asideError) Unwrap() error { return e.err }

// send writes a letter, looking first where an earlier attempt, or an earlier process, may have done it.
func (o *outbox) send(ctx context.Context, l *letter) error {
	f, ok := o.forge(l.Domain)
	if !ok {
		o.over(l, true)
		return nil
	}
	if err := o.allowed(); err != nil {
		return err
	}
	o.mu.Lock()
	_, had := o.known[l.key()]
	o.mu.Unlock()
	again := l.Tried || !had
	if !l.Tried {
		l.Tried = true
		o.mu.Lock()
		cur := o.waiting[l.key()]
		if cur == nil || cur.Seq != l.Seq {
			o.mu.Unlock()
			return nil // a newer one came
		}
		cur.Tried = true
		err := store(o.path(cur), cur)
		o.mu.Unlock()
		if err != nil {
			return err
		}
	}
	err := o.write(ctx, f, l, again)
	if l.Misses < patience(err) {
		wait := o.wait(err, l.Misses+1)
		return errors.Join(&asideError{err, wait}, o.later(l, wait, err))
	}
	if err != nil && givenUp(err) {
		o.log.ErrorContext(ctx, "the forge does not take it", "forge", l.Domain, "repo", l.Repo.String(), "number", l.Number, "commit", l.SHA, "err", err)
		return o.over(l, true) // not known to stand there: the next time it is to be said, it is tried again
	}
	if err != nil {
		return err
	}
	return o.over(l, false)
}

// allowed is asked before each write: an error says that another daemon is the one that writes.
func (o *outbox) allowed() error {
	if o.may != nil && !o.may() {
		return errors.New("another daemon is the one that writes now")
	}
	return nil
}

// later puts a letter behind the others, and lets it wait.
func (o *outbox) later(l *letter, wait time.Duration, why error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	cur := o.waiting[l.key()]
	if cur == nil || cur.Seq != l.Seq {
		return nil
	}
	o.seq++
	cur.Seq = o.seq
	cur.Misses++
	cur.after, cur.why = time.Now().Add(wait), why.Error()
	return store(o.path(cur), cur)
}

func (o *outbox) write(ctx context.Context, f Forge, l *letter, again bool) error {
	switch {
	case l.Status != nil:
		if again {
			if there, err := f.Statuses(ctx, l.Repo, l.SHA); err != nil {
				return err
			} else if slices.ContainsFunc(there, func(s forge.Status) bool { return sameStatus(s, *l.Status) }) {
				return nil
			}
		}
		if err := o.allowed(); err != nil {
			return err
		}
		return f.SetStatus(ctx, l.Repo, l.SHA, *l.Status)
	case l.Check != nil:
		return f.Annotate(ctx, l.Repo, *l.Check) // it replaces its own
	}
	c, err := f.OwnComment(ctx, l.Repo, l.Number, l.Marker)
	switch {
	case errors.Is(err, forge.ErrNotFound):
		if l.Edit {
			return nil
		}
		if err := o.allowed(); err != nil {
			return err
		}
		c, err = f.CreateComment(ctx, l.Repo, l.Number, l.Body)
	case err != nil:
		return err
	case sameText(c.Body, l.Body):
	default:
		if err := o.allowed(); err != nil {
			return err
		}
		c, err = f.EditComment(ctx, l.Repo, l.Number, c.ID, l.Body)
	}
	if err == nil && o.sent != nil {
		o.sent(l, c)
	}
	return err
}

func sameStatus(a, b forge.Status) bool {
	return strings.EqualFold(a.Context, b.Context) && a.State == b.State && a.Description == b.Description
}

// sameText compares as forges store text: line ends and the outer space may differ.
func sameText(a, b string) bool {
	norm := func(s string) string { return strings.TrimSpace(strings.ReplaceAll(s, "\r\n", "\n")) }
	return norm(a) == norm(b)
}

// over forgets a letter, unless a newer one took its place meanwhile.
func (o *outbox) over(l *letter, unsent bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := l.key()
	if !unsent {
		if _, had := o.known[key]; !had {
			o.order = append(o.order, key)
		}
		o.known[key] = l.content()
		for len(o.order) > maxSent {
			delete(o.known, o.order[0])
			o.order = o.order[1:]
		}
	}
	cur := o.waiting[key]
	if cur == nil {
		return nil
	}
	if cur.Seq != l.Seq {
		cur.Tried = false // what was tried is done; the newer one was not
		return store(o.path(cur), cur)
	}
	delete(o.waiting, key)
	if err := os.Remove(o.path(l)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("take a letter out of the outbox: %w", err)
	}
	return nil
}

// load and store keep small files; a file is there as a whole or not at all.
func load(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

func store(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("keep %s: %w", filepath.Base(path), err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "new-*")
	if err != nil {
		return fmt.Errorf("keep %s: %w", filepath.Base(path), err)
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep %s: %w", filepath.Base(path), err), os.Remove(tmp.Name()))
	}
	return nil
}

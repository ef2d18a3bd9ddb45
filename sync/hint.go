package sync

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/webhook"
)

// Previews takes hints of pull requests, comments on them and merge groups, on the promises of webhook.Target's Take.
type Previews func(h *webhook.Hint, ended func(error))

// HearPulls has take be given the hints of pull requests of watched repositories.
func (d *Daemon) HearPulls(take Previews) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.previews = take
}

func (d *Daemon) hearsPulls() Previews {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.previews
}

// A concern is what of a hint this daemon looks at.
type concern struct {
	root   bool // the sync's own branch
	others bool // other repositories that are read beside it
	pulls  bool // Previews
	why    string
}

func (c concern) any() bool { return c.root || c.others || c.pulls }

// Concerns says whether a hint makes the daemon look, and at what; else why not.
func (d *Daemon) Concerns(h *webhook.Hint) (look bool, why string) {
	c := d.concern(h)
	return c.any(), c.why
}

func (d *Daemon) concern(h *webhook.Hint) concern {
	switch h.Event {
	case webhook.Push:
		return d.pushed(h)
	case webhook.Pull, webhook.Comment, webhook.MergeGroup:
		return d.pulled(h)
	case webhook.Execution:
		return executed(h.Execution)
	}
	return concern{why: h.Why}
}

func (d *Daemon) pushed(h *webhook.Hint) concern {
	r := d.root.reading()
	c := concern{root: h.Is(d.root.src.address()) && d.branch() == h.Push.Branch}
	if r == nil { // what else there is will be known then
		c.others, c.why = true, "kept until the repository was read"
		return c
	}
	var at, idle []string
	if c.root {
		at = append(at, "resource_sync/"+d.root.name)
	}
	for _, id := range webhook.Match(r.config, h) {
		switch id.Kind() {
		case schema.KindStack:
			c.others = true
			at = append(at, string(id))
		case schema.KindResourceSync:
			c.others = c.others || further(r.config, r.config.Get(id), d.root.src.address(), r.branch)
			at = append(at, string(id))
		default:
			idle = append(idle, string(id))
		}
	}
	switch {
	case len(at) > 0:
		c.why = "looking at " + list(at)
	case len(idle) > 0:
		c.why = list(idle) + " would run, but that kind is not carried out by this version"
		return c
	case h.Is(d.root.src.address()):
		c.why = fmt.Sprintf("the branch %q is not the one that is followed", h.Push.Branch)
	default:
		c.why = "nothing here comes from that repository and branch"
	}
	c.root = c.root || len(at) > 0 && !c.others // a [[resource_sync]] on the sync's own repository
	return c
}

// branch is the one that the root follows.
func (d *Daemon) branch() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.settings.Config.Branch; b != "" {
		return b
	}
	return "main"
}

func (d *Daemon) pulled(h *webhook.Hint) concern {
	if d.hearsPulls() == nil {
		return concern{why: "pull requests are not previewed by this version"}
	}
	ours := func(w Watched) bool { return h.Is(w.Address) }
	if d.root.reading() == nil || slices.ContainsFunc(d.Watched(), ours) {
		return concern{pulls: true, why: "looking at the pull request"}
	}
	return concern{why: "nothing here comes from that repository"}
}

// executed is what one of Komodo's URLs leads to. It orders nothing: whether there is anything to do is in the
// repository.
func executed(e *webhook.ExecutionHint) concern {
	switch e.Resource.Kind() {
	case schema.KindStack, schema.KindResourceSync:
		return concern{root: true, others: true, why: "looking at " + string(e.Resource)}
	}
	return concern{why: fmt.Sprintf("%s is known, but that kind is not carried out by this version", e.Resource)}
}

// list names a few and counts the rest.
func list(names []string) string {
	const most = 8
	if n := len(names); n > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}

// Take looks at what a hint tells of. ended is called once the commit found there was planned, or a newer one was.
func (d *Daemon) Take(h *webhook.Hint, ended func(error)) {
	c := d.concern(h)
	if take := d.hearsPulls(); c.pulls && take != nil {
		take(h, ended)
		return
	}
	if !c.root && !c.others {
		ended(nil)
		return
	}
	d.root.hint(&waiter{hint: h, others: c.others, ended: ended})
}

// Resource finds what a URL of Komodo's form names.
func (d *Daemon) Resource(id schema.ID) (found *webhook.Resource, ready bool) {
	r := d.root.reading()
	if r == nil {
		return nil, false
	}
	res := r.config.Get(id)
	if res == nil || res.Template {
		if id == schema.NewID(schema.KindResourceSync, d.root.name) {
			return &webhook.Resource{Branch: d.branch(), Enabled: true}, true
		}
		return nil, true
	}
	var own schema.Source
	found = &webhook.Resource{}
	switch c := res.Config.(type) {
	case *schema.StackConfig:
		own, found.Secret, found.Enabled = c.Source, c.WebhookSecret, c.WebhookEnabled
	case *schema.BuildConfig:
		own, found.Secret, found.Enabled = c.Source, c.WebhookSecret, c.WebhookEnabled
	case *schema.ResourceSyncConfig:
		own, found.Secret, found.Enabled = c.Source, c.WebhookSecret, c.WebhookEnabled
	case *schema.RepoConfig:
		own, found.Secret, found.Enabled = c.Source(), c.WebhookSecret, c.WebhookEnabled
	case *schema.ProcedureConfig:
		found.Secret, found.Enabled = c.WebhookSecret, c.WebhookEnabled
	default:
		return nil, true
	}
	found.Branch = own.Branch
	if from, ok := r.config.Source(own); ok {
		found.Branch = from.Branch
	}
	found.Secret = r.values.reveal(found.Secret)
	return found, true
}

// reveal fills the names in a webhook_secret in. With a name nobody knows it is a value nobody knows, not the text
// that stands in Git.
func (v *values) reveal(text string) string {
	text = v.substitute(text)
	for name, s := range v.secrets {
		if s != "" {
			text = strings.ReplaceAll(text, "[["+name+"]]", string(s))
		}
	}
	if strings.Contains(text, "[[") {
		return rand.Text()
	}
	return text
}

// A waiter is a hint whose end somebody waits for.
type waiter struct {
	hint   *webhook.Hint
	others bool
	ended  func(error)
	run    *current // the run that answers it; nil = none was begun yet
}

// hint puts a waiter before the loop.
func (f *follower) hint(w *waiter) {
	f.hintLock.Lock()
	f.hints = append(f.hints, w)
	f.hintLock.Unlock()
	select {
	case f.hinted <- struct{}{}:
	default:
	}
}

// heard looks at the source for all hints that came.
func (f *follower) heard(ctx context.Context, period time.Duration) time.Duration {
	f.hintLock.Lock()
	came := f.hints
	f.hints = nil
	f.hintLock.Unlock()
	next := f.look(ctx, period)
	if err := f.lookError(); err != nil {
		for _, w := range came {
			w.ended(err)
		}
		return next
	}
	for _, w := range came {
		subject := w.hint.Subject() // what waits on it for a run waits with this one: hints that come are bounded, pauses are not
		f.answer(func(old *waiter) bool { return old.run == nil && old.hint.Subject() == subject })
		if p := w.hint.Push; p != nil && w.hint.Is(f.src.address()) && p.Branch == f.tip.branch && lags(p, f.tip.commit) {
			w.ended(fmt.Errorf("%w: %s", webhook.ErrNotYet, plan.Short(p.After)))
			continue
		}
		f.waiters = append(f.waiters, w)
		if w.others {
			f.ask(job{trigger: triggerDrift}) // reading asks the other repositories
		} else if r := f.running; r != nil && r.plansTip() && r.view.commit == f.tip.commit {
			w.run = r
		}
	}
	return next
}

// plansTip reports whether a run is about the whole of its commit.
func (c *current) plansTip() bool { return !c.job.look && len(c.job.rules.Only) == 0 }

// began has a run answer the hints that came before it.
func (f *follower) began(c *current) {
	if !c.plansTip() {
		return
	}
	for _, w := range f.waiters {
		if w.run == nil {
			w.run = c
		}
	}
}

// answer ends the waiters that want names.
func (f *follower) answer(want func(*waiter) bool) {
	var left []*waiter
	for _, w := range f.waiters {
		if want(w) {
			w.ended(f.unread(w))
		} else {
			left = append(left, w)
		}
	}
	f.waiters = left
}

// lags reports whether a repository that stands at a commit has not heard of a push to it.
func lags(p *webhook.PushHint, at string) bool {
	return at != "" && at == p.Before && p.After != "" && at != p.After
}

// unread says which repository of a hint did not answer when it was read last: its commit was not seen then.
func (f *follower) unread(w *waiter) error {
	r := f.reading()
	if !w.others || r == nil {
		return nil
	}
	for _, at := range r.unread {
		if w.hint.Is(at) || w.hint.Event == webhook.Execution {
			return fmt.Errorf("%s was not read", at)
		}
	}
	p := w.hint.Push
	if p == nil {
		return nil
	}
	lag := fmt.Errorf("%w: %s", webhook.ErrNotYet, plan.Short(p.After))
	for _, c := range r.children {
		if w.hint.Is(c.addr) && c.branch == p.Branch && lags(p, c.tip) {
			return lag
		}
	}
	for where, commit := range r.others {
		url, branch, _ := strings.Cut(where, " ")
		if at, err := gitrepo.ParseAddress(url); err == nil && w.hint.Is(at) && branch == p.Branch && lags(p, commit) {
			return lag
		}
	}
	return nil
}

// idle ends all hints when there is nothing left to do about what they told of.
func (f *follower) idle() {
	if len(f.waiters) > 0 && f.running == nil && len(f.want) == 0 && f.tip.tree != nil && f.tip.commit == f.taken && !f.paused() {
		f.answer(func(*waiter) bool { return true })
	}
}

var _ webhook.Target = (*Daemon)(nil)

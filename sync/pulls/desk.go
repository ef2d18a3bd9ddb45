package pulls

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/report"
	"github.com/varanhq/varan/sync/webhook"
)

// A Daemon is what a Desk needs of sync.Daemon.
type Daemon interface {
	Watched() []sync.Watched
	Basis() (basis, commit string)
	Preview(ctx context.Context, w sync.Watched, sub sync.Subject) (*sync.Preview, error)
	Refs(ctx context.Context, at gitrepo.Address, names ...string) (map[string]string, error)
	Branches(ctx context.Context, at gitrepo.Address, prefix string) (map[string]string, error)
	Pending() (digest, commit string)
	Approve(ctx context.Context, digest, actor string) error
}

// A Forge with what varan.toml says beside its credential.
type Forge struct {
	forge.Forge
	ReportOutput bool // what containers print may stand in comments of private repositories
}

// Settings are the rules; SetSettings replaces them as a whole.
type Settings struct {
	Fleet        string
	PublicURL    string        // "" = no links to varan's page
	Poll         time.Duration // how often forges are asked: 1 m
	PreviewForks string        // "off", "collaborators" (default), "all"
	Approvers    []string      // logins; empty = whoever may write
	Manual       bool          // apply = "manual"
	StatusName   string        // stands behind the statuses' names, where several daemons serve one repository; "" = nothing
}

// Timing holds periods that tests shorten. Zero fields take the defaults named.
type Timing struct {
	Retry  time.Duration // first wait after a forge failed: 2 s
	Again  time.Duration // a merge commit or ref that lags is looked at again: 1 s
	Replan time.Duration // no pull request is planned anew more often for the fleet's sake: 1 m
	Basis  time.Duration // how often it is looked whether the base branch or the fleet changed: 200 ms
}

// Options of New.
type Options struct {
	Dir      string // kept across restarts
	Forges   []Forge
	Settings Settings
	Timing   Timing
	// May says whether this process still is the one that writes; nil = it is.
	May func() bool
	Log *slog.Logger
}

// A Desk watches pull requests and says what must be said. It is a sync.Reporter. Its methods may be called side by
// side, also before and while Run runs.
type Desk struct {
	dir    string
	timing Timing
	log    *slog.Logger
	out    *outbox
	inbox  *inbox
	others *inbox // of what is to be told at other repositories than the config's
	daemon Daemon // set by Run

	mu       gosync.Mutex     // guards below
	forges   map[string]Forge // by domain
	settings Settings
	repos    map[string]*repository
	last     *kept         // delivered last
	watched  bool          // the repositories of a base that was read are watched
	began    chan struct{} // closed when Run has a daemon
}

// New opens what was kept. It asks no forge anything.
func New(opts Options) (*Desk, error) {
	t := opts.Timing
	t.Retry, t.Again = cmp.Or(t.Retry, 2*time.Second), cmp.Or(t.Again, time.Second)
	t.Replan, t.Basis = cmp.Or(t.Replan, time.Minute), cmp.Or(t.Basis, 200*time.Millisecond)
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &Desk{dir: opts.Dir, forges: make(map[string]Forge, len(opts.Forges)), timing: t, log: log, settings: opts.Settings,
		repos: make(map[string]*repository), began: make(chan struct{})}
	for _, f := range opts.Forges {
		d.forges[strings.ToLower(f.Domain())] = f
	}
	if err := os.MkdirAll(filepath.Join(opts.Dir, "repos"), 0o700); err != nil {
		return nil, fmt.Errorf("open the pull requests' folder: %w", err)
	}
	var err error
	if d.out, err = openOutbox(filepath.Join(opts.Dir, "outbox"), d.domains(), d.forgeAt, log, t); err != nil {
		return nil, err
	}
	d.out.may, d.out.sent = opts.May, d.commented
	if d.inbox, err = openInbox(filepath.Join(opts.Dir, "reports"), log); err != nil {
		return nil, err
	}
	if d.others, err = openInbox(filepath.Join(opts.Dir, "others"), log); err != nil {
		return nil, err
	}
	return d, nil
}

// Reload puts new rules and credentials in the place of the old. A forge that was not there at the start is not taken.
func (d *Desk) Reload(s Settings, forges []Forge) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settings = s
	var missing []string
	for _, f := range forges {
		domain := strings.ToLower(f.Domain())
		if _, had := d.forges[domain]; !had {
			missing = append(missing, domain)
			continue
		}
		d.forges[domain] = f
	}
	if len(missing) > 0 {
		return fmt.Errorf("[[forge]] %s is new: restart the daemon to use it", strings.Join(missing, ", "))
	}
	return nil
}

func (d *Desk) domains() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.forges))
}

// forgeAt is the forge of a domain.
func (d *Desk) forgeAt(domain string) (Forge, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.forges[domain]
	return f, ok
}

// retell has the outcome of a commit told again, now that the pull request it came by is known to be merged.
func (d *Desk) retell(commit string) {
	d.mu.Lock()
	k := d.last
	d.mu.Unlock()
	if k == nil || k.Commit != commit || k.Stage == sync.StageApplying || k.Stage == sync.StageWaiting { // its outcome will follow
		return
	}
	again := *k
	again.Again = true
	if err := d.inbox.put(&again); err != nil {
		d.log.Error("a merge's outcome is not told", "commit", commit, "err", err)
	}
}

func (d *Desk) rules() Settings {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.settings
	s.Fleet, s.Poll = cmp.Or(s.Fleet, "main"), cmp.Or(s.Poll, time.Minute)
	return s
}

// context is a status's full name.
func (d *Desk) context(name string) string { return report.Context(name, d.rules().StatusName) }

// Trouble says, by forge, why messages wait; forges without trouble are left out.
func (d *Desk) Trouble() map[string]string {
	d.out.mu.Lock()
	defer d.out.mu.Unlock()
	out := map[string]string{}
	for _, l := range d.out.waiting {
		if l.why != "" && (out[l.Domain] == "" || l.why < out[l.Domain]) {
			out[l.Domain] = l.why
		}
	}
	for domain, why := range d.out.trouble {
		if why != "" {
			out[domain] = why
		}
	}
	return out
}

// Run watches until ctx ends.
func (d *Desk) Run(ctx context.Context, daemon Daemon) error {
	d.daemon = daemon
	close(d.began)
	g, ctx := errgroup.WithContext(ctx)
	for _, domain := range d.domains() {
		g.Go(func() error { return d.out.run(ctx, domain) })
	}
	g.Go(func() error { return d.deliver(ctx, d.inbox, d.letters) })
	g.Go(func() error { return d.deliver(ctx, d.others, d.lettersMoved) })
	if len(d.forges) == 0 {
		return g.Wait()
	}
	g.Go(func() error {
		tick := time.NewTicker(d.timing.Basis)
		defer tick.Stop()
		last, looked := "-", time.Time{}
		for {
			d.mu.Lock()
			none := len(d.repos) == 0 // also a base that cannot be planned has a branch and pull requests
			d.mu.Unlock()
			if basis, _ := daemon.Basis(); basis != last || none && time.Since(looked) > 5*d.timing.Basis {
				last, looked = basis, time.Now()
				d.watch(ctx, g)
				d.mu.Lock()
				d.watched = d.watched || basis != ""
				d.mu.Unlock()
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
	return g.Wait()
}

// watch begins to watch the repositories that are new, and tells all that the basis changed. Those that nothing uses
// any more are only left out of Hints: their loops find nothing to do.
func (d *Desk) watch(ctx context.Context, g *errgroup.Group) {
	type found struct {
		sync.Watched
		f Forge
	}
	var now []found
	for _, w := range d.daemon.Watched() {
		if f, ok := d.forgeOf(w.Address); ok {
			now = append(now, found{w, f})
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.repos {
		r.unused = true
	}
	for _, w := range now {
		repo, err := forge.ParseRepo(w.Address.Path)
		if err != nil {
			d.log.WarnContext(ctx, "pull requests are not watched", "repo", w.Address.String(), "err", err)
			continue
		}
		key := w.Address.String() + " " + w.Branch
		if r := d.repos[key]; r != nil {
			r.unused = false
			r.nudge()
			continue
		}
		sum := sha256.Sum256([]byte(key))
		r, err := openRepository(d, w.Watched, w.f, repo, filepath.Join(d.dir, "repos", hex.EncodeToString(sum[:12])))
		if err != nil {
			d.log.ErrorContext(ctx, "pull requests are not watched", "repo", w.Address.String(), "err", err)
			continue
		}
		d.repos[key] = r
		g.Go(func() error { return r.run(ctx) })
	}
}

// forgeOf is the forge a repository lies on.
func (d *Desk) forgeOf(a gitrepo.Address) (Forge, bool) {
	if a.Local() {
		return Forge{}, false
	}
	host := strings.ToLower(a.Host)
	if a.Port != "" && a.Scheme != "ssh" {
		if f, ok := d.forgeAt(host + ":" + a.Port); ok {
			return f, true
		}
	}
	return d.forgeAt(host)
}

// Look has a repository's pull requests looked at now; match picks the repositories. done, which may be nil, is called
// when the look is over, once for all, with what kept one of them from being looked at. False: none is watched.
func (d *Desk) Look(match func(gitrepo.Address) bool, number int, done func(error)) bool {
	select {
	case <-d.began:
	default:
		return false
	}
	d.mu.Lock()
	var picked []*repository
	for _, r := range d.repos {
		if !r.unused && match(r.w.Address) {
			picked = append(picked, r)
		}
	}
	d.mu.Unlock()
	if len(picked) == 0 {
		return false
	}
	var mu gosync.Mutex
	left, errs := len(picked), []error(nil)
	for _, r := range picked {
		r.ask(number, func(err error) {
			mu.Lock()
			errs = append(errs, err)
			left--
			end := left == 0
			all := errors.Join(errs...)
			mu.Unlock()
			if end && done != nil {
				done(all)
			}
		})
	}
	return true
}

// Take has the repository looked at that a hint is about: sync.Previews.
func (d *Desk) Take(h *webhook.Hint, ended func(error)) {
	number := 0
	switch {
	case h.Pull != nil:
		number = h.Pull.Number
	case h.Comment != nil:
		number = h.Comment.Pull
	}
	select {
	case <-d.began:
	default:
		ended(errors.New("the daemon is only starting"))
		return
	}
	if !d.Look(h.Is, number, ended) {
		ended(nil) // nothing watches it: it lies on no forge that varan has a credential for
	}
}

// config is the config repository's watch, nil if it lies on no forge of ours or was not read yet.
func (d *Desk) config() *repository {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.repos {
		if r.w.Config && !r.unused {
			return r
		}
	}
	return nil
}

// commented notes where a pull request's comment stands.
func (d *Desk) commented(l *letter, c forge.Comment) {
	d.mu.Lock()
	var of []*repository
	for _, r := range d.repos {
		if r.repo.Same(l.Repo) && r.domain == l.Domain {
			of = append(of, r)
		}
	}
	d.mu.Unlock()
	for _, r := range of {
		r.commented(l.Number, l.Body, c)
	}
}

// about fills in what all comments of a repository share.
func (d *Desk) about(r *repository, commit string) report.About {
	s := d.rules()
	a := report.About{Fleet: s.Fleet, Commit: commit, Branch: r.w.Branch, Blob: blob(r, commit), Manual: s.Manual}
	if r.w.Config {
		a.Command = "/varan apply"
	}
	return a
}

// blob is where a forge shows a commit's files.
func blob(r *repository, commit string) string {
	at := "https://" + r.forge().Domain() + "/" + r.repo.String()
	switch r.forge().Kind() {
	case forge.GitHub:
		return at + "/blob/" + commit
	case forge.GitLab:
		return at + "/-/blob/" + commit
	}
	return at + "/src/commit/" + commit
}

func (d *Desk) page(run string) string {
	s := d.rules()
	if s.PublicURL == "" || run == "" {
		return ""
	}
	return strings.TrimRight(s.PublicURL, "/") + "/runs/" + run
}

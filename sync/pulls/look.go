package pulls

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	gosync "sync"
	"time"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/report"
	"github.com/varanhq/varan/sync/sandbox"
)

// A record is what is kept of one pull request.
type record struct {
	Number int           `json:"number"`
	At     time.Time     `json:"at"`               // of the last preview
	Took   time.Duration `json:"took,omitempty"`   // it, as shown
	Head   string        `json:"head,omitempty"`   // previewed
	Basis  string        `json:"basis,omitempty"`  // that it was previewed against
	Base   string        `json:"base,omitempty"`   // commit of the config repository in it
	Digest string        `json:"digest,omitempty"` // of the plan shown
	Plan   *plan.Plan    `json:"plan,omitempty"`
	Risks  []string      `json:"risks,omitempty"`
	Failed string        `json:"failed,omitempty"` // why it could not be previewed
	// Moods counts how often the fleet alone made another plan of this head and base.
	Moods int `json:"moods,omitempty"`
	// Stranger: it comes from a fork and was not let in.
	Stranger bool `json:"stranger,omitempty"`
	// Lasting: it met a limit, which it meets again until its head or the base branch is another.
	Lasting bool `json:"lasting,omitempty"`

	State       forge.State `json:"state"`
	MergeCommit string      `json:"merge_commit,omitempty"`
	Told        bool        `json:"told,omitempty"` // the outcome of its merge was told
	Closed      time.Time   `json:"closed,omitzero"`
	Asks        string      `json:"asks,omitempty"`  // digest that the comment asks to approve
	Shown       string      `json:"shown,omitempty"` // digest that the comment was seen to ask about, and since when by the forge's clock
	ShownAt     time.Time   `json:"shown_at,omitzero"`
	Replaced    bool        `json:"replaced,omitempty"` // it asked about another one before
	Allowed     string      `json:"allowed,omitempty"`  // a head of a fork that somebody who may write asked to plan
	Commented   bool        `json:"commented,omitempty"`
	URL         string      `json:"url,omitempty"`   // of the comment
	Notes       []string    `json:"notes,omitempty"` // answers to commands, shown in the comment

	force bool // asked for by a command
	lag   int  // looks in a row at which the forge's refs were behind
	tries int  // previews in a row that failed for reasons that pass
}

// kept of a repository beside its records.
type ledger struct {
	Since   time.Time         `json:"since"`             // the newest change of a comment seen, by the forge's clock; zero: before the first look
	Floor   time.Time         `json:"floor"`             // what was said before is no command
	Used    []int64           `json:"used"`              // ids of comments that were taken as commands
	Groups  map[string]string `json:"groups,omitempty"`  // merge-queue branches with the commit previewed and the basis
	Pending []string          `json:"pending,omitempty"` // commits whose apply status is pending
	Final   string            `json:"final,omitempty"`   // the commit that was applied and told last
	Said    string            `json:"said,omitempty"`    // of it, without how long it took
}

const (
	maxUsed     = 2000
	keepClosed  = 14 * 24 * time.Hour
	maxOpen     = 500 // pull requests previewed in one repository
	maxLag      = 5
	maxTries    = 3
	maxStarting = 30               // looks at which the base was not planned
	retryFailed = 10 * time.Minute // what could not be previewed is tried again
	queuePrefix = "gh-readonly-queue/"
)

// A repository is one watched repository. Its loop alone looks and previews, so that one preview runs at a time.
type repository struct {
	d      *Desk
	w      sync.Watched
	domain string
	repo   forge.Repo
	dir    string
	log    *slog.Logger

	wake   chan struct{}
	unused bool // guarded by the desk's mu

	groupTries map[string]int // by commit; the loop's own

	askMu gosync.Mutex // guards asked
	asked []wish

	mu      gosync.Mutex // guards below
	records map[int]*record
	ledger  ledger
}

// A wish is a look somebody waits for.
type wish struct {
	number int // of a pull request, 0 = all
	done   func(error)
}

func openRepository(d *Desk, w sync.Watched, f Forge, repo forge.Repo, dir string) (*repository, error) {
	r := &repository{d: d, w: w, domain: strings.ToLower(f.Domain()), repo: repo, dir: dir, log: d.log.With("repo", w.Address.String()), wake: make(chan struct{}, 1), records: make(map[int]*record), groupTries: make(map[string]int)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		n, err := strconv.Atoi(strings.TrimSuffix(file.Name(), ".json"))
		if err != nil || !strings.HasSuffix(file.Name(), ".json") {
			continue
		}
		rec := &record{}
		if err := load(filepath.Join(dir, file.Name()), rec); err != nil || rec.Number != n {
			r.log.Warn("what was kept of a pull request is not understood", "number", n, "err", err)
			continue
		}
		r.records[n] = rec
	}
	if err := load(filepath.Join(dir, "ledger.json"), &r.ledger); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.log.Warn("what was kept of a repository is not understood", "err", err)
		}
		r.ledger = ledger{} // commands of before the first look are not taken again
	}
	return r, nil
}

// save keeps a record. The caller holds mu.
func (r *repository) save(rec *record) error {
	return store(filepath.Join(r.dir, strconv.Itoa(rec.Number)+".json"), rec)
}

func (r *repository) saveLedger() error {
	if n := len(r.ledger.Used) - maxUsed; n > 0 {
		r.ledger.Used = slices.Delete(r.ledger.Used, 0, n)
	}
	return store(filepath.Join(r.dir, "ledger.json"), &r.ledger)
}

// forge is the client with its newest credential.
func (r *repository) forge() Forge {
	f, _ := r.d.forgeAt(r.domain)
	return f
}

func (r *repository) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *repository) ask(number int, done func(error)) {
	r.askMu.Lock()
	r.asked = append(r.asked, wish{number, done})
	r.askMu.Unlock()
	r.nudge()
}

func (r *repository) isUnused() bool {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	return r.unused
}

// run looks when it is asked to, when the base or the fleet changed, and every poll period.
func (r *repository) run(ctx context.Context) error {
	poll := time.NewTimer(0)
	defer poll.Stop()
	fails := 0
	for {
		full := false
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			full = true
		case <-r.wake:
		}
		r.askMu.Lock()
		asked := r.asked
		r.asked = nil
		r.askMu.Unlock()
		var err error
		again := time.Duration(0)
		if !r.isUnused() {
			again, err = r.look(ctx, full || len(asked) > 0 || fails > 0)
		}
		for _, w := range asked {
			w.done(err)
		}
		if ctx.Err() != nil {
			return nil
		}
		next := r.d.rules().Poll
		if err != nil {
			fails++
			next = min(max(next, r.d.out.wait(err, fails)), 15*time.Minute)
			r.d.out.complain(r.domain, err.Error())
			r.log.WarnContext(ctx, "pull requests not looked at", "again_in", next.Round(time.Millisecond), "err", err)
		} else {
			fails = 0
		}
		if again > 0 {
			next = min(next, again)
		}
		poll.Reset(next)
	}
}

// look asks the forge for open pull requests and new comments, unless all is false, and previews what changed. again
// is when something that lags is worth another look.
func (r *repository) look(ctx context.Context, all bool) (again time.Duration, err error) {
	prs, err := r.forge().PullRequests(ctx, r.repo) // conditional: nothing new costs next to nothing
	if err != nil {
		return 0, err
	}
	var errs []error
	if all {
		if err := r.comments(ctx); err != nil { // no comment keeps a pull request from being previewed
			errs = append(errs, err)
		}
	}
	open := make(map[int]bool, len(prs))
	for i := range prs {
		open[prs[i].Number] = true
	}
	if err := r.gone(ctx, open); err != nil {
		return 0, errors.Join(append(errs, err)...)
	}
	for i := range prs {
		pr := &prs[i]
		if r.elsewhere(pr) {
			errs = append(errs, r.left(pr))
			continue
		}
		if !r.room(pr) {
			r.log.WarnContext(ctx, "a pull request is not previewed: too many are open", "number", pr.Number)
			continue
		}
		soon, err := r.consider(ctx, pr)
		if err != nil {
			if ctx.Err() != nil {
				return 0, err
			}
			errs = append(errs, fmt.Errorf("pull request %d: %w", pr.Number, err))
		}
		if soon > 0 && (again == 0 || soon < again) {
			again = soon
		}
	}
	if r.forge().Capabilities().MergeQueue && all {
		errs = append(errs, r.groups(ctx))
	}
	return again, errors.Join(errs...)
}

// room reports whether a pull request may have a record. Closed ones give way, the oldest first, and strangers' to those
// of who may write: who opens thousands does not keep others out.
func (r *repository) room(pr *forge.PullRequest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.records[pr.Number] != nil || len(r.records) < maxOpen {
		return true
	}
	var oldest *record
	for _, rec := range r.records {
		if rec.State != forge.Open && (oldest == nil || rec.Closed.Before(oldest.Closed)) {
			oldest = rec
		}
	}
	for _, rec := range r.records {
		if oldest == nil && rec.Stranger && !pr.Fork {
			oldest = rec
		}
	}
	if oldest == nil {
		return false
	}
	delete(r.records, oldest.Number)
	if err := os.Remove(filepath.Join(r.dir, strconv.Itoa(oldest.Number)+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("what was kept of an old pull request is not taken away", "err", err)
	}
	return true
}

// gone takes in what became of pull requests that are no longer open.
func (r *repository) gone(ctx context.Context, open map[int]bool) error {
	r.mu.Lock()
	var left []int
	for n, rec := range r.records {
		switch {
		case open[n] || rec.State == forge.Merged || rec.State == forge.Closed:
			if !rec.Closed.IsZero() && time.Since(rec.Closed) > keepClosed && !open[n] {
				delete(r.records, n)
				if err := os.Remove(filepath.Join(r.dir, strconv.Itoa(n)+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
					r.log.WarnContext(ctx, "what was kept of an old pull request is not taken away", "err", err)
				}
			}
		default:
			left = append(left, n)
		}
	}
	r.mu.Unlock()
	for _, n := range left {
		if err := r.refresh(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// refresh asks how a pull request stands.
func (r *repository) refresh(ctx context.Context, n int) error {
	pr, err := r.forge().PullRequest(ctx, r.repo, n)
	if err != nil && !errors.Is(err, forge.ErrNotFound) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[n]
	if rec == nil {
		return nil
	}
	if err != nil || r.elsewhere(&pr) { // what is merged into another branch brings nothing here
		pr.State = forge.Closed
	}
	if pr.State == rec.State {
		return nil
	}
	rec.State, rec.MergeCommit = pr.State, pr.MergeCommit
	if pr.State != forge.Open {
		rec.Closed = time.Now().UTC()
	}
	if pr.State == forge.Merged && !rec.Told {
		r.d.retell(pr.MergeCommit)
	}
	return r.save(rec)
}

// elsewhere reports whether a pull request goes to another branch than the one watched.
func (r *repository) elsewhere(pr *forge.PullRequest) bool {
	return r.w.Branch != "" && pr.Base.Branch != r.w.Branch
}

// left has the comment of a pull request say that it goes to another branch now.
func (r *repository) left(pr *forge.PullRequest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[pr.Number]
	if rec == nil || rec.State != forge.Open {
		return nil
	}
	if rec.Commented {
		about := r.d.about(r, pr.Head.SHA)
		body := report.NotPreviewed("it goes to the branch "+pr.Base.Branch+" now, and varan follows "+r.w.Branch, about)
		if err := r.d.out.put(&letter{Domain: r.domain, Repo: r.repo, Number: pr.Number, Marker: report.Marker(about.Fleet), Body: body, Edit: true}); err != nil {
			return err
		}
	}
	rec.State, rec.Closed, rec.Plan, rec.Risks = forge.Closed, time.Now().UTC(), nil, nil
	return r.save(rec)
}

// record is what is kept of a pull request, made if need be.
func (r *repository) record(n int) *record {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[n]
	if rec == nil {
		rec = &record{Number: n, State: forge.Open}
		r.records[n] = rec
	}
	return rec
}

// consider previews a pull request if its head, its base or the fleet changed.
func (r *repository) consider(ctx context.Context, pr *forge.PullRequest) (again time.Duration, err error) {
	basis, base := r.d.daemon.Basis()
	r.record(pr.Number)
	var rec record
	r.change(pr.Number, func(k *record) {
		if k.State != forge.Open { // reopened
			k.State, k.MergeCommit, k.Closed, k.Head, k.Told = forge.Open, "", time.Time{}, "", false
		}
		rec = *k
	})
	if basis == "" {
		if rec.Head == pr.Head.SHA { // said, before or without the base
			return 0, nil
		}
		if rec.lag < maxStarting {
			r.change(pr.Number, func(k *record) { k.lag++ })
			return r.d.timing.Again, nil
		}
		return 0, r.say(pr, "", "", nil, "the base branch could not be planned since varan started; what is wrong stands at its newest commit")
	}
	same := rec.Head == pr.Head.SHA && !rec.force
	age := max(time.Since(rec.At), 0)
	if rec.At.After(time.Now()) { // this machine's clock was set back
		age = retryFailed
	}
	wait := r.d.timing.Replan<<min(rec.Moods/50, 6) - age // where the fleet never rests, less and less often
	switch {
	case same && rec.Basis == basis && (rec.Failed == "" || age < retryFailed), same && rec.Base == base && rec.Lasting:
		return 0, nil
	case same && rec.Base == base && wait > 0: // only the fleet changed: not too often
		return wait, nil
	}
	if why, err := r.refused(ctx, pr, &rec); err != nil || why != "" {
		if err != nil {
			return 0, err
		}
		r.change(pr.Number, func(k *record) { k.Stranger = true })
		return 0, r.say(pr, basis, base, nil, why)
	}
	r.change(pr.Number, func(k *record) { k.Stranger = false })
	p, again, err := r.preview(ctx, pr, rec.lag)
	lasting := errors.Is(err, sandbox.ErrKilled) || errors.Is(err, gitrepo.ErrTooBig)
	r.change(pr.Number, func(k *record) { k.Lasting = lasting })
	switch {
	case err == nil && p == nil:
		r.change(pr.Number, func(k *record) { k.lag++ })
		return again, nil
	case err == nil:
		return 0, r.say(pr, basis, base, p, "")
	case lasting, errors.Is(err, gitrepo.ErrNotFound):
	default:
		tries := 0
		r.change(pr.Number, func(k *record) { k.tries++; tries = k.tries })
		if tries < maxTries || ctx.Err() != nil {
			return 0, err
		}
	}
	r.log.WarnContext(ctx, "pull request not previewed", "number", pr.Number, "err", err)
	return 0, r.say(pr, basis, base, nil, err.Error())
}

// change changes a record that is there, in memory.
func (r *repository) change(n int, fn func(*record)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.records[n]; rec != nil {
		fn(rec)
	}
}

// refused says why a fork's pull request is not planned.
func (r *repository) refused(ctx context.Context, pr *forge.PullRequest, rec *record) (string, error) {
	if !pr.Fork || rec.Allowed == pr.Head.SHA {
		return "", nil
	}
	switch r.d.rules().PreviewForks {
	case "all":
		return "", nil
	case "off":
		return `it comes from a fork, and preview_forks is "off"`, nil
	}
	may, err := r.forge().Permission(ctx, r.repo, pr.Author.Login)
	switch {
	case errors.Is(err, forge.ErrForbidden):
		return "it comes from a fork, and the forge does not tell varan whether its author may write here: varan forge check says why", nil
	case err != nil && !errors.Is(err, forge.ErrNotFound):
		return "", err
	}
	if may >= forge.Write {
		return "", nil
	}
	return "it comes from a fork of somebody who may not write here. Who may can look at it and comment /varan plan", nil
}

// preview plans it: the forge's merge where there is one, else what it changed over the base branch. A nil Preview
// without an error means that the forge lags and it is worth looking again.
func (r *repository) preview(ctx context.Context, pr *forge.PullRequest, lagged int) (*sync.Preview, time.Duration, error) {
	names := []string{pr.HeadRef, pr.Base.Branch}
	if pr.MergeRef != "" {
		names = append(names, pr.MergeRef)
	}
	refs, err := r.d.daemon.Refs(ctx, r.w.Address, names...)
	if err != nil {
		return nil, 0, err
	}
	lag := func() (*sync.Preview, time.Duration, error) { return nil, r.d.timing.Again, nil }
	if refs[pr.HeadRef] != pr.Head.SHA {
		if lagged < 10*maxLag { // the forge's API and its Git tell different heads
			return lag()
		}
		return nil, 0, fmt.Errorf("the forge says that its head is %s, and Git %s", plan.Short(pr.Head.SHA), plan.Short(refs[pr.HeadRef]))
	}
	if merge := refs[pr.MergeRef]; pr.MergeRef != "" && merge != "" {
		sub := sync.Subject{Ref: pr.MergeRef, Commit: merge, Merges: []string{refs[pr.Base.Branch], pr.Head.SHA}}
		p, err := r.d.daemon.Preview(ctx, r.w, sub)
		switch {
		case err == nil:
			return p, 0, nil
		case errors.Is(err, gitrepo.ErrMoved), errors.Is(err, sync.ErrNotRead), errors.Is(err, sync.ErrStale) && lagged < maxLag:
			return lag()
		case !errors.Is(err, sync.ErrStale):
			return nil, 0, err
		}
	}
	changes, err := r.forge().ChangedFiles(ctx, r.repo, pr.Number)
	if err != nil {
		return nil, 0, err
	}
	if !changes.Complete {
		return nil, 0, fmt.Errorf("it changes more files than the forge lists: %w", gitrepo.ErrTooBig)
	}
	sub := sync.Subject{Ref: pr.HeadRef, Commit: pr.Head.SHA, Over: []string{}}
	for _, f := range changes.Files {
		sub.Over = append(sub.Over, f.Path)
		if f.Previous != "" {
			sub.Over = append(sub.Over, f.Previous)
		}
	}
	p, err := r.d.daemon.Preview(ctx, r.w, sub)
	if errors.Is(err, gitrepo.ErrMoved) || errors.Is(err, sync.ErrNotRead) {
		return lag()
	}
	return p, 0, err
}

// say puts the outcome of a preview into the outbox and keeps it.
func (r *repository) say(pr *forge.PullRequest, basis, base string, p *sync.Preview, why string) error {
	rec := r.record(pr.Number)
	r.mu.Lock()
	notes, url := rec.Notes, rec.URL
	if rec.Head != pr.Head.SHA {
		notes = nil
	}
	commented, forced, stranger := rec.Commented, rec.force, rec.Stranger
	took, as := rec.Took, rec.Digest // the same plan again is not written again for the time it took
	if rec.Head != pr.Head.SHA || rec.Base != base {
		as = ""
	}
	merged := r.ledger.Final == pr.Head.SHA || slices.Contains(r.ledger.Pending, pr.Head.SHA)
	r.mu.Unlock()
	about := r.d.about(r, pr.Head.SHA)
	about.Base = base
	about.Notes = notes
	status := forge.Status{Context: r.d.context(report.PlanContext), URL: cmp.Or(url, pr.URL), Branch: pr.Head.Branch}
	var body string
	var check *forge.CheckRun
	var shown *plan.Plan
	quiet := false
	switch {
	case p == nil:
		status.State, status.Description = forge.Failure, report.Status("Not previewed: "+why)
		body = report.NotPreviewed(why, about)
	default:
		shown = p.Plan
		if about.Took = p.Took; as != "" && as == p.Plan.Digest {
			about.Took = took
		}
		took = about.Took
		about.Source = func(file string) []byte { return p.Files[file] }
		status.State, status.Description = forge.Success, report.PlanStatus(p.Plan)
		if p.Broken || p.Plan.HasErrors() {
			status.State = forge.Failure
		}
		if p.Broken {
			status.Description = report.BrokenStatus(p.Plan.Diagnostics)
			body = report.Broken(p.Plan.Diagnostics, about)
		} else {
			body = report.Preview(p.Plan, about)
		}
		quiet = status.State == forge.Success && !p.Plan.Changes() && len(sync.Risks(p.Plan)) == 0 && len(notes) == 0
		if r.forge().Capabilities().Checks {
			check = annotations(p.Plan.Diagnostics, pr.Head.SHA, r.d.context("varan/lines"))
		}
	}
	status.Description = clip(status.Description, forge.MaxDescription)
	domain := r.domain
	at := pr.StatusRepo
	if at.IsZero() {
		at = r.repo
	}
	letters := []*letter{{Domain: domain, Repo: at, SHA: pr.Head.SHA, Status: &status}}
	if !merged { // so that it can be a required check too; a fast-forward made it the branch's own commit
		waits := forge.Status{Context: r.d.context(report.ApplyContext), State: forge.Success, Description: "Applied after the merge", Branch: pr.Head.Branch}
		letters = append(letters, &letter{Domain: domain, Repo: at, SHA: pr.Head.SHA, Status: &waits})
	}
	if !quiet || commented {
		letters = append(letters, &letter{Domain: domain, Repo: r.repo, Number: pr.Number, Marker: report.Marker(about.Fleet), Body: body})
	}
	if check != nil {
		letters = append(letters, &letter{Domain: domain, Repo: at, SHA: pr.Head.SHA, Check: check})
	}
	for _, l := range letters {
		l.Last = stranger
	}
	if forced { // somebody took the comment away, perhaps
		r.d.out.forget(letters...)
	}
	if err := r.d.out.put(letters...); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case rec.Head != pr.Head.SHA || rec.Base != base:
		rec.Moods = 0
	case p != nil && p.Plan.Digest != rec.Digest:
		rec.Moods++
	}
	rec.At, rec.Head, rec.Basis, rec.Base, rec.Failed = time.Now().UTC(), pr.Head.SHA, basis, base, why
	rec.Plan, rec.Digest, rec.Risks, rec.Notes = nil, "", nil, notes
	rec.force, rec.lag, rec.tries, rec.Took = false, 0, 0, took
	rec.Commented = rec.Commented || !quiet
	if shown != nil {
		rec.Plan, rec.Digest, rec.Risks = worth(shown), shown.Digest, sync.Risks(shown)
		rec.Risks = rec.Risks[:min(len(rec.Risks), maxRisks)]
	}
	return r.save(rec)
}

// A record is kept of every open pull request, and a stranger may open many.
const (
	maxKept  = 256 << 10 // bytes of a plan kept to compare it with what came of it
	maxRisks = 1000      // more fit into no comment: the others were not shown
)

// worth is what of a plan is kept for that; nil when it is too much.
func worth(p *plan.Plan) *plan.Plan {
	out := &plan.Plan{Version: p.Version, Commit: p.Commit, Digest: p.Digest}
	for i := range p.Steps {
		s := p.Steps[i]
		if !s.Action.Changes() && s.Action != plan.Blocked && s.Action != plan.Held && s.Action != plan.Unknown {
			continue
		}
		s.Declared = nil
		out.Steps = append(out.Steps, s)
	}
	if data, err := json.Marshal(out); err != nil || len(data) > maxKept {
		return nil
	}
	return out
}

// bare is a plan without values.
func bare(p *plan.Plan) *plan.Plan {
	out := *p
	out.Steps = slices.Clone(p.Steps)
	for i := range out.Steps {
		out.Steps[i] = sync.Bare(out.Steps[i])
	}
	return &out
}

// annotations are the mistakes at their lines; nil without any.
func annotations(ds []schema.Diagnostic, sha, name string) *forge.CheckRun {
	run := &forge.CheckRun{Name: name, SHA: sha, Conclusion: forge.Neutral, Title: "Where varan plan sees something"}
	for _, d := range ds {
		if d.File == "" || d.Line == 0 || len(run.Annotations) == forge.MaxAnnotations {
			continue
		}
		level := forge.Warning
		if d.Severity == schema.SeverityError {
			level, run.Conclusion = forge.Fault, forge.Failed
		}
		text := d.Message
		if d.Hint != "" {
			text += "\n" + d.Hint
		}
		run.Annotations = append(run.Annotations, forge.Annotation{Path: d.File, Line: d.Line, Column: d.Column, Message: strings.TrimRight(report.Lines(text, ""), "\n"), Level: level})
	}
	if len(run.Annotations) == 0 {
		return nil
	}
	run.Summary = fmt.Sprintf("%d places. The plan stands in the comment and the status varan/plan.", len(run.Annotations))
	return run
}

// groups previews merge-queue groups: commits that will be the branch's next ones.
func (r *repository) groups(ctx context.Context) error {
	branches, err := r.d.daemon.Branches(ctx, r.w.Address, queuePrefix+r.w.Branch+"/")
	if err != nil {
		return err
	}
	basis, _ := r.d.daemon.Basis()
	if basis == "" {
		return nil
	}
	var errs []error
	for branch, sha := range branches {
		r.mu.Lock()
		seen := r.ledger.Groups[branch] == sha
		r.mu.Unlock()
		if seen {
			continue
		}
		p, err := r.d.daemon.Preview(ctx, r.w, sync.Subject{Ref: branch, Commit: sha})
		if errors.Is(err, gitrepo.ErrMoved) || errors.Is(err, sync.ErrNotRead) {
			continue
		}
		status := forge.Status{Context: r.d.context(report.PlanContext), State: forge.Failure}
		lasting := errors.Is(err, sandbox.ErrKilled) || errors.Is(err, gitrepo.ErrTooBig)
		if err != nil && !lasting && r.groupTries[sha] < maxTries-1 { // a failure would throw it out of the queue
			if len(r.groupTries) > 200 {
				clear(r.groupTries)
			}
			r.groupTries[sha]++
			errs = append(errs, fmt.Errorf("merge-queue group %s: %w", plan.Short(sha), err))
			continue
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return err
		case err != nil:
			status.Description = report.Status("Not previewed: " + err.Error())
		case p.Broken || p.Plan.HasErrors():
			status.Description = report.BrokenStatus(p.Plan.Diagnostics)
		default:
			status.State, status.Description = forge.Success, report.PlanStatus(p.Plan)
		}
		status.Description = clip(status.Description, forge.MaxDescription)
		domain := r.domain
		letters := []*letter{{Domain: domain, Repo: r.repo, SHA: sha, Status: &status}}
		letters = append(letters, &letter{Domain: domain, Repo: r.repo, SHA: sha, Status: &forge.Status{Context: r.d.context(report.ApplyContext), State: forge.Success, Description: "Applied after the merge"}})
		if err = r.d.out.put(letters...); err != nil {
			errs = append(errs, err)
			continue
		}
		r.mu.Lock()
		if r.ledger.Groups == nil || len(r.ledger.Groups) > 200 {
			r.ledger.Groups = make(map[string]string)
		}
		r.ledger.Groups[branch] = sha
		errs = append(errs, r.saveLedger())
		r.mu.Unlock()
	}
	return errors.Join(errs...)
}

// commented notes where the comment stands.
func (r *repository) commented(n int, body string, c forge.Comment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[n]
	if rec == nil {
		return
	}
	asks := rec.Asks != "" && rec.Asks != rec.Shown && shows(body, rec.Asks)
	if rec.Commented && rec.URL == c.URL && !asks {
		return
	}
	rec.Commented, rec.URL = true, c.URL
	if asks {
		rec.Replaced = rec.Replaced || rec.Shown != ""
		rec.Shown, rec.ShownAt = rec.Asks, c.Updated
	}
	if err := r.save(rec); err != nil {
		r.log.Warn("a pull request's record is not kept", "number", n, "err", err)
	}
}

// settle is the status of a commit, after the last word on older ones that were left pending: nothing stays so. That
// they had it is noted by calling kept, when the letters are on disk. said is an outcome without its duration, "" = it is
// none yet.
func (r *repository) settle(commit string, status forge.Status, said string) (out []*letter, kept func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	domain := r.domain
	var pending []string
	for _, old := range r.ledger.Pending {
		if old == commit {
			continue
		}
		out = append(out, &letter{Domain: domain, Repo: r.repo, SHA: old, Status: &forge.Status{Context: status.Context, State: forge.Error, Branch: r.w.Branch,
			Description: "Superseded by " + plan.Short(commit)}})
	}
	if status.State == forge.Pending {
		pending = []string{commit}
	}
	final := ""
	if said != "" && status.State != forge.Pending {
		final = commit
	}
	kept = func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if slices.Equal(pending, r.ledger.Pending) && final == r.ledger.Final && said == r.ledger.Said {
			return nil
		}
		r.ledger.Pending, r.ledger.Final, r.ledger.Said = pending, final, said
		return r.saveLedger()
	}
	return append(out, &letter{Domain: domain, Repo: r.repo, SHA: commit, Status: &status}), kept
}

// repeats reports whether an outcome need not be told at its commit: of a run that was not for it, and says what stands
// there, or that all is well where all is. A forge takes 1,000 statuses a commit, and a commit may stay for months.
func (r *repository) repeats(k *kept, said string) bool {
	if !k.Stays && (k.Trigger == "commit" || k.Trigger == "command" || k.Trigger == "start") {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	well := string(forge.Success) + " "
	return r.ledger.Final == k.Commit && (r.ledger.Said == said || strings.HasPrefix(said, well) && strings.HasPrefix(r.ledger.Said, well))
}

// isFinal reports whether the outcome of a commit is the last one that was told.
func (r *repository) isFinal(commit string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ledger.Final == commit
}

// mergedAs lists the pull requests that a commit of the branch brought in: the one merged as it, and those merged
// before it whose outcome was not told.
func (r *repository) mergedAs(ctx context.Context, commit string, at time.Time) ([]int, error) {
	prs, err := r.forge().PullRequestsOf(ctx, r.repo, commit)
	if err != nil && !errors.Is(err, forge.ErrNotFound) {
		return nil, err
	}
	var out []int
	for _, pr := range prs {
		if pr.State == forge.Merged && (r.w.Branch == "" || pr.Base.Branch == r.w.Branch) && len(out) < 3 {
			out = append(out, pr.Number)
			rec := r.record(pr.Number)
			r.mu.Lock()
			rec.State, rec.MergeCommit = forge.Merged, pr.MergeCommit
			if rec.Closed.IsZero() {
				rec.Closed = time.Now().UTC()
			}
			err := r.save(rec)
			r.mu.Unlock()
			if err != nil {
				return nil, err
			}
		}
	}
	r.mu.Lock()
	var open []int
	for n, rec := range r.records {
		if rec.State == forge.Open {
			open = append(open, n)
		}
	}
	r.mu.Unlock()
	slices.Sort(open)
	for _, n := range open[:min(len(open), 20)] { // merged a moment ago, perhaps
		if err := r.refresh(ctx, n); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, rec := range r.records {
		if rec.State == forge.Merged && !rec.Told && !slices.Contains(out, n) && time.Since(rec.Closed) < 24*time.Hour {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out[max(0, len(out)-5):], nil // ten writes a run, statuses included
}

// A note is a comment's letter with where the comment stands now.
type note struct {
	letter
	url string
}

// afterMerge is the comment that tells what a merge did.
func (r *repository) afterMerge(ctx context.Context, k *kept, n int) (*note, error) {
	rec := r.record(n)
	r.mu.Lock()
	previewed, digest, commented, url, notes := rec.Plan, rec.Digest, rec.Commented, rec.URL, slices.Clone(rec.Notes)
	over := k.Stays && k.Stage == sync.StageApplied && rec.Told && rec.Asks == ""
	r.mu.Unlock()
	if over { // what it did stays told; this run was for another repository
		return nil, nil
	}
	if k.Repo != "" && previewed != nil && previewed.Digest != k.Plan.Digest {
		previewed = bare(previewed) // there no value is told, so none is compared
	}
	result := k.Result
	if previewed == nil && digest != "" && k.Plan != nil && result != nil { // too large to be kept
		if digest == k.Plan.Digest {
			previewed = &plan.Plan{Digest: digest}
		} else {
			other := *result
			other.Differs = true
			result = &other
		}
	}
	about := r.d.about(r, k.Commit)
	about.Previewed, about.Page = previewed, r.d.page(k.Run)
	about.Output = r.forge().ReportOutput && r.isPrivate(ctx)
	l := &note{url: url, letter: letter{Domain: r.domain, Repo: r.repo, Number: n, Marker: report.Marker(about.Fleet)}}
	asks, told := "", false
	switch k.Stage {
	case sync.StageBroken:
		l.Body, told = report.Broken(k.Diagnostics, about), true
	case sync.StagePlanned:
		asks, about.Notes = k.Plan.Digest, notes // an answer given meanwhile stays to be read
		l.Body = report.Outcome(k.Plan, &apply.Result{Status: apply.StatusAsks, Asks: k.Plan.Asks}, about)
	default:
		if k.Run == "" && !commented {
			if previewed != nil {
				return nil, r.tell(rec, "", true) // nothing to do, and nothing was said
			}
			l.Edit = true // another daemon may have said something: it did the work, or its memory is lost
		}
		l.Body, told = report.Outcome(k.Plan, result, about), true
	}
	return l, r.tell(rec, asks, told)
}

// configSoon is config, waited for where it is only about to be watched: what was merged while nothing ran is planned
// at once after the start.
func (d *Desk) configSoon(ctx context.Context) (*repository, error) {
	if len(d.domains()) == 0 {
		return nil, nil
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-d.began:
	}
	for {
		if r := d.config(); r != nil {
			return r, nil
		}
		ours := false
		for _, w := range d.daemon.Watched() {
			_, on := d.forgeOf(w.Address)
			ours = ours || w.Config && on
		}
		if !ours {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(d.timing.Basis):
		}
	}
}

func (r *repository) anyOpen() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.records {
		if rec.State == forge.Open {
			return true
		}
	}
	return false
}

func (r *repository) tell(rec *record, asks string, told bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.Asks, rec.Told = asks, told
	return r.save(rec)
}

func (r *repository) isPrivate(ctx context.Context) bool {
	at, err := r.forge().Repository(ctx, r.repo) // each time: it may be made public while varan runs
	return err == nil && at.Private
}

// shown are the risks that our comment on a pull request shows. What could not be written was not seen; what is just
// being written is waited for.
func (r *repository) shown(ctx context.Context, n int) []string {
	for try := 0; ; try++ {
		wrote := r.d.out.waits(&letter{Domain: r.domain, Repo: r.repo, Number: n}) == nil
		r.mu.Lock()
		rec := r.records[n]
		var risks []string
		if wrote = wrote && rec != nil && rec.URL != ""; wrote {
			risks = slices.Clone(rec.Risks)
		}
		none := rec == nil || len(rec.Risks) == 0
		r.mu.Unlock()
		if wrote || none || try == 5 {
			return risks
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(r.d.timing.Again):
		}
	}
}

// Surprises tells which risks of a commit's plan the pull requests it came by did not show: the daemon asks about
// them. A commit that came without a pull request has none: nothing was shown before it.
func (d *Desk) Surprises(ctx context.Context, commit string, risks []string) []string {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := d.configSoon(ctx)
	switch {
	case err != nil:
		return risks
	case r == nil:
		return nil
	}
	numbers, err := r.mergedAs(ctx, commit, time.Now())
	for tries := 0; err == nil && len(numbers) == 0 && tries < 3 && r.anyOpen(); tries++ { // the forge may tell of a merge a moment after Git does
		select {
		case <-ctx.Done():
		case <-time.After(r.d.timing.Again):
		}
		numbers, err = r.mergedAs(ctx, commit, time.Now())
	}
	if err != nil {
		r.log.WarnContext(ctx, "the forge could not be asked what the pull request had shown", "err", err)
		return risks
	}
	if len(numbers) == 0 {
		return nil
	}
	var shown []string
	for _, n := range numbers {
		shown = append(shown, r.shown(ctx, n)...)
	}
	return slices.DeleteFunc(slices.Clone(risks), func(risk string) bool { return slices.Contains(shown, risk) })
}

package pulls

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/report"
)

// A kept report is a sync.Report on disk.
type kept struct {
	Stage       sync.Stage         `json:"stage"`
	Sync        string             `json:"sync"`
	Commit      string             `json:"commit"`
	Run         string             `json:"run,omitempty"`
	Trigger     string             `json:"trigger,omitempty"`
	Plan        *plan.Plan         `json:"plan,omitempty"`
	Result      *apply.Result      `json:"result,omitempty"`
	Diagnostics schema.Diagnostics `json:"diagnostics,omitempty"`
	Why         string             `json:"why,omitempty"`
	At          time.Time          `json:"at"`
	// Stays: other repositories moved, the config's did not.
	Stays bool `json:"stays,omitempty"`
	// Repo and Branch are set where it is about another repository than the config's, at Commit.
	Repo   string `json:"repo,omitempty"`
	Branch string `json:"branch,omitempty"`
	// Again: the commit's status was told; this is for the comment of a pull request that was not known then.
	Again bool `json:"again,omitempty"`
}

const maxReports = 500

// An inbox keeps reports until they are delivered, in order.
type inbox struct {
	dir string
	log *slog.Logger

	mu    gosync.Mutex // guards below
	names []string     // sorted
	seq   uint64
	late  []*kept // the disk did not take them yet
	wake  chan struct{}
}

const (
	maxLate   = 50
	lateAgain = 2 * time.Second
)

func openInbox(dir string, log *slog.Logger) (*inbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the reports' folder: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open the reports' folder: %w", err)
	}
	b := &inbox{dir: dir, log: log, wake: make(chan struct{}, 1)}
	for _, f := range files {
		var n uint64
		if _, err := fmt.Sscanf(f.Name(), "%016x.json", &n); err == nil && strings.HasSuffix(f.Name(), ".json") {
			b.names = append(b.names, f.Name())
			b.seq = max(b.seq, n)
		}
	}
	slices.Sort(b.names)
	return b, nil
}

// put keeps a report. While the disk takes nothing it is kept in memory, so that a status does not stay pending for good.
func (b *inbox) put(k *kept) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}()
	b.flush()
	if len(b.late) == 0 {
		err := b.keep(k)
		if err == nil {
			return nil
		}
		b.log.Warn("a report waits for the disk", "commit", k.Commit, "stage", k.Stage, "err", err)
	}
	if len(b.late) >= maxLate {
		return errors.New("the disk takes nothing")
	}
	b.late = append(b.late, k)
	return nil
}

// flush keeps what the disk did not take before. The caller holds mu.
func (b *inbox) flush() {
	for len(b.late) > 0 && b.keep(b.late[0]) == nil {
		b.late = b.late[1:]
	}
}

// waits reports whether reports wait for the disk.
func (b *inbox) waits() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.late) > 0
}

// keep writes a report. The caller holds mu.
func (b *inbox) keep(k *kept) error {
	b.seq++
	name := fmt.Sprintf("%016x.json", b.seq)
	if err := store(filepath.Join(b.dir, name), k); err != nil {
		return err
	}
	b.names = append(b.names, name)
	for len(b.names) > maxReports {
		b.log.Warn("a report waited too long for its forge and is dropped", "file", b.names[0])
		b.drop(b.names[0])
	}
	return nil
}

// drop forgets a report. The caller holds mu.
func (b *inbox) drop(name string) {
	if err := os.Remove(filepath.Join(b.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.log.Warn("a delivered report is not taken away", "err", err)
	}
	b.names = slices.DeleteFunc(b.names, func(n string) bool { return n == name })
}

func (b *inbox) first() (string, *kept) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flush()
	for len(b.names) > 0 {
		name := b.names[0]
		k := &kept{}
		err := load(filepath.Join(b.dir, name), k)
		if err == nil {
			return name, k
		}
		b.log.Warn("a kept report is not understood and dropped", "file", name, "err", err)
		b.drop(name)
	}
	return "", nil
}

// Report implements sync.Reporter: what is worth telling a forge is kept before it returns.
func (d *Desk) Report(ctx context.Context, r sync.Report) {
	if len(d.domains()) == 0 || r.Commit == "" || r.Stage == sync.StageUnreachable {
		return
	}
	d.reportMoved(ctx, r)
	if r.Stage == sync.StageApplied && r.Trigger == "drift" && (r.Result == nil || r.Result.OK()) {
		return // put right as declared: the commit's word stands
	}
	k := &kept{Stage: r.Stage, Sync: r.Sync, Commit: r.Commit, Run: r.Run, Trigger: r.Trigger, Plan: r.Plan, Result: r.Result,
		Diagnostics: r.Diagnostics, Why: r.Why, At: time.Now().UTC(), Stays: r.Stays}
	if r.Result != nil && len(r.Result.Steps) > 0 && !d.printing() { // what containers print stays here
		quiet := *r.Result
		quiet.Steps = slices.Clone(quiet.Steps)
		for i := range quiet.Steps {
			quiet.Steps[i].Tail = ""
		}
		k.Result = &quiet
	}
	if err := d.inbox.put(k); err != nil {
		d.log.ErrorContext(ctx, "the forge will not be told about a commit", "commit", r.Commit, "stage", r.Stage, "err", err)
	}
}

// reportMoved keeps what is worth telling the repositories that stacks come from. They have an inbox of their own: one
// that cannot be asked keeps nobody waiting who waits for a word on the config repository.
func (d *Desk) reportMoved(ctx context.Context, r sync.Report) {
	for _, m := range r.Moved {
		if _, ours := d.forgeOf(m.Address); !ours {
			continue
		}
		k := &kept{Stage: r.Stage, Sync: r.Sync, Commit: m.Commit, Run: r.Run, Trigger: r.Trigger, Plan: m.Plan, Result: m.Result,
			At: time.Now().UTC(), Repo: m.Address.String(), Branch: m.Branch}
		if err := d.others.put(k); err != nil {
			d.log.ErrorContext(ctx, "the forge will not be told about a commit", "repo", k.Repo, "commit", k.Commit, "stage", r.Stage, "err", err)
		}
	}
}

func (d *Desk) printing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.forges {
		if f.ReportOutput {
			return true
		}
	}
	return false
}

// maxUntold is how often it is tried to tell about a repository whose forge does not answer what must be asked.
const maxUntold = 5

// deliver turns an inbox's reports into letters, one after another.
func (d *Desk) deliver(ctx context.Context, from *inbox, lettersOf func(context.Context, *kept) ([]*letter, func() error, error)) error {
	fails := 0
	for {
		name, k := from.first()
		if k == nil {
			var disk <-chan time.Time
			if from.waits() {
				disk = time.After(lateAgain)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-from.wake:
			case <-disk:
			}
			continue
		}
		letters, settled, err := lettersOf(ctx, k)
		if err != nil && k.Repo != "" && fails >= maxUntold && !errors.Is(err, errLater) {
			if _, passes := forge.Retry(err); !passes {
				d.log.ErrorContext(ctx, "the forge is not told about a commit", "repo", k.Repo, "commit", k.Commit, "err", err)
				letters, settled, err = nil, nil, nil
			}
		}
		if err == nil {
			err = d.out.put(letters...)
		}
		if err == nil && settled != nil {
			err = settled()
		}
		if err == nil {
			fails = 0
			if k.Repo == "" {
				d.mu.Lock()
				d.last = k
				d.mu.Unlock()
			}
			from.mu.Lock()
			from.drop(name)
			from.mu.Unlock()
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		fails++
		wait := d.out.wait(err, fails)
		if !errors.Is(err, errLater) {
			d.log.WarnContext(ctx, "a commit's outcome is not told yet", "commit", k.Commit, "again_in", wait.Round(time.Millisecond), "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// errLater: what is needed is not known yet.
var errLater = errors.New("not known yet")

// letters are what is to be said about a commit: a status, and the comment of the pull requests it came by. settled,
// which may be nil, is to be called when they are kept.
func (d *Desk) letters(ctx context.Context, k *kept) (out []*letter, settled func() error, err error) {
	r := d.config()
	if r == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !d.watched {
			return nil, nil, errLater
		}
		return nil, nil, nil // the config repository lies on no forge of ours
	}
	return d.lettersTo(ctx, r, k)
}

// lettersMoved is letters for another repository that stacks take their files from.
func (d *Desk) lettersMoved(ctx context.Context, k *kept) (out []*letter, settled func() error, err error) {
	d.mu.Lock()
	var r *repository
	for _, one := range d.repos {
		if !one.unused && !one.w.Config && one.w.Address.String() == k.Repo && one.w.Branch == k.Branch {
			r = one
		}
	}
	watched := d.watched
	d.mu.Unlock()
	switch {
	case r == nil && !watched:
		return nil, nil, errLater
	case r == nil, k.Stage == sync.StageApplying: // two words a commit are enough there
		return nil, nil, nil
	}
	return d.lettersTo(ctx, r, k)
}

func (d *Desk) lettersTo(ctx context.Context, r *repository, k *kept) (out []*letter, settled func() error, err error) {
	if k.Stage == sync.StageApplied && k.Run == "" && !k.Again && r.isFinal(k.Commit) {
		return nil, nil, nil // looked at again after a restart: what was done stays told
	}
	if k.Stays && k.Repo == "" && k.Stage == sync.StageApplying {
		return nil, nil, nil // of another repository's commit: this one's word stands until there is another
	}
	status := forge.Status{Context: d.context(report.ApplyContext), Branch: r.w.Branch, URL: d.page(k.Run)}
	switch k.Stage {
	case sync.StageBroken:
		status.State, status.Description = forge.Failure, report.BrokenStatus(k.Diagnostics)
	case sync.StageWaiting:
		status.State, status.Description = forge.Pending, report.Status("Waits: "+k.Why)
	case sync.StagePlanned:
		status.State, status.Description = forge.Pending, report.ApplyStatus(&apply.Result{Status: apply.StatusAsks, Asks: k.Plan.Asks})
	case sync.StageApplying:
		status.State, status.Description = forge.Pending, report.ApplyStatus(&apply.Result{Status: apply.StatusRunning})
	case sync.StageApplied:
		status.State, status.Description = outcome(k.Result), report.ApplyStatus(k.Result)
		if k.Repo != "" && status.State == forge.Success && (k.Plan.HasErrors() || k.Plan.Summary[plan.Blocked] > 0) {
			status.State, status.Description = forge.Failure, report.BlockedStatus(k.Plan)
		}
	default:
		return nil, nil, nil
	}
	status.Description = clip(status.Description, forge.MaxDescription)
	main := &status
	said := ""
	if k.Stage == sync.StageApplied && k.Result != nil {
		timeless := *k.Result
		timeless.Millis = 0
		said = string(status.State) + " " + report.ApplyStatus(&timeless)
		if k.Repo == "" && !k.Again && r.repeats(k, said) {
			return nil, nil, nil
		}
	}
	if !k.Again {
		out, settled = r.settle(k.Commit, status, said)
		main = out[len(out)-1].Status
	}
	if k.Stage == sync.StageWaiting || k.Stage == sync.StageApplying {
		return out, settled, nil // the comment follows with the outcome
	}
	prs, err := r.mergedAs(ctx, k.Commit, k.At)
	if errors.Is(err, forge.ErrForbidden) { // the status at least
		d.log.WarnContext(ctx, "which pull request a commit came by is not told", "repo", r.repo.String(), "commit", k.Commit, "err", err)
		return out, settled, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, pr := range prs {
		l, err := r.afterMerge(ctx, k, pr)
		if err != nil {
			return nil, nil, err
		}
		if l != nil {
			if status.URL == "" {
				main.URL = cmp.Or(main.URL, l.url)
			}
			out = append(out, &l.letter)
		}
	}
	return out, settled, nil
}

func outcome(res *apply.Result) forge.StatusState {
	switch {
	case res == nil || res.OK():
		return forge.Success
	case res.Status == apply.StatusFailed:
		return forge.Failure
	case res.Status == apply.StatusAsks, res.Status == apply.StatusRunning:
		return forge.Pending
	}
	return forge.Error // superseded, cancelled, interrupted
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

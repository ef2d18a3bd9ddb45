package pulls

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/report"
)

// comments takes commands out of new comments.
func (r *repository) comments(ctx context.Context) error {
	r.mu.Lock()
	if r.ledger.Since.IsZero() { // the first look: what was said before, by the forge's clock, is no command
		r.ledger.Since = r.forge().Now().UTC().Truncate(time.Second)
		r.ledger.Floor = r.ledger.Since
		if err := r.saveLedger(); err != nil {
			r.mu.Unlock()
			return err
		}
	}
	since, floor := r.ledger.Since, r.ledger.Floor
	r.mu.Unlock()
	from := since.Add(-lateComments)
	if from.Before(floor) {
		from = floor
	}
	list, err := r.forge().NewComments(ctx, r.repo, from)
	if err != nil {
		return err
	}
	newest := since
	for i := range list {
		c := &list[i]
		if err := r.command(ctx, c); err != nil {
			return err
		}
		if c.Updated.After(newest) {
			newest = c.Updated
		}
	}
	if newest.Equal(since) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ledger.Since = newest
	return r.saveLedger()
}

// lateComments is how far back it is looked again: a forge may show a comment after a newer one. None is obeyed twice.
const lateComments = 2 * time.Minute

// The commands.
const (
	planCommand  = "/varan plan"
	applyCommand = "/varan apply"
)

// commandOf is the command a comment gives: its whole first line.
func commandOf(body string) string {
	line, _, _ := strings.Cut(body, "\n")
	switch line = strings.TrimRight(line, " \t\r"); line {
	case planCommand, applyCommand:
		return line
	}
	return ""
}

// command obeys a comment, once. What was delivered is no order: the comment, its author and what the author may do
// are asked back from the forge.
func (r *repository) command(ctx context.Context, told *forge.Comment) error {
	what := commandOf(told.Body)
	if what == "" || told.Edited || told.Author.Bot {
		return nil
	}
	r.mu.Lock()
	used := slices.Contains(r.ledger.Used, told.ID)
	r.mu.Unlock()
	if used {
		return nil
	}
	me, err := r.forge().Me(ctx)
	if err != nil {
		return err
	}
	if me.Is(told.Author.Login) {
		return nil
	}
	c, err := r.forge().Comment(ctx, r.repo, told.Number, told.ID)
	switch {
	case errors.Is(err, forge.ErrNotFound):
		return nil
	case err != nil:
		return err
	case c.Edited || commandOf(c.Body) != what || c.Number != told.Number || !c.Author.Is(told.Author.Login) || c.Author.Bot || me.Is(c.Author.Login):
		return nil
	}
	pr, err := r.forge().PullRequest(ctx, r.repo, c.Number)
	switch {
	case errors.Is(err, forge.ErrNotFound):
		return nil
	case err != nil:
		return err
	case r.w.Branch != "" && pr.Base.Branch != r.w.Branch:
		return nil
	}
	may, err := r.forge().Permission(ctx, r.repo, c.Author.Login)
	untold := errors.Is(err, forge.ErrForbidden)
	if err != nil && !untold && !errors.Is(err, forge.ErrNotFound) {
		return err
	}
	// From here on the comment is spent, whatever comes of it.
	r.mu.Lock()
	r.ledger.Used = append(r.ledger.Used, c.ID)
	err = r.saveLedger()
	r.mu.Unlock()
	if err != nil {
		return err
	}
	r.log.InfoContext(ctx, "command in a comment", "number", pr.Number, "command", what, "actor", c.Author.Login, "permission", may.String())
	if untold { // asking again changes nothing, and nothing else must wait for it
		r.log.WarnContext(ctx, "what somebody may do is not told", "number", pr.Number, "actor", c.Author.Login, "err", err)
		return r.answer(ctx, r.record(pr.Number), &pr, may, "the forge does not tell varan what who wrote that command may do here, so it is not obeyed: varan forge check says why")
	}
	if what == planCommand {
		return r.replan(ctx, &pr, c.Author.Login, may)
	}
	return r.approve(ctx, &pr, c.Author.Login, may, c.Created)
}

const notShown = "the comment does not show the plan that waits yet: approve again when it does"

// shows reports whether a comment of ours asks for that very plan.
func shows(body, digest string) bool {
	sealed, _, ok := report.Sealed(body)
	return ok && sealed == digest
}

// unseen says why who wrote at a moment cannot have meant the plan of that digest: our comment came to show it later.
// Forges tell seconds, so within one the doubt is for the plan that stood there before.
func (r *repository) unseen(rec *record, digest string, said time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case rec.Shown != digest:
		return notShown
	case said.Before(rec.ShownAt) || rec.Replaced && !said.After(rec.ShownAt):
		return "the plan changed when the approval was written: look at it and approve again"
	}
	return ""
}

// replan has a pull request planned again; of a fork it is the word of somebody who may write that this head is fit.
func (r *repository) replan(_ context.Context, pr *forge.PullRequest, actor string, may forge.Permission) error {
	rec := r.record(pr.Number)
	r.mu.Lock()
	defer r.mu.Unlock()
	if may < forge.Write {
		return nil // whoever may only read may ask in words
	}
	rec.force, rec.Allowed = true, cmp.Or(rec.Head, pr.Head.SHA) // the one that our comment was about
	return r.save(rec)
}

// approve answers the plan that our comment on a merged pull request shows.
func (r *repository) approve(ctx context.Context, pr *forge.PullRequest, actor string, may forge.Permission, said time.Time) error {
	rec := r.record(pr.Number)
	rules := r.d.rules()
	r.mu.Lock()
	asks := rec.Asks
	r.mu.Unlock()
	pending, commit := r.d.daemon.Pending()
	answer, gone := "", false
	switch {
	case !r.w.Config:
		answer = "/varan apply is for the config repository: what an app's repository changes is applied by its branch"
	case may < forge.Write: // the same for all, so that it is said once
		answer = "who may not write to the repository may not approve here"
	case len(rules.Approvers) > 0 && !slices.ContainsFunc(rules.Approvers, func(a string) bool { return strings.EqualFold(a, actor) }):
		answer = actor + " may not approve here"
	case pr.State != forge.Merged:
		answer = "/varan apply approves a plan after the merge; before it there is nothing to apply"
	case asks == "" || pending == "":
		answer = "no plan waits for an approval"
	case asks != pending:
		answer = "the plan that waits is another one than this comment shows: " + plan.Short(pending)
	}
	if answer == "" {
		mine, err := r.forge().OwnComment(ctx, r.repo, pr.Number, report.Marker(rules.Fleet))
		switch {
		case errors.Is(err, forge.ErrNotFound):
			answer, gone = notShown, true
		case err != nil:
			return err
		case !shows(mine.Body, asks):
			answer = notShown
		default:
			answer = r.unseen(rec, asks, said)
		}
	}
	if answer != "" {
		err := r.answer(ctx, rec, pr, may, answer)
		if gone { // somebody took our comment away: it is written anew
			r.d.out.forget(&letter{Domain: r.domain, Repo: r.repo, Number: pr.Number})
			r.d.retell(commit)
		}
		return err
	}
	actor = r.domain + ":" + actor
	go func() { // it lasts as long as the run; its outcome is told as every run's
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 6*time.Hour)
		defer cancel()
		if err := r.d.daemon.Approve(ctx, asks, actor); err != nil {
			r.log.WarnContext(ctx, "approved, and not applied as it was shown", "number", pr.Number, "commit", commit, "actor", actor, "err", err)
			why := ""
			switch {
			case errors.Is(err, sync.ErrChanged):
				why = "the plan made now differs from the approved one, so nothing was applied"
			case errors.Is(err, sync.ErrNotAsked):
				why = "no plan waits for an approval"
			default:
				return // a run that ended otherwise is told as every run is
			}
			if err := r.answer(ctx, rec, pr, may, why); err != nil {
				r.log.WarnContext(ctx, "answer not given", "err", err)
			}
		}
	}()
	return nil
}

// answer shows a word in our comment: an open pull request is planned again with it, a merged one's gets it at its end.
// Who may only read has nothing planned again more than once for that.
func (r *repository) answer(ctx context.Context, rec *record, pr *forge.PullRequest, may forge.Permission, text string) error {
	r.log.InfoContext(ctx, "command not obeyed", "number", pr.Number, "why", text)
	if err := r.note(rec, text, pr.State == forge.Open, may >= forge.Write); err != nil || pr.State == forge.Open {
		return err
	}
	marker := report.Marker(r.d.rules().Fleet)
	l := &letter{Domain: r.domain, Repo: r.repo, Number: pr.Number, Marker: marker, Edit: true}
	if waits := r.d.out.waits(l); waits != nil { // what is not sent yet is not lost for the answer's sake
		l.Body, l.Edit = waits.Body, waits.Edit
	} else {
		mine, err := r.forge().OwnComment(ctx, r.repo, pr.Number, marker)
		if errors.Is(err, forge.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		l.Body = mine.Body
	}
	quote := "\n\n> [!NOTE]\n> " + report.Markdown(text) + "\n"
	if strings.Contains(l.Body, quote) || len(l.Body)+len(quote) > forge.MaxComment-4096 {
		return nil
	}
	l.Body = strings.TrimRight(l.Body, "\n") + quote
	return r.d.out.put(l)
}

// note keeps an answer for the comments that are still to be written. With plan it is planned again for its sake, each
// time or only when it was not said before.
func (r *repository) note(rec *record, text string, plan, each bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.force = rec.force || plan && (each || !slices.Contains(rec.Notes, text))
	if !slices.Contains(rec.Notes, text) {
		rec.Notes = append(rec.Notes, text)
		rec.Notes = rec.Notes[max(0, len(rec.Notes)-3):]
	}
	return r.save(rec)
}

package gitrepo

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// A Relation says how a new head stands to an old one.
type Relation string

const (
	Same      Relation = "same"
	Descends  Relation = "descends"  // the old one is in the new one's history
	Ancestor  Relation = "ancestor"  // the branch was set back to what came before
	Diverged  Relation = "diverged"  // rewritten: rebased, amended, force-pushed
	Unrelated Relation = "unrelated" // no common history is known
)

// maxCommits bounds how far back history is looked at.
const maxCommits = 200_000

// Relate tells how commit new stands to commit old. Both are of the branch, now or formerly.
//
// Our history begins, as a rule, at the commit the mirror was made with: what came before is not here, though
// the commit at the cut still names its parents. A head that does not descend from old comes with all of its
// own history, so old's chain and the parents named at its end are looked for in that. What cannot be told
// counts as Unrelated, which is asked about; more is fetched only where the answer depends on it.
func (r *Repo) Relate(ctx context.Context, branch, oldCommit, newCommit string) (Relation, error) {
	if oldCommit == newCommit {
		return Same, nil
	}
	if !plumbing.IsHash(oldCommit) || !plumbing.IsHash(newCommit) {
		return Unrelated, nil
	}
	from, to := plumbing.NewHash(oldCommit), plumbing.NewHash(newCommit)
	relation, cut, err := r.relate(from, to)
	if err != nil || relation == Descends || !cut || r.local != nil {
		return relation, err
	}
	if err := r.deepen(ctx, branch, plumbing.ZeroHash); err != nil {
		return relation, fmt.Errorf("fetch the history of %s: %w", r.addr, err)
	}
	relation, _, err = r.relate(from, to)
	return relation, err
}

// relate looks at what is here. Cut: history is missing that could change the answer.
func (r *Repo) relate(from, to plumbing.Hash) (Relation, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, nowCut, err := r.store.history(to, from)
	if err != nil {
		return "", false, fmt.Errorf("read history of %s: %w", to, err)
	}
	if now[from] {
		return Descends, false, nil
	}
	before, beforeCut, err := r.store.history(from, plumbing.ZeroHash)
	if err != nil {
		return "", false, fmt.Errorf("read history of %s: %w", from, err)
	}
	if before[to] {
		return Ancestor, false, nil
	}
	for h := range before {
		if now[h] {
			return Diverged, false, nil
		}
	}
	return Unrelated, nowCut || beforeCut, nil
}

// history collects a commit and its ancestors, newest first, until it meets stop. A parent that is not here
// is named in it too, and cut is set.
func (st *store) history(from, stop plumbing.Hash) (seen map[plumbing.Hash]bool, cut bool, err error) {
	seen = map[plumbing.Hash]bool{from: true}
	queue := &byAge{}
	push := func(h plumbing.Hash) error {
		_, c, err := st.commit(h)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			cut = true
			return nil
		}
		if err != nil {
			return err
		}
		heap.Push(queue, aged{when: c.when, parents: c.parents})
		return nil
	}
	if err := push(from); err != nil {
		return nil, false, err
	}
	for queue.Len() > 0 && len(seen) < maxCommits {
		for _, p := range heap.Pop(queue).(aged).parents {
			if seen[p] {
				continue
			}
			seen[p] = true
			if p == stop {
				return seen, cut, nil
			}
			if err := push(p); err != nil {
				return nil, false, err
			}
		}
	}
	return seen, cut || queue.Len() > 0, nil
}

type aged struct {
	when    time.Time
	parents []plumbing.Hash
}

// byAge is a heap with the newest commit on top: a commit a few pushes old is met without walking a side
// branch to its end.
type byAge []aged

func (q byAge) Len() int           { return len(q) }
func (q byAge) Less(i, j int) bool { return q[i].when.After(q[j].when) }
func (q byAge) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *byAge) Push(x any)        { *q = append(*q, x.(aged)) }
func (q *byAge) Pop() any          { x := (*q)[len(*q)-1]; *q = (*q)[:len(*q)-1]; return x }

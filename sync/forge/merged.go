package forge

import (
	"cmp"
	"slices"
)

// MergedAs sorts pull requests so that the one merged as exactly that commit comes first: by its merge commit, or,
// for a fast-forward, by its head. The others follow by number.
func MergedAs(prs []PullRequest, sha string) []PullRequest {
	rank := func(p PullRequest) int {
		switch sha {
		case p.MergeCommit:
			return 0
		case p.Head.SHA:
			return 1
		}
		return 2
	}
	slices.SortFunc(prs, func(a, b PullRequest) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Number, b.Number))
	})
	return slices.CompactFunc(prs, func(a, b PullRequest) bool { return a.Number == b.Number })
}

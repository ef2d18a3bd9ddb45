package gitea

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"

	"code.gitea.io/sdk/gitea"

	"github.com/varanhq/varan/sync/forge"
)

const (
	page     = 50 // the most that Gitea gives unless its administrator allows more
	maxPages = 100
)

// all reads a list page by page, as long as the answer's links name a next one.
func all[T any](read func(gitea.ListOptions) ([]*T, *gitea.Response, error)) ([]*T, error) {
	var out []*T
	for n := 1; n <= maxPages; n++ {
		some, res, err := read(gitea.ListOptions{Page: n, PageSize: page})
		if err != nil {
			return nil, err
		}
		out = append(out, forge.Present(some)...)
		if len(some) == 0 || res.NextPage <= n && len(some) < page { // a page may be smaller than asked for
			return out, nil
		}
	}
	return nil, fmt.Errorf("%w: more than %d pages", forge.ErrRefused, maxPages)
}

// PullRequests lists the open ones.
func (c *Client) PullRequests(ctx context.Context, repo forge.Repo) ([]forge.PullRequest, error) {
	found, err := all(func(o gitea.ListOptions) ([]*gitea.PullRequest, *gitea.Response, error) {
		return ask(ctx, c, func(api *gitea.Client) ([]*gitea.PullRequest, *gitea.Response, error) {
			return api.ListRepoPullRequests(repo.Owner, repo.Name, gitea.ListPullRequestsOptions{
				State: gitea.StateOpen, Sort: "oldest", ListOptions: o,
			})
		}, "list pull requests of %s", repo)
	})
	var out []forge.PullRequest
	for _, pr := range found {
		out = append(out, pull(repo, pr))
	}
	slices.SortStableFunc(out, func(a, b forge.PullRequest) int { return cmp.Compare(a.Number, b.Number) })
	return slices.CompactFunc(out, func(a, b forge.PullRequest) bool { return a.Number == b.Number }), err
}

// PullRequest asks for one.
func (c *Client) PullRequest(ctx context.Context, repo forge.Repo, number int) (forge.PullRequest, error) {
	pr, err := call(ctx, c, func(api *gitea.Client) (*gitea.PullRequest, *gitea.Response, error) {
		return api.GetPullRequest(repo.Owner, repo.Name, int64(number))
	}, "read pull request %s#%d", repo, number)
	if err != nil {
		return forge.PullRequest{}, err
	}
	return pull(repo, pr), nil
}

// PullRequestsOf is the one merged as that commit.
func (c *Client) PullRequestsOf(ctx context.Context, repo forge.Repo, sha string) ([]forge.PullRequest, error) {
	var pr gitea.PullRequest
	err := c.get(ctx, &pr, nil, fmt.Sprintf("ask which pull request of %s commit %s came from", repo, sha),
		"repos", repo.Owner, repo.Name, "commits", sha, "pull")
	if errors.Is(err, forge.ErrNotFound) {
		if _, err := c.repository(ctx, repo); err != nil { // it may be the repository that is not there
			return nil, err
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := pull(repo, &pr)
	if p.State != forge.Merged {
		return nil, nil
	}
	return []forge.PullRequest{p}, nil
}

// ChangedFiles lists a pull request's files.
func (c *Client) ChangedFiles(ctx context.Context, repo forge.Repo, number int) (forge.Changes, error) {
	files, err := all(func(o gitea.ListOptions) ([]*gitea.ChangedFile, *gitea.Response, error) {
		return ask(ctx, c, func(api *gitea.Client) ([]*gitea.ChangedFile, *gitea.Response, error) {
			return api.ListPullRequestFiles(repo.Owner, repo.Name, int64(number), gitea.ListPullRequestFilesOptions{
				ListOptions: o,
			})
		}, "list files of %s#%d", repo, number)
	})
	if err != nil {
		return forge.Changes{}, err
	}
	out := forge.Changes{Complete: true}
	for _, f := range files {
		file := forge.ChangedFile{Path: f.Filename, Removed: f.Status == "deleted" || f.Status == "removed"}
		if f.PreviousFilename != "" && f.PreviousFilename != f.Filename {
			file.Previous = f.PreviousFilename
		}
		out.Files = append(out.Files, file)
	}
	slices.SortFunc(out.Files, func(a, b forge.ChangedFile) int { return cmp.Compare(a.Path, b.Path) })
	return out, nil
}

func pull(repo forge.Repo, pr *gitea.PullRequest) forge.PullRequest {
	p := forge.PullRequest{
		Number: int(pr.Index), Title: pr.Title, Author: user(pr.Poster), URL: pr.HTMLURL, State: forge.Open,
		Draft: pr.Draft, Head: branch(pr.Head), Base: branch(pr.Base),
		HeadRef: fmt.Sprintf("refs/pull/%d/head", pr.Index), StatusRepo: repo,
	}
	if pr.Updated != nil {
		p.Updated = *pr.Updated
	}
	p.Fork = p.Head.Repo.IsZero() || !p.Head.Repo.Same(p.Base.Repo)
	switch {
	case pr.HasMerged:
		p.State = forge.Merged
		if pr.MergedCommitID != nil {
			p.MergeCommit = *pr.MergedCommitID
		}
	case pr.State == gitea.StateClosed:
		p.State = forge.Closed
	}
	return p
}

func branch(b *gitea.PRBranchInfo) forge.Branch {
	if b == nil {
		return forge.Branch{}
	}
	return forge.Branch{Repo: name(b.Repository), Branch: b.Name, SHA: b.Sha}
}

// SetStatus adds a status to the commit.
func (c *Client) SetStatus(ctx context.Context, repo forge.Repo, sha string, s forge.Status) error {
	if err := forge.CheckStatus(s); err != nil {
		return err
	}
	_, err := call(ctx, c, func(api *gitea.Client) (*gitea.Status, *gitea.Response, error) {
		return api.CreateStatus(repo.Owner, repo.Name, sha, gitea.CreateStatusOption{
			State: gitea.StatusState(s.State), TargetURL: s.URL, Description: s.Description, Context: s.Context,
		})
	}, "set status %s of %s@%s", s.Context, repo, sha)
	return err
}

// Statuses are the newest of each context.
func (c *Client) Statuses(ctx context.Context, repo forge.Repo, sha string) ([]forge.Status, error) {
	found, err := all(func(o gitea.ListOptions) ([]*gitea.Status, *gitea.Response, error) {
		var combined gitea.CombinedStatus
		query := url.Values{"page": {strconv.Itoa(o.Page)}, "limit": {strconv.Itoa(o.PageSize)}}
		err := c.get(ctx, &combined, query, fmt.Sprintf("read the statuses of %s@%s", repo, sha),
			"repos", repo.Owner, repo.Name, "commits", sha, "status")
		return combined.Statuses, &gitea.Response{}, err
	})
	if err != nil {
		return nil, err
	}
	var out []forge.Status
	for _, s := range found {
		state := forge.StatusState(s.State)
		switch state {
		case "warning", "skipped":
			state = forge.Success
		}
		out = append(out, forge.Status{Context: s.Context, State: state, Description: s.Description, URL: s.TargetURL})
	}
	slices.SortStableFunc(out, func(a, b forge.Status) int { return cmp.Compare(a.Context, b.Context) })
	return slices.CompactFunc(out, func(a, b forge.Status) bool { return a.Context == b.Context }), nil
}

package github

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-github/v60/github"

	"github.com/varanhq/varan/sync/forge"
)

const (
	page     = 100
	maxPages = 50
)

// all reads the pages of a list until done says enough.
func all(read func(github.ListOptions) (*github.Response, bool, error)) (*github.Response, error) {
	opts := github.ListOptions{PerPage: page, Page: 1}
	for {
		res, enough, err := read(opts)
		if err != nil || enough || res.NextPage <= opts.Page {
			return res, err
		}
		if opts.Page = res.NextPage; opts.Page > maxPages {
			return res, fmt.Errorf("%w: more than %d of them", forge.ErrRefused, maxPages*page)
		}
	}
}

// PullRequests lists the open ones.
func (c *Client) PullRequests(ctx context.Context, repo forge.Repo) ([]forge.PullRequest, error) {
	var out []forge.PullRequest
	res, err := all(func(o github.ListOptions) (*github.Response, bool, error) {
		prs, res, err := c.api.PullRequests.List(ctx, repo.Owner, repo.Name, &github.PullRequestListOptions{
			State: "open", Sort: "created", Direction: "asc", ListOptions: o,
		})
		for _, pr := range forge.Present(prs) {
			out = append(out, pull(repo, pr))
		}
		return res, false, err
	})
	if err != nil {
		return nil, c.err(err, res, "list pull requests of %s", repo)
	}
	return inOrder(out), nil
}

// inOrder sorts by number and drops what two pages both held.
func inOrder(prs []forge.PullRequest) []forge.PullRequest {
	slices.SortStableFunc(prs, func(a, b forge.PullRequest) int { return cmp.Compare(a.Number, b.Number) })
	return slices.CompactFunc(prs, func(a, b forge.PullRequest) bool { return a.Number == b.Number })
}

// PullRequest asks for one.
func (c *Client) PullRequest(ctx context.Context, repo forge.Repo, number int) (forge.PullRequest, error) {
	pr, res, err := c.api.PullRequests.Get(ctx, repo.Owner, repo.Name, number)
	if err != nil {
		return forge.PullRequest{}, c.err(err, res, "read pull request %s#%d", repo, number)
	}
	return pull(repo, pr), nil
}

// PullRequestsOf lists the merged ones that hold the commit.
func (c *Client) PullRequestsOf(ctx context.Context, repo forge.Repo, sha string) ([]forge.PullRequest, error) {
	var out []forge.PullRequest
	res, err := all(func(o github.ListOptions) (*github.Response, bool, error) {
		prs, res, err := c.api.PullRequests.ListPullRequestsWithCommit(ctx, repo.Owner, repo.Name, sha, &o)
		for _, pr := range forge.Present(prs) {
			if p := pull(repo, pr); p.State == forge.Merged {
				out = append(out, p)
			}
		}
		return res, false, err
	})
	if res != nil && res.StatusCode == 422 {
		return nil, nil // GitHub does not have that commit (yet)
	}
	if err != nil {
		return nil, c.err(err, res, "ask which pull request of %s commit %s came from", repo, sha)
	}
	return forge.MergedAs(out, sha), nil
}

// ChangedFiles lists a pull request's files; GitHub ends at 3000.
func (c *Client) ChangedFiles(ctx context.Context, repo forge.Repo, number int) (forge.Changes, error) {
	var out forge.Changes
	res, err := all(func(o github.ListOptions) (*github.Response, bool, error) {
		files, res, err := c.api.PullRequests.ListFiles(ctx, repo.Owner, repo.Name, number, &o)
		for _, f := range files {
			file := forge.ChangedFile{Path: f.GetFilename(), Removed: f.GetStatus() == "removed"}
			if f.GetStatus() == "renamed" {
				file.Previous = f.GetPreviousFilename()
			}
			out.Files = append(out.Files, file)
		}
		return res, false, err
	})
	if err != nil {
		return forge.Changes{}, c.err(err, res, "list files of %s#%d", repo, number)
	}
	out.Complete = len(out.Files) < 3000
	slices.SortFunc(out.Files, func(a, b forge.ChangedFile) int { return cmp.Compare(a.Path, b.Path) })
	return out, nil
}

func pull(repo forge.Repo, pr *github.PullRequest) forge.PullRequest {
	p := forge.PullRequest{
		Number: pr.GetNumber(), Title: pr.GetTitle(), Author: user(pr.GetUser()), URL: pr.GetHTMLURL(),
		State: forge.Open, Draft: pr.GetDraft(), Head: branch(pr.GetHead()), Base: branch(pr.GetBase()),
		HeadRef: fmt.Sprintf("refs/pull/%d/head", pr.GetNumber()), StatusRepo: repo, Updated: pr.GetUpdatedAt().Time,
	}
	p.Fork = p.Head.Repo.IsZero() || !p.Head.Repo.Same(p.Base.Repo)
	switch {
	case pr.MergedAt != nil || pr.GetMerged():
		p.State, p.MergeCommit = forge.Merged, pr.GetMergeCommitSHA()
	case strings.EqualFold(pr.GetState(), "closed"):
		p.State = forge.Closed
	case pr.Mergeable == nil || pr.GetMergeable(): // not known, in a list, until it is fetched
		p.MergeRef = fmt.Sprintf("refs/pull/%d/merge", pr.GetNumber())
	}
	return p
}

func branch(b *github.PullRequestBranch) forge.Branch {
	out := forge.Branch{Branch: b.GetRef(), SHA: b.GetSHA()}
	if r := b.GetRepo(); r != nil {
		out.Repo = forge.Repo{Owner: r.GetOwner().GetLogin(), Name: r.GetName()}
	}
	return out
}

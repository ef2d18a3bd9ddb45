package gitlab

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"

	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/varanhq/varan/sync/forge"
)

const (
	page     = 100
	maxPages = 50
)

// all reads the pages of a list until one says enough.
func all(read func(gitlab.ListOptions) (*gitlab.Response, bool, error)) (*gitlab.Response, error) {
	opts := gitlab.ListOptions{PerPage: page, Page: 1}
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

// PullRequests lists the open merge requests.
func (c *Client) PullRequests(ctx context.Context, repo forge.Repo) ([]forge.PullRequest, error) {
	return c.mergeRequests(ctx, repo, gitlab.ListProjectMergeRequestsOptions{
		State: gitlab.Ptr("opened"), OrderBy: gitlab.Ptr("created_at"), Sort: gitlab.Ptr("asc"),
	})
}

func (c *Client) mergeRequests(ctx context.Context, repo forge.Repo, opts gitlab.ListProjectMergeRequestsOptions) ([]forge.PullRequest, error) {
	var found []*gitlab.BasicMergeRequest
	res, err := all(func(o gitlab.ListOptions) (*gitlab.Response, bool, error) {
		opts.ListOptions = o
		var mrs []*gitlab.BasicMergeRequest // the library's own call for this panics on a null in the list
		req, err := c.api.NewRequest(http.MethodGet, "projects/"+gitlab.PathEscape(repo.String())+"/merge_requests", &opts,
			[]gitlab.RequestOptionFunc{gitlab.WithContext(ctx)})
		if err != nil {
			return nil, false, err
		}
		res, err := c.api.Do(req, &mrs)
		found = append(found, forge.Present(mrs)...)
		return res, false, err
	})
	if err != nil {
		return nil, c.err(err, res, "list merge requests of %s", repo)
	}
	return c.pulls(ctx, repo, found)
}

func (c *Client) pulls(ctx context.Context, repo forge.Repo, mrs []*gitlab.BasicMergeRequest) ([]forge.PullRequest, error) {
	var out []forge.PullRequest
	for _, mr := range mrs {
		p, err := c.pull(ctx, repo, mr)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	slices.SortStableFunc(out, func(a, b forge.PullRequest) int { return cmp.Compare(a.Number, b.Number) })
	return slices.CompactFunc(out, func(a, b forge.PullRequest) bool { return a.Number == b.Number }), nil
}

// PullRequest asks for one.
func (c *Client) PullRequest(ctx context.Context, repo forge.Repo, number int) (forge.PullRequest, error) {
	mr, res, err := c.api.MergeRequests.GetMergeRequest(repo.String(), int64(number), nil, gitlab.WithContext(ctx))
	if mr, err = one(c, mr, res, err, "read merge request %s!%d", repo, number); err != nil {
		return forge.PullRequest{}, err
	}
	p, err := c.pull(ctx, repo, &mr.BasicMergeRequest)
	p.Base.SHA = mr.DiffRefs.StartSha
	return p, err
}

// PullRequestsOf lists the merged ones that hold the commit.
func (c *Client) PullRequestsOf(ctx context.Context, repo forge.Repo, sha string) ([]forge.PullRequest, error) {
	mrs, res, err := c.api.Commits.ListMergeRequestsByCommit(repo.String(), sha, gitlab.WithContext(ctx))
	if err != nil {
		return nil, c.err(err, res, "ask which merge request of %s commit %s came from", repo, sha)
	}
	mrs = slices.DeleteFunc(forge.Present(mrs), func(mr *gitlab.BasicMergeRequest) bool { return mr.State != "merged" })
	out, err := c.pulls(ctx, repo, mrs)
	return forge.MergedAs(out, sha), err
}

// ChangedFiles lists a merge request's files.
func (c *Client) ChangedFiles(ctx context.Context, repo forge.Repo, number int) (forge.Changes, error) {
	out := forge.Changes{Complete: true}
	res, err := all(func(o gitlab.ListOptions) (*gitlab.Response, bool, error) {
		diffs, res, err := c.api.MergeRequests.ListMergeRequestDiffs(repo.String(), int64(number),
			&gitlab.ListMergeRequestDiffsOptions{ListOptions: o}, gitlab.WithContext(ctx))
		for _, d := range forge.Present(diffs) {
			file := forge.ChangedFile{Path: d.NewPath, Removed: d.DeletedFile}
			if d.RenamedFile {
				file.Previous = d.OldPath
			}
			out.Files = append(out.Files, file)
		}
		return res, false, err
	})
	if err != nil {
		return forge.Changes{}, c.err(err, res, "list files of %s!%d", repo, number)
	}
	slices.SortFunc(out.Files, func(a, b forge.ChangedFile) int { return cmp.Compare(a.Path, b.Path) })
	return out, nil
}

func (c *Client) pull(ctx context.Context, repo forge.Repo, mr *gitlab.BasicMergeRequest) (forge.PullRequest, error) {
	p := forge.PullRequest{
		Number: int(mr.IID), Title: mr.Title, URL: mr.WebURL, State: forge.Open, Draft: mr.Draft,
		Fork: mr.SourceProjectID != mr.TargetProjectID,
		Head: forge.Branch{Repo: repo, Branch: mr.SourceBranch, SHA: mr.SHA},
		Base: forge.Branch{Repo: repo, Branch: mr.TargetBranch},

		HeadRef: fmt.Sprintf("refs/merge-requests/%d/head", mr.IID), StatusRepo: repo,
	}
	if mr.Author != nil {
		p.Author = forge.User{ID: mr.Author.ID, Login: mr.Author.Username}
	}
	if mr.UpdatedAt != nil {
		p.Updated = *mr.UpdatedAt
	}
	switch mr.State {
	case "merged":
		p.State = forge.Merged
		p.MergeCommit = cmp.Or(mr.MergeCommitSHA, mr.SquashCommitSHA, mr.SHA) // the last: a fast-forward
	case "closed", "locked":
		p.State = forge.Closed
	}
	if !p.Fork {
		return p, nil
	}
	head, err := c.project(ctx, mr.SourceProjectID)
	if p.Head.Repo = head; !head.IsZero() {
		p.StatusRepo = head // else the base's: it has the commit too, only the merge request does not show it
	}
	return p, err
}

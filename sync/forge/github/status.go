package github

import (
	"cmp"
	"context"
	"slices"

	"github.com/google/go-github/v60/github"

	"github.com/varanhq/varan/sync/forge"
)

// SetStatus adds a status to the commit.
func (c *Client) SetStatus(ctx context.Context, repo forge.Repo, sha string, s forge.Status) error {
	if err := forge.CheckStatus(s); err != nil {
		return err
	}
	status := &github.RepoStatus{
		State: github.String(string(s.State)), Context: &s.Context, Description: &s.Description,
	}
	if s.URL != "" {
		status.TargetURL = &s.URL
	}
	_, res, err := c.api.Repositories.CreateStatus(ctx, repo.Owner, repo.Name, sha, status)
	return c.err(err, res, "set status %s of %s@%s", s.Context, repo, sha)
}

// Statuses are the newest of each context.
func (c *Client) Statuses(ctx context.Context, repo forge.Repo, sha string) ([]forge.Status, error) {
	var out []forge.Status
	res, err := all(func(o github.ListOptions) (*github.Response, bool, error) {
		combined, res, err := c.api.Repositories.GetCombinedStatus(ctx, repo.Owner, repo.Name, sha, &o)
		if combined != nil {
			for _, s := range combined.Statuses {
				out = append(out, forge.Status{
					Context: s.GetContext(), State: forge.StatusState(s.GetState()),
					Description: s.GetDescription(), URL: s.GetTargetURL(),
				})
			}
		}
		return res, false, err
	})
	if err != nil {
		return nil, c.err(err, res, "read the statuses of %s@%s", repo, sha)
	}
	slices.SortFunc(out, func(a, b forge.Status) int { return cmp.Compare(a.Context, b.Context) })
	return out, nil
}

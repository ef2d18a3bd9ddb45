package gitlab

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/varanhq/varan/sync/forge"
)

// SetStatus sets a status, unless it stands already: GitLab takes a state that is repeated for an error.
func (c *Client) SetStatus(ctx context.Context, repo forge.Repo, sha string, s forge.Status) error {
	if err := forge.CheckStatus(s); err != nil {
		return err
	}
	now, err := c.statuses(ctx, repo, sha, s.Context)
	if err != nil && !errors.Is(err, forge.ErrNotFound) {
		return err
	}
	for _, is := range now {
		if is.Context == s.Context && is.State == shown(s.State) && is.Description == s.Description && is.URL == s.URL {
			return nil
		}
	}
	opts := &gitlab.SetCommitStatusOptions{State: state(s.State), Name: &s.Context, Description: &s.Description}
	if s.URL != "" {
		opts.TargetURL = &s.URL
	}
	if s.Branch != "" {
		opts.Ref = &s.Branch
	}
	_, res, err := c.api.Commits.SetCommitStatus(repo.String(), sha, opts, gitlab.WithContext(ctx))
	said := (*gitlab.ErrorResponse)(nil)
	if errors.As(err, &said) && said.Response.StatusCode == http.StatusBadRequest && strings.Contains(said.Message, "Cannot transition status") {
		return c.stands(ctx, repo, sha, s, c.err(err, res, "set status %s of %s@%s", s.Context, repo, sha))
	}
	return c.err(err, res, "set status %s of %s@%s", s.Context, repo, sha)
}

// stands is nil if the status has that state: only its text could not be changed.
func (c *Client) stands(ctx context.Context, repo forge.Repo, sha string, s forge.Status, refused error) error {
	now, err := c.statuses(ctx, repo, sha, s.Context)
	if err != nil {
		return err
	}
	for _, is := range now {
		if is.Context == s.Context && is.State == shown(s.State) {
			return nil
		}
	}
	return refused
}

// Statuses are the newest of each name.
func (c *Client) Statuses(ctx context.Context, repo forge.Repo, sha string) ([]forge.Status, error) {
	return c.statuses(ctx, repo, sha, "")
}

// statuses reads those of one name, or all.
func (c *Client) statuses(ctx context.Context, repo forge.Repo, sha, name string) ([]forge.Status, error) {
	var found []*gitlab.CommitStatus
	res, err := all(func(o gitlab.ListOptions) (*gitlab.Response, bool, error) {
		opts := &gitlab.GetCommitStatusesOptions{ListOptions: o}
		if name != "" {
			opts.Name = &name
		}
		some, res, err := c.api.Commits.GetCommitStatuses(repo.String(), sha, opts, gitlab.WithContext(ctx))
		found = append(found, forge.Present(some)...)
		return res, false, err
	})
	if err != nil {
		return nil, c.err(err, res, "read the statuses of %s@%s", repo, sha)
	}
	slices.SortFunc(found, func(a, b *gitlab.CommitStatus) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.ID, a.ID)) // newest first
	})
	found = slices.CompactFunc(found, func(a, b *gitlab.CommitStatus) bool { return a.Name == b.Name })
	var out []forge.Status
	for _, s := range found {
		one := forge.Status{Context: s.Name, State: forge.Pending, Description: s.Description, URL: s.TargetURL}
		switch s.Status {
		case "success", "skipped":
			one.State = forge.Success
		case "failed":
			one.State = forge.Failure
		case "canceled":
			one.State = forge.Error
		}
		out = append(out, one)
	}
	return out, nil
}

// state is GitLab's word.
func state(s forge.StatusState) gitlab.BuildStateValue {
	switch s {
	case forge.Success:
		return gitlab.Success
	case forge.Failure, forge.Error:
		return gitlab.Failed
	}
	return gitlab.Pending
}

// shown is how a state reads back.
func shown(s forge.StatusState) forge.StatusState {
	if s == forge.Error {
		return forge.Failure
	}
	return s
}

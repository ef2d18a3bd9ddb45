package gitea

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"code.gitea.io/sdk/gitea"

	"github.com/varanhq/varan/sync/forge"
)

// noCommit is a commit that no repository has: setting its status shows whether we may, and sets nothing.
const noCommit = "0000000000000000000000000000000000000000"

// Check tries the token.
func (c *Client) Check(ctx context.Context, repo forge.Repo) ([]forge.Finding, error) {
	me, err := c.Me(ctx)
	if errors.Is(err, forge.ErrUnauthorized) || errors.Is(err, forge.ErrForbidden) {
		return []forge.Finding{{
			What: "sign in", Detail: err.Error(), Fix: "make a token with the scopes " + scopes + " (user settings, Applications)",
		}}, nil
	}
	if err != nil {
		return nil, err
	}
	version, err := call(ctx, c, (*gitea.Client).ServerVersion, "ask %s for its version", c.domain)
	if err != nil {
		version = "of unknown version"
	}
	out := []forge.Finding{{OK: true, What: "sign in", Detail: fmt.Sprintf("as %s, server %s", me.Login, version)}}
	r, err := c.repository(ctx, repo)
	if errors.Is(err, forge.ErrNotFound) || errors.Is(err, forge.ErrForbidden) {
		return append(out, forge.Finding{
			What: "see the repository", Detail: err.Error(),
			Fix: fmt.Sprintf("make %s a collaborator of %s; the token needs the scopes %s", me.Login, repo, scopes),
		}), nil
	}
	if err != nil {
		return nil, err
	}
	seen := forge.Finding{OK: true, What: "see the repository", Detail: r.FullName + ", private"}
	if !r.Private {
		seen.Detail = r.FullName + ", public: everybody reads what varan writes there"
	}
	out = append(out, seen)
	has := func(what, detail, fix string, ok, optional bool) {
		f := forge.Finding{OK: ok, Optional: optional, What: what, Detail: detail}
		if !ok {
			f.Fix = fix
		}
		out = append(out, f)
	}
	may := gitea.Permission{}
	if r.Permissions != nil {
		may = *r.Permissions
	}
	has("write to the repository", role(me, may), fmt.Sprintf("give %s the permission Write: setting a status needs it", me.Login), may.Push || may.Admin, false)
	has("ask for a user's permission", role(me, may), fmt.Sprintf("give %s the permission Administrator: Gitea tells nobody else who may approve; without it /varan commands are refused", me.Login), may.Admin, true)
	tries := []struct {
		what string
		do   func() error
	}{
		{"read pull requests", func() error {
			_, err := call(ctx, c, func(api *gitea.Client) ([]*gitea.PullRequest, *gitea.Response, error) {
				return api.ListRepoPullRequests(repo.Owner, repo.Name, gitea.ListPullRequestsOptions{
					State: gitea.StateOpen, ListOptions: gitea.ListOptions{Page: 1, PageSize: 1},
				})
			}, "list pull requests of %s", repo)
			return err
		}},
		{"read comments", func() error {
			_, err := call(ctx, c, func(api *gitea.Client) ([]*gitea.Comment, *gitea.Response, error) {
				return api.ListRepoIssueComments(repo.Owner, repo.Name, gitea.ListIssueCommentOptions{ListOptions: gitea.ListOptions{Page: 1, PageSize: 1}})
			}, "read comments of %s", repo)
			return err
		}},
		{"set commit statuses", func() error {
			err := c.SetStatus(ctx, repo, noCommit, forge.Status{Context: "varan/check", State: forge.Pending, Description: "varan forge check"})
			if errors.Is(err, forge.ErrRefused) || errors.Is(err, forge.ErrNotFound) || strings.Contains(fmt.Sprint(err), "HTTP 500") {
				return nil // it was refused for the commit, not for us
			}
			return err
		}},
	}
	for _, try := range tries {
		err := try.do()
		if _, later := forge.Retry(err); later {
			return nil, err
		}
		detail := "tried"
		if err != nil {
			detail = err.Error()
		}
		has(try.what, detail, "the token needs the scopes "+scopes, err == nil, false)
	}
	has("write comments", "cannot be tried without writing one; the scope write:issue allows it", "", true, true)
	return out, nil
}

const scopes = "read:user, write:repository, write:issue"

func role(me forge.User, may gitea.Permission) string {
	switch {
	case may.Admin:
		return me.Login + " is an administrator of it"
	case may.Push:
		return me.Login + " may write"
	}
	return me.Login + " may only read"
}

package gitlab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/varanhq/varan/sync/forge"
)

// Check tries the token. GitLab tells its scopes and the role, so nothing has to be written.
func (c *Client) Check(ctx context.Context, repo forge.Repo) ([]forge.Finding, error) {
	me, err := c.Me(ctx)
	if errors.Is(err, forge.ErrUnauthorized) || errors.Is(err, forge.ErrForbidden) {
		return []forge.Finding{{
			What: "sign in", Detail: err.Error(),
			Fix: "make a project or group access token with the role Developer and the scope api (Settings, Access tokens)",
		}}, nil
	}
	if err != nil {
		return nil, err
	}
	signed := forge.Finding{OK: true, What: "sign in", Detail: "as " + me.Login}
	scope := forge.Finding{OK: true, What: "the token's scope", Detail: "this GitLab does not tell it"}
	token, res, err := c.api.PersonalAccessTokens.GetSinglePersonalAccessToken(gitlab.WithContext(ctx))
	if _, later := forge.Retry(c.err(err, res, "ask for the token's scopes")); later {
		return nil, c.err(err, res, "ask for the token's scopes")
	}
	if err == nil && token != nil {
		scope.Detail = strings.Join(token.Scopes, ", ")
		if !slices.Contains(token.Scopes, "api") {
			scope.OK, scope.Fix = false, "make one with the scope api: statuses and notes need it"
		}
		if token.ExpiresAt != nil {
			signed.Detail += ", the token expires on " + time.Time(*token.ExpiresAt).Format(time.DateOnly)
		}
	}
	out := []forge.Finding{signed, scope}
	r, err := c.Repository(ctx, repo)
	if errors.Is(err, forge.ErrNotFound) || errors.Is(err, forge.ErrForbidden) {
		return append(out, forge.Finding{
			What: "see the project", Detail: err.Error(), Fix: fmt.Sprintf("make %s a member of %s", me.Login, repo),
		}), nil
	}
	if err != nil {
		return nil, err
	}
	seen := forge.Finding{OK: true, What: "see the project", Detail: r.Repo.String() + ", private"}
	if !r.Private {
		seen.Detail = r.Repo.String() + ", public or internal: others read what varan writes there"
	}
	level, err := c.Permission(ctx, repo, me.Login)
	if err != nil {
		return nil, err
	}
	role := forge.Finding{OK: level >= forge.Write, What: "set statuses, write notes", Detail: fmt.Sprintf("%s has the permission %s", me.Login, level)}
	if !role.OK {
		role.Fix = fmt.Sprintf("give %s the role Developer", me.Login)
	}
	return append(out, seen, role), nil
}

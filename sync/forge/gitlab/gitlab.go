// Package gitlab speaks with GitLab, with a token: a personal, group or project access token.
//
// In: forge.Options. Out: a forge.Forge whose pull requests are merge requests. It imports sync/forge only. Start
// at New.
package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	gosync "sync"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/varanhq/varan/sync/forge"
)

// Client is a GitLab seen with one token.
type Client struct {
	domain string
	web    string // where its pages lie
	http   *forge.HTTP
	api    *gitlab.Client

	mu       gosync.Mutex // guards what follows
	me       forge.User
	projects map[int64]forge.Repo
}

var _ forge.Forge = (*Client)(nil)

// unhurried keeps the library's own limiter off: the guard below it obeys what GitLab says.
type unhurried struct{}

func (unhurried) Wait(context.Context) error { return nil }

// New prepares a client and asks nothing yet.
func New(o forge.Options) (*Client, error) {
	o.Kind = forge.GitLab
	base, err := o.Base()
	switch {
	case err != nil:
		return nil, err
	case o.App != nil:
		return nil, fmt.Errorf("[[forge]] %s has an app_id: only GitHub has Apps; set token_file", o.Domain)
	case o.Token == "":
		return nil, fmt.Errorf("[[forge]] %s has no token", o.Domain)
	}
	c := &Client{domain: o.Domain, web: strings.TrimSuffix(base.String(), "/api/v4"), projects: make(map[int64]forge.Repo)}
	c.http = forge.NewHTTP(o, base, func(next http.RoundTripper) http.RoundTripper { return next }) // the library adds the token
	c.api, err = gitlab.NewClient(o.Token, gitlab.WithBaseURL(base.String()), gitlab.WithHTTPClient(c.http.Client),
		gitlab.WithoutRetries(), gitlab.WithCustomLimiter(unhurried{}))
	if err != nil {
		return nil, fmt.Errorf("[[forge]] %s: %w", o.Domain, err)
	}
	return c, nil
}

// err is an error in our words.
func (c *Client) err(err error, res *gitlab.Response, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var answer *http.Response
	if res != nil {
		answer = res.Response
	}
	message := ""
	if said := (*gitlab.ErrorResponse)(nil); errors.As(err, &said) {
		message = said.Message
		if said.Response.StatusCode == http.StatusConflict { // two of us made the first status of a commit at once
			return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), forge.ErrTemporary)
		}
	}
	return c.http.Err(err, answer, message, format, args...)
}

// one is a single answer, which must not be null.
func one[T any](c *Client, out *T, res *gitlab.Response, err error, format string, args ...any) (*T, error) {
	if err == nil && out == nil {
		err = errors.New("it is null")
	}
	return out, c.err(err, res, format, args...)
}

// Kind is GitLab.
func (c *Client) Kind() forge.Kind { return forge.GitLab }

// Now is the forge's clock.
func (c *Client) Now() time.Time { return c.http.Now() }

// Domain is the [[forge]]'s.
func (c *Client) Domain() string { return c.domain }

// Capabilities: none of the extras. GitLab keeps merge refs, but makes them when it pleases.
func (c *Client) Capabilities() forge.Capabilities { return forge.Capabilities{} }

// Annotate is not to be had.
func (c *Client) Annotate(context.Context, forge.Repo, forge.CheckRun) error {
	return fmt.Errorf("%w: GitLab has no check runs", forge.ErrNotCapable)
}

// Me is the token's user; a project's or group's token has one of its own.
func (c *Client) Me(ctx context.Context) (forge.User, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.me.Login != "" {
		return c.me, nil
	}
	u, res, err := c.api.Users.CurrentUser(gitlab.WithContext(ctx))
	if u, err = one(c, u, res, err, "ask %s who we are", c.domain); err != nil {
		return forge.User{}, err
	}
	c.me = forge.User{ID: u.ID, Login: u.Username, Bot: u.Bot}
	return c.me, nil
}

// Repository asks for the project's visibility. "Internal" counts as public: every user can read it.
func (c *Client) Repository(ctx context.Context, repo forge.Repo) (forge.Repository, error) {
	p, res, err := c.api.Projects.GetProject(repo.String(), nil, gitlab.WithContext(ctx))
	if p, err = one(c, p, res, err, "read project %s", repo); err != nil {
		return forge.Repository{}, err
	}
	at, err := forge.ParseRepo(p.PathWithNamespace)
	if err != nil {
		return forge.Repository{}, fmt.Errorf("read project %s: %w: %w", repo, forge.ErrTemporary, err)
	}
	c.mu.Lock()
	c.projects[p.ID] = at
	c.mu.Unlock()
	return forge.Repository{
		Repo: at, Private: p.Visibility == gitlab.PrivateVisibility, DefaultBranch: p.DefaultBranch, URL: p.WebURL,
	}, nil
}

// project is the path of a project by its number; zero if it is gone or hidden.
func (c *Client) project(ctx context.Context, id int64) (forge.Repo, error) {
	c.mu.Lock()
	at, ok := c.projects[id]
	c.mu.Unlock()
	if ok || id == 0 {
		return at, nil
	}
	p, res, err := c.api.Projects.GetProject(id, nil, gitlab.WithContext(ctx))
	p, err = one(c, p, res, err, "read project %d", id)
	switch {
	case errors.Is(err, forge.ErrNotFound), errors.Is(err, forge.ErrForbidden):
		return forge.Repo{}, nil
	case err != nil:
		return forge.Repo{}, err
	}
	if at, err = forge.ParseRepo(p.PathWithNamespace); err != nil {
		return forge.Repo{}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.projects) > 1000 {
		clear(c.projects)
	}
	c.projects[id] = at
	return at, nil
}

// Permission asks what GitLab lets that user do there now, inherited roles included.
func (c *Client) Permission(ctx context.Context, repo forge.Repo, login string) (forge.Permission, error) {
	const op = "ask for %s's role in %s"
	users, res, err := c.api.Users.ListUsers(&gitlab.ListUsersOptions{Username: &login}, gitlab.WithContext(ctx))
	if err != nil {
		return forge.None, c.err(err, res, op, login, repo)
	}
	var id int64
	for _, u := range forge.Present(users) {
		if strings.EqualFold(u.Username, login) && u.State == "active" {
			id = u.ID
		}
	}
	r, err := c.Repository(ctx, repo)
	if err != nil {
		return forge.None, err
	}
	if id == 0 {
		return forge.None, nil
	}
	m, res, err := c.api.ProjectMembers.GetInheritedProjectMember(repo.String(), id, gitlab.WithContext(ctx))
	m, err = one(c, m, res, err, op, login, repo)
	switch {
	case errors.Is(err, forge.ErrNotFound):
		if r.Private {
			return forge.None, nil
		}
		return forge.Read, nil
	case err != nil:
		return forge.None, err
	}
	if m.ID != id || m.State != "active" {
		return forge.None, nil
	}
	return permission(m.AccessLevel), nil
}

func permission(level gitlab.AccessLevelValue) forge.Permission {
	switch {
	case level >= gitlab.OwnerPermissions:
		return forge.Admin
	case level >= gitlab.MaintainerPermissions:
		return forge.Maintain
	case level >= gitlab.DeveloperPermissions:
		return forge.Write
	case level >= gitlab.ReporterPermissions:
		return forge.Read
	}
	return forge.None
}

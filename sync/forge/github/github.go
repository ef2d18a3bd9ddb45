// Package github speaks with GitHub and GitHub Enterprise Server, with a token or as a GitHub App.
//
// In: forge.Options. Out: a forge.Forge. It imports sync/forge only. Start at New.
package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	gosync "sync"
	"time"

	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/google/go-github/v60/github"

	"github.com/varanhq/varan/sync/forge"
)

// Client is GitHub seen with one credential.
type Client struct {
	domain string
	http   *forge.HTTP
	api    *github.Client // as the token or the installation
	app    *github.Client // as the App itself; nil with a token
	auth   *appAuth       // nil with a token

	installed int64 // the App's installation

	mu gosync.Mutex // guards me
	me forge.User
}

var _ forge.Forge = (*Client)(nil)

// New prepares a client and asks nothing yet.
func New(o forge.Options) (*Client, error) {
	o.Kind = forge.GitHub
	base, err := o.Base()
	if err != nil {
		return nil, err
	}
	c := &Client{domain: o.Domain}
	var app *appAuth
	switch {
	case o.App != nil && o.Token != "":
		return nil, fmt.Errorf("[[forge]] %s has a token and an app_id: one of them", o.Domain)
	case o.App != nil:
		if app, err = newAppAuth(base, *o.App); err != nil {
			return nil, fmt.Errorf("private key of GitHub App %d: %w", o.App.ID, err)
		}
	case o.Token == "":
		return nil, fmt.Errorf("[[forge]] %s has neither a token nor an app_id", o.Domain)
	}
	c.http = forge.NewHTTP(o, base, func(next http.RoundTripper) http.RoundTripper {
		if app != nil {
			app.next = next
			return app
		}
		return &tokenAuth{token: o.Token, next: next}
	})
	c.api = client(c.http.Client, base)
	if app != nil {
		c.installed, c.auth = o.App.Installation, app
		app.renew(nil)
		c.app = client(&http.Client{
			Transport: app.apps, Timeout: c.http.Client.Timeout, CheckRedirect: c.http.Client.CheckRedirect,
		}, base)
	}
	return c, nil
}

// GitUser is whom GitHub wants to be named beside an App's token.
const GitUser = "x-access-token"

// GitToken is the App's token for Git, with which its installation's repositories are read. refused is one that was not
// accepted: another is fetched then.
func (c *Client) GitToken(ctx context.Context, refused string) (string, error) {
	if c.auth == nil {
		return "", fmt.Errorf("%w: only an App has tokens for Git", forge.ErrNotCapable)
	}
	token, err := c.auth.token(ctx, refused)
	if err != nil {
		return "", c.err(err, nil, "fetch a token for Git at %s", c.domain)
	}
	c.http.Secret(token)
	return token, nil
}

func client(h *http.Client, base *url.URL) *github.Client {
	gh := github.NewClient(h)
	u := *base
	u.Path += "/"
	gh.BaseURL = &u
	return gh
}

// Kind is GitHub.
func (c *Client) Kind() forge.Kind { return forge.GitHub }

// Now is the forge's clock.
func (c *Client) Now() time.Time { return c.http.Now() }

// Domain is the [[forge]]'s.
func (c *Client) Domain() string { return c.domain }

// Capabilities: only an App may write check runs.
func (c *Client) Capabilities() forge.Capabilities {
	return forge.Capabilities{Checks: c.app != nil, MergeRefs: true, MergeQueue: true}
}

// err is an error in our words. The library's own message is taken where GitHub gave one.
func (c *Client) err(err error, res *github.Response, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var answer *http.Response
	if res != nil {
		answer = res.Response
	}
	message := ""
	var said *github.ErrorResponse
	var app *ghinstallation.HTTPError
	switch {
	case errors.As(err, &said):
		answer = said.Response
		message = said.Message
		for _, e := range said.Errors {
			if e.Message != "" {
				message += ": " + e.Message
			}
		}
	case errors.As(err, &app) && app.Response != nil:
		answer = app.Response
		_ = answer.Body.Close()
		message = "no token for the App's installation"
		switch answer.StatusCode {
		case http.StatusUnauthorized:
			message += ": app_id and private key do not belong together, or this machine's clock is wrong"
		case http.StatusNotFound:
			message += ": the App is not installed there any more, or installation_id is another App's"
			answer = &http.Response{StatusCode: http.StatusUnauthorized} // the repository may well be there
		case http.StatusForbidden:
			message += ": the installation is suspended"
		}
	}
	return c.http.Err(err, answer, message, format, args...)
}

// Me is the token's user, or the App's bot.
func (c *Client) Me(ctx context.Context) (forge.User, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.me.Login != "" {
		return c.me, nil
	}
	if c.app != nil {
		app, res, err := c.app.Apps.Get(ctx, "")
		if err != nil {
			return forge.User{}, c.err(err, res, "ask %s which App we are", c.domain)
		}
		c.me = forge.User{Login: app.GetSlug() + "[bot]", Bot: true} // nobody else's login holds brackets
		return c.me, nil
	}
	u, res, err := c.api.Users.Get(ctx, "")
	if err != nil {
		return forge.User{}, c.err(err, res, "ask %s who we are", c.domain)
	}
	c.me = user(u)
	return c.me, nil
}

// Repository asks for its visibility.
func (c *Client) Repository(ctx context.Context, repo forge.Repo) (forge.Repository, error) {
	r, res, err := c.api.Repositories.Get(ctx, repo.Owner, repo.Name)
	if err != nil {
		return forge.Repository{}, c.err(err, res, "read repository %s", repo)
	}
	return forge.Repository{
		Repo:    forge.Repo{Owner: r.GetOwner().GetLogin(), Name: r.GetName()},
		Private: r.GetPrivate(), DefaultBranch: r.GetDefaultBranch(), URL: r.GetHTMLURL(),
	}, nil
}

// Permission asks what GitHub lets that user do there now.
func (c *Client) Permission(ctx context.Context, repo forge.Repo, login string) (forge.Permission, error) {
	const op = "ask for %s's permission in %s"
	req, err := c.api.NewRequest(http.MethodGet, path("repos", repo.Owner, repo.Name, "collaborators", login, "permission"), nil)
	if err != nil {
		return forge.None, c.err(err, nil, op, login, repo)
	}
	var level struct { // the library does not know role_name, which alone tells maintain from write
		Permission string `json:"permission"`
		RoleName   string `json:"role_name"`
		User       *struct {
			Login string `json:"login"`
		} `json:"user"`
	}
	res, err := c.api.Do(ctx, req, &level)
	if res != nil && res.StatusCode == http.StatusNotFound {
		if _, err := c.Repository(ctx, repo); err != nil { // it may be the repository that is not there
			return forge.None, err
		}
		return forge.None, nil
	}
	if err != nil {
		return forge.None, c.err(err, res, op, login, repo)
	}
	if level.User == nil || !strings.EqualFold(level.User.Login, login) {
		return forge.None, nil // the answer is about somebody else
	}
	switch level.Permission {
	case "admin":
		return forge.Admin, nil
	case "write":
		if level.RoleName == "maintain" {
			return forge.Maintain, nil
		}
		return forge.Write, nil
	case "read":
		return forge.Read, nil
	}
	return forge.None, nil
}

func user(u *github.User) forge.User {
	return forge.User{ID: u.GetID(), Login: u.GetLogin(), Bot: u.GetType() == "Bot"}
}

// path joins the segments of an API path.
func path(segments ...string) string {
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return strings.Join(segments, "/")
}

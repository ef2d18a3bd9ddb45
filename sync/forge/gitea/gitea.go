// Package gitea speaks with Gitea and Forgejo, with a token.
//
// In: forge.Options. Out: a forge.Forge. It imports sync/forge only. Start at New.
package gitea

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	gosync "sync"
	"time"

	"code.gitea.io/sdk/gitea"

	"github.com/varanhq/varan/sync/forge"
)

// Client is a Gitea or Forgejo seen with one token.
type Client struct {
	domain string
	base   string
	token  string
	http   *forge.HTTP

	mu gosync.Mutex // guards me
	me forge.User
}

var _ forge.Forge = (*Client)(nil)

// New prepares a client and asks nothing yet.
func New(o forge.Options) (*Client, error) {
	o.Kind = forge.Gitea
	base, err := o.Base()
	switch {
	case err != nil:
		return nil, err
	case o.App != nil:
		return nil, fmt.Errorf("[[forge]] %s has an app_id: only GitHub has Apps; set token_file", o.Domain)
	case o.Token == "":
		return nil, fmt.Errorf("[[forge]] %s has no token", o.Domain)
	}
	same := func(next http.RoundTripper) http.RoundTripper { return next } // the library adds the token
	return &Client{domain: o.Domain, base: base.String(), token: o.Token, http: forge.NewHTTP(o, base, same)}, nil
}

// api is the library's client for one call: it keeps the context inside. The error would be that of an option.
func (c *Client) api(ctx context.Context) (*gitea.Client, error) {
	return gitea.NewClient(c.base, gitea.SetHTTPClient(c.http.Client), gitea.SetToken(c.token),
		gitea.SetContext(ctx), gitea.SetGiteaVersion("")) // "" = do not ask for the version first
}

// call runs one call of the library, and puts its error into our words.
func call[T any](ctx context.Context, c *Client, f func(*gitea.Client) (T, *gitea.Response, error), format string, args ...any) (T, error) {
	out, _, err := ask(ctx, c, f, format, args...)
	return out, err
}

// ask is call for who needs the answer's links too.
func ask[T any](ctx context.Context, c *Client, f func(*gitea.Client) (T, *gitea.Response, error), format string, args ...any) (T, *gitea.Response, error) {
	var none T
	api, err := c.api(ctx)
	if err != nil {
		return none, nil, c.http.Err(err, nil, "", format, args...)
	}
	out, res, err := f(api)
	if err == nil && empty(out) {
		err = errors.New("it is null")
	}
	if err != nil {
		return none, nil, c.err(err, res, format, args...)
	}
	return out, res, nil
}

// empty reports whether an answer said null where there must be something.
func empty(out any) bool {
	v := reflect.ValueOf(out)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

func (c *Client) err(err error, res *gitea.Response, format string, args ...any) error {
	if res == nil || res.Response == nil {
		return c.http.Err(err, nil, "", format, args...)
	}
	if res.StatusCode == http.StatusNoContent { // a comment that is none
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), forge.ErrNotFound)
	}
	message := err.Error()
	if i := strings.Index(message, "\nRequest:"); i >= 0 {
		message = message[:i]
	}
	return c.http.Err(err, res.Response, message, format, args...)
}

// get asks for what the library does not know, or does not page.
func (c *Client) get(ctx context.Context, into any, query url.Values, format string, segments ...string) error {
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	at := c.base + "/api/v1/" + strings.Join(segments, "/") + "?" + query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return c.http.Err(err, nil, "", "%s", format)
	}
	req.Header.Set("Authorization", "token "+c.token)
	req.Header.Set("Accept", "application/json")
	res, err := c.http.Client.Do(req)
	if err != nil {
		return c.http.Err(err, nil, "", "%s", format)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		var said struct {
			Message string `json:"message"`
		}
		_ = json.NewDecoder(res.Body).Decode(&said)
		return c.http.Err(errors.New("refused"), res, said.Message, "%s", format)
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return c.http.Err(err, res, "", "%s", format)
	}
	return nil
}

// Kind is Gitea, for Forgejo too.
func (c *Client) Kind() forge.Kind { return forge.Gitea }

// Now is the forge's clock.
func (c *Client) Now() time.Time { return c.http.Now() }

// Domain is the [[forge]]'s.
func (c *Client) Domain() string { return c.domain }

// Capabilities: none of the extras.
func (c *Client) Capabilities() forge.Capabilities { return forge.Capabilities{} }

// Me is the token's user.
func (c *Client) Me(ctx context.Context) (forge.User, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.me.Login != "" {
		return c.me, nil
	}
	u, err := call(ctx, c, (*gitea.Client).GetMyUserInfo, "ask %s who we are", c.domain)
	if err != nil {
		return forge.User{}, err
	}
	c.me = user(u)
	return c.me, nil
}

// Repository asks for its visibility. One of an instance or an owner that is not public counts as public too:
// any member can read it.
func (c *Client) Repository(ctx context.Context, repo forge.Repo) (forge.Repository, error) {
	r, err := c.repository(ctx, repo)
	if err != nil {
		return forge.Repository{}, err
	}
	return forge.Repository{Repo: name(r), Private: r.Private, DefaultBranch: r.DefaultBranch, URL: r.HTMLURL}, nil
}

func (c *Client) repository(ctx context.Context, repo forge.Repo) (*gitea.Repository, error) {
	return call(ctx, c, func(api *gitea.Client) (*gitea.Repository, *gitea.Response, error) {
		return api.GetRepo(repo.Owner, repo.Name)
	}, "read repository %s", repo)
}

// Permission asks what Gitea lets that user do there now. It answers administrators of the repository only.
func (c *Client) Permission(ctx context.Context, repo forge.Repo, login string) (forge.Permission, error) {
	level, err := call(ctx, c, func(api *gitea.Client) (*gitea.CollaboratorPermissionResult, *gitea.Response, error) {
		return api.CollaboratorPermission(repo.Owner, repo.Name, login)
	}, "ask for %s's permission in %s", login, repo)
	if errors.Is(err, forge.ErrNotFound) {
		if _, err := c.repository(ctx, repo); err != nil { // it may be the repository that is not there
			return forge.None, err
		}
		return forge.None, nil
	}
	if errors.Is(err, forge.ErrForbidden) {
		return forge.None, fmt.Errorf("%w: Gitea tells it to administrators of the repository only; make varan's user one", err)
	}
	if err != nil {
		return forge.None, err
	}
	if level == nil || level.User == nil || !strings.EqualFold(level.User.UserName, login) {
		return forge.None, nil // the answer is about somebody else
	}
	switch level.Permission {
	case gitea.AccessModeOwner, gitea.AccessModeAdmin:
		return forge.Admin, nil
	case gitea.AccessModeWrite:
		return forge.Write, nil
	case gitea.AccessModeRead:
		return forge.Read, nil
	}
	return forge.None, nil
}

// Annotate is not to be had.
func (c *Client) Annotate(context.Context, forge.Repo, forge.CheckRun) error {
	return fmt.Errorf("%w: Gitea has no check runs", forge.ErrNotCapable)
}

func user(u *gitea.User) forge.User {
	if u == nil {
		return forge.User{}
	}
	return forge.User{ID: u.ID, Login: u.UserName}
}

func name(r *gitea.Repository) forge.Repo {
	if r == nil || r.Owner == nil {
		return forge.Repo{}
	}
	return forge.Repo{Owner: r.Owner.UserName, Name: r.Name}
}

package github

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-github/v60/github"

	"github.com/varanhq/varan/sync/forge"
)

// Comments are those of the conversation, oldest first.
func (c *Client) Comments(ctx context.Context, repo forge.Repo, number int) ([]forge.Comment, error) {
	return c.comments(ctx, repo, number, nil)
}

// comments reads them all, or, until enough says so, the last one.
func (c *Client) comments(ctx context.Context, repo forge.Repo, number int, enough func(forge.Comment) bool) ([]forge.Comment, error) {
	var out []forge.Comment
	res, err := all(func(o github.ListOptions) (*github.Response, bool, error) {
		found, res, err := c.api.Issues.ListComments(ctx, repo.Owner, repo.Name, number, &github.IssueListCommentsOptions{ListOptions: o})
		for _, raw := range found {
			one, ok := comment(raw)
			if !ok || one.Number != number {
				continue
			}
			if enough != nil { // only what is looked for is wanted
				out = out[:0]
			}
			out = append(out, one)
			if enough != nil && enough(one) {
				return res, true, err
			}
		}
		return res, false, err
	})
	if err != nil {
		return nil, c.err(err, res, "read the comments of %s#%d", repo, number)
	}
	return out, nil
}

// Comment asks one back.
func (c *Client) Comment(ctx context.Context, repo forge.Repo, number int, id int64) (forge.Comment, error) {
	raw, res, err := c.api.Issues.GetComment(ctx, repo.Owner, repo.Name, id)
	if err != nil {
		return forge.Comment{}, c.err(err, res, "read comment %d of %s", id, repo)
	}
	out, ok := comment(raw)
	if !ok || number != 0 && out.Number != number {
		return forge.Comment{}, fmt.Errorf("read comment %d of %s: %w: it is on something else", id, repo, forge.ErrNotFound)
	}
	return out, nil
}

// OwnComment finds ours.
func (c *Client) OwnComment(ctx context.Context, repo forge.Repo, number int, marker string) (forge.Comment, error) {
	me, err := c.Me(ctx)
	if err != nil {
		return forge.Comment{}, err
	}
	ours := func(one forge.Comment) bool { return me.Is(one.Author.Login) && one.Marked(marker) }
	found, err := c.comments(ctx, repo, number, ours)
	if err != nil {
		return forge.Comment{}, err
	}
	if n := len(found); n > 0 && ours(found[n-1]) {
		return found[n-1], nil
	}
	return forge.Comment{}, fmt.Errorf("find our comment on %s#%d: %w", repo, number, forge.ErrNotFound)
}

// CreateComment writes a new one.
func (c *Client) CreateComment(ctx context.Context, repo forge.Repo, number int, body string) (forge.Comment, error) {
	if err := forge.CheckBody(body); err != nil {
		return forge.Comment{}, err
	}
	raw, res, err := c.api.Issues.CreateComment(ctx, repo.Owner, repo.Name, number, &github.IssueComment{Body: &body})
	if err != nil {
		return forge.Comment{}, c.err(err, res, "comment on %s#%d", repo, number)
	}
	out, _ := comment(raw)
	return out, nil
}

// EditComment replaces a comment's text.
func (c *Client) EditComment(ctx context.Context, repo forge.Repo, number int, id int64, body string) (forge.Comment, error) {
	if err := forge.CheckBody(body); err != nil {
		return forge.Comment{}, err
	}
	raw, res, err := c.api.Issues.EditComment(ctx, repo.Owner, repo.Name, id, &github.IssueComment{Body: &body})
	if err != nil {
		return forge.Comment{}, c.err(err, res, "edit comment %d on %s#%d", id, repo, number)
	}
	out, _ := comment(raw)
	return out, nil
}

// NewComments lists what changed in all conversations of the repository.
func (c *Client) NewComments(ctx context.Context, repo forge.Repo, since time.Time) ([]forge.Comment, error) {
	var out []forge.Comment
	if since = since.UTC().Truncate(time.Second); since.Unix() < 0 {
		since = time.Unix(0, 0).UTC()
	}
	res, err := all(func(o github.ListOptions) (*github.Response, bool, error) {
		found, res, err := c.api.Issues.ListComments(ctx, repo.Owner, repo.Name, 0, &github.IssueListCommentsOptions{
			Sort: github.String("updated"), Direction: github.String("asc"), Since: &since, ListOptions: o,
		})
		for _, raw := range found {
			if one, ok := comment(raw); ok {
				out = append(out, one.Brief())
			}
		}
		return res, false, err
	})
	if err != nil {
		return nil, c.err(err, res, "read new comments of %s", repo)
	}
	return out, nil
}

// comment is false for one on an issue that is no pull request.
func comment(raw *github.IssueComment) (forge.Comment, bool) {
	c := forge.Comment{
		ID: raw.GetID(), Author: user(raw.GetUser()), Body: raw.GetBody(), URL: raw.GetHTMLURL(),
		Created: raw.GetCreatedAt().Time, Updated: raw.GetUpdatedAt().Time,
	}
	c.Edited = !c.Created.Equal(c.Updated)
	u, err := url.Parse(raw.GetHTMLURL())
	if err != nil {
		return c, false
	}
	parts := strings.Split(u.Path, "/") // …/OWNER/NAME/pull/7
	if n := len(parts); n >= 2 {
		c.Number, err = strconv.Atoi(parts[n-1])
		return c, err == nil && parts[n-2] == "pull"
	}
	return c, false
}

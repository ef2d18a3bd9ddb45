package gitea

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"code.gitea.io/sdk/gitea"

	"github.com/varanhq/varan/sync/forge"
)

// Comments are those of the conversation; Gitea gives all at once.
func (c *Client) Comments(ctx context.Context, repo forge.Repo, number int) ([]forge.Comment, error) {
	found, err := call(ctx, c, func(api *gitea.Client) ([]*gitea.Comment, *gitea.Response, error) {
		return api.ListIssueComments(repo.Owner, repo.Name, int64(number), gitea.ListIssueCommentOptions{})
	}, "read the comments of %s#%d", repo, number)
	var out []forge.Comment
	for _, raw := range forge.Present(found) {
		if one, ok := comment(raw); ok && one.Number == number {
			out = append(out, one)
		}
	}
	return out, err
}

// Comment asks one back.
func (c *Client) Comment(ctx context.Context, repo forge.Repo, number int, id int64) (forge.Comment, error) {
	raw, err := call(ctx, c, func(api *gitea.Client) (*gitea.Comment, *gitea.Response, error) {
		return api.GetIssueComment(repo.Owner, repo.Name, id)
	}, "read comment %d of %s", id, repo)
	if err != nil {
		return forge.Comment{}, err
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
	found, err := c.Comments(ctx, repo, number)
	if err != nil {
		return forge.Comment{}, err
	}
	for _, one := range found {
		if me.Is(one.Author.Login) && one.Marked(marker) {
			return one, nil
		}
	}
	return forge.Comment{}, fmt.Errorf("find our comment on %s#%d: %w", repo, number, forge.ErrNotFound)
}

// CreateComment writes a new one.
func (c *Client) CreateComment(ctx context.Context, repo forge.Repo, number int, body string) (forge.Comment, error) {
	if err := forge.CheckBody(body); err != nil {
		return forge.Comment{}, err
	}
	raw, err := call(ctx, c, func(api *gitea.Client) (*gitea.Comment, *gitea.Response, error) {
		return api.CreateIssueComment(repo.Owner, repo.Name, int64(number), gitea.CreateIssueCommentOption{Body: body})
	}, "comment on %s#%d", repo, number)
	if err != nil {
		return forge.Comment{}, err
	}
	out, _ := comment(raw)
	return out, nil
}

// EditComment replaces a comment's text.
func (c *Client) EditComment(ctx context.Context, repo forge.Repo, number int, id int64, body string) (forge.Comment, error) {
	if err := forge.CheckBody(body); err != nil {
		return forge.Comment{}, err
	}
	raw, err := call(ctx, c, func(api *gitea.Client) (*gitea.Comment, *gitea.Response, error) {
		return api.EditIssueComment(repo.Owner, repo.Name, id, gitea.EditIssueCommentOption{Body: body})
	}, "edit comment %d on %s#%d", id, repo, number)
	if err != nil {
		return forge.Comment{}, err
	}
	out, _ := comment(raw)
	return out, nil
}

// NewComments lists what changed in all conversations of the repository.
func (c *Client) NewComments(ctx context.Context, repo forge.Repo, since time.Time) ([]forge.Comment, error) {
	found, err := all(func(o gitea.ListOptions) ([]*gitea.Comment, *gitea.Response, error) {
		return ask(ctx, c, func(api *gitea.Client) ([]*gitea.Comment, *gitea.Response, error) {
			return api.ListRepoIssueComments(repo.Owner, repo.Name, gitea.ListIssueCommentOptions{
				Since: since.UTC().Truncate(time.Second), ListOptions: o,
			})
		}, "read new comments of %s", repo)
	})
	var out []forge.Comment
	for _, raw := range found {
		if one, ok := comment(raw); ok {
			out = append(out, one.Brief())
		}
	}
	slices.SortStableFunc(out, func(a, b forge.Comment) int {
		return cmp.Or(a.Updated.Compare(b.Updated), cmp.Compare(a.ID, b.ID))
	})
	return out, err
}

// comment is false for one on an issue that is no pull request.
func comment(raw *gitea.Comment) (forge.Comment, bool) {
	c := forge.Comment{
		ID: raw.ID, Author: user(raw.Poster), Body: raw.Body, URL: raw.HTMLURL, Created: raw.Created, Updated: raw.Updated,
	}
	c.Edited = !c.Created.Equal(c.Updated)
	if raw.OriginalAuthor != "" {
		c.Author = forge.User{} // brought in from another forge: nobody of this one said it
	}
	u, err := url.Parse(raw.PRURL)
	if err != nil || raw.PRURL == "" {
		return c, false
	}
	parts := strings.Split(u.Path, "/") // …/OWNER/NAME/pulls/7
	c.Number, err = strconv.Atoi(parts[len(parts)-1])
	return c, err == nil
}

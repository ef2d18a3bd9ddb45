package gitlab

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go"

	"github.com/varanhq/varan/sync/forge"
)

// Comments are the notes of the conversation that people wrote, oldest first.
func (c *Client) Comments(ctx context.Context, repo forge.Repo, number int) ([]forge.Comment, error) {
	return c.notes(ctx, repo, number, "created_at", "asc", func(forge.Comment) bool { return false })
}

// notes reads until enough says so; that one is the last.
func (c *Client) notes(ctx context.Context, repo forge.Repo, number int, by, order string, enough func(forge.Comment) bool) ([]forge.Comment, error) {
	var out []forge.Comment
	res, err := all(func(o gitlab.ListOptions) (*gitlab.Response, bool, error) {
		found, res, err := c.api.Notes.ListMergeRequestNotes(repo.String(), int64(number),
			&gitlab.ListMergeRequestNotesOptions{ListOptions: o, OrderBy: &by, Sort: &order}, gitlab.WithContext(ctx))
		for _, n := range forge.Present(found) {
			if n.System || n.Position != nil { // what GitLab wrote itself, and notes on lines of code
				continue
			}
			x := c.comment(repo, number, n)
			out = append(out, x)
			if enough(x) {
				return res, true, err
			}
		}
		return res, false, err
	})
	if err != nil {
		return nil, c.err(err, res, "read the notes of %s!%d", repo, number)
	}
	return out, nil
}

// Comment asks one back.
func (c *Client) Comment(ctx context.Context, repo forge.Repo, number int, id int64) (forge.Comment, error) {
	if number == 0 {
		return forge.Comment{}, fmt.Errorf("read note %d of %s: %w: GitLab needs the merge request's number", id, repo, forge.ErrNotFound)
	}
	n, res, err := c.api.Notes.GetMergeRequestNote(repo.String(), int64(number), id, gitlab.WithContext(ctx))
	if n, err = one(c, n, res, err, "read note %d of %s!%d", id, repo, number); err != nil {
		return forge.Comment{}, err
	}
	if n.System || n.Position != nil || n.ID != id {
		return forge.Comment{}, fmt.Errorf("read note %d of %s!%d: %w: it is none of the conversation", id, repo, number, forge.ErrNotFound)
	}
	return c.comment(repo, number, n), nil
}

// OwnComment finds ours.
func (c *Client) OwnComment(ctx context.Context, repo forge.Repo, number int, marker string) (forge.Comment, error) {
	me, err := c.Me(ctx)
	if err != nil {
		return forge.Comment{}, err
	}
	ours := func(x forge.Comment) bool { return me.Is(x.Author.Login) && x.Marked(marker) }
	found, err := c.notes(ctx, repo, number, "created_at", "asc", ours)
	if err != nil {
		return forge.Comment{}, err
	}
	if n := len(found); n > 0 && ours(found[n-1]) {
		return found[n-1], nil
	}
	return forge.Comment{}, fmt.Errorf("find our note on %s!%d: %w", repo, number, forge.ErrNotFound)
}

// CreateComment writes a new note.
func (c *Client) CreateComment(ctx context.Context, repo forge.Repo, number int, body string) (forge.Comment, error) {
	if err := forge.CheckBody(body); err != nil {
		return forge.Comment{}, err
	}
	n, res, err := c.api.Notes.CreateMergeRequestNote(repo.String(), int64(number),
		&gitlab.CreateMergeRequestNoteOptions{Body: &body}, gitlab.WithContext(ctx))
	if n, err = one(c, n, res, err, "comment on %s!%d", repo, number); err != nil {
		return forge.Comment{}, err
	}
	return c.comment(repo, number, n), nil
}

// EditComment replaces a note's text.
func (c *Client) EditComment(ctx context.Context, repo forge.Repo, number int, id int64, body string) (forge.Comment, error) {
	if err := forge.CheckBody(body); err != nil {
		return forge.Comment{}, err
	}
	n, res, err := c.api.Notes.UpdateMergeRequestNote(repo.String(), int64(number), id,
		&gitlab.UpdateMergeRequestNoteOptions{Body: &body}, gitlab.WithContext(ctx))
	if n, err = one(c, n, res, err, "edit note %d on %s!%d", id, repo, number); err != nil {
		return forge.Comment{}, err
	}
	return c.comment(repo, number, n), nil
}

// NewComments looks into every merge request touched since: GitLab has no list of all notes.
func (c *Client) NewComments(ctx context.Context, repo forge.Repo, since time.Time) ([]forge.Comment, error) {
	since = since.UTC()
	touched, err := c.mergeRequests(ctx, repo, gitlab.ListProjectMergeRequestsOptions{
		State: gitlab.Ptr("all"), UpdatedAfter: &since, OrderBy: gitlab.Ptr("updated_at"), Sort: gitlab.Ptr("asc"),
	})
	if err != nil {
		return nil, err
	}
	var out []forge.Comment
	for _, p := range touched {
		notes, err := c.notes(ctx, repo, p.Number, "updated_at", "desc", func(x forge.Comment) bool { return x.Updated.Before(since) })
		if err != nil {
			return nil, err
		}
		for _, x := range notes {
			if !x.Updated.Before(since) {
				out = append(out, x.Brief())
			}
		}
	}
	slices.SortFunc(out, func(a, b forge.Comment) int {
		return cmp.Or(a.Updated.Compare(b.Updated), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

func (c *Client) comment(repo forge.Repo, number int, n *gitlab.Note) forge.Comment {
	out := forge.Comment{
		ID: n.ID, Number: number, Author: forge.User{ID: n.Author.ID, Login: n.Author.Username}, Body: n.Body,
		URL: fmt.Sprintf("%s/%s/-/merge_requests/%d#note_%d", c.web, repo, number, n.ID), Edited: true,
	}
	if n.CreatedAt != nil && n.UpdatedAt != nil { // without both nothing says that it was not edited
		out.Created, out.Updated, out.Edited = *n.CreatedAt, *n.UpdatedAt, !n.CreatedAt.Equal(*n.UpdatedAt)
	}
	return out
}

package github

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/google/go-github/v60/github"

	"github.com/varanhq/varan/sync/forge"
)

// Annotate writes a new check run: GitHub adds annotations to an old one, it does not replace them.
func (c *Client) Annotate(ctx context.Context, repo forge.Repo, run forge.CheckRun) error {
	if c.app == nil {
		return fmt.Errorf("%w: GitHub takes check runs from Apps only", forge.ErrNotCapable)
	}
	if err := forge.CheckCheckRun(run); err != nil {
		return err
	}
	id, err := fingerprint(run)
	if err != nil {
		return err
	}
	me, err := c.Me(ctx)
	if err != nil {
		return err
	}
	runs, res, err := c.api.Checks.ListCheckRunsForRef(ctx, repo.Owner, repo.Name, run.SHA, &github.ListCheckRunsOptions{
		CheckName: &run.Name, Filter: github.String("latest"), ListOptions: github.ListOptions{PerPage: page},
	})
	if err != nil {
		return c.err(err, res, "list check runs of %s@%s", repo, run.SHA)
	}
	for _, old := range runs.CheckRuns {
		if me.Is(old.GetApp().GetSlug()+"[bot]") && old.GetName() == run.Name && old.GetExternalID() == id {
			return nil
		}
	}
	opts := github.CreateCheckRunOptions{
		Name: run.Name, HeadSHA: run.SHA, ExternalID: &id,
		Status: github.String("completed"), Conclusion: github.String(string(run.Conclusion)),
		Output: &github.CheckRunOutput{Title: &run.Title, Summary: &run.Summary},
	}
	if run.URL != "" {
		opts.DetailsURL = &run.URL
	}
	for _, a := range run.Annotations {
		one := &github.CheckRunAnnotation{
			Path: &a.Path, StartLine: &a.Line, EndLine: &a.Line,
			AnnotationLevel: github.String(string(a.Level)), Message: &a.Message,
		}
		if a.Column > 0 {
			one.StartColumn, one.EndColumn = &a.Column, &a.Column
		}
		opts.Output.Annotations = append(opts.Output.Annotations, one)
	}
	_, res, err = c.api.Checks.CreateCheckRun(ctx, repo.Owner, repo.Name, opts)
	return c.err(err, res, "write check run %s of %s@%s", run.Name, repo, run.SHA)
}

// fingerprint tells whether a check run says the same.
func fingerprint(run forge.CheckRun) (string, error) {
	text, err := json.Marshal(run)
	if err != nil {
		return "", fmt.Errorf("encode check run %s: %w", run.Name, err)
	}
	sum := sha256.Sum256(text)
	return "varan-" + hex.EncodeToString(sum[:16]), nil
}

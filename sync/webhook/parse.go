package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Payloads are read leniently: only what a Hint needs has a type, for old and new servers differ in the rest.

// parse reads a delivery that was verified. An error means that the body is no payload at all.
func parse(forge Forge, header http.Header, body []byte) (*Hint, error) {
	if !json.Valid(body) {
		return nil, errors.New("the body is not JSON, or not all of it")
	}
	if bytes.TrimSpace(body)[0] != '{' {
		return nil, errors.New("the body is JSON, but no payload")
	}
	switch forge {
	case GitLab:
		return parseGitLab(header.Get("X-Gitlab-Event"), body)
	case Gitea, Forgejo:
		event := header.Get("X-Forgejo-Event")
		if event == "" {
			event = header.Get("X-Gitea-Event")
		}
		if event == "" {
			event = header.Get("X-GitHub-Event") // sent as well, for receivers that know only GitHub's
		}
		return parseGitHub(event, body)
	}
	return parseGitHub(header.Get("X-GitHub-Event"), body)
}

// other is a hint that nothing follows from.
func other(format string, args ...any) *Hint {
	return &Hint{Event: Other, Why: fmt.Sprintf(format, args...)}
}

// branchOf is the branch of a full ref; false for tags and all else.
func branchOf(ref string) (string, bool) {
	b, ok := strings.CutPrefix(ref, "refs/heads/")
	return b, ok && b != ""
}

// commitOf is a commit's id, "" for the id of zeros that stands for none.
func commitOf(id string) string {
	if strings.Trim(id, "0") == "" {
		return ""
	}
	return id
}

// A pushed is what all forges say alike of a push.
type pushed struct {
	Ref     string `json:"ref"`
	Before  string `json:"before"`
	After   string `json:"after"`
	Deleted bool   `json:"deleted"`
	Created bool   `json:"created"`
	Forced  bool   `json:"forced"`
	Commits []struct {
		ID       string   `json:"id"`
		Added    []string `json:"added"`
		Removed  []string `json:"removed"`
		Modified []string `json:"modified"`
	} `json:"commits"`
	Total  *int `json:"total_commits"`       // Gitea: of how many commits these are the newest
	Counts *int `json:"total_commits_count"` // GitLab: the same
}

// mostCommits is how many commits GitHub lists at most.
const mostCommits = 2048

// hint makes the hint of a push. A branch that was moved by force is what After says, never what Commits tell.
func (p *pushed) hint() *Hint {
	branch, ok := branchOf(p.Ref)
	if !ok {
		return other("a push to %s is not one to a branch", short(p.Ref))
	}
	h := &PushHint{Branch: branch, Before: commitOf(p.Before), After: commitOf(p.After), Forced: p.Forced}
	h.Deleted = p.Deleted || h.After == ""
	h.Complete = !h.Forced && !h.Deleted && !p.Created && h.Before != "" && len(p.Commits) > 0 && len(p.Commits) < mostCommits
	for _, total := range []*int{p.Total, p.Counts} {
		h.Complete = h.Complete && (total == nil || *total == len(p.Commits))
	}
	last := false
	for _, c := range p.Commits {
		told := len(c.Added) + len(c.Removed) + len(c.Modified)
		h.Complete = h.Complete && told > 0 // a merge, or a server that does not tell
		last = last || c.ID == h.After
		if h.Complete {
			h.Paths = append(append(append(h.Paths, c.Added...), c.Removed...), c.Modified...)
		}
	}
	h.Complete = h.Complete && last
	if h.Deleted {
		return &Hint{Event: Other, Push: h, Why: "the branch was deleted; that deploys nothing"}
	}
	return &Hint{Event: Push, Push: h}
}

// short is a stranger's text for an answer: printable, and no longer than needed to know it again.
func short(s string) string {
	q := fmt.Sprintf("%+q", s[:min(len(s), 80)])
	if len(s) > 80 {
		q += "…"
	}
	return q
}

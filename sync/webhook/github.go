package webhook

import (
	"encoding/json"
	"fmt"
)

// githubRepo is a repository as GitHub, Gitea and Forgejo describe it.
type githubRepo struct {
	FullName string `json:"full_name"`
	CloneURL string `json:"clone_url"`
	SSHURL   string `json:"ssh_url"`
}

func (r *githubRepo) repository() Repository {
	if r == nil {
		return Repository{}
	}
	repo := Repository{Path: r.FullName}
	for _, u := range []string{r.CloneURL, r.SSHURL} {
		if u != "" {
			repo.URLs = append(repo.URLs, u)
		}
	}
	return repo
}

// githubSide is the head or base of a pull request. Repo is nil when the fork is gone.
type githubSide struct {
	Ref  string      `json:"ref"`
	SHA  string      `json:"sha"`
	Repo *githubRepo `json:"repo"`
}

// githubEvent holds what is read of any delivery but a push.
type githubEvent struct {
	Action string      `json:"action"`
	Number int         `json:"number"`
	Repo   *githubRepo `json:"repository"`
	Pull   *struct {
		Number int        `json:"number"`
		Merged bool       `json:"merged"`
		Head   githubSide `json:"head"`
		Base   githubSide `json:"base"`
	} `json:"pull_request"`
	Changes struct {
		Base *json.RawMessage `json:"base"`
		Ref  *json.RawMessage `json:"ref"` // Gitea's name for it
	} `json:"changes"`
	Issue *struct {
		Number int              `json:"number"`
		Pull   *json.RawMessage `json:"pull_request"`
	} `json:"issue"`
	IsPull  bool `json:"is_pull"` // Gitea
	Comment *struct {
		ID int64 `json:"id"`
	} `json:"comment"`
	Group *struct {
		HeadSHA string `json:"head_sha"`
		HeadRef string `json:"head_ref"`
		BaseRef string `json:"base_ref"`
	} `json:"merge_group"`
}

// parseGitHub reads a delivery of GitHub, Gitea or Forgejo, by the name of its event.
func parseGitHub(event string, body []byte) (*Hint, error) {
	if event == "push" {
		var p struct {
			pushed
			Repo *githubRepo `json:"repository"`
		}
		if err := json.Unmarshal(body, &p); err != nil {
			return nil, fmt.Errorf("read push: %w", err)
		}
		h := p.hint()
		h.Repo = p.Repo.repository()
		return h, nil
	}
	switch event {
	case "pull_request", "pull_request_sync", "issue_comment", "pull_request_comment", "merge_group":
	case "ping":
		return other("pong"), nil
	case "":
		return other("the delivery names no event"), nil
	default:
		return other("nothing is done for the event %s", short(event)), nil
	}
	var e githubEvent
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, fmt.Errorf("read %s: %w", event, err)
	}
	var h *Hint
	switch event {
	case "pull_request", "pull_request_sync":
		h = e.pull()
	case "merge_group":
		h = e.group()
	default:
		h = e.comment()
	}
	h.Repo = e.Repo.repository()
	return h, nil
}

func (e *githubEvent) pull() *Hint {
	if e.Pull == nil {
		return other("the delivery holds no pull request")
	}
	number := e.Pull.Number
	if number == 0 {
		number = e.Number
	}
	if number < 1 {
		return other("the pull request has no number")
	}
	p := &PullHint{Number: number, Head: e.Pull.Head.SHA, Base: e.Pull.Base.Ref}
	from, to := e.Pull.Head.Repo, e.Pull.Base.Repo
	p.Fork = from == nil || to != nil && from.FullName != to.FullName
	switch e.Action {
	case "opened": // a draft too: its plan is no other
		p.Action = Opened
	case "synchronize", "synchronized":
		p.Action = Updated
	case "reopened":
		p.Action = Reopened
	case "edited":
		if e.Changes.Base == nil && e.Changes.Ref == nil {
			return other("an edited title or description changes no plan")
		}
		p.Action = Retarget
	case "closed":
		p.Action = Closed
		if e.Pull.Merged {
			p.Action = Merged
		}
	default:
		return other("nothing is done when a pull request is %s", short(e.Action))
	}
	return &Hint{Event: Pull, Pull: p}
}

func (e *githubEvent) comment() *Hint {
	onPull := e.IsPull || e.Issue != nil && e.Issue.Pull != nil && string(*e.Issue.Pull) != "null"
	switch {
	case e.Comment == nil || e.Issue == nil || !onPull || e.Issue.Number < 1:
		return other("a comment on an issue is not one on a pull request")
	case e.Action != "created":
		return other("only a new comment counts, none that was %s", short(e.Action))
	}
	return &Hint{Event: Comment, Comment: &CommentHint{Pull: e.Issue.Number, ID: e.Comment.ID}}
}

func (e *githubEvent) group() *Hint {
	if e.Action != "checks_requested" || e.Group == nil {
		return other("nothing is done when a merge group is %s", short(e.Action))
	}
	ref, ok := branchOf(e.Group.HeadRef)
	if !ok {
		return other("the merge group stands on no branch")
	}
	base, _ := branchOf(e.Group.BaseRef)
	return &Hint{Event: MergeGroup, MergeGroup: &GroupHint{Head: e.Group.HeadSHA, Ref: ref, Base: base}}
}

package webhook

import (
	"encoding/json"
	"fmt"
)

type gitlabProject struct {
	Path    string `json:"path_with_namespace"`
	HTTPURL string `json:"git_http_url"`
	SSHURL  string `json:"git_ssh_url"`
}

func (p *gitlabProject) repository() Repository {
	if p == nil {
		return Repository{}
	}
	r := Repository{Path: p.Path}
	for _, u := range []string{p.HTTPURL, p.SSHURL} {
		if u != "" {
			r.URLs = append(r.URLs, u)
		}
	}
	return r
}

type gitlabEvent struct {
	pushed
	Kind       string         `json:"object_kind"`
	Project    *gitlabProject `json:"project"`
	Attributes struct {
		ID        int64  `json:"id"`
		Number    int    `json:"iid"`
		Action    string `json:"action"`
		OldRev    string `json:"oldrev"`
		On        string `json:"noteable_type"`
		System    bool   `json:"system"`
		Target    string `json:"target_branch"`
		TargetID  int64  `json:"target_project_id"`
		SourceID  int64  `json:"source_project_id"`
		HeadOfAll struct {
			ID string `json:"id"`
		} `json:"last_commit"`
	} `json:"object_attributes"`
	Changes struct {
		Target *json.RawMessage `json:"target_branch"`
		Status *json.RawMessage `json:"merge_status"` // looked at anew, because one of its sides moved
	} `json:"changes"`
	Request *struct {
		Number int `json:"iid"`
	} `json:"merge_request"`
}

// parseGitLab reads a delivery of GitLab; a system hook's event is the same body.
func parseGitLab(event string, body []byte) (*Hint, error) {
	var kind struct {
		Kind string `json:"object_kind"`
	}
	if err := json.Unmarshal(body, &kind); err != nil {
		return nil, fmt.Errorf("read %s: %w", short(event), err)
	}
	switch kind.Kind {
	case "push", "merge_request", "note":
	case "tag_push":
		return other("a push of a tag is not one to a branch"), nil
	default:
		if event == "" && kind.Kind == "" {
			return other("the delivery names no event"), nil
		}
		return other("nothing is done for the event %s", short(event)), nil
	}
	var e gitlabEvent
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, fmt.Errorf("read %s: %w", kind.Kind, err)
	}
	var h *Hint
	switch kind.Kind {
	case "push":
		h = e.hint()
	case "merge_request":
		h = e.request()
	default:
		h = e.note()
	}
	h.Repo = e.Project.repository()
	return h, nil
}

func (e *gitlabEvent) request() *Hint {
	a := &e.Attributes
	if a.Number < 1 {
		return other("the merge request has no number")
	}
	p := &PullHint{Number: a.Number, Head: a.HeadOfAll.ID, Base: a.Target, Fork: a.SourceID != a.TargetID}
	switch a.Action {
	case "open":
		p.Action = Opened
	case "reopen":
		p.Action = Reopened
	case "close":
		p.Action = Closed
	case "merge":
		p.Action = Merged
	case "update":
		switch {
		case a.OldRev != "":
			p.Action = Updated
		case e.Changes.Target != nil || e.Changes.Status != nil:
			p.Action = Retarget
		default:
			return other("the update of the merge request changes no plan")
		}
	default:
		return other("nothing is done when a merge request is %s", short(a.Action))
	}
	return &Hint{Event: Pull, Pull: p}
}

func (e *gitlabEvent) note() *Hint {
	a := &e.Attributes
	switch {
	case a.On != "MergeRequest" || e.Request == nil || e.Request.Number < 1:
		return other("a note that is not on a merge request")
	case a.System:
		return other("GitLab's own notes are no commands")
	case a.Action != "" && a.Action != "create":
		return other("only a new note counts, none after an %s", short(a.Action))
	}
	return &Hint{Event: Comment, Comment: &CommentHint{Pull: e.Request.Number, ID: a.ID}}
}

package webhook

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// A Forge is a family of code hosts, as [[forge]] type spells it.
type Forge string

// The forges whose deliveries are understood. Forgejo's are Gitea's.
const (
	GitHub  Forge = "github"
	Gitea   Forge = "gitea"
	Forgejo Forge = "forgejo"
	GitLab  Forge = "gitlab"
)

// An Event says what a Hint is about.
type Event string

// What is acted on; all else that forges send is Other.
const (
	Push       Event = "push"        // to a branch
	Pull       Event = "pull"        // a pull or merge request
	Comment    Event = "comment"     // on a pull request
	MergeGroup Event = "merge_group" // of GitHub's merge queue
	Execution  Event = "execution"   // one of Komodo's URLs
	Other      Event = "other"
)

// A Hint is a reason to look. All of it but Forge and Domain is what the sender claims.
type Hint struct {
	Event Event `json:"event"`
	// Forge and Domain are those of the secret that the delivery was signed with; Domain may be empty.
	Forge  Forge      `json:"forge"`
	Domain string     `json:"domain,omitempty"`
	Repo   Repository `json:"repo,omitzero"`

	Push       *PushHint      `json:"push,omitempty"`
	Pull       *PullHint      `json:"pull,omitempty"`
	Comment    *CommentHint   `json:"comment,omitempty"`
	MergeGroup *GroupHint     `json:"merge_group,omitempty"`
	Execution  *ExecutionHint `json:"execution,omitempty"`
	// Why says of Other why nothing is to be done.
	Why string `json:"why,omitempty"`
}

// A Repository is one as its forge names it.
type Repository struct {
	Path string   `json:"path,omitempty"` // owner/name, with GitLab's subgroups
	URLs []string `json:"urls,omitempty"` // to clone from, as sent
}

// A PushHint is that a branch moved.
type PushHint struct {
	Branch  string `json:"branch"`
	Before  string `json:"before,omitempty"` // "" = the branch is new
	After   string `json:"after,omitempty"`  // "" = the branch is gone
	Deleted bool   `json:"deleted,omitempty"`
	Forced  bool   `json:"forced,omitempty"` // only GitHub says so
	// Paths are the files changed, sorted, when Complete: all commits of the push told theirs.
	Paths    []string `json:"paths,omitempty"`
	Complete bool     `json:"complete,omitempty"`
}

// A PullHint is that something happened to a pull request.
type PullHint struct {
	Number int    `json:"number"`
	Action Action `json:"action"`
	Head   string `json:"head,omitempty"` // commit
	Base   string `json:"base,omitempty"` // branch
	Fork   bool   `json:"fork,omitempty"` // its head is in another repository, or in none
}

// An Action is what happened to a pull request, in one spelling for all forges.
type Action string

// Labels, reviewers, titles and the like are no Action: nothing is planned anew for them.
const (
	Opened   Action = "opened"
	Updated  Action = "updated" // new commits
	Reopened Action = "reopened"
	Retarget Action = "retarget" // another base
	Closed   Action = "closed"   // unmerged
	Merged   Action = "merged"
)

// A CommentHint is a new comment on a pull request. Its text is asked back from the forge.
type CommentHint struct {
	Pull int   `json:"pull"`
	ID   int64 `json:"id"`
}

// A GroupHint is a merge queue's question whether a group may be merged.
type GroupHint struct {
	Head string `json:"head"` // commit
	Ref  string `json:"ref"`  // branch that holds it, without refs/heads/
	Base string `json:"base,omitempty"`
}

// An ExecutionHint came by one of Komodo's URLs.
type ExecutionHint struct {
	Resource schema.ID `json:"resource"`
	Name     string    `json:"name"`             // of the execution: deploy, sync, refresh …
	Branch   string    `json:"branch,omitempty"` // pushed to
}

// Subject names what a hint is about: a later look at the same subject answers every earlier hint.
func (h *Hint) Subject() string {
	at := string(h.Forge) + " " + h.Domain + " " + strings.ToLower(h.Repo.key())
	switch h.Event {
	case Push:
		return at + " push " + h.Push.Branch
	case Pull:
		return at + " pull " + strconv.Itoa(h.Pull.Number)
	case Comment:
		return at + " comment " + strconv.FormatInt(h.Comment.ID, 10)
	case MergeGroup:
		return at + " group " + h.MergeGroup.Ref
	case Execution:
		return "execution " + string(h.Execution.Resource) + " " + h.Execution.Name
	}
	return at
}

func (r Repository) key() string {
	if r.Path == "" && len(r.URLs) > 0 {
		return r.URLs[0]
	}
	return r.Path
}

// Bounds of one hint, so that a pending one has a size.
const (
	maxPaths     = 500
	maxPathBytes = 8 << 10 // of all paths
	maxText      = 1024    // a ref, a path, a commit's id
	maxURLs      = 4
)

// bound cuts a hint down to what is kept; false if what must be known of it is too long to be real.
func (h *Hint) bound() bool {
	texts := []string{h.Repo.Path, h.Domain}
	h.Repo.URLs = h.Repo.URLs[:min(len(h.Repo.URLs), maxURLs)]
	texts = append(texts, h.Repo.URLs...)
	if p := h.Push; p != nil {
		texts = append(texts, p.Branch, p.Before, p.After)
		slices.Sort(p.Paths)
		p.Paths = slices.Compact(p.Paths)
		size := 0
		for _, path := range p.Paths {
			size += len(path)
		}
		if !p.Complete || len(p.Paths) > maxPaths || size > maxPathBytes {
			p.Paths, p.Complete = nil, false
		}
	}
	if p := h.Pull; p != nil {
		texts = append(texts, p.Head, p.Base)
	}
	if g := h.MergeGroup; g != nil {
		texts = append(texts, g.Head, g.Ref, g.Base)
	}
	if e := h.Execution; e != nil {
		texts = append(texts, string(e.Resource), e.Name, e.Branch)
	}
	return !slices.ContainsFunc(texts, func(s string) bool { return len(s) > maxText })
}

// join is both hints of one subject: the newer with all paths of both.
func join(older, newer *Hint) *Hint {
	if older == nil || newer.Push == nil || older.Push == nil {
		return newer
	}
	h, p := *newer, *newer.Push
	p.Before = older.Push.Before
	p.Forced = p.Forced || older.Push.Forced
	p.Complete = p.Complete && older.Push.Complete
	p.Paths = append(slices.Clone(older.Push.Paths), newer.Push.Paths...)
	h.Push = &p
	h.bound()
	return &h
}

// Is reports whether the repository of the hint is the one at an address: https, ssh and the short ssh form of one
// repository are the same, as are letters of either case.
func (h *Hint) Is(a gitrepo.Address) bool {
	if a.Local() {
		return false
	}
	for _, u := range h.Repo.URLs {
		if b, err := gitrepo.ParseAddress(u); err == nil && b.Same(a) {
			return true
		}
	}
	return h.Repo.Path != "" && strings.EqualFold(trim(h.Repo.Path), trim(a.Path)) && h.at(a)
}

// at reports whether an address lies on the domain whose secret signed the hint.
func (h *Hint) at(a gitrepo.Address) bool {
	domain := cmp.Or(strings.ToLower(h.Domain), h.Forge.domain())
	host := a.Host
	if a.Port != "" && a.Scheme != "ssh" {
		host += ":" + a.Port
	}
	return domain != "" && (domain == host || a.Scheme == "ssh" && strings.Split(domain, ":")[0] == a.Host)
}

// domain is where the forge's own service is.
func (f Forge) domain() string {
	switch f {
	case GitHub:
		return "github.com"
	case GitLab:
		return "gitlab.com"
	}
	return ""
}

func trim(p string) string { return strings.TrimSuffix(strings.Trim(p, "/"), ".git") }

package forge

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// A Forge is one code host seen with one credential. It is safe for concurrent use; writes of one client go out
// one after another. Every method may return the errors of errors.go. Users are compared without regard to case.
type Forge interface {
	Kind() Kind
	Domain() string // as in [[forge]] domain: "github.com"
	// Now is the forge's clock, as its last answer told it; ours before the first.
	Now() time.Time

	// Capabilities says what this forge can do with this credential. It asks nothing.
	Capabilities() Capabilities
	// Check tries the credential and its permissions on the repository. The error is for a forge that could not
	// be asked at all; what is missing stands in the findings.
	Check(ctx context.Context, repo Repo) ([]Finding, error)
	// Me is who our comments and statuses come from.
	Me(ctx context.Context) (User, error)
	// Repository says whether strangers can read what we write there.
	Repository(ctx context.Context, repo Repo) (Repository, error)

	// PullRequests lists the open ones, by number. Asked again with nothing changed it costs one conditional
	// request for every hundred of them.
	PullRequests(ctx context.Context, repo Repo) ([]PullRequest, error)
	PullRequest(ctx context.Context, repo Repo, number int) (PullRequest, error)
	// PullRequestsOf lists the merged pull requests that brought in the commit: first the one that was merged as
	// exactly that commit. Empty: it came without one.
	PullRequestsOf(ctx context.Context, repo Repo, sha string) ([]PullRequest, error)
	ChangedFiles(ctx context.Context, repo Repo, number int) (Changes, error)

	// SetStatus sets the status of its Context on the commit; the newest of a Context counts. For a pull request
	// the repository is PullRequest.StatusRepo. One that stands there already word for word is not written again
	// where writing it again would be an error (GitLab).
	SetStatus(ctx context.Context, repo Repo, sha string, status Status) error
	// Statuses reads back the newest status of each Context, by Context.
	Statuses(ctx context.Context, repo Repo, sha string) ([]Status, error)

	// Comments are those of the pull request's conversation, oldest first; not those on lines of code.
	Comments(ctx context.Context, repo Repo, number int) ([]Comment, error)
	// Comment asks one comment back. The number is needed by GitLab only; elsewhere the answer's Number is the
	// forge's own, and a comment on an issue that is no pull request is ErrNotFound.
	Comment(ctx context.Context, repo Repo, number int, id int64) (Comment, error)
	// OwnComment finds our comment by the marker it begins with and by its author being us: the oldest, if there are
	// several.
	// Without one it is ErrNotFound.
	OwnComment(ctx context.Context, repo Repo, number int, marker string) (Comment, error)
	CreateComment(ctx context.Context, repo Repo, number int, body string) (Comment, error)
	EditComment(ctx context.Context, repo Repo, number int, id int64, body string) (Comment, error)
	// NewComments lists comments on any pull request created or edited at or after since, oldest change first.
	// Polled with the Updated of the newest one seen, it asks for the same address until there is something new,
	// so the request stays conditional; that newest one is in the answer again. Of a long text only the beginning is
	// there: strangers may have written many.
	NewComments(ctx context.Context, repo Repo, since time.Time) ([]Comment, error)

	// Annotate writes a finished check run with annotations; the newest of a Name on a commit is the one shown.
	// If that one is ours and says the same already, nothing is written. Without Capabilities.Checks it is
	// ErrNotCapable.
	Annotate(ctx context.Context, repo Repo, run CheckRun) error

	// Permission asks what a user may do in the repository at this moment. A user it does not know has None.
	Permission(ctx context.Context, repo Repo, user string) (Permission, error)
}

// A Kind is one of the three APIs.
type Kind string

// The kinds, as [[forge]] type names them. Forgejo is a Gitea.
const (
	GitHub Kind = "github"
	Gitea  Kind = "gitea"
	GitLab Kind = "gitlab"
)

// Limits of what may be sent; over them a write is ErrTooLong and nothing is sent. They are GitHub's, the
// tightest, so that a report looks the same everywhere.
const (
	MaxDescription = 140   // characters of Status.Description
	MaxContext     = 255   // characters of Status.Context
	MaxURL         = 255   // characters of Status.URL (GitLab's limit)
	MaxComment     = 65536 // characters of a comment
	MaxAnnotations = 50    // of one check run: what one request may carry; the comment names the rest
	MaxSummary     = 65535 // characters of a check run's summary
)

// Capabilities say what a forge offers beside statuses and comments.
type Capabilities struct {
	Checks     bool // check runs with annotations: a GitHub App only
	MergeRefs  bool // PullRequest.MergeRef names base and head merged
	MergeQueue bool // merge-queue groups exist, as branches below gh-readonly-queue/
}

// A Repo names a repository on its forge: the path of its address. GitLab's groups nest: Owner may hold slashes.
type Repo struct {
	Owner, Name string
}

// ParseRepo reads the path of a repository's address: "/acme/infra.git".
func ParseRepo(path string) (Repo, error) {
	path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")
	i := strings.LastIndexByte(path, '/')
	if i <= 0 || i == len(path)-1 {
		return Repo{}, fmt.Errorf("%q is no OWNER/NAME", path)
	}
	for _, part := range strings.Split(path, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, outlandish) {
			return Repo{}, fmt.Errorf("%q is no OWNER/NAME", path)
		}
	}
	return Repo{Owner: path[:i], Name: path[i+1:]}, nil
}

// outlandish are the runes that no repository's path on a forge has, and that would mean something in a URL.
func outlandish(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`%?#\&"`, r) }

// String is OWNER/NAME.
func (r Repo) String() string { return r.Owner + "/" + r.Name }

// IsZero reports whether it names none: a fork's repository may be gone.
func (r Repo) IsZero() bool { return r == Repo{} }

// Same compares as forges do.
func (r Repo) Same(o Repo) bool {
	return strings.EqualFold(r.Owner, o.Owner) && strings.EqualFold(r.Name, o.Name)
}

// A Repository is what we need to know about one.
type Repository struct {
	Repo          Repo // as the forge spells it now: after a rename it differs from what was asked
	Private       bool // false: strangers can read it
	DefaultBranch string
	URL           string
}

// A User of the forge.
type User struct {
	ID    int64
	Login string // for a GitHub App "slug[bot]"
	Bot   bool
}

// Is compares logins as forges do.
func (u User) Is(login string) bool { return login != "" && strings.EqualFold(u.Login, login) }

// State is a pull request's.
type State string

// A pull request's states.
const (
	Open   State = "open"
	Closed State = "closed" // without a merge
	Merged State = "merged"
)

// A PullRequest as the forge tells it.
type PullRequest struct {
	Number int
	Title  string // a stranger's text
	Author User
	URL    string
	State  State
	Draft  bool
	Fork   bool // the head is in another repository, or in one that is gone

	Head Branch
	Base Branch // its SHA is what the forge last compared with, or "": not the branch's tip

	HeadRef  string // in the base repository, also for forks: refs/pull/7/head
	MergeRef string // base and head merged: refs/pull/7/merge; "" where the forge keeps none or there is a conflict

	// StatusRepo is where a status of the head is set: the base's repository, on GitLab the head's.
	StatusRepo  Repo
	MergeCommit string // what it was merged as; "" unless Merged
	Updated     time.Time
}

// A Branch of a repository and where it stands.
type Branch struct {
	Repo   Repo // zero if it is gone
	Branch string
	SHA    string
}

// Changes are the files of a pull request.
type Changes struct {
	Files    []ChangedFile // by path
	Complete bool          // false: the forge did not list all (GitHub ends at 3000)
}

// A ChangedFile of a pull request.
type ChangedFile struct {
	Path     string
	Previous string // its former path, if it was renamed
	Removed  bool
}

// StatusState is how a commit stands.
type StatusState string

// The states every forge can show.
const (
	Pending StatusState = "pending"
	Success StatusState = "success"
	Failure StatusState = "failure"
	Error   StatusState = "error" // GitLab shows it as failed
)

// A Status of a commit.
type Status struct {
	Context     string // "varan/plan"
	State       StatusState
	Description string
	URL         string // where its link leads; "" = no link
	Branch      string // where the commit stands, for GitLab, which else guesses one; not read back
}

// A Comment in a pull request's conversation.
type Comment struct {
	ID      int64
	Number  int // the pull request's
	Author  User
	Body    string
	Created time.Time
	Updated time.Time
	Edited  bool // Updated differs from Created; forges tell seconds, so an edit within the first one is not seen
	URL     string
}

// maxBrief is how much of a comment's text NewComments gives: a command is its first line.
const maxBrief = 1024

// Marked reports whether a comment begins with a marker. Further down it may stand in strangers' words.
func (c Comment) Marked(marker string) bool {
	return strings.HasPrefix(strings.TrimLeft(c.Body, " \t\r\n"), marker)
}

// Brief is a comment with the beginning of its text.
func (c Comment) Brief() Comment {
	if len(c.Body) > maxBrief {
		c.Body = strings.Clone(c.Body[:maxBrief])
	}
	return c
}

// A CheckRun carries annotations.
type CheckRun struct {
	Name        string // differs from every Status.Context, or a required check of that name is ambiguous
	SHA         string
	Conclusion  Conclusion
	Title       string
	Summary     string // Markdown
	URL         string
	Annotations []Annotation
}

// Conclusion of a check run.
type Conclusion string

// The conclusions we draw.
const (
	Passed  Conclusion = "success"
	Failed  Conclusion = "failure"
	Neutral Conclusion = "neutral"
)

// An Annotation stands at a line of a file.
type Annotation struct {
	Path    string
	Line    int // from 1
	Column  int // from 1; 0 = the whole line
	Message string
	Level   Level
}

// Level of an annotation.
type Level string

// The levels.
const (
	Notice  Level = "notice"
	Warning Level = "warning"
	Fault   Level = "failure"
)

// Permission is what a user may do in a repository; each includes those before it.
type Permission int

// The permissions, in order. Triage on GitHub is Read; guest on GitLab is None.
const (
	None     Permission = iota
	Read                // see the code
	Write               // push
	Maintain            // push to protected branches, manage without the dangerous parts
	Admin
)

// String is the permission's name.
func (p Permission) String() string {
	switch p {
	case Read:
		return "read"
	case Write:
		return "write"
	case Maintain:
		return "maintain"
	case Admin:
		return "admin"
	}
	return "none"
}

// A Finding of Check.
type Finding struct {
	OK       bool
	Optional bool   // without it varan works, with less
	What     string // "set commit statuses"
	Detail   string // what was seen
	Fix      string // what to do; "" if OK
}

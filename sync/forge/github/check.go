package github

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-github/v60/github"

	"github.com/varanhq/varan/sync/forge"
)

// noCommit is a commit that no repository has: setting its status shows whether we may, and sets nothing.
const noCommit = "0000000000000000000000000000000000000000"

// Check tries the credential.
func (c *Client) Check(ctx context.Context, repo forge.Repo) ([]forge.Finding, error) {
	if c.app != nil {
		return c.checkApp(ctx, repo)
	}
	return c.checkToken(ctx, repo)
}

// installation is what the library's type of it leaves out: every permission by its name.
type installation struct {
	ID          int64             `json:"id"`
	Permissions map[string]string `json:"permissions"`
	Events      []string          `json:"events"`
	Suspended   *string           `json:"suspended_at"`
	Account     struct {
		Login string `json:"login"`
	} `json:"account"`
	HTMLURL string `json:"html_url"`
}

func (c *Client) checkApp(ctx context.Context, repo forge.Repo) ([]forge.Finding, error) {
	me, err := c.Me(ctx)
	if errors.Is(err, forge.ErrUnauthorized) {
		return []forge.Finding{{
			What: "sign in as the App", Detail: err.Error(),
			Fix: "app_id and private_key_file must be of the same App (its settings page shows the id and makes keys), and this machine's clock must be right",
		}}, nil
	}
	if err != nil {
		return nil, err
	}
	out := []forge.Finding{{OK: true, What: "sign in as the App", Detail: "as " + me.Login}}
	var in installation
	req, err := c.app.NewRequest(http.MethodGet, path("repos", repo.Owner, repo.Name, "installation"), nil)
	if err != nil {
		return nil, c.err(err, nil, "ask for the App's installation on %s", repo)
	}
	res, err := c.app.Do(ctx, req, &in)
	if err := c.err(err, res, "ask for the App's installation on %s", repo); errors.Is(err, forge.ErrNotFound) {
		return append(out, forge.Finding{
			What: "see the repository", Detail: fmt.Sprintf("the App is not installed on %s", repo),
			Fix: "open the App's page, choose Install, and select the repository",
		}), nil
	} else if err != nil {
		return nil, err
	}
	installed := forge.Finding{OK: true, What: "see the repository", Detail: fmt.Sprintf("installation %d of %s", in.ID, in.Account.Login)}
	switch want := c.installed; {
	case in.Suspended != nil:
		installed.OK, installed.Detail, installed.Fix = false, "the installation is suspended", "unsuspend it: "+in.HTMLURL
	case want != in.ID:
		installed.OK = false
		installed.Detail = fmt.Sprintf("installation_id is %d, but the repository belongs to installation %d of %s", want, in.ID, in.Account.Login)
		installed.Fix = fmt.Sprintf("installation_id = %d", in.ID)
	}
	out = append(out, installed)
	for _, p := range permissions {
		out = append(out, p.finding(in.Permissions[p.name]))
	}
	missing := slices.DeleteFunc(slices.Clone(events), func(e string) bool { return slices.Contains(in.Events, e) })
	hooks := forge.Finding{OK: len(missing) == 0, Optional: true, What: "webhook events", Detail: strings.Join(in.Events, ", ")}
	if !hooks.OK {
		hooks.Detail = "not subscribed: " + strings.Join(missing, ", ")
		hooks.Fix = "tick them under Permissions & events of the App; without them varan learns of changes by polling only"
	}
	out = append(out, hooks)
	if installed.OK { // the permissions above are what was agreed to; this is what is so
		tried, err := c.tryStatus(ctx, repo)
		if err != nil {
			return nil, err
		}
		out = append(out, tried)
	}
	return out, nil
}

// permission is one that an App needs.
type permission struct {
	name, page, level, what string
	optional                bool
}

var permissions = []permission{
	{name: "contents", page: "Contents", level: "read", what: "read files"},
	{name: "pull_requests", page: "Pull requests", level: "write", what: "read pull requests, write the comment"},
	{name: "statuses", page: "Commit statuses", level: "write", what: "set varan/plan and varan/apply"},
	{name: "issues", page: "Issues", level: "read", what: "hear of comments by webhook", optional: true},
	{name: "checks", page: "Checks", level: "write", what: "mark mistakes at their lines", optional: true},
	{name: "merge_queues", page: "Merge queues", level: "read", what: "hear of merge-queue groups", optional: true},
}

// events are those the receiver acts on.
var events = []string{"issue_comment", "merge_group", "pull_request", "push"}

func (p permission) finding(have string) forge.Finding {
	f := forge.Finding{
		OK: have == p.level || have == "write" || have == "admin", Optional: p.optional,
		What: p.what, Detail: fmt.Sprintf("%s: %s", p.page, have),
	}
	if have == "" {
		f.Detail = p.page + ": no access"
	}
	if !f.OK {
		f.Fix = fmt.Sprintf("set %s to %q under Permissions & events of the App, then accept the new permissions where it is installed", p.page, access(p.level))
	}
	return f
}

func access(level string) string {
	if level == "write" {
		return "Read and write"
	}
	return "Read-only"
}

func (c *Client) checkToken(ctx context.Context, repo forge.Repo) ([]forge.Finding, error) {
	u, res, err := c.api.Users.Get(ctx, "")
	if err := c.err(err, res, "ask %s who we are", c.domain); errors.Is(err, forge.ErrUnauthorized) || errors.Is(err, forge.ErrForbidden) {
		return []forge.Finding{{
			What: "sign in", Detail: err.Error(),
			Fix: "the token must be of a user: classic with the scope repo, or fine-grained; it may have expired",
		}}, nil
	} else if err != nil {
		return nil, err
	}
	signed := forge.Finding{OK: true, What: "sign in", Detail: "as " + u.GetLogin()}
	scopes, classic := res.Header["X-Oauth-Scopes"]
	if classic {
		signed.Detail += ", scopes: " + strings.Join(scopes, ", ")
	}
	if end := res.TokenExpiration; !end.IsZero() {
		signed.Detail += ", the token expires on " + end.UTC().Format("2006-01-02")
	}
	out := []forge.Finding{signed}
	r, res, err := c.api.Repositories.Get(ctx, repo.Owner, repo.Name)
	if err := c.err(err, res, "read repository %s", repo); errors.Is(err, forge.ErrNotFound) || errors.Is(err, forge.ErrForbidden) {
		return append(out, forge.Finding{
			What: "see the repository", Detail: fmt.Sprintf("%s is not there for %s", repo, u.GetLogin()),
			Fix: "invite the user to the repository; a fine-grained token must name it, a classic one needs the scope repo (public_repo if it is public)",
		}), nil
	} else if err != nil {
		return nil, err
	}
	out = append(out, forge.Finding{OK: true, What: "see the repository", Detail: visibility(r)})
	push := forge.Finding{OK: r.GetPermissions()["push"], What: "write to the repository", Detail: fmt.Sprintf("%s may: %s", u.GetLogin(), granted(r.GetPermissions()))}
	if !push.OK {
		push.Fix = "give the user the role Write: setting a status needs it"
	}
	out = append(out, push)
	_, res, err = c.api.PullRequests.List(ctx, repo.Owner, repo.Name, &github.PullRequestListOptions{ListOptions: github.ListOptions{PerPage: 1}})
	pulls := forge.Finding{OK: err == nil, What: "read pull requests", Detail: "yes"}
	if err := c.err(err, res, "list pull requests of %s", repo); err != nil {
		if _, later := forge.Retry(err); later {
			return nil, err
		}
		pulls.Detail, pulls.Fix = err.Error(), "give the token Pull requests: Read and write"
	}
	out = append(out, pulls)
	tried, err := c.tryStatus(ctx, repo)
	if err != nil {
		return nil, err
	}
	out = append(out, tried)
	if !classic {
		out = append(out, forge.Finding{
			OK: true, Optional: true, What: "write comments",
			Detail: "cannot be tried without writing one: a fine-grained token needs Pull requests: Read and write",
		})
	}
	return append(out, forge.Finding{
		Optional: true, What: "mark mistakes at their lines", Detail: "GitHub takes check runs from Apps only; they stand in the comment instead",
		Fix: "use a GitHub App: varan forge app-manifest",
	}), nil
}

// tryStatus sets a status on no commit: the refusal tells whether it was for the commit or for us.
func (c *Client) tryStatus(ctx context.Context, repo forge.Repo) (forge.Finding, error) {
	f := forge.Finding{What: "set commit statuses", Detail: "tried on a commit that is not there"}
	err := c.SetStatus(ctx, repo, noCommit, forge.Status{Context: "varan/check", State: forge.Pending, Description: "varan forge check"})
	if _, later := forge.Retry(err); later {
		return f, err
	}
	switch {
	case err == nil, errors.Is(err, forge.ErrRefused):
		f.OK = true
	default:
		f.Detail = err.Error()
		f.Fix = "classic token: the scope repo; fine-grained token or App: Commit statuses: Read and write; and the role Write"
	}
	return f, nil
}

func visibility(r *github.Repository) string {
	if r.GetPrivate() {
		return r.GetFullName() + ", private"
	}
	return r.GetFullName() + ", public: everybody reads what varan writes there"
}

func granted(have map[string]bool) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if have[name] {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

package pulls

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/gitrepo"
)

// A fakeForge is a forge in memory that counts what is written.
type fakeForge struct {
	mu       gosync.Mutex
	prs      map[int]*forge.PullRequest
	statuses map[string]map[string]forge.Status // sha → context
	comments []forge.Comment
	perms    map[string]forge.Permission
	nextID   int64
	writes   []string
	down     error
	// deny refuses to write one thing: "status one" by the commit's beginning, "comment 1" by the pull request.
	deny    func(what string) error
	permErr error
	// die is called after the write of that number was done: what it returns is what the writer sees.
	die   func(n int) error
	caps  forge.Capabilities
	clock time.Time
}

func newFake() *fakeForge {
	return &fakeForge{prs: map[int]*forge.PullRequest{}, statuses: map[string]map[string]forge.Status{}, perms: map[string]forge.Permission{},
		caps: forge.Capabilities{MergeRefs: true, MergeQueue: true}, clock: time.Now().UTC().Truncate(time.Second).Add(time.Minute)}
}

func (f *fakeForge) Kind() forge.Kind { return forge.GitHub }
func (f *fakeForge) Domain() string   { return "forge.example" }
func (f *fakeForge) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clock
}
func (f *fakeForge) Capabilities() forge.Capabilities { return f.caps }
func (f *fakeForge) Check(context.Context, forge.Repo) ([]forge.Finding, error) {
	return nil, nil
}
func (f *fakeForge) Me(context.Context) (forge.User, error) {
	return forge.User{ID: 1, Login: "varan[bot]", Bot: true}, nil
}
func (f *fakeForge) Repository(context.Context, forge.Repo) (forge.Repository, error) {
	return forge.Repository{}, nil
}

func (f *fakeForge) PullRequests(context.Context, forge.Repo) ([]forge.PullRequest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []forge.PullRequest
	for _, pr := range f.prs {
		if pr.State == forge.Open {
			out = append(out, *pr)
		}
	}
	slices.SortFunc(out, func(a, b forge.PullRequest) int { return a.Number - b.Number })
	return out, f.down
}

func (f *fakeForge) PullRequest(_ context.Context, _ forge.Repo, n int) (forge.PullRequest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if pr := f.prs[n]; pr != nil {
		return *pr, f.down
	}
	return forge.PullRequest{}, forge.ErrNotFound
}

func (f *fakeForge) PullRequestsOf(_ context.Context, _ forge.Repo, sha string) ([]forge.PullRequest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, pr := range f.prs {
		if pr.MergeCommit == sha {
			return []forge.PullRequest{*pr}, f.down
		}
	}
	return nil, f.down
}

func (f *fakeForge) ChangedFiles(context.Context, forge.Repo, int) (forge.Changes, error) {
	return forge.Changes{Complete: true}, f.down
}

func (f *fakeForge) wrote(format string, args ...any) error {
	f.writes = append(f.writes, fmt.Sprintf(format, args...))
	if f.die != nil {
		return f.die(len(f.writes))
	}
	return nil
}

func (f *fakeForge) denied(what string) error {
	if f.deny == nil {
		return nil
	}
	return f.deny(what)
}

// takesAway deletes our comments on a pull request, as people do.
func (f *fakeForge) takesAway(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.comments = slices.DeleteFunc(f.comments, func(c forge.Comment) bool { return c.Number == n && c.Author.Bot })
}

func (f *fakeForge) SetStatus(_ context.Context, _ forge.Repo, sha string, s forge.Status) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return f.down
	}
	if err := f.denied("status " + plan.Short(sha)); err != nil {
		return err
	}
	if f.statuses[sha] == nil {
		f.statuses[sha] = map[string]forge.Status{}
	}
	f.statuses[sha][s.Context] = s
	return f.wrote("status %s %s %s %s", plan.Short(sha), s.Context, s.State, s.Description)
}

func (f *fakeForge) Statuses(_ context.Context, _ forge.Repo, sha string) ([]forge.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []forge.Status
	for _, s := range f.statuses[sha] {
		out = append(out, s)
	}
	return out, f.down
}

func (f *fakeForge) Comments(_ context.Context, _ forge.Repo, n int) ([]forge.Comment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []forge.Comment
	for _, c := range f.comments {
		if c.Number == n {
			out = append(out, c)
		}
	}
	return out, f.down
}

func (f *fakeForge) Comment(_ context.Context, _ forge.Repo, _ int, id int64) (forge.Comment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.comments {
		if c.ID == id {
			return c, f.down
		}
	}
	return forge.Comment{}, forge.ErrNotFound
}

func (f *fakeForge) OwnComment(_ context.Context, _ forge.Repo, n int, marker string) (forge.Comment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.comments {
		if c.Number == n && c.Author.Login == "varan[bot]" && strings.HasPrefix(c.Body, marker) {
			return c, f.down
		}
	}
	if f.down != nil {
		return forge.Comment{}, f.down
	}
	return forge.Comment{}, forge.ErrNotFound
}

func (f *fakeForge) CreateComment(_ context.Context, _ forge.Repo, n int, body string) (forge.Comment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return forge.Comment{}, f.down
	}
	if err := f.denied(fmt.Sprint("comment ", n)); err != nil {
		return forge.Comment{}, err
	}
	c := f.add(n, forge.User{Login: "varan[bot]", Bot: true}, body)
	return c, f.wrote("comment %d %s", n, headline(body))
}

// add puts a comment there; the lock is held.
func (f *fakeForge) add(n int, by forge.User, body string) forge.Comment {
	f.nextID++
	f.clock = f.clock.Add(time.Second)
	c := forge.Comment{ID: f.nextID, Number: n, Author: by, Body: body, Created: f.clock, Updated: f.clock, URL: fmt.Sprintf("https://forge.example/c/%d", f.nextID)}
	f.comments = append(f.comments, c)
	return c
}

// says is a person's comment.
func (f *fakeForge) says(n int, login, body string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.add(n, forge.User{Login: login}, body).ID
}

func (f *fakeForge) EditComment(_ context.Context, _ forge.Repo, n int, id int64, body string) (forge.Comment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return forge.Comment{}, f.down
	}
	for i := range f.comments {
		if f.comments[i].ID == id {
			f.clock = f.clock.Add(time.Second)
			f.comments[i].Body, f.comments[i].Edited, f.comments[i].Updated = body, true, f.clock
			return f.comments[i], f.wrote("edit %d %s", n, headline(body))
		}
	}
	return forge.Comment{}, forge.ErrNotFound
}

func (f *fakeForge) NewComments(_ context.Context, _ forge.Repo, since time.Time) ([]forge.Comment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []forge.Comment
	for _, c := range f.comments {
		if !c.Updated.Before(since) {
			out = append(out, c)
		}
	}
	return out, f.down
}

func (f *fakeForge) Annotate(_ context.Context, _ forge.Repo, c forge.CheckRun) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wrote("check %s", c.Name)
}

func (f *fakeForge) Permission(_ context.Context, _ forge.Repo, user string) (forge.Permission, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.permErr != nil {
		return forge.None, f.permErr
	}
	return f.perms[user], f.down
}

func (f *fakeForge) wroteAll() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.writes)
}

func (f *fakeForge) body(n int) string {
	c, err := f.OwnComment(context.Background(), forge.Repo{}, n, "<!-- varan")
	if err != nil {
		return ""
	}
	return c.Body
}

// headline is a comment's title.
func headline(body string) string {
	for _, line := range strings.Split(body, "\n") {
		if strings.HasPrefix(line, "### ") {
			return line
		}
	}
	return ""
}

// A fakeDaemon answers previews from a table.
type fakeDaemon struct {
	mu       gosync.Mutex
	basis    string
	commit   string
	plans    map[string]*plan.Plan // by head or merge commit
	errs     map[string]error
	refs     map[string]string
	branches map[string]string
	pending  string
	previews []sync.Subject
	approved []string
	approve  error
	also     []sync.Watched
}

func (d *fakeDaemon) Watched() []sync.Watched {
	at, err := gitrepo.ParseAddress("https://forge.example/acme/infra.git")
	if err != nil {
		panic(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]sync.Watched{{Address: at, Branch: "main", Config: true}}, d.also...)
}

func (d *fakeDaemon) Basis() (string, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.basis, d.commit
}

func (d *fakeDaemon) Preview(_ context.Context, _ sync.Watched, sub sync.Subject) (*sync.Preview, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.previews = append(d.previews, sub)
	if err := d.errs[sub.Commit]; err != nil {
		return nil, err
	}
	p := d.plans[sub.Commit]
	if p == nil {
		return nil, errors.New("no such commit here")
	}
	return &sync.Preview{Plan: p, Base: d.commit, Took: time.Duration(len(d.previews)) * time.Second}, nil
}

func (d *fakeDaemon) Refs(_ context.Context, _ gitrepo.Address, names ...string) (map[string]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]string{}
	for _, n := range names {
		if c, ok := d.refs[n]; ok {
			out[n] = c
		}
	}
	return out, nil
}

func (d *fakeDaemon) Branches(context.Context, gitrepo.Address, string) (map[string]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.branches, nil
}

func (d *fakeDaemon) Pending() (string, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pending, d.commit
}

func (d *fakeDaemon) Approve(_ context.Context, digest, actor string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.approved = append(d.approved, digest+" "+actor)
	return d.approve
}

// some is a plan with one step.
func some(action plan.Action, diags ...schema.Diagnostic) *plan.Plan {
	p := &plan.Plan{Version: 1, Digest: "d1g35t0" + string(action), Summary: plan.Summary{action: 1}, Diagnostics: diags,
		Steps: []plan.Step{{Resource: "stack/db", Action: action, Server: "web1", Causes: []plan.Cause{{Kind: plan.SpecChanged, Detail: "why"}}}}}
	return p
}

// A scene is a Desk with its fakes.
type scene struct {
	*Desk
	t      testing.TB
	forge  *fakeForge
	daemon *fakeDaemon
	dir    string
	change func(*Options)
	stop   func()
}

func newScene(t testing.TB) *scene {
	s := &scene{t: t, forge: newFake(), dir: t.TempDir()}
	s.daemon = &fakeDaemon{basis: "b1", commit: sha("base"), plans: map[string]*plan.Plan{}, errs: map[string]error{}, refs: map[string]string{"main": sha("base")}}
	return s
}

func sha(name string) string { return (fmt.Sprintf("%x", name) + strings.Repeat("0", 40))[:40] }

// open puts a pull request there with the plan its merge would give.
func (s *scene) open(n int, head string, p *plan.Plan) *forge.PullRequest {
	s.forge.mu.Lock()
	defer s.forge.mu.Unlock()
	s.daemon.mu.Lock()
	defer s.daemon.mu.Unlock()
	ref := fmt.Sprintf("refs/pull/%d/", n)
	pr := &forge.PullRequest{Number: n, State: forge.Open, Author: forge.User{Login: "ann"}, Head: forge.Branch{SHA: sha(head), Branch: head},
		Base: forge.Branch{Branch: "main"}, HeadRef: ref + "head", MergeRef: ref + "merge"}
	s.forge.prs[n] = pr
	s.daemon.refs[pr.HeadRef], s.daemon.refs[pr.MergeRef] = pr.Head.SHA, sha("m"+head)
	s.daemon.plans[sha("m"+head)] = p
	return pr
}

func (s *scene) start() {
	s.t.Helper()
	o := Options{Dir: s.dir, Forges: []Forge{{Forge: s.forge}}, Settings: Settings{Poll: 20 * time.Millisecond},
		Timing: Timing{Retry: 5 * time.Millisecond, Again: 5 * time.Millisecond, Replan: 50 * time.Millisecond, Basis: 5 * time.Millisecond}}
	if s.change != nil {
		s.change(&o)
	}
	d, err := New(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Desk = d
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, s.daemon) }()
	var once gosync.Once
	s.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		})
	}
	s.t.Cleanup(s.stop)
}

func (s *scene) until(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	s.t.Fatalf("waited in vain for %s; written: %q; comment: %s", what, s.forge.wroteAll(), s.forge.body(1))
}

func (s *scene) status(head, name string) forge.Status {
	s.forge.mu.Lock()
	defer s.forge.mu.Unlock()
	return s.forge.statuses[sha(head)][name]
}

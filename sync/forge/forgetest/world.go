package forgetest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/varanhq/varan/sync/forge"
)

// Repo is a repository. Its fields are read under Server.Set, or by the methods.
type Repo struct {
	s       *Server
	ID      int64
	Repo    forge.Repo
	Private bool
	Default string
	Bare    string // on disk
	parent  *Repo

	permissions map[string]forge.Permission // by login, lower case
	threads     map[int]*thread
	lastNumber  int
	statuses    []*status
	checks      []*checkRun
	hooks       []*Hook
	seen        map[string]string // refs as of the last look
}

// thread is a pull request, or an issue.
type thread struct {
	number           int
	pull             *Pull // nil: an issue
	title            string
	comments         []*comment
	created, updated time.Time
	author           *User
}

// Pull is a pull request.
type Pull struct {
	Number           int
	Title            string
	Author           string
	Draft            bool
	State            forge.State
	Head             *Repo // nil: its repository is gone
	HeadBranch       string
	HeadSHA          string
	BaseBranch       string
	BaseSHA          string
	MergeSHA         string // of the merge ref; "" on a conflict
	MergeCommit      string
	id               int64
	created, updated time.Time
	merged           time.Time
}

type status struct {
	id                               int64
	sha, context, state, description string
	url, ref                         string
	user                             *User
	at                               time.Time
	done                             bool // GitLab: a newer one of that name took its place
}

type comment struct {
	id               int64
	number           int
	user             *User
	body             string
	system           bool
	created, updated time.Time
}

// AddRepo makes an empty repository; its owner may do everything in it.
func (s *Server) AddRepo(path string) (*Repo, error) {
	at, err := forge.ParseRepo(path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addRepo(at)
}

func (s *Server) addRepo(at forge.Repo) (*Repo, error) {
	r := &Repo{
		s: s, ID: s.id(), Repo: at, Private: true, Default: "main", Bare: filepath.Join(s.dir, filepath.FromSlash(at.String())+".git"),
		permissions: map[string]forge.Permission{strings.ToLower(at.Owner): forge.Admin},
		threads:     make(map[int]*thread), seen: make(map[string]string),
	}
	s.user(at.Owner)
	if err := os.MkdirAll(filepath.Dir(r.Bare), 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", at, err)
	}
	if _, err := git(s.dir, "init", "-q", "--bare", "-b", "main", r.Bare); err != nil {
		return nil, err
	}
	for _, kv := range [][2]string{{"http.receivepack", "true"}, {"gc.auto", "0"}, {"receive.autogc", "false"}} {
		if _, err := git(r.Bare, "config", kv[0], kv[1]); err != nil {
			return nil, err
		}
	}
	s.repos[strings.ToLower(at.String())] = r
	return r, nil
}

// Fork copies a repository to another owner.
func (r *Repo) Fork(owner string) (*Repo, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	f, err := r.s.addRepo(forge.Repo{Owner: owner, Name: r.Repo.Name})
	if err != nil {
		return nil, err
	}
	f.parent, f.Private = r, r.Private
	if _, err := git(f.Bare, "fetch", "-q", r.Bare, "refs/heads/*:refs/heads/*"); err != nil {
		return nil, err
	}
	return f, f.look()
}

// Delete removes the repository.
func (r *Repo) Delete() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	delete(r.s.repos, strings.ToLower(r.Repo.String()))
	for _, other := range r.s.repos {
		for _, t := range other.threads {
			if t.pull != nil && t.pull.Head == r {
				t.pull.Head = nil
			}
		}
	}
}

// CloneURL is its address for Git.
func (r *Repo) CloneURL() string { return r.s.URL + "/" + r.Repo.String() + ".git" }

// Grant gives a user a permission.
func (r *Repo) Grant(login string, p forge.Permission) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.user(login)
	r.permissions[strings.ToLower(login)] = p
}

// may is a user's permission. The caller holds mu.
func (r *Repo) may(u *User) forge.Permission {
	if u == nil {
		return r.public()
	}
	return max(r.permissions[strings.ToLower(u.Login)], r.public())
}

func (r *Repo) public() forge.Permission {
	if r.Private {
		return forge.None
	}
	return forge.Read
}

// Open opens a pull request from a branch of the head's repository, which may be r itself.
func (r *Repo) Open(author, title string, head *Repo, branch, base string) (int, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.lastNumber++
	now := r.s.now()
	p := &Pull{
		Number: r.lastNumber, Title: title, Author: r.s.user(author).Login, State: forge.Open, Head: head, HeadBranch: branch,
		BaseBranch: base, id: r.s.id(), created: now, updated: now,
	}
	r.threads[p.Number] = &thread{number: p.Number, pull: p, title: title, created: now, updated: now, author: r.s.user(author)}
	if err := r.refresh(p); err != nil {
		delete(r.threads, p.Number)
		return 0, err
	}
	return p.Number, r.pullHook("opened", p, r.s.user(author), nil)
}

// Multiply opens a pull request so many times more, without Git's work and without webhooks.
func (r *Repo) Multiply(number, times int) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	for range times {
		r.lastNumber++
		t := *r.threads[number]
		p := *t.pull
		p.Number, p.id = r.lastNumber, r.s.id()
		t.number, t.pull, t.comments = p.Number, &p, nil
		r.threads[p.Number] = &t
	}
}

// OpenIssue opens an issue, which is no pull request.
func (r *Repo) OpenIssue(author, title string) int {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.lastNumber++
	now := r.s.now()
	r.threads[r.lastNumber] = &thread{number: r.lastNumber, title: title, created: now, updated: now, author: r.s.user(author)}
	return r.lastNumber
}

// Pull looks at a pull request.
func (r *Repo) Pull(number int) (Pull, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	p, err := r.pull(number)
	if err != nil {
		return Pull{}, err
	}
	return *p, nil
}

func (r *Repo) pull(number int) (*Pull, error) {
	t := r.threads[number]
	if t == nil || t.pull == nil {
		return nil, fmt.Errorf("pull request %s#%d: %w", r.Repo, number, errGone)
	}
	return t.pull, nil
}

// pulls are the pull requests by number. The caller holds mu.
func (r *Repo) pulls() []*Pull {
	var out []*Pull
	for _, t := range r.threads {
		if t.pull != nil {
			out = append(out, t.pull)
		}
	}
	slices.SortFunc(out, func(a, b *Pull) int { return a.Number - b.Number })
	return out
}

// refresh brings refs/pull/N up to date with the branches. The caller holds mu.
func (r *Repo) refresh(p *Pull) error {
	if p.Head == nil || p.State != forge.Open {
		return nil
	}
	head := r.headRef(p.Number)
	if _, err := git(r.Bare, "fetch", "-q", "--no-tags", p.Head.Bare, "+refs/heads/"+p.HeadBranch+":"+head); err != nil {
		return err
	}
	var err error
	if p.HeadSHA, err = git(r.Bare, "rev-parse", head); err != nil {
		return err
	}
	if p.BaseSHA, err = git(r.Bare, "rev-parse", "refs/heads/"+p.BaseBranch); err != nil {
		return err
	}
	if r.s.Kind != forge.GitHub {
		return nil
	}
	mergeRef := fmt.Sprintf("refs/pull/%d/merge", p.Number)
	p.MergeSHA, err = r.merge(p.BaseSHA, p.HeadSHA, fmt.Sprintf("Merge %s into %s", p.HeadSHA, p.BaseSHA))
	if err != nil { // a conflict: the old ref stays, as it does on GitHub
		p.MergeSHA = ""
		return nil
	}
	_, err = git(r.Bare, "update-ref", mergeRef, p.MergeSHA)
	return err
}

// headRef is where a pull request's head stands in the base's repository.
func (r *Repo) headRef(number int) string {
	if r.s.Kind == forge.GitLab {
		return fmt.Sprintf("refs/merge-requests/%d/head", number)
	}
	return fmt.Sprintf("refs/pull/%d/head", number)
}

// merge makes a commit of both.
func (r *Repo) merge(base, head, message string) (string, error) {
	tree, err := git(r.Bare, "merge-tree", "--write-tree", base, head)
	if err != nil {
		return "", err
	}
	tree, _, _ = strings.Cut(tree, "\n")
	return git(r.Bare, "commit-tree", tree, "-p", base, "-p", head, "-m", message)
}

// Method is how a pull request is merged.
type Method int

// The methods.
const (
	MergeCommit Method = iota
	Squash
	FastForward
)

// Merge merges a pull request and returns the commit that the base branch then has.
func (r *Repo) Merge(number int, by string, how Method) (string, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	p, err := r.pull(number)
	if err != nil {
		return "", err
	}
	if p.State != forge.Open {
		return "", fmt.Errorf("merge %s#%d: it is %s", r.Repo, number, p.State)
	}
	if err := r.refresh(p); err != nil {
		return "", err
	}
	message := fmt.Sprintf("%s (#%d)", p.Title, number)
	var sha string
	switch how {
	case MergeCommit:
		sha, err = r.merge(p.BaseSHA, p.HeadSHA, fmt.Sprintf("Merge pull request #%d from %s\n\n%s", number, p.HeadBranch, p.Title))
	case Squash:
		var merged, tree string
		if merged, err = r.merge(p.BaseSHA, p.HeadSHA, message); err == nil {
			if tree, err = git(r.Bare, "rev-parse", merged+"^{tree}"); err == nil {
				sha, err = git(r.Bare, "commit-tree", tree, "-p", p.BaseSHA, "-m", message)
			}
		}
	case FastForward:
		sha = p.HeadSHA
	}
	if err != nil {
		return "", err
	}
	if _, err := git(r.Bare, "update-ref", "refs/heads/"+p.BaseBranch, sha); err != nil {
		return "", err
	}
	p.State, p.merged, p.updated = forge.Merged, r.s.now(), r.s.after(p.updated)
	if how != FastForward || r.s.Kind == forge.GitHub {
		p.MergeCommit = sha
	}
	if err := r.pullHook("closed", p, r.s.user(by), nil); err != nil {
		return "", err
	}
	return sha, r.pushed(r.s.user(by))
}

// ClosePull closes without a merge.
func (r *Repo) ClosePull(number int, by string) error {
	return r.change(number, by, "closed", func(p *Pull) { p.State = forge.Closed }, nil)
}

// Reopen opens a closed one again.
func (r *Repo) Reopen(number int, by string) error {
	return r.change(number, by, "reopened", func(p *Pull) { p.State = forge.Open }, nil)
}

// Rebase changes the branch that a pull request goes to.
func (r *Repo) Rebase(number int, by, base string) error {
	p, err := r.Pull(number)
	if err != nil {
		return err
	}
	changes := map[string]any{"base": map[string]any{"ref": map[string]any{"from": p.BaseBranch}, "sha": map[string]any{"from": p.BaseSHA}}}
	return r.change(number, by, "edited", func(p *Pull) { p.BaseBranch = base }, changes)
}

// Retitle changes its title.
func (r *Repo) Retitle(number int, by, title string) error {
	p, err := r.Pull(number)
	if err != nil {
		return err
	}
	changes := map[string]any{"title": map[string]any{"from": p.Title}}
	return r.change(number, by, "edited", func(p *Pull) { p.Title = title }, changes)
}

func (r *Repo) change(number int, by, action string, f func(*Pull), changes map[string]any) error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	p, err := r.pull(number)
	if err != nil {
		return err
	}
	f(p)
	p.updated = r.s.after(p.updated)
	if err := r.refresh(p); err != nil {
		return err
	}
	return r.pullHook(action, p, r.s.user(by), changes)
}

// Queue puts pull requests into one merge-queue group and returns its commit, which stands on a branch of its own.
func (r *Repo) Queue(numbers ...int) (string, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	var base, sha, branch string
	for _, number := range numbers {
		p, err := r.pull(number)
		if err != nil {
			return "", err
		}
		if err := r.refresh(p); err != nil {
			return "", err
		}
		if sha == "" {
			sha = p.BaseSHA
		}
		base, branch = p.BaseBranch, fmt.Sprintf("gh-readonly-queue/%s/pr-%d-%s", p.BaseBranch, number, p.BaseSHA)
		if sha, err = r.merge(sha, p.HeadSHA, fmt.Sprintf("Merge pull request #%d", number)); err != nil {
			return "", err
		}
	}
	if _, err := git(r.Bare, "update-ref", "refs/heads/"+branch, sha); err != nil {
		return "", err
	}
	if err := r.pushed(r.s.user(r.Repo.Owner)); err != nil {
		return "", err
	}
	return sha, r.groupHook(base, branch, sha)
}

// Say writes a comment as a user, as if on the page.
func (r *Repo) Say(number int, login, body string) (int64, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	c, err := r.say(number, r.s.user(login), body)
	if err != nil {
		return 0, err
	}
	return c.id, nil
}

// say writes a comment. The caller holds mu.
func (r *Repo) say(number int, u *User, body string) (*comment, error) {
	t := r.threads[number]
	if t == nil {
		return nil, fmt.Errorf("comment on %s#%d: %w", r.Repo, number, errGone)
	}
	now := r.s.now()
	c := &comment{id: r.s.id(), number: number, user: u, body: body, created: now, updated: now}
	t.comments = append(t.comments, c)
	t.touch(now)
	return c, r.commentHook("created", t, c, u, nil)
}

func (t *thread) touch(now time.Time) {
	t.updated = now
	if t.pull != nil {
		t.pull.updated = now
	}
}

// EditComment changes a comment as somebody.
func (r *Repo) EditComment(id int64, by, body string) error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return r.edit(id, r.s.user(by), body)
}

func (r *Repo) edit(id int64, by *User, body string) error {
	t, c := r.comment(id)
	if c == nil {
		return fmt.Errorf("comment %d of %s: %w", id, r.Repo, errGone)
	}
	old := c.body
	c.body, c.updated = body, r.s.after(c.created)
	t.touch(r.s.now())
	return r.commentHook("edited", t, c, by, map[string]any{"body": map[string]any{"from": old}})
}

// DeleteComment removes one.
func (r *Repo) DeleteComment(id int64, by string) error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	t, c := r.comment(id)
	if c == nil {
		return fmt.Errorf("comment %d of %s: %w", id, r.Repo, errGone)
	}
	t.comments = slices.DeleteFunc(t.comments, func(x *comment) bool { return x == c })
	return r.commentHook("deleted", t, c, r.s.user(by), nil)
}

func (r *Repo) comment(id int64) (*thread, *comment) {
	for _, t := range r.threads {
		for _, c := range t.comments {
			if c.id == id {
				return t, c
			}
		}
	}
	return nil, nil
}

// Comment is one as it stands.
type Comment struct {
	ID               int64
	Login, Body      string
	Created, Updated time.Time
}

// Comments of a pull request or an issue, oldest first.
func (r *Repo) Comments(number int) []Comment {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	t := r.threads[number]
	if t == nil {
		return nil
	}
	var out []Comment
	for _, c := range t.comments {
		out = append(out, Comment{c.id, c.user.Login, c.body, c.created, c.updated})
	}
	return out
}

// Status is one as it was set.
type Status struct {
	Context, State, Description, URL, Login string
}

// History is every status of a commit, oldest first.
func (r *Repo) History(sha string) []Status {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	var out []Status
	for _, st := range r.statuses {
		if st.sha == sha {
			out = append(out, Status{st.context, st.state, st.description, st.url, st.user.Login})
		}
	}
	return out
}

// Status is the newest of a context; its State is "" if there is none.
func (r *Repo) Status(sha, context string) Status {
	var out Status
	for _, st := range r.History(sha) {
		if strings.EqualFold(st.Context, context) {
			out = st
		}
	}
	return out
}

// newest are the statuses of a commit that count, newest first. The caller holds mu.
func (r *Repo) newest(sha string) []*status {
	var out []*status
	for _, st := range slices.Backward(r.statuses) {
		if st.sha == sha && !slices.ContainsFunc(out, func(o *status) bool { return strings.EqualFold(o.context, st.context) }) {
			out = append(out, st)
		}
	}
	return out
}

// commit resolves what a request names: an id or a branch. "" if there is none.
func (r *Repo) commit(rev string) string {
	if strings.HasPrefix(rev, "-") || strings.ContainsAny(rev, " ^~:{@") {
		return ""
	}
	for _, try := range []string{rev, "refs/heads/" + rev} {
		if sha, err := git(r.Bare, "rev-parse", "-q", "--verify", try+"^{commit}"); err == nil {
			return sha
		}
	}
	return ""
}

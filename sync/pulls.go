package sync

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// A Watched is a repository whose pull requests concern the fleet: the config's, those of further syncs, and those
// that stacks take their files from.
type Watched struct {
	Address gitrepo.Address
	Branch  string
	Config  bool // the config repository itself
}

// Watched lists them as the newest reading has them, the config repository first; none before its branch is known.
// Repositories on this machine have
// no pull requests; one whose origin is a remote stands for that.
func (d *Daemon) Watched() []Watched {
	at := d.root.src.address()
	if origin, ok := gitrepo.Origin(at); ok {
		at = origin
	}
	r := d.root.reading()
	var out []Watched
	add := func(w Watched) {
		same := func(o Watched) bool { return o.Address.Same(w.Address) && o.Branch == w.Branch }
		if !w.Address.Local() && !slices.ContainsFunc(out, same) {
			out = append(out, w)
		}
	}
	d.root.mu.Lock()
	branch := d.root.status.Branch
	d.root.mu.Unlock()
	if r != nil {
		branch = r.branch
	}
	if branch == "" {
		return nil // not asked yet which one it is
	}
	add(Watched{Address: at, Branch: branch, Config: true})
	if r == nil {
		return out
	}
	for _, c := range r.children {
		if c.snap != nil {
			add(Watched{Address: c.addr, Branch: c.branch})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.trees)) {
		f := r.trees[id]
		if f.tree == nil || f.branch == "" {
			continue
		}
		if addr, err := gitrepo.ParseAddress(f.repo); err == nil {
			add(Watched{Address: addr, Branch: f.branch})
		}
	}
	return out
}

// Basis names what previews are made against now: it changes when the base branch was read anew or the fleet is seen
// otherwise. "" = nothing was planned yet. Commit is the base branch's.
func (d *Daemon) Basis() (basis, commit string) {
	d.root.mu.Lock()
	defer d.root.mu.Unlock()
	if d.root.lastRead == nil || d.root.last == nil || d.root.state == nil {
		return "", ""
	}
	return d.root.lastRead.commit + " " + d.root.last.Digest, d.root.lastRead.commit
}

// Preview plans a commit of a watched repository in a confined child; nothing is changed.
func (d *Daemon) Preview(ctx context.Context, w Watched, sub Subject) (*Preview, error) {
	repo, err := d.mirrors.open(w.Address, "", false)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	var app *gitrepo.Address
	if !w.Config {
		app = &w.Address
	}
	return d.root.previewOf(ctx, program, repo, sub, app, w.Branch, PreviewLimits())
}

// Refs asks a watched repository where refs stand.
func (d *Daemon) Refs(ctx context.Context, at gitrepo.Address, names ...string) (map[string]string, error) {
	repo, err := d.mirrors.open(at, "", false)
	if err != nil {
		return nil, err
	}
	return repo.Refs(ctx, names...)
}

// Branches asks for the branches whose names begin with prefix.
func (d *Daemon) Branches(ctx context.Context, at gitrepo.Address, prefix string) (map[string]string, error) {
	repo, err := d.mirrors.open(at, "", false)
	if err != nil {
		return nil, err
	}
	return repo.Branches(ctx, prefix)
}

// Pending is the digest that waits for an approval, with the commit it was planned for; "" = none.
func (d *Daemon) Pending() (digest, commit string) {
	d.root.mu.Lock()
	defer d.root.mu.Unlock()
	if d.root.pending == nil {
		return "", ""
	}
	return d.root.pending.digest, d.root.pending.view.commit
}

// Risks are what a plan does that a preview must have shown: its removals, and its warnings of data loss, privileges
// and keys, in words that are equal for the same thing.
func Risks(p *plan.Plan) []string {
	var out []string
	for i := range p.Steps {
		if s := &p.Steps[i]; s.Action == plan.Remove {
			out = append(out, fmt.Sprintf("%s is removed", s.Resource))
		} else {
			for _, service := range s.Services {
				if service.Action == plan.Remove {
					out = append(out, fmt.Sprintf("%s: service %s is removed", s.Resource, service.Name))
				}
			}
		}
	}
	for _, diag := range p.Diagnostics {
		if diag.Risk != "" && diag.Severity == schema.SeverityWarning {
			out = append(out, strings.TrimSpace(diag.Message))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

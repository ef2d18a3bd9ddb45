package sync

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// Bounds of what one resource brings along.
const (
	maxPayload = 64 << 20 // bytes of all files
	maxFiles   = 10_000
)

// payload is what a resource's op brings along: its declaration with variables resolved, its files, the values
// of the secrets it names, the logins of the accounts it names. Without files, what is asked about it. planned is
// what the plan was made from: for a stack whose files lie on its server, what the server said of them.
func (r *reading) payload(ctx context.Context, id schema.ID, planned *plan.Declared, logins []RegistryAccount, withFiles bool) (*protocol.Payload, error) {
	res, decl := r.resolved[id], r.declared[id]
	if res == nil || decl == nil {
		return nil, fmt.Errorf("%s is not declared by commit %s", id, r.commit)
	}
	if planned != nil && planned.OnHost {
		decl = planned
	}
	p := &protocol.Payload{
		Repo: r.trees[id].repo, Project: decl.Project, Directory: decl.Directory,
		Units: decl.Units, Volumes: decl.Volumes, Binds: decl.Binds, Hooks: decl.Hooks,
		Deployment: res.Deployment(), Stack: res.Stack(), Ensure: res.Ensure, Was: res.Was,
		OnHost: decl.OnHost, Secrets: make(map[string]protocol.Secret),
	}
	for _, have := range decl.Privileges {
		if !slices.Contains(p.Privileges, have.What) {
			p.Privileges = append(p.Privileges, have.What)
		}
	}
	for _, a := range res.After {
		if a.ID != "" {
			p.After = append(p.After, string(a.ID))
		}
	}
	if p.Stack != nil {
		p.Pinned = p.Stack.Directory
		p.Within = within(decl, p.Stack)
	}
	for _, name := range append(namesOf(res), secretsOf(decl)...) {
		if s, ok := r.values.secrets[name]; ok {
			p.Secrets[name] = s
		}
	}
	if !withFiles {
		return p, nil
	}
	p.Registries = registries(res, logins)
	var err error
	if p.Files, err = r.files(ctx, id, decl); err != nil {
		return nil, err
	}
	return p, nil
}

// within reports whether a stack uses nothing of its repository but its run directory.
func within(d *plan.Declared, s *schema.StackConfig) bool {
	dir := path.Clean(d.Directory)
	if d.Tree || s.FilesOnHost || dir == "." || dir != path.Clean(s.RunDirectory) {
		return false
	}
	inside := func(p string) bool { return path.IsAbs(p) || p == dir || strings.HasPrefix(p, dir+"/") }
	return !slices.ContainsFunc(d.Paths, func(p string) bool { return !inside(p) }) &&
		!slices.ContainsFunc(d.Binds, func(b plan.Bind) bool { return !inside(b.Source) })
}

func secretsOf(d *plan.Declared) []string {
	var names []string
	for i := range d.Units {
		names = append(names, d.Units[i].Secrets...)
	}
	return names
}

// files reads the repository files the agent lays: those declared, or, for pre_deploy, the whole tree.
func (r *reading) files(ctx context.Context, id schema.ID, d *plan.Declared) ([]protocol.File, error) {
	t := r.trees[id].tree
	if t == nil || len(d.Paths) == 0 && !d.Tree {
		return nil, nil
	}
	pack := packer{tree: t, at: make(map[string]bool)}
	if d.Tree {
		err := t.Walk(".", func(e compose.Entry) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return pack.add(e, true)
		})
		return pack.files, err
	}
	for _, path := range d.Paths {
		e, err := t.Lookup(path)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if e.Mode == compose.ModeDir {
			err = t.Walk(path, func(e compose.Entry) error { return pack.add(e, false) })
		} else {
			err = pack.add(e, false)
		}
		if err != nil {
			return nil, err
		}
	}
	return pack.files, nil
}

type packer struct {
	tree  tree
	at    map[string]bool
	files []protocol.File
	bytes int64
}

// add packs a file, or a symlink that resolves inside the tree; with whole, other symlinks are left out
// silently, as the tree may hold any.
func (p *packer) add(e compose.Entry, whole bool) error {
	if p.at[e.Path] || e.Mode == 0 {
		return nil
	}
	p.at[e.Path] = true
	if len(p.files) >= maxFiles {
		return fmt.Errorf("more than %d files", maxFiles)
	}
	if e.Mode == compose.ModeSymlink {
		if _, err := gitrepo.Resolve(p.tree, e.Path); err != nil {
			if whole {
				return nil
			}
			return fmt.Errorf("symlink %s: %w", e.Path, err)
		}
		p.files = append(p.files, protocol.File{Path: e.Path, Hash: e.Hash, Symlink: e.Link})
		return nil
	}
	if p.bytes += e.Size; p.bytes > maxPayload {
		return fmt.Errorf("the files have more than %d bytes together", maxPayload)
	}
	data, err := p.tree.Read(e.Path, maxPayload)
	if err != nil {
		return err
	}
	p.files = append(p.files, protocol.File{Path: e.Path, Hash: e.Hash, Exec: e.Exec, Data: data})
	return nil
}

// registries picks the logins whose accounts the resource names.
func registries(r *schema.Resource, logins []RegistryAccount) []protocol.Registry {
	account, domain := "", ""
	if c := r.Stack(); c != nil {
		account, domain = c.RegistryAccount, c.RegistryProvider
	}
	if c := r.Deployment(); c != nil {
		account = c.ImageRegistryAccount
		if named, err := reference.ParseNormalizedNamed(c.Image.Image); err == nil {
			domain = reference.Domain(named)
		}
	}
	if account == "" {
		return nil
	}
	var out []protocol.Registry
	for _, l := range logins {
		if l.Username == account && (domain == "" || l.Domain == domain) {
			out = append(out, protocol.Registry{Domain: l.Domain, Username: l.Username, Password: l.Token})
		}
	}
	return out
}

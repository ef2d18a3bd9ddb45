package sync

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// A child is a [[resource_sync]] on another repository or branch, as one reading has it. What it declares stands in
// the same Config as the root's, so that names, order and orphans are told across all of them; a commit of a child
// that is wrong, or outside its scope, keeps only that child back.
type child struct {
	name   string
	addr   gitrepo.Address
	branch string
	delete bool

	tip   string             // the newest commit
	snap  *fetched           // what is taken; nil = nothing could ever be read
	files []schema.File      // of snap, under the child's prefix
	diags schema.Diagnostics // why the tip is not taken, at the child's own lines
	state string             // ok, broken, unreachable
	err   string
}

// prefix goes before the paths of a child's files, so that a line says whose it is.
func (c *child) prefix() string { return c.name + ":" }

// goodChild is what was taken of a child last.
type goodChild struct {
	snap  *fetched
	files []schema.File
}

// ownKinds are what a child may declare without being given more.
var ownKinds = []schema.Kind{schema.KindStack, schema.KindDeployment, schema.KindRepo, schema.KindBuild, schema.KindProcedure} //nolint:gochecknoglobals // a list that is never written

// further reads the repositories that [[resource_sync]] tables name and joins what they declare to r. own are the
// root's files.
func (rd *reader) further(ctx context.Context, r *reading, own []schema.File, set *Settings) {
	taken := own
	base := len(r.diags)
	for _, res := range r.config.Resources {
		if !further(r.config, res, rd.src.address(), r.branch) {
			continue
		}
		c := rd.child(ctx, r, res)
		r.children = append(r.children, c)
		for _, candidate := range c.candidates(rd.goodChildren[c.name]) {
			all := append(slices.Clip(taken), candidate.files...)
			config, diags := schema.Parse(all, schema.Options{Compat: set.Compat, Cache: rd.cache})
			wrong := append(newErrors(diags, r.diags), outside(config, res, c, set)...)
			if len(wrong) > 0 {
				if candidate.snap.commit == c.tip {
					c.state, c.diags = "broken", wrong.Sorted()
					c.err = "commit " + plan.Short(c.tip) + " is not applied"
				}
				continue
			}
			c.snap, c.files = candidate.snap, candidate.files
			taken, r.config = all, config
			r.diags = append(diags, r.diags[base:]...)
			base = len(diags)
			break
		}
		rd.remember(r, c, res)
	}
	root := r.config
	for _, c := range r.children {
		if c.snap != nil {
			r.config = pick(r.config, root.Get(schema.NewID(schema.KindResourceSync, c.name)), c)
		}
	}
	for _, res := range r.config.Resources {
		if c := r.childOf(res); c != nil {
			if r.origin == nil {
				r.origin = make(map[schema.ID]*child)
			}
			r.origin[res.ID] = c
		}
	}
}

// candidates are what may be taken of a child: its newest commit, else what was taken last.
func (c *child) candidates(last *goodChild) []*goodChild {
	var list []*goodChild
	if c.snap != nil && c.state == "ok" {
		list = append(list, &goodChild{c.snap, c.files})
	}
	if last != nil && (len(list) == 0 || last.snap.commit != c.snap.commit) {
		list = append(list, last)
	}
	c.snap, c.files = nil, nil
	return list
}

// said is why a child's newest commit is not taken, in words that quote nothing of it.
func (c *child) said() string {
	return fmt.Sprintf("%s: %s", schema.NewID(schema.KindResourceSync, c.name), c.err)
}

// remember keeps what was taken, and tells the root's authors what was not.
func (rd *reader) remember(r *reading, c *child, res *schema.Resource) {
	if c.snap != nil {
		rd.goodChildren[c.name] = &goodChild{c.snap, c.files}
		r.others["sync "+c.name] = c.snap.commit
	}
	if c.state == "ok" {
		return
	}
	d := schema.Diagnostic{Severity: schema.SeverityWarning, Pos: res.Pos, Message: c.said()}
	if c.snap == nil {
		d.Hint = "nothing of it was read yet, so nothing counts as orphaned"
	} else {
		d.Hint = "what it declared at " + plan.Short(c.snap.commit) + " stays"
	}
	if len(c.diags) > 0 {
		first := c.diags[0]
		d.Message += fmt.Sprintf(": %s: %s", place(first.Pos), first.Message)
		if n := len(c.diags) - 1; n > 0 {
			d.Message += fmt.Sprintf(" (and %d more)", n)
		}
	}
	r.diags = append(r.diags, d)
}

// child asks a child's repository what is newest.
func (rd *reader) child(ctx context.Context, r *reading, res *schema.Resource) *child {
	c := &child{name: res.Name, state: "ok"}
	conf := res.Config.(*schema.ResourceSyncConfig)
	c.delete = conf.Delete
	fail := func(format string, args ...any) *child {
		c.state, c.err = "unreachable", fmt.Sprintf(format, args...)
		return c
	}
	from, ok := syncSource(r.config, conf)
	if !ok {
		return fail("it names no repository that varan reads: files_on_host of the daemon's machine are not read, and linked_repo must name a declared repo")
	}
	addr, err := gitrepo.SourceAddress(from)
	if err != nil {
		return fail("%v", err)
	}
	c.addr, c.branch = addr, from.Branch
	snap, err := rd.other(ctx, res.ID, addr, from)
	r.noteUnread(addr, snap, err)
	if err != nil {
		return fail("%s could not be read: %v", addr, err)
	}
	c.tip = snap.commit
	paths := conf.ResourcePath
	files, diags, err := configFiles(snap, paths, nil)
	if err != nil {
		return fail("%s at %s could not be read: %v", addr, plan.Short(snap.commit), err)
	}
	for i := range files {
		files[i].Path = c.prefix() + files[i].Path
	}
	if bad := newErrors(diags, nil); len(bad) > 0 {
		c.state, c.diags, c.err = "broken", bad, "commit "+plan.Short(c.tip)+" is not applied"
		return c
	}
	c.snap, c.files = snap, files
	return c
}

// newErrors are the errors of diags that are not among known.
func newErrors(diags, known schema.Diagnostics) schema.Diagnostics {
	had := make(map[schema.Diagnostic]bool, len(known))
	for _, d := range known {
		had[d] = true
	}
	var out schema.Diagnostics
	for _, d := range diags {
		if d.Severity == schema.SeverityError && !had[d] {
			out = append(out, d)
		}
	}
	return out
}

// outside tells what a child declares or uses beyond what its [[resource_sync]] gives it. The scope is the root's
// commit's, never the child's own.
func outside(config *schema.Config, res *schema.Resource, c *child, set *Settings) schema.Diagnostics {
	conf := res.Config.(*schema.ResourceSyncConfig)
	var out schema.Diagnostics
	say := func(pos schema.Pos, hint, format string, args ...any) {
		out = append(out, schema.Diagnostic{Severity: schema.SeverityError, Pos: pos, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	pattern := func(key string, list []string) schema.Patterns {
		ps, err := schema.CompilePatterns(strings.Join(list, "\n"))
		if err != nil {
			say(res.At("config."+key), "", "%s: %s: %v", res.ID, key, err)
		}
		return ps
	}
	kinds, servers, secrets := pattern("kinds", conf.Kinds), pattern("servers", conf.Servers), pattern("secrets", conf.Secrets)
	for _, r := range config.Resources {
		if !strings.HasPrefix(r.Pos.File, c.prefix()) {
			continue
		}
		switch {
		case r.Kind == schema.KindResourceSync:
			say(r.Pos, "declare it in the config repository", "%s: a sync of a further repository is not followed from there", r.ID)
			continue
		case !slices.Contains(ownKinds, r.Kind) && !kinds.Match(string(r.Kind)):
			say(r.Pos, fmt.Sprintf("allow it with kinds = [%q] in %s", r.Kind, res.ID), "%s: %s may not declare a %s", r.ID, res.ID, r.Kind)
		}
		if len(conf.Servers) > 0 && (r.Stack() != nil || r.Deployment() != nil) {
			on := r.Server
			if on == "" {
				on = cmp.Or(config.Local, "local")
			}
			if !servers.Match(on) {
				say(r.At("config.server"), fmt.Sprintf("servers of %s: %s", res.ID, strings.Join(conf.Servers, ", ")), "%s: %s may not use server %q", r.ID, res.ID, on)
			}
		}
		for _, name := range namesOf(r) {
			_, secret := set.Secrets[name]
			if v := config.Variables[name]; v != nil {
				secret = v.IsSecret
			}
			if secret && !secrets.Match(name) {
				say(r.Pos, fmt.Sprintf("allow it with secrets = [%q] in %s", name, res.ID), "%s: %s may not use the secret [[%s]]", r.ID, res.ID, name)
			}
		}
	}
	for _, name := range sortedKeys(config.Variables) {
		v := config.Variables[name]
		if strings.HasPrefix(v.Pos.File, c.prefix()) && !conf.IncludeVariables && !kinds.Match("variable") {
			say(v.Pos, "allow it with include_variables = true in "+string(res.ID), "variable %q: %s may not declare variables", name, res.ID)
		}
	}
	return out
}

// pick leaves out of a child's resources what its match_tags and include_resources do not take.
func pick(config *schema.Config, res *schema.Resource, c *child) *schema.Config {
	conf := res.Config.(*schema.ResourceSyncConfig)
	if conf.IncludeResources && len(conf.MatchTags) == 0 {
		return config
	}
	return config.Subset(func(r *schema.Resource) bool {
		return !strings.HasPrefix(r.Pos.File, c.prefix()) || takes(conf, r)
	})
}

// childOf is the child that declares a resource, nil for the root's own.
func (r *reading) childOf(res *schema.Resource) *child {
	for _, c := range r.children {
		if strings.HasPrefix(res.Pos.File, c.prefix()) {
			return c
		}
	}
	return nil
}

// childRules reports whether every child was read, and the delete rule of each.
func (r *reading) childRules() (complete bool, further map[string]bool) {
	complete = true
	for _, c := range r.children {
		if c.snap == nil {
			complete = false
			continue
		}
		if further == nil {
			further = make(map[string]bool)
		}
		further[c.name] = c.delete
	}
	return complete, further
}

// childStatus is how the children of a reading stand, for Status.
func (r *reading) childStatus() []SyncStatus {
	out := make([]SyncStatus, 0, len(r.children))
	for _, c := range r.children {
		st := SyncStatus{Name: c.name, URL: c.addr.String(), Branch: c.branch, Tip: c.tip, State: c.state, Error: c.err, Diagnostics: c.diags}
		if c.snap != nil {
			st.Good, st.Applied = c.snap.commit, c.snap.commit
		}
		out = append(out, st)
	}
	return out
}

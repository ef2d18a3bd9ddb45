package sync

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// A scope is what one ResourceSync may read, declare and use. The root's is unlimited.
type scope struct {
	root  bool
	paths []string

	resources, variables bool // include_resources, include_variables
	tags                 []string
	kinds, servers       schema.Patterns // further kinds; servers, none = all
	secrets              schema.Patterns
	parent               *schema.Config // servers and repos it may name
}

// childKinds are what an app team's repository may always declare.
var childKinds = []schema.Kind{schema.KindStack, schema.KindDeployment, schema.KindRepo, schema.KindBuild, schema.KindProcedure}

func rootScope(paths []string) scope {
	return scope{root: true, paths: paths, resources: true, variables: true}
}

// childScope is that of a [[resource_sync]]; bad patterns are errors at their place.
func childScope(r *schema.Resource, parent *schema.Config) (scope, error) {
	c, ok := r.Config.(*schema.ResourceSyncConfig)
	if !ok {
		return scope{}, fmt.Errorf("%s has no config", r.ID)
	}
	s := scope{paths: c.ResourcePath, resources: c.IncludeResources, variables: c.IncludeVariables, tags: c.MatchTags, parent: parent}
	for _, p := range []struct {
		key  string
		list []string
		to   *schema.Patterns
	}{{"kinds", c.Kinds, &s.kinds}, {"servers", c.Servers, &s.servers}, {"secrets", c.Secrets, &s.secrets}} {
		if len(p.list) == 0 {
			continue
		}
		compiled, err := schema.CompilePatterns(strings.Join(p.list, "\n"))
		if err != nil {
			return scope{}, fmt.Errorf("%s %s: %w", r.ID, p.key, err)
		}
		*p.to = compiled
	}
	return s, nil
}

// secret reports whether a secret of varan.toml may be used.
func (s scope) secret(name string) bool {
	return s.root || len(s.secrets) > 0 && s.secrets.Match(name)
}

// own lists the paths that [[resource_sync]] tables on this very repository and branch add and that are not
// read yet.
func (s scope) own(config *schema.Config, at gitrepo.Address, branch string) []string {
	if !s.root {
		return nil
	}
	var extra []string
	for _, r := range config.Resources {
		c, ok := r.Config.(*schema.ResourceSyncConfig)
		if !ok || r.Template || !namesSelf(config, c, at, branch) {
			continue
		}
		for _, p := range c.ResourcePath {
			if p = cleanPath(p); !covers(s.paths, p) && !covers(extra, p) {
				extra = append(extra, p)
			}
		}
	}
	return extra
}

func cleanPath(p string) string { return strings.Trim(strings.TrimPrefix(p, "./"), "/") }

// covers reports whether path is below one of the paths that are read.
func covers(paths []string, p string) bool {
	if len(paths) == 0 {
		return true
	}
	return slices.ContainsFunc(paths, func(have string) bool {
		have = cleanPath(have)
		return have == "." || have == "" || p == have || strings.HasPrefix(p, have+"/")
	})
}

// namesSelf reports whether a [[resource_sync]] is on the repository and branch it is declared in.
func namesSelf(config *schema.Config, c *schema.ResourceSyncConfig, at gitrepo.Address, branch string) bool {
	from, ok := syncSource(config, c)
	if !ok || from.Commit != "" || branch != "" && from.Branch != "" && from.Branch != branch {
		return false
	}
	addr, err := sourceAddress(from)
	if err != nil {
		return false
	}
	if at.Same(addr) {
		return true
	}
	origin, ok := gitrepo.Origin(at)
	return ok && origin.Same(addr)
}

// further reports whether a resource is a [[resource_sync]] on another repository.
func further(config *schema.Config, r *schema.Resource, at gitrepo.Address, branch string) bool {
	c, ok := r.Config.(*schema.ResourceSyncConfig)
	return ok && !r.Template && c.FileContents == "" && (c.FilesOnHost || c.Repo != "" || c.LinkedRepo != "") && !namesSelf(config, c, at, branch)
}

// syncSource is where a [[resource_sync]]'s files come from; false if from no repository.
func syncSource(config *schema.Config, c *schema.ResourceSyncConfig) (schema.Source, bool) {
	if c.FilesOnHost {
		return schema.Source{}, false
	}
	if c.LinkedRepo != "" {
		r := config.Get(schema.NewID(schema.KindRepo, schema.NormalName(schema.KindRepo, c.LinkedRepo)))
		if r == nil {
			return schema.Source{}, false
		}
		rc, ok := r.Config.(*schema.RepoConfig)
		if !ok {
			return schema.Source{}, false
		}
		return repoSource(rc), true
	}
	return c.Source, c.Repo != ""
}

func repoSource(c *schema.RepoConfig) schema.Source {
	return schema.Source{GitProvider: c.GitProvider, GitHTTPS: c.GitHTTPS, GitAccount: c.GitAccount, Repo: c.Repo, Branch: c.Branch, Commit: c.Commit}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// limit keeps what the scope allows. What it forbids is an error at its place; what its tags leave out is
// just not there.
func (s scope) limit(config *schema.Config) (*schema.Config, schema.Diagnostics) {
	if s.root {
		return config, nil
	}
	var diags schema.Diagnostics
	refuse := func(pos schema.Pos, hint, format string, args ...any) {
		diags = append(diags, schema.Diagnostic{Severity: schema.SeverityError, Pos: pos, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	keep := func(r *schema.Resource) bool {
		if s.inherited(r) {
			return true
		}
		if !s.resources {
			return false
		}
		for _, t := range s.tags {
			if !slices.Contains(r.Tags, t) {
				return false
			}
		}
		if !slices.Contains(childKinds, r.Kind) && !(len(s.kinds) > 0 && s.kinds.Match(string(r.Kind))) {
			refuse(r.Pos, "the parent's [[resource_sync]] can allow it with kinds", "this repository may not declare a %s", r.Kind)
			return false
		}
		if r.Server != "" && len(s.servers) > 0 && !s.servers.Match(r.Server) {
			refuse(r.At("config.server"), "the parent's [[resource_sync]] lists the servers it may use", "%s may not stand on the server %q", r.ID, r.Server)
			return false
		}
		return true
	}
	out := config.Subset(keep)
	if !s.variables {
		for _, name := range sortedKeys(out.Variables) {
			v := out.Variables[name]
			if _, theirs := s.parentVariable(name); !theirs {
				refuse(v.Pos, "the parent's [[resource_sync]] can allow it with include_variables", "this repository may not declare variables (%q)", name)
			}
		}
		out.Variables = nil
	}
	return out, diags
}

func (s scope) parentVariable(name string) (*schema.Variable, bool) {
	if s.parent == nil {
		return nil, false
	}
	v, ok := s.parent.Variables[name]
	return v, ok
}

// inherited reports whether a resource is the parent's, lent so that references lead somewhere.
func (s scope) inherited(r *schema.Resource) bool {
	return s.parent != nil && s.parent.Get(r.ID) == r
}

package sync

import (
	"maps"
	"slices"
	"strings"

	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// A scope is what one ResourceSync reads. The root's is the only one of this version.
type scope struct {
	paths []string
}

// part leaves out what a [[resource_sync]] on this very repository brings in by its resource_path and does not take by
// its match_tags or include_resources. What the root's own paths cover is the root's.
func (s scope) part(config *schema.Config, at gitrepo.Address, branch string) *schema.Config {
	for _, r := range config.Resources {
		c, ok := r.Config.(*schema.ResourceSyncConfig)
		if !ok || r.Template || len(c.MatchTags) == 0 && c.IncludeResources || !namesSelf(config, c, at, branch) {
			continue
		}
		config = config.Subset(func(r *schema.Resource) bool {
			mine := len(c.ResourcePath) > 0 && covers(c.ResourcePath, r.Pos.File) && !covers(s.paths, r.Pos.File)
			return !mine || takes(c, r)
		})
	}
	return config
}

// takes reports whether a sync takes a resource of its files.
func takes(c *schema.ResourceSyncConfig, r *schema.Resource) bool {
	return c.IncludeResources && !slices.ContainsFunc(c.MatchTags, func(tag string) bool { return !slices.Contains(r.Tags, tag) })
}

// ownPaths lists the paths that [[resource_sync]] tables on this very repository and branch add and that are not
// read yet.
func ownPaths(have []string, config *schema.Config, at gitrepo.Address, branch string) []string {
	var extra []string
	for _, r := range config.Resources {
		c, ok := r.Config.(*schema.ResourceSyncConfig)
		if !ok || r.Template || !namesSelf(config, c, at, branch) {
			continue
		}
		for _, p := range c.ResourcePath {
			if p = cleanPath(p); !covers(have, p) && !slices.Contains(extra, p) {
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
	addr, err := gitrepo.SourceAddress(from)
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
	return config.Source(c.Source)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

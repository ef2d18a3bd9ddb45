package webhook

import (
	"path"
	"slices"
	"strings"

	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
)

// Match lists what of a Config a push concerns, by repository, branch and changed paths, sorted. Where the push does
// not tell all paths, each may have changed. A Procedure has no repository: only Komodo's URLs name one.
func Match(c *schema.Config, h *Hint) []schema.ID {
	if h.Event != Push {
		return nil
	}
	var ids []schema.ID
	for _, r := range c.Resources {
		if u, ok := use(c, r); ok && u.concerns(c, h) {
			ids = append(ids, r.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// A usage is what a resource takes from a repository.
type usage struct {
	from  schema.Source
	paths []string // files and folders; none: all of it
	on    bool     // webhook_enabled
}

// use tells what a resource takes from which repository; false if from none.
func use(c *schema.Config, r *schema.Resource) (usage, bool) {
	if r.Template {
		return usage{}, false
	}
	switch x := r.Config.(type) {
	case *schema.StackConfig:
		if x.FilesOnHost || x.FileContents != "" {
			return usage{}, false
		}
		return usage{x.Source, stackPaths(x), x.WebhookEnabled}, true
	case *schema.BuildConfig:
		if x.FilesOnHost || x.Dockerfile != "" && x.Repo == "" && x.LinkedRepo == "" {
			return usage{}, false
		}
		return usage{x.Source, []string{x.BuildPath, path.Join(x.BuildPath, x.DockerfilePath)}, x.WebhookEnabled}, true
	case *schema.RepoConfig:
		return usage{x.Source(), nil, x.WebhookEnabled}, true
	case *schema.ResourceSyncConfig:
		// Its stacks take files from all over its repository, and every commit of its branch is told how it went.
		return usage{x.Source, nil, x.WebhookEnabled}, !x.FilesOnHost && x.FileContents == ""
	}
	return usage{}, false
}

// stackPaths are the folder a stack runs in and what it names outside that.
func stackPaths(x *schema.StackConfig) []string {
	paths := []string{x.RunDirectory}
	for _, p := range x.FilePaths {
		paths = append(paths, path.Dir(path.Join(x.RunDirectory, p))) // and what lies beside it
	}
	for _, f := range x.AdditionalEnvFiles {
		paths = append(paths, path.Join(x.RunDirectory, f.Path))
	}
	for _, f := range x.ConfigFiles {
		paths = append(paths, path.Join(x.RunDirectory, f.Path))
	}
	return paths
}

func (u *usage) concerns(c *schema.Config, h *Hint) bool {
	from, ok := c.Source(u.from)
	if !ok || !u.on || from.Commit != "" || from.Branch != h.Push.Branch {
		return false
	}
	addr, err := gitrepo.SourceAddress(from)
	return err == nil && h.Is(addr) && u.touched(h.Push)
}

// touched reports whether the push changed any of the paths, or may have.
func (u *usage) touched(p *PushHint) bool {
	if !p.Complete || len(u.paths) == 0 {
		return true
	}
	return slices.ContainsFunc(u.paths, func(have string) bool {
		have = strings.Trim(path.Clean("/"+have), "/")
		return have == "" || slices.ContainsFunc(p.Paths, func(changed string) bool {
			return changed == have || strings.HasPrefix(changed, have+"/")
		})
	})
}

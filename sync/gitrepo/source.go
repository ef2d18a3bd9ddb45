package gitrepo

import (
	"cmp"
	"fmt"
	"path"
	"strings"

	"github.com/varanhq/varan/schema"
)

// SourceAddress is where a resource's git_provider, git_https and repo lead.
func SourceAddress(from schema.Source) (Address, error) {
	if strings.Contains(from.Repo, "://") || strings.HasPrefix(from.Repo, "git@") {
		return ParseAddress(from.Repo)
	}
	scheme := "https"
	if !from.GitHTTPS {
		scheme = "http"
	}
	if strings.HasPrefix(from.Repo, "/") || strings.Contains(from.GitProvider, "/") {
		return Address{}, fmt.Errorf("repo is OWNER/NAME at git_provider, not %q at %q", from.Repo, from.GitProvider)
	}
	return ParseAddress(scheme + "://" + cmp.Or(from.GitProvider, "github.com") + "/" + path.Clean(from.Repo))
}

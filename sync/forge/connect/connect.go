// Package connect makes the client that a [[forge]] asks for.
//
// In: forge.Options. Out: a forge.Forge. It imports sync/forge and the kinds below it. Start at To.
package connect

import (
	"fmt"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/gitea"
	"github.com/varanhq/varan/sync/forge/github"
	"github.com/varanhq/varan/sync/forge/gitlab"
)

// To prepares a client and asks nothing yet.
func To(o forge.Options) (forge.Forge, error) {
	switch o.Kind {
	case forge.GitHub:
		return some(github.New(o))
	case forge.Gitea, "forgejo":
		return some(gitea.New(o))
	case forge.GitLab:
		return some(gitlab.New(o))
	}
	return nil, fmt.Errorf("no forge is of the type %q: github, gitea or gitlab", o.Kind)
}

// some keeps a nil client from becoming a Forge that is not nil.
func some[T forge.Forge](f T, err error) (forge.Forge, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

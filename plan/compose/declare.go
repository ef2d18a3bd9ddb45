package compose

import (
	"context"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// An Input is one stack with the files it is declared by.
type Input struct {
	Resource *schema.Resource // a stack; variables resolved, secrets as [[NAME]]
	// Tree holds the files of the stack's repository: those of its linked repo, of its repo, or, for a stack
	// that names neither and has no file_contents, of the config repository itself. Nil: not known (Why says
	// why), and a stack that needs it is Unread.
	Tree Tree
	Why  string
	// Known names every [[NAME]] that has a value.
	Known map[string]bool
	// OnHost: Tree is the server's own folder (files_on_host, at the agent).
	OnHost bool
}

// A Read is one path a declaration depends on. While every Read still has its Hash, so has the declaration.
type Read struct {
	Path string
	Hash string // "" = nothing stood there
}

// Declare reads what a stack declares. Mistakes are its Diagnostics; it never fails otherwise. Reads lists what
// it looked at, for a caller that keeps the outcome.
func Declare(ctx context.Context, in Input) (*plan.Declared, []Read) {
	return &plan.Declared{Resource: in.Resource.ID, Unread: "reading compose files is not built yet"}, nil
}

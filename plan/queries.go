package plan

import "github.com/varanhq/varan/schema"

// A Query asks one server for Facts about one resource: only what Make cannot tell from the list of
// containers and the ledger.
type Query struct {
	Server   string
	Resource schema.ID
	// Compare names the services whose running containers carry no label of ours.
	Compare []string
	// HostFiles and Secrets are what the resource uses: did they change since it was applied?
	HostFiles []string
	Secrets   []string
	// Files asks whether the files laid for it still are as laid; the ledger has their hashes.
	Files bool
	// Binds asks which of the declared bind sources are absent.
	Binds bool
}

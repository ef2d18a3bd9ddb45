package plan

import "github.com/varanhq/varan/schema"

// DeclareDeployment reads a deployment's one Unit from its fields.
func DeclareDeployment(r *schema.Resource, known map[string]bool) *Declared {
	return &Declared{Resource: r.ID, Unread: "deployments are not read yet"}
}

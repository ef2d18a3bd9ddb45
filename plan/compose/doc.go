// Package compose turns a stack's declaration and the files of a tree into plan.Declared: its units with their
// digests, the files they use, what they bind, publish and need.
//
// In: a stack Resource with variables resolved and secrets standing as [[NAME]], and a [Tree], a commit's files
// or a folder's. Out: plan.Declared, every mistake of the files as a Diagnostic at its place, and what was read,
// so that a caller declares again only what changed. For an agent, [Load] gives compose's own project from the
// same files, with paths and secrets of the host filled in.
//
// It opens nothing but the tree: no process environment, no home folder, no remote include. It imports schema,
// plan and compose-go. Start at [Declare].
package compose

// Package schema turns TOML files into a Config of typed, validated Resources.
//
// In: the bytes of files with their paths. Out: a Config in which each Resource knows its file and line,
// Diagnostics for its authors, and the JSON Schema. It does no I/O, knows no host and imports nothing of
// varan's. Start at [Parse].
//
// A file passes through four hands: newSource applies the triple-quote rule (lex.go), decodeTOML reads values
// and places (tree.go), a decoder fills the Config structs by their tags (shape.go, decode.go) and checks each
// resource by itself (check.go). That much is cached by content. Then assemble puts the files together, resolves
// references and finds circles (assemble.go, circle.go).
//
// The Config structs (kinds.go, kinds_other.go, execution.go) are the single source: their tags drive decoding,
// defaults, the JSON Schema and the pages in docs/kinds.
package schema

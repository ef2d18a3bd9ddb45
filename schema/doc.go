// Package schema turns TOML files into a Config of typed, validated Resources.
//
// In: the bytes of files with their paths. Out: a Config in which each Resource knows its file and line,
// Diagnostics for its authors, and the JSON Schema. It does no I/O and knows no host. Start at Parse.
package schema

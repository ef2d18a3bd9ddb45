// Package examples holds config repositories that run as they stand.
//
// In: nothing. Out: Demo, the small world of "varan demo", as files.
package examples

import "embed"

// Demo is the config repository that "varan demo" puts on this machine, below "demo/".
//
//go:embed all:demo
var Demo embed.FS

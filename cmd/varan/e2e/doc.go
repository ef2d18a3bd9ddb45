// Package e2e tries the main job as its users do: the real binary, real Git, a real Docker engine.
//
// It has tests only. Start at world_test.go.
package e2e

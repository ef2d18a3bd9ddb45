//go:build race

package sandbox

const race = true

//go:build !race

package sandbox

const race = false

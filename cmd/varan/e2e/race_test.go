//go:build race

package e2e

// raceDetector: the tests run under it, so the daemons they start do too.
const raceDetector = true

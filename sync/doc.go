// Package sync takes commits of the config repositories from bytes to containers, one run at a time per
// ResourceSync.
//
// In: triggers (a poll, a file or ref event, an agent's event, a period, a command) and the trees gitrepo
// reads. Out: plans applied through apply, what became of them to a Reporter, and the Status of everything.
// It imports schema, plan, plan/compose, apply, agent/protocol and sync/gitrepo; never an agent. Start at
// syncer.run in run.go.
package sync

// Package pulls tells code hosts what a pull request would do, and what became of it.
//
// In: forges, the daemon's previews and Reports, hints that something happened. Out: commit statuses, one comment a
// pull request, annotations; approvals for the daemon. What is to be written is kept on disk before it is written,
// and read back before it is written again, so that a process killed anywhere repeats nothing and forgets nothing.
// It imports sync, sync/forge, sync/report and sync/gitrepo. Start at Desk.Run, then repository.look in look.go.
package pulls

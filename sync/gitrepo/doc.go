// Package gitrepo reads trees and blobs at a commit, without a worktree and without running git.
//
// In: the address of a repository (https, ssh, http, a local repository, a plain folder), a credential bound
// to where it may go, a branch. Out: Snapshots: immutable views of one commit's files, which satisfy
// plan/compose.Tree; how two commits relate; signals that a local repository or folder changed. It imports
// nothing of ours but schema. Every figure that comes from outside has a bound (see Limits). Start at Open,
// then Repo.Tip and Repo.Fetch.
package gitrepo

// Package stack brings a compose project onto one host.
//
// In: an op with its payload, that is the stack's declaration, the files it needs at their paths in the
// repository, and its secrets. Out: files laid in the stack's folder, images pulled and built, commands run, and a
// container.Creator that makes the project's containers with compose's own library. Nothing of the process's
// environment or home folder reaches compose.
//
// A stack's folder is hostile ground: containers write to it. [Dir] goes through it handle by handle, follows no
// symlink and opens nothing but regular files.
//
// It imports agent/container, agent/build, agent/mask, agent/protocol, plan/compose and compose's library. Start
// at [Open].
package stack

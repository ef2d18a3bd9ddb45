// Package webhook takes what forges send and turns it into hints: reasons to look, never orders.
//
// In: deliveries of GitHub, Gitea, Forgejo and GitLab, also at Komodo's URLs, signed with a secret of varan.toml or of
// a resource. Out: Hints, each on disk before its sender reads 2xx, given to a Target until that says that the hint
// was acted on. Nothing of a payload is trusted: who takes a Hint asks the repository or the forge. Everything a
// stranger can make grow has a bound. It imports schema and, for addresses, sync/gitrepo; only [OpenStore] knows
// JetStream. Start at [New] and Receiver.Run.
package webhook

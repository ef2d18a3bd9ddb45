// Package forge is how varan speaks with a code host: GitHub, Gitea and Forgejo, GitLab.
//
// In: what to say about a commit or a pull request, and questions about them. Out: statuses, comments and check
// runs on the forge; pull requests, comments and permissions read back from it. A GitLab merge request is a pull
// request here. Texts come ready made: sync/report writes them, this package only refuses what is too long.
//
// Nothing here waits: a rate limit is an error that says until when, and until then every call of that client
// fails at once without touching the network. Reads are tried again a few times; writes never are, because only
// the caller's record knows whether one was done (see ErrTemporary). Reads are conditional wherever the forge
// offers an ETag, so asking again for what has not changed is cheap and on GitHub free.
//
// It imports nothing of ours but sync/dial. The kinds lie below it (github, gitea, gitlab), connect chooses among
// them, forgetest is a forge for tests. Start at Forge, then Options.
package forge

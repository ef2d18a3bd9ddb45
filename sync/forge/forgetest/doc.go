// Package forgetest is a forge for tests: GitHub, Gitea or GitLab with repositories in real Git, pull requests,
// comments, statuses, users and their permissions, Apps, merge queues, webhooks, rate limits and bad days.
//
// In: what a person would do on the forge's pages (methods of Server and Repo), and requests to its API and to its
// Git. Out: answers, webhooks, and the state to look at. Everything that has a contract (../shared/contracts) is
// held against it, requests and answers alike, so that the stand-in cannot drift into whatever our client happens to
// send. It needs git. Nothing of ours imports it but tests. Start at New.
package forgetest

// Package container carries out changes of containers on one Docker engine.
//
// In: a [Job], which names the containers of one resource that are to be created, replaced, restarted or
// removed, with a [Creator] that knows how to create them. Out: a [Result], progress, and containers that are
// healthy, or what ran before running again. Every change is journalled through [Journal] before it is made, so
// that a process killed at any instant goes on from where it was.
//
// It imports plan's and schema's data types and Docker's client; never the agent, the ledger or compose. Start
// at [Engine.Run].
package container

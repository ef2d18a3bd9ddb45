// Package agent changes one Docker host, and says how it stands.
//
// In: protocol.Observe and protocol.Op. Out: protocol.Observed, protocol.Outcome, protocol.Progress, and
// containers. What it must remember lies in the ledger, one small file per resource below its root. It imports
// agent/protocol, plan, schema and its own families of ops (container, stack, build, mask); it never talks to a
// forge and knows no other host. Start at [Agent.Submit].
package agent

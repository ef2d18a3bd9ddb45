// Package link is the agent's side of the connection to its fleet's daemons.
//
// In: a NATS connection, opened under the agent's own key, and messages signed with the fleet's. Out: calls of a
// [Handler], and its answers, signed with the agent's key and sealed to the daemon that asked. It refuses what is
// not signed by the pinned fleet key, was seen before, is not for this agent, or has a lower term than the highest
// it obeyed. The agent in the daemon's process uses it as a remote one does. It imports agent/protocol and its
// wire format. Start at [Serve], and at [Follow] for an agent on a host of its own.
package link

// Package fleet reaches agents over NATS: the Fleet that apply asks.
//
// In: the fleet's key, which agent stands for which server, connections of agents, observations and ops. Out: signed
// and sealed messages to agents, their states, outcomes and progress, the names of servers that say they changed, who
// is connected and who waits to be enrolled, and JetStream for the journal. The NATS server is inside the daemon and
// listens nowhere; the gate before it speaks TLS and WebSocket with agents on other hosts. Or it is an existing cluster
// ([Cluster]): its servers ask any daemon, by auth callout, whom to let in, and the one that holds the lease gives orders
// ([Hub.Lead]). It knows no op's meaning. It imports apply, apply/lease, plan, agent/protocol and its wire format. Start at
// [Start].
package fleet

// Package apply carries a plan out, in its order, and remembers how that went.
//
// In: a plan.Plan, a [Fleet] that reaches the servers, [Payloads] that says what a step brings along. Out: a
// [Result] with an outcome or a reason for every step, [Event]s while it runs, and [Entry]s for the journal. It
// never decides what to do, that is plan's, and it knows no transport: apply/fleet has NATS, apply/journal the
// streams. It imports schema, plan and agent/protocol. Start at [Run].
package apply

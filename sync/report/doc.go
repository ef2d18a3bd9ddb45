// Package report says what varan found, will do and did.
//
// In: diagnostics, a plan.Plan, an apply.Result, what a daemon knows. Out: text for a terminal, for a workflow
// log, for a status line. Everything here is pure: equal inputs give equal bytes, no clock, no I/O, no
// environment. Text that came from outside passes through the escaping function of its sink exactly once,
// here and nowhere else. It imports schema, plan and apply's data. Start at Plan.
package report

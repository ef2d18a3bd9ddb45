// Package report says what varan found, will do and did.
//
// In: diagnostics, a plan.Plan, an apply.Result, what a daemon knows. Out: text for a terminal, for a workflow
// log, for the comment on a pull request, for a commit status. Everything here is pure: equal inputs give equal
// bytes, no clock, no I/O, no environment. Text that came from outside passes through the escaping function of its
// sink exactly once, here and nowhere else (escape.go lists them). It imports schema, plan and apply's data. Start
// at Plan for the terminal, at Preview and Outcome for a comment, at PlanStatus for a status.
package report

// Package plan decides what must change.
//
// In: Desired, what a commit declares; State, what the servers report. Out: a Plan, steps in an order that
// respects "after", with causes and field changes; without changing steps when all is well. It imports
// schema and nothing that can look outside: no os, net, context, logger or clock. Start at Make.
package plan

// Package lease elects, among daemons that share one record, the one that acts, and numbers its time in office.
//
// In: a [Store] that changes its record by compare-and-set. Out: a [Tenure] for as long as this process holds the lease,
// with a term that no other tenure has. No two machines' clocks are compared: who would lead watches the record by its
// own clock and takes it when it has not changed for a whole lease; who leads stops a while earlier, counted by its own
// clock from before its last renewal was sent. What acts outside asks the tenure first; agents refuse lower terms, for
// the moment between the question and the deed. It imports nothing of ours. Start at [Lease.Run].
package lease

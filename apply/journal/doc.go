// Package journal keeps what ran, when, why and how it ended, in a JetStream stream of the daemon, or of the cluster that
// several daemons share: the one that leads has it open.
//
// In: apply.Entry. Out: apply.Record, of one run or of all, and which runs were cut off. The stream is bounded in
// bytes and age; losing it loses history only. It imports apply and JetStream's client. Start at [Open].
package journal

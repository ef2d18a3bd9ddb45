// Package wire is how messages between daemon and agent travel: one implementation for both ends.
//
// In: a body of bytes and whom it is for. Out: the same body at the other end, or an error. A message begins with a
// signed manifest (who, for whom, which op, which term, how large, which hash), its body is sealed to the
// receiver's curve key, and it goes in frames of at most [ChunkSize], each acknowledged, so that a slow receiver is
// never flooded. Nothing is kept of a message whose manifest was not signed by an accepted key. It knows no
// message's meaning and imports agent/protocol, NATS and its keys. Start at [Endpoint].
package wire

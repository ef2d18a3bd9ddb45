// Package update makes an agent another build of varan, and goes back to the old one if that does not do.
//
// In: the parts of a binary and what an op says of it, and whether a trial of it reached the hub. Out: the binary in
// the old one's place, and what became of an update, which the process that runs next is told. It imports schema, plan
// and agent/protocol for what ops are called, and knows no Docker and no hub: who runs the agent tries the new binary
// and executes it.
//
// At every moment a whole binary stands at the agent's path, and a file in the agent's root says what was about to be
// done, so that a kill or a loss of power anywhere ends with the old agent or the new one, and with an answer. The new
// binary runs beside the old process first, which has let go of everything and watches it: only one that reached the
// hub takes the old one's place. Start at Self.
package update

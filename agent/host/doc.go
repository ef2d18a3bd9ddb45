// Package host reads how the machine an agent runs on stands.
//
// In: the kernel's own files, and the engine's word on its version. Out: protocol.Figures. A reading costs about a
// millisecond; what does not change is asked once. It imports agent/protocol alone. Start at [Reader.Read].
package host

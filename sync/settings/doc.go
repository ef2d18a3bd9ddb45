// Package settings is varan.toml: what must not stand in the config repository.
//
// In: the bytes of varan.toml, values from flags and VARAN_… variables (handed in by cmd, which alone reads the
// environment), secret files. Out: Settings with defaults filled in, Diagnostics with their places, and a
// Watcher that reads all of it again when it changes. It imports schema for Diagnostics and nothing else of
// ours. Start at Load.
package settings

// Package sandbox runs this program again as a child that can do nothing but think: what a stranger wrote is
// parsed there.
//
// In: arguments for the child, bounds. Out: pipes to a process with an empty environment, no network, no path but
// one private temporary folder, and kernel limits on memory, CPU time, file size and processes. It knows nothing of
// what the child does and imports nothing of ours. Start at [Start] in the parent and [Enter] in the child.
package sandbox

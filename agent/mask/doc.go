// Package mask takes secrets' values out of what is printed, before it leaves the host.
//
// In: the values, and text or a stream. Out: the same text with each value, in every form in which programs print
// one (raw, line by line, base64, percent-, JSON- and shell-escaped, hex), replaced by <NAME>. It imports
// nothing of ours. Start at [New].
package mask

package schema

import "strings"

// nearest is the word an author may have meant, or "".
func nearest(s string, words []string) string {
	best, found := 1+max(1, len(s)/3), ""
	if len(s) > 64 {
		return ""
	}
	low := strings.ToLower(s)
	for _, w := range words {
		if n := distance(low, strings.ToLower(w), best); n < best {
			best, found = n, w
		}
	}
	return found
}

// distance counts the letters to change, add, drop or swap between two words, and gives up at limit.
func distance(a, b string, limit int) int {
	if a == b {
		return 0
	}
	if d := len(a) - len(b); d >= limit || -d >= limit || len(a) > 64 || len(b) > 64 {
		return limit
	}
	var rows [3][66]uint8
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := 0; j <= len(b); j++ {
		last[j] = uint8(j)
	}
	for i := 1; i <= len(a); i++ {
		row[0] = uint8(i)
		least := row[0]
		for j := 1; j <= len(b); j++ {
			cost := uint8(1)
			if a[i-1] == b[j-1] {
				cost = 0
			}
			n := min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				n = min(n, before[j-2]+1)
			}
			row[j] = n
			least = min(least, n)
		}
		if int(least) >= limit {
			return limit
		}
		before, last, row = last, row, before
	}
	return int(last[len(b)])
}

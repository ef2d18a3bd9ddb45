package plan

import (
	"slices"
	"strings"
)

// Names are the NAMEs of every [[NAME]] in the texts, sorted, each once. [[[x]]] is the escape for a literal
// [[x]] and names nothing.
func Names(texts ...string) []string {
	var out []string
	for _, s := range texts {
		for {
			at := strings.Index(s, "[[")
			if at < 0 {
				break
			}
			s = s[at:]
			if strings.HasPrefix(s, "[[[") {
				end := strings.Index(s, "]]]")
				if end < 0 {
					break
				}
				s = s[end+3:]
				continue
			}
			end := strings.Index(s, "]]")
			if end < 0 {
				break
			}
			if name := s[2:end]; isName(name) {
				out = append(out, name)
			}
			s = s[end+2:]
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// isName tells a name from a shell's [[ -f x ]] test.
func isName(s string) bool {
	return s != "" && !strings.ContainsAny(s, " \t\n[]")
}

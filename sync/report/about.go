package report

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// An About says what a comment on a pull request is about, beside the plan itself.
type About struct {
	Fleet string // varan.toml's name: with it the comment is found again
	Sync  string // shown when several syncs speak in one repository; "" else

	Commit string // full id of what was planned or applied
	Base   string // full id of what it was planned against; "" = not told
	Branch string // the base's branch

	// Blob is the URL below which the forge shows files at Commit, "https://github.com/acme/infra/blob/COMMIT";
	// "" = places are not linked. Page is the URL of the run on varan's page, "" = none.
	Blob string
	Page string
	// Source hands out a file's bytes at Commit, to show the line of a mistake; nil = lines are not shown.
	Source func(file string) []byte

	// Warnings are what only the caller can see, such as KeyChanges.
	Warnings []schema.Diagnostic

	// Notes are answers to people's commands, such as why one was not obeyed: they stand on top.
	Notes []string

	// Manual: a merge waits for an approval, apply = "manual". Command is the comment that gives it, such as
	// "/varan apply"; "" = comments are not listened to.
	Manual  bool
	Command string

	// Previewed is the plan that the pull request showed last, nil = none: an Outcome says whether it differed.
	Previewed *plan.Plan
	// Output shows what containers and builds printed: only where report_output allows it.
	Output bool
	// Took is how long planning took, 0 = not told.
	Took time.Duration

	limit int // of characters, 0 = CommentLimit
}

// CommentLimit is how long a comment may be, in characters: GitHub's limit, and no forge of ours has less.
const CommentLimit = 65_536

// Marker is the first line of the one comment that a fleet keeps on a pull request. A comment is ours if its first
// line is this and we wrote it: anybody can write the line.
func Marker(fleet string) string { return "<!-- varan:" + markerText(fleet) + " -->" }

// markerText is one word that cannot end an HTML comment.
func markerText(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == ':':
			b.WriteByte(c)
		case c == '-' && i > 0 && i < len(s)-1 && s[i-1] != '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

var sealed = regexp.MustCompile(`^<!-- varan-plan digest=([A-Za-z0-9:_.%-]*) commit=([A-Za-z0-9:_.%-]*) -->$`)

// seal is the second line of a preview: what an approval of this comment approves.
func seal(digest, commit string) string {
	return "<!-- varan-plan digest=" + markerText(digest) + " commit=" + markerText(commit) + " -->"
}

// Sealed reads which plan of which commit a preview of ours shows: what an approval in answer to it approves.
func Sealed(body string) (digest, commit string, ok bool) {
	lines := strings.SplitN(body, "\n", 3)
	if len(lines) < 2 {
		return "", "", false
	}
	m := sealed.FindStringSubmatch(strings.TrimSpace(lines[1]))
	if m == nil || m[1] == "" {
		return "", "", false
	}
	return m[1], m[2], true
}

// size counts as the strictest forge might: UTF-16 units, a line end as two.
func size(s string) int {
	n := 0
	for _, r := range s {
		n += max(1, utf16.RuneLen(r))
		if r == '\n' {
			n++
		}
	}
	return n
}

// A sheet is a comment being written: parts of it ask how much room there is.
type sheet struct {
	b    strings.Builder
	left int
}

func newSheet(limit int) *sheet {
	if limit == 0 {
		limit = CommentLimit
	}
	return &sheet{left: limit - limit/32}
}

// add writes text, for which the caller has made sure that there is room.
func (s *sheet) add(text string) {
	s.b.WriteString(text)
	s.left -= size(text)
}

// part adds text and an empty line behind it.
func (s *sheet) part(text string) {
	if text != "" {
		s.add(strings.TrimRight(text, "\n") + "\n\n")
	}
}

// take is how many of the items fit into room, in order.
func take(items []string, room int) int {
	for i, it := range items {
		if room -= size(it); room < 0 {
			return i
		}
	}
	return len(items)
}

// clipRunes cuts s to n characters, the last being an ellipsis.
func clipRunes(s string, n int) string {
	s = Escape(s)
	if len(s) <= n {
		return s
	}
	return cutRunes(s, n)
}

func (a About) title(what, rest string) string {
	s := "### varan " + what
	if a.Sync != "" {
		s += " of " + Code(clipRunes(a.Sync, 80))
	}
	return s + " · " + rest
}

// place is "file:line" as a link to it, in code.
func (a About) place(p schema.Pos, code func(string) string) string {
	if p.File == "" {
		return ""
	}
	text := clipRunes(p.File, 160)
	if p.Line > 0 {
		text += ":" + itoa(p.Line)
	}
	return link(code(text), blobURL(a.Blob, p.File, p.Line))
}

// foot is the small print: what was planned, against what.
func (a About) foot(facts ...string) string {
	var parts []string
	if a.Commit != "" {
		s := "commit " + Code(short(clipRunes(a.Commit, 64)))
		if a.Base != "" || a.Branch != "" {
			s += " on"
		}
		if a.Branch != "" {
			s += " " + Code(clipRunes(a.Branch, 80))
		}
		if a.Base != "" {
			s += " " + Code(short(clipRunes(a.Base, 64)))
		}
		parts = append(parts, s)
	}
	for _, f := range facts {
		if f != "" {
			parts = append(parts, f)
		}
	}
	if a.Took > 0 {
		parts = append(parts, "planned in "+Millis(a.Took.Milliseconds()))
	}
	if page := goodURL(a.Page); page != "" {
		parts = append(parts, link("details", page))
	}
	if len(parts) == 0 {
		return ""
	}
	return "<sub>" + strings.Join(parts, " · ") + "</sub>\n"
}

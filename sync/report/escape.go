package report

import (
	"fmt"
	"html"
	"log/slog"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// One function a sink. Whatever came from outside (names, messages of containers and registries, file contents,
// commit metadata) goes through exactly one of them, when it is written and nowhere else:
//
//	Escape        terminal; LogAttr the same in a log
//	Markdown      running text of a comment; cell the same in a table
//	Code          a code span of a comment; codeCell the same in a table
//	fence         a code block of a comment
//	codeHTML      a code element within raw HTML of a comment (<summary>)
//	MermaidLabel  the label of a node
//	workflow, property  a workflow command
//	Status        the description of a commit status
//	HTML          the page; html/template escapes markup, this what is not seen

// Escape makes strangers' text safe and honest on a terminal and in a log: what would move the cursor, reorder
// the line or not be seen at all is shown as \u{…}. The result is one line of valid UTF-8.
func Escape(s string) string {
	i := strings.IndexFunc(s, hidden)
	if i < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x{%x}`, s[i])
		case hidden(r):
			fmt.Fprintf(&b, `\u{%x}`, r)
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// hidden reports whether r does something else on a terminal than show itself.
func hidden(r rune) bool {
	if r >= ' ' && r < 0x7f {
		return false
	}
	switch r {
	case 0x034f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x3164, 0xffa0, 0x2800: // fillers: letters without a face
		return true
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp, unicode.Variation_Selector) ||
		r != ' ' && unicode.Is(unicode.Zs, r)
}

// LogAttr is for slog.HandlerOptions.ReplaceAttr: texts and errors in a log show what would not be seen.
func LogAttr(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case string:
		if e := Escape(v); e != v {
			a.Value = slog.StringValue(e)
		}
	case error:
		if e := v.Error(); Escape(e) != e {
			a.Value = slog.StringValue(Escape(e))
		}
	}
	return a
}

// HTML shows what a page would not: html/template escapes the markup afterwards. Line ends stay, for <pre>.
func HTML(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = show(strings.TrimSuffix(lines[i], "\r"))
	}
	return strings.Join(lines, "\n")
}

// Markdown makes strangers' text running text of a comment, in one line. Words of letters, digits and the
// punctuation of prose stay as they are; any other word, and one that a forge would make a link, a mention, a
// reference or an emoji of, stands in a code span, where none of that happens. Backslashes would not do: forges
// look for mentions and references in the rendered text.
func Markdown(s string) string { return words(s, Code) }

// cell is Markdown for a cell of a table, where a pipe would end it.
func cell(s string) string { return words(s, codeCell) }

func words(s string, code func(string) string) string {
	ws := strings.Fields(Escape(s))
	if len(ws) == 0 && s != "" {
		return code(s)
	}
	for i, w := range ws {
		first := i == 0
		core := strings.TrimLeft(w, `("'`)
		lead := w[:len(w)-len(core)]
		core = strings.TrimRight(core, `.,;:!?%)"'`)
		tail := w[len(lead)+len(core):]
		switch {
		case plainWord(core) && strings.Count(w, ":") < 2 && !strings.Contains(strings.ToLower(w), "www.") && !(first && startsBlock(core+tail)):
		case core == "" && !first:
		case core == "":
			ws[i] = code(w)
		default:
			ws[i] = lead + code(core) + tail
		}
	}
	return strings.Join(ws, " ")
}

var (
	// reference is what forges and trackers make links of: a commit, GH-12, PROJ-7.
	reference = regexp.MustCompile(`(?i)(^|[^0-9a-z])([0-9a-f]{7,}|[a-z][0-9a-z]*-[0-9]+)($|[^0-9a-z])`)
	ordered   = regexp.MustCompile(`^[0-9]+[.)]`)
)

// plainWord reports whether a word can stand in Markdown as it is.
func plainWord(w string) bool {
	switch w {
	case "→", "=", "+", "-", "–", "/", "…", "·", "×":
		return true
	case "":
		return false
	}
	first, _ := utf8.DecodeRuneInString(w)
	last, _ := utf8.DecodeLastRuneInString(w)
	if !wordRune(first) || !wordRune(last) {
		return false
	}
	for _, r := range w {
		if !wordRune(r) && !strings.ContainsRune(`-'’.:=+,()"→…`, r) {
			return false
		}
	}
	return !strings.Contains(w, "://") && !reference.MatchString(w)
}

func wordRune(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) }

// startsBlock reports whether w would begin a list, a heading's underline or a rule at the start of a line.
func startsBlock(w string) bool {
	switch w[0] {
	case '-', '+', '=', '/':
		return true
	}
	return ordered.MatchString(w)
}

// Code is a code span of a comment, in one line.
func Code(s string) string {
	s = Escape(s)
	if strings.Trim(s, " ") == "" { // a span of blanks would not be one
		return "`\"" + s + "\"`"
	}
	ticks := strings.Repeat("`", longestRun(s, '`')+1)
	if s[0] == '`' || s[len(s)-1] == '`' || s[0] == ' ' && s[len(s)-1] == ' ' {
		s = " " + s + " "
	}
	return ticks + s + ticks
}

// codeCell is Code for a cell of a table. A pipe is escaped even in a span there; one that follows a backslash
// is read differently by different renderers and shown by its number.
func codeCell(s string) string {
	s = strings.ReplaceAll(Escape(s), `\|`, `\\u{7c}`)
	return strings.ReplaceAll(Code(s), "|", `\|`)
}

// codeHTML is a code element for places where Markdown does not reach: within <summary>.
func codeHTML(s string) string { return "<code>" + html.EscapeString(Escape(s)) + "</code>" }

// fence is a code block, its lines escaped one by one. Each must begin with something of ours that is no slash.
func fence(lang string, lines []string) string {
	n := 3
	for i, l := range lines {
		lines[i] = show(l)
		n = max(n, longestRun(lines[i], '`')+1)
	}
	ticks := strings.Repeat("`", n)
	return ticks + lang + "\n" + strings.Join(lines, "\n") + "\n" + ticks + "\n"
}

func longestRun(s string, c byte) int {
	longest, n := 0, 0
	for i := range len(s) {
		if s[i] != c {
			n = 0
			continue
		}
		n++
		longest = max(longest, n)
	}
	return longest
}

// MermaidLabel is text between the quotes of a node's label: all but letters, digits and a little punctuation is
// written by number, which Mermaid shows as itself and never as markup.
func MermaidLabel(s string) string {
	var b strings.Builder
	for _, r := range Escape(s) {
		switch {
		case r < 0x7f && (wordRune(r) || strings.ContainsRune(" .-", r)):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "#%d;", r)
		}
	}
	return b.String()
}

// StatusLimit is how long the description of a commit status may be, in characters.
const StatusLimit = 140

// Status is the description of a commit status: one line of at most StatusLimit characters, cut at a word.
func Status(s string) string {
	r := []rune(strings.Join(strings.Fields(Escape(s)), " "))
	if len(r) <= StatusLimit {
		return string(r)
	}
	cut := StatusLimit - 1
	for i := cut; i > StatusLimit/2; i-- {
		if r[i] == ' ' {
			cut = i
			break
		}
	}
	return strings.TrimRight(string(r[:cut]), " ,;:·(") + "…"
}

// workflow escapes the message of a workflow command.
var workflow = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")

// property escapes a property of a workflow command.
var property = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")

// link is a Markdown link of ours around text that is Markdown already; "" as URL gives the text alone.
func link(text, url string) string {
	if url == "" {
		return text
	}
	return "[" + text + "](" + url + ")"
}

var safeURL = regexp.MustCompile(`^https?://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9._~%/\-?=&+,;@:]*)?$`)

// goodURL hands a URL of our own configuration through if it can stand in a link as it is, else "".
func goodURL(u string) string {
	if !safeURL.MatchString(u) {
		return ""
	}
	return u
}

// blobURL is the place of a line below the prefix of a commit's files, "" if there is none.
func blobURL(prefix, file string, line int) string {
	if prefix = goodURL(prefix); prefix == "" || file == "" || !utf8.ValidString(file) || len(file) > 400 {
		return ""
	}
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(prefix, "/"))
	for _, seg := range strings.Split(file, "/") {
		if seg == "" || seg == "." || seg == ".." {
			return ""
		}
		b.WriteByte('/')
		for i := range len(seg) {
			if c := seg[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._~-", c) >= 0 {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
	}
	if line > 0 {
		b.WriteString("#L" + itoa(line))
	}
	return b.String()
}

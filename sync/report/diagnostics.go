package report

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/charmbracelet/lipgloss"

	"github.com/varanhq/varan/schema"
)

// Diagnostics lists mistakes with the line they stand on and a caret under the place, errors in the order
// given. source hands out a file's bytes and may be nil, or return nil for a file it does not know.
func Diagnostics(ds []schema.Diagnostic, source func(file string) []byte, t Terminal) string {
	var b strings.Builder
	k := t.ink()
	for _, d := range ds {
		mark, word := k.red, "error"
		if d.Severity == schema.SeverityWarning {
			mark, word = k.yellow, "warning"
		}
		if place := Place(d.Pos); place != "" {
			b.WriteString(k.paint(k.bold, place+":") + " ")
		}
		if d.Severity == schema.SeverityWarning {
			b.WriteString(k.paint(mark, word+":") + " ")
		}
		b.WriteString(Escape(d.Message) + "\n")
		caret := writeCaret(&b, d, source, k, mark, t)
		if d.Hint == "" {
			continue
		}
		for i, line := range strings.Split(d.Hint, "\n") {
			if caret != "" && i == 0 {
				b.WriteString(caret + " " + k.paint(k.cyan, Escape(line)) + "\n")
				caret = ""
				continue
			}
			b.WriteString("      " + k.paint(k.cyan, Escape(line)) + "\n")
		}
		continue
	}
	return b.String()
}

// Place is "file:line:col", with what is known of it.
func Place(p schema.Pos) string {
	s := Escape(p.File)
	if p.Line > 0 {
		s += ":" + itoa(p.Line)
		if p.Column > 0 {
			s += ":" + itoa(p.Column)
		}
	}
	return s
}

// writeCaret prints the guilty line and returns the caret line without its end if a hint may follow on it,
// or prints that too when there is no hint.
func writeCaret(b *strings.Builder, d schema.Diagnostic, source func(string) []byte, k ink, mark lipgloss.Style, t Terminal) string {
	if source == nil || d.Line < 1 {
		return ""
	}
	text, ok := lineOf(source(d.File), d.Line)
	if !ok {
		return ""
	}
	col := min(max(d.Column, 1)-1, len(text))
	for col > 0 && col < len(text) && !utf8.RuneStart(text[col]) {
		col--
	}
	before, rest := show(text[:col]), text[col:]
	n := min(max(d.Length, 1), max(1, len(rest)))
	if n > len(rest) {
		n = len(rest)
	}
	marked := max(1, lipgloss.Width(show(rest[:n])))
	full := before + show(rest)
	at := lipgloss.Width(before)
	if limit := 160; lipgloss.Width(full) > limit { // a very long line: its part around the mark
		if at > 60 {
			runes := []rune(before)
			before = "…" + string(runes[len(runes)-min(len(runes), 40):])
			at = lipgloss.Width(before)
			full = before + show(rest)
		}
		full = clip(full, limit)
		marked = max(1, min(marked, limit-at))
	}
	num := fmt.Sprintf("%5d", d.Line)
	b.WriteString(k.paint(k.dim, num+" | ") + full + "\n")
	caret := k.paint(k.dim, "      | ") + strings.Repeat(" ", at) + k.paint(mark, strings.Repeat("^", marked))
	if d.Hint == "" || t.Width > 0 && 8+at+marked+1+len(firstLine(d.Hint)) > t.Width {
		b.WriteString(caret + "\n")
		return ""
	}
	return caret
}

func firstLine(s string) string { l, _, _ := strings.Cut(s, "\n"); return l }

// show escapes a piece of a source line; a tab is four columns wherever it stands.
func show(s string) string {
	parts := strings.Split(s, "\t")
	for i := range parts {
		parts[i] = Escape(parts[i])
	}
	return strings.Join(parts, "    ")
}

func lineOf(data []byte, n int) (string, bool) {
	if data == nil {
		return "", false
	}
	for ; n > 1; n-- {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			return "", false
		}
		data = data[i+1:]
	}
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		data = data[:i]
	}
	return string(bytes.TrimSuffix(data, []byte("\r"))), true
}

// Annotations writes diagnostics as workflow commands, which GitHub shows at their lines.
func Annotations(ds []schema.Diagnostic) string {
	var b strings.Builder
	for _, d := range ds {
		msg := d.Message
		if d.Hint != "" {
			msg += "\n" + d.Hint
		}
		lines := strings.Split(msg, "\n")
		for i := range lines {
			lines[i] = Escape(lines[i])
		}
		msg = strings.Join(lines, "\n")
		b.WriteString("::" + string(d.Severity))
		if d.File != "" {
			b.WriteString(" file=" + property.Replace(Escape(d.File)))
			if d.Line > 0 {
				b.WriteString(",line=" + itoa(d.Line))
				if d.Column > 0 {
					b.WriteString(",col=" + itoa(d.Column))
				}
			}
		}
		b.WriteString("::" + workflow.Replace(msg) + "\n")
	}
	return b.String()
}

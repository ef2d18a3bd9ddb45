package report

import (
	"io"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/muesli/termenv"
)

// A Terminal is where text goes. The zero value is a pipe: no colour, no limit to a line.
type Terminal struct {
	Color bool
	Width int // columns; 0 = never wrap
}

// ink paints; without colour it hands text through.
type ink struct {
	on                                           bool
	bold, dim, green, yellow, cyan, red, magenta lipgloss.Style
}

func (t Terminal) ink() ink {
	r := lipgloss.NewRenderer(io.Discard)
	r.SetColorProfile(termenv.Ascii)
	if t.Color {
		r.SetColorProfile(termenv.ANSI)
	}
	fg := func(c string) lipgloss.Style { return r.NewStyle().Foreground(lipgloss.Color(c)) }
	return ink{
		on:   t.Color,
		bold: r.NewStyle().Bold(true), dim: r.NewStyle().Faint(true),
		green: fg("2"), yellow: fg("3"), cyan: fg("6"), red: fg("1"), magenta: fg("5"),
	}
}

// paint renders s in style st. lipgloss pads and expands tabs; a line without them is all it gets here.
func (k ink) paint(st lipgloss.Style, s string) string {
	if !k.on || s == "" {
		return s
	}
	return st.Render(s)
}

// pad fills s with spaces up to n columns.
func pad(s string, n int) string {
	if w := lipgloss.Width(s); w < n {
		return s + strings.Repeat(" ", n-w)
	}
	return s
}

// padLeft fills s with spaces on its left.
func padLeft(s string, n int) string {
	if w := lipgloss.Width(s); w < n {
		return strings.Repeat(" ", n-w) + s
	}
	return s
}

// wrap breaks s at spaces into lines of at most n columns; a longer word stands alone. n < 1: one line.
func wrap(s string, n int) []string {
	if n < 1 || lipgloss.Width(s) <= n {
		return []string{s}
	}
	var lines []string
	line, w := "", 0
	for _, word := range strings.Split(s, " ") {
		ww := lipgloss.Width(word)
		if line != "" && w+1+ww > n {
			lines = append(lines, line)
			line, w = "", 0
		}
		if line != "" {
			line, w = line+" ", w+1
		}
		line, w = line+word, w+ww
	}
	return append(lines, line)
}

// clip cuts s to n columns, the last being an ellipsis. n < 1: as it is.
func clip(s string, n int) string {
	if n < 1 || lipgloss.Width(s) <= n {
		return s
	}
	w := 0
	for i, r := range s {
		rw := lipgloss.Width(string(r))
		if w+rw > n-1 {
			return s[:i] + "…"
		}
		w += rw
	}
	return s
}

// plural is "1 server", "2 servers".
func plural(n int, one string) string {
	s := itoa(n) + " " + one
	if n != 1 {
		s += "s"
	}
	return s
}

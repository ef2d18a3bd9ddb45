package schema

import (
	"bytes"
	"sort"
)

// Bounds on what one file may hold, so that a stranger's file costs little.
const (
	maxFileSize = 8 << 20 // bytes
	maxTables   = 50_000  // table headers
	maxNesting  = 64      // arrays and inline tables within each other, and parts of a dotted key
)

// A source is one file's text, made ready for the TOML parsers, and the way back to the file as written.
type source struct {
	path  string
	text  []byte // as the parsers read it
	lines []int  // offset in the file as written at which each line begins
	size  int    // of the file as written

	// shifts says where text is longer than the file: each entry is an offset in text at which one more
	// byte was put in. Nil in nearly every file.
	shifts []int

	unclosed int // where a string begins that never ends; -1 for none

	last int // line of the last position asked for; positions are mostly asked for in order
}

// newSource applies the triple-quote rule: inside a real """ string a backslash stands for itself. Such a
// string becomes a ”' string of the same length; only where its content holds ”' are its backslashes
// doubled instead, and the offsets remembered. The Diagnostic is set when the file is nested too deep.
func newSource(path string, data []byte) (*source, *Diagnostic) {
	s := &source{path: path, text: data, size: len(data), unclosed: -1}
	s.lines = append(make([]int, 0, 1+bytes.Count(data, []byte{'\n'})), 0)
	for i := 0; ; {
		j := bytes.IndexByte(data[i:], '\n')
		if j < 0 {
			break
		}
		i += j + 1
		s.lines = append(s.lines, i)
	}
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		s.text = append([]byte("   "), data[3:]...)
	}
	type span struct{ from, to int }
	var raw []span // contents of """ strings with a backslash
	depth, dots, tables := 0, 0, 0
	text := s.text
	for i := 0; i < len(text); {
		switch text[i] {
		case '#':
			j := bytes.IndexByte(text[i:], '\n')
			if j < 0 {
				i = len(text)
				continue
			}
			i += j
		case '"':
			if bytes.HasPrefix(text[i:], []byte(`"""`)) {
				from := i + 3
				j := bytes.Index(text[from:], []byte(`"""`))
				if j < 0 {
					s.unclosed = i
					i = len(text)
					continue
				}
				to := from + j
				if bytes.IndexByte(text[from:to], '\\') >= 0 {
					raw = append(raw, span{from, to})
				}
				i = to + 3
				for n := 0; n < 2 && i < len(text) && text[i] == '"'; n++ { // one or two quotes before the closing ones
					i++
				}
				continue
			}
			i++
			for i < len(text) && text[i] != '"' && text[i] != '\n' {
				if text[i] == '\\' {
					i++
				}
				i++
			}
			i++
		case '\'':
			if bytes.HasPrefix(text[i:], []byte("'''")) {
				j := bytes.Index(text[i+3:], []byte("'''"))
				if j < 0 {
					s.unclosed = i
					i = len(text)
					continue
				}
				i += j + 6
				for n := 0; n < 2 && i < len(text) && text[i] == '\''; n++ {
					i++
				}
				continue
			}
			i++
			for i < len(text) && text[i] != '\'' && text[i] != '\n' {
				i++
			}
			i++
		case '[', '{':
			if i == 0 || text[i-1] == '\n' {
				if tables++; tables > maxTables {
					return s, &Diagnostic{Severity: SeverityError, Pos: s.pos(i), Length: 1,
						Message: "the file has more than 50000 tables", Hint: "split it; it was not read"}
				}
			}
			depth++
			dots = 0
			if depth > maxNesting {
				return s, &Diagnostic{Severity: SeverityError, Pos: s.pos(i), Length: 1,
					Message: "values are nested more than 64 deep", Hint: "no resource needs that; the file was not read"}
			}
			i++
		case ']', '}':
			if depth > 0 {
				depth--
			}
			i++
		case '.':
			dots++
			if dots >= maxNesting {
				return s, &Diagnostic{Severity: SeverityError, Pos: s.pos(i), Length: 1,
					Message: "a key has more than 64 parts", Hint: "no resource needs that; the file was not read"}
			}
			i++
		case '\n', '=', ',':
			dots = 0
			i++
		default:
			i++
		}
	}
	if len(raw) == 0 {
		return s, nil
	}
	out := make([]byte, 0, len(text)+16)
	at := 0
	for _, r := range raw {
		content := text[r.from:r.to]
		end := r.to
		for n := 0; n < 2 && end+3 < len(text) && text[end+3] == '"'; n++ {
			end++ // the closing quotes are the last three of a run of up to five
		}
		if !bytes.Contains(content, []byte("'''")) && !bytes.HasSuffix(content, []byte("'")) {
			out = append(out, text[at:r.from-3]...)
			out = append(out, "'''"...)
			out = append(out, text[r.from:end]...)
			out = append(out, "'''"...)
			at = end + 3
			continue
		}
		out = append(out, text[at:r.from]...)
		for _, c := range content {
			out = append(out, c)
			if c == '\\' {
				s.shifts = append(s.shifts, len(out))
				out = append(out, '\\')
			}
		}
		at = r.to
	}
	s.text = append(out, text[at:]...)
	return s, nil
}

// written is the offset in the file as written of an offset in text.
func (s *source) written(off int) int {
	if s.shifts == nil {
		return off
	}
	return off - sort.SearchInts(s.shifts, off)
}

// pos is the place of an offset in text.
func (s *source) pos(off int) Pos {
	off = min(max(s.written(off), 0), s.size)
	i := s.last
	if s.lines[i] > off || i+8 < len(s.lines) && s.lines[i+8] <= off {
		i = sort.SearchInts(s.lines, off+1) - 1
	} else {
		for i+1 < len(s.lines) && s.lines[i+1] <= off {
			i++
		}
	}
	s.last = i
	return Pos{File: s.path, Line: i + 1, Column: off - s.lines[i] + 1}
}

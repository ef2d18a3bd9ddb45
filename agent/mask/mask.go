package mask

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"
)

// minLength is the shortest text that is masked: to mask "1" or "no" would make output unreadable and say more
// than it hides.
const minLength = 4

// A Mask replaces secrets' values. The zero value and nil mask nothing. It may be used side by side.
type Mask struct {
	forms   []form // the longest first
	longest int
}

type form struct {
	text, name string
	wraps      bool // programs break it into lines: base64 does at 76 letters, xxd at 60
}

// New prepares to mask these values, by name.
func New(secrets map[string]string) *Mask {
	m := &Mask{}
	seen := map[string]bool{}
	names := make([]string, 0, len(secrets))
	for n := range secrets {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, name := range names {
		plain, wraps := forms(secrets[name])
		for i, text := range append(plain, wraps...) {
			if len(text) >= minLength && !seen[text] {
				seen[text] = true
				m.forms = append(m.forms, form{text, "<" + name + ">", i >= len(plain)})
				m.longest = max(m.longest, len(text))
			}
		}
	}
	// The longest first: a whole value before one of its lines.
	slices.SortStableFunc(m.forms, func(a, b form) int { return cmp.Compare(len(b.text), len(a.text)) })
	return m
}

// forms lists how value may be printed: as it is or in some way escaped, and in encodings that are broken into lines.
func forms(value string) (plain, wraps []string) {
	parts := []string{value, strings.TrimSpace(value)}
	if strings.ContainsAny(value, "\r\n") {
		for line := range strings.Lines(value) {
			parts = append(parts, strings.TrimSpace(line))
		}
	}
	for _, p := range parts {
		if len(p) < minLength {
			continue
		}
		plain = append(plain, p, url.QueryEscape(p), url.PathEscape(p), strings.ToLower(url.QueryEscape(p)), percentAll(p, "%02X"), percentAll(p, "%02x"),
			strings.ReplaceAll(p, "'", `'\''`), strings.ReplaceAll(p, "'", `'"'"'`), shellBackslash(p),
			strings.ReplaceAll(p, "\n", `\n`), strings.ReplaceAll(p, "$", "$$"))
		for _, escapeHTML := range []bool{true, false} {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(escapeHTML)
			if enc.Encode(p) == nil {
				s := strings.TrimSuffix(b.String(), "\n")
				plain = append(plain, s[1:len(s)-1])
			}
		}
		wraps = append(wraps, hex.EncodeToString([]byte(p)), strings.ToUpper(hex.EncodeToString([]byte(p))))
		wraps = append(wraps, base64Forms(p)...)
	}
	return plain, wraps
}

func percentAll(p, format string) string {
	digits := "0123456789ABCDEF"
	if format == "%02x" {
		digits = "0123456789abcdef"
	}
	var b strings.Builder
	for i := range len(p) {
		b.WriteByte('%')
		b.WriteByte(digits[p[i]>>4])
		b.WriteByte(digits[p[i]&15])
	}
	return b.String()
}

// shellBackslash escapes as printf %q does.
func shellBackslash(p string) string {
	var b strings.Builder
	for i := range len(p) {
		if strings.IndexByte(" \t!\"#$&'()*,;<>?[\\]^`{|}~", p[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(p[i])
	}
	return b.String()
}

// base64Forms gives the characters that p alone decides when it stands anywhere in a text that is encoded: for
// each of the three alignments, both alphabets.
func base64Forms(p string) []string {
	var out []string
	for shift := range 3 {
		padded := append(make([]byte, shift), p...)
		bits := len(padded) * 8
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			s := enc.EncodeToString(padded)
			from := (shift*8 + 5) / 6 // the first character no padding bit is in
			to := bits / 6            // the last whole one
			if to-from >= minLength {
				out = append(out, s[from:to])
			}
			if shift == 0 {
				out = append(out, s)
			}
		}
	}
	return out
}

// String masks a text.
func (m *Mask) String(text string) string {
	if m == nil {
		return text
	}
	text = m.wrapped(text)
	for _, f := range m.forms {
		if strings.Contains(text, f.text) {
			text = strings.ReplaceAll(text, f.text, f.name)
		}
	}
	return text
}

// wrapped masks what is broken into lines.
func (m *Mask) wrapped(text string) string {
	if !strings.Contains(text, "\n") {
		return text
	}
	flat, at := flatten(text)
	type span struct {
		from, to int
		name     string
	}
	var spans []span
	for _, f := range m.forms {
		if !f.wraps {
			continue
		}
		for from := 0; ; {
			i := bytes.Index(flat[from:], []byte(f.text))
			if i < 0 {
				break
			}
			i += from
			from = i + len(f.text)
			if s := (span{at[i], at[from-1] + 1, f.name}); s.to-s.from > len(f.text) { // else it stands in one line
				spans = append(spans, s)
				clear(flat[i:from]) // no shorter form matches within
			}
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var b strings.Builder
	done := 0
	for _, s := range spans {
		b.WriteString(text[done:s.from] + s.name)
		done = s.to
	}
	return b.String() + text[done:]
}

// flatten is text without its line breaks, and where in text each byte stands.
func flatten(text string) (flat []byte, at []int) {
	flat, at = make([]byte, 0, len(text)), make([]int, 0, len(text))
	for i := range len(text) {
		if c := text[i]; c != '\n' && c != '\r' {
			flat, at = append(flat, c), append(at, i)
		}
	}
	return flat, at
}

// Writer masks what is written through it to w, also across the borders of writes. Close passes on the rest.
func (m *Mask) Writer(w io.Writer) io.WriteCloser { return &writer{m: m, w: w} }

type writer struct {
	m    *Mask
	w    io.Writer
	rest []byte // could be the beginning of a value
}

func (w *writer) Write(p []byte) (int, error) {
	if w.m == nil || w.m.longest == 0 {
		return w.w.Write(p)
	}
	text := w.m.String(string(w.rest) + string(p))
	keep := w.m.open(text)
	if _, err := io.WriteString(w.w, text[:len(text)-keep]); err != nil {
		return 0, err
	}
	w.rest = []byte(text[len(text)-keep:])
	return len(p), nil
}

// open is how many bytes at the end of text may be the beginning of a value.
func (m *Mask) open(text string) int {
	keep := 0
	for i := max(0, len(text)-m.longest+1); i < len(text) && keep == 0; i++ {
		for _, f := range m.forms {
			if strings.HasPrefix(f.text, text[i:]) {
				keep = len(text) - i
				break
			}
		}
	}
	from := max(0, len(text)-2*m.longest) // a line break in every second letter would be no encoding's
	letters, at := flatten(text[from:])
	flat := string(letters)
	for i := max(0, len(flat)-m.longest+1); i < len(flat); i++ {
		for _, f := range m.forms {
			if f.wraps && strings.HasPrefix(f.text, flat[i:]) {
				return max(keep, len(text)-from-at[i])
			}
		}
	}
	return keep
}

func (w *writer) Close() error {
	_, err := w.w.Write(w.rest)
	w.rest = nil
	return err
}

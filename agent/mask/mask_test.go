package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

const secret = "p4ss w'ord\"/+&<$>é"

func encodings(s string) map[string]string {
	j, _ := json.Marshal(s)
	return map[string]string{
		"raw": s, "base64": base64.StdEncoding.EncodeToString([]byte(s)),
		"base64 after one":  base64.StdEncoding.EncodeToString([]byte("u" + s)),
		"base64 of pair":    base64.URLEncoding.EncodeToString([]byte("us:" + s + ":more")),
		"base64 raw url":    base64.RawURLEncoding.EncodeToString([]byte("user:" + s)),
		"percent":           url.QueryEscape(s),
		"percent path":      url.PathEscape(s),
		"json":              string(j),
		"hex":               hex.EncodeToString([]byte(s)),
		"shell":             "'" + strings.ReplaceAll(s, "'", `'\''`) + "'",
		"inside other text": "x" + s + "y",
	}
}

func TestEveryForm(t *testing.T) {
	m := New(map[string]string{"PW": secret, "KEY": "line-one\nline-two\n"})
	for name, text := range encodings(secret) {
		got := m.String(text)
		if got == text || !strings.Contains(got, "<PW>") {
			t.Errorf("%s: %q stays %q", name, text, got)
		}
	}
	for _, text := range []string{"line-one", "line-two", `line-one\nline-two`, "line-one\nline-two\n"} {
		if got := m.String(text); strings.Contains(got, "line-") {
			t.Errorf("%q stays %q", text, got)
		}
	}
	if got := m.String("nothing here"); got != "nothing here" {
		t.Error(got)
	}
}

// TestWrapped: base64 and xxd break long values into lines, at a place that depends on what stands before.
func TestWrapped(t *testing.T) {
	long := strings.Repeat("0123456789-long-Value/", 9)
	m := New(map[string]string{"PW": long, "KEY": "BEGIN\n" + strings.Repeat("abcdefghij", 12) + "\nEND\n"})
	for before := 0; before < 80; before += 7 {
		for _, width := range []int{60, 64, 76} {
			for _, end := range []string{"\n", "\r\n"} {
				for _, value := range []string{long, strings.Repeat("abcdefghij", 12)} {
					pad := strings.Repeat("x", before)
					for name, text := range map[string]string{
						"base64": base64.StdEncoding.EncodeToString([]byte(pad + value + "\n")),
						"hex":    hex.EncodeToString([]byte(pad + value)),
					} {
						var b strings.Builder
						for len(text) > width {
							b.WriteString(text[:width] + end)
							text = text[width:]
						}
						b.WriteString(text + "\n")
						got := m.String("before\n" + b.String() + "after\n")
						for line := range strings.Lines(b.String()) {
							line = strings.TrimSpace(line)
							if len(line) >= 8 && strings.Contains(got, line) && !strings.HasPrefix(b.String(), line) {
								t.Fatalf("%s after %d, width %d: %q stays in %q", name, before, width, line, got)
							}
						}
						var streamed bytes.Buffer
						w := m.Writer(&streamed)
						for in := "before\n" + b.String() + "after\n"; len(in) > 0; {
							n := min(len(in), 7)
							if _, err := w.Write([]byte(in[:n])); err != nil {
								t.Fatal(err)
							}
							in = in[n:]
						}
						_ = w.Close()
						if streamed.String() != got {
							t.Fatalf("%s after %d: streamed %q, whole %q", name, before, streamed.String(), got)
						}
					}
				}
			}
		}
	}
}

func TestAcrossWrites(t *testing.T) {
	m := New(map[string]string{"PW": secret})
	for name, text := range encodings(secret) {
		text = "before " + text + " after"
		for size := 1; size < 9; size++ {
			var b bytes.Buffer
			w := m.Writer(&b)
			for i := 0; i < len(text); i += size {
				if _, err := w.Write([]byte(text[i:min(len(text), i+size)])); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(b.String(), "<PW>") || !strings.HasPrefix(b.String(), "before ") || !strings.HasSuffix(b.String(), " after") {
				t.Errorf("%s in pieces of %d: %q", name, size, b.String())
			}
		}
	}
}

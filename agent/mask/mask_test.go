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

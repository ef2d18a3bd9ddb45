package schema

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var wantComment = regexp.MustCompile(`# (ERROR|WARNING): (.*?)(?: HINT: (.*?))?$`)

// Each file of testdata/errors, or folder of files, gets the errors and warnings that comments on the guilty
// lines name, and no others. A name that begins with compat_ is read under compat.
func TestErrorFiles(t *testing.T) {
	cases, err := os.ReadDir("testdata/errors")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name(), func(t *testing.T) {
			paths := []string{filepath.Join("testdata/errors", c.Name())}
			if c.IsDir() {
				paths, err = filepath.Glob(filepath.Join(paths[0], "*.toml"))
				if err != nil {
					t.Fatal(err)
				}
			}
			var files []File
			type expect struct {
				file           string
				line           int
				severity, text string
				hint           string
				met            bool
			}
			var want []*expect
			for _, p := range paths {
				data, err := os.ReadFile(p)
				if err != nil {
					t.Fatal(err)
				}
				name := filepath.Base(p)
				files = append(files, File{Path: name, Data: data})
				for i, line := range strings.Split(string(data), "\n") {
					if m := wantComment.FindStringSubmatch(line); m != nil {
						want = append(want, &expect{file: name, line: i + 1, severity: strings.ToLower(m[1]), text: m[2], hint: m[3]})
					}
				}
			}
			slices.Reverse(files) // the order of files does not matter
			opts := Options{}
			if strings.HasPrefix(c.Name(), "compat_") {
				opts.Compat = CompatKomodo
			}
			_, diags := Parse(files, opts)
			for _, d := range diags {
				found := false
				for _, w := range want {
					if !w.met && w.file == d.File && w.line == d.Line && w.severity == string(d.Severity) &&
						strings.Contains(d.Message, w.text) && strings.Contains(d.Hint, w.hint) {
						w.met, found = true, true
						break
					}
				}
				if !found {
					t.Errorf("not expected: %s:%d:%d: %s: %s\n\t%s", d.File, d.Line, d.Column, d.Severity, d.Message, d.Hint)
				}
				checkPlace(t, d, files)
			}
			for _, w := range want {
				if !w.met {
					t.Errorf("missing: %s:%d: %s: %s\n\t%s", w.file, w.line, w.severity, w.text, w.hint)
				}
			}
		})
	}
}

// checkPlace sees to it that a diagnostic's place lies inside its file, and its length on its line.
func checkPlace(t testing.TB, d Diagnostic, files []File) {
	t.Helper()
	for _, f := range files {
		if f.Path == d.File {
			checkPos(t, d.Pos, f)
			lines := strings.Split(string(f.Data), "\n")
			if line := lines[d.Line-1]; d.Length < 0 || d.Column-1+d.Length > len(line) {
				t.Errorf("%s:%d:%d: a length of %d goes beyond the line %q: %s", d.File, d.Line, d.Column, d.Length, line, d.Message)
			}
			return
		}
	}
	t.Errorf("no file %q: %s", d.File, d.Message)
}

func checkPos(t testing.TB, p Pos, f File) {
	t.Helper()
	lines := strings.Split(string(f.Data), "\n")
	if p.File != f.Path || p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > len(lines[p.Line-1])+1 {
		t.Errorf("place %+v lies outside of %s", p, f.Path)
	}
}

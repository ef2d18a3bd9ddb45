package schema

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParse: whatever a file holds, Parse returns, and each place it names lies inside the file.
func FuzzParse(f *testing.F) {
	names, err := filepath.Glob("testdata/errors/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, false)
	}
	for _, e := range examples {
		f.Add([]byte(e), true)
	}
	for _, s := range []string{
		"", "\xef\xbb\xbf[[stack]]\r\nname = 'a'\r\nconfig.environment = \"\"\"\r\nA=b\r\n\"\"\"\r\n",
		"[[stack]]\nname = 'a'\nconfig.file_contents = \"\"\"a\\b'''c\\\"\"\"\"\"\nconfig.repos = 1",
		"[[stack]]\nname = \"\"\"a\\\n b\"\"\"\n", "a = {\n b = 1, # c\n}\n[[stack]]\n", "[[stack.config.pre_deploy]]\ncommand='x'",
		"[stack]\nconfig.x=1", "[[deployment]]\nname=\"\\u0041\"\nafter=['a',\n'b',#x\n]\nconfig.ports='''- 1:2'''",
		strings.Repeat("[", 100), "a" + strings.Repeat(".a", 100) + "=1", "[[stack]]\nname='x'\n[stack.config]\nenvironment=[{variable='a',value=1},'b=c']",
	} {
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, compat bool) {
		file := File{Path: "f.toml", Data: data}
		opts := Options{}
		if compat {
			opts.Compat = CompatKomodo
		}
		c, diags := Parse([]File{file}, opts)
		for _, d := range diags {
			checkPlace(t, d, []File{file})
		}
		for _, r := range c.Resources {
			checkPos(t, r.Pos, file)
			for _, k := range r.keys {
				checkPos(t, r.At(k.key), file)
			}
			for _, a := range r.After {
				checkPos(t, a.Pos, file)
			}
			mapTexts(r, func(_, text string, pos Pos) string {
				checkPos(t, pos, file)
				return text
			})
		}
	})
}

func FuzzKeyValue(f *testing.F) {
	for _, s := range []string{"A=b", "- KEY: 'v' # x", "- \"KEY=v\"", "8080:80\n\n// no\n# no\n0.0.0.0:1:2/udp", "=", ":", "--", "a\r\nb=c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		kvs, _ := ParseKeyValue(s)
		lines := strings.Split(s, "\n")
		for _, kv := range kvs {
			if kv.Pos.Line < 1 || kv.Pos.Line > len(lines) || kv.Pos.Column < 1 || kv.Pos.Column > len(lines[kv.Pos.Line-1])+1 {
				t.Errorf("%q: place %+v lies outside", s, kv.Pos)
			}
			if strings.ContainsAny(kv.Key, "\n") || strings.ContainsAny(kv.Value, "\n") {
				t.Errorf("%q: an entry spans lines: %+v", s, kv)
			}
		}
		for _, x := range ParseStringList(s) {
			if x == "" || strings.ContainsAny(x, ",\n") {
				t.Errorf("%q: %q is no entry of a list", s, x)
			}
		}
	})
}

func FuzzInterpolate(f *testing.F) {
	for _, s := range []string{"", "[[A]]", "[[[A]]]", "[[[[", "[[A", "x[[A]]y[[B]]z", "[[ -f x ]]", "[[[A]]", "[[A]]]]", "[[]]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		none := func(string) (string, bool) { return "", false }
		out, missing, err := Interpolate(s, none)
		if err == nil && !strings.Contains(s, "[[[") && out != s {
			t.Errorf("%q without values became %q", s, out)
		}
		for _, m := range missing {
			if !strings.Contains(s, "[["+m+"]]") {
				t.Errorf("%q: %q is missing, and not there", s, m)
			}
		}
		// Doing it in two steps, secrets last, comes to the same as at once.
		vars := func(n string) (string, bool) { return "v", n == "A" }
		all := func(n string) (string, bool) { return "v", n == "A" || n == "B" }
		once, _, err1 := Interpolate(s, all)
		step, _, err2 := interpolate(s, true, vars)
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("%q: %v at once, %v in steps", s, err1, err2)
		}
		if err1 == nil {
			twice, _, err := Interpolate(step, all)
			if err != nil || twice != once {
				if !strings.Contains(step, "[v") && !strings.Contains(step, "v]") { // a value beside brackets reads differently
					t.Errorf("%q: %q at once, %q in steps (%v)", s, once, twice, err)
				}
			}
		}
	})
}

func FuzzPattern(f *testing.F) {
	for _, s := range []string{"a*", "*", "?", `\^a.*$\`, `\`, `\\`, `a\*b`, "é*", "[a", `\(\`, "a,b\nc # d"} {
		f.Add(s, "abc")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		ps, err := CompilePatterns(pattern)
		if err != nil {
			return
		}
		ps.Match(name)
		if p, err := CompilePattern(name); err == nil && !strings.ContainsAny(name, `*?\`) && !p.Match(name) {
			t.Errorf("%q does not match itself", name)
		}
	})
}

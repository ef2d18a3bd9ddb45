package schema

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestKeyValueLines(t *testing.T) {
	for _, tt := range []struct{ line, key, value string }{
		{"KEY = value # note", "KEY", "value"},
		{`KEY="a b"`, "KEY", `"a b"`},
		{"- KEY: 'v'", "KEY", "'v'"},
		{`- "KEY=v"`, "KEY", "v"},
		{"8080:80", "8080", "80"},
		{"0.0.0.0:8080:80/udp", "0.0.0.0", "8080:80/udp"},
		{"/a:/b:ro", "/a", "/b:ro"},
		{"URL: http://h/x", "URL", "http://h/x"},
		{"A=", "A", ""},
		{"A=b#c", "A", "b#c"},
		{"A=b=c", "A", "b=c"},
		{"A=b:c", "A", "b:c"},
		{"--- A=b", "A", "b"},
	} {
		kvs, err := ParseKeyValue(tt.line)
		if err != nil || len(kvs) != 1 || kvs[0].Key != tt.key || kvs[0].Value != tt.value {
			t.Errorf("%q = %+v, %v; want %q, %q", tt.line, kvs, err, tt.key, tt.value)
		}
	}
	for _, text := range []string{"", "\n\n", "# a=b", "// a=b", "  # x\n"} {
		if kvs, err := ParseKeyValue(text); err != nil || len(kvs) != 0 {
			t.Errorf("%q = %+v, %v; want nothing", text, kvs, err)
		}
	}
	if _, err := ParseKeyValue("A=b\nnothing"); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a line without separator: %v", err)
	}
}

func TestStringLists(t *testing.T) {
	got := ParseStringList("a, b\n# no\n c # and no\n,\nd,,e")
	if diff := cmp.Diff([]string{"a", "b", "c", "d", "e"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestShell(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"# nothing\n\n", ""},
		{"a\nb # c\n\nd", "a && b && d"},
		{"docker run \\\n  --rm \\\n  x\ny", "docker run --rm x && y"},
		{`find . -exec rm {} \;`, `find . -exec rm {} \;`},
		{"a \\", "a"},
	} {
		if got := (Command{Command: tt.text}).Shell(); got != tt.want {
			t.Errorf("%q = %q, want %q", tt.text, got, tt.want)
		}
	}
	if got := (Command{Command: "a\nb\n", ShellMode: true}).Shell(); got != "a\nb\n" {
		t.Errorf("shell_mode: %q", got)
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]Version{"1": {1, 0, 0}, "1.2": {1, 2, 0}, "1.2.3": {1, 2, 3}, "1.2.3.4": {1, 2, 3}, "0.0.0": {}} {
		if got, err := ParseVersion(text); err != nil || got != want {
			t.Errorf("%q = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a", "1.x", "v1", "-1", "1..2"} {
		if got, err := ParseVersion(text); err == nil {
			t.Errorf("%q = %v, want an error", text, got)
		}
	}
}

func TestNormalNames(t *testing.T) {
	for _, tt := range []struct {
		kind       Kind
		name, want string
	}{
		{KindStack, "My Stack", "my_stack"}, {KindStack, "_-a.b", "a_b"}, {KindStack, "...", ""}, {KindStack, "größe", "gr__e"},
		{KindDeployment, "My.App v2", "My.App_v2"}, {KindDeployment, "-x", "x"}, {KindBuild, "API", "api"},
		{KindRepo, " a b\nc ", "a_b_c"}, {KindServer, " web 1 ", "web 1"}, {KindProcedure, "a\nb", "a_b"},
	} {
		if got := NormalName(tt.kind, tt.name); got != tt.want {
			t.Errorf("%s %q = %q, want %q", tt.kind, tt.name, got, tt.want)
		}
	}
}

func TestWeekdays(t *testing.T) {
	for s, want := range map[string]time.Weekday{"monday": 1, "Mon": 1, "TUE": 2, "tues": 2, "Wednesday": 3, "Thu": 4, "Thurs": 4, "thur.": 4, "Fri": 5, "sat": 6, "Sunday": 0} {
		if got, ok := Weekday(s); !ok || got != int(want) {
			t.Errorf("%q = %d, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "m", "mo", "mondays", "day", "montag"} {
		if got, ok := Weekday(s); ok {
			t.Errorf("%q = %d, want none", s, got)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"foo-*", "foo-bar", true}, {"foo-*", "a-foo-bar", false}, {"a?c", "abc", true}, {"a?c", "abbc", false}, {"a?c", "aéc", true},
		{`\^web-[0-9]+$\`, "web-12", true}, {`\eb\`, "web", true}, {`\eb\`, "wEb", false}, {`a\*`, "a*", true}, {`a\*`, "ab", false},
		{"a.c", "abc", false}, {"a, b\nc # d", "c", true}, {"a, b", "ab", false}, {"*", "", true}, {"A", "a", false},
	} {
		ps, err := CompilePatterns(tt.pattern)
		if err != nil {
			t.Errorf("%q: %v", tt.pattern, err)
		} else if got := ps.Match(tt.name); got != tt.want {
			t.Errorf("%q matches %q: %v, want %v", tt.pattern, tt.name, got, tt.want)
		}
	}
	for _, s := range []string{`\`, `\\`, `\(\`} {
		if _, err := CompilePattern(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

func TestInterpolate(t *testing.T) {
	values := map[string]string{"A": "1", "B": "[[A]]", "odd name": "x"}
	lookup := func(n string) (string, bool) { v, ok := values[n]; return v, ok }
	for _, tt := range []struct {
		text, want string
		missing    []string
	}{
		{"a [[A]] b", "a 1 b", nil}, {"[[B]]", "[[A]]", nil}, {"[[[A]]]", "[[A]]", nil}, {"[[C]][[C]] [[D]]", "[[C]][[C]] [[D]]", []string{"C", "D"}},
		{"if [[ -f x ]]; then", "if [[ -f x ]]; then", nil}, {"[[odd name]]", "x", nil}, {"[[:space:]]", "[[:space:]]", nil}, {"[a] [b]", "[a] [b]", nil},
		{"[[A]][[A]]", "11", nil},
	} {
		got, missing, err := Interpolate(tt.text, lookup)
		if err != nil || got != tt.want || cmp.Diff(tt.missing, missing) != "" {
			t.Errorf("%q = %q, %v, %v; want %q, %v", tt.text, got, missing, err, tt.want, tt.missing)
		}
	}
	for _, text := range []string{"[[A", "[[[[A]]]]", "[[[A]]"} {
		if got, _, err := Interpolate(text, lookup); err == nil {
			t.Errorf("%q = %q, want an error", text, got)
		}
	}
}

func TestResolveVariables(t *testing.T) {
	c, diags := parseText(t, CompatNone, `[[stack]]
name = "a"
[stack.config]
file_contents = "image: x:[[TAG]] [[[KEEP]]]"
environment = """
HOST = [[HOST]]
PASS = [[SECRET]]
URL = [[URL]]
GONE = [[GONE]]
"""
[[stack]]
name = "b"
config.file_contents = "[[TAG]]"
config.skip_secret_interp = true
[[variable]]
name = "TAG"
value = "v1"
[[variable]]
name = "HOST"
value = "db"
[[variable]]
name = "URL"
value = "x:[[PASSWORD]]:[[TAG]]"
[[variable]]
name = "SECRET"
value = "hidden"
is_secret = true
`)
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	known := func(n string) (bool, bool) { return true, n == "PASSWORD" }
	before := c.Get("stack/a")
	r, missing := ResolveVariables(before, c.Variables, known)
	var env []string
	for _, kv := range r.Stack().Environment {
		env = append(env, kv.Key+"="+kv.Value)
	}
	want := []string{"HOST=db", "PASS=[[SECRET]]", "URL=x:[[PASSWORD]]:[[TAG]]", "GONE=[[GONE]]"}
	if diff := cmp.Diff(want, env); diff != "" {
		t.Error(diff)
	}
	if got, want := r.Stack().FileContents, "image: x:v1 [[[KEEP]]]\n"; got != want {
		t.Errorf("file_contents = %q, want %q", got, want)
	}
	wantMissing := []MissingName{{"GONE", Pos{"a.toml", 9, 1}}}
	// TAG inside URL is a variable inside a variable, which is not resolved.
	wantMissing = append([]MissingName{{"TAG", c.Variables["URL"].Pos}}, wantMissing...)
	if diff := cmp.Diff(wantMissing, missing); diff != "" {
		t.Error(diff)
	}
	if before.Stack().Environment[0].Value != "[[HOST]]" {
		t.Error("the Config was written to")
	}
	if r, missing := ResolveVariables(c.Get("stack/b"), c.Variables, known); r.Stack().FileContents != "[[TAG]]\n" || missing != nil {
		t.Errorf("skip_secret_interp: %q, %v", r.Stack().FileContents, missing)
	}
}

// Inside """ a backslash stands for itself; elsewhere TOML holds; places are those of the file as written.
func TestTripleQuotes(t *testing.T) {
	text := "# a comment with \"\"\" in it\n" +
		"[[stack]]\nname = 'a'\ndescription = 'a literal \"\"\" \\'\n[stack.config]\n" +
		"links = [\"one\\ttwo\"]\n" +
		"file_contents = \"\"\"\nx: a\\nb \"\\d\" \\\n  y\"\"\"\"\n" +
		"environment = \"\"\"\nA = ''' \\' '''\n  B = \\\\x\n\"\"\"\n" +
		"nonsense = 1\n"
	c, diags := parseText(t, CompatNone, text)
	if len(diags) != 1 || diags[0].Line != 14 || diags[0].Column != 1 {
		t.Errorf("diagnostics: %+v", diags)
	}
	s := c.Get("stack/a").Stack()
	if got, want := s.FileContents, "x: a\\nb \"\\d\" \\\n  y\"\n"; got != want {
		t.Errorf("file_contents = %q, want %q", got, want)
	}
	if diff := cmp.Diff([]KV{{"A", `''' \' '''`, Pos{"a.toml", 11, 1}}, {"B", `\\x`, Pos{"a.toml", 12, 3}}}, s.Environment); diff != "" {
		t.Error(diff)
	}
	if got, want := s.Links[0], "one\ttwo"; got != want {
		t.Errorf("links = %q", got)
	}
	if got := c.Get("stack/a").Description; got != `a literal """ \` {
		t.Errorf("description = %q", got)
	}
}

func TestTOML11(t *testing.T) {
	c, diags := parseText(t, CompatNone, `[[deployment]]
name = "a"
config.image = {
  type = "Image", # what it is
  params = {
    image = "x:\e",
  },
}
`)
	if len(diags) != 1 || diags[0].Line != 6 || !strings.Contains(diags[0].Message, "is not an image") {
		t.Errorf("diagnostics: %+v", diags)
	}
	if got := c.Get("deployment/a").At("config.image.params.image"); got != (Pos{"a.toml", 6, 13}) {
		t.Errorf("image stands at %+v", got)
	}
}

func TestWanted(t *testing.T) {
	for path, want := range map[string]bool{
		"a.toml": true, "x/y/a.toml": true, "./a.toml": true, "a.yaml": false, "varan.toml": false, "x/varan.toml": false,
		".git/a.toml": false, "x/.hidden/a.toml": false, ".a.toml": false, "{{name}}/a.toml": false, "x/{{ n }}.toml": false, "a.toml.bak": false,
	} {
		if got := Wanted(path); got != want {
			t.Errorf("Wanted(%q) = %v", path, got)
		}
	}
}

func TestSkippedFiles(t *testing.T) {
	for name, text := range map[string]string{
		"cargo":    "[package]\nname = 'x'\n[build]\ntarget = 'y'\n[dependencies]\n",
		"traefik":  "[entryPoints]\n[providers.docker]\n",
		"server":   "[server]\nport = 80\n",
		"empty":    "# nothing\n",
		"services": "[[services]]\nx = 1\n",
	} {
		c, diags := parseText(t, CompatNone, text)
		if len(diags) > 0 || len(c.Skipped) != 1 {
			t.Errorf("%s: %v, skipped %v", name, diags, c.Skipped)
		}
	}
}

func TestHostileFiles(t *testing.T) {
	big := make([]byte, 100<<20)
	for i := range big {
		big[i] = '#'
	}
	var tables strings.Builder
	for range 100_000 {
		tables.WriteString("[[stack]]\nnope = 1\n")
	}
	for name, text := range map[string]string{
		"100 MB":        string(big),
		"nested arrays": "a = " + strings.Repeat("[", 1<<20),
		"nested tables": "[" + strings.Repeat("a.", 10_000) + "a]\n",
		"dotted key":    strings.Repeat("a.", 1<<20) + "a = 1\n",
		"nested inline": strings.Repeat("a={", 1<<20),
		"many problems": tables.String(),
		"nul":           "[[stack]]\nname = \"\x00\"\n",
		"utf-16":        "\xff\xfe[\x00",
		"cut string":    "[[stack]]\nname = \"\"\"abc",
	} {
		t.Run(name, func(t *testing.T) {
			start := cpuTime(t)
			_, diags := parseText(t, CompatNone, text)
			if !diags.HasErrors() || len(diags) > maxFileDiagnostics+1 {
				t.Errorf("%d diagnostics", len(diags))
			}
			if used := cpuTime(t) - start; used > 2*time.Second {
				t.Errorf("took %v of CPU", used)
			}
		})
	}
}

// Order of files, caches and repetition change nothing.
func TestParseIsDeterministic(t *testing.T) {
	files := manyFiles(t, 20, 20)
	files = append(files, File{Path: "z.toml", Blob: "z", Data: []byte("[[stack]]\nname='svc-1'\nafter=['svc-3','nothing']\n")})
	c1, d1 := Parse(files, Options{})
	cache := NewCache()
	for range 3 {
		files = append(files[7:], files[:7]...)
		c2, d2 := Parse(files, Options{Cache: cache})
		if diff := cmp.Diff(d1, d2); diff != "" {
			t.Fatal(diff)
		}
		if len(c1.Resources) != len(c2.Resources) {
			t.Fatalf("%d and %d resources", len(c1.Resources), len(c2.Resources))
		}
		for i, r := range c1.Resources {
			if diff := cmp.Diff(*r, *c2.Resources[i], cmp.AllowUnexported(Resource{}, keyPos{})); diff != "" {
				t.Fatal(diff)
			}
		}
	}
}

// A chain of 100,000 and a circle through all of them are both seen to the end, in linear time.
func TestLongChains(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	edges := make([][]int32, n)
	for i := range n - 1 {
		edges[i] = []int32{int32(i + 1)}
	}
	if groups := components(edges); len(groups) != 0 {
		t.Errorf("a chain has %d circles", len(groups))
	}
	edges[n-1] = []int32{0}
	if groups := components(edges); len(groups) != 1 || len(groups[0]) != n {
		t.Errorf("a ring has %d circles", len(groups))
	}
}

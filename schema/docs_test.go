package schema

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/kinds")

// docsDir is where the pages of the kinds lie, relative to this package.
const docsDir = "../docs/kinds"

// TestKindPages holds docs/kinds against the structs: go test ./schema -run KindPages -update writes them.
func TestKindPages(t *testing.T) {
	pages := map[string]string{"README.md": indexPage()}
	for _, k := range Kinds() {
		pages[string(k)+".md"] = kindPage(k)
	}
	pages["variable.md"] = variablePage()
	pages["executions.md"] = executionsPage()
	for _, name := range sortedKeys(pages) {
		path := filepath.Join(docsDir, name)
		if *update {
			if err := os.MkdirAll(docsDir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(pages[name]), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != pages[name] {
			t.Errorf("%s is not what the structs say; run go test ./schema -run KindPages -update", path)
		}
	}
}

// Every example of a page is accepted as it stands, and uses the kind it stands for.
func TestKindExamples(t *testing.T) {
	for _, k := range Kinds() {
		text := examples[k]
		c, diags := Parse([]File{{Path: "example.toml", Data: []byte(text)}}, Options{})
		for _, d := range diags {
			t.Errorf("%s: %d:%d: %s", k, d.Line, d.Column, d.Message)
		}
		if !slices.ContainsFunc(c.Resources, func(r *Resource) bool { return r.Kind == k }) {
			t.Errorf("the example of %s declares none", k)
		}
	}
}

const generated = "<!-- Written from the structs of package schema: go test ./schema -run KindPages -update -->\n\n"

func indexPage() string {
	var b strings.Builder
	b.WriteString(generated + "# Kinds\n\nA file declares resources as lists of tables, one kind each; `[[stack]]` and `[[stacks]]` mean the same.\n\n| table | what it declares |\n| --- | --- |\n")
	for _, k := range Kinds() {
		fmt.Fprintf(&b, "| [`[[%s]]`](%s.md) | %s |\n", k, k, kindDocs[k])
	}
	b.WriteString("| [`[[variable]]`](variable.md) | A named value, written as `[[NAME]]`. |\n\n")
	b.WriteString("`[[action]]`, `[[user_group]]` and `[[swarm]]` are read and get a warning: varan does not handle them.\n\n")
	b.WriteString("## Types\n\n| word | what may be written |\n| --- | --- |\n")
	for _, w := range []struct{ word, means string }{
		{"string, bool, int, float", "the plain TOML type; a number with a fraction of zero counts as whole"},
		{"list", "an array"},
		{"strings", "an array of strings, or one string whose parts are separated by commas and lines; `#` begins a comment"},
		{"text", "a string; it is kept with exactly one newline at its end"},
		{"environment", "a string of lines `KEY = value`, an array of `{ variable, value }` or of such lines, or a table"},
		{"labels", "a string of lines `key: value`, an array of `{ variable, value }` or of such lines, or a table"},
		{"mappings", "a string of lines `host: container`, or an array of `{ local, container }` or of such lines"},
		{"signals", "a string of lines `SIGNAL: label`, or an array of `{ signal, label }`"},
		{"command", "a table `{ path, command, shell_mode }`, or a string"},
		{"version", "a string `\"1.2.3\"`, or `{ major, minor, patch }`"},
		{"duration", "a string such as `\"30s\"`, `\"5m\"`, `\"1h30m\"`"},
		{"pattern", "names, wildcards (`web-*`) or regular expressions between backslashes (`\\^web-\\`), separated by commas or lines"},
		{"union", "a table `{ type = \"…\", params = { … } }`"},
	} {
		fmt.Fprintf(&b, "| %s | %s |\n", w.word, w.means)
	}
	b.WriteString(`
## Strings between three double quotes

Inside ` + "`\"\"\" … \"\"\"`" + ` a backslash stands for itself: nothing is escaped. Elsewhere TOML's own rules hold.

## Key-value lines

Lines are trimmed; empty ones and those that begin with ` + "`#` or `//`" + ` are dropped, and so is what follows a space and ` + "`#`" + `. A leading ` + "`-`" + ` is dropped. The first ` + "`=` or `:`" + ` separates key and value. Quotes stay part of the value, unless they enclose the whole pair.

## [[NAME]]

A name in double brackets stands for the value of a variable or secret of that name; each kind's page marks the keys where it does. ` + "`[[[NAME]]]`" + ` stands for the text ` + "`[[NAME]]`" + `. What a value holds is not looked at again, except that a variable may hold ` + "`[[SECRET]]`" + `. A resource with a name that has no value is blocked: its literal text is never deployed. ` + "`skip_secret_interp = true`" + ` turns all of it off for one resource.
`)
	return b.String()
}

// docWord is how the pages call a field's type.
func docWord(f *field) string {
	if f.enum != nil && f.typ.Kind() != reflect.Slice {
		return "one of " + "`" + strings.Join(f.enum, "`, `") + "`"
	}
	word := map[string]string{"str": "string", "strlist": "strings", "argv": "list of strings", "kv-env": "environment",
		"kv-label": "labels", "kv-conv": "mappings", "kv-term": "signals", "cmd": "command", "image": "union", "execution": "union",
		"prune": "bool or `\"all\"`", "weekday": "string", "date": "string", "timezone": "string", "map": "table of strings", "any": "table", "one-or-list": "table or list of tables"}[f.word]
	switch {
	case f.word == "list" && f.shape != nil:
		word = "list of tables"
	case f.word == "list" && f.typ.Elem().Kind() == reflect.Int:
		word = "list of ints"
	case f.word == "list":
		word = "list of strings"
	case f.word == "table" && f.shape != nil && f.shape.variants != nil:
		word = "union"
	case word == "":
		word = f.word
	}
	if f.ref != "" {
		word += fmt.Sprintf(", a [%s](%s.md)", f.ref, f.ref)
		if f.typ.Kind() == reflect.Slice {
			word = strings.Replace(word, ", a ", ", each a ", 1)
		}
	}
	return word
}

func docDefault(f *field) string {
	switch {
	case f.need:
		return "required"
	case f.def != "":
		return "`" + f.def + "`"
	case f.word == "bool":
		return "`false`"
	case f.word == "int" || f.word == "float":
		return "`0`"
	}
	return ""
}

func escapeCell(s string) string {
	return strings.NewReplacer("|", `\|`, "[[", "`[[", "]]", "]]`", "<", "&lt;").Replace(s)
}

// keyTable lists a table's keys.
func keyTable(b *strings.Builder, s *shape, prefix string, interp map[string]bool, allowed map[string]bool) {
	b.WriteString("| key | type | default | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range s.fields {
		if allowed != nil && !allowed[f.key] {
			continue
		}
		key := "`" + f.key + "`"
		for _, alias := range f.names[1:] {
			key += " (`" + alias + "`)"
		}
		doc := escapeCell(f.doc)
		if f.own {
			doc += " *varan's own key.*"
		}
		if interp[prefix+f.key] || interp[prefix+f.key+".command"] {
			doc += " `[[NAME]]` is filled in."
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", key, docWord(f), docDefault(f), doc)
	}
	b.WriteString("\n")
}

// interpolated are the keys of a kind in which [[NAME]] is filled in, found by asking.
func interpolated(k Kind) map[string]bool {
	r := &Resource{Kind: k}
	c := reflect.New(kindConfigs[k])
	fillTexts(c.Elem())
	r.Config = c.Interface()
	found := map[string]bool{}
	for key := range InterpolatedTexts(r) {
		found[key] = true
	}
	return found
}

// fillTexts puts an entry into every list, so that each list is visited.
func fillTexts(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Struct:
			fillTexts(f)
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		}
	}
}

func kindPage(k Kind) string {
	ss := theShapes()
	var b strings.Builder
	fmt.Fprintf(&b, "%s# %s\n\n%s\n\n```toml\n%s```\n\n## Beside `config`\n\n", generated, k, kindDocs[k], examples[k])
	keyTable(&b, ss.common, "", nil, nil)
	if hasApplied(k) {
		keyTable(&b, ss.applied, "", nil, nil)
	}
	fmt.Fprintf(&b, "## `[%s.config]`\n\n", k)
	config := ss.kinds[k]
	interp := interpolated(k)
	done := map[*shape]bool{}
	unionOrTable(&b, config, "config.", interp, done)
	return b.String()
}

// unionOrTable lists the keys of a table and, below, those of the tables in it.
func unionOrTable(b *strings.Builder, s *shape, prefix string, interp map[string]bool, done map[*shape]bool) {
	done[s] = true
	if s.variants != nil {
		fmt.Fprintf(b, "A union: `type` is %s; left out: `%s`. `params` depend on it.\n\n", "`"+strings.Join(s.words, "`, `")+"`",
			s.proto.FieldByIndex(s.byKey["type"].index).String())
		for _, w := range s.words {
			v := s.variants[w]
			fmt.Fprintf(b, "### `type = \"%s\"`\n\n%s\n\n", w, v.doc)
			keyTable(b, v.shape, prefix+"params.", interp, nil)
			nested(b, v.shape, prefix+"params.", interp, done)
		}
		return
	}
	keyTable(b, s, prefix, interp, nil)
	nested(b, s, prefix, interp, done)
}

func nested(b *strings.Builder, s *shape, prefix string, interp map[string]bool, done map[*shape]bool) {
	for _, f := range s.fields {
		switch {
		case f.word == "image":
			b.WriteString("### `image`\n\n")
			for _, w := range []string{"Image", "Build"} {
				fmt.Fprintf(b, "`type = \"%s\"`:\n\n", w)
				keyTable(b, theShapes().imageOf[w], "", nil, nil)
			}
		case f.word == "execution":
			b.WriteString("The types of execution and their params are listed in [executions](executions.md).\n\n")
		case f.shape != nil && !done[f.shape]:
			fmt.Fprintf(b, "### `%s`\n\n", f.key)
			if f.compact {
				b.WriteString("A string counts as `{ path = … }`.\n\n")
			}
			unionOrTable(b, f.shape, prefix+f.key+".", interp, done)
		}
	}
}

func variablePage() string {
	var b strings.Builder
	b.WriteString(generated + "# variable\n\nA named value, written as `[[NAME]]`. Its keys stand beside each other, without a `config` table.\n\n```toml\n[[variable]]\nname = \"DOMAIN\"\nvalue = \"example.org\"\n```\n\n")
	keyTable(&b, theShapes().variable, "", nil, nil)
	return b.String()
}

func executionsPage() string {
	ss := theShapes()
	var b strings.Builder
	b.WriteString(generated + "# Executions\n\nWhat a [procedure](procedure.md) can do. Each is written `execution = { type = \"…\", params = { … } }`.\n\n| type | params |\n| --- | --- |\n")
	for _, name := range ss.execNames {
		es := ss.executions[name]
		var keys []string
		for _, f := range es.shape.fields {
			if es.keys != nil && !es.keys[f.key] {
				continue
			}
			k := "`" + f.key + "`"
			if f.need {
				k = "**" + k + "**"
			}
			keys = append(keys, k)
		}
		if es.swarm {
			keys = append(keys, "*not handled by varan*")
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, strings.Join(keys, ", "))
	}
	b.WriteString("\nParams in bold must be there. What they mean:\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n")
	seen := map[string]bool{}
	for _, name := range ss.execNames {
		es := ss.executions[name]
		for _, f := range es.shape.fields {
			line := fmt.Sprintf("| `%s` | %s | %s | %s |\n", f.key, docWord(f), docDefault(f), escapeCell(f.doc))
			if es.swarm || seen[line] || es.keys != nil && !es.keys[f.key] {
				continue
			}
			seen[line] = true
			b.WriteString(line)
		}
	}
	return b.String()
}

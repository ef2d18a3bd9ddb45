package schema

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compileSchema(t testing.TB, compat Compat) *jsonschema.Schema {
	t.Helper()
	text, err := JSONSchema(compat)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("varan.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("varan.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asJSON is a TOML file as an editor hands it to a JSON Schema validator.
func asJSON(t testing.TB, f File) any {
	t.Helper()
	src, bad := newSource(f.Path, f.Data)
	if bad != nil {
		t.Fatalf("%s: %s", f.Path, bad.Message)
	}
	var m map[string]any
	if _, err := toml.Decode(string(src.text), &m); err != nil {
		t.Fatalf("%s: %v", f.Path, err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The schema and Parse agree on every real file: under compat both accept it, without it both refuse the
// same ones.
func TestJSONSchemaCorpus(t *testing.T) {
	compat, strict := compileSchema(t, CompatKomodo), compileSchema(t, CompatNone)
	folders := corpus(t)
	accepted, refused := 0, 0
	for _, name := range sortedKeys(folders) {
		for _, f := range folders[name] {
			c, diags := Parse([]File{f}, Options{Compat: CompatKomodo})
			if len(c.Skipped) > 0 {
				continue
			}
			v := asJSON(t, f)
			if err := compat.Validate(v); err != nil && !diags.HasErrors() {
				t.Errorf("%s/%s: Parse accepts it under compat, the schema does not: %v", name, f.Path, err)
			}
			_, diags = Parse([]File{f}, Options{})
			wrong := shapeError(diags)
			err := strict.Validate(v)
			switch {
			case err == nil && wrong != "":
				t.Errorf("%s/%s: the strict schema accepts it, Parse says %s", name, f.Path, wrong)
			case err != nil && wrong == "":
				t.Errorf("%s/%s: Parse finds no unknown key and no wrong type, the strict schema says %v", name, f.Path, err)
			case err == nil:
				accepted++
			default:
				refused++
			}
		}
	}
	t.Logf("strict: %d accepted, %d refused", accepted, refused)
}

func shapeError(diags Diagnostics) string {
	for _, d := range diags {
		if d.Shape && d.Severity == SeverityError {
			return d.Message
		}
	}
	return ""
}

func TestJSONSchemaAgreesWithParse(t *testing.T) {
	compat, strict := compileSchema(t, CompatKomodo), compileSchema(t, CompatNone)
	for _, tt := range []struct {
		name, text string
		strict     bool // accepted
		compat     bool
	}{
		{"plain", "[[stack]]\nname = 'a'\nconfig.file_contents = 'services: {}'", true, true},
		{"plural", "[[stacks]]\nname = 'a'", true, true},
		{"both spellings", "[[stack]]\nname = 'a'\n[[stacks]]\nname = 'b'", false, false},
		{"no name", "[[stack]]\nconfig.repo = 'a/b'", false, false},
		{"unknown key", "[[stack]]\nname = 'a'\nconfig.repos = 'a/b'", false, true},
		{"unknown key beside name", "[[stack]]\nname = 'a'\nrepo = 'a/b'", false, true},
		{"alias", "[[stack]]\nname = 'a'\nconfig.server_id = 'a'", true, true},
		{"alias twice", "[[stack]]\nname = 'a'\nconfig.server_id = 'a'\nconfig.server = 'b'", false, false},
		{"wrong type", "[[stack]]\nname = 'a'\nconfig.auto_pull = 'yes'", false, false},
		{"links as string", "[[stack]]\nname = 'a'\nconfig.links = 'a'", true, true},
		{"deployment links as string", "[[deployment]]\nname = 'a'\nconfig.links = 'a'", false, false},
		{"environment as table", "[[stack]]\nname = 'a'\nconfig.environment = { A = 1, B = 'c' }", true, true},
		{"environment as list", "[[stack]]\nname = 'a'\nconfig.environment = [{ variable = 'A', value = 'b' }, 'C=d']", true, true},
		{"environment pair without value", "[[stack]]\nname = 'a'\nconfig.environment = [{ variable = 'A' }]", false, false},
		{"ports as table", "[[deployment]]\nname = 'a'\nconfig.ports = { A = 1 }", false, false},
		{"command as string", "[[stack]]\nname = 'a'\nconfig.pre_deploy = 'echo'", true, true},
		{"command as list", "[[stack]]\nname = 'a'\n[[stack.config.pre_deploy]]\ncommand = 'echo'", false, true},
		{"signal as number", "[[deployment]]\nname = 'a'\nconfig.termination_signal = 15", true, true},
		{"signal unknown", "[[deployment]]\nname = 'a'\nconfig.termination_signal = 'SIGFOO'", false, false},
		{"image union", "[[deployment]]\nname = 'a'\nconfig.image = { type = 'Build', params = { build = 'x', version = '1.2' } }", true, true},
		{"image of other type", "[[deployment]]\nname = 'a'\nconfig.image = { type = 'Image', params = { build = 'x' } }", false, true},
		{"image type unknown", "[[deployment]]\nname = 'a'\nconfig.image = { type = 'Other', params = {} }", false, false},
		{"version table", "[[build]]\nname = 'a'\nconfig.version = { major = 1, minor = 2, patch = 3 }", true, true},
		{"version number", "[[build]]\nname = 'a'\nconfig.version = 1.2", false, false},
		{"registry one", "[[build]]\nname = 'a'\nconfig.image_registry = { domain = 'x' }", true, true},
		{"registry list", "[[build]]\nname = 'a'\nconfig.image_registry = [{ domain = 'x' }]", true, true},
		{"execution", "[[procedure]]\nname = 'a'\nconfig.stage = [{ name = 's', executions = [{ execution = { type = 'DeployStack', params = { stack = 'x' } } }] }]", true, true},
		{"execution without params", "[[procedure]]\nname = 'a'\nconfig.stage = [{ name = 's', executions = [{ execution = { type = 'GlobalAutoUpdate' } }] }]", true, true},
		{"execution with another's key", "[[procedure]]\nname = 'a'\nconfig.stage = [{ name = 's', executions = [{ execution = { type = 'PullStack', params = { stack = 'x', stop_time = 3 } } }] }]", false, true},
		{"execution unknown", "[[procedure]]\nname = 'a'\nconfig.stage = [{ name = 's', executions = [{ execution = { type = 'Nothing', params = {} } }] }]", false, false},
		{"builder", "[[builder]]\nname = 'a'\nconfig = { type = 'Server', params = { server = 'x' } }", true, true},
		{"builder of other type", "[[builder]]\nname = 'a'\nconfig = { type = 'Server', params = { region = 'x' } }", false, true},
		{"range", "[[server]]\nname = 'a'\nconfig.cpu_warning = 101", false, false},
		{"window", "[[server]]\nname = 'a'\nconfig.maintenance_windows = [{ name = 'w', duration_minutes = 5.0 }]", true, true},
		{"variable", "[[variable]]\nname = 'A'\nvalue = 'b'", true, true},
		{"variable config", "[[variable]]\nname = 'A'\nconfig.value = 'b'", false, true},
		{"env files", "[[stack]]\nname = 'a'\nconfig.additional_env_files = ['a.env', { path = 'b.env', track = false }]", true, true},
		{"unhandled", "[[action]]\nname = 'a'\nanything = 3", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := File{Path: "a.toml", Data: []byte(tt.text)}
			v := asJSON(t, f)
			for _, mode := range []struct {
				compat Compat
				schema *jsonschema.Schema
				want   bool
			}{{CompatNone, strict, tt.strict}, {CompatKomodo, compat, tt.compat}} {
				_, diags := Parse([]File{f}, Options{Compat: mode.compat})
				if wrong := shapeError(diags); (wrong == "") != mode.want {
					t.Errorf("compat %q: Parse accepts: %v, want %v: %s", mode.compat, wrong == "", mode.want, wrong)
				}
				if err := mode.schema.Validate(v); (err == nil) != mode.want {
					t.Errorf("compat %q: the schema accepts: %v, want %v: %v", mode.compat, err == nil, mode.want, err)
				}
			}
		})
	}
}

// Every property of the schema says what it is.
func TestJSONSchemaDescriptions(t *testing.T) {
	text, err := JSONSchema(CompatNone)
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	var walk func(v any, path string, conditional bool)
	walk = func(v any, path string, conditional bool) {
		switch v := v.(type) {
		case map[string]any:
			if props, ok := v["properties"].(map[string]any); ok && !conditional {
				for _, k := range sortedKeys(props) {
					p, _ := props[k].(map[string]any)
					if s, _ := p["description"].(string); s == "" {
						t.Errorf("%s.%s has no description", path, k)
					}
				}
			}
			for k, x := range v {
				walk(x, path+"/"+k, k == "if" || k == "then" || strings.HasSuffix(path, "/then"))
			}
		case []any:
			for _, x := range v {
				walk(x, path, false)
			}
		}
	}
	walk(doc, "", false)
}

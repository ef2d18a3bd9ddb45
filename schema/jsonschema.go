package schema

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"

	"github.com/BurntSushi/toml"
)

// JSONSchema is the JSON Schema (draft 2020-12) of a file of Resources, generated from the structs that Parse
// fills. It refuses what Parse calls an unknown key, a missing key or a wrong type, and leaves the rest to
// Parse; under compat it takes unknown keys, as Parse does.
func JSONSchema(compat Compat) ([]byte, error) {
	g := &generator{ss: theShapes(), compat: compat, defs: map[string]any{}}
	title := "varan resources"
	if compat == CompatKomodo {
		title = "varan resources, read as Komodo's"
	}
	properties := object{}
	var both []any
	for _, k := range Kinds() {
		g.table(properties, &both, string(k), g.kind(k), kindDocs[k])
	}
	g.table(properties, &both, "variable", g.object(g.ss.variable, nil), "A named value, written as [[NAME]].")
	for _, k := range []string{"swarm", "action", "user_group"} {
		g.table(properties, &both, k, object{"type": "object"}, "Accepted, and not handled by varan.")
	}
	root := g.closed(object{
		"$schema":    "https://json-schema.org/draft/2020-12/schema",
		"title":      title,
		"type":       "object",
		"properties": properties,
		"allOf":      both,
		"$defs":      g.defs,
	})
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the JSON Schema: %w", err)
	}
	return append(out, '\n'), nil
}

// kindDocs say in a sentence what each kind is.
var kindDocs = map[Kind]string{
	KindServer:         "A Docker host.",
	KindDeployment:     "One container on a server.",
	KindStack:          "A compose project on a server.",
	KindRepo:           "A Git repository, cloned where it has a server.",
	KindBuild:          "An image built from source.",
	KindBuilder:        "Where builds run.",
	KindProcedure:      "Executions in stages, run on a schedule, by a webhook or on request.",
	KindResourceSync:   "A further repository that declares resources.",
	KindAlerter:        "Where alerts go.",
	KindServerTemplate: "A machine to launch in a cloud.",
}

type object = map[string]any

type generator struct {
	ss     *shapes
	compat Compat
	defs   map[string]any
}

// closed refuses further keys, except under compat.
func (g *generator) closed(o object) object {
	if g.compat != CompatKomodo {
		o["additionalProperties"] = false
	}
	return o
}

// table declares a top-level list of tables under both its spellings, of which a file may use one.
func (g *generator) table(properties object, both *[]any, name string, element object, doc string) {
	list := object{"type": "array", "items": element, "description": doc}
	g.defs["list_"+name] = list
	properties[name] = object{"$ref": "#/$defs/list_" + name, "description": doc}
	properties[name+"s"] = object{"$ref": "#/$defs/list_" + name, "description": "Same as " + name + "."}
	*both = append(*both, object{"not": object{"required": []string{name, name + "s"}}})
}

// kind is one resource of that kind.
func (g *generator) kind(k Kind) object {
	properties := object{}
	var rules []any
	var required []string
	add := func(s *shape) {
		for _, f := range s.fields {
			g.property(properties, &rules, f)
			if f.need {
				required = append(required, f.key)
			}
		}
	}
	add(g.ss.common)
	if hasApplied(k) {
		add(g.ss.applied)
	}
	config := g.ref(g.ss.kinds[k])
	config["description"] = "What the " + string(k) + " is."
	properties["config"] = config
	return g.closed(object{"type": "object", "properties": properties, "required": required})
}

// property declares a field under each of its names; two names at once are refused.
func (g *generator) property(properties object, rules *[]any, f *field) {
	for i, name := range f.names {
		p := g.value(f)
		p["description"] = f.doc
		if i > 0 {
			p["description"] = "Same as " + f.key + "."
		} else if f.def != "" {
			var holder map[string]any
			if _, err := toml.Decode("v = "+f.def, &holder); err == nil {
				p["default"] = holder["v"]
			}
		} else if f.word == "bool" {
			p["default"] = false
		}
		properties[name] = p
		for _, other := range f.names[:i] {
			*rules = append(*rules, object{"not": object{"required": []string{other, name}}})
		}
	}
}

// ref declares a struct once and refers to it.
func (g *generator) ref(s *shape) object {
	name := s.typ.Name()
	if _, ok := g.defs[name]; !ok {
		g.defs[name] = nil // structs do not contain themselves, but be safe
		g.defs[name] = g.object(s, nil)
	}
	return object{"$ref": "#/$defs/" + name}
}

// object is a table of that shape, or of those of its keys that are allowed.
func (g *generator) object(s *shape, allowed map[string]bool) object {
	if s.variants != nil {
		params := map[string]object{}
		for w, f := range s.variants {
			p := g.ref(f.shape)
			p["description"] = f.doc
			params[w] = p
		}
		tf := s.byKey["type"]
		return g.union(s.words, s.proto.FieldByIndex(tf.index).String(), params, tf.doc)
	}
	properties := object{}
	rules := []any{}
	var required []string
	for _, f := range s.fields {
		if allowed != nil && !allowed[f.key] {
			continue
		}
		g.property(properties, &rules, f)
		if f.need && len(f.names) == 1 {
			required = append(required, f.key)
		} else if f.need {
			var any []any
			for _, n := range f.names {
				any = append(any, object{"required": []string{n}})
			}
			rules = append(rules, object{"anyOf": any})
		}
	}
	o := object{"type": "object", "properties": properties}
	if required != nil {
		o["required"] = required
	}
	if len(rules) > 0 {
		o["allOf"] = rules
	}
	return g.closed(o)
}

// union is { type = …, params = { … } }. fallback is the type if none is written, "" if it must be.
func (g *generator) union(words []string, fallback string, params map[string]object, doc string) object {
	typ := object{"type": "string", "enum": words, "description": doc}
	var rules []any
	for _, w := range words {
		test := object{"properties": object{"type": object{"const": w}}}
		if w != fallback {
			test["required"] = []string{"type"}
		}
		rules = append(rules, object{"if": test, "then": object{"properties": object{"params": params[w]}}})
	}
	o := object{"type": "object", "allOf": rules,
		"properties": object{"type": typ, "params": object{"type": "object", "description": "What this type takes."}}}
	if fallback == "" {
		o["required"] = []string{"type"}
	} else {
		typ["default"] = fallback
	}
	return g.closed(o)
}

var (
	scalarSchema  = object{"type": []string{"string", "number", "boolean"}}
	stringsSchema = object{"type": "array", "items": object{"type": "string"}}
)

// value is what a field takes.
func (g *generator) value(f *field) object {
	switch f.word {
	case "str", "text", "weekday", "date", "timezone", "pattern", "duration":
		if f.alias == nil {
			return object{"type": "string"}
		}
		return object{"enum": g.enum(f, f.def == "")}
	case "bool":
		return object{"type": "boolean"}
	case "prune":
		return object{"enum": []any{true, false, string(PruneAll)}}
	case "int", "float":
		o := object{"type": "integer"}
		if f.word == "float" {
			o["type"] = "number"
		}
		if f.ranged {
			o["minimum"], o["maximum"] = f.lo, f.hi
		}
		return o
	case "strlist":
		return object{"anyOf": []any{object{"type": "string"}, stringsSchema}}
	case "argv":
		return clone(stringsSchema)
	case "list":
		return object{"type": "array", "items": g.element(f)}
	case "one-or-list":
		return object{"anyOf": []any{g.element(f), object{"type": "array", "items": g.element(f)}}}
	case "kv-env", "kv-label", "kv-conv", "kv-term":
		return g.kv(f.word)
	case "cmd":
		forms := []any{object{"type": "string"}, g.ref(f.shape)}
		if g.compat == CompatKomodo {
			forms = append(forms, object{"type": "array", "minItems": 1, "maxItems": 1, "items": g.ref(f.shape)})
		}
		return object{"anyOf": forms}
	case "table":
		return g.ref(f.shape)
	case "version":
		part := func(doc string) object {
			return object{"type": "integer", "minimum": 0, "maximum": 1<<31 - 1, "description": doc}
		}
		return object{"anyOf": []any{object{"type": "string"}, g.closed(object{"type": "object",
			"required":   []string{"major", "minor", "patch"},
			"properties": object{"major": part("The first part."), "minor": part("The second part."), "patch": part("The third part.")}})}}
	case "image":
		return g.union([]string{"Image", "Build"}, "Image", map[string]object{
			"Image": g.ref(g.ss.imageOf["Image"]), "Build": g.ref(g.ss.imageOf["Build"])}, "Image or Build.")
	case "execution":
		if _, ok := g.defs["Execution"]; !ok {
			g.defs["Execution"] = nil
			params := map[string]object{}
			for _, name := range g.ss.execNames {
				es := g.ss.executions[name]
				params[name] = g.object(es.shape, es.keys)
			}
			g.defs["Execution"] = g.union(g.ss.execNames, "", params, "What to do.")
		}
		return object{"$ref": "#/$defs/Execution"}
	case "map":
		return object{"type": "object", "additionalProperties": scalarSchema}
	}
	return object{"type": "object"}
}

func clone(o object) object {
	c := object{}
	for k, v := range o {
		c[k] = v
	}
	return c
}

// enum are the spellings a field takes, numbers also as numbers.
func (g *generator) enum(f *field, empty bool) []any {
	var words []string
	for w := range f.alias {
		if !slices.Contains(f.enum, w) {
			words = append(words, w)
		}
	}
	slices.Sort(words)
	var out []any
	for _, w := range append(slices.Clone(f.enum), words...) {
		out = append(out, w)
		if n, err := strconv.Atoi(w); err == nil {
			out = append(out, n)
		}
	}
	if empty {
		out = append(out, "")
	}
	return out
}

func (g *generator) element(f *field) object {
	switch {
	case f.shape != nil && f.compact:
		return object{"anyOf": []any{object{"type": "string"}, g.ref(f.shape)}}
	case f.shape != nil:
		return g.ref(f.shape)
	case f.typ.Elem().Kind() == reflect.Int:
		return object{"type": "integer"}
	case f.alias != nil:
		return object{"type": "string", "enum": f.enum}
	}
	return object{"type": "string"}
}

func (g *generator) kv(word string) object {
	key, value := kvNames(word)
	pair := g.closed(object{"type": "object", "required": []string{key, value}, "properties": object{
		key:   object{"type": []string{"string", "number", "boolean"}, "description": "The left side."},
		value: object{"type": []string{"string", "number", "boolean"}, "description": "The right side."}}})
	forms := []any{object{"type": "string"}, object{"type": "array", "items": object{"anyOf": []any{object{"type": "string"}, pair}}}}
	if word == "kv-env" || word == "kv-label" {
		forms = append(forms, object{"type": "object", "additionalProperties": scalarSchema})
	}
	return object{"anyOf": forms}
}

package compose

import (
	"encoding/hex"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// nameRef is a [[NAME]], its group the name; the group is empty for the escape [[[NAME]]], which stands for a
// literal [[NAME]]. What stands between brackets in a shell test is no name.
var nameRef = regexp.MustCompile(`\[\[\[[A-Za-z_][A-Za-z0-9_.-]*\]\]\]|\[\[([A-Za-z_][A-Za-z0-9_.-]*)\]\]`)

// literal begins the name in the token of an escape.
const literal = "="

// A token stands for [[NAME]] while a text goes through YAML, env file and compose syntax, where brackets mean
// something else. Being lower-case letters and digits it is a valid image name, path and key.
const tokenHead, tokenTail = "varansecret", "z"

var tokenRef = regexp.MustCompile(tokenHead + `([0-9a-f]+)` + tokenTail)

// hide turns the names of text into tokens.
func hide(text string) string {
	if !strings.Contains(text, "[[") {
		return text
	}
	return nameRef.ReplaceAllStringFunc(text, func(ref string) string {
		name := ref[2 : len(ref)-2]
		if strings.HasPrefix(ref, "[[[") {
			name = literal + ref[3:len(ref)-3]
		}
		return tokenHead + hex.EncodeToString([]byte(name)) + tokenTail
	})
}

// reveal turns tokens into what value gives for their names; a token of no name value knows stays.
func reveal(text string, value func(name string) (string, bool)) string {
	if !strings.Contains(text, tokenHead) {
		return text
	}
	return tokenRef.ReplaceAllStringFunc(text, func(t string) string {
		name, err := hex.DecodeString(t[len(tokenHead) : len(t)-len(tokenTail)])
		if err != nil {
			return t
		}
		if n, ok := strings.CutPrefix(string(name), literal); ok {
			if v, _ := value(literal); v == literal { // a plan shows it as it is written
				return "[[[" + n + "]]]"
			}
			return "[[" + n + "]]"
		}
		if v, ok := value(string(name)); ok {
			return v
		}
		return t
	})
}

// asName reveals a token as the [[NAME]] it stood for: all a plan ever shows.
func asName(name string) (string, bool) {
	if name == literal {
		return literal, true
	}
	return "[[" + name + "]]", true
}

// hidden lists the names whose tokens stand in v, which is made of maps, slices and strings.
func hidden(v any, names map[string]bool) {
	walkStrings(v, func(s string) string {
		for _, m := range tokenRef.FindAllStringSubmatch(s, -1) {
			if name, err := hex.DecodeString(m[1]); err == nil && !strings.HasPrefix(string(name), literal) {
				names[string(name)] = true
			}
		}
		return s
	})
}

// walkStrings replaces every string of v, keys included, by what fn makes of it.
func walkStrings(v any, fn func(string) string) any {
	switch v := v.(type) {
	case string:
		return fn(v)
	case map[string]any:
		for k, e := range v {
			e = walkStrings(e, fn)
			if nk := fn(k); nk != k {
				delete(v, k)
				k = nk
			}
			v[k] = e
		}
		return v
	case []any:
		for i, e := range v {
			v[i] = walkStrings(e, fn)
		}
		return v
	}
	return v
}

// EnvValues are the values of an env file; those it cannot read are left out.
func EnvValues(data []byte) []string {
	vars, err := envFile(data, nil)
	if err != nil {
		return nil
	}
	return slices.Collect(maps.Values(vars))
}

// Reveal puts values in for the [[NAME]] of a text; a name without a value stays.
func Reveal(text string, values map[string]string) string {
	return reveal(hide(text), func(name string) (string, bool) {
		if name == literal {
			return "", false
		}
		if v, ok := values[name]; ok {
			return v, true
		}
		return asName(name)
	})
}

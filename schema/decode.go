package schema

import (
	"fmt"
	"math"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"
)

// A decoder turns one file's decoded TOML into Resources, noting every mistake and where each key stands.
type decoder struct {
	src    *source
	compat Compat
	ss     *shapes
	diags  Diagnostics

	// of the resource at hand
	subject string // `stack "web"`
	header  *node
	keys    []keyPos
	refs    []pendingRef
}

// A keyPos is where a key of a resource was written.
type keyPos struct {
	key          string
	line, column int32 // of the value
	length       int32
}

// A pendingRef is a reference as written, to be resolved once all files are read.
type pendingRef struct {
	kind   Kind // "" for after: a stack, a deployment, or written kind/name
	id     ID   // of kind
	stack  ID   // for after: the two it may be
	deploy ID
	raw    string
	pos    Pos
	length int
}

const maxFileDiagnostics = 500

// report notes a mistake of shape: an unknown key, a wrong type, a missing key.
func (d *decoder) report(sev Severity, n *node, key bool, hint, format string, args ...any) {
	at := len(d.diags)
	d.reportValue(sev, n, key, hint, format, args...)
	for i := at; i < len(d.diags); i++ {
		d.diags[i].Shape = true
	}
}

// reportValue notes a value of the right type that makes no sense.
func (d *decoder) reportValue(sev Severity, n *node, key bool, hint, format string, args ...any) {
	if d.src == nil { // a default
		d.diags = append(d.diags, Diagnostic{Severity: sev, Message: fmt.Sprintf(format, args...)})
		return
	}
	if len(d.diags) > maxFileDiagnostics {
		return
	}
	pos, length := d.place(n, key)
	if len(d.diags) == maxFileDiagnostics {
		d.diags = append(d.diags, Diagnostic{Severity: SeverityError, Pos: pos, Message: "too many problems in this file; the rest is left out"})
		return
	}
	d.diags = append(d.diags, Diagnostic{Severity: sev, Pos: pos, Length: length, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// place is where a node's key or value stands, and how long it is on its line.
func (d *decoder) place(n *node, key bool) (Pos, int) {
	if n == nil {
		n = d.header
	}
	if n == nil {
		return Pos{File: d.src.path, Line: 1, Column: 1}, 0
	}
	off, length := n.voff, n.vlen
	if key {
		off, length = n.koff, n.klen
	}
	end := min(off+length, len(d.src.text))
	if off < end {
		for i := off; i < end; i++ {
			if d.src.text[i] == '\n' || d.src.text[i] == '\r' {
				length = i - off
				break
			}
		}
	}
	pos := d.src.pos(off)
	return pos, d.src.fit(pos, d.src.written(off+length)-d.src.written(off))
}

func (d *decoder) errorf(n *node, format string, args ...any) {
	d.report(SeverityError, n, false, "", format, args...)
}

// wrong says that a value has the wrong type.
func (d *decoder) wrong(f *field, n *node, path string, v any, hint string) {
	d.report(SeverityError, n, false, hint, "%s: %s wants %s, not %s", d.subject, path, f.wants(), typeWord(v))
}

// wants says in words what may stand there.
func (f *field) wants() string {
	if f.enum != nil && f.typ.Kind() != reflect.Slice {
		return "one of " + quoted(f.enum)
	}
	switch f.word {
	case "str", "text", "weekday", "date", "timezone", "pattern":
		return "a string"
	case "bool":
		return "true or false"
	case "prune":
		return `true, false or "all"`
	case "int":
		return "a whole number"
	case "float":
		return "a number"
	case "strlist":
		return "a list of strings or a string"
	case "argv":
		return "a list of strings"
	case "list":
		if f.shape != nil {
			return "a list of tables"
		}
		if f.typ.Elem().Kind() == reflect.Int {
			return "a list of whole numbers"
		}
		return "a list of strings"
	case "one-or-list":
		return "a table or a list of tables"
	case "kv-env", "kv-label":
		return "lines of KEY=VALUE in a string, or a table"
	case "kv-conv":
		return "lines of HOST:CONTAINER in a string, or a list of them"
	case "kv-term":
		return "lines of SIGNAL: LABEL in a string"
	case "cmd":
		return "a table { path = …, command = … } or a string"
	case "version":
		return `a string "major.minor.patch"`
	case "duration":
		return `a duration such as "30s" or "5m"`
	case "image", "execution":
		return `a table { type = "…", params = { … } }`
	case "map", "any", "table":
		return "a table"
	}
	return f.word
}

// typeWord says in words what a decoded value is.
func typeWord(v any) string {
	switch v := v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64:
		return "a whole number"
	case float64:
		return "a number"
	case time.Time:
		return "a date or time"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "a list of tables"
	case []any:
		if len(v) > 0 {
			if _, ok := v[0].(map[string]any); ok {
				return "a list of tables"
			}
		}
		return "a list"
	}
	return fmt.Sprintf("%T", v)
}

func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = strconv.Quote(w)
	}
	return strings.Join(q, ", ")
}

// An entry is one key of a table, with its value and its place.
type entry struct {
	key string
	v   any
	n   *node
}

// entries are a table's keys in the order written.
func entries(m map[string]any, n *node) []entry {
	list := make([]entry, 0, len(m))
	if n != nil {
		for _, k := range n.kids {
			if v, ok := m[k.key]; ok {
				list = append(list, entry{k.key, v, k})
			}
		}
	}
	if len(list) == len(m) {
		return list
	}
	seen := make(map[string]bool, len(list)) // the two parsers differ: keep every value, without its place
	for _, e := range list {
		seen[e.key] = true
	}
	at := len(list)
	for k, v := range m {
		if !seen[k] {
			list = append(list, entry{k, v, nil})
		}
	}
	sort.Slice(list[at:], func(i, j int) bool { return list[at+i].key < list[at+j].key })
	return list
}

// items are a list's values with their places; ok is false if v is no list.
func items(v any, n *node) (list []entry, ok bool) {
	at := func(i int) *node {
		if n != nil && i < len(n.kids) {
			return n.kids[i]
		}
		return n
	}
	switch v := v.(type) {
	case []any:
		list = make([]entry, len(v))
		for i := range v {
			list[i] = entry{v: v[i], n: at(i)}
		}
		return list, true
	case []map[string]any:
		list = make([]entry, len(v))
		for i := range v {
			list[i] = entry{v: v[i], n: at(i)}
		}
		return list, true
	}
	return nil, false
}

// note remembers where a key of the resource stands.
func (d *decoder) note(path string, n *node) {
	if n == nil || d.src == nil {
		return
	}
	pos, length := d.place(n, false)
	d.keys = append(d.keys, keyPos{key: path, line: int32(pos.Line), column: int32(pos.Column), length: int32(length)})
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// table fills dst, which holds the defaults, from a table. allowed, if not nil, narrows the keys.
func (d *decoder) table(s *shape, dst reflect.Value, m map[string]any, n *node, prefix string, allowed map[string]bool) {
	if s.variants != nil {
		d.union(s, dst, m, n, prefix)
		return
	}
	var seen uint64
	for _, e := range entries(m, n) {
		f := s.byKey[e.key]
		if f == nil || allowed != nil && !allowed[f.key] {
			d.unknown(s.names, allowed, e, prefix)
			continue
		}
		path := join(prefix, f.key)
		if seen&f.bit != 0 {
			d.report(SeverityError, e.n, true, "", "%s: %s is written twice, under two of its names %s", d.subject, path, quoted(f.names))
			continue
		}
		seen |= f.bit
		d.note(path, e.n)
		d.value(f, dst.FieldByIndex(f.index), e.v, e.n, path)
	}
	for _, f := range s.fields {
		if f.need && seen&f.bit == 0 && (allowed == nil || allowed[f.key]) {
			d.errorf(n, "%s: %s is missing", d.subject, join(prefix, f.key))
		}
	}
}

// union fills dst from { type = …, params = { … } }.
func (d *decoder) union(s *shape, dst reflect.Value, m map[string]any, n *node, prefix string) {
	tf := s.byKey["type"]
	typ := dst.FieldByIndex(tf.index).String() // the default
	var params map[string]any
	var pn *node
	for _, e := range entries(m, n) {
		switch e.key {
		case "type":
			d.note(join(prefix, "type"), e.n)
			t, ok := e.v.(string)
			if !ok || s.variants[t] == nil {
				d.badType(s.words, e, prefix)
				return
			}
			typ = t
		case "params":
			d.note(join(prefix, "params"), e.n)
			p, ok := e.v.(map[string]any)
			if !ok {
				d.report(SeverityError, e.n, false, "", "%s: %s wants a table, not %s", d.subject, join(prefix, "params"), typeWord(e.v))
				return
			}
			params, pn = p, e.n
		default:
			d.unknown([]string{"type", "params"}, nil, e, prefix)
		}
	}
	for _, v := range s.variants {
		dst.FieldByIndex(v.index).SetZero()
	}
	v := s.variants[typ]
	dst.FieldByIndex(tf.index).SetString(typ)
	p := reflect.New(v.typ)
	p.Elem().Set(v.shape.proto)
	d.table(v.shape, p.Elem(), params, pn, join(prefix, "params"), nil)
	dst.FieldByIndex(v.index).Set(p)
}

func (d *decoder) badType(words []string, e entry, prefix string) {
	t, ok := e.v.(string)
	if !ok {
		d.errorf(e.n, "%s: %s wants a string, not %s", d.subject, join(prefix, "type"), typeWord(e.v))
		return
	}
	hint := "one of " + quoted(words)
	if near := nearest(t, words); near != "" {
		hint = "did you mean " + strconv.Quote(near) + "?"
	} else if len(words) > 12 {
		hint = "docs/kinds lists them"
	}
	d.report(SeverityError, e.n, false, hint, "%s: %s = %q is not known", d.subject, join(prefix, "type"), t)
}

// unknown says that a key means nothing there. Komodo ignores such keys, so under compat it is a warning.
func (d *decoder) unknown(names []string, allowed map[string]bool, e entry, prefix string) {
	sev := SeverityError
	if d.compat == CompatKomodo {
		sev = SeverityWarning
	}
	if allowed != nil {
		var some []string
		for _, n := range names {
			if allowed[n] {
				some = append(some, n)
			}
		}
		names = some
	}
	hint := ""
	if near := nearest(e.key, names); near != "" {
		hint = "did you mean " + strconv.Quote(near) + "?"
	} else if place := d.elsewhere(e.key, prefix); place != "" {
		hint = place
	}
	d.report(sev, e.n, true, hint, "%s: no key %q", d.subject, join(prefix, e.key))
}

// elsewhere hints at the table in which a misplaced key would be right.
func (d *decoder) elsewhere(key, prefix string) string {
	kind, _, _ := strings.Cut(d.subject, " ")
	config := d.ss.kinds[Kind(kind)]
	switch {
	case config == nil:
		return ""
	case prefix == "" && config.byKey[key] != nil:
		return fmt.Sprintf("%s belongs in [%s.config]", key, kind)
	case prefix == "config" && (d.ss.common.byKey[key] != nil || d.ss.applied.byKey[key] != nil && hasApplied(Kind(kind))):
		return fmt.Sprintf("%s belongs beside name, above [%s.config]", key, kind)
	}
	return ""
}

func hasApplied(k Kind) bool { return k == KindStack || k == KindDeployment }

// value fills one field. v is as the TOML decoder gives it.
func (d *decoder) value(f *field, dst reflect.Value, v any, n *node, path string) {
	switch f.word {
	case "str", "text", "weekday", "date", "timezone", "pattern":
		s, ok := v.(string)
		if !ok && f.alias != nil { // termination_signal = 15
			if i, isInt := v.(int64); isInt {
				s, ok = strconv.FormatInt(i, 10), f.alias[strconv.FormatInt(i, 10)] != ""
			}
		}
		if !ok {
			d.wrong(f, n, path, v, "")
			return
		}
		d.str(f, dst, s, n, path)
	case "prune":
		b, isBool := v.(bool)
		switch {
		case isBool && b:
			dst.SetString(string(PruneOurs))
		case isBool:
			dst.SetString(string(PruneNothing))
		case v == string(PruneAll):
			dst.SetString(string(PruneAll))
		default:
			d.wrong(f, n, path, v, "")
		}
	case "bool":
		b, ok := v.(bool)
		if !ok {
			hint := ""
			if s, isStr := v.(string); isStr && (s == "true" || s == "false") {
				hint = "write it without quotes"
			}
			d.wrong(f, n, path, v, hint)
			return
		}
		dst.SetBool(b)
	case "int":
		i, ok := whole(v)
		if !ok {
			d.wrong(f, n, path, v, "")
			return
		}
		if f.ranged && (float64(i) < f.lo || float64(i) > f.hi) || dst.OverflowInt(i) {
			d.errorf(n, "%s: %s must be from %s to %s, not %d", d.subject, path, number(f.lo), number(f.hi), i)
			return
		}
		dst.SetInt(i)
	case "float":
		var x float64
		switch v := v.(type) {
		case float64:
			x = v
		case int64:
			x = float64(v)
		default:
			d.wrong(f, n, path, v, "")
			return
		}
		if f.ranged && !(x >= f.lo && x <= f.hi) {
			d.errorf(n, "%s: %s must be from %s to %s, not %s", d.subject, path, number(f.lo), number(f.hi), number(x))
			return
		}
		dst.SetFloat(x)
	case "duration":
		s, ok := v.(string)
		if !ok {
			d.wrong(f, n, path, v, "")
			return
		}
		x, err := time.ParseDuration(s)
		if err != nil || x < 0 {
			d.reportValue(SeverityError, n, false, `write it as "30s", "5m" or "1h30m"`, "%s: %s = %q is not a duration", d.subject, path, s)
			return
		}
		dst.SetInt(int64(x))
	case "strlist", "list", "argv", "one-or-list":
		d.list(f, dst, v, n, path)
	case "kv-env", "kv-label", "kv-conv", "kv-term":
		kvs, ok := d.kv(f, v, n, path)
		if ok {
			dst.Set(reflect.ValueOf(kvs))
		}
	case "cmd":
		if s, ok := v.(string); ok {
			dst.Set(reflect.ValueOf(Command{Command: normalText(s)}))
			return
		}
		if list, ok := items(v, n); ok && d.compat == CompatKomodo && len(list) == 1 {
			if m, ok := list[0].v.(map[string]any); ok { // [[stack.config.pre_deploy]]
				d.report(SeverityWarning, list[0].n, true, "write ["+path+"]", "%s: %s is a list of tables where one table belongs", d.subject, path)
				d.table(f.shape, dst, m, list[0].n, path, nil)
				return
			}
		}
		d.sub(f, dst, v, n, path)
	case "table":
		d.sub(f, dst, v, n, path)
	case "version":
		d.version(f, dst, v, n, path)
	case "image":
		d.image(f, dst, v, n, path)
	case "execution":
		d.execution(f, dst, v, n, path)
	case "map":
		m, ok := v.(map[string]any)
		if !ok {
			d.wrong(f, n, path, v, "")
			return
		}
		out := make(map[string]string, len(m))
		for _, e := range entries(m, n) {
			s, ok := scalar(e.v)
			if !ok {
				d.errorf(e.n, "%s: %s wants a string, not %s", d.subject, join(path, e.key), typeWord(e.v))
				continue
			}
			out[e.key] = s
		}
		dst.Set(reflect.ValueOf(out))
	case "any":
		m, ok := v.(map[string]any)
		if !ok {
			d.wrong(f, n, path, v, "")
			return
		}
		dst.Set(reflect.ValueOf(m))
	}
}

// whole is a whole number, also one written 5.0: JSON Schema takes that too.
func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), true
		}
	}
	return 0, false
}

func number(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

// scalar is the text of a plain value.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return "", false
		}
		return strconv.FormatFloat(v, 'g', -1, 64), true
	}
	return "", false
}

// str fills a string field, after the checks of its word.
func (d *decoder) str(f *field, dst reflect.Value, s string, n *node, path string) {
	if f.alias != nil {
		name, ok := f.alias[s]
		if !ok {
			hint := "one of " + quoted(f.enum)
			if near := nearest(s, f.enum); near != "" {
				hint = "did you mean " + strconv.Quote(near) + "?"
			}
			if s != "" || f.def != "" {
				d.report(SeverityError, n, false, hint, "%s: %s cannot be %q", d.subject, path, s)
				return
			}
		}
		s = name
	}
	switch f.word {
	case "text":
		s = normalText(s)
	case "weekday":
		if _, ok := Weekday(s); !ok && s != "" {
			d.reportValue(SeverityError, n, false, "", "%s: %s = %q is not a day of the week", d.subject, path, s)
		}
	case "date":
		if _, err := time.Parse(time.DateOnly, s); err != nil && s != "" {
			d.reportValue(SeverityError, n, false, "write it as YYYY-MM-DD", "%s: %s = %q is not a date", d.subject, path, s)
		}
	case "timezone":
		if !plausibleZone(s) {
			d.reportValue(SeverityError, n, false, `write it as "Europe/Vienna"`, "%s: %s = %q is not the name of a time zone", d.subject, path, s)
		}
	case "pattern":
		if _, err := CompilePatterns(s); err != nil {
			d.reportValue(SeverityError, n, false, "", "%s: %s: %v", d.subject, path, err)
		}
	}
	if f.ref != "" && s != "" {
		d.ref(f, s, n)
	}
	dst.SetString(s)
}

// plausibleZone says whether s looks like an IANA name. Whether the machine knows it is the daemon's to say:
// schema does no I/O, and Go looks zones up in files.
func plausibleZone(s string) bool {
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-+/", r)) {
			return false
		}
	}
	return len(s) < 64 && !strings.HasPrefix(s, "/") && !strings.Contains(s, "//")
}

func (d *decoder) ref(f *field, raw string, n *node) {
	if d.src == nil {
		return
	}
	pos, length := d.place(n, false)
	d.refs = append(d.refs, pendingRef{kind: f.ref, id: NewID(f.ref, NormalName(f.ref, raw)), raw: raw, pos: pos, length: length})
}

// sub fills a nested table.
func (d *decoder) sub(f *field, dst reflect.Value, v any, n *node, path string) {
	m, ok := v.(map[string]any)
	if !ok {
		d.wrong(f, n, path, v, "")
		return
	}
	d.table(f.shape, dst, m, n, path, nil)
}

// list fills a slice of strings, numbers or tables.
func (d *decoder) list(f *field, dst reflect.Value, v any, n *node, path string) {
	if s, ok := v.(string); ok && f.word == "strlist" {
		list := ParseStringList(s)
		for _, x := range list {
			if f.ref != "" {
				d.ref(f, x, n)
			}
		}
		dst.Set(reflect.ValueOf(list))
		return
	}
	if m, ok := v.(map[string]any); ok && f.word == "one-or-list" {
		v = []any{m}
		n = &node{koff: n.off(), kids: []*node{n}}
	}
	list, ok := items(v, n)
	if !ok {
		hint := ""
		if s, isStr := v.(string); isStr && f.typ.Elem().Kind() == reflect.String {
			hint = "write [" + strconv.Quote(s) + "]"
		}
		d.wrong(f, n, path, v, hint)
		return
	}
	out := reflect.MakeSlice(f.typ, len(list), len(list))
	for i, e := range list {
		at := path + "[" + strconv.Itoa(i) + "]"
		d.note(at, e.n)
		el := out.Index(i)
		switch {
		case f.shape != nil:
			el.Set(f.shape.proto)
			if s, ok := e.v.(string); ok && f.compact {
				el.FieldByIndex(f.shape.byKey["path"].index).SetString(s)
				continue
			}
			m, ok := e.v.(map[string]any)
			if !ok {
				d.errorf(e.n, "%s: %s wants a table, not %s", d.subject, at, typeWord(e.v))
				continue
			}
			d.table(f.shape, el, m, e.n, at, nil)
		case el.Kind() == reflect.String:
			s, ok := e.v.(string)
			if !ok {
				d.errorf(e.n, "%s: %s wants a string, not %s", d.subject, at, typeWord(e.v))
				continue
			}
			if f.alias != nil {
				if _, known := f.alias[s]; !known {
					hint := ""
					if near := nearest(s, f.enum); near != "" {
						hint = "did you mean " + strconv.Quote(near) + "?"
					}
					d.report(SeverityError, e.n, false, hint, "%s: %s cannot be %q", d.subject, at, s)
				}
			}
			if f.ref != "" && s != "" {
				d.ref(f, s, e.n)
			}
			el.SetString(s)
		case el.Kind() == reflect.Int:
			x, ok := whole(e.v)
			if !ok {
				d.errorf(e.n, "%s: %s wants a whole number, not %s", d.subject, at, typeWord(e.v))
				continue
			}
			el.SetInt(x)
		}
	}
	dst.Set(out)
}

func (n *node) off() int {
	if n == nil {
		return 0
	}
	return n.koff
}

// kv reads a key-value block.
func (d *decoder) kv(f *field, v any, n *node, path string) ([]KV, bool) {
	switch v := v.(type) {
	case string:
		return d.kvText(f, v, n, path), true
	case map[string]any:
		if f.word != "kv-env" && f.word != "kv-label" {
			break
		}
		out := make([]KV, 0, len(v))
		for _, e := range entries(v, n) {
			s, ok := scalar(e.v)
			if !ok {
				hint := ""
				if _, nested := e.v.(map[string]any); nested {
					hint = "put quotes around a key with dots"
				}
				d.report(SeverityError, e.n, false, hint, "%s: %s wants a string, not %s", d.subject, join(path, e.key), typeWord(e.v))
				continue
			}
			pos, _ := d.place(e.n, true)
			d.note(join(path, e.key), e.n)
			out = append(out, KV{Key: e.key, Value: s, Pos: pos})
		}
		return out, true
	}
	list, ok := items(v, n)
	if !ok {
		d.wrong(f, n, path, v, "")
		return nil, false
	}
	keyName, valueName := kvNames(f.word)
	var out []KV
	for i, e := range list {
		at := path + "[" + strconv.Itoa(i) + "]"
		d.note(at, e.n)
		switch v := e.v.(type) {
		case string: // Komodo refuses it; what is meant is plain
			out = append(out, d.kvText(f, v, e.n, at)...)
		case map[string]any:
			kv := KV{}
			kv.Pos, _ = d.place(e.n, false)
			for _, x := range entries(v, e.n) {
				s, ok := scalar(x.v)
				switch {
				case x.key != keyName && x.key != valueName:
					d.unknown([]string{keyName, valueName}, nil, x, at)
				case !ok:
					d.errorf(x.n, "%s: %s wants a string, not %s", d.subject, join(at, x.key), typeWord(x.v))
				case x.key == keyName:
					kv.Key = strings.TrimSpace(s)
				default:
					kv.Value = s
				}
			}
			if _, has := v[keyName]; !has {
				d.errorf(e.n, "%s: %s.%s is missing", d.subject, at, keyName)
				continue
			}
			if _, has := v[valueName]; !has {
				d.errorf(e.n, "%s: %s.%s is missing", d.subject, at, valueName)
				continue
			}
			out = append(out, kv)
		default:
			d.errorf(e.n, "%s: %s wants a string or a table, not %s", d.subject, at, typeWord(e.v))
		}
	}
	return out, true
}

// kvNames are the keys of a pair written as a table.
func kvNames(word string) (key, value string) {
	switch word {
	case "kv-conv":
		return "local", "container"
	case "kv-term":
		return "signal", "label"
	}
	return "variable", "value"
}

// kvText reads a block written as text; each entry gets its own line's place.
func (d *decoder) kvText(f *field, text string, n *node, path string) []KV {
	kvs, bad := parseKeyValue(text)
	start, multi := d.contentStart(n)
	at := func(line, column int) Pos {
		switch {
		case !multi:
			p := start
			if line == 1 {
				p.Column += column - 1
			}
			return p
		case line == 1:
			return Pos{File: start.File, Line: start.Line, Column: start.Column + column - 1}
		}
		return Pos{File: start.File, Line: start.Line + line - 1, Column: column}
	}
	for i := range kvs {
		kvs[i].Pos = at(kvs[i].Pos.Line, kvs[i].Pos.Column)
	}
	if bad != nil && d.src != nil {
		d.diags = append(d.diags, Diagnostic{Severity: SeverityError, Pos: at(bad.line+1, bad.column+1), Length: len(bad.text),
			Message: fmt.Sprintf("%s: in %s, %s", d.subject, path, bad.what), Hint: "write one pair a line: " + example(f.word)})
	}
	return kvs
}

func example(word string) string {
	switch word {
	case "kv-conv":
		return "8080:80"
	case "kv-label":
		return "traefik.enable: true"
	case "kv-term":
		return "SIGTERM: stop"
	}
	return "KEY = value"
}

// contentStart is where the text of a string begins, after its quotes, and whether its lines are lines of
// the file.
func (d *decoder) contentStart(n *node) (Pos, bool) {
	if n == nil || d.src == nil {
		return Pos{}, false
	}
	raw := d.src.text[n.voff:min(n.voff+n.vlen, len(d.src.text))]
	if len(raw) >= 6 && isQuote(raw[0]) && raw[1] == raw[0] && raw[2] == raw[0] {
		off := n.voff + 3
		if raw[3] == '\r' && raw[4] == '\n' {
			off += 2
		} else if raw[3] == '\n' {
			off++
		}
		return d.src.pos(off), true
	}
	return d.src.pos(n.voff + 1), false
}

func (d *decoder) version(f *field, dst reflect.Value, v any, n *node, path string) {
	switch v := v.(type) {
	case string:
		x, err := ParseVersion(v)
		if err != nil {
			d.reportValue(SeverityError, n, false, `write it as "1.2.3"`, "%s: %s = %q is not a version", d.subject, path, v)
			return
		}
		dst.Set(reflect.ValueOf(x))
	case map[string]any:
		var x Version
		parts := map[string]*int{"major": &x.Major, "minor": &x.Minor, "patch": &x.Patch}
		for _, e := range entries(v, n) {
			p := parts[e.key]
			if p == nil {
				d.unknown([]string{"major", "minor", "patch"}, nil, e, path)
				continue
			}
			i, ok := whole(e.v)
			if !ok || i < 0 || i > math.MaxInt32 {
				d.errorf(e.n, "%s: %s wants a whole number, not %s", d.subject, join(path, e.key), typeWord(e.v))
				continue
			}
			*p = int(i)
		}
		for _, k := range []string{"major", "minor", "patch"} {
			if _, ok := v[k]; !ok {
				d.errorf(n, "%s: %s.%s is missing", d.subject, path, k)
			}
		}
		dst.Set(reflect.ValueOf(x))
	default:
		d.wrong(f, n, path, v, "put quotes around it")
	}
}

// image reads a deployment's image: the union, or just the reference.
func (d *decoder) image(f *field, dst reflect.Value, v any, n *node, path string) {
	m, ok := v.(map[string]any)
	if !ok {
		d.wrong(f, n, path, v, `write image = { type = "Image", params = { image = "…" } }`)
		return
	}
	img := ImageConfig{Type: "Image"}
	var params map[string]any
	var pn *node
	for _, e := range entries(m, n) {
		switch e.key {
		case "type":
			d.note(path+".type", e.n)
			t, _ := e.v.(string)
			if d.ss.imageOf[t] == nil {
				d.badType([]string{"Image", "Build"}, e, path)
				return
			}
			img.Type = t
		case "params":
			d.note(path+".params", e.n)
			p, ok := e.v.(map[string]any)
			if !ok {
				d.errorf(e.n, "%s: %s.params wants a table, not %s", d.subject, path, typeWord(e.v))
				return
			}
			params, pn = p, e.n
		default:
			d.unknown([]string{"type", "params"}, nil, e, path)
		}
	}
	if img.Type == "Build" {
		var p buildImageParams
		d.table(d.ss.imageOf["Build"], reflect.ValueOf(&p).Elem(), params, pn, path+".params", nil)
		img.Build, img.Version = p.Build, p.Version
	} else {
		var p imageParams
		d.table(d.ss.imageOf["Image"], reflect.ValueOf(&p).Elem(), params, pn, path+".params", nil)
		img.Image = p.Image
	}
	dst.Set(reflect.ValueOf(img))
}

func (d *decoder) execution(f *field, dst reflect.Value, v any, n *node, path string) {
	m, ok := v.(map[string]any)
	if !ok {
		d.wrong(f, n, path, v, "")
		return
	}
	var params map[string]any
	var pn *node
	var es *execShape
	for _, e := range entries(m, n) {
		switch e.key {
		case "type":
			d.note(path+".type", e.n)
			t, _ := e.v.(string)
			if es = d.ss.executions[t]; es == nil {
				d.badType(d.ss.execNames, e, path)
				return
			}
		case "params":
			d.note(path+".params", e.n)
			p, ok := e.v.(map[string]any)
			if !ok {
				d.errorf(e.n, "%s: %s.params wants a table, not %s", d.subject, path, typeWord(e.v))
				return
			}
			params, pn = p, e.n
		default:
			d.unknown([]string{"type", "params"}, nil, e, path)
		}
	}
	if es == nil {
		d.errorf(n, "%s: %s.type is missing", d.subject, path)
		return
	}
	p := reflect.New(es.shape.typ)
	p.Elem().Set(es.shape.proto)
	d.table(es.shape, p.Elem(), params, pn, path+".params", es.keys)
	if es.swarm {
		d.reportValue(SeverityWarning, n, false, "", "%s: %s is not handled by varan", d.subject, es.name)
		d.diags[len(d.diags)-1].Unhandled = true
	}
	dst.Set(reflect.ValueOf(Execution{Type: es.name, Params: p.Interface()}))
}

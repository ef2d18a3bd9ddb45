package schema

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
)

// resource reads one table of a kind.
func (d *decoder) resource(out *parsedFile, kind Kind, m map[string]any, n *node) {
	raw, _ := m["name"].(string)
	name := NormalName(kind, raw)
	d.subject = string(kind) + " " + strconv.Quote(raw)
	d.header, d.keys, d.refs = n, nil, nil
	if n != nil {
		d.keys = make([]keyPos, 0, 16)
	}
	p := &parsedResource{}
	r := &p.Resource
	r.Kind, r.Name, r.ID = kind, name, NewID(kind, name)
	r.Pos, _ = d.place(n, true)

	var common resourceKeys
	var applied appliedKeys
	applied.Ensure = string(EnsureRunning)
	cv, av := reflect.ValueOf(&common).Elem(), reflect.ValueOf(&applied).Elem()
	shape := d.ss.kinds[kind]
	config := reflect.New(shape.typ)
	config.Elem().Set(shape.proto)

	deploySet := false
	named := false
	for _, e := range entries(m, n) {
		if e.key == "config" {
			d.note("config", e.n)
			c, ok := e.v.(map[string]any)
			if !ok {
				d.errorf(e.n, "%s: config wants a table, not %s", d.subject, typeWord(e.v))
				continue
			}
			d.table(shape, config.Elem(), c, e.n, "config", nil)
			continue
		}
		f, dst := d.ss.common.byKey[e.key], cv
		if f == nil && hasApplied(kind) {
			f, dst = d.ss.applied.byKey[e.key], av
		}
		if f == nil {
			names := append(slices.Clone(d.ss.common.names), "config")
			if hasApplied(kind) {
				names = append(names, d.ss.applied.names...)
			}
			d.unknown(names, nil, e, "")
			continue
		}
		d.note(f.key, e.n)
		d.value(f, dst.FieldByIndex(f.index), e.v, e.n, f.key)
		switch e.key {
		case "name":
			named = true
			p.namePos, p.nameLen = d.place(e.n, false)
		case "deploy":
			deploySet = true
		}
	}
	switch {
	case !named:
		d.report(SeverityError, n, true, "", "a %s has no name", kind)
	case name == "" && raw != "":
		d.reportValue(SeverityError, n, true, "use letters and digits", "%s: nothing is left of the name when characters not allowed are dropped", d.subject)
	case name == "":
		if _, ok := m["name"].(string); ok {
			d.reportValue(SeverityError, n, true, "", "a %s has an empty name", kind)
		}
	}
	r.Description, r.Tags, r.Template = common.Description, common.Tags, common.Template
	r.Config = config.Interface()
	if hasApplied(kind) {
		r.Ensure, r.Was, r.Release = Ensure(applied.Ensure), NormalName(kind, applied.Was), applied.Release
		switch {
		case deploySet && !applied.Deploy:
			r.Deploy = DeployFalse
		case !deploySet && d.compat == CompatKomodo:
			r.Deploy = DeployFollow
		default:
			r.Deploy = DeployTrue
		}
		for i, a := range applied.After {
			key := "after[" + strconv.Itoa(i) + "]"
			k := findKey(d.keys, key)
			if a == "" { // empty, or of a wrong type and reported
				if k.length == 2 {
					d.diags = append(d.diags, Diagnostic{Severity: SeverityError, Length: 2, Message: d.subject + ": after names nothing",
						Pos: Pos{File: r.Pos.File, Line: int(k.line), Column: int(k.column)}})
				}
				continue
			}
			p.after = append(p.after, pendingRef{raw: a, stack: NewID(KindStack, NormalName(KindStack, a)), deploy: NewID(KindDeployment, NormalName(KindDeployment, a)),
				pos: Pos{File: r.Pos.File, Line: int(k.line), Column: int(k.column)}, length: int(k.length)})
		}
	}
	r.Server = serverOf(r.Config)
	r.keys = slices.Clip(d.keys)
	d.check(r)
	p.refs = d.refs
	if name != "" {
		out.resources = append(out.resources, p)
	}
	d.subject, d.header = "", nil
}

func findKey(keys []keyPos, key string) keyPos {
	for _, k := range keys {
		if k.key == key {
			return k
		}
	}
	return keyPos{line: 1, column: 1}
}

// variable reads one [[variable]].
func (d *decoder) variable(out *parsedFile, m map[string]any, n *node) {
	raw, _ := m["name"].(string)
	d.subject = "variable " + strconv.Quote(raw)
	d.header, d.keys, d.refs = n, nil, nil
	var v variableKeys
	d.table(d.ss.variable, reflect.ValueOf(&v).Elem(), m, n, "", nil)
	pos, length := d.place(n, true)
	if v.Name != "" {
		if !validVariableName(v.Name) {
			sev := SeverityError
			if d.compat == CompatKomodo {
				sev = SeverityWarning
			}
			d.reportValue(sev, n, true, "use letters, digits and _, not beginning with a digit", "%s: the name cannot be written as [[%s]]", d.subject, v.Name)
		}
		out.variables = append(out.variables, parsedVariable{nameLen: length,
			Variable: Variable{Name: v.Name, Description: v.Description, Value: v.Value, IsSecret: v.IsSecret, Pos: pos}})
	} else if _, ok := m["name"].(string); ok {
		d.reportValue(SeverityError, n, true, "", "a variable has an empty name")
	}
	d.subject, d.header = "", nil
}

func validVariableName(s string) bool {
	for i, c := range s {
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 500
}

// lenient is the severity of what Komodo lets pass.
func (d *decoder) lenient() Severity {
	if d.compat == CompatKomodo {
		return SeverityWarning
	}
	return SeverityError
}

// at reports something about a key of the resource, written or not.
func (d *decoder) at(r *Resource, sev Severity, key, hint, format string, args ...any) {
	if len(d.diags) > maxFileDiagnostics {
		return
	}
	d.diags = append(d.diags, Diagnostic{Severity: sev, Pos: r.At(key), Length: r.Length(key),
		Message: d.subject + ": " + fmt.Sprintf(format, args...), Hint: hint})
}

// serverOf is the server a config names, "" for kinds that stand on none.
func serverOf(config any) string {
	switch c := config.(type) {
	case *DeploymentConfig:
		return NormalName(KindServer, c.Server)
	case *StackConfig:
		return NormalName(KindServer, c.Server)
	case *RepoConfig:
		return NormalName(KindServer, c.Server)
	}
	return ""
}

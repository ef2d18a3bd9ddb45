package schema

import (
	"cmp"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// Options say how files are read.
type Options struct {
	Compat Compat
	Cache  *Cache // keeps parsed files between calls; nil: none
}

// Diagnostics are sorted by place and hold no two alike.
type Diagnostics []Diagnostic

// HasErrors reports whether there is more than warnings.
func (ds Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(ds, func(d Diagnostic) bool { return d.Severity == SeverityError })
}

// Errors are those that are not warnings.
func (ds Diagnostics) Errors() Diagnostics {
	var out Diagnostics
	for _, d := range ds {
		if d.Severity == SeverityError {
			out = append(out, d)
		}
	}
	return out
}

// Sorted is the same set by place, each once.
func (ds Diagnostics) Sorted() Diagnostics {
	slices.SortStableFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(a.Pos.Compare(b.Pos), cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(ds, func(a, b Diagnostic) bool {
		return a.Pos == b.Pos && a.Message == b.Message
	})
}

// A Cache keeps files as parsed by their content id. It may be used by several goroutines at once.
type Cache struct {
	mu    sync.Mutex
	files map[cacheKey]*parsedFile
	used  map[cacheKey]int // generation in which the entry was last asked for
	gen   int
}

type cacheKey struct {
	blob, path string
	compat     Compat
}

// NewCache returns an empty Cache.
func NewCache() *Cache {
	return &Cache{files: map[cacheKey]*parsedFile{}, used: map[cacheKey]int{}}
}

func (c *Cache) get(k cacheKey) *parsedFile {
	if c == nil || k.blob == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.files[k]
	if f != nil {
		c.used[k] = c.gen
	}
	return f
}

func (c *Cache) put(k cacheKey, f *parsedFile) {
	if c == nil || k.blob == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[k], c.used[k] = f, c.gen
}

// sweep ends a call of Parse: entries not asked for in the last few calls go.
func (c *Cache) sweep() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	if c.gen%8 != 0 {
		return
	}
	for k, gen := range c.used {
		if gen < c.gen-8 {
			delete(c.files, k)
			delete(c.used, k)
		}
	}
}

// Wanted reports whether a file at that path, relative to the config path, is read: every *.toml but those
// in hidden folders, those with {{…}} in their path, and varan.toml.
func Wanted(file string) bool {
	if path.Ext(file) != ".toml" || path.Base(file) == "varan.toml" || strings.Contains(file, "{{") && strings.Contains(file, "}}") {
		return false
	}
	dir, base := path.Split(file)
	if strings.HasPrefix(base, ".") {
		return false
	}
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, ".") && part != "." && part != ".." {
			return false
		}
	}
	return true
}

// Parse reads the files together as one Config. It never fails: what is wrong is in the Diagnostics, and the
// Config holds what could be understood. The order of files does not matter.
func Parse(files []File, opts Options) (*Config, Diagnostics) {
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	files = slices.CompactFunc(files, func(a, b File) bool { return a.Path == b.Path })

	parsed := make([]*parsedFile, len(files))
	todo := make([]int, 0, len(files))
	for i, f := range files {
		if parsed[i] = opts.Cache.get(cacheKey{f.Blob, f.Path, opts.Compat}); parsed[i] == nil {
			todo = append(todo, i)
		}
	}
	var wg sync.WaitGroup
	work := make(chan int, len(todo))
	for _, i := range todo {
		work <- i
	}
	close(work)
	for range min(len(todo), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := range work {
				parsed[i] = parseFile(files[i], opts.Compat)
				opts.Cache.put(cacheKey{files[i].Blob, files[i].Path, opts.Compat}, parsed[i])
			}
		})
	}
	wg.Wait()
	opts.Cache.sweep()
	return assemble(parsed, opts.Compat)
}

// A parsedFile is what one file holds, before anything is known of the others. It is shared between Configs
// and must not be written to.
type parsedFile struct {
	path      string
	skipped   bool
	resources []*parsedResource
	variables []parsedVariable
	diags     Diagnostics
}

type parsedResource struct {
	Resource
	refs    []pendingRef // of config
	after   []pendingRef
	namePos Pos
	nameLen int
}

type parsedVariable struct {
	Variable
	nameLen int
}

// tables are the names of our top-level tables: the kinds, what Komodo has beside them, both spellings.
var tables = func() map[string]tableName {
	m := map[string]tableName{}
	add := func(name string, t tableName) {
		t.singular = name
		m[name] = t
		m[name+"s"] = t
	}
	for _, k := range Kinds() {
		add(string(k), tableName{kind: k})
	}
	add("variable", tableName{variable: true})
	for _, s := range []string{"swarm", "action", "user_group"} {
		add(s, tableName{unhandled: true})
	}
	return m
}()

type tableName struct {
	singular            string
	kind                Kind
	variable, unhandled bool
}

func tableNames() []string {
	names := make([]string, 0, len(tables))
	for n := range tables {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// parseFile reads one file.
func parseFile(f File, compat Compat) *parsedFile {
	out := &parsedFile{path: f.Path}
	if len(f.Data) > maxFileSize {
		out.diags = Diagnostics{{Severity: SeverityError, Pos: Pos{File: f.Path, Line: 1, Column: 1},
			Message: fmt.Sprintf("the file has %d bytes; at most %d are read", len(f.Data), maxFileSize), Hint: "split it"}}
		return out
	}
	src, bad := newSource(f.Path, f.Data)
	if bad != nil {
		out.diags = Diagnostics{*bad}
		return out
	}
	values, root, bad := decodeTOML(src)
	if bad != nil {
		out.diags = Diagnostics{*bad}
		return out
	}
	d := &decoder{src: src, compat: compat, ss: theShapes()}
	list := entries(values, root)
	if !d.ours(list) {
		out.skipped = true
		return out
	}
	first := map[string]entry{}
	for _, e := range list {
		t, ok := tables[e.key]
		if !ok {
			d.unknownTable(e)
			continue
		}
		if before, twice := first[t.singular]; twice {
			pos, _ := d.place(before.n, true)
			d.report(SeverityError, e.n, true, "write both the same way", "the file holds both %q and %q (line %d)", e.key, before.key, pos.Line)
		} else {
			first[t.singular] = e
		}
		els, ok := items(e.v, e.n)
		if m, isTable := e.v.(map[string]any); isTable {
			d.report(SeverityError, e.n, true, "write [["+e.key+"]]", "[%s] is one table, where a list of tables belongs", e.key)
			els, ok = []entry{{v: m, n: e.n}}, true
		} else if !ok {
			d.report(SeverityError, e.n, true, "write [["+e.key+"]]", "%s is %s, where a list of tables belongs", e.key, typeWord(e.v))
			continue
		}
		for _, el := range els {
			m, ok := el.v.(map[string]any)
			if !ok {
				d.errorf(el.n, "%s wants tables, not %s", e.key, typeWord(el.v))
				continue
			}
			switch {
			case t.unhandled:
				name, _ := m["name"].(string)
				d.reportValue(SeverityWarning, el.n, true, "", "%s %q is not handled by varan", t.singular, name)
				if n := len(d.diags); n > 0 && d.diags[n-1].Severity == SeverityWarning {
					d.diags[n-1].Unhandled = true
				}
			case t.variable:
				d.variable(out, m, el.n)
			default:
				d.resource(out, t.kind, m, el.n)
			}
		}
	}
	for i := range d.diags { // a mark ends with its line, whatever it marks
		d.diags[i].Length = src.fit(d.diags[i].Pos, d.diags[i].Length)
	}
	out.diags = d.diags
	return out
}

// ours reports whether a file holds a table of ours, or one so named that it was probably meant to be.
func (d *decoder) ours(list []entry) bool {
	for _, e := range list {
		if _, ok := tables[e.key]; ok {
			if m, isTable := e.v.(map[string]any); isTable && !looksDeclared(m) {
				continue // another program's [server] or [build]
			}
			return true
		}
		if nearTable(e) != "" {
			return true
		}
	}
	return false
}

// looksDeclared reports whether a table reads like a resource.
func looksDeclared(m map[string]any) bool {
	_, name := m["name"]
	_, config := m["config"]
	return name && len(m) > 0 || config
}

// nearTable is the table of ours whose name an author may have misspelt, or "". Other programs' files are
// TOML too, so it must be a list of tables (or read like a resource) and off by very little.
func nearTable(e entry) string {
	switch v := e.v.(type) {
	case []map[string]any:
	case []any:
		return ""
	case map[string]any:
		if _, config := v["config"]; !config {
			return ""
		}
	default:
		return ""
	}
	low := strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(e.key), "-", "_"), " ", "_")
	limit := 2
	if len(low) > 7 {
		limit = 3
	}
	best := ""
	for _, n := range tableNames() {
		if k := distance(low, n, limit); k < limit {
			best, limit = n, k
		}
	}
	return best
}

func (d *decoder) unknownTable(e entry) {
	what := "[" + e.key + "]"
	if _, list := e.v.([]map[string]any); list {
		what = "[[" + e.key + "]]"
	} else if _, table := e.v.(map[string]any); !table {
		what = e.key
	}
	if near := nearTable(e); near != "" {
		sev := SeverityError
		if d.compat == CompatKomodo && strings.ReplaceAll(e.key, "-", "_") == near {
			sev = SeverityWarning // [[resource-sync]], which Komodo ignores, is about in the wild
		}
		d.report(sev, e.n, true, "did you mean [["+near+"]]?", "no table %s", what)
		return
	}
	sev := SeverityError
	if d.compat == CompatKomodo {
		sev = SeverityWarning
	}
	hint := ""
	if near := nearest(e.key, tableNames()); near != "" {
		hint = "did you mean [[" + near + "]]?"
	}
	d.report(sev, e.n, true, hint, "no table %s", what)
}

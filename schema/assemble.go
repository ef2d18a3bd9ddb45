package schema

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// assemble puts the files' resources together and checks what can only be seen across them.
func assemble(files []*parsedFile, compat Compat) (*Config, Diagnostics) {
	a := &assembly{config: &Config{Compat: compat, Variables: map[string]*Variable{}}}
	total, after, refs := 0, 0, 0
	for _, f := range files {
		total += len(f.resources)
		a.diags = append(a.diags, f.diags...)
		for _, r := range f.resources {
			after += len(r.after)
			refs += len(r.refs)
		}
	}
	c := a.config
	c.byID = make(map[ID]*Resource, total)
	c.Resources = make([]*Resource, 0, total)
	a.parsed = make([]*parsedResource, 0, total)
	block := make([]Resource, total) // copies: what is resolved here differs from Config to Config
	links := make([]Ref, 0, after+refs)
	for _, f := range files {
		if f.skipped {
			c.Skipped = append(c.Skipped, f.path)
		}
		for _, p := range f.resources {
			if before := c.byID[p.ID]; before != nil {
				a.duplicate(p, before)
				continue
			}
			r := &block[0]
			block = block[1:]
			*r = p.Resource
			c.byID[r.ID] = r
			c.Resources = append(c.Resources, r)
			a.parsed = append(a.parsed, p)
			if s, ok := r.Config.(*ServerConfig); ok {
				if s.Address == "local" {
					a.local(r)
				}
				if s.PublicKey != "" && !r.Template {
					a.key(r, s.PublicKey)
				}
				a.servers++
			}
		}
		for _, v := range f.variables {
			a.variable(v)
		}
	}
	for i, r := range c.Resources {
		p := a.parsed[i]
		if len(p.after) > 0 {
			from := len(links)
			for j := range p.after {
				links = append(links, a.resolveAfter(r, &p.after[j]))
			}
			r.After = links[from:len(links):len(links)]
		}
		from := len(links)
		for j := range p.refs {
			links = a.resolve(r, &p.refs[j], links)
		}
		r.Uses = links[from:len(links):len(links)]
		a.place(r)
		if r.Was != "" {
			a.was(r)
		}
	}
	slices.SortFunc(c.Resources, func(x, y *Resource) int { return cmp.Compare(x.ID, y.ID) })
	a.circles()
	return c, a.diags.Sorted()
}

type assembly struct {
	config  *Config
	parsed  []*parsedResource
	diags   Diagnostics
	servers int
	byKind  map[Kind][]*Resource // for did-you-mean, made when first needed
	hints   int
	formers map[ID]*Resource     // by the name they had
	keys    map[string]*Resource // servers by their agents' public keys
}

func (a *assembly) report(sev Severity, pos Pos, length int, hint, format string, args ...any) {
	a.diags = append(a.diags, Diagnostic{Severity: sev, Pos: pos, Length: length, Hint: hint, Message: fmt.Sprintf(format, args...)})
}

// lenient is the severity of what Komodo lets pass.
func (a *assembly) lenient() Severity {
	if a.config.Compat == CompatKomodo {
		return SeverityWarning
	}
	return SeverityError
}

func place(p Pos) string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

func title(r *Resource) string { return string(r.Kind) + " " + strconv.Quote(r.Name) }

func (a *assembly) duplicate(p *parsedResource, before *Resource) {
	sev, hint := SeverityError, "rename or remove one of them"
	if a.config.Compat == CompatKomodo && p.Pos.File != before.Pos.File {
		sev, hint = SeverityWarning, "the first one counts"
	}
	a.report(sev, p.namePos, p.nameLen, hint, "%s is declared twice: here and at %s", title(&p.Resource), place(before.Pos))
}

func (a *assembly) variable(v parsedVariable) {
	if before := a.config.Variables[v.Name]; before != nil {
		sev, hint := SeverityError, "remove one of them"
		if a.config.Compat == CompatKomodo && v.Pos.File != before.Pos.File {
			sev, hint = SeverityWarning, "the first one counts"
		}
		a.report(sev, v.Pos, v.nameLen, hint, "variable %q is declared twice: here and at %s", v.Name, place(before.Pos))
		return
	}
	copied := v.Variable
	a.config.Variables[v.Name] = &copied
}

func (a *assembly) local(r *Resource) {
	if c := a.config; c.Local != "" {
		before := c.byID[NewID(KindServer, c.Local)]
		a.report(SeverityError, r.At("config.address"), r.Length("config.address"), "",
			"%s and server %q (%s) both have the address \"local\"", title(r), c.Local, place(before.Pos))
		return
	}
	a.config.Local = r.Name
}

// key holds that an agent stands for one server.
func (a *assembly) key(r *Resource, key string) {
	if before := a.keys[key]; before != nil {
		a.report(SeverityError, r.At("config.public_key"), r.Length("config.public_key"), "an agent stands for one server; each has a key of its own",
			"%s and %s (%s) have the same public key", title(r), title(before), place(before.Pos))
		return
	}
	if a.keys == nil {
		a.keys = make(map[string]*Resource)
	}
	a.keys[key] = r
}

// kindsAfter may stand in after.
var kindsAfter = []Kind{KindStack, KindDeployment, KindProcedure, KindBuild, KindRepo}

// resolveAfter finds what an after entry names: among declared stacks and deployments by name, or any kind
// that does something on a merge as kind/name.
func (a *assembly) resolveAfter(r *Resource, p *pendingRef) Ref {
	ref := Ref{Raw: p.raw, Pos: p.pos}
	byID := a.config.byID
	if k, name, ok := strings.Cut(p.raw, "/"); ok && slices.Contains(kindsAfter, Kind(k)) {
		if id := NewID(Kind(k), NormalName(Kind(k), name)); byID[id] != nil {
			ref.ID = id
			return ref
		}
		a.undeclared(r, p, []Kind{Kind(k)}, "comes after", name)
		return ref
	}
	stack, deployment := byID[p.stack], byID[p.deploy]
	switch {
	case stack != nil && deployment != nil:
		a.report(SeverityError, p.pos, p.length, fmt.Sprintf("write %q or %q", stack.ID, deployment.ID),
			"%s comes after %q, which is both a stack (%s) and a deployment (%s)", title(r), p.raw, place(stack.Pos), place(deployment.Pos))
	case stack != nil:
		ref.ID = stack.ID
	case deployment != nil:
		ref.ID = deployment.ID
	default:
		for _, k := range []Kind{KindProcedure, KindBuild, KindRepo} {
			if o := byID[NewID(k, NormalName(k, p.raw))]; o != nil {
				a.report(a.lenient(), p.pos, p.length, fmt.Sprintf("write %q", o.ID),
					"%s comes after %q, which no file declares as a stack or deployment; %s:%d declares a %s of that name", title(r), p.raw, o.Pos.File, o.Pos.Line, k)
				return ref
			}
		}
		a.undeclared(r, p, []Kind{KindStack, KindDeployment}, "comes after", p.raw)
	}
	return ref
}

// resolve finds what a reference of config names.
func (a *assembly) resolve(r *Resource, p *pendingRef, links []Ref) []Ref {
	id := p.id
	orders := r.Kind != KindProcedure && r.Kind != KindAlerter
	if a.config.byID[id] == nil {
		if p.kind == KindServer && p.raw == "local" && a.servers == 0 {
			return links // this machine, which needs no declaration
		}
		a.undeclared(r, p, []Kind{p.kind}, "names", p.raw)
		id = ""
	}
	if !orders {
		return links
	}
	return append(links, Ref{ID: id, Raw: p.raw, Pos: p.pos})
}

// undeclared says that a reference leads nowhere, and what its author may have meant.
func (a *assembly) undeclared(r *Resource, p *pendingRef, kinds []Kind, verb, name string) {
	hint := ""
	if a.hints++; a.hints <= 200 { // each looks at every name
		if near := a.near(kinds, name, r); near != nil {
			hint = fmt.Sprintf("did you mean %q? (%s)", near.Name, place(near.Pos))
		}
	}
	if hint == "" && p.kind != "" && a.config.Compat != CompatKomodo {
		hint = fmt.Sprintf("declare it: [[%s]] name = %q", p.kind, p.raw)
	}
	if verb == "names" {
		verb = "names the " + strings.ReplaceAll(string(p.kind), "_", " ")
	}
	a.report(a.lenient(), p.pos, p.length, hint, "%s %s %q, which no file declares", title(r), verb, p.raw)
}

func (a *assembly) near(kinds []Kind, name string, self *Resource) *Resource {
	if a.byKind == nil {
		a.byKind = map[Kind][]*Resource{}
		for _, r := range a.config.byID {
			a.byKind[r.Kind] = append(a.byKind[r.Kind], r)
		}
	}
	var found *Resource
	best := 1 + max(1, len(name)/3)
	low := strings.ToLower(name)
	for _, k := range kinds {
		for _, r := range a.byKind[k] {
			if r == self {
				continue
			}
			n := distance(low, strings.ToLower(r.Name), best+1)
			if n < best || found != nil && n == best && r.ID < found.ID {
				best, found = n, r
			}
		}
	}
	return found
}

// was checks a former name: only one may claim it, and nobody may bear it.
func (a *assembly) was(r *Resource) {
	id := NewID(r.Kind, r.Was)
	if o := a.config.byID[id]; o != nil {
		a.report(SeverityError, r.At("was"), r.Length("was"), "drop was, or rename the other", "%s was %q, which is still declared at %s", title(r), r.Was, place(o.Pos))
		return
	}
	if o := a.formers[id]; o != nil {
		a.report(SeverityError, r.At("was"), r.Length("was"), "only one can take over its containers", "%s and %s (%s) both say they were %q", title(r), title(o), place(o.Pos), r.Was)
		return
	}
	if a.formers == nil {
		a.formers = map[ID]*Resource{}
	}
	a.formers[id] = r
}

// place sees to it that what stands on a server has one.
func (a *assembly) place(r *Resource) {
	if r.Server != "" || r.Template {
		return
	}
	switch c := r.Config.(type) {
	case *DeploymentConfig:
		if c.Swarm != "" {
			return
		}
	case *StackConfig:
		if c.Swarm != "" {
			return
		}
	default:
		return
	}
	if a.servers == 0 || a.servers == 1 && a.config.Local != "" {
		return
	}
	r.Unplaced = true
	hint := "set config.server"
	if a.config.Local != "" {
		hint = fmt.Sprintf("set config.server = %q, or another", a.config.Local)
	}
	a.report(a.lenient(), r.Pos, len(r.Kind)+4, hint, "%s names no server, and the files declare %d", title(r), a.servers)
}

package plan

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/varanhq/varan/schema"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// stackFixture is what a golden file's declared.json says of one stack; compose files are plan/compose's to read.
type stackFixture struct {
	Project string
	Units   []Unit
	Volumes map[string]json.RawMessage
	Binds   []Bind
	Ports   []Port
	Missing []string
	Unread  string
	Blocked string
	Private []Privilege
	Error   string
}

// TestGolden reads testdata/make/*.txtar: the TOML as committed, declared.json (what its stacks' compose files
// say), rules.json, binaries.json (those that are missing), state.json (what the server reports), and compares plan.txt and, where it stands, plan.json.
// In state.json a digest "@" is the declared one, "old" the ledger's, "before" that of the TOML under before/.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/make/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			arc, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := makeGolden(t, arc)
			js, err := p.JSON()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{"plan.txt": describe(p), "plan.json": string(js)}
			seen := false
			for i, f := range arc.Files {
				want, ok := got[f.Name]
				if !ok {
					continue
				}
				seen = seen || f.Name == "plan.txt"
				if *update {
					arc.Files[i].Data = []byte(want)
				} else if diff := cmp.Diff(string(f.Data), want); diff != "" {
					t.Errorf("%s (-want +got):\n%s", f.Name, diff)
				}
			}
			if *update {
				if !seen {
					arc.Files = append(arc.Files, txtar.File{Name: "plan.txt", Data: []byte(got["plan.txt"])})
				}
				if err := os.WriteFile(file, txtar.Format(arc), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if !seen {
				t.Error("no plan.txt: run with -update")
			}
		})
	}
}

func makeGolden(t *testing.T, arc *txtar.Archive) *Plan {
	t.Helper()
	d := &Desired{Fleet: "main", Sync: "main", Commit: "c0ffee", Local: "local", Declared: map[schema.ID]*Declared{},
		Known: map[string]bool{"PASSWORD": true}, Rules: Rules{Complete: true}}
	st := &State{}
	stacks := map[schema.ID]stackFixture{}
	var files, before []schema.File
	for _, f := range arc.Files {
		switch {
		case strings.HasPrefix(f.Name, "before/"):
			before = append(before, schema.File{Path: strings.TrimPrefix(f.Name, "before/"), Data: f.Data})
		case strings.HasSuffix(f.Name, ".toml"):
			files = append(files, schema.File{Path: f.Name, Data: f.Data})
		case f.Name == "declared.json":
			decode(t, f, &stacks)
		case f.Name == "rules.json":
			decode(t, f, &d.Rules)
		case f.Name == "binaries.json":
			decode(t, f, &d.Binaries)
		case f.Name == "state.json":
			decode(t, f, &st.Servers)
		}
	}
	var diags schema.Diagnostics
	d.Config, diags = schema.Parse(files, schema.Options{})
	if diags.HasErrors() {
		t.Fatalf("TOML: %v", diags)
	}
	for name, v := range d.Config.Variables {
		d.Known[name] = v.IsSecret
	}
	for _, r := range d.Config.Resources {
		switch r.Kind {
		case schema.KindDeployment:
			r, _ = schema.ResolveVariables(r, d.Config.Variables, func(name string) (bool, bool) { s, ok := d.Known[name]; return s, ok })
			d.Declared[r.ID] = DeclareDeployment(r, d.Known)
		case schema.KindStack:
			if fx, ok := stacks[r.ID]; ok {
				d.Declared[r.ID] = fx.declare(t, r)
			}
		}
	}
	for name, s := range st.Servers {
		s.Name = name
		fillDigests(t, d, s)
	}
	var previous *schema.Config
	if before != nil {
		previous, _ = schema.Parse(before, schema.Options{})
		for _, s := range st.Servers {
			for i := range s.Containers {
				if c := &s.Containers[i]; c.Digest == "before" {
					r, _ := schema.ResolveVariables(previous.Get(c.Resource), previous.Variables, func(name string) (bool, bool) { s, ok := d.Known[name]; return s, ok })
					c.Digest = DeclareDeployment(r, d.Known).Units[0].Digest
				}
			}
		}
	}
	return Make(d, st, previous)
}

func decode(t *testing.T, f txtar.File, v any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(f.Data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		t.Fatalf("%s: %v", f.Name, err)
	}
}

func (fx stackFixture) declare(t *testing.T, r *schema.Resource) *Declared {
	d := &Declared{Resource: r.ID, Project: fx.Project, Binds: fx.Binds, Ports: fx.Ports, Unread: fx.Unread, Blocked: fx.Blocked, Privileges: fx.Private}
	if d.Project == "" {
		d.Project = r.Name
	}
	for _, u := range fx.Units {
		d.Units = append(d.Units, complete(t, u))
	}
	for name, spec := range fx.Volumes {
		if d.Volumes == nil {
			d.Volumes = map[string]Definition{}
		}
		d.Volumes[name] = Definition{Digest: NewDigest(spec, nil), Spec: spec, Pos: schema.Pos{File: "compose.yaml", Line: 9, Column: 3}}
	}
	for _, name := range fx.Missing {
		d.Missing = append(d.Missing, Missing{Name: name})
	}
	if fx.Error != "" {
		d.Diagnostics = []schema.Diagnostic{{Severity: schema.SeverityError, Pos: schema.Pos{File: "compose.yaml", Line: 3, Column: 1}, Message: fx.Error}}
	}
	return d
}

// complete fills in a unit's digest and image from its spec.
func complete(t *testing.T, u Unit) Unit {
	t.Helper()
	spec, err := CanonicalJSON(u.Spec)
	if err != nil {
		t.Fatal(err)
	}
	u.Spec, u.Digest = spec, NewDigest(spec, u.Files)
	var fields struct{ Image string }
	if err := json.Unmarshal(spec, &fields); err != nil {
		t.Fatal(err)
	}
	u.Image = fields.Image
	return u
}

func fillDigests(t *testing.T, d *Desired, s *ServerState) {
	for id, e := range s.Ledger {
		e.Resource = id
		if e.Fleet == "" {
			e.Fleet, e.Sync, e.Outcome = "main", "main", "done"
		}
		for i, u := range e.Units {
			if u.Digest == "@" {
				if want := adoptedUnit(&Entry{Units: d.Declared[id].Units}, u.Service); want != nil {
					e.Units[i] = *want
				}
			} else {
				e.Units[i] = complete(t, u)
			}
		}
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		if c.ID == "" {
			c.ID = "id-of-" + c.Name
		}
		if c.Status == "" {
			c.Status = "running"
		}
		if c.Resource != "" && c.Fleet == "" {
			c.Fleet, c.Sync = "main", "main"
		}
		var units []Unit
		switch c.Digest {
		case "@":
			units = d.Declared[c.Resource].Units
		case "old":
			units = s.Ledger[c.Resource].Units
		}
		for _, u := range units {
			if u.Service == c.Service {
				c.Digest = u.Digest
			}
		}
	}
	for i := range s.Holds {
		if s.Holds[i].Digest == "@" {
			s.Holds[i].Digest = ResourceDigest(d.Declared[s.Holds[i].Resource].Units)
		}
	}
}

// describe is the plan as a reviewer of a golden file reads it.
func describe(p *Plan) string {
	var b strings.Builder
	for _, a := range p.Asks {
		fmt.Fprintf(&b, "asks: %s\n", a)
	}
	for _, d := range p.Diagnostics {
		fmt.Fprintf(&b, "%s %s:%d: %s\n", d.Severity, d.File, d.Line, d.Message)
		if d.Hint != "" {
			fmt.Fprintf(&b, "\t%s\n", d.Hint)
		}
	}
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%d %s %s", s.Wave, s.Action, s.Resource)
		if s.Gate {
			b.WriteString(" (gate)")
		}
		b.WriteByte('\n')
		for _, c := range s.Causes {
			fmt.Fprintf(&b, "\t%s: %s\n", c.Kind, c.Detail)
		}
		for _, svc := range s.Services {
			fmt.Fprintf(&b, "\t%s %s\n", svc.Action, svc.Name)
		}
		for _, c := range s.Changes {
			secret := ""
			if c.Secret {
				secret = " (secret)"
			}
			fmt.Fprintf(&b, "\t%s: %v → %v%s\n", c.Path, c.Old, c.New, secret)
		}
	}
	return b.String()
}

package plan

import (
	"testing"

	"github.com/varanhq/varan/schema"
)

func stackRes(name string, after ...string) (*schema.Resource, *Declared) {
	r := &schema.Resource{ID: schema.NewID(schema.KindStack, name), Kind: schema.KindStack, Name: name, Deploy: schema.DeployTrue, Ensure: schema.EnsureRunning, Config: &schema.StackConfig{}, Pos: schema.Pos{File: "a.toml", Line: 1, Column: 1}}
	for _, a := range after {
		r.After = append(r.After, schema.Ref{ID: schema.ID(a), Raw: a})
	}
	spec, _ := CanonicalJSON(map[string]any{"image": "nginx:1"})
	u := Unit{Service: "web", Spec: spec, Digest: NewDigest(spec, nil), Image: "nginx:1"}
	return r, &Declared{Resource: r.ID, Project: name, Units: []Unit{u}}
}

func TestSmoke(t *testing.T) {
	a, da := stackRes("a")
	b, db := stackRes("b", "stack/a")
	d := &Desired{Fleet: "main", Sync: "main", Local: "local", Config: &schema.Config{Resources: []*schema.Resource{a, b}}, Declared: map[schema.ID]*Declared{a.ID: da, b.ID: db}, Rules: Rules{Complete: true}}
	st := &State{Servers: map[string]*ServerState{"local": {Name: "local"}}}
	p := Make(d, st, nil)
	js, _ := p.JSON()
	t.Log(string(js))
}

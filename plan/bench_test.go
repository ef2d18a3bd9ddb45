package plan

import (
	"fmt"
	"testing"

	"github.com/varanhq/varan/schema"
)

// layers is n stacks in ten layers, each after three of the layer before; chain is n stacks one after another.
// Everything runs as declared.
func layers(n int) *world {
	per := n / 10
	return graphOf(n, func(i int) []int {
		if i < per {
			return nil
		}
		base := (i/per - 1) * per
		return []int{base + i%per, base + (i+1)%per, base + (i+2)%per}
	})
}

func chain(n int) *world {
	return graphOf(n, func(i int) []int {
		if i == 0 {
			return nil
		}
		return []int{i - 1}
	})
}

func graphOf(n int, after func(int) []int) *world {
	w := &world{
		d:  &Desired{Fleet: "main", Sync: "main", Local: "local", Config: &schema.Config{}, Declared: map[schema.ID]*Declared{}, Rules: Rules{Complete: true}},
		st: &State{Servers: map[string]*ServerState{"local": {Name: "local", Ledger: map[schema.ID]*Entry{}}}},
	}
	name := func(i int) string { return fmt.Sprintf("s%06d", i) }
	host := w.st.Servers["local"]
	for i := range n {
		r := &schema.Resource{ID: schema.NewID(schema.KindStack, name(i)), Kind: schema.KindStack, Name: name(i), Deploy: schema.DeployTrue,
			Ensure: schema.EnsureRunning, Config: &schema.StackConfig{}, Pos: schema.Pos{File: "a.toml", Line: i + 1, Column: 1}}
		for _, j := range after(i) {
			r.After = append(r.After, schema.Ref{ID: schema.NewID(schema.KindStack, name(j)), Raw: name(j)})
		}
		u := unitOf("web", "img:1")
		u.Container = r.Name + "-web-1"
		w.d.Config.Resources = append(w.d.Config.Resources, r)
		w.d.Declared[r.ID] = &Declared{Resource: r.ID, Project: r.Name, Units: []Unit{u}}
		host.Containers = append(host.Containers, Container{ID: r.Name, Name: u.Container, Status: "running", Resource: r.ID, Fleet: "main", Sync: "main",
			Digest: u.Digest, Project: r.Name, Service: "web"})
		host.Ledger[r.ID] = &Entry{Resource: r.ID, Fleet: "main", Outcome: "done", Project: r.Name, Units: []Unit{u}}
	}
	return w
}

func benchmarkMake(b *testing.B, w *world) {
	b.ReportAllocs()
	for b.Loop() {
		if p := Make(w.d, w.st, nil); p.Changes() {
			b.Fatal("something to do")
		}
	}
}

func benchmarkCreate(b *testing.B, w *world) {
	w.st.Servers["local"].Containers, w.st.Servers["local"].Ledger = nil, nil
	b.ReportAllocs()
	for b.Loop() {
		if p := Make(w.d, w.st, nil); !p.Changes() {
			b.Fatal("nothing to do")
		}
	}
}

func BenchmarkMakeLayers10k(b *testing.B)   { benchmarkMake(b, layers(10_000)) }
func BenchmarkMakeChain10k(b *testing.B)    { benchmarkMake(b, chain(10_000)) }
func BenchmarkMakeChain100k(b *testing.B)   { benchmarkMake(b, chain(100_000)) }
func BenchmarkCreateLayers10k(b *testing.B) { benchmarkCreate(b, layers(10_000)) }
func BenchmarkCreateChain100k(b *testing.B) { benchmarkCreate(b, chain(100_000)) }

func BenchmarkQueries10k(b *testing.B) {
	w := layers(10_000)
	for b.Loop() {
		if q := Queries(w.d, w.st); len(q) > 0 {
			b.Fatal("asked without need")
		}
	}
}

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestPlanBytes: a plan's JSON has its published shape, and equal bytes in 100 runs with the files written in
// another order each time.
func TestPlanBytes(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(filepath.Join(w.dir, "host.env"), []byte("H=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := app(w)
	for i := range 8 {
		files[fmt.Sprintf("d%d/x.toml", i)] = one(fmt.Sprintf("n%d", i), fmt.Sprintf(`after = ["ID", %q]`, "ID-n"+fmt.Sprint((i+1)%9)))
	}
	files["z.toml"] = one("n8") + "\n[[server]]\nname = \"here\"\n[server.config]\naddress = \"local\"\n"
	w.write(files)
	first := w.varan("plan", "--json", w.repo)
	checkShape(t, []byte(first.stdout))

	names := slices.Sorted(maps.Keys(files))
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for run := range 100 {
		if err := os.RemoveAll(w.repo); err != nil {
			t.Fatal(err)
		}
		random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			w.write(map[string]string{name: files[name]})
		}
		if again := w.varan("plan", "--json", w.repo); again.stdout != first.stdout {
			t.Fatalf("run %d differs:\n%s\n---\n%s", run, again.stdout, first.stdout)
		}
	}
	// And applied: the shape of a plan that changes something.
	w.apply()
	w.replace("app/compose.yaml", "K: x", "K: y")
	checkShape(t, []byte(w.varan("plan", "--json", w.repo).stdout))
	if _, err := os.Stat(filepath.Join(w.root, "ledger")); err != nil {
		t.Errorf("no ledger: %v", err)
	}
}

// checkShape holds the JSON against the published shape: every key there, of its type; lists never null.
func checkShape(t *testing.T, data []byte) {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	if p["version"] != float64(1) {
		t.Errorf("version = %v, want 1", p["version"])
	}
	keys(t, "plan", p, "version:n", "commit:s", "digest:s", "summary:o", "steps:l", "diagnostics:l")
	summary, _ := p["summary"].(map[string]any)
	for _, action := range []string{"create", "update", "recreate", "restart", "run", "adopt", "remove", "none", "unknown", "blocked", "held"} {
		if _, ok := summary[action].(float64); !ok {
			t.Errorf("summary has no number for %q", action)
		}
	}
	for _, step := range objects(p["steps"]) {
		keys(t, "step", step, "resource:s", "action:s", "wave:n", "after:l", "causes:l", "services:l", "changes:l", "source:o")
		for _, c := range objects(step["causes"]) {
			keys(t, "cause", c, "kind:s")
		}
		for _, s := range objects(step["services"]) {
			keys(t, "service", s, "name:s", "action:s")
		}
		for _, c := range objects(step["changes"]) {
			keys(t, "change", c, "path:s", "secret:b")
			for _, k := range []string{"old", "new"} {
				if _, ok := c[k]; !ok {
					t.Errorf("change has no %q: %v", k, c)
				}
			}
		}
		source, _ := step["source"].(map[string]any)
		keys(t, "source", source, "file:s", "line:n")
	}
	for _, d := range objects(p["diagnostics"]) {
		keys(t, "diagnostic", d, "severity:s", "message:s")
	}
}

func objects(v any) []map[string]any {
	var out []map[string]any
	list, _ := v.([]any)
	for _, e := range list {
		o, _ := e.(map[string]any)
		out = append(out, o)
	}
	return out
}

// keys wants each key with its type: s string, n number, b bool, o object, l list.
func keys(t *testing.T, what string, o map[string]any, want ...string) {
	t.Helper()
	for _, k := range want {
		name, kind := k[:len(k)-2], k[len(k)-1]
		var ok bool
		switch kind {
		case 's':
			_, ok = o[name].(string)
		case 'n':
			_, ok = o[name].(float64)
		case 'b':
			_, ok = o[name].(bool)
		case 'o':
			_, ok = o[name].(map[string]any)
		case 'l':
			_, ok = o[name].([]any)
		}
		if !ok {
			t.Errorf("%s: %q is %T", what, name, o[name])
		}
	}
}

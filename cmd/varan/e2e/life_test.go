package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/varanhq/varan/plan"
)

// one is a deployment that sleeps.
func one(name string, more ...string) string {
	return `
[[deployment]]
name = "ID-` + name + `"
` + strings.Join(more, "\n") + `
[deployment.config]
image = { type = "Image", params = { image = "varan-e2e:1" } }
network = "none"
restart = "unless-stopped"
command = "sleep 2147483647"
extra_args = ["--stop-signal", "SIGKILL"]
environment = """
K = x
"""
settle = "0s"
`
}

// TestLife: a deployment is created, changed, left alone, kept when its declaration goes, removed with
// delete, and let go of with release.
func TestLife(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{"a.toml": one("a") + one("b") + one("c") + one("d")})
	w.apply()
	if got := len(w.ids()); got != 4 {
		t.Fatalf("%d containers run, want 4", got)
	}
	w.nothingToDo()

	before := w.ids()
	w.write(map[string]string{"a.toml": strings.Replace(one("a"), "K = x", "K = y", 1) + one("b") + one("c") + one("d")})
	w.apply()
	after := w.ids()
	if before[w.id+"-a"] == after[w.id+"-a"] {
		t.Error("a changed environment did not recreate the container")
	}
	if before[w.id+"-b"] != after[w.id+"-b"] {
		t.Error("an unchanged deployment was recreated")
	}

	w.write(map[string]string{"a.toml": one("a") + one("b") + one("c")})
	w.apply()
	if len(w.ids()) != 4 {
		t.Error("a deployment gone from Git was removed without delete = true")
	}

	w.write(map[string]string{"a.toml": one("a") + one("b", "release = true") + one("c")})
	w.configure("[config]\ndelete = true\n")
	w.apply()
	ids := w.ids()
	if _, runs := ids[w.id+"-d"]; runs {
		t.Error("delete = true did not remove what no file declares")
	}
	if ids[w.id+"-b"] != after[w.id+"-b"] {
		t.Error("release = true touched the container")
	}
	w.write(map[string]string{"a.toml": one("a") + one("c")})
	w.apply()
	if ids := w.ids(); ids[w.id+"-b"] != after[w.id+"-b"] {
		t.Error("a released container was removed")
	}
}

// TestDrift: what a person stops or removes is put right, also a service that exits 0 on SIGTERM.
func TestDrift(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{
		"a.toml": one("a") + `
[[stack]]
name = "ID"
[stack.config]
settle = "0s"
file_contents = """
services:
  polite:
    image: varan-e2e:1
    command: ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"]
    restart: on-failure
  hard:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
"""
`,
	})
	stop := w.serve()
	defer stop()
	w.eventually("three containers run", time.Minute, func() (bool, string) {
		return len(w.ids()) == 3, w.names()
	})
	first := w.ids()
	ctx := context.Background()
	w.settled()
	if err := w.docker.ContainerStop(ctx, w.id+"-polite-1", container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.docker.ContainerRemove(ctx, w.id+"-a", container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	w.eventually("both run again", time.Minute, func() (bool, string) {
		return len(w.ids()) == 3, w.names()
	})
	second := w.ids()
	if first[w.id+"-polite-1"] != second[w.id+"-polite-1"] {
		t.Error("a stopped container was recreated, want it started")
	}
	if first[w.id+"-hard-1"] != second[w.id+"-hard-1"] {
		t.Error("the neighbour of a drifted service was touched")
	}
}

// TestOneShot: a job that takes longer than settle is run once.
func TestOneShot(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{"a.toml": `
[[stack]]
name = "ID"
[stack.config]
settle = "200ms"
file_contents = """
services:
  job:
    image: varan-e2e:1
    command: ["sh", "-c", "sleep 1"]
    restart: "no"
"""
`})
	start := time.Now()
	w.apply()
	w.eventually("the job ends", 20*time.Second, func() (bool, string) { return len(w.ids()) == 0, w.names() })
	w.nothingToDo()
	w.apply()
	w.write(map[string]string{"note.md": "x"})
	w.apply()
	if n := w.events(start, "start")["start "+w.id+"-job-1"]; n != 1 {
		t.Errorf("the job was started %d times, want once", n)
	}
}

// TestAfterWaitsForHealth: what comes after starts when its parent is healthy, not merely started.
func TestAfterWaitsForHealth(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{"a.toml": strings.Replace(one("slow"), `extra_args = [`,
		`extra_args = ["--health-cmd", "test -e /tmp/ready", "--health-interval", "200ms", "--health-retries", "50", `, 1) +
		strings.Replace(one("next", `after = ["ID-slow"]`), `K = x`, `K = x`, 1)})
	w.replace("a.toml", `command = "sleep 2147483647"
extra_args = ["--health-cmd"`, `command = "sh -c 'sleep 2; touch /tmp/ready; sleep 2147483647'"
extra_args = ["--health-cmd"`)
	w.apply()
	ctx := context.Background()
	slow, err := w.docker.ContainerInspect(ctx, w.id+"-slow")
	if err != nil {
		t.Fatal(err)
	}
	next, err := w.docker.ContainerInspect(ctx, w.id+"-next")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := time.Parse(time.RFC3339Nano, slow.State.StartedAt)
	b, _ := time.Parse(time.RFC3339Nano, next.State.StartedAt)
	if gap := b.Sub(a); gap < 2*time.Second {
		t.Errorf("the dependent started %s after its parent, before it was healthy", gap)
	}
}

// TestRollback: an unhealthy new version is put back, reported, and held through unrelated commits.
func TestRollback(t *testing.T) {
	w := newWorld(t)
	healthy := strings.Replace(one("a"), `extra_args = [`,
		`extra_args = ["--health-cmd", "test $K = x", "--health-interval", "200ms", "--health-retries", "2", `, 1)
	w.write(map[string]string{"a.toml": healthy})
	w.apply()
	before := w.ids()
	w.replace("a.toml", "K = x\n", "K = broken\n")
	r := w.varan("apply", "--yes", w.repo)
	if r.exit != 1 {
		t.Fatalf("varan apply of an unhealthy version: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	if !strings.Contains(r.stdout+r.stderr, "unhealthy") {
		t.Errorf("the report does not say unhealthy:\n%s%s", r.stdout, r.stderr)
	}
	if after := w.ids(); after[w.id+"-a"] != before[w.id+"-a"] {
		t.Errorf("what ran before does not run again: %v, want %v", after, before)
	}
	start := time.Now()
	for range 20 {
		w.write(map[string]string{"note.md": time.Now().String()})
		p := w.plan()
		if len(p.Steps) != 1 || p.Steps[0].Action != plan.Held {
			t.Fatalf("plan: %+v, want held", p.Steps)
		}
	}
	w.varan("apply", "--yes", w.repo)
	if ev := w.events(start, "create", "start", "die"); len(ev) != 0 {
		t.Errorf("a held resource was touched: %v", ev)
	}
	w.replace("a.toml", "K = broken\n", "K = x\n")
	w.replace("a.toml", "test $K = x", "test $K = x -o $K = y")
	w.replace("a.toml", "K = x\n", "K = y\n")
	w.apply()
	if after := w.ids(); after[w.id+"-a"] == before[w.id+"-a"] {
		t.Error("the fixed version was not applied")
	}
}

// TestRegistryDown: an image that cannot be pulled stops nothing, and others are still applied.
func TestRegistryDown(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{"a.toml": one("a") + one("b")})
	w.apply()
	before := w.ids()
	w.replace("a.toml", `name = "ID-a"

[deployment.config]
image = { type = "Image", params = { image = "varan-e2e:1" } }`, `name = "ID-a"

[deployment.config]
image = { type = "Image", params = { image = "127.0.0.1:1/nothing/here:9" } }`)
	b := `name = "ID-b"

[deployment.config]
image = { type = "Image", params = { image = "varan-e2e:2" } }`
	w.replace("a.toml", strings.Replace(b, ":2", ":1", 1), b)
	start := time.Now()
	r := w.varan("apply", "--yes", w.repo)
	if r.exit != 1 {
		t.Fatalf("varan apply: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	after := w.ids()
	if after[w.id+"-a"] != before[w.id+"-a"] {
		t.Error("a failed pull touched what ran")
	}
	if after[w.id+"-b"] == before[w.id+"-b"] {
		t.Error("an unrelated resource was not applied")
	}
	for _, verb := range []string{"kill", "stop", "die"} {
		if n := w.events(start, verb)[verb+" "+w.id+"-a"]; n != 0 {
			t.Errorf("%s event for a container whose new image could not be pulled", verb)
		}
	}
}

// TestAmnesia: data directory and ledger deleted: nothing to do, same container ids.
func TestAmnesia(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(filepath.Join(w.dir, "host.env"), []byte("H=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := app(w)
	files["b.toml"] = one("b", `after = ["ID"]`) + strings.Replace(one("s"), "K = x", "K = [[CANARY]]", 1)
	w.write(files)
	w.configure("[secrets]\nCANARY = \"canary-e2e-value\"\n")
	w.apply()
	before := w.ids()
	if err := os.RemoveAll(w.data); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(w.root, "ledger")); err != nil {
		t.Fatal(err)
	}
	w.nothingToDo()
	w.apply()
	after := w.ids()
	for name, id := range before {
		if after[name] != id {
			t.Errorf("%s was recreated", name)
		}
	}
	if len(before) != 17 {
		t.Errorf("%d containers, want 17", len(before))
	}
}

// TestSecretStays: no secret's value in plan, output, ledger; a changed value recreates its user only.
func TestSecretStays(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{"a.toml": one("a") + strings.Replace(one("s"), "K = x", "K = [[CANARY]]", 1)})
	w.configure("[secrets]\nCANARY = \"canary-e2e-value\"\n")
	out := w.apply()
	before := w.ids()
	c, err := w.docker.ContainerInspect(context.Background(), w.id+"-s")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(c.Config.Env, "\n"), "K=canary-e2e-value") {
		t.Errorf("the secret did not reach the container: %v", c.Config.Env)
	}
	w.configure("[secrets]\nCANARY = \"canary-e2e-other\"\n")
	p := w.varan("plan", "--json", w.repo)
	out2 := w.apply()
	after := w.ids()
	if before[w.id+"-s"] == after[w.id+"-s"] {
		t.Error("a changed secret did not recreate its user")
	}
	if before[w.id+"-a"] != after[w.id+"-a"] {
		t.Error("a changed secret recreated another deployment")
	}
	seen := out.stdout + out.stderr + p.stdout + p.stderr + out2.stdout + out2.stderr
	filepath.Walk(w.root, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			data, _ := os.ReadFile(path)
			if strings.Contains(string(data), "canary-e2e") {
				t.Errorf("%s holds the secret", path)
			}
		}
		return nil
	})
	for k, v := range c.Config.Labels {
		seen += k + v
	}
	if strings.Contains(seen, "canary-e2e") {
		t.Error("the secret was printed or labelled")
	}
	w.nothingToDo()
}

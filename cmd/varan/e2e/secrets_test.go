package e2e

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// envOf is a container's environment by its full name.
func (w *world) envOf(name string) []string {
	w.t.Helper()
	c, err := w.docker.ContainerInspect(context.Background(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Config.Env
}

// TestSecretsExact: a secret's value reaches containers byte for byte, whatever is in it; [[[NAME]]] is the literal
// [[NAME]]; a shell's [[ test ]] is no name; skip_secret_interp leaves all as it is.
func TestSecretsExact(t *testing.T) {
	w := newWorld(t)
	const odd = "a$b ${COLOUR} $$ 'single' \"double\" #hash %s \\n\nsecond line\t=[[OTHER]] ünï "
	w.configure("[secrets]\nODD = " + strconv.Quote(odd) + "\nOTHER = \"other-value\"\n")
	const shell = `[[ -f /version ]] && exec sleep 2147483647`
	w.write(map[string]string{"a.toml": `
[[deployment]]
name = "ID-d"
[deployment.config]
image = { type = "Image", params = { image = "varan-e2e:1" } }
network = "none"
command = "sh -c '` + shell + `'"
extra_args = ["--stop-signal", "SIGKILL", "--label", "odd=[[ODD]]"]
environment = """
ODD = [[ODD]]
MIXED = x-[[OTHER]]-[[[OTHER]]]
ESCAPED = [[[OTHER]]]
"""
settle = "200ms"

[[deployment]]
name = "ID-skip"
[deployment.config]
image = { type = "Image", params = { image = "varan-e2e:1" } }
network = "none"
command = "sleep 2147483647"
extra_args = ["--stop-signal", "SIGKILL"]
skip_secret_interp = true
environment = """
OTHER = [[OTHER]]
"""
settle = "0s"

[[stack]]
name = "ID"
[stack.config]
environment = """
ODD = [[ODD]]
ESCAPED = [[[OTHER]]]
"""
file_contents = """
services:
  s:
    image: varan-e2e:1
    command: ["sh", "-c", "` + shell + `"]
    stop_signal: SIGKILL
    labels: { odd: "[[ODD]]" }
    environment:
      ODD: ${ODD}
      INLINE: "[[ODD]]"
      MIXED: "x-[[OTHER]]-[[[OTHER]]]"
      ESCAPED: ${ESCAPED}
  e:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
    env_file: .env
"""
settle = "200ms"

[[stack]]
name = "ID-skips"
[stack.config]
skip_secret_interp = true
environment = """
OTHER = [[OTHER]]
"""
file_contents = """
services:
  s:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
    environment:
      OTHER: ${OTHER}
      INLINE: "[[OTHER]]"
"""
settle = "0s"
`})
	r := w.apply()
	w.absent("second line", r.stdout+r.stderr)
	w.nothingToDo()
	want := map[string][]string{
		w.id + "-d":         {"ODD=" + odd, "MIXED=x-other-value-[[OTHER]]", "ESCAPED=[[OTHER]]"},
		w.id + "-skip":      {"OTHER=[[OTHER]]"},
		w.id + "-s-1":       {"ODD=" + odd, "INLINE=" + odd, "MIXED=x-other-value-[[OTHER]]", "ESCAPED=[[OTHER]]"},
		w.id + "-e-1":       {"ODD=" + odd, "ESCAPED=[[OTHER]]"},
		w.id + "-skips-s-1": {"OTHER=[[OTHER]]", "INLINE=[[OTHER]]"},
	}
	for name, vars := range want {
		env := w.envOf(name)
		for _, v := range vars {
			if !slices.Contains(env, v) {
				t.Errorf("%s has no %q: %q", name, v, env)
			}
		}
	}
	for _, name := range []string{"-d", "-s-1"} {
		c, err := w.docker.ContainerInspect(context.Background(), w.id+name)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Config.Labels["odd"]; got != odd {
			t.Errorf("label of %s: %q, want %q", name, got, odd)
		}
	}
	// What is escaped is no secret: a new value of OTHER touches the users of OTHER.
	had := w.snapshot()
	w.configure("[secrets]\nODD = " + strconv.Quote(odd) + "\nOTHER = \"third\"\n")
	w.apply()
	if got := w.touched(had); !slices.Equal(got, []string{"~ID-d", "~ID-s-1"}) {
		t.Errorf("a new value of OTHER touched %v", got)
	}
	if p := w.varan("plan", "--json", w.repo); strings.Contains(p.stdout, "third") {
		t.Error("the plan shows a secret")
	}
}

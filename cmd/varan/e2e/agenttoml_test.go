package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAgentToml: what agent.toml on the host forbids stands in the plan under its key, fails as that step alone, and
// nothing of it comes to be.
func TestAgentToml(t *testing.T) {
	w := newWorld(t)
	must(t, os.MkdirAll(w.root, 0o700))
	must(t, os.WriteFile(filepath.Join(w.root, "agent.toml"), []byte("[allow]\ncommands = false\nprivileged = false\nhost_network = false\ndocker_socket = false\nbuilds = false\nbind_roots = [\"/srv\"]\nimages = [\"varan-e2e:1\"]\n"), 0o600))
	dep := func(name, old, new string) string {
		text := strings.Replace(one(name), old, new, 1)
		if text == one(name) {
			t.Fatalf("%s is not in it", old)
		}
		return text
	}
	stack := func(name, more string) string {
		return "[[stack]]\nname = \"ID-" + name + "\"\n[stack.config]\nrun_directory = \"" + name + "\"\nproject_name = \"ID-" + name + "\"\n" + more
	}
	compose := func(image string) string {
		return "services:\n  x:\n    " + image + "\n    command: [sleep, \"1000\"]\n    network_mode: none\n    stop_signal: SIGKILL\n"
	}
	forbidden := map[string]string{"privileged": "deployment/ID-privileged", "host_network": "deployment/ID-host", "docker_socket": "deployment/ID-socket",
		"bind_roots": "deployment/ID-bind", "images": "deployment/ID-image", "commands": "stack/ID-commands", "builds": "stack/ID-builds"}
	w.write(map[string]string{
		"a.toml": one("good") +
			dep("privileged", `"--stop-signal"`, `"--privileged", "--stop-signal"`) +
			dep("host", `network = "none"`, `network = "host"`) +
			dep("socket", `"--stop-signal"`, `"-v", "/var/run/docker.sock:/s", "--stop-signal"`) +
			dep("bind", `"--stop-signal"`, `"-v", "/etc:/e:ro", "--stop-signal"`) +
			dep("image", "varan-e2e:1", "varan-e2e:2") +
			stack("commands", "pre_deploy.command = \"touch /tmp/ID-ran\"\n") +
			stack("caps", "") +
			stack("builds", "run_build = true\n"),
		"commands/compose.yaml": compose("image: varan-e2e:1"),
		"caps/compose.yaml":     compose("image: varan-e2e:1\n    cap_add: [NET_ADMIN]"),
		"builds/compose.yaml":   compose("build: ."),
		"builds/Dockerfile":     "FROM varan-e2e:1\n",
	})
	r := w.varan("plan", w.repo)
	for key, id := range forbidden {
		id = strings.ReplaceAll(id, "ID", w.id)
		if !w.says(r.stdout, id, "[allow] "+key) {
			t.Errorf("the plan does not show that %s needs [allow] %s:\n%s", id, key, r.stdout)
		}
	}
	if r = w.varan("apply", "--yes", w.repo); r.exit == 0 || len(w.ids()) > 0 {
		t.Errorf("a plan with refusals was applied: %s\n%s", w.names(), r.stdout)
	}
	// A daemon carries out the rest.
	w.configure("[config]\npoll = \"1s\"\n")
	w.commit("all of it")
	d := w.daemon()
	w.eventually("the rest runs", 30*time.Second, func() (bool, string) { return len(w.ids()) > 0, w.names() })
	d.stop()
	if got := w.ids(); len(got) != 1 || got[w.id+"-good"] == "" {
		t.Errorf("runs: %s\n%s%s", w.names(), r.stdout, r.stderr)
	}
	if _, err := os.Stat("/tmp/" + w.id + "-ran"); err == nil {
		t.Error("a command was run")
	}
}

// says reports whether some text stands on a line of what is said of a resource: its own, or one after it up to an empty one.
func (w *world) says(out, resource, text string) bool {
	for _, block := range strings.Split(out, "\n\n") {
		if strings.Contains(block, resource) && strings.Contains(block, text) {
			return true
		}
	}
	return false
}

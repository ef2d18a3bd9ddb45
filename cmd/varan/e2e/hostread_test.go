package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/plan"
)

// opened runs varan under strace, which must succeed, and tells how often it or a child opened each of these paths.
func (w *world) opened(paths []string, args ...string) (counts map[string]int, said string) {
	w.t.Helper()
	trace := filepath.Join(w.dir, "trace")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := w.command(ctx, args...)
	traced := exec.CommandContext(ctx, "strace", append([]string{"-f", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2", "-o", trace, cmd.Path}, args...)...)
	traced.Dir, traced.Env = cmd.Dir, cmd.Env
	out, err := traced.CombinedOutput()
	if err != nil {
		w.t.Fatalf("strace varan %s (apt-get install strace): %v\n%s", strings.Join(args, " "), err, out)
	}
	text := w.read(trace)
	if !strings.Contains(text, `"`+w.config+`"`) {
		w.t.Fatalf("strace saw nothing of varan.toml:\n%.2000s", text)
	}
	counts = map[string]int{}
	for _, p := range paths {
		counts[p] = strings.Count(text, `"`+p+`"`)
	}
	return counts, string(out)
}

// TestHostFilesRead: a compose file's env_file outside the repository is opened by the agent alone, and only when it
// deploys, or when a plan finds that a deployed one is no longer the file that was read.
func TestHostFilesRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := filepath.Join(w.dir, "host.env")
	w.hostWrite(w.dir, map[string]string{"host.env": "PASSWORD=canary-one\n"})
	of := func(name, env string) string {
		return "\n[[stack]]\nname = \"ID-" + name + "\"\n[stack.config]\nsettle = \"0s\"\nfile_contents = \"\"\"\nservices:\n" + service("a", "network_mode: none", "env_file: "+env) + "\"\"\"\n"
	}
	w.write(map[string]string{"a.toml": of("mine", host), "p.toml": of("passwd", "/etc/passwd")})
	look := []string{host, "/etc/passwd"}
	printed := ""
	plans := func(want int, why string) {
		t.Helper()
		counts, said := w.opened(look, "plan", "--json", w.repo)
		printed += said
		if counts[host] != want || counts["/etc/passwd"] != 0 {
			t.Errorf("%s: varan plan opened %v, want %d of the host's file", why, counts, want)
		}
	}
	plans(0, "before anything runs")
	w.write(map[string]string{"p.toml": "REMOVE"})
	counts, said := w.opened(look, "apply", "--yes", w.repo)
	printed += said
	if counts[host] == 0 { // a library looks a user up in the other
		t.Errorf("varan apply opened %v", counts)
	}
	if env := w.envOf(w.id + "-mine-a-1"); !slices.Contains(env, "PASSWORD=canary-one") {
		t.Errorf("environment %v", env)
	}
	plans(0, "as it was read")
	w.hostWrite(w.dir, map[string]string{"host.env": "PASSWORD=canary-second\n"})
	plans(1, "changed since")
	if s := w.plan().Steps[0]; !slices.ContainsFunc(s.Causes, func(c plan.Cause) bool { return c.Kind == plan.HostFileChanged }) {
		t.Errorf("causes %v", s.Causes)
	}
	w.absent("canary", printed, w.root, w.data)
}

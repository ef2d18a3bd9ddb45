package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDemo runs the demo as a person does, from a static binary, and takes it away again.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Docker engine")
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "varan")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	demo := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(bin, append([]string{"demo", "--dir", filepath.Join(dir, "world")}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("varan demo %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	t.Cleanup(func() { exec.Command(bin, "demo", "--clean", "--dir", filepath.Join(dir, "world")).Run() })
	out := demo()
	for _, want := range []string{"Plan: 3 create.", "Applied: 3 done", "blue → green", "Plan: 1 update, 1 restart, 1 unchanged.", "Applied: 2 done", "varan demo --clean"} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not say %q:\n%s", want, out)
		}
	}
	demo("--clean")
	left, err := exec.Command("docker", "ps", "-aq", "--filter", "label=varan.fleet=demo").Output()
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %s %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "world")); err == nil {
		t.Error("the demo's folder stayed")
	}
}

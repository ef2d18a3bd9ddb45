package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
)

func TestHostPath(t *testing.T) {
	mounts := []container.MountPoint{
		{Source: "/var/run/docker.sock", Destination: "/var/run/docker.sock", RW: true},
		{Source: "/var/lib/docker/volumes/agent/_data", Destination: "/var/lib/varan-agent", RW: true},
		{Source: "/srv/stacks", Destination: "/var/lib/varan-agent/stacks", RW: true},
		{Source: "/etc/varan", Destination: "/ro", RW: false},
		{Source: "tmpfs", Destination: "/odd", RW: true},
	}
	for _, c := range []struct{ root, want, err string }{
		{"/var/lib/varan-agent", "/var/lib/docker/volumes/agent/_data", ""},
		{"/var/lib/varan-agent/deep/er", "/var/lib/docker/volumes/agent/_data/deep/er", ""},
		{"/var/lib/varan-agent/stacks/x", "/srv/stacks/x", ""},
		{"/var/lib/varan-agents", "", "would be lost with it"},
		{"/ro/x", "", "read-only"},
		{"/odd", "", "does not say where"},
	} {
		got, err := hostPath(mounts, c.root)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", c.root, got, err)
		}
	}
}

// TestStandIn: the host's path of the root is good in the container, and nothing that lies there is covered.
func TestStandIn(t *testing.T) {
	dir := t.TempDir()
	root, host := filepath.Join(dir, "root"), filepath.Join(dir, "var", "volumes", "agent")
	for range 2 { // also at the next start
		if err := standIn(host, root); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(host, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "x")); err != nil {
		t.Error(err)
	}
	if err := standIn(root, root); err != nil {
		t.Error(err)
	}
	taken := filepath.Join(dir, "taken")
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := standIn(taken, root); err == nil || !strings.Contains(err.Error(), "same path on both sides") {
		t.Errorf("standIn = %v", err)
	}
}

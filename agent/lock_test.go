package agent

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestLocksAcrossNetworks: an agent in a network of its own is told who holds the engine, and another fleet's agent is
// let in beside.
func TestLocksAcrossNetworks(t *testing.T) {
	if root := os.Getenv("VARAN_TEST_LOCK_ROOT"); root != "" {
		a, err := New(Options{Root: root, Fleet: os.Getenv("VARAN_TEST_LOCK_FLEET")})
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		return
	}
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a network of its own needs root")
	}
	h := newHost(t)
	other := func(fleet string) string {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestLocksAcrossNetworks$")
		cmd.Env = append(os.Environ(), "VARAN_TEST_LOCK_ROOT="+t.TempDir(), "VARAN_TEST_LOCK_FLEET="+fleet)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return string(out)
		}
		return ""
	}
	if said := other(h.fleet); !strings.Contains(said, "another agent of fleet") || !strings.Contains(said, "root "+h.root) {
		t.Errorf("an agent in another network was not refused, or not told by whom: %q", said)
	}
	if said := other(h.fleet + "2"); said != "" {
		t.Errorf("another fleet's agent was refused: %s", said)
	}
}

package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
)

// TestUnit: the systemd unit of the docs is one systemd takes without a word, and the agent tells systemd what its
// Type=notify waits for.
func TestUnit(t *testing.T) {
	w := newWorld(t)
	docs, err := os.ReadFile("../../../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(docs), "```ini\n")
	unit, _, found := strings.Cut(after, "```")
	if !found || !strings.Contains(unit, "Type=notify") || !strings.Contains(unit, "Restart=always") {
		t.Fatalf("docs/fleet.md shows no unit: %q", unit)
	}
	if _, err := exec.LookPath("systemd-analyze"); err == nil {
		file := filepath.Join(w.dir, "varan-agent.service")
		must(t, os.WriteFile(file, []byte(strings.Replace(unit, "/usr/local/bin/varan", w.bin, 1)), 0o644))
		if out, err := exec.Command("systemd-analyze", "verify", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify: %v\n%s", err, out)
		}
	} else {
		t.Log("systemd-analyze is not here: the unit is not verified")
	}

	socket := filepath.Join(w.dir, "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: socket})
	must(t, err)
	defer l.Close()
	key, err := nkeys.CreateUser()
	must(t, err)
	public, err := key.PublicKey()
	must(t, err)
	w.extra = []string{"NOTIFY_SOCKET=" + socket}
	cmd := w.command(context.Background(), "agent", "--hub", "127.0.0.1:1", "--fleet-key", public, "--fleet", w.id, "--root", w.root)
	must(t, cmd.Start())
	told := func(want string) {
		t.Helper()
		buf := make([]byte, 256)
		_ = l.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := l.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), want) {
			t.Errorf("systemd is told %q, %v, want %s", buf[:n], err, want)
		}
	}
	told("READY=1") // no hub is there yet, and the agent is well
	_ = cmd.Process.Signal(syscall.SIGTERM)
	told("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("an agent that is stopped: %v", err)
	}
}

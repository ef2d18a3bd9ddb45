package gittest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An SSHD is a real sshd on a loopback port.
type SSHD struct {
	Addr  string // host:port
	User  string // who may log in
	Key   string // with this private key
	Known string // a known_hosts file with Line
	Line  string // what names the server's own key
}

// SSH runs sshd with keys of its own until the test ends.
func SSH(t testing.TB) SSHD {
	t.Helper()
	bin, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		t.Fatalf("openssh-server is needed: %v", err)
	}
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host"))
	run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "user"))
	_ = os.MkdirAll("/run/sshd", 0o755) // sshd's own need when it starts as root
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, port, _ := strings.Cut(addr, ":")
	cmd := exec.Command(bin, "-D", "-e", "-f", "/dev/null", "-p", port, "-h", filepath.Join(dir, "host"),
		"-o", "ListenAddress=127.0.0.1", "-o", "AuthorizedKeysFile="+filepath.Join(dir, "user.pub"),
		"-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PidFile=none", "-o", "PasswordAuthentication=no")
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for until := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(until) {
			t.Fatal("sshd does not answer")
		}
	}
	f := strings.Fields(read("host.pub"))
	s := SSHD{Addr: addr, User: run("id", "-un"), Key: read("user"), Known: filepath.Join(dir, "known"), Line: "[127.0.0.1]:" + port + " " + f[0] + " " + f[1]}
	if err := os.WriteFile(s.Known, []byte(s.Line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

package e2e

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A typed command runs beside the test, which watches what it says and sends it signals.
type typed struct {
	w    *world
	mu   sync.Mutex // guards out
	out  bytes.Buffer
	proc *os.Process
	done chan int // the exit code
}

func (c *typed) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(p)
}

func (c *typed) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

func (w *world) typed(args ...string) *typed {
	w.t.Helper()
	cmd := w.command(context.Background(), args...)
	c := &typed{w: w, done: make(chan int, 1)}
	cmd.Stdout, cmd.Stderr = c, c
	must(w.t, cmd.Start())
	c.proc = cmd.Process
	go func() { _ = cmd.Wait(); c.done <- cmd.ProcessState.ExitCode() }()
	return c
}

func (c *typed) interrupt() { _ = c.proc.Signal(syscall.SIGINT) }

func (c *typed) exit() int {
	c.w.t.Helper()
	select {
	case code := <-c.done:
		return code
	case <-time.After(time.Minute):
		_ = c.proc.Kill()
		c.w.t.Fatalf("it did not end:\n%s", c.said())
		return 0
	}
}

// TestInterruptApply: Ctrl-C while a daemon does the work finishes the step under way and begins no further one, and
// says so; a second one leaves at once, and what was begun still ends well.
func TestInterruptApply(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\napply = \"manual\"\n")
	slow := func(k string) map[string]string {
		a := strings.Replace(strings.Replace(one("a"), `settle = "0s"`, `settle = "2s"`, 1), "K = x", "K = "+k, 1)
		return map[string]string{"a.toml": a + strings.Replace(one("b", `after = ["ID-a"]`), "K = x", "K = "+k, 1)}
	}
	w.write(slow("one"))
	d := w.daemonOf(w.commit("first"))

	c := w.typed("apply", "--yes", w.repo)
	w.eventually("a runs", 30*time.Second, func() (bool, string) { return len(w.ids()) == 1, c.said() })
	if s, text := w.status(); len(s.Running) != 1 {
		t.Errorf("status shows no run:\n%s", text)
	}
	c.interrupt()
	if code, said := c.exit(), c.said(); code != 1 || !strings.Contains(said, "Stopping: finishing deployment/"+w.id+"-a") || !strings.Contains(said, "cancelled") {
		t.Errorf("exit %d:\n%s", code, said)
	}
	if ids := w.ids(); len(ids) != 1 || ids[w.id+"-a"] == "" {
		t.Errorf("after Ctrl-C: %s\n%s", w.names(), c.said())
	}
	if rs := w.runs(); len(rs) == 0 || rs[0].Status != "cancelled" {
		t.Errorf("runs: %+v", rs)
	}

	w.write(slow("two"))
	before := w.ids()
	c = w.typed("apply", "--yes", w.repo)
	w.eventually("a is made anew", 30*time.Second, func() (bool, string) {
		id := w.ids()[w.id+"-a"]
		return id != "" && id != before[w.id+"-a"], c.said()
	})
	c.interrupt()
	w.eventually("it says so", 10*time.Second, func() (bool, string) { return strings.Contains(c.said(), "Stopping"), c.said() })
	<-time.After(700 * time.Millisecond) // sooner it would be the same Ctrl-C, passed on by a shell too
	c.interrupt()
	if code, said := c.exit(), c.said(); code != 130 || !strings.Contains(said, "Left while steps were under way") {
		t.Errorf("exit %d:\n%s", code, said)
	}
	w.until("the daemon is at rest", func(s standing) bool { return len(s.Running) == 0 })
	if ids := w.ids(); len(ids) != 1 || ids[w.id+"-a"] == before[w.id+"-a"] {
		t.Errorf("after the second: %s\n%s", w.names(), w.varan("runs").stdout)
	}

	// Who asked is killed: what it asked for goes on to its end.
	w.write(slow("three"))
	before = w.ids()
	c = w.typed("apply", "--yes", w.repo)
	w.eventually("a is made anew", 30*time.Second, func() (bool, string) {
		id := w.ids()[w.id+"-a"]
		return id != "" && id != before[w.id+"-a"], c.said()
	})
	must(t, c.proc.Kill())
	c.exit()
	w.hasEnv("b", "K=three")

	// The daemon is stopped: it finishes the step under way of a folder's run too.
	w.write(slow("four"))
	before = w.ids()
	w.until("the daemon is at rest", func(s standing) bool { return len(s.Running) == 0 })
	c = w.typed("apply", "--yes", w.repo)
	w.eventually("a is made anew", 30*time.Second, func() (bool, string) {
		id := w.ids()[w.id+"-a"]
		return id != "" && id != before[w.id+"-a"], c.said()
	})
	d.stop()
	if code := c.exit(); code != 1 {
		t.Errorf("exit %d:\n%s", code, c.said())
	}
	if ids := w.ids(); ids[w.id+"-a"] == before[w.id+"-a"] || ids[w.id+"-b"] != before[w.id+"-b"] || len(w.containers(true)) != 2 {
		t.Errorf("after the daemon stopped: %s, before %v\n%s", w.names(), before, c.said())
	}
	t.Log(c.said())
}

// daemonOf is a daemon that has read a commit.
func (w *world) daemonOf(commit string) *daemon {
	w.t.Helper()
	d := w.daemon()
	w.until("read "+commit, func(s standing) bool { return s.Syncs[0].Tip == commit && s.Ready && len(s.Running) == 0 })
	return d
}

package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain is the child too: what it is told to try stands in its argument.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "confined" {
		child(os.Args[2])
		return
	}
	os.Exit(m.Run())
}

var small = Limits{Memory: 256 << 20, CPU: 3 * time.Second, Wall: 20 * time.Second, Disk: 1 << 20}

func child(what string) {
	if err := Enter(small); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	say := func(err error) { fmt.Println(strings.ReplaceAll(fmt.Sprint(err), "\n", " ")) }
	switch what {
	case "environ":
		fmt.Println(len(os.Environ()), os.Getenv("CANARY"))
		_, err := os.ReadFile("/proc/self/environ")
		say(err)
	case "passwd":
		_, err := os.ReadFile("/etc/passwd")
		say(err)
		_, err = os.ReadFile("../../../etc/passwd")
		say(err)
		_, err = os.ReadDir("/")
		say(err)
	case "network":
		_, err := net.Dial("tcp", "127.0.0.1:1")
		say(err)
		_, err = net.Listen("unix", "sock")
		say(err)
	case "program":
		say(exec.Command("/bin/true").Run())
		p, err := os.StartProcess("/x", nil, &os.ProcAttr{})
		_ = p
		say(err)
	case "memory":
		var hold [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			hold = append(hold, b)
			_ = hold
		}
	case "cpu":
		for n := 0; n >= 0; n = (n + 1) % 7 {
			_ = n
		}
	case "file":
		say(os.WriteFile("mine", []byte("x"), 0o600))
		say(os.WriteFile("large", make([]byte, 2<<20), 0o600))
	case "echo":
		_, err := io.Copy(os.Stdout, os.Stdin)
		say(err)
	case "panic":
		panic("a mishap")
	}
}

func try(t *testing.T, what string) (lines []string, err error) {
	t.Helper()
	t.Setenv("CANARY", "canary")
	c, err := Start(context.Background(), os.Args[0], []string{"confined", what}, small)
	if err != nil {
		t.Fatal(err)
	}
	if what == "echo" {
		if _, err := io.WriteString(c.In, "hello\n"); err != nil {
			t.Fatal(err)
		}
		c.In.Close()
	}
	s := bufio.NewScanner(c.Out)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	err = c.Wait()
	if _, gone := os.Stat(c.dir); !errors.Is(gone, os.ErrNotExist) {
		t.Errorf("the folder %s is still there", c.dir)
	}
	return lines, err
}

func TestConfined(t *testing.T) {
	for what, want := range map[string][]string{
		"environ": {"1 ", "no such file"}, // TMPDIR
		"passwd":  {"no such file", "no such file", "<nil>"},
		"network": {"operation not permitted", "operation not permitted"},
		"program": {"no such file", "operation not permitted"},
		"file":    {"<nil>", "file too large"},
		"echo":    {"hello", "<nil>"},
	} {
		t.Run(what, func(t *testing.T) {
			lines, err := try(t, what)
			if err != nil || len(lines) != len(want) {
				t.Fatalf("it said %q, %v", lines, err)
			}
			for i, w := range want {
				if !strings.Contains(lines[i], w) {
					t.Errorf("line %d is %q, want %q in it", i, lines[i], w)
				}
			}
		})
	}
}

func TestLimits(t *testing.T) {
	for what, want := range map[string]string{"memory": "of memory", "cpu": "of computing"} {
		t.Run(what, func(t *testing.T) {
			_, err := try(t, what)
			if !errors.Is(err, ErrKilled) || !strings.Contains(err.Error(), want) {
				t.Errorf("it ended with %v, want %q and ErrKilled", err, want)
			}
		})
	}
	t.Run("panic", func(t *testing.T) {
		if _, err := try(t, "panic"); err == nil || !strings.Contains(err.Error(), "a mishap") {
			t.Errorf("it ended with %v", err)
		}
	})
}

// TestCancelled: a child whose parent gives up is ended at once.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c, err := Start(ctx, os.Args[0], []string{"confined", "echo"}, small)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	began := time.Now()
	if err := c.Wait(); err != nil && !errors.Is(err, ErrKilled) {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to end", took)
	}
}

package update

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
)

// A machine has a binary at a path, a root, and one agent process at a time, which is started again when it dies.
type machine struct {
	t       *testing.T
	exe     string
	root    string
	running string // SHA-256 of the binary the process was started from
}

func script(version string) []byte {
	return fmt.Appendf(nil, "#!/bin/sh\necho '{\"version\":%q}'\n", version)
}

func newMachine(t *testing.T) *machine {
	dir := t.TempDir()
	m := &machine{t: t, exe: filepath.Join(dir, "bin", "varan"), root: filepath.Join(dir, "root")}
	if err := os.MkdirAll(filepath.Dir(m.exe), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.exe, script("v1"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.running = m.disk()
	return m
}

func (m *machine) disk() string {
	m.t.Helper()
	s, err := sum(m.exe)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// process is one that was started from what stands at the path.
func (m *machine) process(at func(string)) *Self {
	m.running = m.disk()
	return &Self{Exe: m.exe, Root: m.root, Version: "v1", Wait: time.Minute, Log: slog.New(slog.DiscardHandler),
		own: func() (string, error) { return m.running, nil }, at: at}
}

func quiet(string) {}

func pack(t *testing.T, data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(data)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func binaryOf(data []byte, version string) *protocol.Binary {
	dir, _ := os.MkdirTemp("", "sum")
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "x")
	os.WriteFile(path, data, 0o600)
	s, _ := sum(path)
	return &protocol.Binary{Version: version, Platform: "linux-amd64", SHA256: s, Size: int64(len(data))}
}

// bring carries data in parts of a few bytes.
func bring(t *testing.T, s *Self, b *protocol.Binary, data []byte) {
	t.Helper()
	for off := 0; off < len(data); off += 10 {
		part := *b
		part.Offset, part.Part = int64(off), pack(t, data[off:min(off+10, len(data))])
		if err := s.Carry(&part); err != nil {
			t.Fatal(err)
		}
	}
}

type killed struct{}

const opID, digest = protocol.OpID("op1"), plan.Digest("1:abc")

// update does what the agent's process does, from the op on, until it ends or nothing is left to do. How it ended is
// "" where nobody was told.
func (m *machine) update(s *Self, trial error, exec error, reaches bool) (ended protocol.Outcome) {
	data := script("v2")
	b := binaryOf(data, "v2")
	bring(m.t, s, b, data)
	path, err := s.Stage(context.Background(), b)
	if err != nil {
		m.t.Fatal(err)
	}
	op := protocol.Op{ID: opID, Resource: "server/web", Digest: digest, Payload: &protocol.Payload{Agent: b}}
	if err := s.Intend(op, path); err != nil {
		m.t.Fatal(err)
	}
	execute := s.Swap(context.Background(), func(_ context.Context, p string) (string, error) {
		if got, _ := sum(p); got != b.SHA256 {
			m.t.Errorf("tried %s, want the new one", got)
		}
		return "last words", trial
	})
	if execute != "" {
		if exec != nil {
			s.NotExecuted(exec)
		} else {
			s = m.process(s.at)
		}
	}
	return m.goOn(s, reaches)
}

// goOn is what every process does when it starts.
func (m *machine) goOn(s *Self, reaches bool) (ended protocol.Outcome) {
	for range 10 {
		start := s.Begin()
		switch {
		case start.Execute != "":
			s = m.process(s.at)
		case start.Unproven && !reaches:
			if _, err := s.Back(errors.New("no route")); err != nil {
				m.t.Fatal(err)
			}
			s = m.process(s.at)
		case start.Unproven:
			e := s.Reached()
			if e == nil {
				m.t.Fatal("nobody is told of the update")
			}
			s.Told()
			return e.Outcome
		case start.Ended != nil:
			s.Told()
			return start.Ended.Outcome
		default:
			return ended
		}
	}
	m.t.Fatal("it goes round in circles")
	return ended
}

// TestKilledAnywhere kills the agent's process, or the whole machine, after each step of each way an update may go,
// and starts what stands at the path. It is always a whole binary; the process that ends up running is the one that is
// told to run, and whoever asked hears which, once.
func TestKilledAnywhere(t *testing.T) {
	for _, c := range []struct {
		name        string
		trial, exec error
		reaches     bool
		want        protocol.Status
		why         string
	}{
		{"good", nil, nil, true, protocol.Done, ""},
		{"trial fails", errors.New("exit status 3"), nil, true, protocol.RolledBack, "exit status 3"},
		{"not executed", nil, errors.New("permission denied"), true, protocol.RolledBack, "permission denied"},
		{"does not reach the hub again", nil, nil, false, protocol.RolledBack, "no route"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			old := m.running
			var steps []string
			out := m.update(m.process(func(s string) { steps = append(steps, s) }), c.trial, c.exec, c.reaches)
			if out.Status != c.want || !strings.Contains(out.Error, c.why) || out.ID != opID {
				t.Fatalf("it ended %+v, want %s", out, c.want)
			}
			if c.want == protocol.RolledBack && (out.Held != digest || !out.Stopped) {
				t.Errorf("the binary is not held: %+v", out)
			}
			m.check(old, out)
			for n := 1; n <= len(steps); n++ {
				m := newMachine(t)
				old := m.running
				count, told := 0, protocol.Outcome{}
				at := func(string) {
					if count++; count == n {
						panic(killed{})
					}
				}
				func() {
					defer func() {
						if r := recover(); r != nil {
							if _, ok := r.(killed); !ok {
								panic(r)
							}
						}
					}()
					m.update(m.process(at), c.trial, c.exec, c.reaches)
					t.Errorf("step %d did not come", n)
				}()
				if d := m.disk(); d != old && d != binaryOf(script("v2"), "v2").SHA256 {
					t.Fatalf("killed after %q: no whole binary stands at the path", steps[n-1])
				}
				told = m.goOn(m.process(quiet), c.reaches)
				t.Logf("killed after %q: %s %s", steps[n-1], told.Status, told.Error)
				if steps[n-1] != "forgot" && told.ID != opID {
					t.Errorf("killed after %q: nobody is told", steps[n-1])
				}
				m.check(old, told)
				if again := m.goOn(m.process(quiet), c.reaches); again.ID != "" {
					t.Errorf("killed after %q: told twice: %+v", steps[n-1], again)
				}
			}
		})
	}
}

// check compares what runs with what was told.
func (m *machine) check(old string, out protocol.Outcome) {
	m.t.Helper()
	if m.disk() != m.running {
		m.t.Errorf("%+v: another binary stands at the path than runs", out)
	}
	if out.ID != "" && (out.Status == protocol.Done) != (m.running != old) {
		m.t.Errorf("it was told %s %q; the new one runs: %v", out.Status, out.Error, m.running != old)
	}
	list, err := os.ReadDir(filepath.Dir(m.exe))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() != "varan" && e.Name() != "varan.old" {
			m.t.Errorf("%s was left", e.Name())
		}
	}
	if list, _ := os.ReadDir(filepath.Join(m.root, "update")); len(list) > 0 {
		m.t.Errorf("%s was left in the root", list[0].Name())
	}
}

// TestStartedTooOften: a new binary that dies again and again without reaching the hub goes by itself.
func TestStartedTooOften(t *testing.T) {
	m := newMachine(t)
	old := m.running
	s := m.process(quiet)
	data := script("v2")
	b := binaryOf(data, "v2")
	bring(t, s, b, data)
	path, err := s.Stage(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Intend(protocol.Op{ID: opID, Resource: "server/web", Digest: digest, Payload: &protocol.Payload{Agent: b}}, path); err != nil {
		t.Fatal(err)
	}
	s.Swap(t.Context(), func(context.Context, string) (string, error) { return "", nil })
	for range maxStarts {
		if start := m.process(quiet).Begin(); !start.Unproven {
			t.Fatalf("it starts as %+v", start)
		}
	}
	out := m.goOn(m.process(quiet), true)
	if out.Status != protocol.RolledBack || m.running != old {
		t.Errorf("it ended %+v", out)
	}
}

// TestInterrupted: a trial that a signal ends decides nothing, and blames nobody.
func TestInterrupted(t *testing.T) {
	m := newMachine(t)
	s := m.process(quiet)
	data := script("v2")
	b := binaryOf(data, "v2")
	bring(t, s, b, data)
	path, err := s.Stage(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Intend(protocol.Op{ID: opID, Resource: "server/web", Digest: digest, Payload: &protocol.Payload{Agent: b}}, path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if x := s.Swap(ctx, func(context.Context, string) (string, error) { cancel(); return "", context.Canceled }); x != "" {
		t.Errorf("%s is to be executed", x)
	}
	out := m.goOn(m.process(quiet), true)
	if out.Status != protocol.Failed || out.Held != "" || out.Stopped {
		t.Errorf("it ended %+v, want a failure that is tried again", out)
	}
}

// TestStageRefuses: nothing is written beside the binary but what the commit vouches for and what runs here.
func TestStageRefuses(t *testing.T) {
	good := script("v2")
	for _, c := range []struct {
		name   string
		brings []byte
		says   *protocol.Binary
		want   string
		unfit  bool
	}{
		{"another binary than was committed", script("v9"), &protocol.Binary{Version: "v2", SHA256: strings.Repeat("ab", 32), Size: int64(len(good))}, "and the commit says abab", false},
		{"half of it", good[:20], binaryOf(good, "v2"), "it is not used", false},
		{"nothing", nil, binaryOf(good, "v2"), "not brought whole", false},
		{"one that says it is another version", good, binaryOf(good, "v3"), "says that it is v2", true},
		{"one that does not run here", []byte("\x7fELF of another machine"), binaryOf([]byte("\x7fELF of another machine"), "v2"), "does not run here", true},
		{"something else that runs", []byte("#!/bin/sh\necho hello\n"), binaryOf([]byte("#!/bin/sh\necho hello\n"), "v2"), "does not tell its version", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			s := m.process(quiet)
			if c.brings != nil {
				bring(t, s, c.says, c.brings)
			}
			_, err := s.Stage(t.Context(), c.says)
			var unfit *UnfitError
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &unfit) != c.unfit {
				t.Errorf("got %v, want %q, the binary's fault: %v", err, c.want, c.unfit)
			}
			m.check(m.running, protocol.Outcome{})
		})
	}
}

// TestCarryBounds: an op that is not as ours are keeps nothing.
func TestCarryBounds(t *testing.T) {
	m := newMachine(t)
	s := m.process(quiet)
	sum := strings.Repeat("ab", 32)
	bomb := pack(t, make([]byte, protocol.PartSize+1))
	for name, b := range map[string]*protocol.Binary{
		"a path for a sum":     {SHA256: "../../etc/passwd", Size: 10, Part: pack(t, []byte("x"))},
		"too large":            {SHA256: sum, Size: protocol.MaxBinary + 1, Part: pack(t, []byte("x"))},
		"no size":              {SHA256: sum, Part: pack(t, []byte("x"))},
		"beyond its end":       {SHA256: sum, Size: 10, Offset: 10, Part: pack(t, []byte("x"))},
		"before its beginning": {SHA256: sum, Size: 10, Offset: -1, Part: pack(t, []byte("x"))},
		"longer than it is":    {SHA256: sum, Size: 10, Offset: 5, Part: pack(t, []byte("123456"))},
		"more than a part":     {SHA256: sum, Size: protocol.MaxBinary, Part: bomb},
		"not packed":           {SHA256: sum, Size: 10, Part: []byte("0123456789")},
	} {
		if err := s.Carry(b); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if list, _ := filepath.Glob(filepath.Join(m.root, "update", "*")); len(list) > 0 {
		t.Errorf("%v was kept", list)
	}
}

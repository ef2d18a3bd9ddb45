package update

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// Self is the agent's own program.
type Self struct {
	Exe     string        // where its binary stands
	Root    string        // the agent's root
	Version string        // of this process
	Wait    time.Duration // how long a new binary has to reach the hub; 0 = 60 s
	Log     *slog.Logger

	own func() (string, error) // the SHA-256 of the binary this process runs
	at  func(step string)      // tests: a kill between two steps
}

// New finds the binary this process runs. What it keeps lies below root.
func New(root, version string, wait time.Duration, log *slog.Logger) (*Self, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the agent's own binary: %w", err)
	}
	return &Self{
		Exe: strings.TrimSuffix(exe, " (deleted)"), Root: root, Version: version, Wait: cmp.Or(wait, time.Minute),
		Log: cmp.Or(log, slog.New(slog.DiscardHandler)), own: func() (string, error) { return sum("/proc/self/exe") }, at: func(string) {},
	}, nil
}

// SHA256 is that of the binary this process runs, which another may have replaced since.
func (s *Self) SHA256() (string, error) { return s.own() }

// A phase is what was about to be done when the intent was written.
type phase string

const (
	trying   phase = "trying"   // the new binary runs for trial; the old one stands at the path
	swapping phase = "swapping" // it did well and is to take the path
	swapped  phase = "swapped"  // it stands at the path, and is to reach the hub once more
	backing  phase = "backing"  // it did not: the old one is to take the path again
	failed   phase = "failed"   // the old one runs, and somebody is to be told
)

const intentFormat = 1

// An Intent is an update on its way.
type Intent struct {
	Format   int             `json:"format"`
	Phase    phase           `json:"phase"`
	Op       protocol.OpID   `json:"op"`
	Resource schema.ID       `json:"resource"`
	Digest   plan.Digest     `json:"digest"`
	Binary   protocol.Binary `json:"binary"`
	New      string          `json:"new"` // the new binary's path until it takes the old one's
	Starts   int             `json:"starts,omitempty"`
	Error    string          `json:"error,omitempty"`
	Tail     string          `json:"tail,omitempty"`
}

// An Ended update is told by the process that runs after it.
type Ended struct {
	Op       protocol.OpID
	Resource schema.ID
	Digest   plan.Digest
	Outcome  protocol.Outcome
}

func (s *Self) dir() string     { return filepath.Join(s.Root, "update") }
func (s *Self) state() string   { return filepath.Join(s.dir(), "state.json") }
func (s *Self) oldPath() string { return s.Exe + ".old" }

func (s *Self) part(b *protocol.Binary) string { return filepath.Join(s.dir(), b.SHA256+".part") }

// Carry keeps a part of a binary. Bringing one twice does no harm.
func (s *Self) Carry(b *protocol.Binary) error {
	if d, err := hex.DecodeString(b.SHA256); err != nil || len(d) != sha256.Size {
		return fmt.Errorf("%q is no SHA-256", b.SHA256)
	}
	if b.Size <= 0 || b.Size > protocol.MaxBinary {
		return fmt.Errorf("a binary of %d bytes: at most %d", b.Size, int64(protocol.MaxBinary))
	}
	if b.Offset < 0 || b.Offset >= b.Size {
		return fmt.Errorf("a part at byte %d of %d", b.Offset, b.Size)
	}
	z, err := gzip.NewReader(bytes.NewReader(b.Part))
	if err != nil {
		return fmt.Errorf("unpack a part of the binary: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(z, protocol.PartSize+1))
	if err != nil {
		return fmt.Errorf("unpack a part of the binary: %w", err)
	}
	if len(data) > protocol.PartSize || b.Offset+int64(len(data)) > b.Size {
		return errors.New("a part of the binary is too long")
	}
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		return err
	}
	flags := os.O_WRONLY | os.O_CREATE
	if b.Offset == 0 {
		s.clear()
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(s.part(b), flags, 0o600)
	if err != nil {
		return fmt.Errorf("keep a part of the binary: %w", err)
	}
	_, err = f.WriteAt(data, b.Offset)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("keep a part of the binary: %w", err)
	}
	return nil
}

// clear removes binaries that were brought and not used.
func (s *Self) clear() {
	left, _ := filepath.Glob(filepath.Join(s.dir(), "*.part")) // fails on bad patterns only
	for _, path := range left {
		_ = os.Remove(path)
	}
}

// Stage checks what was brought against what the op says, and only then writes it beside the agent's binary and asks
// it which version it is. It returns where it stands.
func (s *Self) Stage(ctx context.Context, b *protocol.Binary) (path string, err error) {
	defer s.clear()
	part := s.part(b)
	got, err := sum(part)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("the binary was not brought whole; it is brought again")
	}
	if err != nil {
		return "", fmt.Errorf("check the binary: %w", err)
	}
	if got != b.SHA256 {
		return "", fmt.Errorf("the binary brought as %s has the SHA-256 %s, and the commit says %s: it is not used", b.Version, got, b.SHA256)
	}
	s.sweep()
	path, err = s.beside(part)
	if err != nil {
		return "", fmt.Errorf("write the new binary beside %s: %w; whoever runs the agent must be able to write that folder", s.Exe, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	if got, err := sum(path); err != nil || got != b.SHA256 {
		return "", errors.Join(errors.New("the new binary is not what was written: the disk fails"), err)
	}
	return path, s.ask(ctx, path, b.Version)
}

// pattern names a new binary: the process that dies over it leaves it to be swept. Agents with other roots may run from
// the same binary.
func (s *Self) pattern() string {
	root := sha256.Sum256([]byte(s.Root))
	return "." + filepath.Base(s.Exe) + ".new-" + hex.EncodeToString(root[:4]) + "-"
}

// beside copies a file to the folder of the agent's binary, with that one's mode.
func (s *Self) beside(from string) (path string, err error) {
	mode := fs.FileMode(0o755)
	if info, err := os.Stat(s.Exe); err == nil {
		mode = info.Mode().Perm() | 0o500
	}
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(s.Exe), s.pattern()+"*")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(mode), out.Sync(), out.Close()); err == nil {
		err = syncDir(filepath.Dir(s.Exe))
	}
	if err != nil {
		_ = os.Remove(out.Name())
		return "", err
	}
	return out.Name(), nil
}

// sweep removes new binaries that a killed process left.
func (s *Self) sweep() {
	list, err := os.ReadDir(filepath.Dir(s.Exe))
	if err != nil {
		return
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), s.pattern()) {
			_ = os.Remove(filepath.Join(filepath.Dir(s.Exe), e.Name()))
		}
	}
}

// Settled starts a binary that was written just now, again while it is busy: a child that was forked meanwhile holds it
// open for writing until it executes.
func Settled(start func() error) error {
	for range 100 {
		if err := start(); !errors.Is(err, syscall.ETXTBSY) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return start()
}

// An UnfitError is the binary's own fault: the same one need not be tried again.
type UnfitError struct{ Why string }

func (e *UnfitError) Error() string { return e.Why }

// askTime is how long a binary may take to say its version.
const askTime = 10 * time.Second

// ask has the new binary tell its version: one of another machine, or under another name, ends here.
func (s *Self) ask(ctx context.Context, path, version string) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var out []byte
	err := Settled(func() (err error) {
		cmd := exec.CommandContext(ctx, path, "version", "--json")
		cmd.Dir, cmd.Env, cmd.WaitDelay = "/", []string{}, time.Second
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		return &UnfitError{fmt.Sprintf("the binary of %s does not run here: %v", version, err)}
	}
	var v struct {
		Version string `json:"version"`
	}
	if err := json.Unmarshal(out, &v); err != nil || v.Version == "" {
		return &UnfitError{fmt.Sprintf("the binary of %s does not tell its version as varan does", version)}
	}
	if v.Version != version {
		return &UnfitError{fmt.Sprintf("the binary brought as %s says that it is %s: correct agent_version", version, v.Version)}
	}
	return nil
}

// Intend writes down that the binary at path is to be tried. From here on the process lets go of all it holds, calls
// [Self.Swap], and does what that says.
func (s *Self) Intend(op protocol.Op, path string) error {
	b := *op.Payload.Agent
	b.Part, b.Whole = nil, nil
	return s.put(&Intent{Phase: trying, Op: op.ID, Resource: op.Resource, Digest: op.Digest, Binary: b, New: path})
}

func (s *Self) put(in *Intent) error {
	in.Format = intentFormat
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		return fmt.Errorf("write down the update: %w", err)
	}
	f, err := os.CreateTemp(s.dir(), ".new-*")
	if err != nil {
		return fmt.Errorf("write down the update: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), s.state())
	}
	if err == nil {
		err = syncDir(s.dir())
	}
	if err != nil {
		return fmt.Errorf("write down the update: %w", err)
	}
	s.at("wrote " + string(in.Phase))
	return nil
}

// read is the update on its way, nil if there is none.
func (s *Self) read() *Intent {
	data, err := os.ReadFile(s.state())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var in Intent
	if err == nil {
		err = json.Unmarshal(data, &in)
	}
	if err == nil && in.Format != intentFormat {
		err = fmt.Errorf("it has the format %d", in.Format)
	}
	if err != nil {
		s.Log.Warn("what became of an update is not known any more", "err", err)
		_ = os.Rename(s.state(), s.state()+".aside")
		return nil
	}
	return &in
}

// forget ends the update for good.
func (s *Self) forget() {
	if err := os.Remove(s.state()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Log.Warn("forget the update", "err", err)
	}
	s.at("forgot")
}

// Swap tries the new binary and, if that does well, puts it in the old one's place. It returns the binary to execute:
// "" = none, the old process goes on, and [Self.Begin] tells why. Try runs the binary at path and returns nil once it
// has reached the hub; its tail is what the binary printed last. When ctx ends nothing is decided: the next start is
// told that the trial was interrupted.
func (s *Self) Swap(ctx context.Context, try func(ctx context.Context, path string) (tail string, err error)) (execute string) {
	in := s.read()
	if in == nil || in.Phase != trying {
		return ""
	}
	tail, err := try(ctx, in.New)
	s.at("tried")
	if ctx.Err() != nil {
		return ""
	}
	if err != nil {
		s.fail(in, err, tail)
		return ""
	}
	in.Phase = swapping
	if err = s.put(in); err == nil {
		err = s.exchange(in)
	}
	if err != nil {
		s.fail(in, fmt.Errorf("put the new binary in the place of %s: %w", s.Exe, err), "")
		return ""
	}
	in.Phase = swapped
	if err := s.put(in); err != nil { // it stands at the path already; Begin finds out by itself
		s.Log.Error("the update could not be written down", "err", err)
	}
	return s.Exe
}

// exchange keeps the old binary and lets the new one take its path, in one step that is there or not.
func (s *Self) exchange(in *Intent) error {
	if now, err := sum(s.Exe); err == nil && now == in.Binary.SHA256 { // another agent on this host runs from it too
		return os.Remove(in.New)
	}
	if err := s.over(s.Exe, s.oldPath()); err != nil {
		return fmt.Errorf("keep the old one: %w", err)
	}
	s.at("kept the old one")
	if err := os.Rename(in.New, s.Exe); err != nil {
		return err
	}
	s.at("renamed")
	return syncDir(filepath.Dir(s.Exe))
}

// over makes to another name of from, whatever was there.
func (s *Self) over(from, to string) error {
	temp := filepath.Join(filepath.Dir(to), s.pattern()+"link")
	_ = os.Remove(temp)
	if err := os.Link(from, temp); err != nil {
		return err
	}
	s.at("linked")
	if err := os.Rename(temp, to); err != nil {
		_ = os.Remove(temp)
		return err
	}
	_ = os.Remove(temp) // a rename between two names of one file leaves both
	return syncDir(filepath.Dir(to))
}

// fail writes down that the old binary goes on.
func (s *Self) fail(in *Intent, why error, tail string) {
	_ = os.Remove(in.New)
	in.Phase, in.Error, in.Tail = failed, why.Error(), tail
	if err := s.put(in); err != nil {
		s.Log.Error("the update failed, and that could not be written down", "why", why, "err", err)
	}
}

// NotExecuted says that the binary Swap named could not be executed: the old one takes its path again.
func (s *Self) NotExecuted(why error) {
	if in := s.read(); in != nil {
		if err := s.back(in, fmt.Errorf("execute the new binary: %w", why)); err != nil {
			s.Log.Error("the old binary could not take its place again", "err", err)
		}
	}
}

// Back is for a new binary that did not reach the hub although its trial had: it returns the old one, to execute.
func (s *Self) Back(why error) (execute string, err error) {
	in := s.read()
	if in == nil {
		return "", errors.New("there is no update to go back from")
	}
	return s.Exe, s.back(in, why)
}

func (s *Self) back(in *Intent, why error) error {
	in.Phase, in.Error = backing, why.Error()
	if err := s.put(in); err != nil {
		return err
	}
	return s.finishBack(in)
}

func (s *Self) finishBack(in *Intent) error {
	if now, err := sum(s.Exe); err != nil || now == in.Binary.SHA256 {
		if err := s.over(s.oldPath(), s.Exe); err != nil {
			return fmt.Errorf("put the old binary back: %w", err)
		}
	}
	s.at("put back")
	in.Phase = failed
	return s.put(in)
}

// maxStarts is how often the new binary may start without reaching the hub.
const maxStarts = 5

// A Start is what a process that starts finds out about an update.
type Start struct {
	// Ended is how the last one ended, nil if there was none or it is not over.
	Ended *Ended
	// Unproven: this is the new binary. It has Wait to reach the hub ([Self.Reached]); else it calls [Self.Back].
	Unproven bool
	// Execute is another binary that is to run instead; "" = this one.
	Execute string
}

// Begin finds out, when a process starts, whether it stands in the middle of an update.
func (s *Self) Begin() Start {
	in := s.read()
	if in == nil {
		return Start{}
	}
	own, err := s.own()
	if err != nil {
		s.Log.Error("read the agent's own binary", "err", err)
		return Start{}
	}
	isNew := own == in.Binary.SHA256
	switch {
	case in.Phase == failed && !isNew:
		return s.ended(in, true)
	case in.Phase == backing && isNew:
		if err := s.finishBack(in); err != nil {
			s.Log.Error("the old binary could not take its place again, the new one goes on", "err", err)
			return Start{}
		}
		return Start{Execute: s.Exe}
	case in.Phase == backing:
		if err := s.finishBack(in); err != nil {
			s.Log.Error("the old binary could not take its place again", "err", err)
		}
		return s.ended(in, true)
	case isNew:
		in.Phase = swapped
		if in.Starts++; in.Starts > maxStarts {
			if path, err := s.Back(fmt.Errorf("the new binary was started %d times and did not reach the hub", in.Starts-1)); err == nil {
				return Start{Execute: path}
			}
		}
		if err := s.put(in); err != nil {
			s.Log.Warn("the update could not be written down", "err", err)
		}
		return Start{Unproven: true}
	case in.Phase == swapped:
		in.Error = "the new binary ran, and somebody put the old one back"
		return s.ended(in, true)
	}
	in.Error = "the agent was stopped in the middle of its update; the old binary goes on"
	return s.ended(in, false)
}

// ended tells how an update ended that did not do, with a hold on that binary if it is to blame.
func (s *Self) ended(in *Intent, blame bool) Start {
	out := protocol.Outcome{Version: protocol.Version, ID: in.Op, Status: protocol.Failed, Error: in.Error, Tail: in.Tail}
	if blame {
		out.Status, out.Stopped, out.Held = protocol.RolledBack, true, in.Digest
		out.Error = fmt.Sprintf("%s did not do, the agent is %s again: %s", in.Binary.Version, s.Version, in.Error)
		out.Hint = "that binary is not tried again until agent_sha256 changes, or by varan apply --retry"
	}
	return Start{Ended: &Ended{Op: in.Op, Resource: in.Resource, Digest: in.Digest, Outcome: out}}
}

// Told says that how the update ended is kept elsewhere now. The process holds the agent's root by then, so what is
// left of it is nobody's.
func (s *Self) Told() {
	s.forget()
	s.sweep()
}

// Reached says that the new binary has reached the hub. The old one stays beside it until the next update.
func (s *Self) Reached() *Ended {
	in := s.read()
	if in == nil || in.Phase != swapped {
		return nil
	}
	return &Ended{Op: in.Op, Resource: in.Resource, Digest: in.Digest, Outcome: protocol.Outcome{Version: protocol.Version, ID: in.Op, Status: protocol.Done, Stopped: true}}
}

// sum is the SHA-256 of a file, in hex.
func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	gosync "sync"
	"syscall"
	"time"
)

// Limits bound a child. Zero fields take the defaults named.
type Limits struct {
	Memory int64         // bytes it may hold: 1 GiB
	CPU    time.Duration // of computing, all cores together: 60 s
	Wall   time.Duration // from start to end: 2 m
	Disk   int64         // bytes of one file it writes: 64 MiB
}

func (l Limits) filled() Limits {
	if l.Memory <= 0 {
		l.Memory = 1 << 30
	}
	if l.CPU <= 0 {
		l.CPU = time.Minute
	}
	if l.Wall <= 0 {
		l.Wall = 2 * time.Minute
	}
	if l.Disk <= 0 {
		l.Disk = 64 << 20
	}
	return l
}

// A Child is the confined process. Its error output is kept, bounded, for the message of Wait.
type Child struct {
	In  io.WriteCloser
	Out io.ReadCloser

	cmd    *exec.Cmd
	dir    string
	stderr tail
	cancel context.CancelFunc
	limits Limits
	once   gosync.Once
	err    error
}

// ErrKilled marks a child that met one of its limits.
var ErrKilled = errors.New("ended at a limit")

// Start runs program (os.Executable's, as a rule) with args. The child must call [Enter] before it reads anything.
// Namespaces of its own are asked for first; where the system gives none, the child confines itself by what else
// the kernel has, and Enter fails when that leaves it a way out.
func Start(ctx context.Context, program string, args []string, limits Limits) (*Child, error) {
	limits = limits.filled()
	sweep(limits.Wall)
	dir, err := os.MkdirTemp("", folderPrefix)
	if err != nil {
		return nil, fmt.Errorf("make the preview's folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limits.Wall)
	var errs []error
	for _, flags := range namespaces() {
		c := &Child{dir: dir, cancel: cancel, limits: limits}
		if err := c.start(ctx, program, args, flags); err == nil {
			return c, nil
		} else if errs = append(errs, err); !refused(err) {
			break
		}
	}
	cancel()
	return nil, errors.Join(fmt.Errorf("start the preview: %w", errs[len(errs)-1]), os.RemoveAll(dir))
}

const folderPrefix = "varan-preview-"

// sweep takes away the folders of children whose parent was killed: they may be large, and nobody else does.
func sweep(wall time.Duration) {
	old, err := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range old {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < 10*wall {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Geteuid() {
			_ = os.RemoveAll(dir) // the next one tries again
		}
	}
}

// namespaces are the sets to try, the tightest first.
func namespaces() []uintptr {
	const tight = syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID
	sets := []uintptr{tight | syscall.CLONE_NEWUSER}
	if os.Geteuid() == 0 {
		sets = append(sets, tight)
	}
	return append(sets, 0)
}

// refused reports whether the system does not give these namespaces.
func refused(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) ||
		errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EUSERS)
}

func (c *Child) start(ctx context.Context, program string, args []string, flags uintptr) error {
	c.cmd = exec.CommandContext(ctx, program, args...)
	c.cmd.Env = []string{}
	c.cmd.Dir = c.dir
	c.cmd.Stderr = &c.stderr
	c.cmd.WaitDelay = time.Second
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if flags&syscall.CLONE_NEWUSER != 0 {
		c.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		c.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	var err error
	if c.In, err = c.cmd.StdinPipe(); err != nil {
		return err
	}
	if c.Out, err = c.cmd.StdoutPipe(); err != nil {
		return err
	}
	return c.cmd.Start()
}

// Wait ends the child if it still runs, and says why it ended when that was not by itself.
func (c *Child) Wait() error {
	c.once.Do(func() {
		c.err = c.why(errors.Join(ignoreClosed(c.In.Close()), c.cmd.Wait()))
		c.cancel()
		c.err = errors.Join(c.err, os.RemoveAll(c.dir))
	})
	return c.err
}

// Kill ends it at once.
func (c *Child) Kill() { c.cancel() }

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func (c *Child) why(err error) error {
	if err == nil {
		return nil
	}
	state := c.cmd.ProcessState
	said := strings.TrimSpace(c.stderr.String())
	var exit *exec.ExitError
	if state == nil || !errors.As(err, &exit) {
		return fmt.Errorf("the preview's process: %w", err)
	}
	status, _ := state.Sys().(syscall.WaitStatus)
	switch {
	case status.Signaled() && (status.Signal() == syscall.SIGXCPU || state.SystemTime()+state.UserTime() >= c.limits.CPU*9/10):
		return fmt.Errorf("planning needed more than %s of computing: %w", c.limits.CPU, ErrKilled)
	case status.Exited() && status.ExitStatus() == exitMemory, strings.Contains(said, "out of memory"):
		return fmt.Errorf("planning needed more than %s of memory: %w", size(c.limits.Memory), ErrKilled)
	case status.Signaled():
		return fmt.Errorf("planning took longer than %s or was ended: %w", c.limits.Wall, ErrKilled)
	case said != "":
		return fmt.Errorf("the preview's process ended with exit code %d: %s", status.ExitStatus(), firstLine(said))
	}
	return fmt.Errorf("the preview's process ended with exit code %d", status.ExitStatus())
}

func size(n int64) string { return strconv.FormatInt(n>>20, 10) + " MiB" }

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	if len(line) > 300 {
		line = line[:300]
	}
	return line
}

// A tail keeps the first bytes written to it: the reason stands there, and traces follow.
type tail struct {
	mu  gosync.Mutex
	buf bytes.Buffer
}

const maxTail = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := maxTail - t.buf.Len(); room > 0 {
		t.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/mask"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
)

// stopGrace is what a cancelled command gets between SIGTERM and SIGKILL.
const stopGrace = 5 * time.Second

// tailSize is how much of what a command printed last is kept.
const tailSize = 8 << 10

// A tail keeps the end of what is written to it, masked.
type tail struct {
	mu   sync.Mutex // guards what follows: stdout and stderr are written side by side
	w    interface{ Write([]byte) (int, error) }
	end  func() error
	last []byte
}

func newTail(m *mask.Mask) *tail {
	t := &tail{}
	w := m.Writer(writeFunc(func(p []byte) (int, error) {
		t.last = append(t.last, p...)
		if n := len(t.last) - tailSize; n > 0 {
			t.last = append(t.last[:0], t.last[n:]...)
		}
		return len(p), nil
	}))
	t.w, t.end = w, w.Close
	return t
}

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.w.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.end()
	return strings.ToValidUTF8(string(t.last), "\uFFFD")
}

// Before runs pre_deploy, on the host, in the folder it names.
func (s *Stack) Before(ctx context.Context) error {
	return s.command(ctx, "pre_deploy", s.cfg().PreDeploy)
}

// After runs post_deploy.
func (s *Stack) After(ctx context.Context) error {
	return s.command(ctx, "post_deploy", s.cfg().PostDeploy)
}

// command runs one of the stack's commands with a shell. It sees PATH, HOME, LANG and the stack's environment, and
// nothing of this process's. Its whole process group ends with ctx.
func (s *Stack) command(ctx context.Context, what string, c schema.Command) error {
	text := Script(c)
	if text == "" {
		return nil
	}
	if s.opts.Allow.NoCommands {
		return &container.Refusal{Key: "commands", What: what}
	}
	dir := path.Join(s.dir, path.Clean(s.cfg().RunDirectory), c.Path)
	if compose.Inline(s.cfg()) {
		dir = path.Join(s.dir, c.Path)
	}
	if path.IsAbs(c.Path) {
		dir = c.Path
	}
	if i, err := os.Stat(dir); err != nil || !i.IsDir() {
		return &container.Failure{Message: fmt.Sprintf("the folder of %s, %s, does not exist", what, dir), Hint: "path is relative to run_directory"}
	}
	cmd := exec.CommandContext(ctx, shell(), "-c", fromPipe)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + pathOr(os.Getenv("PATH")), "HOME=" + homeOr(os.Getenv("HOME")), "LANG=C.UTF-8"}
	for _, kv := range s.cfg().Environment {
		cmd.Env = append(cmd.Env, kv.Key+"="+s.reveal(container.Unquote(kv.Value)))
	}
	out := newTail(s.mask)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	err := runScript(cmd, s.reveal(text))
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left in the background
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s was stopped: %w", what, context.Cause(ctx))
	}
	f := &container.Failure{Tail: out.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		f.Message = fmt.Sprintf("%s ended with %s", what, exit.ProcessState)
		f.Hint = "run it by hand in " + dir
	} else {
		f.Message = fmt.Sprintf("%s could not be run: %v", what, err)
	}
	return f
}

// fromPipe has the shell take its script from descriptor 3: everybody on the host can read a command line, and the
// script may hold secrets. What the script starts does not inherit the descriptor.
const fromPipe = `eval "exec 3<&-; $(cat <&3)"`

// runScript runs a shell that was started with fromPipe.
func runScript(cmd *exec.Cmd, script string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{r} // the first is descriptor 3
	err = cmd.Start()
	_ = r.Close()
	if err != nil {
		_ = w.Close()
		return err
	}
	go func() {
		_, _ = io.WriteString(w, script) // a shell that is gone is told by Wait
		_ = w.Close()
	}()
	return cmd.Wait()
}

func pathOr(p string) string {
	if p != "" {
		return p
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

func homeOr(h string) string {
	if h != "" {
		return h
	}
	return "/"
}

func shell() string {
	for _, p := range []string{"/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if p, err := exec.LookPath("sh"); err == nil {
		return p
	}
	return filepath.Clean("/bin/sh")
}

// Script is a command's text as the shell gets it: several lines are joined by &&, so that the first that fails
// ends it, unless shell_mode asks for the text as it is.
func Script(c schema.Command) string {
	if c.ShellMode {
		return strings.TrimSpace(c.Command)
	}
	var lines []string
	carry := ""
	for line := range strings.Lines(c.Command) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if i := strings.Index(line, " #"); i >= 0 {
			line = strings.TrimSpace(line[:i])
		}
		if head, ok := strings.CutSuffix(line, "\\"); ok { // goes on in the next line
			carry += strings.TrimSpace(head) + " "
			continue
		}
		lines = append(lines, carry+line)
		carry = ""
	}
	if carry != "" {
		lines = append(lines, strings.TrimSpace(carry))
	}
	return strings.Join(lines, " && ")
}

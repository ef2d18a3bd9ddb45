package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"strings"
	gosync "sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/varanhq/varan/sync/report"
	"github.com/varanhq/varan/sync/settings"
)

// A shell is all that a command touches of its process: results go to out, talk to err.
type shell struct {
	in       io.Reader
	out, err io.Writer
	environ  []string
	env      map[string]string
}

func newShell(in io.Reader, out, err io.Writer, environ []string) *shell {
	sh := &shell{in: in, out: out, err: err, environ: environ, env: map[string]string{}}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		sh.env[k] = v
	}
	return sh
}

// say talks to the person at the keyboard.
func (sh *shell) say(format string, args ...any) { fmt.Fprintf(sh.err, format+"\n", args...) }

// print gives results; a closed pipe is no news.
func (sh *shell) print(s string) { _, _ = io.WriteString(sh.out, s) }

// terminal tells how w shows text.
func (sh *shell) terminal(w io.Writer) report.Terminal {
	fd, is := fdOf(w)
	t := report.Terminal{}
	if is {
		if width, _, err := term.GetSize(fd); err == nil {
			t.Width = width
		}
		t.Color = sh.env["NO_COLOR"] == "" && sh.env["TERM"] != "dumb"
	}
	if n, err := strconv.Atoi(sh.env["COLUMNS"]); err == nil && is && n > 20 {
		t.Width = n
	}
	if f := sh.env["CLICOLOR_FORCE"]; f != "" && f != "0" && sh.env["NO_COLOR"] == "" {
		t.Color = true
	}
	return t
}

// fdOf is the terminal behind a reader or writer.
func fdOf(x any) (fd int, isTerminal bool) {
	f, ok := x.(*os.File)
	if !ok {
		return 0, false
	}
	return int(f.Fd()), term.IsTerminal(int(f.Fd()))
}

// ask puts a question that only "yes" answers.
func (sh *shell) ask(ctx context.Context, question string) (bool, error) {
	if _, is := fdOf(sh.in); !is && sh.env["VARAN_TEST_STDIN"] == "" {
		return false, errors.New("nobody is here to answer: add --yes to go on without asking")
	}
	fmt.Fprint(sh.err, question+" ")
	line := make(chan string, 1)
	go func() { // ends with the process: a read of a terminal cannot be called off
		s, _ := bufio.NewReader(sh.in).ReadString('\n')
		line <- s
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(sh.err)
		return false, context.Cause(ctx)
	case s := <-line:
		s = strings.ToLower(strings.TrimSpace(s))
		return s == "y" || s == "yes", nil
	}
}

// actor is who acts, for the journal.
func (sh *shell) actor() string {
	name := "uid " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if by := sh.env["SUDO_USER"]; by != "" {
		name += " (sudo by " + by + ")"
	}
	return name
}

// where tells which folders are this user's.
func (sh *shell) where() settings.Where {
	home := sh.env["HOME"]
	if home == "" {
		home, _ = os.UserHomeDir()
	}
	return settings.Where{Root: os.Geteuid() == 0, Home: home, DataHome: sh.env["XDG_DATA_HOME"], ConfigHome: sh.env["XDG_CONFIG_HOME"]}
}

// An exit is an error with the process's exit code; quiet when all was said already.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return "exit " + strconv.Itoa(e.code)
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// silent ends the process with a code: what there is to say was said.
func silent(code int) error { return &exit{code: code} }

// oneCtrlC is how close two signals are that come of one Ctrl-C: the terminal sends it to all, and a parent (a task
// runner, timeout) passes it on again.
const oneCtrlC = 300 * time.Millisecond

// interrupts delivers what a person types to stop a command, one signal a Ctrl-C; stop gives the signals back.
func interrupts() (c <-chan os.Signal, stop func()) {
	raw, out := make(chan os.Signal, 4), make(chan os.Signal, 4)
	done := make(chan struct{})
	signal.Notify(raw, os.Interrupt, syscall.SIGTERM)
	go func() {
		var last time.Time
		for {
			select {
			case <-done:
				return
			case s := <-raw:
				if now := time.Now(); now.Sub(last) > oneCtrlC {
					last = now
					select {
					case out <- s:
					default: // nobody listens any more
					}
				}
			}
		}
	}()
	return out, gosync.OnceFunc(func() { signal.Stop(raw); close(done) })
}

// run is the whole program but for the process around it.
func run(ctx context.Context, sh *shell, args []string) int {
	root := newRoot(sh)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var e *exit
	if errors.As(err, &e) {
		if e.err != nil {
			sh.complain(e.err)
		}
		return e.code
	}
	sh.complain(err)
	return 1
}

// complain says an error; each line of it is escaped, for parts of it may be a stranger's.
func (sh *shell) complain(err error) {
	t := sh.terminal(sh.err)
	lines := strings.Split(strings.TrimRight(err.Error(), "\n"), "\n")
	for i, l := range lines {
		l = report.Escape(l)
		if i == 0 {
			l = "varan: " + l
			if t.Color {
				l = "\x1b[31m" + l + "\x1b[0m"
			}
		}
		fmt.Fprintln(sh.err, l)
	}
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	gosync "sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/varanhq/varan/agent"
	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/update"
)

// trialVar tells a process that it is an agent's new binary on trial: it connects, says so on this file descriptor once
// the hub has asked it something, and does nothing else.
const trialVar = "VARAN_UPDATE_TRIAL"

// errLeaving: the agent has let go of everything so that its new binary may be tried.
var errLeaving = errors.New("an update takes over")

// A trial is the new binary's side of its trial.
type trial struct {
	out     *os.File
	reached gosync.Once
}

// newTrial is nil in a process that is no trial.
func newTrial(sh *shell) *trial {
	if sh.env[trialVar] == "" {
		return nil
	}
	return &trial{out: os.NewFile(3, "trial")}
}

func (t *trial) say(line string) { _, _ = fmt.Fprintln(t.out, strings.ReplaceAll(line, "\n", " ")) }

// heard: an order of the fleet's key arrived, so that each side understands the other.
func (t *trial) heard(ctx context.Context) {
	t.reached.Do(func() { t.say(trialReached) })
	<-ctx.Done() // the agent that comes answers
}

// Observe answers nothing.
func (t *trial) Observe(ctx context.Context, _ protocol.Observe) protocol.Observed {
	t.heard(ctx)
	return protocol.Observed{}
}

// Submit takes nothing.
func (t *trial) Submit(ctx context.Context, _ protocol.Op) protocol.Submit {
	t.heard(ctx)
	return protocol.Submit{}
}

// Wait knows nothing.
func (t *trial) Wait(ctx context.Context, _ protocol.OpID) (protocol.Outcome, error) {
	t.heard(ctx)
	return protocol.Outcome{}, context.Cause(ctx)
}

// news passes on how the connection stands.
func (t *trial) news(n link.News, err error) {
	switch n {
	case link.Connected:
		t.say("it connected, and the hub told it nothing")
	case link.Lost:
		t.say(fmt.Sprintf("no connection to the hub: %v", err))
	case link.Refused:
		t.say("the hub refused its key")
	}
}

const trialReached = "reached"

// try runs a new binary as this agent, beside this process, until it has reached the hub; it ends with this process,
// however that ends.
func try(wait time.Duration, log *slog.Logger) func(context.Context, string) (string, error) {
	return func(ctx context.Context, path string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		// The kernel ends the child with the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		said, hear, err := os.Pipe()
		if err != nil {
			return "", fmt.Errorf("try the new binary: %w", err)
		}
		defer said.Close()
		tail := &lastWords{}
		log.Info("the new binary is tried", "path", path, "for", wait)
		var cmd *exec.Cmd
		err = update.Settled(func() error {
			cmd = exec.CommandContext(ctx, path, os.Args[1:]...)
			cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
			cmd.Env = append(cmd.Env, trialVar+"=3")
			cmd.ExtraFiles = []*os.File{hear}
			cmd.Stdout, cmd.Stderr = tail, tail
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
			cmd.WaitDelay = 2 * time.Second
			return cmd.Start()
		})
		_ = hear.Close()
		if err != nil {
			return "", fmt.Errorf("start the new binary: %w", err)
		}
		var last string
		reached := make(chan bool, 1)
		go func() {
			defer close(reached)
			lines := bufio.NewScanner(said) // of 64 kB at most
			for lines.Scan() {
				if lines.Text() == trialReached {
					reached <- true
					return
				}
				last = lines.Text()
			}
		}()
		ok := false
		select {
		case ok = <-reached: // false: it has ended, or closed what it is to speak on
		case <-ctx.Done():
		}
		late := ctx.Err() != nil
		if !ok && !late { // it may have let go of the pipe alone: it has its time all the same
			gone := make(chan error, 1)
			go func() { gone <- cmd.Wait() }()
			select {
			case err = <-gone:
			case <-ctx.Done():
				late = true
				err = <-gone
			}
		} else {
			cancel()
			err = cmd.Wait()
			_ = said.Close()
			<-reached
		}
		switch {
		case ok:
			return "", nil
		case late && last != "":
			return tail.String(), fmt.Errorf("it did not reach the hub within %s: %s", wait, last)
		case late:
			return tail.String(), fmt.Errorf("it did not reach the hub within %s", wait)
		case err == nil:
			return tail.String(), errors.New("it ended before it reached the hub")
		}
		return tail.String(), fmt.Errorf("it ended before it reached the hub: %w", err)
	}
}

// A probation is the time a new binary has, once it runs for good, to reach the hub again.
type probation struct {
	self   *update.Self
	agent  *agent.Agent
	log    *slog.Logger
	over   chan struct{} // closed when it reached the hub; nil: there is none
	last   atomic.Value  // string: why it did not, yet
	once   gosync.Once
	failed error // after late
}

func newProbation(self *update.Self, a *agent.Agent, unproven bool, log *slog.Logger) *probation {
	p := &probation{self: self, agent: a, log: log}
	if unproven {
		p.over = make(chan struct{})
	}
	return p
}

// news hears how the connection stands.
func (p *probation) news(n link.News, err error) {
	switch {
	case p.over == nil:
	case n == link.Connected:
		p.once.Do(func() {
			close(p.over)
			if e := p.self.Reached(); e != nil {
				if err := p.agent.Updated(e); err != nil {
					p.log.Error("the update is done, and that could not be written down", "err", err)
				}
			}
			p.log.Info("the agent is updated", "version", p.self.Version)
		})
	case err != nil:
		p.last.Store(err.Error())
	}
}

// late waits for the end of the probation and reports whether it failed.
func (p *probation) late(ctx context.Context) bool {
	if p.over == nil {
		return false
	}
	limit := time.NewTimer(p.self.Wait)
	defer limit.Stop()
	select {
	case <-p.over:
		return false
	case <-ctx.Done():
		return false
	case <-limit.C:
	}
	p.failed = fmt.Errorf("it did not reach the hub within %s", p.self.Wait)
	if last, ok := p.last.Load().(string); ok {
		p.failed = fmt.Errorf("%w: %s", p.failed, last)
	}
	return true
}

// lastWords keeps the end of what is written to it.
type lastWords struct {
	mu  gosync.Mutex // guards buf
	buf []byte
}

const lastWordsMax = 4 << 10

// Write never fails.
func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, p...)
	if n := len(w.buf) - lastWordsMax; n > 0 {
		w.buf = slices.Delete(w.buf, 0, n)
	}
	return len(p), nil
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.ToValidUTF8(string(w.buf), "")
}

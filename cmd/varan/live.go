package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	gosync "sync"
	"time"

	"golang.org/x/term"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/sync/report"
)

// A live shows a run while it goes: on a terminal, a line a step at the bottom that ended steps scroll away from;
// elsewhere a line for each news.
type live struct {
	sh   *shell
	tty  bool
	grow bool // the plan is not known here: steps are shown as they turn up
	t    report.Terminal
	high int // lines of the terminal

	mu    gosync.Mutex // guards the rest
	steps *report.Live
	drawn int
	note  string
	run   string // the run's id, once known
}

func newLive(sh *shell, p *plan.Plan) *live {
	t := sh.terminal(sh.err)
	l := &live{sh: sh, t: t, steps: report.NewLive(p, t)}
	if fd, is := fdOf(sh.err); is && sh.env["TERM"] != "dumb" && sh.env["CI"] == "" {
		l.tty = true
		if _, h, err := term.GetSize(fd); err == nil {
			l.high = h
		}
	}
	return l
}

// Event takes what the run tells; it is apply.Options.Events.
func (l *live) Event(e apply.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.run == "" {
		l.run = e.Run
	}
	if l.grow {
		l.steps.Meet(e)
	}
	ended, news := l.steps.Add(e)
	if l.tty {
		if ended != "" {
			l.erase()
			fmt.Fprintln(l.sh.err, ended)
			l.draw(time.Now())
		}
		return
	}
	switch {
	case ended != "":
		fmt.Fprintln(l.sh.err, ended)
	case news:
		fmt.Fprintln(l.sh.err, l.steps.Line(e.Resource, e.At))
	}
}

// follow redraws until done is closed.
func (l *live) follow(done <-chan struct{}) {
	if !l.tty {
		<-done
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			l.mu.Lock()
			l.erase()
			l.mu.Unlock()
			return
		case now := <-tick.C:
			l.mu.Lock()
			l.erase()
			l.draw(now)
			l.mu.Unlock()
		}
	}
}

// erase takes the drawn lines off the terminal.
func (l *live) erase() {
	if l.drawn > 0 {
		fmt.Fprintf(l.sh.err, "\x1b[%dA\x1b[J", l.drawn)
		l.drawn = 0
	}
}

func (l *live) draw(now time.Time) {
	lines := l.steps.Lines(now, max(3, min(l.high-2, 20)))
	if l.note != "" {
		lines = append(lines, l.note)
	}
	if len(lines) == 0 {
		return
	}
	fmt.Fprint(l.sh.err, strings.Join(lines, "\n")+"\n")
	l.drawn = len(lines)
}

// stopping says what will be finished before the run stops.
func (l *live) stopping() {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := "Stopping: no further step starts."
	if run := l.steps.Running(); len(run) > 0 {
		s = "Stopping: finishing " + strings.Join(run, ", ") + ", then no further step starts. Ctrl-C again to leave at once."
	}
	if !l.tty {
		fmt.Fprintln(l.sh.err, s)
		return
	}
	l.note = s
}

// leftNote is said when a person leaves while steps are under way.
const leftNote = "Left while steps were under way: what they began is put right by the next run or the daemon."

// watch runs do and shows its events. The first interrupt calls stop once, which must make do end after the steps
// in flight; the second leaves do alone and returns false.
func (l *live) watch(ctx context.Context, signals <-chan os.Signal, stop func(), do func()) (finished bool) {
	done := make(chan struct{})
	drawn := make(chan struct{})
	quit := make(chan struct{})
	go func() { defer close(done); do() }()
	go func() { defer close(drawn); l.follow(quit) }()
	defer func() { close(quit); <-drawn }()
	asked := false
	for {
		select {
		case <-done:
			return true
		case <-signals:
			if asked {
				return false
			}
			asked = true
			l.stopping()
			stop()
		}
	}
}

package container

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
)

// A watch is what a gate waits for.
type watch struct {
	id, name string
	service  string
	oneShot  bool
	mustEnd  bool
	settle   time.Duration
	timeout  time.Duration
	// restarts and startedAt, when known, are what the container had right after its start.
	fresh    bool // created by this change: any restart counts
	standing bool // nothing is done to it: it has run since its own start
	quiet    bool // the engine's own words may hold a secret that nobody can take out
}

// lookAgain is how often a gate looks without having heard an event: the stream may be broken.
const lookAgain = 5 * time.Second

// gate waits until the container is healthy or completed, and says which. It fails at once when the container
// is found bad.
func (e *Engine) gate(ctx context.Context, w watch) (string, error) {
	news, done := e.watcher.subscribe(w.id)
	defer done()
	began := time.Now()
	deadline := time.NewTimer(w.timeout)
	defer deadline.Stop()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	var settle <-chan time.Time
	var startedAt string
	restarts := 0
	for first := true; ; first = false {
		c, err := e.api.ContainerInspect(ctx, w.id)
		switch {
		case errdefs.IsNotFound(err):
			return "", &Failure{Service: w.service, Gate: true, Message: fmt.Sprintf("container %q was removed while varan waited for it", w.name)}
		case err != nil:
			return "", e.explain(ctx, err, w.service, "look at container "+w.name)
		}
		if first {
			startedAt = c.State.StartedAt
			if at, err := time.Parse(time.RFC3339Nano, startedAt); w.standing && err == nil && at.Before(began) {
				began = at
			}
			if !w.fresh {
				restarts = c.RestartCount
			}
		}
		state, err := w.judge(c, startedAt, restarts, time.Since(began))
		if err != nil {
			f := err.(*Failure)
			f.Tail = e.tail(ctx, w.id)
			return "", f
		}
		if state != "" {
			return state, nil
		}
		if settle == nil && c.State.Health == nil && !w.mustEnd {
			t := time.NewTimer(w.settle - time.Since(began))
			defer t.Stop()
			settle = t.C
		}
		select {
		case <-news:
		case <-settle:
			settle = make(chan time.Time)
		case <-tick.C:
		case <-deadline.C:
			f := &Failure{Service: w.service, Gate: true,
				Message: fmt.Sprintf("container %q was not %s after %s", w.name, w.goal(c), w.timeout),
				Hint:    "look at its log, or raise health_timeout",
				Tail:    e.tail(ctx, w.id)}
			return "", f
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

func (w watch) goal(c container.InspectResponse) string {
	if w.mustEnd {
		return "done"
	}
	if c.State.Health != nil {
		return "healthy"
	}
	return "settled"
}

// judge says what the container is: "healthy", "completed", "" (not known yet), or a *Failure.
func (w watch) judge(c container.InspectResponse, startedAt string, restarts int, age time.Duration) (string, error) {
	s := c.State
	fail := func(format string, args ...any) (string, error) {
		return "", &Failure{Service: w.service, Gate: true, Message: fmt.Sprintf("container %q "+format, append([]any{w.name}, args...)...)}
	}
	switch {
	case s.Restarting || c.RestartCount > restarts || (s.Running && s.StartedAt != startedAt):
		return fail("restarted by itself: it %s", ended(s))
	case s.Running && s.Health != nil && s.Health.Status != container.NoHealthcheck && !w.mustEnd:
		switch s.Health.Status {
		case container.Healthy:
			return "healthy", nil
		case container.Unhealthy:
			out := ""
			if n := len(s.Health.Log); n > 0 {
				if l := strings.TrimSpace(s.Health.Log[n-1].Output); l != "" {
					out = fmt.Sprintf(", whose last answer had exit code %d", s.Health.Log[n-1].ExitCode)
				}
			}
			return fail("is unhealthy by its health check%s", out)
		}
		return "", nil
	case s.Running:
		if !w.mustEnd && age >= w.settle {
			return "healthy", nil
		}
		return "", nil
	case s.Status == "created" && w.quiet:
		return fail("did not start")
	case s.Status == "created":
		return fail("did not start: %s", s.Error)
	case s.ExitCode == 0 && !s.OOMKilled && (w.oneShot || w.mustEnd):
		return "completed", nil
	default:
		return fail("%s", ended(s))
	}
}

// ended says in plain words how a process came to its end.
func ended(s *container.State) string {
	switch {
	case s.OOMKilled:
		return "ran out of the memory it may use and was killed"
	case s.ExitCode == 137:
		return "was killed (exit code 137)"
	case s.ExitCode == 126 || s.ExitCode == 127:
		return fmt.Sprintf("could not run its command (exit code %d)", s.ExitCode)
	}
	return fmt.Sprintf("ended with exit code %d", s.ExitCode)
}

// tailLines and tailBytes bound what is kept of a container's log.
const (
	tailLines = "25"
	tailBytes = 8 << 10
)

// tail is what the container printed last; "" if the engine cannot tell.
func (e *Engine) tail(ctx context.Context, id string) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	r, err := e.api.ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: tailLines})
	if err != nil {
		return ""
	}
	defer r.Close()
	raw, _ := io.ReadAll(io.LimitReader(r, 1<<20))
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &out, bytes.NewReader(raw)); err != nil {
		out.Reset()
		out.Write(raw) // a terminal's log has no frames
	}
	b := out.Bytes()
	if len(b) > tailBytes {
		b = b[len(b)-tailBytes:]
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

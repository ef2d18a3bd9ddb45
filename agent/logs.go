package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/mask"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// streams are the logs somebody reads now. A stream outlives the messages that ask for it, but not for long.
type streams struct {
	mu   sync.Mutex // guards open
	open map[string]*stream
}

// A stream is what containers print on its way to who reads it: readers of containers fill the buffer and wait while
// it is full, answers empty it.
type stream struct {
	cancel context.CancelFunc

	mu    sync.Mutex // guards what follows
	room  *sync.Cond // the buffer was emptied, or the stream ended
	buf   []byte
	ended bool
	err   error
	more  chan struct{} // has a token when there is something to tell
	idle  *time.Timer
}

// Logs answers one question for what containers print.
func (a *Agent) Logs(ctx context.Context, q protocol.Logs) protocol.Logged {
	out := protocol.Logged{Version: protocol.Version}
	fail := func(format string, args ...any) protocol.Logged {
		out.End, out.Error = true, fmt.Sprintf(format, args...)
		return out
	}
	if q.Stream == "" || q.Fleet != a.opts.Fleet {
		return fail("this agent belongs to fleet %q", a.opts.Fleet)
	}
	a.streams.mu.Lock()
	s := a.streams.open[q.Stream]
	a.streams.mu.Unlock()
	switch {
	case s == nil && q.Close:
		out.End = true
		return out
	case s == nil && q.Next:
		return fail("the stream is over: nobody asked for more in time, or the agent started anew")
	case s == nil:
		var err error
		if s, err = a.openStream(ctx, q); err != nil {
			return fail("%v", err)
		}
	case q.Close:
		a.closeStream(q.Stream)
		out.End = true
		return out
	}
	var err error
	out.Data, out.End, err = s.read(ctx, time.Duration(min(max(q.Millis, 0), protocol.LogsMaxWait))*time.Millisecond)
	if err != nil {
		out.Error = err.Error()
	}
	if out.End {
		a.closeStream(q.Stream)
	}
	return out
}

func (a *Agent) closeStream(id string) {
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	if s := a.streams.open[id]; s != nil {
		s.cancel()
		s.idle.Stop()
		delete(a.streams.open, id)
	}
}

// closeStreams ends them all.
func (a *Agent) closeStreams() {
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	for id, s := range a.streams.open {
		s.cancel()
		s.idle.Stop()
		delete(a.streams.open, id)
	}
}

// openStream finds the containers and begins to read them.
func (a *Agent) openStream(ctx context.Context, q protocol.Logs) (*stream, error) {
	list, err := a.printing(ctx, q.Resource, q.Was, q.Service)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no container of %s is there", q.Resource)
	}
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	if len(a.streams.open) >= protocol.LogsStreams {
		return nil, fmt.Errorf("%d logs are read from this host already, which is the most at once", protocol.LogsStreams)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a stream lives on between the questions
	s := &stream{cancel: cancel, more: make(chan struct{}, 1)}
	s.room = sync.NewCond(&s.mu)
	s.idle = time.AfterFunc(protocol.LogsIdle*time.Second, func() { a.closeStream(q.Stream) })
	if a.streams.open == nil {
		a.streams.open = map[string]*stream{}
	}
	a.streams.open[q.Stream] = s
	context.AfterFunc(ctx, s.end)
	values := map[string]string{}
	for name, v := range q.Secrets {
		values[name] = string(v)
	}
	m := mask.New(values)
	go func() {
		err := a.print(ctx, s, list, q, m)
		s.mu.Lock()
		if ctx.Err() == nil {
			s.err = err
		}
		s.mu.Unlock()
		s.end()
	}()
	return s, nil
}

// printing lists the containers of a resource, by name: those that bear its label, and those it adopted without.
func (a *Agent) printing(ctx context.Context, id, was schema.ID, service string) ([]docker.Summary, error) {
	list, err := a.api.ContainerList(ctx, docker.ListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	mine := a.standing(id, was, list)
	list = slices.DeleteFunc(list, func(c docker.Summary) bool {
		return !mine[c.ID] || service != "" && cmp.Or(c.Labels["com.docker.compose.service"], id.Name()) != service
	})
	slices.SortFunc(list, func(x, y docker.Summary) int { return cmp.Compare(called(x), called(y)) })
	return list, nil
}

// standing are the ids of those containers that stand for a resource.
func (a *Agent) standing(id, was schema.ID, list []docker.Summary) map[string]bool {
	s := plan.ServerState{Ledger: map[schema.ID]*plan.Entry{id: a.ledger.get(id).Entry, was: a.ledger.get(was).Entry}}
	for _, c := range list {
		l := c.Labels
		of := schema.ID(l[container.LabelResource])
		if of != "" {
			s.Ledger[of] = a.ledger.get(of).Entry
		}
		s.Containers = append(s.Containers, plan.Container{
			ID: c.ID, Name: called(c), Resource: of, Fleet: l[container.LabelFleet],
			Project: l["com.docker.compose.project"], OneOff: l["com.docker.compose.oneoff"] == "True",
		})
	}
	ids := map[string]bool{}
	for _, c := range s.Of(id, was, a.opts.Fleet) {
		ids[c.ID] = true
	}
	return ids
}

func called(c docker.Summary) string {
	if len(c.Names) > 0 {
		return strings.TrimPrefix(c.Names[0], "/")
	}
	return c.ID[:12]
}

// print copies what the containers print into the stream, line by line, masked.
func (a *Agent) print(ctx context.Context, s *stream, list []docker.Summary, q protocol.Logs, m *mask.Mask) error {
	width := 0
	for _, c := range list {
		width = max(width, len(called(c)))
	}
	tail := min(q.Tail, protocol.LogsMaxTail)
	if tail <= 0 {
		tail = 100
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range list {
		prefix := ""
		if len(list) > 1 {
			prefix = fmt.Sprintf("%-*s | ", width, called(c))
		}
		g.Go(func() error {
			r, err := a.api.ContainerLogs(ctx, c.ID, docker.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(tail), Since: q.Since, Follow: q.Follow})
			if err != nil {
				return fmt.Errorf("read logs of %s: %w", called(c), err)
			}
			defer r.Close()
			lines := &lineWriter{s: s, prefix: prefix}
			defer lines.flush()
			masked := m.Writer(lines)
			defer masked.Close()
			if info, err := a.api.ContainerInspect(ctx, c.ID); err == nil && info.Config != nil && info.Config.Tty {
				_, err = io.Copy(masked, r)
				return err
			}
			_, err = stdcopy.StdCopy(masked, masked, r)
			return err
		})
	}
	return g.Wait()
}

var errStreamOver = errors.New("the stream is over")

// write adds a line, and waits while there is no room for it.
func (s *stream) write(line []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ended && len(s.buf) > 0 && len(s.buf)+len(line) > protocol.LogsChunk {
		s.room.Wait()
	}
	if s.ended {
		return errStreamOver
	}
	s.buf = append(s.buf, line...)
	s.wake()
	return nil
}

// wake wants s.mu held.
func (s *stream) wake() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// end says that nothing more comes.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.room.Broadcast()
	s.wake()
}

// read takes what is there, waiting a while for something to come.
func (s *stream) read(ctx context.Context, wait time.Duration) (data []byte, end bool, err error) {
	s.idle.Reset(protocol.LogsIdle*time.Second + wait)
	limit := time.NewTimer(wait)
	defer limit.Stop()
	for {
		s.mu.Lock()
		data, s.buf = s.buf, nil
		end = s.ended
		if end {
			err = s.err
		}
		s.room.Broadcast()
		s.mu.Unlock()
		if len(data) > 0 || end {
			return data, end, err
		}
		select {
		case <-s.more:
		case <-limit.C:
			return nil, false, nil
		case <-ctx.Done():
			return nil, false, nil
		}
	}
}

// A lineWriter cuts one container's output into lines and puts its name before each.
type lineWriter struct {
	s      *stream
	prefix string
	rest   []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 && len(w.rest) < protocol.LogsLine {
			return len(p), nil
		}
		if i < 0 {
			i = protocol.LogsLine - 1
		}
		if err := w.line(w.rest[:i+1]); err != nil {
			return 0, err
		}
		w.rest = w.rest[i+1:]
	}
}

func (w *lineWriter) line(l []byte) error {
	return w.s.write([]byte(w.prefix + string(bytes.TrimRight(l, "\r\n")) + "\n"))
}

func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		_ = w.line(w.rest) // who reads is gone
	}
}

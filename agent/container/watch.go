package container

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
)

// A Watcher reads the engine's stream of container events and passes them on. Where the stream breaks it is
// taken up again from the last event seen; who waits for an event also looks for itself now and then, so that a
// lost one costs time and nothing else.
type Watcher struct {
	api client.APIClient
	// On is called for every event, in order, from Run's goroutine. May be nil.
	On func(events.Message)
	// Missed is called when the stream broke: something may have happened of which no event tells. May be nil.
	Missed func()

	mu   sync.Mutex // guards what follows
	subs map[string]map[chan struct{}]struct{}
	last int64 // of the last event, nanoseconds since 1970 by the engine's clock
}

// NewWatcher watches from the engine time since (0: from now on).
func NewWatcher(api client.APIClient, since int64) *Watcher {
	return &Watcher{api: api, subs: map[string]map[chan struct{}]struct{}{}, last: since}
}

// watched are the events that change what a container is. Health checks emit exec events all the time; those
// never leave the engine.
func watched() filters.Args {
	f := filters.NewArgs(filters.Arg("type", "container"))
	for _, a := range []string{"create", "destroy", "die", "health_status", "kill", "oom", "pause", "rename", "restart", "start", "stop", "unpause", "update"} {
		f.Add("event", a)
	}
	return f
}

// Run reads events until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		w.mu.Lock()
		since := w.last
		w.mu.Unlock()
		opts := events.ListOptions{Filters: watched()}
		if since > 0 {
			since++ // the engine's since includes it
			opts.Since = strconv.FormatInt(since/1e9, 10) + "." + pad9(since%1e9)
		}
		w.read(ctx, opts)
		w.wakeAll() // something may have been missed
		if w.Missed != nil {
			w.Missed()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return context.Cause(ctx)
}

func pad9(n int64) string {
	s := strconv.FormatInt(n, 10)
	for len(s) < 9 {
		s = "0" + s
	}
	return s
}

func (w *Watcher) read(ctx context.Context, opts events.ListOptions) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	msgs, errs := w.api.Events(ctx, opts)
	for {
		select {
		case m := <-msgs:
			w.take(m)
		case <-errs:
			return
		case <-ctx.Done():
			return
		}
	}
}

// History passes on what happened from since until now, and returns; the engine remembers its last few hundred
// events. Call it before Run.
func (w *Watcher) History(ctx context.Context) {
	w.mu.Lock()
	since := w.last
	w.mu.Unlock()
	now := time.Now().UnixNano()
	if since > 0 {
		opts := events.ListOptions{Filters: watched(),
			Since: strconv.FormatInt((since+1)/1e9, 10) + "." + pad9((since+1)%1e9),
			Until: strconv.FormatInt(now/1e9, 10) + "." + pad9(now%1e9)}
		w.read(ctx, opts)
	}
	w.mu.Lock()
	w.last = max(w.last, now)
	w.mu.Unlock()
}

// Last is the time of the last event seen, to go on from in another process.
func (w *Watcher) Last() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

func (w *Watcher) take(m events.Message) {
	if m.Type != events.ContainerEventType {
		return
	}
	w.mu.Lock()
	w.last = max(w.last, m.TimeNano)
	for c := range w.subs[m.Actor.ID] {
		poke(c)
	}
	w.mu.Unlock()
	if w.On != nil {
		w.On(m)
	}
}

func (w *Watcher) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, subs := range w.subs {
		for c := range subs {
			poke(c)
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// subscribe returns a channel that has a token after each event of the container, and how to end that.
func (w *Watcher) subscribe(id string) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.subs[id] == nil {
		w.subs[id] = map[chan struct{}]struct{}{}
	}
	w.subs[id][c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs[id], c)
		if len(w.subs[id]) == 0 {
			delete(w.subs, id)
		}
	}
}

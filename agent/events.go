package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"

	"github.com/varanhq/varan/schema"
)

// marks remembers which containers were told to stop, so that one that ends by itself can be told from one that
// somebody ended. It is kept on disk with the time up to which events were read; the engine's own memory of
// events fills the gap of a restart.
type marks struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex // guards what follows
	dirty bool
	state markState
	seen  map[schema.ID][]sighting
}

type markState struct {
	Since  int64            `json:"since"`
	Killed map[string]int64 `json:"killed"` // container id → when, by the engine's clock
	// Released are containers that still bear our labels and are nobody's.
	Released map[string]bool `json:"released,omitempty"`
}

// A sighting is one thing seen done to a resource's container by somebody else.
type sighting struct {
	at   time.Time
	what string
}

func openMarks(path string, log *slog.Logger) *marks {
	m := &marks{path: path, log: log, state: markState{Killed: map[string]int64{}}, seen: map[schema.ID][]sighting{}}
	data, err := os.ReadFile(path)
	if err != nil {
		return m
	}
	if err := json.Unmarshal(data, &m.state); err != nil || m.state.Killed == nil {
		m.state = markState{Killed: map[string]int64{}}
	}
	return m
}

func (m *marks) since() int64 { return m.state.Since }

// killed reports whether the container's present end was somebody's doing.
func (m *marks) killed(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.state.Killed[id]
	return ok
}

// keptSightings bounds what is remembered of one resource.
const keptSightings = 12

func (m *marks) take(e events.Message, ours bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := e.Actor.ID
	switch e.Action {
	case events.ActionKill:
		// Other signals (a reload by SIGHUP) end nothing; a stop signal of its own is followed by "stop".
		switch e.Actor.Attributes["signal"] {
		case "2", "3", "9", "15":
		default:
			return
		}
		fallthrough
	case events.ActionStop:
		m.state.Killed[id] = e.TimeNano
		m.dirty = true
	case events.ActionStart, events.ActionDestroy:
		if _, ok := m.state.Killed[id]; ok {
			delete(m.state.Killed, id)
			m.dirty = true
		}
	}
	res := schema.ID(e.Actor.Attributes["varan.resource"])
	if res == "" || ours {
		return
	}
	what := ""
	switch e.Action {
	case events.ActionKill:
		what = "signal " + e.Actor.Attributes["signal"] + " sent to " + e.Actor.Attributes["name"]
	case events.ActionStop, events.ActionDestroy, events.ActionPause, events.ActionDie, events.ActionOOM:
		what = e.Actor.Attributes["name"] + ": " + string(e.Action)
		if c := e.Actor.Attributes["exitCode"]; c != "" {
			what += " (exit code " + c + ")"
		}
	default:
		return
	}
	s := append(m.seen[res], sighting{time.Unix(0, e.TimeNano), what})
	m.seen[res] = s[max(0, len(s)-keptSightings):]
}

func (m *marks) sightings(id schema.ID) []sighting {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]sighting(nil), m.seen[id]...)
}

// run writes the marks down soon after they changed, and at the end.
func (m *marks) run(ctx context.Context, last func() int64) error {
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			m.save(last(), false)
		case <-ctx.Done():
			m.save(last(), true)
			return context.Cause(ctx)
		}
	}
}

func (m *marks) save(last int64, always bool) {
	m.mu.Lock()
	if !m.dirty && !always {
		m.mu.Unlock()
		return
	}
	m.dirty = false
	m.state.Since = last
	s := markState{Since: last, Killed: maps.Clone(m.state.Killed), Released: maps.Clone(m.state.Released)}
	m.mu.Unlock()
	data, err := json.Marshal(s)
	if err == nil {
		err = writeSynced(m.path, data)
	}
	if err != nil {
		m.log.Warn("remember which containers were stopped", "err", err)
	}
}

// forget drops marks of containers that are gone.
func (m *marks) forget(alive map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.state.Released {
		if !alive[id] {
			delete(m.state.Released, id)
			m.dirty = true
		}
	}
	for id := range m.state.Killed {
		if !alive[id] {
			delete(m.state.Killed, id)
			m.dirty = true
		}
	}
}

// heard is called for each engine event.
func (a *Agent) heard(e events.Message) {
	a.marks.take(e, a.working(schema.ID(e.Actor.Attributes["varan.resource"])))
	a.shares.heard(e)
	a.poke()
}

func (m *marks) released(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Released[id]
}

// release notes containers as nobody's, or takes them back, and returns when that is on disk.
func (m *marks) release(ids []string, nobodys bool) error {
	m.mu.Lock()
	if m.state.Released == nil {
		m.state.Released = map[string]bool{}
	}
	for _, id := range ids {
		if nobodys {
			m.state.Released[id] = true
		} else {
			delete(m.state.Released, id)
		}
	}
	s := markState{Since: m.state.Since, Killed: maps.Clone(m.state.Killed), Released: maps.Clone(m.state.Released)}
	m.mu.Unlock()
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeSynced(m.path, data)
}

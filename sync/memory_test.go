package sync

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	gosync "sync"
	"testing"
)

// shared is a Memory that several daemons have.
type shared struct {
	mu   gosync.Mutex // guards kept
	kept map[string][]byte
}

func (m *shared) Read(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept[name], nil
}

func (m *shared) Write(name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept[name] = data
	if data == nil {
		delete(m.kept, name)
	}
	return nil
}

func (m *shared) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.kept))
}

// TestMemory: the daemon that leads next, on another machine, knows that people paused the fleet and which commit was
// applied, so that a branch that was set back meanwhile asks.
func TestMemory(t *testing.T) {
	m := &shared{kept: map[string][]byte{}}
	w := follow(t, func(o *Options) { o.Memory = m })
	first := w.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	w.start()
	w.rep.applied(first)
	second := w.git.Push(map[string]string{"a.toml": deployment("a", "2")})
	w.rep.applied(second)
	if err := w.Pause(t.Context(), PauseRequest{Reason: "moving"}); err != nil {
		t.Fatal(err)
	}
	w.stop()
	if got := m.names(); !slices.Equal(got, []string{"paused", "syncs/main"}) {
		t.Errorf("kept: %v", got)
	}
	for _, name := range []string{"paused.json", "syncs"} {
		if _, err := os.Stat(filepath.Join(w.opts.DataDir, name)); err == nil {
			t.Errorf("%s is kept on one machine", name)
		}
	}

	w.opts.DataDir = t.TempDir()
	w.git.Git("reset", "-q", "--hard", first)
	w.git.Send()
	w.start()
	w.until("paused on the other machine", func(s Status) bool { return s.Paused != nil && s.Paused.Reason == "moving" })
	if err := w.Pause(t.Context(), PauseRequest{Off: true}); err != nil {
		t.Fatal(err)
	}
	w.until("a branch set back asks", func(s Status) bool { return s.Syncs[0].State == "asking" })
	if got := m.names(); !slices.Equal(got, []string{"syncs/main"}) {
		t.Errorf("kept: %v", got)
	}
}

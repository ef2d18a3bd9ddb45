package sync

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/varanhq/varan/plan"
)

// remembered is what a sync keeps across restarts. Lost, the tip is taken as it is.
type remembered struct {
	Version int    `json:"version"`
	URL     string `json:"url"`
	Good    string `json:"good"`
	Applied string `json:"applied"`
	Halted  *halt  `json:"halted,omitempty"`
	// Others are the commits of other repositories that were let through.
	Others map[string]string `json:"others,omitempty"`
}

const rememberedVersion = 1

func (d *Daemon) statePath(name string) string {
	return filepath.Join(d.opts.DataDir, "syncs", name+".json")
}

// recall reads which commit was applied last, so that a branch rewritten meanwhile is noticed.
func (d *Daemon) recall(s *syncer) error {
	if d.opts.DataDir == "" && d.opts.Memory == nil {
		return nil
	}
	var m remembered
	if err := d.load("syncs/"+s.name, d.statePath(s.name), &m); err != nil {
		return err
	}
	if m.Version == rememberedVersion && m.URL == s.status.URL {
		s.status.Good, s.status.Applied, s.halted = m.Good, m.Applied, m.Halted
		s.others = m.Others
	}
	d.pause = nil
	var h plan.Hold
	if err := d.load("paused", filepath.Join(d.opts.DataDir, "paused.json"), &h); err != nil {
		return err
	}
	if h.Kind != "" {
		d.pause = &h
	}
	return nil
}

func (d *Daemon) remember(s SyncStatus, h *halt, others map[string]string) {
	if d.opts.DataDir == "" && d.opts.Memory == nil {
		return
	}
	m := remembered{Version: rememberedVersion, URL: s.URL, Good: s.Good, Applied: s.Applied, Halted: h, Others: others}
	if err := d.save("syncs/"+s.Name, d.statePath(s.Name), m); err != nil {
		d.opts.Log.Error("state of the sync not written", "sync", s.Name, "err", err)
	}
}

func (d *Daemon) storePause() error {
	if d.opts.DataDir == "" && d.opts.Memory == nil {
		return nil
	}
	d.mu.Lock()
	h := d.pause
	d.mu.Unlock()
	if m := d.opts.Memory; m != nil && h == nil {
		return m.Write("paused", nil)
	}
	path := filepath.Join(d.opts.DataDir, "paused.json")
	if h == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("lift pause: %w", err)
		}
		return nil
	}
	return d.save("paused", path, h)
}

// load reads what was kept under a name, or in the file where there is no Memory.
func (d *Daemon) load(name, path string, v any) error {
	if d.opts.Memory == nil {
		return readJSON(path, v)
	}
	data, err := d.opts.Memory.Read(name)
	if err != nil || data == nil {
		return err
	}
	_ = json.Unmarshal(data, v) // what cannot be understood is set aside by the next write; losing it loses little
	return nil
}

// save keeps it.
func (d *Daemon) save(name, path string, v any) error {
	if d.opts.Memory == nil {
		return writeJSON(path, v)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return d.opts.Memory.Write(name, data)
}

// readJSON reads a small file; one that is absent or cannot be understood leaves v as it is.
func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return nil //nolint:nilerr // it is set aside by the next write; losing it loses little
	}
	return nil
}

// writeJSON replaces a small file as a whole.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

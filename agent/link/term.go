package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// terms keeps the highest term obeyed. It never falls, also not over a restart.
type terms struct {
	path    string
	highest uint64
}

func openTerms(path string) (terms, error) {
	t := terms{path: path}
	if path == "" {
		return t, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("read term: %w", err)
	}
	if t.highest, err = strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err != nil {
		return t, fmt.Errorf("read term: %s is damaged: %w", path, err)
	}
	return t, nil
}

// raise keeps a higher term on disk before it is obeyed.
func (t *terms) raise(term uint64) error {
	if term <= t.highest {
		return nil
	}
	if t.path != "" {
		if err := replace(t.path, strconv.FormatUint(term, 10)+"\n"); err != nil {
			return fmt.Errorf("keep term: %w", err)
		}
	}
	t.highest = term
	return nil
}

// replace writes a file whole or not at all.
func replace(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".term-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

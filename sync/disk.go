package sync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	// minFree is what must be free in data_dir for a run to start: far more than one writes, so that the journal never
	// meets a disk that is full in the middle of one.
	minFree = 16 << 20
	// diskPeriod is how often data_dir is looked at: often enough for /readyz, and a statfs while all is well.
	diskPeriod = 10 * time.Second
	diskAgain  = time.Second // while it is not
)

// room reports whether dir's disk has space for runs.
func room(dir string) error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return fmt.Errorf("look at data_dir %s: %w", dir, err)
	}
	if free := s.Bavail * uint64(s.Bsize); free < minFree { //nolint:unconvert,gosec // its type differs between systems
		return fmt.Errorf("data_dir %s is full: %d MB are free, %d MB are needed", dir, free>>20, minFree>>20)
	}
	return nil
}

// writable reports whether a file can be written to dir and reaches the disk.
func writable(dir string) (err error) {
	f, err := os.CreateTemp(dir, ".probe")
	if err != nil {
		return fmt.Errorf("data_dir cannot be written: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(make([]byte, 4096))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("data_dir cannot be written: %w", err)
	}
	return nil
}

// persists looks whether runs can be recorded; the error says why not. It is kept for the status.
func (s *syncer) persists(ctx context.Context, thorough bool) error {
	if s.opts.DataDir == "" {
		return nil
	}
	s.mu.Lock()
	before := s.diskErr
	s.mu.Unlock()
	err := room(s.opts.DataDir)
	if err == nil && (thorough || before != nil) {
		err = writable(s.opts.DataDir)
	}
	if err == nil && s.opts.Mend != nil {
		err = s.opts.Mend()
	}
	if err != nil {
		err = fmt.Errorf("%w; no run starts until that is put right", err)
	}
	s.mu.Lock()
	s.diskErr = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.ErrorContext(ctx, "runs cannot be recorded", "err", err)
	case err == nil && before != nil:
		s.log.InfoContext(ctx, "runs can be recorded again", "data_dir", s.opts.DataDir)
	}
	return err
}

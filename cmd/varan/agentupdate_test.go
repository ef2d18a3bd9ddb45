package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/update"
)

// TestTry: whatever a new binary does, the old process knows within its time whether it did well, and nothing of it
// goes on.
func TestTry(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, does, want, tail string }{
		{"reaches the hub", "echo reached >&3; sleep 1000", "", ""},
		{"reaches it after some news", "echo no connection yet >&3; echo reached >&3; exec sleep 1000", "", ""},
		{"ends at once", "echo no such thing >&2; exit 3", "it ended before it reached the hub: exit status 3", "no such thing"},
		{"ends well", "exit 0", "it ended before it reached the hub", ""},
		{"is killed", "kill -9 $$", "signal: killed", ""},
		{"hangs", "exec sleep 1000", "it did not reach the hub within 1s", ""},
		{"hangs and says why", "echo no connection to the hub: no route >&3; exec sleep 1000", "within 1s: no connection to the hub: no route", ""},
		{"hangs with closed ears", "exec 3>&-; exec sleep 1000", "it did not reach the hub within 1s", ""},
		{"ends and leaves a child that holds the line", "sleep 1000 & exit 4", "it did not reach the hub within 1s", ""},
		{"prints for ever", "while :; do echo again and again; done", "it did not reach the hub within 1s", "again and again"},
		{"says much that means nothing", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxx >&3; done", "it did not reach the hub within 1s", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "varan")
			if err := os.WriteFile(path, []byte("#!/bin/sh\necho $$ > "+dir+"/pid\n[ \"$"+trialVar+"\" = 3 ] || exit 9\n[ -z \"$NOTIFY_SOCKET\" ] || exit 8\n"+c.does+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			tail, err := try(time.Second, slog.New(slog.DiscardHandler))(t.Context(), path)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if !strings.Contains(tail, c.tail) || len(tail) > lastWordsMax {
				t.Errorf("it printed last: %q", tail)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
			pid, err := os.ReadFile(filepath.Join(dir, "pid"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid)) + "/exe"); err == nil {
				t.Error("it still runs")
			}
		})
	}
	t.Run("cannot be executed", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "varan")
		if err := os.WriteFile(path, []byte("\x7fELF"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := try(time.Second, slog.New(slog.DiscardHandler))(t.Context(), path); err == nil || !strings.Contains(err.Error(), "start the new binary") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the agent is stopped meanwhile", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "varan")
		if err := os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := try(time.Minute, slog.New(slog.DiscardHandler))(ctx, path); err == nil || time.Since(began) > 10*time.Second {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
}

// TestProbation: a new binary that runs for good and does not reach the hub in its time says so, with the reason.
func TestProbation(t *testing.T) {
	t.Parallel()
	self, err := update.New(t.TempDir(), "v2", 50*time.Millisecond, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := newProbation(self, nil, true, slog.New(slog.DiscardHandler))
	p.news(link.Lost, errors.New("no route"))
	if !p.late(t.Context()) || p.failed == nil || !strings.Contains(p.failed.Error(), "within 50ms: no route") {
		t.Errorf("failed: %v", p.failed)
	}
	p = newProbation(self, nil, true, slog.New(slog.DiscardHandler))
	p.news(link.Connected, nil)
	p.news(link.Lost, errors.New("a moment later")) // it was there: that is another matter
	if p.late(t.Context()) || p.failed != nil {
		t.Errorf("failed: %v", p.failed)
	}
	p = newProbation(self, nil, false, slog.New(slog.DiscardHandler))
	p.news(link.Lost, errors.New("no route"))
	if p.late(t.Context()) {
		t.Error("an agent that was not updated is on probation")
	}
}

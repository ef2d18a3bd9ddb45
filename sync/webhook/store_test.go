package webhook_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/sync/webhook"
)

func open(t *testing.T, dir string) (webhook.Store, func()) {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	hub, err := fleet.Start(fleet.Options{Key: key, JournalDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Close)
	s, err := webhook.OpenStore(context.Background(), hub.JetStream(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return s, hub.Close
}

func all(t *testing.T, s webhook.Store) (records []string) {
	t.Helper()
	if err := s.Replay(t.Context(), func(seq uint64, data []byte) error {
		records = append(records, fmt.Sprintf("%d %s", seq, data))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return records
}

// TestStore: the daemon's own stream keeps records in order over a restart, forgets what it is told to, and refuses
// when it is full.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	s, end := open(t, dir)
	for i := range 5 {
		seq, err := s.Append(t.Context(), fmt.Appendf(nil, "r%d", i))
		if err != nil || seq != uint64(i+1) {
			t.Fatal(seq, err)
		}
	}
	if err := s.Trim(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	end()
	s, _ = open(t, dir)
	if got := all(t, s); !slices.Equal(got, []string{"3 r2", "4 r3", "5 r4"}) {
		t.Error(got)
	}
	large := bytes.Repeat([]byte("x"), 190<<10)
	for i := 0; ; i++ {
		if _, err := s.Append(t.Context(), large); err != nil {
			break
		}
		if i > 1000 {
			t.Fatal("it never is full")
		}
	}
	if got := all(t, s); got[0] != "3 r2" {
		t.Error("what was kept gave way to something new")
	}
	if err := s.Trim(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(t.Context(), large); err != nil {
		t.Error(err)
	}
}

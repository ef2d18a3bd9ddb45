package main

import (
	"context"
	"time"

	"github.com/varanhq/varan/apply/journal"
)

// openJournal opens what remembers runs, in the hub's own JetStream.
func openJournal(ctx context.Context, f *localFleet) (*journal.Journal, error) {
	return journal.Open(ctx, f.Hub.JetStream(), journal.Options{Replicas: f.Hub.Replicas()})
}

// mendTimeout is how long a cluster may take to open a stream.
const mendTimeout = 5 * time.Second

// mend opens the journal again when it gave up on a disk that was full.
func mend(f *localFleet, j *journal.Journal) error {
	if f.Hub.JournalIsOpen() && !j.Failed() {
		return nil
	}
	if err := f.Hub.ReopenJournal(); err != nil {
		return err
	}
	if f.Hub.Joined() {
		ctx, cancel := context.WithTimeout(context.Background(), mendTimeout)
		defer cancel()
		return j.Reopen(ctx)
	}
	j.Mended()
	return nil
}

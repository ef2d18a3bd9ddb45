package main

import (
	"context"

	"github.com/varanhq/varan/apply/journal"
)

// openJournal opens what remembers runs, in the hub's own JetStream.
func openJournal(ctx context.Context, f *localFleet) (*journal.Journal, error) {
	return journal.Open(ctx, f.Hub.JetStream(), journal.Options{})
}

// mend opens the journal again when it gave up on a disk that was full.
func mend(f *localFleet, j *journal.Journal) error {
	if f.Hub.JournalIsOpen() && !j.Failed() {
		return nil
	}
	if err := f.Hub.ReopenJournal(); err != nil {
		return err
	}
	j.Mended()
	return nil
}

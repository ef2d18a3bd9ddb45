package main

import (
	"context"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/journal"
)

// openJournal opens what remembers runs, in the hub's own JetStream.
func openJournal(ctx context.Context, f *localFleet) (apply.Journal, error) {
	j, err := journal.Open(ctx, f.Hub.JetStream(), journal.Options{})
	if err != nil {
		return nil, err // not the nil *Journal: sync asks whether there is one
	}
	return j, nil
}

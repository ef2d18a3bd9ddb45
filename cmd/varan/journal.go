package main

import (
	"context"
	"log/slog"

	"github.com/varanhq/varan/apply"
)

// openJournal opens what remembers runs.
func openJournal(ctx context.Context, f *localFleet, log *slog.Logger) (apply.Journal, error) {
	return nil, nil
}

// Command varan makes a fleet of Docker hosts match a Git repository.
//
// In: arguments, the environment, varan.toml. Out: wiring. It builds what the other packages offer into one
// program, a subcommand a file, each a struct whose Run a test can call; what is worth deciding is decided
// elsewhere. Start at newRoot.
package main

import (
	"context"
	"os"

	"github.com/varanhq/varan/sync"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == sync.PreviewArg { // the confined half of a preview, before anything is read
		os.Exit(sync.PreviewChild(os.Stdin, os.Stdout, os.Stderr))
	}
	sh := newShell(os.Stdin, os.Stdout, os.Stderr, os.Environ())
	os.Exit(run(context.Background(), sh, os.Args[1:]))
}

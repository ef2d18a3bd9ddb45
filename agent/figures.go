package agent

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"syscall"

	machine "github.com/varanhq/varan/agent/host"
	"github.com/varanhq/varan/agent/protocol"
)

// newFigures makes the reader of this agent's machine.
func (a *Agent) newFigures() *machine.Reader {
	return &machine.Reader{Engine: a.engineVersion, Compose: composeVersion(), Varan: a.opts.Version}
}

// Figures tells how the machine stands.
func (a *Agent) Figures(ctx context.Context) protocol.Figures {
	f := a.figures.Read(ctx)
	if f.Problem == "" {
		f.Problem = full(a.opts.Root)
	}
	return f
}

// engineVersion asks the engine for its version. What hangs is told as that.
func (a *Agent) engineVersion(ctx context.Context) (version, api string, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	v, err := a.api.ServerVersion(ctx)
	return v.Version, v.APIVersion, err
}

// leastFree is what the ledger needs to go on being written.
const leastFree = 16 << 20

// full says that the agent's root has no space left to work in, "" = it has.
func full(root string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(root, &s); err != nil {
		return fmt.Sprintf("the agent's root %s cannot be looked at: %v", root, err)
	}
	if free := s.Bavail * uint64(s.Bsize); free < leastFree {
		return fmt.Sprintf("the disk of the agent's root %s is full: %d kB are free, and ops that change things are refused when it cannot write", root, free>>10)
	}
	return ""
}

// composeVersion is that of the library stacks are made with, as the Go toolchain stamped it.
func composeVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/docker/compose/v5" {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return ""
}

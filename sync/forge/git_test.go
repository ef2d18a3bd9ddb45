package forge_test

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/varanhq/varan/sync/forge/forgetest"
)

// gitRefs are what git ls-remote tells of the repository over HTTP.
func gitRefs(t *testing.T, r *forgetest.Repo) map[string]string {
	t.Helper()
	return lsRemote(t, r.Bare)
}

func lsRemote(t *testing.T, at string) map[string]string {
	t.Helper()
	cmd := exec.Command("git", "ls-remote", at)
	cmd.Env = append(cmd.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ls-remote: %v: %s", err, out)
	}
	refs := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		if sha, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			refs[name] = sha
		}
	}
	return refs
}

func itoa(n int) string { return strconv.Itoa(n) }

package main

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestArrows holds the one-way flow between packages: schema ← plan ← apply ← sync ← cmd, and agent and
// apply meet only in agent/protocol. A package not listed here fails, so that a new one is placed on purpose.
func TestArrows(t *testing.T) {
	const module = "github.com/varanhq/varan/"
	may := map[string][]string{
		"schema":              {},
		"plan":                {"schema"},
		"plan/compose":        {"schema", "plan"},
		"agent/protocol":      {"schema", "plan"},
		"agent/mask":          {},
		"agent/container":     {"schema", "plan", "agent/protocol", "agent/mask"},
		"agent/build":         {"agent/mask"},
		"agent/host":          {"agent/protocol"},
		"agent/update":        {"schema", "plan", "agent/protocol"},
		"agent/stack":         {"schema", "plan", "plan/compose", "agent/protocol", "agent/container", "agent/build", "agent/mask"},
		"agent":               {"schema", "plan", "plan/compose", "agent/protocol", "agent/container", "agent/stack", "agent/build", "agent/host", "agent/update", "agent/mask"},
		"agent/protocol/wire": {"agent/protocol"},
		"agent/link":          {"schema", "plan", "agent/protocol", "agent/protocol/wire"},
		"apply":               {"schema", "plan", "agent/protocol"},
		"apply/lease":         {},
		"apply/fleet":         {"schema", "plan", "apply", "apply/lease", "agent/protocol", "agent/protocol/wire"},
		"apply/journal":       {"apply"},
		"sync/dial":           {},
		"sync/sandbox":        {},
		"sync/gitrepo":        {"schema", "plan/compose", "sync/dial"},
		"sync/forge":          {"sync/dial"},
		"sync/forge/github":   {"sync/forge"},
		"sync/forge/gitea":    {"sync/forge"},
		"sync/forge/gitlab":   {"sync/forge"},
		"sync/forge/connect":  {"sync/forge", "sync/forge/github", "sync/forge/gitea", "sync/forge/gitlab"},
		"sync/report":         {"schema", "plan", "apply", "agent/protocol"},
		"sync/settings":       {"schema"},
		"sync/webhook":        {"schema", "sync/gitrepo"},
		"sync":                {"agent/mask", "schema", "plan", "plan/compose", "apply", "apply/fleet", "agent/protocol", "sync/gitrepo", "sync/report", "sync/forge", "sync/forge/connect", "sync/sandbox", "sync/webhook"},
		"sync/pulls":          {"schema", "plan", "apply", "sync", "sync/forge", "sync/gitrepo", "sync/report", "sync/sandbox", "sync/webhook"},
		"sync/httpd":          {"schema", "plan", "apply", "apply/fleet", "apply/lease", "sync", "sync/report", "agent/protocol"},
		"examples":            {},
	}
	// plan is pure: nothing in it can look outside. schema does no I/O.
	never := map[string][]string{
		"schema": {"os", "net", "net/http", "log", "log/slog", "os/exec"},
		"plan":   {"os", "net", "net/http", "context", "log", "log/slog", "os/exec", "math/rand", "math/rand/v2"},
	}
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(name, "cmd/") || strings.HasSuffix(name, "test") {
			continue // cmd wires everything; test suites stand beside what they test
		}
		allowed, known := may[name]
		if !known {
			t.Errorf("package %s is not in the table of arrows: place it", name)
			continue
		}
		for _, imp := range p.Imports {
			if ours, ok := strings.CutPrefix(imp, module); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, against the flow", name, ours)
			}
			if slices.Contains(never[name], imp) {
				t.Errorf("%s imports %s, but it must not be able to look outside", name, imp)
			}
		}
	}
}

package sync

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestPreviewStaysSmall: what a pull request changes may be large; what is told of it, and kept, is not.
func TestPreviewStaysSmall(t *testing.T) {
	w := follow(t)
	base := w.git.Push(map[string]string{"a.toml": deployment("a", "1") + deployment("b", "1"), "s.toml": stack("s"), "s/compose.yaml": composeFile})
	w.start()
	w.rep.applied(base)
	w.settledDown()
	wrong := strings.Repeat("[[deploymnt]]\nnme = 1\n", 300_000)
	for i, files := range []map[string]string{
		{"a.toml": deployment("a", strings.Repeat("x", 3<<20)) + deployment("b", strings.Repeat("é", 1<<20)), "s/compose.yaml": strings.Replace(composeFile, "K: a", "K: "+strings.Repeat("y", 900<<10), 1)},
		{"wrong.toml": wrong},
		{"wrong.toml": strings.Repeat("x = [\n", 1_000_000)},
	} {
		n := i + 7
		_, merge := propose(t, w.git, n, files)
		p, err := w.preview(Subject{Ref: fmt.Sprintf("refs/pull/%d/merge", n), Commit: merge})
		if err != nil {
			t.Logf("%d: %v", i, err)
			continue
		}
		data, err := json.Marshal(p)
		if err != nil || len(data) > 1<<20 {
			t.Errorf("%d: %d KiB, %d diagnostics, %v", i, len(data)>>10, len(p.Plan.Diagnostics), err)
		}
	}
}

package stack

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/varanhq/varan/plan/compose"
)

// A symlink below the fence is given as one that can be followed, unless it leads out.
func TestHostTree(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"in/file", "out/file"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{"in/near": "file", "in/far": "../out/file", "in/absolute": filepath.Join(dir, "in", "file"),
		"in/gone": filepath.Join(dir, "out", "file"), "out/free": filepath.Join(dir, "in", "file")}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	tree := hostTree{compose.NewHost(root), filepath.Join(dir, "in")}
	for name, ok := range map[string]bool{"in/near": true, "in/far": false, "in/absolute": true, "in/gone": false, "out/free": true, "in/file": true} {
		p := strings.TrimPrefix(filepath.Join(dir, name), "/")
		e, err := tree.Lookup(p)
		if (err == nil) != ok {
			t.Errorf("%s: %v, want ok %t", name, err, ok)
		}
		if err == nil && e.Link != "" {
			if got, want := path.Join("/", path.Dir(p), e.Link), filepath.Join(dir, "in", "file"); path.IsAbs(e.Link) || got != want {
				t.Errorf("%s leads to %s by %s, want %s", name, got, e.Link, want)
			}
		}
	}
}

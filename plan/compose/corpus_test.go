package compose

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/varanhq/varan/schema"
)

// Every compose file people keep beside their Komodo files loads, or is told what is wrong with it.
func TestCorpus(t *testing.T) {
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	corpus := ""
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if c := filepath.Join(dir, "shared", "corpus", "komodo"); isDir(c) {
			corpus = c
		}
	}
	if corpus == "" {
		t.Skip("the corpus of compose files is not beside this clone")
	}
	loaded, refused := 0, 0
	err = filepath.WalkDir(corpus, func(p string, d fs.DirEntry, err error) error {
		base := strings.ToLower(filepath.Base(p))
		if err != nil || d.IsDir() || !strings.Contains(base, "compose") || !strings.HasSuffix(base, "ml") || strings.HasSuffix(base, ".toml") {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		m := NewMemory()
		if err := m.Add("compose.yaml", data, false, ""); err != nil {
			return err
		}
		got, _ := Declare(context.Background(), Input{Resource: stack(schema.StackConfig{}), Tree: m})
		switch {
		case len(got.Units) > 0:
			loaded++
		case len(got.Diagnostics) > 0:
			refused++
			t.Logf("%s: %s:%d: %s", strings.TrimPrefix(p, corpus+"/"), got.Diagnostics[0].File, got.Diagnostics[0].Line, got.Diagnostics[0].Message)
		default:
			t.Errorf("%s: neither units nor a word", p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d loaded, %d refused", loaded, refused)
	if loaded < 5*refused {
		t.Errorf("%d loaded, %d refused", loaded, refused)
	}
}

func isDir(p string) bool { i, err := os.Stat(p); return err == nil && i.IsDir() }

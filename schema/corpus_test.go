package schema

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// corpus finds ../shared/corpus/komodo beside the repository and returns its folders, or skips.
func corpus(t testing.TB) map[string][]File {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		root := filepath.Join(dir, "shared", "corpus", "komodo")
		if entries, err := os.ReadDir(root); err == nil {
			folders := map[string][]File{}
			for _, e := range entries {
				if !e.IsDir() {
					continue
				}
				names, err := filepath.Glob(filepath.Join(root, e.Name(), "*.toml"))
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range names {
					data, err := os.ReadFile(n)
					if err != nil {
						t.Fatal(err)
					}
					folders[e.Name()] = append(folders[e.Name()], File{Path: filepath.Base(n), Data: data})
				}
			}
			return folders
		}
		if dir == filepath.Dir(dir) {
			t.Skip("no shared/corpus/komodo beside this repository: real files are not checked")
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// Every folder of real files is accepted under compat, all of them in little time.
func TestCorpusCompat(t *testing.T) {
	folders := corpus(t)
	start := cpuTime(t)
	count := 0
	for _, name := range sortedKeys(folders) {
		groups := [][]File{folders[name]}
		if name == "invalid" { // files of different repositories
			groups = nil
			for _, f := range folders[name] {
				groups = append(groups, []File{f})
			}
		}
		for _, files := range groups {
			c, diags := Parse(files, Options{Compat: CompatKomodo})
			count += len(c.Resources)
			for _, d := range diags {
				if d.Severity == SeverityError {
					t.Errorf("%s/%s:%d:%d: %s\n\t%s", name, d.File, d.Line, d.Column, d.Message, d.Hint)
				}
			}
			if len(c.Skipped) > 0 {
				t.Logf("%s: skipped %s", name, strings.Join(c.Skipped, ", "))
			}
		}
	}
	used := cpuTime(t) - start
	t.Logf("%d folders, %d resources, %v of CPU", len(folders), count, used)
	if limit := 2 * time.Second; used > limit {
		t.Errorf("parsing took %v of CPU, want under %v", used, limit)
	}
}

func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestCorpusStrict prints what an author without compat would read (-v).
func TestCorpusStrict(t *testing.T) {
	folders := corpus(t)
	for _, name := range sortedKeys(folders) {
		_, diags := Parse(folders[name], Options{})
		for _, d := range diags {
			t.Logf("%s/%s:%d:%d: %s: %s\n\t%s", name, d.File, d.Line, d.Column, d.Severity, d.Message, d.Hint)
		}
	}
}

package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/varanhq/varan/schema"
)

// maxTOML bounds one file read from disk; schema refuses far smaller ones with their place.
const maxTOML = 64 << 20

// readPaths reads the TOML files that paths name: a file as it is, of a folder every *.toml below it but those in
// hidden folders, those with {{…}} in their path, and varan.toml. Paths are kept as a reader types them.
func readPaths(paths []string) ([]schema.File, error) {
	seen := map[string]bool{}
	var files []schema.File
	add := func(path string) error {
		path = filepath.Clean(path)
		if seen[path] {
			return nil
		}
		seen[path] = true
		data, err := readBounded(path)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		files = append(files, schema.File{Path: filepath.ToSlash(path), Data: data})
		return nil
	}
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", p, err)
		}
		if !info.IsDir() {
			if err := add(p); err != nil {
				return nil, err
			}
			continue
		}
		err = filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if path == p {
				return nil
			}
			rel, err := filepath.Rel(p, path)
			if err != nil {
				return err
			}
			switch {
			case d.IsDir():
				if strings.HasPrefix(d.Name(), ".") {
					return fs.SkipDir
				}
				return nil
			case !d.Type().IsRegular() || !schema.Wanted(filepath.ToSlash(rel)):
				return nil
			}
			return add(path)
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(files, func(a, b schema.File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTOML+1))
	if err == nil && len(data) > maxTOML {
		err = fmt.Errorf("larger than %d MB", maxTOML>>20)
	}
	return data, err
}

// sourceIn hands out files below dir for the lines of diagnostics.
func sourceIn(dir string) func(string) []byte {
	return func(file string) []byte {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil
		}
		defer root.Close()
		f, err := root.Open(filepath.FromSlash(file))
		if err != nil {
			return nil
		}
		defer f.Close()
		if i, err := f.Stat(); err != nil || !i.Mode().IsRegular() {
			return nil
		}
		data, err := io.ReadAll(io.LimitReader(f, maxTOML))
		if err != nil {
			return nil
		}
		return data
	}
}

// sourceOf hands out one file by the name it has in diagnostics.
func sourceOf(path string) func(string) []byte {
	return func(file string) []byte {
		if file != path {
			return nil
		}
		data, err := readBounded(path)
		if err != nil {
			return nil
		}
		return data
	}
}

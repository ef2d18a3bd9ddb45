package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Bounds on what a stranger's files may ask of us.
const (
	maxCompose  = 1 << 20  // bytes of one compose file
	maxEnvFile  = 1 << 20  // bytes of one env file
	maxExpanded = 8 << 20  // bytes that variables may grow to
	maxNodes    = 200_000  // YAML nodes after aliases are followed
	maxDepth    = 100      // of YAML
	maxIncludes = 64       // compose files of one stack, extended and included ones too
	maxPaths    = 20_000   // files one stack may take to its host
	maxBytes    = 64 << 20 // and their size together
	maxLinks    = 20       // symlinks followed on the way to one file
	maxPorts    = 4096     // published ports of one service
)

// documents parses YAML without following aliases, refuses what would grow without bound when they are followed,
// and returns one node a document.
func documents(data []byte) ([]*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var docs []*yaml.Node
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, err
		}
		w := weigher{known: map[*yaml.Node]int{}}
		if _, err := w.weigh(&n, 0); err != nil {
			return nil, err
		}
		if docs = append(docs, &n); len(docs) > maxIncludes {
			return nil, fmt.Errorf("yaml: line %d: more than %d documents", n.Line, maxIncludes)
		}
	}
}

type weigher struct {
	known map[*yaml.Node]int // the weight of a finished node; -1 while it is being weighed
}

func (w *weigher) weigh(n *yaml.Node, depth int) (int, error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("yaml: line %d: nested more than %d deep", n.Line, maxDepth)
	}
	if k, ok := w.known[n]; ok {
		if k < 0 {
			return 0, fmt.Errorf("yaml: line %d: an alias contains itself", n.Line)
		}
		return k, nil
	}
	w.known[n] = -1
	sum := 1
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		k, err := w.weigh(n.Alias, depth+1)
		if err != nil {
			return 0, err
		}
		sum += k
	}
	for _, c := range n.Content {
		k, err := w.weigh(c, depth+1)
		if err != nil {
			return 0, err
		}
		if sum += k; sum > maxNodes {
			return 0, fmt.Errorf("yaml: line %d: aliases make it grow beyond %d nodes", n.Line, maxNodes)
		}
	}
	w.known[n] = sum
	return sum, nil
}

var (
	envKey = regexp.MustCompile(`^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.\-\[\]]*)\s*[=:]`)
	envRef = regexp.MustCompile(`\$\{?([A-Za-z_][A-Za-z0-9_]*)`)
)

// bounded estimates, never too low, how long the values of an env file become when their variables are put in,
// and refuses a file that doubles itself line by line.
func bounded(data []byte, before map[string]string) error {
	size := map[string]float64{}
	var key string
	var total float64
	for _, line := range strings.Split(string(data), "\n") {
		if m := envKey.FindStringSubmatch(line); m != nil {
			key = m[1]
		}
		n := float64(len(line) + 1)
		for _, m := range envRef.FindAllStringSubmatch(line, -1) {
			n += max(size[m[1]], float64(len(before[m[1]])))
		}
		size[key] += n
		if total += n; total > maxExpanded {
			return fmt.Errorf("its variables grow beyond %d bytes", maxExpanded)
		}
	}
	return nil
}

// errOutside says that a path leaves the tree.
var errOutside = errors.New("lies outside the repository")

// within joins a path as written in a file to the folder it is relative to. It fails if the outcome is absolute
// or leaves the tree.
func within(dir, name string) (string, error) {
	if path.IsAbs(name) || strings.HasPrefix(name, "~") {
		return "", fmt.Errorf("%s %w", name, errOutside)
	}
	p := path.Join(dir, name)
	if p == ".." || strings.HasPrefix(p, "../") || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("%s %w", name, errOutside)
	}
	return p, nil
}

// follow looks name up and follows symlinks as long as they stay inside the tree. links are those it went
// through; the Entry is a file's or a folder's, at its own path.
func follow(t Tree, name string) (e Entry, links []Entry, err error) {
	rest := strings.Split(name, "/")
	at := "."
	for len(rest) > 0 {
		next := path.Join(at, rest[0])
		if next == ".." || strings.HasPrefix(next, "../") {
			return Entry{}, nil, fmt.Errorf("%s %w", name, errOutside)
		}
		e, err := t.Lookup(next)
		if err != nil {
			return Entry{}, links, err
		}
		rest = rest[1:]
		switch {
		case e.Mode == ModeSymlink:
			if links = append(links, e); len(links) > maxLinks {
				return Entry{}, nil, fmt.Errorf("%s: more than %d symlinks", name, maxLinks)
			}
			if path.IsAbs(e.Link) {
				return Entry{}, nil, fmt.Errorf("%s: its symlink %w", name, errOutside)
			}
			rest = append(strings.Split(e.Link, "/"), rest...)
		case len(rest) > 0 && e.Mode != ModeDir:
			return Entry{}, links, &fs.PathError{Op: "look up", Path: name, Err: fs.ErrNotExist}
		default:
			at = next
		}
	}
	e, err = t.Lookup(at)
	return e, links, err
}

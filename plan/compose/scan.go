package compose

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/template"
	"go.yaml.in/yaml/v4"

	"github.com/varanhq/varan/schema"
)

// A scan looks through compose files, before compose sees them, for what they include and extend, so that every
// path is known and checked, and notes where things stand.
type scan struct {
	m        *model
	contents map[string][]byte // by path of the tree
	external bool              // a file includes or extends another
	seen     int
}

// file scans one compose file. Its extends are relative to dir, and ${VAR} are taken from env.
func (s *scan) file(name string, data []byte, dir string, env map[string]string) {
	m := s.m
	s.contents[name] = data
	if s.seen++; s.seen > maxIncludes {
		m.fail(schema.Pos{File: name}, "", "more than %d compose files are included or extended", maxIncludes)
		return
	}
	at := func(n *yaml.Node) schema.Pos {
		if m.inline {
			return m.res.At("config.file_contents")
		}
		p := schema.Pos{File: name}
		if n != nil {
			p.Line, p.Column = n.Line, n.Column
		}
		return p
	}
	var grown int
	for _, r := range envRef.FindAllSubmatch(data, -1) {
		if grown += len(env[string(r[1])]); grown > maxExpanded {
			m.fail(at(nil), "", "%s: its variables grow beyond %d bytes", name, maxExpanded)
			return
		}
	}
	docs, err := documents(data)
	if err != nil {
		p := at(nil)
		text := reveal(err.Error(), asName)
		if n := lineOf(err); n > 0 && !m.inline {
			p.Line, p.Column = n, 1
		} else if n > 0 {
			text += " of file_contents"
		}
		m.fail(p, "", "%s: %s", name, text)
		return
	}
	for _, doc := range docs {
		if len(doc.Content) == 0 {
			continue
		}
		top := doc.Content[0]
		s.place(top, at)
		for i := 0; i+1 < len(top.Content) && top.Kind == yaml.MappingNode; i += 2 {
			switch value := resolved(top.Content[i+1]); top.Content[i].Value {
			case "version":
				s.contents[name] = without(s.contents[name], top.Content[i])
			case "include":
				s.includes(name, value, dir, env, at)
			case "services":
				s.extends(value, dir, env, at)
			}
		}
	}
}

// without turns the line of the obsolete version key into a comment: compose warns of it through a variable that
// loads side by side must not share.
func without(data []byte, key *yaml.Node) []byte {
	if key.Column != 1 || key.Style != 0 {
		return data
	}
	lines := bytes.SplitAfter(bytes.Clone(data), []byte("\n"))
	if key.Line > len(lines) || !bytes.HasPrefix(lines[key.Line-1], []byte("version:")) {
		return data
	}
	lines[key.Line-1][0] = '#'
	return bytes.Join(lines, nil)
}

func resolved(n *yaml.Node) *yaml.Node {
	for i := 0; n.Kind == yaml.AliasNode && n.Alias != nil && i < maxDepth; i++ {
		n = n.Alias
	}
	return n
}

// field returns a mapping's value, looking through merges.
func field(n *yaml.Node, key string) *yaml.Node {
	n = resolved(n)
	if n.Kind != yaml.MappingNode {
		return nil
	}
	var merged *yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch n.Content[i].Value {
		case key:
			return resolved(n.Content[i+1])
		case "<<":
			from := resolved(n.Content[i+1])
			if from.Kind == yaml.SequenceNode {
				for _, f := range from.Content {
					if v := field(f, key); v != nil && merged == nil {
						merged = v
					}
				}
			} else if v := field(from, key); v != nil {
				merged = v
			}
		}
	}
	return merged
}

// strs lists a node's string or strings, with variables put in.
func strs(n *yaml.Node, env map[string]string) (out []string) {
	if n == nil {
		return nil
	}
	if n.Kind == yaml.SequenceNode {
		for _, c := range n.Content {
			out = append(out, strs(resolved(c), env)...)
		}
		return out
	}
	if n.Kind != yaml.ScalarNode {
		return nil
	}
	v, err := template.SubstituteWithOptions(n.Value, func(k string) (string, bool) { v, ok := env[k]; return v, ok }, template.WithoutLogging)
	if err != nil {
		v = n.Value
	}
	return []string{v}
}

// need reads a file that another names, and scans it if it is a compose file.
func (s *scan) need(p string, at schema.Pos, what string, limit int64, optional bool) ([]byte, bool) {
	data, err := s.m.read(p, limit)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		s.m.fail(at, "", "%s %s", what, why(p, err))
		return nil, false
	}
	s.external = true
	return data, true
}

func (s *scan) inside(dir, p string, at schema.Pos, what string) (string, bool) {
	if s.m.inline {
		s.m.fail(at, "a stack with file_contents has no other compose files", "%s %s: there is no repository to take it from", what, p)
		return "", false
	}
	if strings.Contains(p, "://") || strings.HasPrefix(p, "git@") {
		s.m.fail(at, "copy it into the repository", "%s %s is remote: only files of the repository are read", what, p)
		return "", false
	}
	out, err := within(dir, p)
	if err != nil {
		s.m.fail(at, "copy it into the repository", "%s %v", what, err)
		return "", false
	}
	return out, true
}

func (s *scan) extends(services *yaml.Node, dir string, env map[string]string, at func(*yaml.Node) schema.Pos) {
	if services.Kind != yaml.MappingNode {
		return
	}
	for i := 1; i < len(services.Content); i += 2 {
		ext := field(services.Content[i], "extends")
		if ext == nil {
			continue
		}
		for _, f := range strs(field(ext, "file"), env) {
			p, ok := s.inside(dir, f, at(ext), "extended file")
			if !ok || s.contents[p] != nil {
				continue
			}
			if data, ok := s.need(p, at(ext), "extended file", maxCompose, false); ok {
				s.file(p, data, path.Dir(p), env)
			}
		}
	}
}

func (s *scan) includes(name string, list *yaml.Node, dir string, env map[string]string, at func(*yaml.Node) schema.Pos) {
	if list.Kind != yaml.SequenceNode {
		return // compose says what is wrong with it
	}
	s.external = true
	for _, item := range list.Content {
		item = resolved(item)
		names, files := strs(item, env), []string(nil)
		project := ""
		if item.Kind == yaml.MappingNode {
			names, files = strs(field(item, "path"), env), strs(field(item, "env_file"), env)
			for _, p := range strs(field(item, "project_directory"), env) {
				var ok bool
				if project, ok = s.inside(dir, p, at(item), "project_directory"); !ok {
					return
				}
			}
		}
		inner := maps.Clone(env)
		var found []string
		for i, n := range names {
			p, ok := s.inside(dir, n, at(item), "included file")
			if !ok {
				return
			}
			if i == 0 && project == "" {
				project = path.Dir(p)
			}
			found = append(found, p)
		}
		if len(files) == 0 && project != "" {
			files = []string{""}
		}
		for _, f := range files {
			p, ok := path.Join(project, ".env"), true
			if f == "/dev/null" {
				continue
			}
			if f != "" {
				p, ok = s.inside(dir, f, at(item), "env_file")
			}
			if !ok {
				return
			}
			data, ok := s.need(p, at(item), "env_file", maxEnvFile, f == "")
			if !ok {
				continue
			}
			s.contents[p] = data
			vars, err := envFile(data, inner)
			if err != nil {
				s.m.fail(schema.Pos{File: p, Line: lineOf(err)}, "", "env file %s: %s", p, plain(err))
				return
			}
			for k, v := range vars {
				if _, ok := inner[k]; !ok {
					inner[k] = v
				}
			}
		}
		for _, p := range found {
			if s.contents[p] != nil && p != name {
				continue
			}
			if p == name {
				s.m.fail(at(item), "", "%s includes itself", name)
				return
			}
			if data, ok := s.need(p, at(item), "included file", maxCompose, false); ok {
				s.file(p, data, project, inner)
			}
		}
	}
}

// lay writes what was scanned below a private folder, for compose to open.
func (s *scan) lay(root string) error {
	for name, data := range s.contents {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(p, data, 0o600); err != nil {
			return err
		}
	}
	return os.MkdirAll(filepath.Join(root, s.m.work), 0o700)
}

// place notes where services, networks, volumes and the keys below them stand.
func (s *scan) place(top *yaml.Node, at func(*yaml.Node) schema.Pos) {
	var walk func(prefix string, n *yaml.Node, depth int)
	walk = func(prefix string, n *yaml.Node, depth int) {
		if depth > 5 {
			return
		}
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				key := prefix + n.Content[i].Value
				s.m.index[key] = at(n.Content[i])
				walk(key+".", n.Content[i+1], depth+1)
			}
		case yaml.SequenceNode:
			for i, c := range n.Content {
				s.m.index[prefix+strconv.Itoa(i)] = at(c)
			}
		}
	}
	walk("", top, 0)
}

// place is where keys stands, or the nearest key above it.
func (m *model) place(keys ...string) schema.Pos {
	for n := len(keys); n > 0; n-- {
		if p, ok := m.index[strings.Join(keys[:n], ".")]; ok {
			return p
		}
	}
	if m.inline || len(m.files) == 0 {
		return m.res.At("config.file_contents")
	}
	return schema.Pos{File: m.files[0]}
}

var dotted = regexp.MustCompile(`\b(services|networks|volumes|configs|secrets)\.[A-Za-z0-9_.\-]+`)

// mentioned finds the place a message of compose speaks of.
func (m *model) mentioned(text string) (schema.Pos, bool) {
	for _, key := range dotted.FindAllString(text, -1) {
		for ; strings.Contains(key, "."); key = key[:strings.LastIndexByte(key, '.')] {
			if p, ok := m.index[key]; ok {
				return p, true
			}
		}
	}
	if name := regexp.MustCompile(`service "([^"]+)"`).FindStringSubmatch(text); name != nil {
		p, ok := m.index["services."+name[1]]
		return p, ok
	}
	return schema.Pos{}, false
}

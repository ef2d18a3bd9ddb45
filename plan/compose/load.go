package compose

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/paths"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/varanhq/varan/schema"
)

// A world says what stands behind the names and paths a tree does not hold. The daemon's world is empty.
type world struct {
	dir   string                                           // absolute folder that is the tree's root; "" = paths stay as written
	value func(name string) (string, bool)                 // of a [[NAME]]
	early bool                                             // missing host files are no mistake yet
	read  func(abs string) (data []byte, ok bool, _ error) // a host file; nil: never opened
	env   func(abs string) (data []byte, ok bool, _ error) // likewise, for variables alone
}

// A model is a stack as loaded: compose's project, and what it was loaded from.
type model struct {
	cfg    *schema.StackConfig
	res    *schema.Resource
	tree   Tree
	onHost bool
	w      world

	name     string        // the compose project's
	base     string        // run_directory
	work     string        // the project's folder: that of the first compose file
	inline   bool          // file_contents
	files    []string      // compose files, as paths of the tree
	env      types.Mapping // for ${VAR}; secrets as tokens
	envText  string        // the generated env file; secrets as tokens
	envPath  string        // where it is laid; "" without environment
	dict     map[string]any
	project  *types.Project
	services map[string]*service
	used     map[string]bool // files of the tree that were read for it
	needHost []string        // host files that were not read although variables come from them
	index    map[string]schema.Pos
	unset    map[string]bool // variables that were asked for and have no value
	diags    []schema.Diagnostic
}

// A service holds what compose's own struct loses.
type service struct {
	envFiles   []types.EnvFile
	labelFiles []string
	hostFiles  []string
	envUsed    bool // takes values of the generated env file
	secrets    map[string]bool
}

// fail notes a mistake at its place.
func (m *model) fail(pos schema.Pos, hint, format string, args ...any) {
	m.diags = append(m.diags, schema.Diagnostic{Severity: schema.SeverityError, Pos: pos, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (m *model) warn(pos schema.Pos, hint, format string, args ...any) {
	m.diags = append(m.diags, schema.Diagnostic{Severity: schema.SeverityWarning, Pos: pos, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (m *model) failed() bool {
	return slices.ContainsFunc(m.diags, func(d schema.Diagnostic) bool { return d.Severity == schema.SeverityError })
}

// newModel says where the stack's files are, without reading one.
func newModel(in Input, w world) *model {
	cfg := in.Resource.Stack()
	m := &model{cfg: cfg, res: in.Resource, tree: in.Tree, onHost: in.OnHost, w: w,
		name: ProjectName(in.Resource), base: ".", used: map[string]bool{}, services: map[string]*service{}, index: map[string]schema.Pos{}, unset: map[string]bool{}}
	m.inline = Inline(cfg)
	if m.inline {
		m.tree = NewMemory()
		return m
	}
	if cfg.RunDirectory != "" {
		dir, err := within(".", cfg.RunDirectory)
		if in.OnHost && path.IsAbs(cfg.RunDirectory) {
			dir, err = path.Clean(strings.TrimPrefix(cfg.RunDirectory, "/")), nil
		}
		if err != nil {
			m.fail(in.Resource.At("config.run_directory"), "run_directory is relative to the root of the stack's files", "run_directory %v", err)
		}
		m.base = dir
	}
	return m
}

// Inline reports whether the stack's compose file is file_contents.
func Inline(cfg *schema.StackConfig) bool {
	return !cfg.FilesOnHost && cfg.LinkedRepo == "" && cfg.Repo == "" && strings.TrimSpace(cfg.FileContents) != ""
}

// ProjectName is the compose project of a stack.
func ProjectName(r *schema.Resource) string {
	name := r.Name
	if cfg := r.Stack(); cfg != nil && cfg.ProjectName != "" {
		name = cfg.ProjectName
	}
	return loader.NormalizeProjectName(strings.ReplaceAll(name, " ", "_"))
}

// defaults are the names a stack's compose file may have when file_paths names none, most wanted first.
var defaults = []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}

// locate finds the compose files.
func (m *model) locate() {
	if m.inline {
		name := "compose.yaml"
		if len(m.cfg.FilePaths) > 0 {
			name = m.cfg.FilePaths[0]
		}
		p, err := within(".", name)
		if err != nil {
			m.fail(m.res.At("config.file_paths"), "", "file_paths: %v", err)
			return
		}
		m.files, m.work = []string{p}, path.Dir(p)
		return
	}
	if len(m.cfg.FilePaths) == 0 {
		for _, name := range defaults {
			p := path.Join(m.base, name)
			if _, _, err := follow(m.tree, p); err == nil {
				m.files, m.work = []string{p}, m.base
				return
			}
		}
		at := m.res.At("config.run_directory")
		dir := folder(m.base)
		if m.onHost {
			dir = m.shown(m.base) + " on this host"
		}
		m.fail(at, "name it with file_paths", "no compose.yaml (nor compose.yml, docker-compose.yml, docker-compose.yaml) in %s", dir)
		return
	}
	for i, name := range m.cfg.FilePaths {
		at := m.at("config.file_paths", i)
		p, err := within(m.base, name)
		if m.onHost && path.IsAbs(name) {
			p, err = path.Clean(strings.TrimPrefix(name, "/")), nil
		}
		if err != nil {
			m.fail(at, "compose files are relative to run_directory", "compose file %v", err)
			continue
		}
		m.files = append(m.files, p)
	}
	if len(m.files) > 0 {
		m.work = path.Dir(m.files[0])
	}
}

func (m *model) at(key string, i int) schema.Pos {
	if k := fmt.Sprintf("%s[%d]", key, i); m.res.Has(k) {
		return m.res.At(k)
	}
	return m.res.At(key)
}

func folder(dir string) string {
	if dir == "." {
		return "the root of the stack's files"
	}
	return dir
}

// read returns a file of the tree, through symlinks that stay inside it.
func (m *model) read(name string, limit int64) ([]byte, error) {
	e, links, err := follow(m.tree, name)
	if err != nil {
		return nil, err
	}
	if e.Mode != ModeFile {
		return nil, fmt.Errorf("%s is a folder", name)
	}
	data, err := m.tree.Read(e.Path, limit)
	if err != nil {
		return nil, err
	}
	m.used[e.Path] = true
	for _, l := range links {
		m.used[l.Path] = true
	}
	return data, nil
}

// shown is how people know a path of the tree: on a host the tree is the whole of it.
func (m *model) shown(p string) string {
	if m.onHost {
		return path.Join("/", p)
	}
	return p
}

// why says an error of the tree in words that fit after a file's name.
func why(name string, err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return name + " does not exist"
	}
	return err.Error()
}

// EnvText is the env file a stack's environment becomes, secrets standing as [[NAME]]; "" without environment.
func EnvText(cfg *schema.StackConfig) string {
	var b strings.Builder
	for _, kv := range cfg.Environment {
		b.WriteString(kv.Key + "=" + kv.Value + "\n")
	}
	return b.String()
}

// environment reads the variables for ${VAR}: additional env files in their order, then the main one.
func (m *model) environment() {
	m.env = types.Mapping{}
	hideText := func(s string) string {
		if m.cfg.SkipSecretInterp {
			return s
		}
		return hide(s)
	}
	hostMain := ""
	main, err := within(m.base, cmp.Or(m.cfg.EnvFilePath, ".env"))
	if m.onHost && path.IsAbs(m.cfg.EnvFilePath) {
		main, err = strings.TrimPrefix(path.Clean(m.cfg.EnvFilePath), "/"), nil
	}
	if err != nil && path.IsAbs(m.cfg.EnvFilePath) && len(m.cfg.Environment) == 0 {
		hostMain, err = m.cfg.EnvFilePath, nil // the host's, as a further env file
	}
	if err != nil {
		m.fail(m.res.At("config.env_file_path"), "env_file_path is relative to run_directory", "env_file_path %v", err)
		return
	}
	some := false
	for i, f := range m.cfg.AdditionalEnvFiles {
		at := m.at("config.additional_env_files", i)
		if path.IsAbs(f.Path) && !m.onHost {
			m.hostEnv(f.Path, at)
			some = true
			continue
		}
		p, err := within(m.base, f.Path)
		if m.onHost && path.IsAbs(f.Path) {
			p, err = strings.TrimPrefix(path.Clean(f.Path), "/"), nil
		}
		if err != nil {
			m.fail(at, "env files are relative to run_directory", "env file %v", err)
			continue
		}
		if p == main {
			continue
		}
		if m.inline { // only the host can have put it beside the compose file
			m.hostEnv(path.Join(m.w.dir, p), at)
			some = true
			continue
		}
		data, err := m.read(p, maxEnvFile)
		if err != nil {
			m.fail(at, "", "env file %s", why(m.shown(p), err))
			continue
		}
		some = true
		m.parseEnv(p, data, schema.Pos{File: p})
	}
	if hostMain != "" {
		m.hostEnv(hostMain, m.res.At("config.env_file_path"))
		return
	}
	if len(m.cfg.Environment) > 0 {
		m.envText = hideText(EnvText(m.cfg))
		m.envPath = main
		m.parseEnv("environment", []byte(m.envText), m.res.At("config.environment"))
		return
	}
	data, err := m.read(main, maxEnvFile)
	if errors.Is(err, fs.ErrNotExist) && !some && main != path.Join(m.work, ".env") {
		// Without any env file named, compose takes the one beside the compose file.
		main = path.Join(m.work, ".env")
		data, err = m.read(main, maxEnvFile)
	}
	switch {
	case err == nil:
		m.parseEnv(main, data, schema.Pos{File: main})
	case !errors.Is(err, fs.ErrNotExist):
		m.fail(m.res.At("config.env_file_path"), "", "env file %s", why(m.shown(main), err))
	}
}

// hostEnv takes variables from a file outside the tree, or notes that they are not known here.
func (m *model) hostEnv(name string, at schema.Pos) {
	read := m.w.read
	if read == nil {
		read = m.w.env
	}
	if read == nil {
		m.needHost = append(m.needHost, name)
		return
	}
	data, ok, err := read(name)
	switch {
	case err != nil:
		m.fail(at, "", "env file %s: %v", name, err)
		return
	case !ok:
		m.fail(at, "make the file on the host", "env file %s does not exist on this host", name)
		return
	}
	m.parseEnv(name, data, at)
}

var lineNumber = regexp.MustCompile(`line (\d+)`)

// lineOf is the line an error of a parser names, 0 if none.
func lineOf(err error) int {
	if s := lineNumber.FindStringSubmatch(err.Error()); s != nil {
		n, _ := strconv.Atoi(s[1])
		return n
	}
	return 0
}

func (m *model) parseEnv(name string, data []byte, at schema.Pos) {
	vars, err := envFile(data, m.env)
	if err != nil {
		if n := lineOf(err); n > 0 && name != "environment" {
			at.Line = n
		}
		m.fail(at, "", "env file %s: %s", name, plain(err))
		return
	}
	maps.Copy(m.env, vars)
}

// plain drops from a parser's message what could be a value: env files hold secrets.
func plain(err error) string {
	text := err.Error()
	if i := strings.Index(text, " in variable name"); i >= 0 {
		return fmt.Sprintf("line %d: unexpected character%s", lineOf(err), " in a variable's name")
	}
	if strings.HasPrefix(text, "unexpected character") || strings.HasPrefix(text, "unterminated") {
		return strings.SplitN(text, " ", 3)[0] + " " + strings.SplitN(strings.SplitN(text, " ", 3)[1], "\n", 2)[0]
	}
	return text
}

// envFile parses an env file; before holds the variables of the files read earlier.
func envFile(data []byte, before map[string]string) (vars map[string]string, err error) {
	if err := bounded(data, before); err != nil {
		return nil, err
	}
	defer func() { // the parser is known to index past the end of odd input
		if r := recover(); r != nil {
			err = errors.New("cannot be parsed as an env file")
		}
	}()
	return dotenv.ParseWithLookup(bytes.NewReader(data), func(k string) (string, bool) {
		v, ok := before[k]
		return v, ok
	})
}

// load runs compose's loader over the files.
func (m *model) load(ctx context.Context) {
	if m.locate(); m.failed() {
		return
	}
	if m.environment(); m.failed() || len(m.needHost) > 0 {
		return
	}
	s := &scan{m: m, contents: map[string][]byte{}}
	for i, f := range m.files {
		var data []byte
		at := m.at("config.file_paths", i)
		if m.inline {
			data = []byte(m.cfg.FileContents)
			if !m.cfg.SkipSecretInterp {
				data = []byte(hide(m.cfg.FileContents))
			}
		} else {
			var err error
			if data, err = m.read(f, maxCompose); err != nil {
				m.fail(at, "", "compose file %s", why(m.shown(f), err))
				continue
			}
		}
		s.file(f, data, m.work, m.env)
	}
	if m.failed() {
		return
	}
	root := "/varan-no-such-folder" // what a path would be read from if the scan had missed it
	if s.external {
		dir, err := os.MkdirTemp("", "varan-compose-")
		if err != nil {
			m.fail(m.res.Pos, "", "make a folder for the compose files: %v", err)
			return
		}
		defer os.RemoveAll(dir)
		if err := s.lay(dir); err != nil {
			m.fail(m.res.Pos, "", "lay the compose files: %v", err)
			return
		}
		root = dir
	}
	details := types.ConfigDetails{WorkingDir: filepath.Join(root, m.work), Environment: maps.Clone(m.env)}
	for _, f := range m.files {
		details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: filepath.Join(root, f), Content: s.contents[f]})
	}
	option := func(o *loader.Options) {
		o.SetProjectName(m.name, true)
		o.ResolvePaths = false
		o.SkipInclude = !s.external
		o.SkipValidation = m.w.dir != "" // Declare has validated what is loaded here: it is 40 % of the work
		o.SkipResolveEnvironment = true
		o.Interpolate.Substitute = func(text string, lookup template.Mapping) (string, error) {
			return template.SubstituteWithOptions(text, func(name string) (string, bool) {
				v, ok := lookup(name)
				if !ok {
					m.unset[name] = true
				}
				return v, ok
			}, template.WithoutLogging)
		}
		o.ResourceLoaders = []loader.ResourceLoader{outside{root: root}}
		if p := m.env["COMPOSE_PROFILES"]; p != "" {
			o.Profiles = strings.Split(p, ",")
		}
	}
	defer func() { // compose's loader trusts the shape of what it merges
		if r := recover(); r != nil {
			m.failCompose(root, fmt.Errorf("cannot be loaded: %v", r))
		}
	}()
	dict, err := loader.LoadModelWithContext(ctx, details, option)
	if err != nil {
		m.failCompose(root, err)
		return
	}
	delete(dict, "version") // obsolete; validation takes it out
	m.relate(dict, root)
	m.dict = dict
	m.take()
	if m.w.dir != "" {
		if err := paths.ResolveRelativePaths(dict, path.Join(m.w.dir, m.work), nil); err != nil {
			m.failCompose(root, err)
			return
		}
	}
	for name, s := range m.services {
		hidden(dict["services"].(map[string]any)[name], s.secrets)
	}
	walkStrings(dict, func(s string) string { return reveal(s, m.w.value) })
	project, err := loader.ModelToProject(dict, loader.ToOptions(&details, []func(*loader.Options){option}), details)
	if err != nil {
		m.failCompose(root, err)
		return
	}
	project.WorkingDir = path.Join(m.w.dir, m.work)
	for _, f := range m.files {
		project.ComposeFiles = append(project.ComposeFiles, path.Join(m.w.dir, f))
	}
	project.Environment = types.Mapping{}
	for k, v := range m.env {
		project.Environment[k] = reveal(v, m.w.value)
	}
	m.project = project
	m.lean()
	if len(project.Services) == 0 {
		m.warn(schema.Pos{File: m.files[0]}, "", "the compose file has no services to run")
	}
	m.fillEnvironment()
}

// relate makes paths that compose resolved in the private folder relative to the project's folder again.
func (m *model) relate(dict map[string]any, root string) {
	work := filepath.Join(root, m.work)
	walkStrings(dict, func(s string) string {
		if s != root && !strings.HasPrefix(s, root+"/") {
			return s
		}
		rel, err := filepath.Rel(work, s)
		if err != nil {
			return s
		}
		return "./" + rel
	})
}

// take moves env_file and label_file out of the model: compose would open them itself.
func (m *model) take() {
	services, _ := m.dict["services"].(map[string]any)
	for name, v := range services {
		def, ok := v.(map[string]any)
		if !ok {
			continue
		}
		s := &service{secrets: map[string]bool{}}
		m.services[name] = s
		list, _ := def["env_file"].([]any)
		for _, e := range list {
			f := types.EnvFile{Required: true}
			switch e := e.(type) {
			case string:
				f.Path = e
			case map[string]any:
				f.Path, _ = e["path"].(string)
				f.Format, _ = e["format"].(string)
				if r, ok := e["required"].(bool); ok {
					f.Required = types.OptOut(r)
				}
			}
			s.envFiles = append(s.envFiles, f)
		}
		labels, _ := def["label_file"].([]any)
		for _, e := range labels {
			if f, ok := e.(string); ok {
				s.labelFiles = append(s.labelFiles, f)
			}
		}
		delete(def, "env_file")
		delete(def, "label_file")
	}
}

// fillEnvironment reads the services' env and label files as compose would, from the tree.
func (m *model) fillEnvironment() {
	for _, name := range m.project.ServiceNames() {
		def, s := m.project.Services[name], m.services[name]
		vars := map[string]string{}
		for _, f := range s.envFiles {
			data, ok := m.serviceFile(name, s, f.Path, "env_file", bool(f.Required))
			if !ok {
				continue
			}
			lookup := func(k string) (string, bool) {
				if v, ok := m.env[k]; ok {
					return v, true
				}
				if v, ok := def.Environment[k]; ok && v != nil {
					return *v, true
				}
				return "", false
			}
			m.mergeFile(name, "env_file", f, data, vars, lookup)
		}
		for k, v := range vars {
			hidden(v, s.secrets)
			if _, ok := def.Environment[k]; ok {
				continue
			}
			if def.Environment == nil {
				def.Environment = types.MappingWithEquals{}
			}
			v = reveal(v, m.w.value)
			def.Environment[k] = &v
		}
		vars = map[string]string{}
		for _, f := range s.labelFiles {
			if data, ok := m.serviceFile(name, s, f, "label_file", true); ok {
				m.mergeFile(name, "label_file", types.EnvFile{Path: f}, data, vars, func(k string) (string, bool) { v, ok := vars[k]; return v, ok })
			}
		}
		for k, v := range vars {
			if def.Labels == nil {
				def.Labels = types.Labels{}
			}
			if _, ok := def.Labels[k]; !ok {
				hidden(v, s.secrets)
				def.Labels[k] = reveal(v, m.w.value)
			}
		}
		m.project.Services[name] = def
	}
}

// mergeFile parses one env file of a service over vars.
func (m *model) mergeFile(name, key string, f types.EnvFile, data []byte, vars map[string]string, lookup dotenv.LookupFn) {
	at := m.place("services", name, key)
	switch f.Format {
	case "", ".env":
		before := maps.Clone(m.env)
		maps.Copy(before, vars)
		if err := bounded(data, before); err != nil {
			m.fail(at, "", "%s %s: %v", key, f.Path, err)
			return
		}
		defer func() {
			if recover() != nil {
				m.fail(at, "", "%s %s cannot be parsed as an env file", key, f.Path)
			}
		}()
		if err := dotenv.ParseWithFormat(bytes.NewReader(data), f.Path, vars, lookup, ""); err != nil {
			m.fail(at, "", "%s %s: %s", key, f.Path, plain(errors.Unwrap(err)))
		}
	case "raw":
		for line := range strings.Lines(string(data)) {
			line = strings.TrimRight(line, "\r\n")
			if k, v, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(strings.TrimSpace(line), "#") {
				vars[strings.TrimSpace(k)] = v
			}
		}
	default:
		m.fail(at, `known formats: "raw"`, "%s %s: unknown format %q", key, f.Path, f.Format)
	}
}

// serviceFile returns a service's env or label file. One that is not in the tree is the host's: it is read where
// a host stands behind the tree and otherwise only noted.
func (m *model) serviceFile(name string, s *service, file, key string, required bool) ([]byte, bool) {
	at := m.place("services", name, key)
	p, err := within(m.work, file)
	if m.onHost && path.IsAbs(file) {
		p, err = strings.TrimPrefix(path.Clean(file), "/"), nil
	}
	if err != nil && !path.IsAbs(file) {
		m.fail(at, "", "%s %v", key, err)
		return nil, false
	}
	if err == nil {
		if p == m.envPath && m.envPath != "" {
			s.envUsed = true
			return []byte(m.envText), true
		}
		data, err := m.read(p, maxEnvFile)
		if err == nil {
			return data, true
		}
		if !errors.Is(err, fs.ErrNotExist) {
			m.fail(at, "", "%s %v", key, err)
			return nil, false
		}
		if m.onHost || m.inline && m.w.read == nil && !required {
			if required {
				m.fail(at, "make the file on the host, or set required: false", "%s %s does not exist", key, m.shown(p))
			}
			return nil, false
		}
	}
	host := file
	if err == nil {
		host = p // below the stack's folder, put there by hand or by pre_deploy
	}
	s.hostFiles = append(s.hostFiles, host)
	if m.w.read == nil {
		if err == nil && required {
			m.warn(at, "put it into the repository, or keep it on the host", "%s %s is not in the repository: it is expected in the stack's folder on the host", key, p)
		}
		return nil, false
	}
	abs := host
	if !path.IsAbs(abs) {
		abs = path.Join(m.w.dir, host)
	}
	data, ok, rerr := m.w.read(abs)
	switch {
	case rerr != nil:
		m.fail(at, "", "%s %s: %v", key, file, rerr)
	case !ok && required && !m.w.early:
		m.fail(at, "make the file on the host, or set required: false", "%s %s does not exist on this host", key, abs)
	}
	return data, ok && rerr == nil
}

var quoted = regexp.MustCompile("`[^`]*`|\"[^\"]*\"|'[^']*'")

// quiet takes out of a message what could be a value of a host file: it is shown far from its host.
func (m *model) quiet(text string) string {
	if !m.onHost && m.w.env == nil {
		return text
	}
	for _, v := range m.env {
		if len(v) >= 4 {
			text = strings.ReplaceAll(text, v, "(set on the host)")
		}
	}
	return quoted.ReplaceAllStringFunc(text, func(q string) string {
		if q[0] == '`' || strings.ContainsFunc(q[1:len(q)-1], func(r rune) bool { return r == '$' || r == ' ' || r == ':' || r == '@' }) {
			return "(set on the host)"
		}
		return q
	})
}

// failCompose puts compose's message at the file and line it speaks of.
func (m *model) failCompose(root string, err error) {
	text := strings.ReplaceAll(err.Error(), root+"/", "")
	text = m.quiet(reveal(text, asName))
	at := schema.Pos{File: m.files[0]}
	for _, f := range slices.Backward(m.files) {
		if strings.Contains(text, f) {
			at.File = f
			break
		}
	}
	for f := range m.used {
		if len(f) > len(at.File) && strings.Contains(text, f) {
			at.File = f
		}
	}
	if n := lineOf(err); n > 0 {
		at.Line = n
	} else if p, ok := m.mentioned(text); ok {
		at = p
	}
	if m.inline {
		line := at.Line
		at = m.res.At("config.file_contents")
		if line > 0 && at.Line > 0 {
			text = fmt.Sprintf("%s (line %d of file_contents)", text, line)
		}
	}
	hint := ""
	if len(m.unset) > 0 {
		hint = "variables without a value: " + strings.Join(slices.Sorted(maps.Keys(m.unset)), ", ")
	}
	if strings.HasPrefix(text, "invalid proto") {
		text = "a port is malformed: " + text
	}
	m.fail(at, hint, "%s", strings.TrimSpace(text))
}

// An outside loader takes what compose would fetch from elsewhere or open by an absolute path, and refuses it.
type outside struct{ root string }

func (o outside) Accept(p string) bool {
	if strings.Contains(p, "://") || strings.HasPrefix(p, "git@") || strings.HasPrefix(p, "oci:") {
		return true
	}
	return filepath.IsAbs(p) && !strings.HasPrefix(filepath.Clean(p), o.root+"/")
}

func (o outside) Load(_ context.Context, p string) (string, error) {
	return "", fmt.Errorf("%s %w", p, errOutside)
}

func (o outside) Dir(p string) string { return p }

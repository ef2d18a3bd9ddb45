package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/client"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/mask"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
)

// Options are the same for all stacks of a host.
type Options struct {
	Root   string // the agent's: stacks/ and undo/ lie below it
	API    client.APIClient
	Engine *container.Engine // pulls
	Allow  container.Allow
	Loads  *Loads // may be nil
}

// A Stack is one op's stack on this host. Its methods are called in this order: Prepare for a Prepare op; Lay,
// Before, Load, then a container.Job with the Stack as Creator, then After and Keep, or Restore, for a Deploy op.
type Stack struct {
	opts    Options
	op      protocol.Op
	payload *protocol.Payload
	res     *schema.Resource
	dir     string // the folder that is the tree's root
	work    string // the project's folder
	prefix  string // the directory of the repository that dir stands for; "" is its root
	fence   string // of files on the host: symlinks below it do not lead out of it
	secrets map[string]string
	mask    *mask.Mask

	project *compose.Project // after Load
}

// Segment turns a name into one path segment: nothing but itself has it.
func Segment(name string) string {
	s := url.PathEscape(name)
	if s == "." || s == ".." || s == "" {
		s = "%" + s
	}
	return s
}

// Open takes a Prepare, Deploy or Adopt op's payload. running is the project folder in use on this host (from the
// ledger, else compose's working_dir label of what runs); "" if there is none.
func Open(opts Options, op protocol.Op, running string) (*Stack, error) {
	p := op.Payload
	if p == nil || p.Stack == nil {
		return nil, fmt.Errorf("open %s: the op has no stack", op.Resource)
	}
	s := &Stack{opts: opts, op: op, payload: p, secrets: map[string]string{}}
	for k, v := range p.Secrets {
		s.secrets[k] = string(v)
	}
	masked := map[string]string{}
	for k, v := range s.secrets {
		masked[k] = v
	}
	for _, r := range p.Registries {
		masked["password of "+r.Domain] = string(r.Password)
	}
	s.mask = mask.New(masked)
	cfg := *p.Stack
	if p.Project != "" {
		cfg.ProjectName = p.Project
	}
	s.res = &schema.Resource{ID: op.Resource, Kind: schema.KindStack, Name: op.Resource.Name(), Config: &cfg}
	if err := s.place(running); err != nil {
		return nil, err
	}
	return s, nil
}

// place finds the folder the stack's files are at. The project's folder is the declared one, else the one in use,
// else a new one below the agent's root.
func (s *Stack) place(running string) error {
	directory := path.Clean(s.payload.Directory)
	home := Home(s.opts.Root, s.op.Resource)
	if s.cfg().FilesOnHost {
		if s.payload.Pinned != "" {
			home = path.Clean(s.payload.Pinned)
		}
		// Its files may lie anywhere on the host: the host itself is the tree.
		run := s.cfg().RunDirectory
		if !path.IsAbs(run) {
			run = path.Join(home, run)
			s.fence = home
		}
		if !path.IsAbs(run) {
			return fmt.Errorf("directory %q of %s is not absolute", home, s.op.Resource)
		}
		s.cfg().RunDirectory = path.Clean(run)
		s.dir, s.work = "/", s.cfg().RunDirectory
		if s.payload.Directory != "" {
			s.work = path.Join("/", directory)
		}
		return nil
	}
	for _, at := range []string{s.payload.Pinned, running} {
		if at == "" {
			continue
		}
		at = path.Clean(at)
		if !path.IsAbs(at) {
			return fmt.Errorf("directory %q of %s is not absolute", at, s.op.Resource)
		}
		root, ok := at, true
		if directory != "." {
			root, ok = strings.CutSuffix(at, "/"+directory)
		}
		if ok && root != "" {
			s.dir, s.work = root, at
			return nil
		}
		if s.payload.Within {
			s.strip(directory)
			s.dir, s.work = at, at
			return nil
		}
		if at == s.payload.Pinned {
			return fmt.Errorf("directory %q of %s does not end with its run directory %q, so that the repository's other files have no place", at, s.op.Resource, directory)
		}
	}
	s.dir, s.work = home, path.Join(home, directory)
	return nil
}

// strip takes the directory for the whole tree: a folder on the host that is called otherwise stands for it.
func (s *Stack) strip(directory string) {
	p := *s.payload
	p.Files = slices.Clone(p.Files)
	for i := range p.Files {
		p.Files[i].Path = strings.TrimPrefix(p.Files[i].Path, directory+"/")
	}
	p.Directory = "."
	s.payload, s.prefix = &p, directory
	s.cfg().RunDirectory = ""
}

// InTree is the repository's path of a file below Root.
func (s *Stack) InTree(name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(s.prefix, name)
}

// Source is where a bind's source lies on this host.
func (s *Stack) Source(b plan.Bind) string {
	if path.IsAbs(b.Source) {
		return b.Source
	}
	if s.prefix != "" && b.Source == s.prefix {
		return s.dir
	}
	return path.Join(s.dir, strings.TrimPrefix(b.Source, s.prefix+"/"))
}

func (s *Stack) cfg() *schema.StackConfig { return s.res.Stack() }

// Directory is the project's folder on this host.
func (s *Stack) Directory() string { return s.work }

// Root is the folder on this host that stands for the repository's root.
func (s *Stack) Root() string { return s.dir }

// Project is compose's name of the project.
func (s *Stack) Project() string { return compose.ProjectName(s.res) }

// Mask takes the stack's secrets out of a text.
func (s *Stack) Mask(text string) string { return s.mask.String(text) }

func (s *Stack) open() (*Dir, error) {
	return OpenDir(s.dir, UndoFile(s.opts.Root, s.op.Resource))
}

// UndoFile is where a stack's files are kept as they were while an update is on its way.
func UndoFile(root string, id schema.ID) string {
	return filepath.Join(root, "undo", Segment(id.Name())+".json")
}

// sent is the files that came with the op.
func (s *Stack) sent() (*compose.Memory, error) {
	m := compose.NewMemory()
	for _, f := range s.payload.Files {
		if err := m.Add(f.Path, f.Data, f.Exec, f.Symlink); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// file gives a file of the host; in the stack's own folder, where containers write, through its handle.
func (s *Stack) file(abs string) ([]byte, bool, error) {
	rel, err := filepath.Rel(s.dir, abs)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") || s.dir == "/" {
		return ReadHost(abs)
	}
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	d, err := s.open()
	if err != nil {
		return nil, false, err
	}
	defer d.Close()
	n, err := d.look(rel)
	if err == nil && n.link {
		err = d.wrong(rel, "is a symlink that is not in the repository; it is not followed")
	}
	return n.data, err == nil && n.exists, err
}

// Lay writes the stack's files below its folder; before is the Manifest of the last Lay. Restore undoes it until
// Keep.
func (s *Stack) Lay(ctx context.Context, before Manifest) (Manifest, error) {
	if s.cfg().FilesOnHost {
		return Manifest{}, nil // its files are somebody else's
	}
	var files []File
	for _, f := range s.payload.Files {
		files = append(files, File{Path: f.Path, Data: f.Data, Exec: f.Exec, Link: f.Symlink})
	}
	if inline := s.inlineFile(); inline != nil {
		files = append(files, *inline)
	}
	// Only compose knows whether something uses the env file; before pre_deploy has run it may not load yet.
	env, err := s.envFile(ctx)
	if err != nil {
		return nil, err
	}
	if env != nil {
		files = slices.DeleteFunc(files, func(f File) bool { return f.Path == env.Path })
		files = append(files, *env)
	}
	return s.lay(files, before)
}

// inlineFile is the compose file that file_contents becomes, for people and commands on the host: containers are
// made from what was sent. Its secrets stay [[NAME]]s, so that no value lies in a file nothing reads.
func (s *Stack) inlineFile() *File {
	if !compose.Inline(s.cfg()) {
		return nil
	}
	name := "compose.yaml"
	if len(s.cfg().FilePaths) > 0 {
		name = path.Clean(s.cfg().FilePaths[0])
	}
	return &File{Path: name, Data: []byte(s.cfg().FileContents)}
}

func (s *Stack) lay(files []File, before Manifest) (Manifest, error) {
	d, err := s.open()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	m, err := d.Lay(files, before)
	if err != nil {
		return nil, fmt.Errorf("lay the files of %s: %w", s.op.Resource, err)
	}
	return m, nil
}

// envFile is the generated env file, nil where nothing on the host needs it.
func (s *Stack) envFile(ctx context.Context) (*File, error) {
	if len(s.cfg().Environment) == 0 {
		return nil, nil
	}
	if s.hooked() {
		text := compose.EnvText(s.cfg())
		p := path.Join(path.Clean(s.cfg().RunDirectory), s.cfg().EnvFilePath)
		if compose.Inline(s.cfg()) {
			p = path.Clean(s.cfg().EnvFilePath)
		}
		if !fs.ValidPath(p) {
			return nil, fmt.Errorf("env_file_path %s lies outside the stack's folder", p)
		}
		return &File{Path: p, Data: []byte(s.reveal(text)), Private: true}, nil
	}
	p, err := s.load(ctx, false, false)
	if err != nil {
		return nil, err
	}
	if !p.EnvUsed {
		return nil, nil
	}
	return &File{Path: p.EnvPath, Data: []byte(p.EnvText), Private: true}, nil
}

func (s *Stack) hooked() bool {
	return strings.TrimSpace(s.cfg().PreDeploy.Command) != "" || strings.TrimSpace(s.cfg().PostDeploy.Command) != ""
}

// reveal puts the secrets' values in.
func (s *Stack) reveal(text string) string {
	if s.cfg().SkipSecretInterp {
		return text
	}
	return compose.Reveal(text, s.secrets)
}

// Restore puts the files back as they were before Lay.
func (s *Stack) Restore() error { return s.withDir((*Dir).Restore) }

// Keep makes what Lay wrote final.
func (s *Stack) Keep() error { return s.withDir((*Dir).Keep) }

func (s *Stack) withDir(do func(*Dir) error) error {
	d, err := s.open()
	if err != nil {
		return err
	}
	defer d.Close()
	return do(d)
}

// Load reads the project as it lies on the host now. The Stack is a container.Creator from then on.
func (s *Stack) Load(ctx context.Context) error {
	p, err := s.load(ctx, false, true)
	if err != nil {
		return err
	}
	s.project = p
	return nil
}

// HostFiles are the host's files the project was loaded from, absolute.
func (s *Stack) HostFiles() []string { return s.project.HostFiles }

// MissingBinds fails for a bind source that is not there and that compose was told not to make.
func (s *Stack) MissingBinds() error {
	for _, name := range s.project.ServiceNames() {
		for _, v := range s.project.Services[name].Volumes {
			if v.Type != "bind" || v.Bind == nil || bool(v.Bind.CreateHostPath) {
				continue
			}
			if _, err := os.Lstat(v.Source); errors.Is(err, fs.ErrNotExist) {
				return &container.Failure{Service: name, Message: fmt.Sprintf("service %q mounts %s, which does not exist (create_host_path: false)", name, v.Source),
					Hint: "make it on the host, or put it into the repository"}
			}
		}
	}
	return nil
}

// Services describes the project's services to a container.Job. steps says what happens to each; a service
// without a step keeps what it has.
func (s *Stack) Services(steps []plan.ServiceStep) []container.Service {
	actions := map[string]plan.Action{}
	for _, st := range steps {
		actions[st.Name] = st.Action
	}
	units := map[string]plan.Unit{}
	for _, u := range s.payload.Units {
		units[u.Service] = u
	}
	var out []container.Service
	for _, name := range s.project.ServiceNames() {
		def, u := s.project.Services[name], units[name]
		c := container.Service{Name: name, Action: plan.None, Digest: u.Digest, OneShot: u.OneShot,
			Ignored: u.Ignored || slices.Contains(s.cfg().IgnoreServices, name), Zero: def.GetScale() == 0,
			MustEnd: s.payload.Ensure == schema.EnsureCompleted}
		if a, ok := actions[name]; ok {
			c.Action = a
			delete(actions, name)
		}
		for _, dep := range def.GetDependencies() {
			d := def.DependsOn[dep]
			if _, err := s.project.GetService(dep); err != nil {
				continue // not enabled by its profile
			}
			c.Needs = append(c.Needs, container.Need{Service: dep, Condition: d.Condition, Optional: !d.Required})
		}
		out = append(out, c)
	}
	for _, st := range steps { // what is no longer declared
		if a, ok := actions[st.Name]; ok {
			out = append(out, container.Service{Name: st.Name, Action: a})
		}
	}
	return out
}

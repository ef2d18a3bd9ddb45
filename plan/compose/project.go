package compose

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/varanhq/varan/schema"
)

// A Host is what an agent knows and a daemon must not: where the tree lies, and what the secrets are.
type Host struct {
	Dir     string            // absolute folder that is the tree's root
	Secrets map[string]string // by name
	// Read gives a regular file of the host by its absolute path; ok is false where there is none.
	Read func(abs string) (data []byte, ok bool, err error)
	// Early: pre_deploy has not run yet, so an env file that is not there may come to be.
	Early bool
}

// A Project is a stack as compose's own library takes it: paths absolute, secrets filled in.
type Project struct {
	*types.Project
	// EnvPath is where the generated env file belongs, relative to the tree's root; "" without environment.
	EnvPath string
	EnvText string // its content, secrets filled in
	// EnvUsed: a service mounts or reads that file, so it must be on the host.
	EnvUsed bool
	// HostFiles are the host's files that were read, absolute.
	HostFiles []string
	// Up holds what extra_args asks for.
	Up UpArgs
}

// Load reads a stack for the host it runs on. The error names every mistake at its place.
func Load(ctx context.Context, in Input, host Host) (*Project, error) {
	up, diags := ParseUpArgs(in.Resource)
	value := func(name string) (string, bool) { v, ok := host.Secrets[name]; return v, ok }
	m := newModel(in, world{dir: host.Dir, value: value, read: host.Read, early: host.Early})
	m.diags = append(m.diags, diags...)
	if in.Tree == nil && !m.inline {
		return nil, fmt.Errorf("load %s: its files are not here", in.Resource.ID)
	}
	if !m.failed() {
		m.load(ctx)
	}
	var mistakes []string
	for _, d := range m.diags {
		if d.Severity == schema.SeverityError {
			mistakes = append(mistakes, fmt.Sprintf("%s:%d: %s", d.File, d.Line, d.Message))
		}
	}
	if len(mistakes) > 0 || m.project == nil {
		return nil, fmt.Errorf("load %s: %s", in.Resource.ID, strings.Join(mistakes, "; "))
	}
	p := &Project{Project: m.project, EnvPath: m.envPath, EnvText: reveal(m.envText, value), Up: up}
	env := path.Join(host.Dir, m.envPath)
	for name, s := range m.services {
		p.EnvUsed = p.EnvUsed || s.envUsed
		for _, f := range s.hostFiles {
			if !path.IsAbs(f) {
				f = path.Join(host.Dir, f)
			}
			p.HostFiles = append(p.HostFiles, f)
		}
		for _, v := range p.Services[name].Volumes {
			if v.Type == types.VolumeTypeBind && (v.Source == env || strings.HasPrefix(env, v.Source+"/")) {
				p.EnvUsed = true
			}
		}
	}
	for _, o := range p.Configs {
		p.EnvUsed = p.EnvUsed || o.File == env
	}
	for _, o := range p.Secrets {
		p.EnvUsed = p.EnvUsed || o.File == env
	}
	p.EnvUsed = p.EnvUsed && p.EnvPath != ""
	for name, n := range up.Scale {
		s, err := p.GetService(name)
		if err != nil {
			return nil, fmt.Errorf("load %s: extra_args: --scale: %w", in.Resource.ID, err)
		}
		s.SetScale(n)
		p.Services[name] = s
	}
	slices.Sort(p.HostFiles)
	p.HostFiles = slices.Compact(p.HostFiles)
	return p, nil
}

package stack

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/containerd/errdefs"
	"github.com/docker/compose/v5/pkg/api"

	"github.com/varanhq/varan/agent/build"
	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/plan/compose"
)

// Prepare brings the images of services to the host: it pulls and builds, stops nothing and lays nothing.
func (s *Stack) Prepare(ctx context.Context, services []string, progress func(service, phase, detail string)) error {
	if progress == nil {
		progress = func(string, string, string) {}
	}
	project, err := s.load(ctx, s.hooked(), false)
	if err != nil && s.hooked() {
		// What pre_deploy makes is not there yet; images are known without it.
		return s.pull(ctx, s.pullsOfUnits(services), progress)
	}
	if err != nil {
		return err
	}
	var pulls []container.Pull
	var builds []types.ServiceConfig
	for _, name := range project.ServiceNames() {
		if !slices.Contains(services, name) {
			continue
		}
		def := project.Services[name]
		switch ok, err := s.builds(ctx, project, def); {
		case err != nil:
			return err
		case ok:
			builds = append(builds, def)
		default:
			pulls = append(pulls, container.Pull{Service: name, Image: api.GetImageNameOrDefault(def, project.Name), Policy: s.policy(project, def)})
		}
		for _, v := range def.Volumes {
			if v.Type == types.VolumeTypeImage {
				pulls = append(pulls, container.Pull{Service: name, Image: v.Source, Policy: container.PullMissing})
			}
		}
	}
	if err := s.pull(ctx, pulls, progress); err != nil {
		return err
	}
	return s.build(ctx, project, builds, progress)
}

func (s *Stack) pull(ctx context.Context, pulls []container.Pull, progress func(service, phase, detail string)) error {
	if len(pulls) == 0 {
		return nil
	}
	return s.opts.Engine.Pull(ctx, pulls, s.login, progress)
}

func (s *Stack) pullsOfUnits(services []string) []container.Pull {
	var out []container.Pull
	for _, u := range s.payload.Units {
		if slices.Contains(services, u.Service) && !u.Build {
			p := container.Pull{Service: u.Service, Image: compose.Reveal(u.Image, s.secrets), Policy: container.PullMissing}
			if s.cfg().AutoPull {
				p.Policy = container.PullAlways
			}
			out = append(out, p)
		}
	}
	return out
}

// login gives the account for a registry, from what the op carries and nothing else.
func (s *Stack) login(domain string) (string, string, bool) {
	for _, r := range s.payload.Registries {
		if r.Domain == domain {
			return r.Username, string(r.Password), true
		}
	}
	return "", "", false
}

// policy is when a service's image is pulled: its own pull_policy goes before auto_pull.
func (s *Stack) policy(p *compose.Project, def types.ServiceConfig) string {
	switch {
	case def.PullPolicy == types.PullPolicyNever:
		return container.PullNever
	case def.PullPolicy == types.PullPolicyAlways:
		return container.PullAlways
	case def.PullPolicy == types.PullPolicyMissing || def.PullPolicy == types.PullPolicyIfNotPresent:
		return container.PullMissing
	case p.Up.Pull != "":
		return p.Up.Pull
	case s.cfg().AutoPull:
		return container.PullAlways
	}
	return container.PullMissing
}

// builds reports whether the service's image is built now: always with run_build, else if it is not on the host.
func (s *Stack) builds(ctx context.Context, p *compose.Project, def types.ServiceConfig) (bool, error) {
	if def.Build == nil {
		return false, nil
	}
	if s.cfg().RunBuild || p.Up.Build || def.PullPolicy == types.PullPolicyBuild {
		return true, nil
	}
	if p.Up.NoBuild {
		return false, nil
	}
	_, err := s.opts.API.ImageInspect(ctx, api.GetImageNameOrDefault(def, p.Name))
	if errdefs.IsNotFound(err) {
		return true, nil
	}
	return false, err
}

// build builds the services' images from the files that were sent, in a private folder: what a container may
// have changed in the stack's own folder is not built.
func (s *Stack) build(ctx context.Context, project *compose.Project, services []types.ServiceConfig, progress func(service, phase, detail string)) error {
	if len(services) == 0 {
		return nil
	}
	if s.opts.Allow.NoBuilds {
		return &container.Refusal{Key: "builds", What: "building " + services[0].Name}
	}
	root := s.dir
	if !s.cfg().FilesOnHost {
		tmp, err := os.MkdirTemp(s.opts.Root, ".build-")
		if err != nil {
			return fmt.Errorf("make a folder to build in: %w", err)
		}
		defer os.RemoveAll(tmp)
		if err := s.copyTo(tmp); err != nil {
			return err
		}
		root = tmp
	}
	extra, err := parseBuildArgs(s.cfg().BuildExtraArgs)
	if err != nil {
		return err
	}
	// A service may build on another's image: those it depends on go first.
	for _, def := range ordered(services) {
		job, err := s.job(project, def, root, extra)
		if err != nil {
			return err
		}
		progress(def.Name, "building", "")
		out := newTail(s.mask)
		err = build.Image(ctx, s.opts.API, job, s.login, func(line string) {
			_, _ = out.Write([]byte(line + "\n"))
			progress(def.Name, "building", s.mask.String(line))
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return &container.Failure{Service: def.Name, Message: s.mask.String(fmt.Sprintf("service %q cannot be built: %v", def.Name, err)),
				Hint: "see what the build printed", Tail: out.String()}
		}
		for _, tag := range job.Tags {
			s.opts.Engine.Note(ctx, tag)
		}
	}
	return nil
}

// ordered sorts services so that what one takes from another (service:NAME contexts) is built before.
func ordered(services []types.ServiceConfig) []types.ServiceConfig {
	var out []types.ServiceConfig
	done := map[string]bool{}
	var visit func(def types.ServiceConfig, depth int)
	visit = func(def types.ServiceConfig, depth int) {
		if done[def.Name] || depth > len(services) {
			return
		}
		for _, c := range def.Build.AdditionalContexts {
			if other, ok := strings.CutPrefix(c, types.ServicePrefix); ok {
				if i := slices.IndexFunc(services, func(s types.ServiceConfig) bool { return s.Name == other }); i >= 0 {
					visit(services[i], depth+1)
				}
			}
		}
		if !done[def.Name] {
			done[def.Name] = true
			out = append(out, def)
		}
	}
	for _, s := range services {
		visit(s, 0)
	}
	return out
}

func (s *Stack) copyTo(dir string) error {
	d, err := OpenDir(dir, filepath.Join(dir+".undo"))
	if err != nil {
		return err
	}
	defer os.Remove(dir + ".undo")
	defer d.Close()
	var files []File
	for _, f := range s.payload.Files {
		files = append(files, File{Path: f.Path, Data: f.Data, Exec: f.Exec, Link: f.Symlink})
	}
	if _, err := d.Lay(files, nil); err != nil {
		return fmt.Errorf("copy the files to build from: %w", err)
	}
	return nil
}

// job says a build section as a build.Job; root stands in for the stack's folder.
func (s *Stack) job(project *compose.Project, def types.ServiceConfig, root string, extra buildArgs) (build.Job, error) {
	b := def.Build
	refuse := func(what string) (build.Job, error) {
		return build.Job{}, &container.Failure{Service: def.Name, Message: fmt.Sprintf("the build of service %q uses %s, which varan does not carry out", def.Name, what)}
	}
	switch {
	case b.Privileged:
		return refuse("privileged")
	case len(b.SSH) > 0:
		return refuse("ssh")
	case len(b.CacheTo) > 0:
		return refuse("cache_to")
	case len(b.Entitlements) > 0:
		return refuse("entitlements")
	}
	moved := func(p string) string {
		if rel, err := filepath.Rel(s.dir, p); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return filepath.Join(root, rel)
		}
		return p
	}
	j := build.Job{Tags: append([]string{api.GetImageNameOrDefault(def, project.Name)}, b.Tags...), Dockerfile: b.Dockerfile, Inline: b.DockerfileInline,
		Args: map[string]string{}, Labels: b.Labels, Target: b.Target, Platforms: b.Platforms, Contexts: map[string]string{}, Secrets: map[string][]byte{},
		Hosts: b.ExtraHosts.AsList("="), NoCache: b.NoCache || extra.noCache, Pull: b.Pull || extra.pull, Network: b.Network, ShmSize: int64(b.ShmSize)}
	j.Labels = maps.Clone(j.Labels)
	if j.Labels == nil {
		j.Labels = map[string]string{}
	}
	j.Labels[api.ProjectLabel], j.Labels[api.ServiceLabel], j.Labels[api.VersionLabel] = project.Name, def.Name, api.ComposeVersion
	if remote(b.Context) {
		j.Remote = b.Context
	} else {
		j.Context = moved(b.Context)
	}
	if filepath.IsAbs(j.Dockerfile) {
		rel, err := filepath.Rel(j.Context, moved(j.Dockerfile))
		if err != nil {
			return build.Job{}, err
		}
		j.Dockerfile = rel
	}
	if j.Inline != "" {
		j.Dockerfile = ""
	}
	for k, v := range b.Args {
		if v != nil {
			j.Args[k] = *v
		}
	}
	maps.Copy(j.Args, extra.args)
	for k, v := range b.AdditionalContexts {
		if other, ok := strings.CutPrefix(v, types.ServicePrefix); ok {
			t, err := project.GetService(other)
			if err != nil {
				return build.Job{}, err
			}
			v = "docker-image://" + api.GetImageNameOrDefault(t, project.Name)
		} else if filepath.IsAbs(v) {
			v = moved(v)
		}
		j.Contexts[k] = v
	}
	for _, ref := range b.Secrets {
		o := project.Secrets[ref.Source]
		id := cmp.Or(ref.Target, ref.Source)
		id = id[strings.LastIndexByte(id, '/')+1:]
		switch {
		case o.Content != "":
			j.Secrets[id] = []byte(o.Content)
		case o.Environment != "":
			j.Secrets[id] = []byte(project.Environment[o.Environment])
		case o.File != "":
			data, ok, err := ReadHost(moved(o.File))
			if err != nil || !ok {
				return build.Job{}, &container.Failure{Service: def.Name, Message: fmt.Sprintf("the build secret %q has no file %s", ref.Source, o.File)}
			}
			j.Secrets[id] = data
		}
	}
	return j, nil
}

func remote(c string) bool { return strings.Contains(c, "://") || strings.HasPrefix(c, "git@") }

// buildArgs is what build_extra_args, flags of compose build, ask for.
type buildArgs struct {
	noCache, pull bool
	args          map[string]string
}

func parseBuildArgs(list []string) (buildArgs, error) {
	b := buildArgs{args: map[string]string{}}
	var words []string
	for _, a := range list {
		words = append(words, strings.Fields(a)...)
	}
	for i := 0; i < len(words); i++ {
		flag, value, has := strings.Cut(words[i], "=")
		switch flag {
		case "--no-cache":
			b.noCache = true
		case "--pull":
			b.pull = true
		case "--build-arg":
			if !has && i+1 < len(words) {
				i++
				value = words[i]
			}
			k, v, ok := strings.Cut(value, "=")
			if !ok {
				return b, fmt.Errorf("build_extra_args: --build-arg %s has no value; the agent's own environment is not used", k)
			}
			b.args[k] = v
		case "-q", "--quiet", "--with-dependencies":
		default:
			return b, fmt.Errorf("build_extra_args: %s is not carried out (known: --no-cache, --pull, --build-arg)", words[i])
		}
	}
	return b, nil
}

package stack

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/docker/compose/v5/pkg/api"
	composelib "github.com/docker/compose/v5/pkg/compose"
	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"github.com/docker/go-connections/nat"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/plan"
)

// onHost stands in a Change for a value that is not in Git.
const onHost = "(set on the host)"

// Compare tells, per service, how the containers that run, which bear no labels of ours, differ from what Create
// would make. A container is equal if compose's own hash says so, or else if it looks the same by inspection.
// Load comes first. Nothing is created.
func (s *Stack) Compare(ctx context.Context, running map[string][]docker.Summary) (map[string]plan.Comparison, error) {
	out := map[string]plan.Comparison{}
	var look []string
	for _, name := range s.project.ServiceNames() {
		list := running[name]
		if len(list) == 0 {
			continue
		}
		hash, err := composelib.ServiceHash(joined(s.project.Services[name], running))
		if err != nil {
			return nil, err
		}
		def := s.project.Services[name]
		if len(list) == def.GetScale() && !slices.ContainsFunc(list, func(c docker.Summary) bool { return c.Labels[api.ConfigHashLabel] != hash }) {
			out[name] = plan.Comparison{Equal: true}
			continue
		}
		look = append(look, name)
	}
	if len(look) == 0 {
		return out, nil
	}
	r := &recorder{APIClient: s.opts.API, made: map[string]*request{}}
	s, err := s.beside(ctx, running)
	if err != nil {
		return nil, err
	}
	if err := s.Create(ctx, r, look); err != nil {
		return nil, fmt.Errorf("tell what %s would be: %w", s.op.Resource, err)
	}
	for _, name := range look {
		c, err := s.compare(ctx, r, name, running[name])
		if err != nil {
			return nil, err
		}
		if s.cfg().FilesOnHost {
			hideValues(c.Changes)
		}
		out[name] = c
	}
	return out, nil
}

func (s *Stack) compare(ctx context.Context, r *recorder, name string, running []docker.Summary) (plan.Comparison, error) {
	var wants []*request
	for _, req := range r.made {
		if req.config.Labels[api.ServiceLabel] == name {
			wants = append(wants, req)
		}
	}
	prefix := "services." + name + "."
	if len(wants) != len(running) {
		return plan.Comparison{Changes: []plan.Change{{Path: prefix + "scale", Old: len(running), New: len(wants)}}}, nil
	}
	slices.SortFunc(wants, func(a, b *request) int { return cmp.Compare(a.name, b.name) })
	running = slices.Clone(running)
	slices.SortFunc(running, func(a, b docker.Summary) int { return cmp.Compare(nameOf(a), nameOf(b)) })
	for i, have := range running {
		got, err := s.opts.API.ContainerInspect(ctx, have.ID)
		if err != nil {
			return plan.Comparison{}, fmt.Errorf("look at container %s: %w", nameOf(have), err)
		}
		img, err := s.opts.API.ImageInspect(ctx, got.Image)
		if err != nil && !errdefs.IsNotFound(err) {
			return plan.Comparison{}, fmt.Errorf("look at the image of container %s: %w", nameOf(have), err)
		}
		mounts, err := s.borrow(ctx, wants[i])
		if err != nil {
			return plan.Comparison{}, err
		}
		if changes := differ(wants[i], mounts, got, img, nameOf(have)); len(changes) > 0 {
			for i := range changes {
				changes[i].Path = prefix + changes[i].Path
				changes[i].Secret = changes[i].Secret || s.holdsSecret(changes[i].New)
				if changes[i].Secret {
					changes[i].Old, changes[i].New = onHost, onHost
				}
				if t, ok := changes[i].New.(string); ok {
					changes[i].New = s.mask.String(t)
				}
			}
			return plan.Comparison{Changes: changes}, nil
		}
	}
	return plan.Comparison{Equal: true}, nil
}

func (s *Stack) holdsSecret(v any) bool {
	t := fmt.Sprint(v)
	return s.mask.String(t) != t
}

func nameOf(c docker.Summary) string {
	if len(c.Names) == 0 {
		return c.ID
	}
	return strings.TrimPrefix(c.Names[0], "/")
}

// differ lists what a container has other than is wanted of it, mounts being those it is to have. What its image gives is not its own.
func differ(want *request, mounts map[string]string, got docker.InspectResponse, img image.InspectResponse, name string) (out []plan.Change) {
	add := func(p string, old, new any) { out = append(out, plan.Change{Path: p, Old: old, New: new}) }
	base := &docker.Config{}
	var imageEnv, imageCmd, imageEntry []string
	imageLabels := map[string]string{}
	if img.Config != nil {
		imageEnv, imageCmd, imageEntry, imageLabels = img.Config.Env, img.Config.Cmd, img.Config.Entrypoint, img.Config.Labels
		base.WorkingDir, base.User = img.Config.WorkingDir, img.Config.User
	}
	if want.name != name {
		add("container_name", name, want.name)
	}
	if want.config.Image != got.Config.Image {
		add("image", got.Config.Image, want.config.Image)
	}
	entry := []string(want.config.Entrypoint)
	cmd := []string(want.config.Cmd)
	if len(entry) == 0 {
		entry = imageEntry
		if len(cmd) == 0 {
			cmd = imageCmd
		}
	}
	if !slices.Equal(entry, []string(got.Config.Entrypoint)) {
		add("entrypoint", onHost, strings.Join(entry, " "))
	}
	if !slices.Equal(cmd, []string(got.Config.Cmd)) {
		add("command", onHost, strings.Join(cmd, " "))
	}
	wantEnv, haveEnv := pairs(imageEnv), pairs(got.Config.Env)
	maps.Copy(wantEnv, pairs(want.config.Env))
	for _, k := range keys(wantEnv, haveEnv) {
		w, wok := wantEnv[k]
		h, hok := haveEnv[k]
		switch {
		case !hok:
			add("environment."+k, nil, w)
		case !wok:
			add("environment."+k, onHost, nil)
		case w != h:
			add("environment."+k, onHost, w)
		}
	}
	wantLabels := map[string]string{}
	maps.Copy(wantLabels, imageLabels)
	maps.Copy(wantLabels, want.config.Labels)
	for _, k := range keys(wantLabels, got.Config.Labels) {
		if strings.HasPrefix(k, "com.docker.compose.") || strings.HasPrefix(k, "varan.") || strings.HasPrefix(k, "desktop.docker.io/") {
			continue
		}
		w, wok := wantLabels[k]
		h, hok := got.Config.Labels[k]
		if wok && hok && w == h {
			continue
		}
		var old, new any = onHost, w
		if !hok {
			old = nil
		}
		if !wok {
			new = nil
		}
		add("labels."+k, old, new)
	}
	if w, h := ports(want.host.PortBindings), ports(got.HostConfig.PortBindings); !slices.Equal(w, h) {
		add("ports", strings.Join(h, ", "), strings.Join(w, ", "))
	}
	if w, h := mounts, mountsOf(got); !maps.Equal(w, h) {
		for _, k := range keys(w, h) {
			if w[k] != h[k] {
				var old, new any
				if h[k] != "" {
					old = h[k]
				}
				if w[k] != "" {
					new = w[k]
				}
				add("volumes."+k, old, new)
			}
		}
	}
	if w, h := want.networks, networksOf(got); !slices.Equal(w, h) {
		add("networks", strings.Join(h, ", "), strings.Join(w, ", "))
	}
	if w, h := restart(want.host.RestartPolicy), restart(got.HostConfig.RestartPolicy); w != h {
		add("restart", h, w)
	}
	simple := []struct {
		path      string
		want, got any
	}{
		{"user", cmp.Or(want.config.User, base.User), got.Config.User},
		{"working_dir", cmp.Or(want.config.WorkingDir, base.WorkingDir), got.Config.WorkingDir},
		{"privileged", want.host.Privileged, got.HostConfig.Privileged},
		{"read_only", want.host.ReadonlyRootfs, got.HostConfig.ReadonlyRootfs},
		{"pid", string(want.host.PidMode), string(got.HostConfig.PidMode)},
		{"mem_limit", want.host.Memory, got.HostConfig.Memory},
		{"cpus", want.host.NanoCPUs, got.HostConfig.NanoCPUs},
		{"tty", want.config.Tty, got.Config.Tty},
		{"cap_add", caps(want.host.CapAdd), caps(got.HostConfig.CapAdd)},
		{"cap_drop", caps(want.host.CapDrop), caps(got.HostConfig.CapDrop)},
		{"extra_hosts", fmt.Sprint(sorted(want.host.ExtraHosts)), fmt.Sprint(sorted(got.HostConfig.ExtraHosts))},
		{"dns", fmt.Sprint(want.host.DNS), fmt.Sprint(got.HostConfig.DNS)},
		{"security_opt", fmt.Sprint(sorted(want.host.SecurityOpt)), fmt.Sprint(sorted(got.HostConfig.SecurityOpt))},
	}
	for _, f := range simple {
		if f.want != f.got {
			add(f.path, f.got, f.want)
		}
	}
	if want.config.Hostname != "" && want.config.Hostname != got.Config.Hostname {
		add("hostname", got.Config.Hostname, want.config.Hostname)
	}
	if w, h := health(want.config.Healthcheck), health(got.Config.Healthcheck); w != "" && w != h {
		add("healthcheck", h, w)
	}
	return out
}

func sorted[T ~string](in []T) []string {
	out := []string{}
	for _, s := range in {
		out = append(out, string(s))
	}
	slices.Sort(out)
	return out
}

// caps spells capabilities as the engine does: CAP_NET_ADMIN, however they were written.
func caps(in []string) string {
	out := make([]string, 0, len(in))
	for _, c := range in {
		c = strings.ToUpper(c)
		if c != "ALL" && !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		out = append(out, c)
	}
	slices.Sort(out)
	return fmt.Sprint(slices.Compact(out))
}

func pairs(env []string) map[string]string {
	out := map[string]string{}
	for _, e := range env {
		if k, v, ok := strings.Cut(e, "="); ok {
			out[k] = v
		}
	}
	return out
}

func keys(a, b map[string]string) []string {
	all := map[string]bool{}
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return slices.Sorted(maps.Keys(all))
}

func ports(m nat.PortMap) []string {
	out := []string{}
	for p, bs := range m {
		for _, b := range bs {
			out = append(out, fmt.Sprintf("%s:%s:%s", strings.TrimPrefix(b.HostIP, "0.0.0.0"), b.HostPort, p))
		}
	}
	slices.Sort(out)
	return out
}

func restart(p docker.RestartPolicy) string {
	switch {
	case p.Name == "" || p.Name == "no":
		return "no"
	case p.MaximumRetryCount > 0:
		return fmt.Sprintf("%s:%d", p.Name, p.MaximumRetryCount)
	}
	return string(p.Name)
}

func health(h *docker.HealthConfig) string {
	if h == nil {
		return ""
	}
	return fmt.Sprintf("%q every %s, %s each, %d times, after %s", h.Test, h.Interval, h.Timeout, h.Retries, h.StartPeriod)
}

// mountsWanted maps each mount's target to what it shows.
func mountsWanted(r *request) map[string]string {
	out := map[string]string{}
	for _, b := range r.host.Binds {
		p := strings.Split(b, ":")
		if len(p) < 2 {
			continue
		}
		mode := "rw"
		if len(p) > 2 && slices.Contains(strings.Split(p[2], ","), "ro") {
			mode = "ro"
		}
		out[path.Clean(p[1])] = p[0] + " " + mode
	}
	for _, m := range r.host.Mounts {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		if m.Source == "" {
			continue // an anonymous volume: any will do
		}
		out[path.Clean(m.Target)] = m.Source + " " + mode
	}
	return out
}

func mountsOf(c docker.InspectResponse) map[string]string {
	out := map[string]string{}
	for _, m := range c.Mounts {
		mode := "ro"
		if m.RW {
			mode = "rw"
		}
		source := m.Source
		if m.Type == "volume" {
			source = m.Name
			if len(m.Name) == 64 && !strings.ContainsFunc(m.Name, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }) {
				continue
			}
		}
		if m.Type == "tmpfs" {
			continue
		}
		out[path.Clean(m.Destination)] = source + " " + mode
	}
	return out
}

func networksOf(c docker.InspectResponse) []string {
	mode := string(c.HostConfig.NetworkMode)
	if mode == "none" || mode == "host" || strings.HasPrefix(mode, "container:") {
		return []string{mode}
	}
	out := []string{}
	for n := range c.NetworkSettings.Networks {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// A request is one container compose asked for.
type request struct {
	name     string
	config   *docker.Config
	host     *docker.HostConfig
	networks []string
}

// A recorder is an engine that changes nothing and remembers what it was asked to create.
type recorder struct {
	client.APIClient
	mu   sync.Mutex // guards what follows
	made map[string]*request
}

func (r *recorder) ContainerList(context.Context, docker.ListOptions) ([]docker.Summary, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []docker.Summary
	for id, m := range r.made {
		out = append(out, docker.Summary{ID: id, Names: []string{"/" + m.name}, Labels: m.config.Labels, State: "created", NetworkSettings: &docker.NetworkSettingsSummary{}})
	}
	return out, nil
}

func (r *recorder) ContainerCreate(_ context.Context, config *docker.Config, host *docker.HostConfig, net *network.NetworkingConfig, _ *ocispec.Platform, name string) (docker.CreateResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := fmt.Sprintf("%064x", len(r.made)+1)
	req := &request{name: name, config: config, host: host}
	mode := string(host.NetworkMode)
	switch {
	case mode == "" || mode == "default":
		req.networks = []string{"bridge"}
	default:
		req.networks = []string{mode}
	}
	if net != nil {
		for n := range net.EndpointsConfig {
			req.networks = append(req.networks, n)
		}
	}
	slices.Sort(req.networks)
	req.networks = slices.Compact(req.networks)
	r.made[id] = req
	return docker.CreateResponse{ID: id}, nil
}

func (r *recorder) ContainerInspect(ctx context.Context, id string) (docker.InspectResponse, error) {
	r.mu.Lock()
	m, ok := r.made[id]
	r.mu.Unlock()
	if !ok {
		return r.APIClient.ContainerInspect(ctx, id)
	}
	return docker.InspectResponse{ContainerJSONBase: &docker.ContainerJSONBase{ID: id, Name: "/" + m.name, HostConfig: m.host, State: &docker.State{Status: "created"}},
		Config: m.config, NetworkSettings: &docker.NetworkSettings{}}, nil
}

func (r *recorder) NetworkConnect(_ context.Context, net, id string, _ *network.EndpointSettings) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m, ok := r.made[id]; ok && !slices.Contains(m.networks, net) {
		m.networks = append(m.networks, net)
		slices.Sort(m.networks)
	}
	return nil
}

func (r *recorder) NetworkDisconnect(context.Context, string, string, bool) error { return nil }
func (r *recorder) NetworkRemove(context.Context, string) error                   { return nil }
func (r *recorder) NetworkCreate(_ context.Context, name string, _ network.CreateOptions) (network.CreateResponse, error) {
	return network.CreateResponse{ID: name}, nil
}

func (r *recorder) VolumeCreate(_ context.Context, o volume.CreateOptions) (volume.Volume, error) {
	return volume.Volume{Name: o.Name, Labels: o.Labels}, nil
}
func (r *recorder) VolumeRemove(context.Context, string, bool) error { return nil }

var (
	_ container.Creator  = (*Stack)(nil)
	_ container.Filler   = (*Stack)(nil)
	_ container.Follower = (*Stack)(nil)
)

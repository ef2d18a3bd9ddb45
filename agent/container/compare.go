package container

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varanhq/varan/plan"
)

// asked is one request to create a container.
type asked struct {
	name   string
	config *container.Config
	host   *container.HostConfig
	net    *network.NetworkingConfig
}

// recorder is an engine that creates nothing and remembers what it was asked to create.
type recorder struct {
	client.APIClient
	mu   sync.Mutex // guards asks
	asks []asked
}

func (r *recorder) ContainerList(context.Context, container.ListOptions) ([]container.Summary, error) {
	return nil, nil
}

func (r *recorder) ContainerCreate(_ context.Context, c *container.Config, h *container.HostConfig, n *network.NetworkingConfig, _ *ocispec.Platform, name string) (container.CreateResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asks = append(r.asks, asked{strings.TrimPrefix(name, "/"), c, h, n})
	return container.CreateResponse{ID: fmt.Sprintf("asked-%d", len(r.asks)-1)}, nil
}

func (r *recorder) ContainerInspect(_ context.Context, id string) (container.InspectResponse, error) {
	return container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{ID: id, Name: "/" + id, State: &container.State{}},
		Config: &container.Config{}, NetworkSettings: &container.NetworkSettings{}}, nil
}

func (r *recorder) ImageInspect(ctx context.Context, name string, opts ...client.ImageInspectOption) (image.InspectResponse, error) {
	i, err := r.APIClient.ImageInspect(ctx, name, opts...)
	if err != nil {
		return image.InspectResponse{ID: name}, nil // absent images are compared by name only
	}
	return i, nil
}

func (r *recorder) NetworkInspect(_ context.Context, name string, _ network.InspectOptions) (network.Inspect, error) {
	return network.Inspect{}, fmt.Errorf("network %s not found", name)
}

func (r *recorder) NetworkList(_ context.Context, o network.ListOptions) ([]network.Summary, error) {
	var out []network.Summary
	for _, n := range o.Filters.Get("name") { // whatever is external is there
		out = append(out, network.Summary{Name: n, ID: n})
	}
	return out, nil
}

func (r *recorder) NetworkCreate(_ context.Context, name string, _ network.CreateOptions) (network.CreateResponse, error) {
	return network.CreateResponse{ID: name}, nil
}

func (r *recorder) NetworkConnect(_ context.Context, name, id string, s *network.EndpointSettings) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var i int
	if _, err := fmt.Sscanf(id, "asked-%d", &i); err == nil && i < len(r.asks) {
		n := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{name: s}}
		if old := r.asks[i].net; old != nil {
			maps.Copy(n.EndpointsConfig, old.EndpointsConfig)
		}
		r.asks[i].net = n
	}
	return nil
}

func (r *recorder) NetworkRemove(context.Context, string) error { return nil }

func (r *recorder) VolumeInspect(_ context.Context, name string) (volume.Volume, error) {
	return volume.Volume{Name: name}, nil
}

func (r *recorder) VolumeCreate(_ context.Context, o volume.CreateOptions) (volume.Volume, error) {
	return volume.Volume{Name: o.Name}, nil
}

// Compare says for each of the Job's services how the containers that stand for it differ from what its Creator
// would create. A service without a container is left out. What was set on the host is not shown: it may be
// secret.
func (e *Engine) Compare(ctx context.Context, job Job) (map[string]plan.Comparison, error) {
	r := e.newRun(&job, nil)
	var err error
	if r.byName, err = e.list(ctx); err != nil {
		return nil, err
	}
	rec := &recorder{APIClient: e.api}
	var names []string
	for _, s := range job.Services {
		names = append(names, s.Name)
	}
	if err := job.Creator.Create(ctx, rec, names); err != nil {
		return nil, e.explain(ctx, err, "", "find out how "+string(job.Resource)+" would be created")
	}
	out := map[string]plan.Comparison{}
	for _, a := range rec.asks {
		s := job.serviceOf(a.config.Labels)
		if s == nil {
			continue
		}
		have, ok := r.byName[a.name]
		if !ok || !r.mine(have) {
			for _, c := range r.byName { // under another name, it differs in that
				if r.mine(c) && r.serviceName(c) == s.Name {
					if _, done := out[s.Name]; !done {
						out[s.Name] = plan.Comparison{Changes: []plan.Change{{Path: "container_name", Old: nameOf(c), New: a.name}}}
					}
				}
			}
			continue
		}
		if h := a.config.Labels[composeHash]; h != "" && h == have.Labels[composeHash] {
			if _, done := out[s.Name]; !done {
				out[s.Name] = plan.Comparison{Equal: true}
			}
			continue
		}
		i, err := e.api.ContainerInspect(ctx, have.ID)
		if err != nil {
			return nil, e.explain(ctx, err, s.Name, "look at container "+a.name)
		}
		img, _ := e.api.ImageInspect(ctx, i.Image)
		r.aim(a.host)
		changes := append(out[s.Name].Changes, differences(a, i, img)...)
		out[s.Name] = plan.Comparison{Equal: len(changes) == 0, Changes: changes}
	}
	return out, nil
}

const composeHash = "com.docker.compose.config-hash"

// onHost stands for a value that was set on the host and may be secret.
const onHost = "(set on the host)"

// differences compares what is asked for with a container, where the two can be told apart by people: image,
// command, environment, ports, mounts, networks, restart policy, labels and rights.
func differences(a asked, i container.InspectResponse, img image.InspectResponse) []plan.Change {
	var out []plan.Change
	differ := func(path string, old, new any) {
		out = append(out, plan.Change{Path: path, Old: old, New: new})
	}
	var defaults struct {
		env, cmd, entry []string
		labels          map[string]string
		user, dir       string
	}
	if c := img.Config; c != nil {
		defaults.env, defaults.cmd, defaults.entry, defaults.labels, defaults.user, defaults.dir = c.Env, c.Cmd, c.Entrypoint, c.Labels, c.User, c.WorkingDir
	}
	if normal(a.config.Image) != normal(i.Config.Image) {
		differ("image", i.Config.Image, a.config.Image)
	}
	wantEnv, haveEnv := envOf(append(slices.Clone(defaults.env), a.config.Env...)), envOf(i.Config.Env)
	for _, k := range slices.Sorted(maps.Keys(wantEnv)) {
		if v, ok := haveEnv[k]; !ok {
			differ("environment."+k, nil, wantEnv[k])
		} else if v != wantEnv[k] {
			differ("environment."+k, onHost, wantEnv[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(haveEnv)) {
		if _, ok := wantEnv[k]; !ok {
			differ("environment."+k, onHost, nil)
		}
	}
	list := func(path string, want, have, def []string) {
		if len(want) == 0 {
			want = def
		}
		if !slices.Equal(want, have) && len(want)+len(have) > 0 {
			differ(path, onHost, strings.Join(want, " "))
		}
	}
	cmdDefault := defaults.cmd
	if len(a.config.Entrypoint) > 0 {
		cmdDefault = nil // an entrypoint of its own drops the image's command
	}
	list("command", a.config.Cmd, i.Config.Cmd, cmdDefault)
	list("entrypoint", a.config.Entrypoint, i.Config.Entrypoint, defaults.entry)
	text := func(path, want, have, def string) {
		if want == "" {
			want = def
		}
		if want != have {
			differ(path, have, want)
		}
	}
	text("user", a.config.User, i.Config.User, defaults.user)
	text("working_dir", a.config.WorkingDir, i.Config.WorkingDir, defaults.dir)
	for _, k := range slices.Sorted(maps.Keys(a.config.Labels)) {
		if foreign(k) {
			continue
		}
		if v, ok := i.Config.Labels[k]; !ok {
			differ("labels."+k, nil, a.config.Labels[k])
		} else if v != a.config.Labels[k] {
			differ("labels."+k, onHost, a.config.Labels[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(i.Config.Labels)) {
		_, wanted := a.config.Labels[k]
		_, def := defaults.labels[k]
		if !wanted && !def && !foreign(k) {
			differ("labels."+k, onHost, nil)
		}
	}
	h := i.HostConfig
	if w, v := portsOf(a.host), portsOf(h); !slices.Equal(w, v) {
		differ("ports", strings.Join(v, ", "), strings.Join(w, ", "))
	}
	if w, v := mountsOf(a.host), mountsOf(h); !slices.Equal(w, v) {
		differ("volumes", strings.Join(v, ", "), strings.Join(w, ", "))
	}
	if w, v := string(a.host.NetworkMode), string(h.NetworkMode); mode(w) != mode(v) {
		differ("network", v, w)
	}
	if w, v := netsOf(a), haveNets(i); !slices.Equal(w, v) && len(w) > 0 {
		differ("networks", strings.Join(v, ", "), strings.Join(w, ", "))
	}
	if w, v := restartOf(a.host), restartOf(h); w != v {
		differ("restart", v, w)
	}
	if a.host.Privileged != h.Privileged {
		differ("privileged", h.Privileged, a.host.Privileged)
	}
	if w, v := caps(a.host.CapAdd), caps(h.CapAdd); !slices.Equal(w, v) {
		differ("cap_add", strings.Join(v, ", "), strings.Join(w, ", "))
	}
	if a.host.Memory != h.Memory {
		differ("memory", h.Memory, a.host.Memory)
	}
	return out
}

// foreign are labels that say who made a container, not what it is.
func foreign(k string) bool {
	return strings.HasPrefix(k, "com.docker.compose.") || strings.HasPrefix(k, "varan.") || strings.HasPrefix(k, "komodo.")
}

func normal(ref string) string {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.TagNameOnly(n).String()
}

func envOf(list []string) map[string]string {
	m := map[string]string{}
	for _, e := range list {
		k, v, _ := strings.Cut(e, "=")
		m[k] = v
	}
	return m
}

func portsOf(h *container.HostConfig) []string {
	var out []string
	for p, bs := range h.PortBindings {
		for _, b := range bs {
			ip := b.HostIP
			if ip == "" {
				ip = "0.0.0.0"
			}
			out = append(out, ip+":"+b.HostPort+"->"+string(p))
		}
	}
	slices.Sort(out)
	return out
}

// mountsOf are the mounts somebody asked for, however: binds and mounts are two ways to say one thing.
func mountsOf(h *container.HostConfig) []string {
	var out []string
	for _, b := range h.Binds {
		p := strings.Split(b, ":")
		if len(p) < 2 {
			continue
		}
		ro := ""
		if len(p) > 2 && slices.Contains(strings.Split(p[2], ","), "ro") {
			ro = ":ro"
		}
		out = append(out, p[0]+":"+p[1]+ro)
	}
	for _, m := range h.Mounts {
		switch m.Type {
		case mount.TypeBind, mount.TypeVolume:
			if m.Source == "" || anonymous.MatchString(m.Source) {
				continue
			}
			ro := ""
			if m.ReadOnly {
				ro = ":ro"
			}
			out = append(out, m.Source+":"+m.Target+ro)
		default:
			out = append(out, string(m.Type)+":"+m.Target)
		}
	}
	for t := range h.Tmpfs {
		out = append(out, "tmpfs:"+t)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func mode(m string) string {
	if m == "" || m == "bridge" {
		return "default"
	}
	return m
}

func netsOf(a asked) []string {
	if a.net == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(a.net.EndpointsConfig))
}

func haveNets(i container.InspectResponse) []string {
	if i.NetworkSettings == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(i.NetworkSettings.Networks))
}

func restartOf(h *container.HostConfig) string {
	p := h.RestartPolicy
	if p.Name == "" {
		return "no"
	}
	if p.MaximumRetryCount > 0 {
		return fmt.Sprintf("%s:%d", p.Name, p.MaximumRetryCount)
	}
	return string(p.Name)
}

func caps(list []string) []string {
	out := make([]string, 0, len(list))
	for _, c := range list {
		out = append(out, strings.TrimPrefix(strings.ToUpper(c), "CAP_"))
	}
	slices.Sort(out)
	return out
}

package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// inFlight is how many calls that start, stop, create or remove are made at once: beyond eight the engine gains
// nothing.
const inFlight = 8

// wrapped is the engine as a Creator sees it: without the containers that are about to be replaced, and with a
// ContainerCreate that makes the successors.
type wrapped struct {
	client.APIClient
	run *run
	sem chan struct{}

	mu     sync.Mutex // guards what follows
	images map[string]image.InspectResponse
	made   map[string]container.InspectResponse // by id: what was asked to be created
	server *types.Version
}

// ContainerList leaves out what is being replaced and what is half done.
func (w *wrapped) ContainerList(ctx context.Context, opts container.ListOptions) ([]container.Summary, error) {
	list, err := w.APIClient.ContainerList(ctx, opts)
	return slices.DeleteFunc(list, func(c container.Summary) bool {
		name := nameOf(c)
		return w.run.hidden(c.ID) || strings.HasSuffix(name, NewSuffix) || strings.Contains(name, OldSuffix)
	}), err
}

// ContainerInspect answers for a container just created from what was asked, without a call.
func (w *wrapped) ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error) {
	w.mu.Lock()
	c, ok := w.made[id]
	w.mu.Unlock()
	if ok {
		return c, nil
	}
	return w.APIClient.ContainerInspect(ctx, id)
}

// ImageInspect remembers images for the length of one job: many services share one.
func (w *wrapped) ImageInspect(ctx context.Context, name string, opts ...client.ImageInspectOption) (image.InspectResponse, error) {
	if len(opts) > 0 {
		return w.APIClient.ImageInspect(ctx, name, opts...)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i, ok := w.images[name]; ok {
		return i, nil
	}
	i, err := w.APIClient.ImageInspect(ctx, name)
	if err == nil {
		w.images[name] = i
	}
	return i, err
}

// ServerVersion is asked for each service, and does not change.
func (w *wrapped) ServerVersion(ctx context.Context) (types.Version, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.server == nil {
		v, err := w.APIClient.ServerVersion(ctx)
		if err != nil {
			return v, err
		}
		w.server = &v
	}
	return *w.server, nil
}

// ImageCreate and ImagePull are not for Creators: Prepare has pulled what is needed before anything stopped.
func (w *wrapped) ImageCreate(context.Context, string, image.CreateOptions) (io.ReadCloser, error) {
	return nil, errors.New("nothing is pulled while containers are created")
}

// ImagePull: see ImageCreate.
func (w *wrapped) ImagePull(context.Context, string, image.PullOptions) (io.ReadCloser, error) {
	return nil, errors.New("nothing is pulled while containers are created")
}

// VolumeCreate checks where a volume that is a bind mount in disguise leads.
func (w *wrapped) VolumeCreate(ctx context.Context, opts volume.CreateOptions) (volume.Volume, error) {
	if d := opts.DriverOpts["device"]; strings.HasPrefix(d, "/") {
		if err := w.run.engine.Allow.Bind(d); err != nil {
			return volume.Volume{}, err
		}
	}
	return w.APIClient.VolumeCreate(ctx, opts)
}

// NetworkRemove takes a network away whose definition has changed: first what uses it and is about to be
// replaced is stopped and let go, and the network's settings are kept, so that it can be put back.
func (w *wrapped) NetworkRemove(ctx context.Context, name string) error {
	return w.run.takeNetwork(ctx, name)
}

// ContainerCreate creates the container under its own name, or beside the one that has it.
func (w *wrapped) ContainerCreate(ctx context.Context, config *container.Config, host *container.HostConfig, net *network.NetworkingConfig, platform *ocispec.Platform, name string) (container.CreateResponse, error) {
	select {
	case w.sem <- struct{}{}:
		defer func() { <-w.sem }()
	case <-ctx.Done():
		return container.CreateResponse{}, context.Cause(ctx)
	}
	r := w.run
	service := r.job.serviceOf(config.Labels)
	if service == nil {
		return container.CreateResponse{}, fmt.Errorf("create container %s: it belongs to no service of %s", name, r.job.Resource)
	}
	name = strings.TrimPrefix(name, "/")
	config.Labels = r.job.labels(config.Labels, service)
	if r.job.Project == "" {
		host.AutoRemove = false // it must outlive its end, to be told from one that was taken away
	}
	r.aim(host)
	if err := r.engine.Allow.check(config, host); err != nil {
		return container.CreateResponse{}, err
	}
	if err := r.freePorts(service.Name, host); err != nil {
		return container.CreateResponse{}, err
	}
	old, taken := r.byName[name]
	temp := false
	as := name
	if taken {
		if !r.mine(old) {
			return container.CreateResponse{}, &Failure{Service: service.Name,
				Message: fmt.Sprintf("the name %q is taken by container %s", name, holder(old)),
				Hint:    "remove or rename that container, or choose another name"}
		}
		temp, as = true, name+NewSuffix
		if err := w.inherit(ctx, old, config, host); err != nil {
			return container.CreateResponse{}, err
		}
	}
	r.say(service.Name, "creating", "")
	res, err := w.create(ctx, config, host, net, platform, as)
	if err != nil {
		return res, err
	}
	w.mu.Lock()
	w.made[res.ID] = container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: res.ID, Name: "/" + name, HostConfig: host, State: &container.State{Status: "created"}},
		Config:            config,
		NetworkSettings:   &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{}},
	}
	w.mu.Unlock()
	r.created(New{ID: res.ID, Name: name, Service: service.Name, Temp: temp})
	return res, nil
}

// madeWithin is how long the engine may take to finish a container that a killed process asked for.
const madeWithin = 15 * time.Second

// create makes the container, or takes the one an earlier process made for the very same request. That may still be in
// the making: the engine lists it and keeps its name, and cannot be asked about it yet.
func (w *wrapped) create(ctx context.Context, config *container.Config, host *container.HostConfig, net *network.NetworkingConfig, platform *ocispec.Platform, as string) (container.CreateResponse, error) {
	left, look := w.run.leftovers[as]
	for began := time.Now(); ; look = true {
		var there container.InspectResponse
		var err error
		if look {
			there, err = w.APIClient.ContainerInspect(ctx, as)
		}
		gone := errdefs.IsNotFound(err)
		switch {
		case !look || gone:
		case err != nil:
			return container.CreateResponse{}, fmt.Errorf("look at half-made container %s: %w", as, err)
		case there.State == nil || there.Config == nil:
		case there.ID != left && (there.State.Status != "created" || !w.run.job.Owns(there.ID, as, there.Config.Labels)):
			// Somebody else's, or in use: the engine says so.
		default:
			differs := w.differs(ctx, there, config, host)
			if differs == "" {
				return container.CreateResponse{ID: there.ID}, nil
			}
			w.run.engine.log.Info("a half-made container is not what is asked for now and is made anew", "resource", w.run.job.Resource, "container", as, "differs", differs)
			if err := w.APIClient.ContainerRemove(ctx, there.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil && !errdefs.IsNotFound(err) {
				return container.CreateResponse{}, fmt.Errorf("remove half-made container %s: %w", as, err)
			}
		}
		res, err := w.APIClient.ContainerCreate(ctx, config, host, net, platform, as)
		if !errdefs.IsConflict(err) || look && !gone || time.Since(began) > madeWithin {
			return res, err
		}
		if !look {
			continue
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return res, context.Cause(ctx)
		}
	}
}

// differs tells in what the half-made container is not what is asked for now, "" = it is.
func (w *wrapped) differs(ctx context.Context, c container.InspectResponse, config *container.Config, host *container.HostConfig) string {
	if c.HostConfig == nil || c.State.Status != "created" {
		return "state"
	}
	for k, v := range config.Labels {
		if c.Config.Labels[k] != v {
			return "label " + k
		}
	}
	for _, e := range config.Env {
		if !slices.Contains(c.Config.Env, e) {
			name, _, _ := strings.Cut(e, "=")
			return "environment " + name
		}
	}
	img, err := w.ImageInspect(ctx, config.Image)
	switch {
	case err != nil || c.Image != img.ID:
		return "image"
	case len(config.Cmd) > 0 && !slices.Equal(config.Cmd, c.Config.Cmd):
		return "command"
	case !slices.Equal(host.Binds, c.HostConfig.Binds) || !slices.Equal(host.VolumesFrom, c.HostConfig.VolumesFrom):
		return "volumes"
	case host.NetworkMode != c.HostConfig.NetworkMode,
		host.IpcMode.IsContainer() && host.IpcMode != c.HostConfig.IpcMode,
		host.PidMode.IsContainer() && host.PidMode != c.HostConfig.PidMode:
		return "network or namespaces"
	}
	return ""
}

// anonymous is the name of a volume nobody named.
var anonymous = regexp.MustCompile(`^[0-9a-f]{64}$`)

// inherit gives the new container the anonymous volumes of the old one where it still has such a volume at the
// same place. What no volume is asked for any more stays behind.
func (w *wrapped) inherit(ctx context.Context, old container.Summary, config *container.Config, host *container.HostConfig) error {
	var volumes map[string]struct{} // of the image
	for _, m := range old.Mounts {
		if m.Type != mount.TypeVolume || !anonymous.MatchString(m.Name) {
			continue
		}
		if i := slices.IndexFunc(host.Mounts, func(h mount.Mount) bool { return h.Target == m.Destination }); i >= 0 {
			if host.Mounts[i].Type == mount.TypeVolume && host.Mounts[i].Source == "" {
				host.Mounts[i].Source = m.Name
			}
			continue
		}
		if slices.ContainsFunc(host.Binds, func(b string) bool { p := strings.Split(b, ":"); return len(p) > 1 && p[1] == m.Destination }) {
			continue
		}
		if _, ok := host.Tmpfs[m.Destination]; ok {
			continue
		}
		if volumes == nil {
			i, err := w.ImageInspect(ctx, config.Image)
			if err != nil {
				return err
			}
			volumes = map[string]struct{}{}
			if i.Config != nil {
				maps.Copy(volumes, i.Config.Volumes)
			}
			maps.Copy(volumes, config.Volumes)
		}
		if _, ok := volumes[m.Destination]; !ok {
			continue
		}
		delete(config.Volumes, m.Destination)
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeVolume, Source: m.Name, Target: m.Destination})
	}
	return nil
}

func nameOf(c container.Summary) string {
	for _, n := range c.Names {
		if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") { // links add "other/alias"
			return n
		}
	}
	return ""
}

// holder names a container and whose it is, for people.
func holder(c container.Summary) string {
	n := fmt.Sprintf("%q", nameOf(c))
	switch {
	case c.Labels[LabelResource] != "":
		return fmt.Sprintf("%s (%s of fleet %q)", n, c.Labels[LabelResource], c.Labels[LabelFleet])
	case c.Labels[composeProject] != "":
		return fmt.Sprintf("%s (of compose project %q, not varan's)", n, c.Labels[composeProject])
	}
	return n + " (not varan's)"
}

// Labels compose puts on its containers.
const (
	composeProject = "com.docker.compose.project"
	composeService = "com.docker.compose.service"
	composeOneOff  = "com.docker.compose.oneoff"
)

func (j *Job) serviceOf(labels map[string]string) *Service {
	if j.Project == "" {
		if len(j.Services) == 0 {
			return nil
		}
		return &j.Services[0]
	}
	i := slices.IndexFunc(j.Services, func(s Service) bool { return s.Name == labels[composeService] })
	if i < 0 {
		return nil
	}
	return &j.Services[i]
}

// labels adds varan's to those the Creator asks for.
func (j *Job) labels(have map[string]string, s *Service) map[string]string {
	l := map[string]string{}
	maps.Copy(l, have)
	maps.Copy(l, j.Labels)
	l[LabelResource] = string(j.Resource)
	l[LabelFleet] = j.Fleet
	l[LabelDigest] = string(s.Digest)
	return l
}

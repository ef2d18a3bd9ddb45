package stack

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/containerd/errdefs"
	docker "github.com/docker/docker/api/types/container"
)

// joined is a service as compose makes it beside the containers that run: what it shares of another service it
// shares of that service's first container.
func joined(def types.ServiceConfig, running map[string][]docker.Summary) types.ServiceConfig {
	first := func(service string) string {
		if list := running[service]; len(list) > 0 {
			return slices.MinFunc(list, func(a, b docker.Summary) int { return cmp.Compare(nameOf(a), nameOf(b)) }).ID
		}
		return "none-of-" + service
	}
	for _, mode := range []*string{&def.NetworkMode, &def.Ipc, &def.Pid} {
		if service, ok := strings.CutPrefix(*mode, types.ServicePrefix); ok {
			*mode = types.ContainerPrefix + first(service)
		}
	}
	def.VolumesFrom = slices.Clone(def.VolumesFrom)
	for i, v := range def.VolumesFrom { // compose drops the mode
		if rest, ok := strings.CutPrefix(v, types.ContainerPrefix); ok {
			def.VolumesFrom[i], _, _ = strings.Cut(rest, ":")
			continue
		}
		service, _, _ := strings.Cut(v, ":")
		def.VolumesFrom[i] = first(service)
	}
	return def
}

// beside is the stack as it is to be compared with what runs: its services share with containers, by their ids, and
// leave nothing for compose to find among what is not made.
func (s *Stack) beside(ctx context.Context, running map[string][]docker.Summary) (*Stack, error) {
	id := func(name string) (string, error) {
		c, err := s.opts.API.ContainerInspect(ctx, name)
		switch {
		case errdefs.IsNotFound(err):
			return name, nil
		case err != nil:
			return "", fmt.Errorf("look at container %s: %w", name, err)
		}
		return c.ID, nil
	}
	project, err := s.project.WithServicesTransform(func(_ string, def types.ServiceConfig) (types.ServiceConfig, error) {
		def = joined(def, running)
		for _, mode := range []*string{&def.NetworkMode, &def.Ipc, &def.Pid} {
			if name, ok := strings.CutPrefix(*mode, types.ContainerPrefix); ok {
				of, err := id(name)
				if err != nil {
					return def, err
				}
				*mode = types.ContainerPrefix + of
			}
		}
		for i, name := range def.VolumesFrom {
			of, err := id(name)
			if err != nil {
				return def, err
			}
			def.VolumesFrom[i] = types.ContainerPrefix + of
		}
		return def, nil
	})
	if err != nil {
		return nil, err
	}
	out, p := *s, *s.project
	p.Project = project
	out.project = &p
	return &out, nil
}

// borrow adds the mounts that come from other containers to those that are wanted.
func (s *Stack) borrow(ctx context.Context, want *request) (map[string]string, error) {
	out := mountsWanted(want)
	for _, from := range want.host.VolumesFrom {
		c, err := s.opts.API.ContainerInspect(ctx, from)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at container %s: %w", from, err)
		}
		for at, what := range mountsOf(c) {
			if _, own := out[at]; !own {
				out[at] = what
			}
		}
	}
	return out, nil
}

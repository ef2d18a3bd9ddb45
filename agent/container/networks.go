package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
)

// Taken is a network that was removed because its definition changed, as it was.
type Taken struct {
	Name      string                `json:"name"`
	Options   network.CreateOptions `json:"options"`
	Endpoints []Endpoint            `json:"endpoints,omitempty"`
}

// An Endpoint is how an old container was connected to a network that was taken.
type Endpoint struct {
	ID       string                    `json:"id"`
	Settings *network.EndpointSettings `json:"settings"`
}

// takeNetwork stops the old containers that use the network, disconnects them and removes it. A container of
// somebody else on it is an error, before anything is stopped.
func (r *run) takeNetwork(ctx context.Context, name string) error {
	api := r.engine.api
	n, err := api.NetworkInspect(ctx, name, network.InspectOptions{})
	if err != nil {
		return err
	}
	t := Taken{Name: n.Name, Options: network.CreateOptions{Driver: n.Driver, Scope: n.Scope, EnableIPv6: &n.EnableIPv6,
		IPAM: &n.IPAM, Internal: n.Internal, Attachable: n.Attachable, Options: n.Options, Labels: n.Labels}}
	for name, id := range r.leftovers { // made for the network as it was
		if err := r.engine.remove(ctx, id, true); err != nil {
			return fmt.Errorf("remove half-made container %s: %w", name, err)
		}
		delete(r.byName, name)
	}
	r.leftovers = map[string]string{}
	for cname, c := range r.byName {
		if c.NetworkSettings == nil || c.NetworkSettings.Networks[n.Name] == nil {
			continue
		}
		if !r.olds[c.ID] {
			return &Failure{Message: fmt.Sprintf("network %q must be made anew, but container %s uses it", n.Name, holder(c)),
				Hint: "disconnect that container from the network first"}
		}
		i, err := api.ContainerInspect(ctx, c.ID)
		if err != nil {
			return r.engine.explain(ctx, err, "", "look at container "+cname)
		}
		if ep := i.NetworkSettings.Networks[n.Name]; ep != nil {
			// Only what was asked for; addresses the engine chose are its to choose again.
			aliases := slices.DeleteFunc(slices.Clone(ep.Aliases), func(a string) bool { return strings.HasPrefix(c.ID, a) })
			t.Endpoints = append(t.Endpoints, Endpoint{ID: c.ID, Settings: &network.EndpointSettings{
				IPAMConfig: ep.IPAMConfig, Links: ep.Links, Aliases: aliases, DriverOpts: ep.DriverOpts}})
		}
	}
	slices.SortFunc(t.Endpoints, func(a, b Endpoint) int { return strings.Compare(a.ID, b.ID) })
	r.intent.Networks = append(r.intent.Networks, t)
	if err := r.save(); err != nil {
		return err
	}
	if err := r.stopOlds(ctx, false); err != nil {
		return err
	}
	for i := range r.intent.Olds { // stopped now: swap need not stop them again
		o := &r.intent.Olds[i]
		if c, ok := r.byName[o.Name]; ok && c.ID == o.ID {
			c.State = "exited"
			r.byName[o.Name] = c
		}
	}
	for _, e := range t.Endpoints {
		if err := api.NetworkDisconnect(ctx, name, e.ID, true); err != nil && !errdefs.IsNotFound(err) {
			return r.engine.explain(ctx, err, "", "disconnect from network "+name)
		}
	}
	return api.NetworkRemove(ctx, name)
}

// returnNetworks makes the networks that were taken as they were, and connects the old containers again. One that
// cannot be made keeps no other from it.
func (r *run) returnNetworks(ctx context.Context) error {
	var errs []error
	for _, t := range slices.Backward(r.intent.Networks) {
		if err := r.returnNetwork(ctx, t); err != nil {
			errs = append(errs, r.explain(ctx, err, r.job.Quiet.Old, "", "make network "+t.Name+" as it was"))
		}
	}
	return errors.Join(errs...)
}

func (r *run) returnNetwork(ctx context.Context, t Taken) error {
	api := r.engine.api
	if n, err := api.NetworkInspect(ctx, t.Name, network.InspectOptions{}); err == nil && n.Name == t.Name {
		for id := range n.Containers {
			_ = api.NetworkDisconnect(ctx, n.ID, id, true)
		}
		for _, e := range t.Endpoints {
			_ = api.NetworkDisconnect(ctx, n.ID, e.ID, true)
		}
		if err := api.NetworkRemove(ctx, n.ID); err != nil {
			return err
		}
	}
	if _, err := api.NetworkCreate(ctx, t.Name, t.Options); err != nil {
		return err
	}
	var errs []error
	for _, e := range t.Endpoints {
		if err := api.NetworkConnect(ctx, t.Name, e.ID, e.Settings); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// RemoveNetworks removes the networks of a compose project that nothing uses any more.
func (e *Engine) RemoveNetworks(ctx context.Context, project string) error {
	nets, err := e.api.NetworkList(ctx, network.ListOptions{Filters: label(composeProject + "=" + project)})
	if err != nil {
		return e.explain(ctx, err, "", "list networks")
	}
	for _, n := range nets {
		i, err := e.api.NetworkInspect(ctx, n.ID, network.InspectOptions{})
		if err != nil || len(i.Containers) > 0 {
			continue
		}
		used, err := e.api.ContainerList(ctx, container.ListOptions{All: true, Filters: label("", "network", n.ID)})
		if err != nil || len(used) > 0 {
			continue
		}
		if err := e.api.NetworkRemove(ctx, n.ID); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsPermissionDenied(err) {
			return e.explain(ctx, err, "", "remove network "+n.Name)
		}
	}
	return nil
}

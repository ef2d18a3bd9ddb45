package stack

import (
	"context"
	"maps"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/compose/v5/pkg/api"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
)

// A keeper is an engine that hides a network's hash from compose's library where the network is as declared.
// compose makes a network anew when its hash differs, and the hash differs from release to release: containers
// that are to be left alone would lose their network.
type keeper struct {
	client.APIClient
	networks types.Networks
}

func (k keeper) NetworkInspect(ctx context.Context, name string, opts network.InspectOptions) (network.Inspect, error) {
	got, err := k.APIClient.NetworkInspect(ctx, name, opts)
	if err != nil || got.Labels[api.VersionLabel] == api.ComposeVersion {
		return got, err // of this release: its hash tells
	}
	for _, want := range k.networks {
		if want.Name == got.Name && !bool(want.External) && sameNetwork(want, got) {
			got.Labels = maps.Clone(got.Labels)
			delete(got.Labels, api.ConfigHashLabel)
		}
	}
	return got, nil
}

// sameNetwork compares what the engine tells of a network with its declaration. What is not declared may be as it
// is: the engine has chosen it.
func sameNetwork(want types.NetworkConfig, got network.Inspect) bool {
	driver := want.Driver
	if driver == "" {
		driver = "bridge"
	}
	if driver != got.Driver || want.Internal != got.Internal || want.Attachable != got.Attachable {
		return false
	}
	if want.EnableIPv6 != nil && *want.EnableIPv6 != got.EnableIPv6 || want.EnableIPv6 == nil && got.EnableIPv6 {
		return false
	}
	if len(want.DriverOpts)+len(got.Options) > 0 && !maps.Equal(map[string]string(want.DriverOpts), got.Options) {
		return false
	}
	labels := map[string]string{}
	for key, v := range got.Labels {
		if !strings.HasPrefix(key, "com.docker.compose.") {
			labels[key] = v
		}
	}
	if len(labels)+len(want.Labels) > 0 && !maps.Equal(map[string]string(want.Labels), labels) {
		return false
	}
	if d := want.Ipam.Driver; d != "" && d != got.IPAM.Driver {
		return false
	}
	if len(want.Ipam.Config) == 0 {
		return true
	}
	if len(want.Ipam.Config) != len(got.IPAM.Config) {
		return false
	}
	for i, w := range want.Ipam.Config {
		g := got.IPAM.Config[i]
		if w.Subnet != g.Subnet || w.IPRange != g.IPRange || w.Gateway != "" && w.Gateway != g.Gateway {
			return false
		}
		if len(w.AuxiliaryAddresses)+len(g.AuxAddress) > 0 && !maps.Equal(map[string]string(w.AuxiliaryAddresses), g.AuxAddress) {
			return false
		}
	}
	return true
}

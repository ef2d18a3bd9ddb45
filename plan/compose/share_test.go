package compose

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

func TestShares(t *testing.T) {
	d := mustDeclare(t, schema.StackConfig{}, map[string]string{"compose.yaml": `
services:
  vpn: {image: a, container_name: gluetun}
  plain: {image: a}
  network: {image: a, network_mode: "service:vpn"}
  named: {image: a, network_mode: "container:gluetun"}
  defaulted: {image: a, network_mode: "container:app-plain-1"}
  elsewhere: {image: a, network_mode: "container:other"}
  namespaces: {image: a, ipc: "service:vpn", pid: "container:gluetun"}
  volumes: {image: a, volumes_from: [vpn, "plain:ro", "container:other:ro"]}
  told: {image: a, depends_on: {vpn: {condition: service_healthy, restart: true}, plain: {condition: service_started}}}
  both: {image: a, network_mode: "service:vpn", depends_on: {vpn: {condition: service_healthy, restart: true}}}
  own: {image: a, network_mode: "container:app-own-1"}
  one: {image: a, network_mode: "container:app-two-1"}
  two: {image: a, network_mode: "container:app-one-1"}
  host: {image: a, network_mode: host, ipc: shareable, pid: host}
`})
	type has struct {
		Needs, Restarts []string
		Shares          []plan.Share
	}
	got := map[string]has{}
	for _, u := range d.Units {
		if len(u.Needs)+len(u.Restarts)+len(u.Shares) > 0 {
			got[u.Service] = has{u.Needs, u.Restarts, u.Shares}
		}
	}
	vpn := []string{"vpn"}
	share := func(what, service string) []plan.Share { return []plan.Share{{What: what, Service: service}} }
	want := map[string]has{
		"network":    {vpn, nil, share("network", "vpn")},
		"named":      {vpn, nil, share("network", "vpn")},
		"defaulted":  {[]string{"plain"}, nil, share("network", "plain")},
		"elsewhere":  {nil, nil, []plan.Share{{What: "network", Container: "other"}}},
		"namespaces": {vpn, nil, []plan.Share{{What: "ipc", Service: "vpn"}, {What: "pid", Service: "vpn"}}},
		"volumes": {[]string{"plain", "vpn"}, nil, []plan.Share{{What: "volumes", Service: "vpn"}, {What: "volumes", Service: "plain"},
			{What: "volumes", Container: "other"}}},
		"told": {[]string{"plain", "vpn"}, vpn, nil},
		"both": {vpn, nil, share("network", "vpn")},
		"own":  {nil, nil, []plan.Share{{What: "network", Container: "app-own-1"}}},
		// A circle is cut: the engine will refuse it.
		"one": {[]string{"two"}, nil, share("network", "two")},
		"two": {nil, nil, share("network", "one")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

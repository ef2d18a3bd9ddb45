package stack

import (
	"context"
	"maps"
	"slices"
	"testing"

	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/varanhq/varan/schema"
)

// TestCompareSharing: services that share with others, as compose left them, are equal, by its hash and by
// inspection, whoever else is looked at; those whose container is another one now are not.
func TestCompareSharing(t *testing.T) {
	h := newHost(t)
	ctx := context.Background()
	const sleep = "\n    image: " + testImage + "\n    command: [sleep, '1000000']\n"
	file := "services:\n  vpn:" + sleep + "    network_mode: none\n    ipc: shareable\n    volumes: ['data:/data']\n" +
		"  app:" + sleep + "    network_mode: service:vpn\n    ipc: service:vpn\n    pid: service:vpn\n" +
		"  side:" + sleep + "    network_mode: service:app\n" +
		"  named:" + sleep + "    network_mode: container:" + h.project + "-vpn-1\n" +
		"  files:" + sleep + "    network_mode: none\n    volumes_from: ['vpn:ro']\n" +
		"volumes:\n  data: {}\n"
	s, err := Open(h.opts, h.op(schema.StackConfig{FileContents: file}, nil, nil), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lay(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Load(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, h.api, nil); err != nil {
		t.Fatal(err)
	}
	running := func(otherHash ...string) map[string][]docker.Summary {
		out := map[string][]docker.Summary{}
		list, err := h.api.ContainerList(ctx, docker.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", "com.docker.compose.project="+h.project))})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			service := c.Labels["com.docker.compose.service"]
			if slices.Contains(otherHash, service) {
				c.Labels["com.docker.compose.config-hash"] = "of-another-release"
			}
			out[service] = append(out[service], c)
		}
		return out
	}
	all := []string{"app", "files", "named", "side", "vpn"}
	check := func(name string, list map[string][]docker.Summary, differ ...string) {
		t.Helper()
		got, err := s.Compare(ctx, list)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, service := range slices.Sorted(maps.Keys(list)) {
			if got[service].Equal == slices.Contains(differ, service) {
				t.Errorf("%s: %s equal: %v %+v", name, service, got[service].Equal, got[service].Changes)
			}
		}
	}
	check("hash", running())
	check("inspection", running(all...))
	check("inspection of those that share", running("app", "files", "named", "side"))
	check("inspection of whom they share with", running("vpn"))

	old := running()["vpn"][0]
	if err := h.api.ContainerRemove(ctx, old.ID, docker.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	check("whom they share with is gone", running(), "app", "files") // a name is a name to compose's hash
	if err := s.Create(ctx, h.api, []string{"vpn"}); err != nil {
		t.Fatal(err)
	}
	check("whom they share with is another", running(), "app")
	check("whom they share with is another, by inspection", running(all...), "app", "named")
}

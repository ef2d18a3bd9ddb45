package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
)

// sharers is a stack in which b, c and d share with a.
func (h *host) sharers(k string) string {
	sleep := strings.Replace(alone, "    network_mode: none\n", "", 1)
	return "services:\n  d:" + sleep + "    network_mode: none\n    ipc: shareable\n    environment: {K: '" + k + "'}\n    volumes: [/data]\n" +
		"  c:" + sleep + "    network_mode: service:d\n" +
		"  b:" + sleep + "    network_mode: service:c\n    ipc: service:d\n" +
		"  a:" + sleep + "    network_mode: container:" + h.fleet + "-d-1\n    volumes_from: [d]\n"
}

// joined fails unless all of sharers run, each with what it has of the others that run.
func (h *host) joined(what string) {
	h.Helper()
	now := h.services()
	if len(now) != 4 {
		h.Errorf("%s: left %v", what, now)
		return
	}
	d := now["d"].ID
	for service, want := range map[string]plan.Container{"a": {NetworkOf: d}, "b": {NetworkOf: now["c"].ID, IPCOf: d}, "c": {NetworkOf: d}, "d": {}} {
		got := now[service]
		if got.Status != "running" || got.NetworkOf != want.NetworkOf || got.IPCOf != want.IPCOf || got.Severed {
			h.Errorf("%s: %s is %+v, want %+v", what, service, got, want)
		}
	}
	a, err := h.api.ContainerInspect(context.Background(), now["a"].ID)
	if err != nil {
		h.Fatal(err)
	}
	with, err := h.api.ContainerInspect(context.Background(), d)
	if err != nil {
		h.Fatal(err)
	}
	if len(a.Mounts) != 1 || len(with.Mounts) != 1 || a.Mounts[0].Name != with.Mounts[0].Name {
		h.Errorf("%s: a has the volumes %v, d %v", what, a.Mounts, with.Mounts)
	}
}

// TestKilledSharing: killed anywhere while a container is replaced with those that share with it, they share with the
// one that runs in the end.
func TestKilledSharing(t *testing.T) {
	t.Parallel()
	step := 3
	if os.Getenv("SOAK") != "" {
		step = 1
	}
	for at := 1; at <= 24; at += step {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.must(h.stack(protocol.Deploy, h.sharers("1")))
			h.joined("before")
			h.stop()
			died := make(chan struct{})
			h.wrap = func(api client.APIClient) client.APIClient {
				return &dying{APIClient: api, at: at, after: at%2 == 0, kill: func() { h.cancel(); close(died) }}
			}
			h.start()
			op := h.stack(protocol.Deploy, h.sharers("2"))
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			h.agent.Submit(ctx, op)
			_, err := h.agent.Wait(ctx, op.ID)
			select {
			case <-died:
			default:
				if err != nil {
					t.Fatal(err)
				}
			}
			h.stop()
			h.wrap = nil
			h.start()
			h.must(op)
			h.joined(fmt.Sprintf("killed at call %d", at))
		})
	}
}

// TestSevered: who runs since before the container whose network it has was started again is told.
func TestSevered(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	sleep := strings.Replace(alone, "    network_mode: none\n", "", 1)
	file := "services:\n  a:" + sleep + "    network_mode: bridge\n  b:" + sleep + "    network_mode: service:a\n  c:" + sleep + "    network_mode: service:b\n" +
		"  host:" + sleep + "    network_mode: host\n  with:" + sleep + "    network_mode: service:host\n"
	h.must(h.stack(protocol.Deploy, file))
	severed := func() string {
		var out []string
		for _, c := range h.observe().Containers {
			if c.Project == h.fleet && c.Severed {
				out = append(out, c.Service)
			}
		}
		return strings.Join(out, " ")
	}
	again := func(service string) {
		t.Helper()
		if err := h.api.ContainerRestart(t.Context(), h.services()[service].ID, docker.StopOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := severed(); got != "" {
		t.Errorf("at first: %q", got)
	}
	again("a")
	again("host")
	eventually(t, "b and c have lost the network of a", func() bool { return severed() == "b c" })
	op := h.stack(protocol.Restart, file, plan.ServiceStep{Name: "b", Action: plan.Restart}, plan.ServiceStep{Name: "c", Action: plan.Restart})
	h.must(op)
	eventually(t, "they have it again", func() bool { return severed() == "" })
	again("b") // whose network is a's
	eventually(t, "the start of b is known", func() bool {
		a, b := h.services()["a"], h.services()["b"]
		x, _ := h.agent.sharer(t.Context(), a.ID)
		y, _ := h.agent.sharer(t.Context(), b.ID)
		return y.started.After(x.started)
	})
	if got := severed(); got != "" {
		t.Errorf("after b, which has no network of its own, started again: %q", got)
	}
}

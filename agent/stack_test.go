package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
)

// stack is an op on the stack of the test, whose compose file stands in the TOML.
func (h *host) stack(verb protocol.Verb, file string, steps ...plan.ServiceStep) protocol.Op {
	h.Helper()
	cfg := &schema.StackConfig{FileContents: file, EnvFilePath: ".env", AutoPull: true, ProjectName: h.fleet}
	cfg.HealthTimeout = schema.Duration(20 * time.Second)
	return h.stackOf(verb, cfg, nil, nil, steps...)
}

// stackOf is an op on the stack of the test, with files of its repository.
func (h *host) stackOf(verb protocol.Verb, cfg *schema.StackConfig, files []protocol.File, secrets map[string]protocol.Secret, steps ...plan.ServiceStep) protocol.Op {
	h.Helper()
	id := schema.NewID(schema.KindStack, h.fleet)
	r := &schema.Resource{ID: id, Kind: schema.KindStack, Name: h.fleet, Config: cfg}
	tree := compose.NewMemory()
	for _, f := range files {
		if err := tree.Add(f.Path, f.Data, f.Exec, f.Symlink); err != nil {
			h.Fatal(err)
		}
	}
	d, _ := compose.Declare(context.Background(), compose.Input{Resource: r, Tree: tree, Known: map[string]bool{"PASSWORD": true}})
	for _, g := range d.Diagnostics {
		if g.Severity == schema.SeverityError {
			h.Fatalf("%+v", g)
		}
	}
	op := protocol.Op{Version: 1, ID: protocol.OpID(fmt.Sprintf("%s-%d", h.fleet, h.ops.Add(1))), Verb: verb, Resource: id, Server: "local",
		Fleet: h.fleet, Sync: "main", Commit: "c1", Digest: "1:" + plan.Digest(fmt.Sprintf("%x", len(cfg.FileContents))), Services: steps,
		Payload: &protocol.Payload{Project: d.Project, Directory: d.Directory, Units: d.Units, Volumes: d.Volumes, Binds: d.Binds, Stack: cfg,
			Files: files, Secrets: secrets, Ensure: schema.EnsureRunning}}
	if len(steps) == 0 {
		for _, u := range d.Units {
			op.Services = append(op.Services, plan.ServiceStep{Name: u.Service, Action: plan.Recreate})
		}
	}
	return op
}

// services are the stack's containers by service: id and status.
func (h *host) services() map[string]plan.Container {
	out := map[string]plan.Container{}
	for _, c := range h.observe().Containers {
		if c.Project == h.fleet {
			out[c.Service+c.Leftover] = c
		}
	}
	return out
}

const sleeps = "\n    image: " + testImage + "\n    command: [sleep, '1000000']\n    stop_signal: SIGKILL\n"

func TestStackLife(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	file := func(k, mtu string) string {
		return "services:\n  web:" + sleeps + "    environment: {K: '" + k + "'}\n    depends_on: {db: {condition: service_healthy}, init: {condition: service_completed_successfully}}\n" +
			"  db:" + sleeps + "    healthcheck: {test: [CMD, 'true'], interval: 100ms}\n    volumes: [/data]\n" +
			"  init:\n    image: " + testImage + "\n    command: [sleep, '0.2']\n" +
			"networks: {default: {driver_opts: {com.docker.network.driver.mtu: '" + mtu + "'}}}\n"
	}
	t.Cleanup(func() { _ = h.agent; h.api.NetworkRemove(context.Background(), h.fleet+"_default") })
	out := h.must(h.stack(protocol.Deploy, file("1", "1400")))
	states := map[string]string{}
	for _, s := range out.Services {
		states[s.Name] = s.State
	}
	if states["web"] != "healthy" || states["db"] != "healthy" || states["init"] != "completed" {
		t.Errorf("states: %v", states)
	}
	first := h.services()
	inspect := func(id string) docker.InspectResponse {
		t.Helper()
		c, err := h.api.ContainerInspect(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	web, initc := inspect(first["web"].ID), inspect(first["init"].ID)
	if web.State.StartedAt < initc.State.FinishedAt {
		t.Errorf("web started at %s, before init ended at %s", web.State.StartedAt, initc.State.FinishedAt)
	}
	volume := inspect(first["db"].ID).Mounts[0].Name

	// One service changes; the others are not touched.
	h.must(h.stack(protocol.Deploy, file("2", "1400"), plan.ServiceStep{Name: "web", Action: plan.Recreate}))
	second := h.services()
	if second["web"].ID == first["web"].ID || second["db"].ID != first["db"].ID || second["init"].ID != first["init"].ID || len(second) != 3 {
		t.Errorf("changed: %v, then %v", first, second)
	}
	// A changed network takes every service with it, and an anonymous volume goes along.
	h.must(h.stack(protocol.Deploy, file("2", "1300")))
	third := h.services()
	if got := inspect(third["db"].ID).Mounts[0].Name; got != volume || third["db"].ID == second["db"].ID {
		t.Errorf("anonymous volume %s became %s", volume, got)
	}
	if n, err := h.api.NetworkInspect(t.Context(), h.fleet+"_default", network.InspectOptions{}); err != nil || n.Options["com.docker.network.driver.mtu"] != "1300" {
		t.Errorf("network: %v %v", n.Options, err)
	}
	// A change of the network that fails brings back network and containers.
	bad := strings.Replace(file("2", "1200"), "'0.2'", "'x'", 1)
	if out := h.do(h.stack(protocol.Deploy, bad)); out.Status != protocol.RolledBack || out.Held == "" {
		t.Errorf("bad network change: %+v", out)
	}
	if n, err := h.api.NetworkInspect(t.Context(), h.fleet+"_default", network.InspectOptions{}); err != nil || n.Options["com.docker.network.driver.mtu"] != "1300" {
		t.Errorf("network after the rollback: %v %v", n.Options, err)
	}
	if now := h.services(); now["web"].ID != third["web"].ID || now["web"].Status != "running" || now["db"].Status != "running" || len(now) != 3 {
		t.Errorf("after the rollback: %v", now)
	}

	// Amnesia: nothing but the containers is left, and they are known again.
	h.stop()
	if err := os.RemoveAll(filepath.Join(h.root, "ledger")); err != nil {
		t.Fatal(err)
	}
	h.start()
	if err := h.api.ContainerStop(t.Context(), third["web"].ID, docker.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	op := h.stack(protocol.Restart, file("2", "1300"), plan.ServiceStep{Name: "web", Action: plan.Restart})
	op.Payload = nil
	h.must(op)
	if now := h.services(); now["web"].ID != third["web"].ID || now["web"].Status != "running" {
		t.Errorf("restarted: %v", now["web"])
	}
	// A removed container comes back beside the others.
	if err := h.api.ContainerRemove(t.Context(), third["db"].ID, docker.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	h.must(h.stack(protocol.Deploy, file("2", "1300"), plan.ServiceStep{Name: "db", Action: plan.Create}))
	if now := h.services(); now["db"].Status != "running" || now["web"].ID != third["web"].ID {
		t.Errorf("recreated: %v", now)
	}
	await := h.stack(protocol.Await, file("2", "1300"))
	await.Services = nil
	h.must(await)
	op = h.stack(protocol.Remove, file("2", "1300"))
	op.Payload, op.Services = nil, nil
	h.must(op)
	if left := h.services(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := h.api.NetworkInspect(t.Context(), h.fleet+"_default", network.InspectOptions{}); err == nil {
		t.Error("its network is left")
	}
}

// TestStackFilesOfLostLedger: what was laid is not known without the ledger, so it stays; a removal says where.
func TestStackFilesOfLostLedger(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	defer h.clean()
	base := filepath.Join(h.root, "stacks", h.fleet)
	file := "services:\n  web:\n    image: " + testImage + "\n    command: [sleep, '1000000']\n    stop_signal: SIGKILL\n    network_mode: none\n    env_file: [.env]\n"
	cfg := &schema.StackConfig{EnvFilePath: ".env", ProjectName: h.fleet, Environment: []schema.KV{{Key: "S", Value: "[[PASSWORD]]"}}}
	cfg.HealthTimeout = schema.Duration(20 * time.Second)
	op := h.stackOf(protocol.Deploy, cfg, []protocol.File{{Path: "compose.yaml", Data: []byte(file)}}, map[string]protocol.Secret{"PASSWORD": "hunter2-is-not-to-be-seen"})
	h.must(op)
	h.stop()
	if err := os.RemoveAll(filepath.Join(h.root, "ledger")); err != nil {
		t.Fatal(err)
	}
	h.start()
	out := h.must(protocol.Op{Version: 1, ID: op.ID + "-rm", Verb: protocol.Remove, Resource: op.Resource, Server: "local", Fleet: h.fleet, Sync: "main"})
	if len(h.services()) != 0 || !strings.Contains(out.Hint, base) {
		t.Errorf("%+v, left %v", out, h.services())
	}
	if _, err := os.Stat(filepath.Join(base, ".env")); err != nil {
		t.Error(err)
	}
}

// TestStackFilesGo: what was laid for a stack goes with it, also its secrets' values; what its containers wrote stays.
// A removal that was cut off between the last container and the files is finished by the next process.
func TestStackFilesGo(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{false, true} {
		h := newHost(t)
		defer h.clean()
		base := filepath.Join(h.root, "stacks", h.fleet)
		file := "services:\n  web:\n    image: " + testImage + "\n    command: [sh, -c, 'echo x > /data/mine; sleep 1000000']\n    stop_signal: SIGKILL\n    network_mode: none\n" +
			"    env_file: [.env]\n    volumes: ['./data:/data', './conf:/conf:ro', './empty:/empty']\n"
		files := []protocol.File{{Path: "compose.yaml", Data: []byte(file)}, {Path: "conf/app.toml", Data: []byte("a = 1\n")}, {Path: "data/README", Data: []byte("yours\n")}}
		cfg := &schema.StackConfig{EnvFilePath: ".env", ProjectName: h.fleet, Environment: []schema.KV{{Key: "S", Value: "[[PASSWORD]]"}}}
		cfg.HealthTimeout = schema.Duration(20 * time.Second)
		op := h.stackOf(protocol.Deploy, cfg, files, map[string]protocol.Secret{"PASSWORD": "hunter2-is-not-to-be-seen"})
		h.must(op)
		if b, err := os.ReadFile(filepath.Join(base, ".env")); err != nil || !strings.Contains(string(b), "hunter2") {
			t.Fatalf("env file: %q %v", b, err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(filepath.Join(base, "data/mine")); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		rm := protocol.Op{Version: 1, ID: op.ID + "-rm", Verb: protocol.Remove, Resource: op.Resource, Server: "local", Fleet: h.fleet, Sync: "main"}
		if cut {
			if err := h.api.ContainerRemove(t.Context(), h.services()["web"].ID, docker.RemoveOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
			rec := h.agent.ledger.get(op.Resource)
			rec.Doing = &doing{Op: rm.ID, Verb: rm.Verb, Intent: &container.Intent{Resource: op.Resource, Fleet: h.fleet, Project: h.fleet, Phase: container.Committing}}
			if err := h.agent.ledger.put(rec); err != nil {
				t.Fatal(err)
			}
			h.stop()
			h.start()
			h.observe() // waits for it
		} else if out := h.must(rm); out.Hint != "" {
			t.Errorf("removal: %+v", out)
		}
		var left []string
		_ = filepath.WalkDir(base, func(p string, _ os.DirEntry, _ error) error {
			left = append(left, strings.TrimPrefix(p, base))
			return nil
		})
		if got := strings.Join(left, " "); got != " /data /data/mine /empty" {
			t.Errorf("cut %v: left: %q", cut, got)
		}
		if rec := h.agent.ledger.get(op.Resource); rec.Entry != nil || rec.Base != "" || rec.Doing != nil {
			t.Errorf("ledger: %+v", rec)
		}
	}
}

// TestProjectRenamed: a stack that gets another project_name takes its containers along and leaves no network behind.
func TestProjectRenamed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, name := range []string{h.fleet, h.fleet + "b"} {
		cfg := &schema.StackConfig{FileContents: "services:\n  web:" + sleeps, ProjectName: name}
		cfg.HealthTimeout = schema.Duration(20 * time.Second)
		h.must(h.stackOf(protocol.Deploy, cfg, nil, nil))
	}
	if got := h.mine(); len(got) != 1 || got[0] != h.fleet+"b-web-1 running" {
		t.Errorf("containers: %v", got)
	}
	if _, err := h.api.NetworkInspect(t.Context(), h.fleet+"b_default", network.InspectOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := h.api.NetworkInspect(t.Context(), h.fleet+"_default", network.InspectOptions{}); err == nil {
		t.Error("the former project's network is left")
	}
}

// w1 is the baseline's workload: n services on one bridge.
func w1(n int, changed string) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range n {
		v := "x"
		if fmt.Sprint(i) == changed {
			v = "y"
		}
		fmt.Fprintf(&b, "  s%02d:%s    environment: {K: %s}\n", i, sleeps, v)
	}
	return b.String()
}

// TestSpeed prints our cold start and change of one service beside the engine's own calls, in alternation. It
// runs only when asked for, with VARAN_SPEED=50.
func TestSpeed(t *testing.T) {
	n := 0
	if _, err := fmt.Sscan(os.Getenv("VARAN_SPEED"), &n); err != nil {
		t.Skip("set VARAN_SPEED to a number of services")
	}
	h := newHost(t)
	ctx := t.Context()
	raw := func() time.Duration {
		t.Helper()
		begin := time.Now()
		net, err := h.api.NetworkCreate(ctx, h.fleet+"_raw", network.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ids := make([]string, n)
		var wg sync.WaitGroup
		sem := make(chan struct{}, 8)
		for i := range n {
			wg.Go(func() {
				sem <- struct{}{}
				defer func() { <-sem }()
				c, err := h.api.ContainerCreate(ctx, &docker.Config{Image: testImage, Cmd: []string{"sleep", "1000000"}, Env: []string{"K=x"}, StopSignal: "SIGKILL"},
					&docker.HostConfig{NetworkMode: docker.NetworkMode(h.fleet + "_raw")}, nil, nil, fmt.Sprintf("%s-raw-%d", h.fleet, i))
				if err == nil {
					err = h.api.ContainerStart(ctx, c.ID, docker.StartOptions{})
				}
				if err != nil {
					t.Error(err)
				}
				ids[i] = c.ID
			})
		}
		wg.Wait()
		took := time.Since(begin)
		for _, id := range ids {
			wg.Go(func() {
				sem <- struct{}{}
				defer func() { <-sem }()
				_ = h.api.ContainerRemove(ctx, id, docker.RemoveOptions{Force: true})
			})
		}
		wg.Wait()
		_ = h.api.NetworkRemove(ctx, net.ID)
		return took
	}
	for range 3 {
		r := raw()
		begin := time.Now()
		h.must(h.stack(protocol.Deploy, w1(n, "")))
		ours := time.Since(begin)
		begin = time.Now()
		h.observe()
		observed := time.Since(begin)
		id := h.services()["s01"].ID
		begin = time.Now()
		_ = h.api.ContainerRemove(ctx, id, docker.RemoveOptions{Force: true})
		c, err := h.api.ContainerCreate(ctx, &docker.Config{Image: testImage, Cmd: []string{"sleep", "1000000"}, Env: []string{"K=x"}, StopSignal: "SIGKILL"},
			&docker.HostConfig{NetworkMode: docker.NetworkMode(h.fleet + "_default")}, nil, nil, h.fleet+"-raw-one")
		if err == nil {
			err = h.api.ContainerStart(ctx, c.ID, docker.StartOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		rawOne := time.Since(begin)
		_ = h.api.ContainerRemove(ctx, c.ID, docker.RemoveOptions{Force: true})
		op := h.stack(protocol.Deploy, w1(n, "3"), plan.ServiceStep{Name: "s03", Action: plan.Recreate})
		begin = time.Now()
		h.must(op)
		one := time.Since(begin)
		at := time.Time{}
		if c, err := h.api.ContainerInspect(ctx, h.services()["s03"].ID); err == nil {
			at, _ = time.Parse(time.RFC3339Nano, c.State.StartedAt)
		}
		t.Logf("cold %d: raw %v, ours %v (%.3f); one changed: raw %v, ours to its start %v, to the outcome %v; observe %v",
			n, r.Round(time.Millisecond), ours.Round(time.Millisecond), float64(ours)/float64(r), rawOne.Round(time.Millisecond),
			at.Sub(begin).Round(time.Millisecond), one.Round(time.Millisecond), observed.Round(100*time.Microsecond))
		rm := h.stack(protocol.Remove, w1(n, ""))
		rm.Payload, rm.Services = nil, nil
		h.must(rm)
	}
}

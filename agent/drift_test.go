package agent

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	docker "github.com/docker/docker/api/types/container"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// eventually waits for the engine's events to have been heard.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Errorf("never: %s", what)
}

func TestOneShots(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	oneShot := func(command string) func(*schema.DeploymentConfig) {
		return func(c *schema.DeploymentConfig) { c.Restart, c.Command = "no", command }
	}
	// One that outlives its settle time is let go on, and is done when it ends by itself.
	h.deploy("job", oneShot("sleep 0.5"))
	eventually(t, "the job is completed", func() bool { c := h.container("job"); return c != nil && c.Status == "exited" && c.Completed })
	if n := h.history()["start "+h.container("job").ID]; n != 1 {
		t.Errorf("it was started %d times", n)
	}
	// One that ends with 0 because somebody stopped it is not, also over a restart of the agent.
	h.deploy("server", oneShot(`sh -c 'trap "exit 0" TERM; while :; do sleep 0.1; done'`), func(c *schema.DeploymentConfig) { c.ExtraArgs = nil })
	if err := h.api.ContainerStop(t.Context(), h.container("server").ID, docker.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	stopped := func() bool {
		c := h.container("server")
		return c.Status == "exited" && c.Exit == 0 && !c.Completed
	}
	eventually(t, "a person's stop is seen", stopped)
	h.stop()
	h.start()
	if !stopped() {
		t.Errorf("after a restart: %+v", h.container("server"))
	}
	h.must(h.op("server", protocol.Restart, nil, plan.Restart))
	h.stop()
	if err := h.api.ContainerStop(t.Context(), h.fleet+"-server", docker.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	h.start()
	if !stopped() {
		t.Errorf("stopped while the agent was away: %+v", h.container("server"))
	}
	// ensure = "completed" waits for the end, and for a good one.
	op := h.op("migrate", protocol.Deploy, h.config(oneShot("sleep 0.3")), plan.Create)
	op.Payload.Ensure = schema.EnsureCompleted
	if out := h.must(op); out.Services[0].State != "completed" {
		t.Errorf("completed: %+v", out)
	}
	op = h.op("broken", protocol.Deploy, h.config(oneShot("sh -c 'sleep 0.2; exit 4'")), plan.Create)
	op.Payload.Ensure = schema.EnsureCompleted
	if out := h.do(op); out.Status != protocol.Failed || !strings.Contains(out.Error, "exit code 4") {
		t.Errorf("broken: %+v", out)
	}
}

func TestContested(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.deploy("web")
	for range 3 {
		if n := len(h.observe().Holds); n != 0 {
			t.Fatalf("held too early: %d", n)
		}
		if err := h.api.ContainerKill(t.Context(), h.name("web"), "KILL"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is down", func() bool { return h.container("web").Status == "exited" })
		h.must(h.op("web", protocol.Restart, nil, plan.Restart))
	}
	holds := h.observe().Holds
	if len(holds) != 1 || holds[0].Kind != plan.HoldContested || !strings.Contains(holds[0].Reason, "3 times") {
		t.Fatalf("holds: %+v", holds)
	}
	op := h.op("web", protocol.SetHold, nil, "")
	op.Hold, op.Lift = &plan.Hold{Resource: op.Resource, Kind: plan.HoldContested}, true
	h.must(op)
	if n := len(h.observe().Holds); n != 0 {
		t.Errorf("still %d holds", n)
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	op := h.op("web", protocol.SetHold, nil, "")
	op.Hold = &plan.Hold{Kind: plan.HoldUser, Reason: "moving house"}
	h.must(op)
	if out := h.do(h.op("web", protocol.Deploy, h.config(), plan.Create)); out.Status != protocol.Refused || !strings.Contains(out.Error, "moving house") {
		t.Errorf("held: %+v", out)
	}
	op = h.op("web", protocol.SetHold, nil, "")
	op.Hold, op.Lift = &plan.Hold{}, true
	h.must(op)
	h.deploy("web")
	server := h.op("web", protocol.SetHold, nil, "")
	server.Resource, server.Hold = "", &plan.Hold{Kind: plan.HoldPaused, Reason: "paused"}
	h.must(server)
	h.stop()
	h.start()
	if holds := h.observe().Holds; len(holds) != 1 || holds[0].Kind != plan.HoldPaused {
		t.Errorf("the server's hold was forgotten: %+v", holds)
	}
}

func TestNamesAndPortsOfOthers(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strings.TrimPrefix(l.Addr().String(), "127.0.0.1:")
	l.Close()
	bridge := func(c *schema.DeploymentConfig) {
		c.Network, c.Ports = "bridge", []schema.KV{{Key: "127.0.0.1", Value: port + ":80"}}
	}
	h.deploy("a", bridge)
	h.deploy("b")
	b := h.container("b").ID
	out := h.do(h.op("b", protocol.Deploy, h.config(bridge), plan.Recreate))
	if out.Status != protocol.Failed || out.Stopped || out.Held != "" || !strings.Contains(out.Error, "port "+port+" is taken by container \""+h.name("a")+"\"") {
		t.Errorf("port of another: %+v", out)
	}
	if c := h.container("b"); c.ID != b || c.Status != "running" {
		t.Errorf("b was touched: %+v", c)
	}
	// The same port of its own is no obstacle.
	h.deploy("a", bridge, env("K", "v"))
	// A program of the host holds the port.
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port = strings.TrimPrefix(l.Addr().String(), "127.0.0.1:")
	out = h.do(h.op("b", protocol.Deploy, h.config(bridge), plan.Recreate))
	if out.Status != protocol.RolledBack || !strings.Contains(out.Error, "port "+port+" is taken by a program on the host") {
		t.Errorf("port of the host: %+v", out)
	}
	if c := h.container("b"); c.ID != b || c.Status != "running" {
		t.Errorf("b did not come back: %+v", c)
	}

	// Another fleet's container keeps its name.
	res, err := h.api.ContainerCreate(t.Context(), &docker.Config{Image: testImage, Cmd: []string{"sleep", "1"},
		Labels: map[string]string{"varan.resource": "deployment/x", "varan.fleet": "other"}}, nil, nil, nil, h.name("taken"))
	if err != nil {
		t.Fatal(err)
	}
	out = h.do(h.op("taken", protocol.Deploy, h.config(), plan.Create))
	if out.Status != protocol.Failed || !strings.Contains(out.Error, `of fleet "other"`) {
		t.Errorf("name of another fleet: %+v", out)
	}
	if c := h.container("taken"); c == nil || c.ID != res.ID {
		t.Errorf("it was touched: %+v", c)
	}
	// What nobody claims and has the name is replaced: the plan has said so.
	if _, err := h.api.ContainerCreate(t.Context(), &docker.Config{Image: testImage, Cmd: []string{"sleep", "1"}}, nil, nil, nil, h.name("free")); err != nil {
		t.Fatal(err)
	}
	h.deploy("free")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.stop()
	toml := "[allow]\nprivileged = false\nhost_network = false\ndocker_socket = false\nbind_roots = [\"/srv\"]\nimages = [\"varan-agent-test:*\"]\n"
	if err := os.WriteFile(filepath.Join(h.root, "agent.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	for key, edit := range map[string]func(*schema.DeploymentConfig){
		"privileged":    func(c *schema.DeploymentConfig) { c.ExtraArgs = []string{"--privileged"} },
		"host_network":  func(c *schema.DeploymentConfig) { c.Network = "host" },
		"docker_socket": func(c *schema.DeploymentConfig) { c.Volumes = []schema.KV{{Key: "/var/run/docker.sock", Value: "/s"}} },
		"bind_roots":    func(c *schema.DeploymentConfig) { c.Volumes = []schema.KV{{Key: "/srv/../etc", Value: "/e"}} },
		"images":        func(c *schema.DeploymentConfig) { c.Image.Image = "busybox:1" },
	} {
		out := h.do(h.op(key, protocol.Deploy, h.config(edit), plan.Create))
		if out.Status != protocol.Refused || !strings.Contains(out.Error, "[allow] "+key) {
			t.Errorf("%s: %+v", key, out)
		}
	}
	if got := h.mine(); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func TestPulls(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.must(h.op("web", protocol.Prepare, h.config(), plan.Create)) // a local image needs no registry
	out := h.do(h.op("web", protocol.Prepare, h.config(func(c *schema.DeploymentConfig) { c.Image.Image = "127.0.0.1:1/no/such:1" }), plan.Create))
	if out.Status != protocol.Failed || out.Stopped || !strings.Contains(out.Error, "127.0.0.1:1/no/such:1 cannot be pulled") || out.Hint == "" {
		t.Errorf("registry down: %+v", out)
	}
}

func TestLedgerSetAside(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.deploy("web")
	h.stop()
	file := filepath.Join(h.root, "ledger", "deployment", h.name("web")+".json")
	if err := os.WriteFile(file, []byte(`{"format":99,"resource":"deployment/web"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	if e := h.observe().Ledger[h.id("web")]; e != nil {
		t.Errorf("a newer file was read: %+v", e)
	}
	if _, err := os.Stat(file + ".aside"); err != nil {
		t.Error(err)
	}
	h.must(h.op("web", protocol.Restart, nil, plan.Restart)) // works from the labels alone
}

func TestLocksAndNoEngine(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if _, err := New(Options{Root: h.root, Fleet: h.fleet}); err == nil || !strings.Contains(err.Error(), "another agent works there (process ") {
		t.Errorf("same root: %v", err)
	}
	if _, err := New(Options{Root: t.TempDir(), Fleet: h.fleet}); err == nil || !strings.Contains(err.Error(), "root "+h.root) {
		t.Errorf("same engine: %v", err)
	}
	if _, err := New(Options{Root: t.TempDir(), Fleet: h.fleet + "x", DockerHost: "unix:///nowhere"}); err == nil || !strings.Contains(err.Error(), "unix:///nowhere") {
		t.Errorf("no engine: %v", err)
	}
}

func TestAdoptAndRelease(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	res, err := h.api.ContainerCreate(t.Context(), &docker.Config{Image: testImage, Cmd: []string{"sleep", "1000000"}, Env: []string{"K=a b"}, StopSignal: "SIGKILL"},
		&docker.HostConfig{NetworkMode: "none", RestartPolicy: docker.RestartPolicy{Name: "unless-stopped"}}, nil, nil, h.name("web"))
	if err == nil {
		err = h.api.ContainerStart(t.Context(), res.ID, docker.StartOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	ask := func(c *schema.DeploymentConfig) plan.Comparison {
		op := h.op("web", protocol.Adopt, c, "")
		f := h.observe(protocol.Query{Resource: op.Resource, Compare: true, Payload: op.Payload}).Facts[op.Resource]
		if f.Problem != "" {
			t.Fatal(f.Problem)
		}
		return f.Compare[h.name("web")]
	}
	if c := ask(h.config(env("K", `"a b"`))); !c.Equal {
		t.Errorf("equal: %+v", c)
	}
	c := ask(h.config(env("K", "other")))
	if c.Equal || len(c.Changes) != 1 || c.Changes[0].Path != "environment.K" || c.Changes[0].Old != "(set on the host)" {
		t.Errorf("different: %+v", c)
	}
	h.must(h.op("web", protocol.Adopt, h.config(env("K", `"a b"`)), ""))
	if e := h.observe().Ledger[h.id("web")]; e == nil || !e.Adopted {
		t.Errorf("ledger: %+v", e)
	}
	if got := h.container("web"); got.ID != res.ID || got.Resource != "" {
		t.Errorf("adopted: %+v", got)
	}
	h.deploy("web", env("K", "other"))
	mine := h.container("web")
	if mine.ID == res.ID || mine.Resource != h.id("web") {
		t.Errorf("after a change: %+v", mine)
	}
	if e := h.observe().Ledger[h.id("web")]; e == nil || e.Adopted {
		t.Errorf("ledger after a change: %+v", e)
	}
	h.must(h.op("web", protocol.Release, nil, ""))
	if got := h.container("web"); got.ID != mine.ID || got.Status != "running" || got.Resource != "" {
		t.Errorf("released: %+v", got)
	}
}

func TestHostFilesOfADeployment(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	file := filepath.Join(t.TempDir(), "host.env")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("A=1\n")
	op := h.op("web", protocol.Deploy, h.config(), plan.Create)
	op.Payload.Units[0].HostFiles = []string{file}
	h.must(op)
	ask := func() []string {
		q := protocol.Query{Resource: op.Resource, Payload: op.Payload}
		return h.observe(q).Facts[op.Resource].HostFilesChanged
	}
	if got := ask(); len(got) != 0 {
		t.Errorf("unchanged: %q", got)
	}
	write("A=2\n")
	if got := ask(); len(got) != 1 {
		t.Errorf("changed: %q", got)
	}
	write("A=1\n")
	if got := ask(); len(got) != 0 {
		t.Errorf("as before: %q", got)
	}
	os.Remove(file)
	if got := ask(); len(got) != 1 {
		t.Errorf("removed: %q", got)
	}
}

package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/update"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// testImage is a static busybox and nothing else. It is made once and left for the next test run.
const testImage = "varan-agent-test:busybox"

// A host is an agent on the real engine with a fleet of its own, all of whose containers go with the test.
type host struct {
	*testing.T
	api    client.APIClient
	fleet  string
	root   string
	agent  *Agent
	cancel context.CancelFunc
	ended  chan error
	ops    atomic.Int64
	wrap   func(client.APIClient) client.APIClient
	update *update.Self
	begun  time.Time
}

func newHost(t *testing.T) *host {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Docker engine")
	}
	api, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Ping(t.Context()); err != nil {
		t.Fatalf("these tests need a Docker engine at %s: %v", api.DaemonHost(), err)
	}
	makeImage(t, api)
	b := make([]byte, 5)
	rand.Read(b)
	h := &host{T: t, api: api, fleet: "t" + hex.EncodeToString(b), root: t.TempDir(), begun: time.Now()}
	t.Cleanup(h.clean)
	h.start()
	return h
}

func makeImage(t *testing.T, api client.APIClient) {
	if _, err := api.ImageInspect(t.Context(), testImage); err == nil {
		return
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("these tests need a static busybox on the PATH")
	}
	bin, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "bin/", Mode: 0o755, Typeflag: tar.TypeDir})
	_ = w.WriteHeader(&tar.Header{Name: "tmp/", Mode: 0o777, Typeflag: tar.TypeDir})
	_ = w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(bin))})
	_, _ = w.Write(bin)
	for _, a := range []string{"sh", "sleep", "cat", "true", "false", "echo", "env", "test", "touch", "ls"} {
		_ = w.WriteHeader(&tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777})
	}
	_ = w.Close()
	r, err := api.ImageImport(t.Context(), image.ImportSource{Source: &b, SourceName: "-"}, testImage, image.ImportOptions{Changes: []string{"ENV PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, r)
	r.Close()
}

func (h *host) clean() {
	h.stop()
	ctx := context.Background()
	list, _ := h.api.ContainerList(ctx, docker.ListOptions{All: true})
	for _, c := range list {
		if strings.Contains(strings.Join(c.Names, " "), h.fleet) {
			_ = h.api.ContainerRemove(ctx, c.ID, docker.RemoveOptions{Force: true, RemoveVolumes: true})
		}
	}
	nets, _ := h.api.NetworkList(ctx, network.ListOptions{}) // an engine has room for some thirty
	for _, n := range nets {
		if strings.HasPrefix(n.Name, h.fleet) {
			_ = h.api.NetworkRemove(ctx, n.ID)
		}
	}
	h.api.Close()
}

func (h *host) start() {
	h.Helper()
	a, err := New(Options{Root: h.root, Fleet: h.fleet, Server: "local", Wrap: h.wrap, Update: h.update, Log: slog.New(slog.NewTextHandler(logWriter{h.T}, nil))})
	if err != nil {
		h.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.agent, h.cancel, h.ended = a, cancel, make(chan error, 1)
	go func() { h.ended <- a.Run(ctx) }()
}

func (h *host) stop() {
	if h.agent == nil {
		return
	}
	h.cancel()
	if err := <-h.ended; err != nil {
		h.Errorf("Run: %v", err)
	}
	h.agent.Close()
	h.agent = nil
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// name is a container's that no other test has.
func (h *host) name(short string) string { return h.fleet + "-" + short }

func (h *host) id(short string) schema.ID { return schema.NewID(schema.KindDeployment, h.name(short)) }

// config is a deployment that sleeps.
func (h *host) config(edit ...func(*schema.DeploymentConfig)) *schema.DeploymentConfig {
	c := &schema.DeploymentConfig{Image: schema.ImageConfig{Type: "Image", Image: testImage}, Network: "none", Restart: "unless-stopped",
		Command: "sleep 1000000", TerminationTimeout: 1, ExtraArgs: []string{"--stop-signal=SIGKILL"}}
	c.HealthTimeout = schema.Duration(20 * time.Second)
	for _, e := range edit {
		e(c)
	}
	return c
}

// op deploys the config; its digest derives from it as the daemon's would.
func (h *host) op(short string, verb protocol.Verb, c *schema.DeploymentConfig, act plan.Action) protocol.Op {
	op := protocol.Op{Version: 1, ID: protocol.OpID(fmt.Sprintf("%s-%d", h.fleet, h.ops.Add(1))), Verb: verb, Resource: h.id(short), Server: "local",
		Fleet: h.fleet, Sync: "main", Commit: "c1"}
	if act != "" {
		op.Services = []plan.ServiceStep{{Name: h.name(short), Action: act}}
	}
	if c != nil {
		r := &schema.Resource{ID: h.id(short), Kind: schema.KindDeployment, Name: h.name(short), Config: c}
		known := map[string]bool{"PASSWORD": true}
		d := plan.DeclareDeployment(r, known)
		for _, g := range d.Diagnostics {
			h.Fatalf("%s: %s", g.Message, g.Hint)
		}
		op.Payload = &protocol.Payload{Units: d.Units, Deployment: c, Secrets: map[string]protocol.Secret{}, Ensure: schema.EnsureRunning}
		op.Digest = d.Units[0].Digest
	}
	return op
}

func (h *host) do(op protocol.Op) protocol.Outcome {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	s := h.agent.Submit(ctx, op)
	if s.Outcome != nil {
		return *s.Outcome
	}
	out, err := h.agent.Wait(ctx, op.ID)
	if err != nil {
		h.Fatalf("%s %s: %v", op.Verb, op.Resource, err)
	}
	return out
}

func (h *host) must(op protocol.Op) protocol.Outcome {
	h.Helper()
	out := h.do(op)
	if out.Status != protocol.Done {
		h.Fatalf("%s %s: %s: %s (%s)\n%s", op.Verb, op.Resource, out.Status, out.Error, out.Hint, out.Tail)
	}
	return out
}

// deploy creates or replaces the deployment.
func (h *host) deploy(short string, edit ...func(*schema.DeploymentConfig)) protocol.Outcome {
	h.Helper()
	return h.must(h.op(short, protocol.Deploy, h.config(edit...), plan.Recreate))
}

func (h *host) observe(queries ...protocol.Query) plan.ServerState {
	h.Helper()
	o := h.agent.Observe(context.Background(), protocol.Observe{Version: 1, Fleet: h.fleet, Queries: queries})
	if o.Error != "" {
		h.Fatal(o.Error)
	}
	return o.State
}

// container is the one of that name as observed; nil if there is none.
func (h *host) container(short string) *plan.Container {
	h.Helper()
	for _, c := range h.observe().Containers {
		if c.Name == h.name(short) {
			return &c
		}
	}
	return nil
}

// mine are all containers of the test.
func (h *host) mine() []string {
	var out []string
	for _, c := range h.observe().Containers {
		if strings.Contains(c.Name, h.fleet) {
			out = append(out, c.Name+" "+c.Status)
		}
	}
	return out
}

// history counts the engine's events of the test's containers: "create web", "start web".
func (h *host) history() map[string]int {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out := map[string]int{}
	now := time.Now()
	msgs, errs := h.api.Events(ctx, events.ListOptions{Since: fmt.Sprint(h.begun.Unix()), Until: fmt.Sprintf("%d.%09d", now.Unix(), now.Nanosecond()),
		Filters: filters.NewArgs(filters.Arg("type", "container"), filters.Arg("label", "varan.fleet="+h.fleet))})
	for {
		select {
		case m := <-msgs:
			out[string(m.Action)+" "+m.Actor.Attributes["name"]]++
			out[string(m.Action)+" "+m.Actor.ID]++
		case err := <-errs:
			if err != nil && err != io.EOF {
				h.Fatal(err)
			}
			return out
		}
	}
}

// unhealthy ends at once, well before it would have settled.
func unhealthy(c *schema.DeploymentConfig) {
	c.Command = "sh -c 'echo cannot start >&2; exit 3'"
	c.Settle = schema.Duration(5 * time.Second)
}

func env(k, v string) func(*schema.DeploymentConfig) {
	return func(c *schema.DeploymentConfig) { c.Environment = append(c.Environment, schema.KV{Key: k, Value: v}) }
}

func TestDeploymentLife(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	out := h.deploy("web", env("K", "x y"))
	if out.Stopped || len(out.Services) != 1 || out.Services[0].State != "healthy" {
		t.Errorf("create: %+v", out)
	}
	c := h.container("web")
	if c == nil || c.Status != "running" || c.Resource != h.id("web") || c.Fleet != h.fleet || c.Digest == "" || c.Commit != "c1" {
		t.Fatalf("created: %+v", c)
	}
	first := c.ID
	e := h.observe().Ledger[h.id("web")]
	if e == nil || e.Outcome != "done" || len(e.Units) != 1 || e.Units[0].Digest != c.Digest {
		t.Fatalf("ledger: %+v", e)
	}

	out = h.deploy("web", env("K", "z"))
	if c = h.container("web"); c == nil || c.ID == first || !out.Stopped {
		t.Fatalf("changed: %+v, %+v", c, out)
	}
	if got := h.mine(); len(got) != 1 {
		t.Errorf("left over: %q", got)
	}
	i, err := h.api.ContainerInspect(t.Context(), c.ID)
	if err != nil || !strings.Contains(strings.Join(i.Config.Env, " "), "K=z") {
		t.Errorf("env = %q, %v", i.Config.Env, err)
	}

	// The same op again changes nothing and says so.
	op := h.op("web", protocol.Deploy, h.config(env("K", "z")), plan.Recreate)
	h.must(op)
	second := h.container("web").ID
	if again := h.do(op); !again.Again || again.Status != protocol.Done {
		t.Errorf("again: %+v", again)
	}
	if h.container("web").ID != second {
		t.Error("an op done before was done again")
	}

	// Restarting keeps the container.
	h.must(h.op("web", protocol.Restart, nil, plan.Restart))
	if c := h.container("web"); c.ID != second || c.Status != "running" {
		t.Errorf("restart: %+v", c)
	}
	h.must(h.op("web", protocol.Stop, nil, ""))
	if c := h.container("web"); c.Status != "exited" {
		t.Errorf("stop: %+v", c)
	}
	h.must(h.op("web", protocol.Remove, nil, ""))
	if got := h.mine(); len(got) != 0 {
		t.Errorf("removed: %q", got)
	}
	if e := h.observe().Ledger[h.id("web")]; e != nil {
		t.Errorf("ledger after removal: %+v", e)
	}
}

func TestRollbackAndHold(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.deploy("web")
	before := h.container("web").ID
	op := h.op("web", protocol.Deploy, h.config(unhealthy), plan.Recreate)
	out := h.do(op)
	if out.Status != protocol.RolledBack || out.Held != op.Digest || !strings.Contains(out.Error, "exit code 3") || !strings.Contains(out.Tail, "cannot start") {
		t.Errorf("outcome: %+v", out)
	}
	if c := h.container("web"); c == nil || c.ID != before || c.Status != "running" {
		t.Errorf("what ran before: %+v", c)
	}
	if got := h.mine(); len(got) != 1 {
		t.Errorf("left over: %q", got)
	}
	s := h.observe()
	if len(s.Holds) != 1 || s.Holds[0].Kind != plan.HoldFailed || s.Holds[0].Digest != op.Digest {
		t.Errorf("holds: %+v", s.Holds)
	}
	if e := s.Ledger[op.Resource]; e == nil || e.Outcome != "done" || e.Units[0].Digest == op.Digest {
		t.Errorf("the ledger does not say what runs: %+v", e)
	}
	// A first create that fails leaves nothing but the hold.
	if out := h.do(h.op("new", protocol.Deploy, h.config(unhealthy), plan.Create)); out.Status != protocol.Failed || out.Held == "" || out.Stopped {
		t.Errorf("first create: %+v", out)
	}
	if c := h.container("new"); c != nil {
		t.Errorf("first create left %+v", c)
	}
	// keep leaves the new one.
	keep := func(c *schema.DeploymentConfig) { unhealthy(c); c.OnFailure = schema.OnFailureKeep }
	if out := h.do(h.op("web", protocol.Deploy, h.config(keep), plan.Recreate)); out.Status != protocol.Failed {
		t.Errorf("keep: %+v", out)
	}
	if c := h.container("web"); c == nil || c.ID == before {
		t.Errorf("keep: %+v", c)
	}
	// What works lifts the hold.
	h.deploy("web", env("K", "1"))
	for _, hold := range h.observe().Holds {
		if hold.Resource == h.id("web") {
			t.Errorf("still held: %+v", hold)
		}
	}
}

func TestSecretsStayOut(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	const secret = "hunter2-is-not-to-be-seen"
	cfg := h.config(env("P", "[[PASSWORD]]"))
	cfg.Command = "sh -c 'echo $P; exit 1'"
	cfg.Settle = schema.Duration(5 * time.Second)
	op := h.op("web", protocol.Deploy, cfg, plan.Create)
	op.Payload.Secrets["PASSWORD"] = secret
	out := h.do(op)
	if out.Status != protocol.Failed {
		t.Fatalf("%+v", out)
	}
	// The engine itself may repeat a value, and what failed is held with a reason.
	cfg = h.config()
	cfg.Command = "[[PASSWORD]]"
	word := h.op("web", protocol.Deploy, cfg, plan.Create)
	word.Payload.Secrets["PASSWORD"] = secret
	if out := h.do(word); out.Held == "" || strings.Contains(out.Error, secret) {
		t.Fatalf("%+v", out)
	}
	if b, _ := json.Marshal(h.observe().Holds); len(h.observe().Holds) == 0 || bytes.Contains(b, []byte(secret)) {
		t.Errorf("holds: %s", b)
	}
	cfg = h.config(env("P", "[[PASSWORD]]"))
	good := h.op("web", protocol.Deploy, cfg, plan.Create)
	good.Payload.Secrets["PASSWORD"] = secret
	h.must(good)
	i, _ := h.api.ContainerInspect(t.Context(), h.container("web").ID)
	if !strings.Contains(strings.Join(i.Config.Env, " "), "P="+secret) {
		t.Errorf("the container did not get the value: %q", i.Config.Env)
	}
	text, _ := json.Marshal(out)
	state, _ := json.Marshal(h.observe())
	for what, b := range map[string][]byte{"outcome": text, "state": state} {
		if bytes.Contains(b, []byte(secret)) {
			t.Errorf("the secret stands in the %s", what)
		}
	}
	grep, _ := exec.Command("grep", "-r", secret, h.root).CombinedOutput()
	if len(grep) > 0 {
		t.Errorf("the secret stands in the root: %s", grep)
	}
	// The value decides, also when the fingerprint is lost.
	ask := func(value string) []string {
		q := protocol.Query{Resource: op.Resource, Payload: h.op("web", protocol.Deploy, cfg, "").Payload}
		q.Payload.Secrets["PASSWORD"] = protocol.Secret(value)
		return h.observe(q).Facts[op.Resource].SecretsChanged
	}
	for _, lost := range []bool{false, true} {
		if lost {
			h.agent.prints.drop(op.Resource)
		}
		if got := ask("another"); len(got) != 1 {
			t.Errorf("lost=%v: another value: %q", lost, got)
		}
		if got := ask(secret); len(got) != 0 {
			t.Errorf("lost=%v: the same value: %q", lost, got)
		}
	}
}

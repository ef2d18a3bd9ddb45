package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// dying is an engine client whose process dies at the n-th call that changes something: before the call or
// after it. From then on nothing gets through.
type dying struct {
	client.APIClient
	at    int
	after bool
	kill  func()

	mu    sync.Mutex // guards what follows
	calls int
	dead  bool
	what  string
}

var errDead = errors.New("this process is dead")

func (d *dying) do(what string, call func() error) error {
	d.mu.Lock()
	if d.dead {
		d.mu.Unlock()
		return errDead
	}
	d.calls++
	die := d.calls == d.at
	if die {
		d.dead, d.what = true, what
	}
	d.mu.Unlock()
	if !die {
		return call()
	}
	if d.after {
		_ = call()
	}
	d.kill()
	return errDead
}

func (d *dying) ContainerCreate(ctx context.Context, c *docker.Config, h *docker.HostConfig, n *network.NetworkingConfig, p *ocispec.Platform, name string) (res docker.CreateResponse, err error) {
	err = d.do("create", func() error {
		res, err = d.APIClient.ContainerCreate(context.WithoutCancel(ctx), c, h, n, p, name)
		return err
	})
	return res, err
}

func (d *dying) ContainerStart(ctx context.Context, id string, o docker.StartOptions) error {
	return d.do("start", func() error { return d.APIClient.ContainerStart(context.WithoutCancel(ctx), id, o) })
}

func (d *dying) ContainerStop(ctx context.Context, id string, o docker.StopOptions) error {
	return d.do("stop", func() error { return d.APIClient.ContainerStop(context.WithoutCancel(ctx), id, o) })
}

func (d *dying) ContainerRename(ctx context.Context, id, name string) error {
	return d.do("rename", func() error { return d.APIClient.ContainerRename(context.WithoutCancel(ctx), id, name) })
}

func (d *dying) ContainerRemove(ctx context.Context, id string, o docker.RemoveOptions) error {
	return d.do("remove", func() error { return d.APIClient.ContainerRemove(context.WithoutCancel(ctx), id, o) })
}

// TestKilledAnywhere kills the agent before and after each call to the engine, starts another on the same root,
// and submits the op again: it ends as if nothing had happened, and nothing was done twice.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	settleAtOnce := func(c *schema.DeploymentConfig) { c.Settle = 0 }
	cases := []struct {
		name  string
		first bool // there is something to replace
		edit  func(*schema.DeploymentConfig)
		verb  protocol.Verb
		want  protocol.Status
		left  string
	}{
		{"create", false, settleAtOnce, protocol.Deploy, protocol.Done, " running"},
		{"replace", true, func(c *schema.DeploymentConfig) { env("K", "new")(c) }, protocol.Deploy, protocol.Done, " running"},
		{"roll back", true, failsOnce, protocol.Deploy, protocol.RolledBack, " running"},
		{"keep", true, func(c *schema.DeploymentConfig) { failsOnce(c); c.OnFailure = schema.OnFailureKeep }, protocol.Deploy, protocol.Failed, " exited"},
		{"restart", true, nil, protocol.Restart, protocol.Done, " running"},
		{"remove", true, nil, protocol.Remove, protocol.Done, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for at := 1; ; at++ {
				finished := false
				for _, after := range []bool{false, true} {
					finished = killOnce(t, c.first, c.edit, c.verb, c.want, c.left, at, after)
				}
				if finished {
					break
				}
			}
		})
	}
}

// failsOnce fails and is not restarted by the engine, whose own starts would be counted too.
func failsOnce(c *schema.DeploymentConfig) {
	unhealthy(c)
	c.Restart = "no"
}

func killOnce(t *testing.T, first bool, edit func(*schema.DeploymentConfig), verb protocol.Verb, want protocol.Status, left string, at int, after bool) (finished bool) {
	h := newHost(t)
	defer h.clean()
	if first {
		h.deploy("web")
	}
	h.stop()
	var d *dying
	died := make(chan struct{})
	h.wrap = func(api client.APIClient) client.APIClient {
		d = &dying{APIClient: api, at: at, after: after}
		d.kill = func() { h.cancel(); close(died) }
		return d
	}
	h.start()
	var op protocol.Op
	if edit != nil {
		op = h.op("web", verb, h.config(edit), plan.Recreate)
	} else {
		op = h.op("web", verb, nil, plan.Restart)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	h.agent.Submit(ctx, op)
	_, err := h.agent.Wait(ctx, op.ID)
	select {
	case <-died:
	default:
		if err != nil {
			t.Fatal(err)
		}
		return true // fewer than "at" calls
	}
	what := fmt.Sprintf("killed at call %d (%s), after it: %v", at, d.what, after)
	h.stop()
	h.wrap = nil
	h.start()
	if out := h.do(op); out.Status != want {
		t.Errorf("%s: %+v", what, out)
	}
	s := h.observe()
	var got []string
	for _, c := range s.Containers {
		if strings.HasPrefix(c.Name, h.fleet) {
			got = append(got, c.Name+" "+c.Status)
		}
	}
	wanted := ""
	if left != "" {
		wanted = h.name("web") + left
	}
	if strings.Join(got, ", ") != wanted {
		t.Errorf("%s: left %q", what, got)
	}
	if want != protocol.Done && len(s.Holds) != 1 {
		t.Errorf("%s: holds %+v", what, s.Holds)
	}
	if doing := h.agent.ledger.get(op.Resource).Doing; doing != nil {
		t.Errorf("%s: still doing %+v", what, doing)
	}
	if (h.agent.ledger.get(op.Resource).Entry == nil) != (verb == protocol.Remove) {
		t.Errorf("%s: ledger %+v", what, h.agent.ledger.get(op.Resource))
	}
	events := h.history()
	creates := 0
	for k, n := range events {
		action, name, _ := strings.Cut(k, " ")
		if action == "create" && strings.HasPrefix(name, h.fleet) {
			creates += n
		}
		id := !strings.HasPrefix(name, h.fleet)
		limit := 1
		if action == "start" && (want == protocol.RolledBack || verb == protocol.Restart) {
			limit = 2 // what ran before starts again
		}
		if action == "rename" {
			limit = 2
		}
		if id && (action == "start" || action == "destroy" || action == "stop" || action == "rename") && n > limit {
			t.Errorf("%s: %s %d times", what, k, n)
		}
	}
	made := 1
	if first && verb == protocol.Deploy {
		made = 2
	}
	if creates != made {
		t.Errorf("%s: %d containers were created, want %d: %v", what, creates, made, events)
	}
	return false
}

// TestHalfMade: a container that was created and never started is taken up by the next op, under whatever id, and
// is not made a second time.
func TestHalfMade(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.stop()
	h.wrap = func(api client.APIClient) client.APIClient {
		return &dying{APIClient: api, at: 1, after: true, kill: func() { h.cancel() }}
	}
	h.start()
	op := h.op("web", protocol.Deploy, h.config(), plan.Create)
	h.agent.Submit(t.Context(), op)
	if _, err := h.agent.Wait(t.Context(), op.ID); err == nil {
		t.Fatal("it was not killed")
	}
	h.stop()
	h.wrap = nil
	h.start()
	c := h.container("web")
	if c == nil || c.Status != "created" || c.Leftover == "" {
		t.Fatalf("half made: %+v", c)
	}
	again := h.op("web", protocol.Deploy, h.config(), plan.Create)
	h.must(again)
	if now := h.container("web"); now.ID != c.ID || now.Status != "running" || now.Leftover != "" {
		t.Errorf("taken up: %+v", now)
	}
}

// unfinished is an engine that lists a container and keeps its name while it still makes it, and cannot be asked about it
// the first few times.
type unfinished struct {
	client.APIClient
	what []string // its name and id
	left atomic.Int64
}

func (u *unfinished) ContainerInspect(ctx context.Context, id string) (docker.InspectResponse, error) {
	if slices.Contains(u.what, id) && u.left.Add(-1) >= 0 {
		return docker.InspectResponse{}, fmt.Errorf("no such container: %s: %w", id, errdefs.ErrNotFound)
	}
	return u.APIClient.ContainerInspect(ctx, id)
}

// TestStillBeingMade: what a killed process asked for a moment ago, and the engine has not finished, is waited for and
// not made a second time.
func TestStillBeingMade(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.deploy("web")
	first := h.container("web").ID
	h.stop()
	h.wrap = func(api client.APIClient) client.APIClient {
		return &dying{APIClient: api, at: 1, after: true, kill: func() { h.cancel() }}
	}
	h.start()
	change := h.config(func(c *schema.DeploymentConfig) { c.Environment = []schema.KV{{Key: "NEW", Value: "1"}} })
	op := h.op("web", protocol.Deploy, change, plan.Recreate)
	h.agent.Submit(t.Context(), op)
	if _, err := h.agent.Wait(t.Context(), op.ID); err == nil {
		t.Fatal("it was not killed")
	}
	h.stop()
	half, err := h.api.ContainerInspect(t.Context(), h.name("web")+container.NewSuffix)
	if err != nil {
		t.Fatal(err)
	}
	making := &unfinished{what: []string{half.ID, h.name("web") + container.NewSuffix}}
	h.wrap = func(api client.APIClient) client.APIClient { making.APIClient = api; return making }
	h.start()
	making.left.Store(3)
	h.must(op)
	if now := h.container("web"); now.ID != half.ID || now.ID == first {
		t.Errorf("%s runs, half made was %s, before it %s", now.ID, half.ID, first)
	}
}

// TestHalfMadeForNobody: what a killed process had made for a resource that nobody asks for any more goes.
func TestHalfMadeForNobody(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.deploy("other")
	h.stop()
	h.wrap = func(api client.APIClient) client.APIClient {
		return &dying{APIClient: api, at: 1, after: true, kill: func() { h.cancel() }}
	}
	h.start()
	op := h.op("web", protocol.Deploy, h.config(), plan.Create)
	h.agent.Submit(t.Context(), op)
	if _, err := h.agent.Wait(t.Context(), op.ID); err == nil {
		t.Fatal("it was not killed")
	}
	h.stop()
	h.wrap = nil
	h.start()
	seen := h.agent.tidy(t.Context(), nil)
	if len(seen) != 1 || len(h.mine()) != 2 {
		t.Fatalf("at the first look: %v, %v", seen, h.mine())
	}
	h.agent.tidy(t.Context(), seen)
	if got := h.mine(); len(got) != 1 || got[0] != h.name("other")+" running" {
		t.Errorf("left: %v", got)
	}
}

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// balky is an engine that refuses single calls.
type balky struct {
	client.APIClient
	start, remove func(id string) error
}

func (b *balky) ContainerStart(ctx context.Context, id string, o docker.StartOptions) error {
	if b.start != nil {
		if err := b.start(id); err != nil {
			return err
		}
	}
	return b.APIClient.ContainerStart(ctx, id, o)
}

func (b *balky) ContainerRemove(ctx context.Context, id string, o docker.RemoveOptions) error {
	if b.remove != nil {
		if err := b.remove(id); err != nil {
			return err
		}
	}
	return b.APIClient.ContainerRemove(ctx, id, o)
}

// balk starts the test's agent anew on an engine that refuses calls.
func (h *host) balk() *balky {
	h.Helper()
	h.stop()
	b := &balky{}
	h.wrap = func(api client.APIClient) client.APIClient { b.APIClient = api; return b }
	h.start()
	return b
}

// alone is a service that sleeps and needs no network: the engine has few to give.
const alone = sleeps + "    network_mode: none\n"

var errBusy = errors.New("error response from daemon: device or resource busy")

// TestHalfMadeStack: a stack's first containers, made by a process that was killed before it started them, are
// taken up by the next op.
func TestHalfMadeStack(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	file := "services:\n  a:" + alone + "  b:" + alone + "  c:" + alone
	h.stop()
	h.wrap = func(api client.APIClient) client.APIClient {
		return &dying{APIClient: api, at: 3, after: true, kill: func() { h.cancel() }}
	}
	h.start()
	op := h.stack(protocol.Deploy, file)
	h.agent.Submit(t.Context(), op)
	if _, err := h.agent.Wait(t.Context(), op.ID); err == nil {
		t.Fatal("it was not killed")
	}
	h.stop()
	h.wrap = nil
	h.start()
	laid := func() bool {
		_, err := os.Stat(filepath.Join(h.root, "stacks", h.fleet, "compose.yaml"))
		return err == nil
	}
	if laid() {
		t.Error("what was laid was not taken back")
	}
	made := len(h.services())
	if made != 3 {
		t.Fatalf("half made: %v", h.services())
	}
	h.must(h.stack(protocol.Deploy, file))
	if now := h.services(); now["a"].Status != "running" || now["b"].Status != "running" || now["c"].Status != "running" || len(now) != 3 || !laid() {
		t.Errorf("taken up: %v", now)
	}
}

// TestRollbackStartsAll: what ran before and cannot be started again keeps nothing else from running again.
func TestRollbackStartsAll(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.balk()
	file := func(k, bad string) string {
		s := "services:\n"
		for _, name := range []string{"a", "b", "c", "d"} {
			does := alone
			if name == bad {
				does = strings.Replace(does, "sleep, '1000000'", "'/no-such-program'", 1)
			}
			needs := ""
			if name != "a" {
				needs = "    depends_on: [a]\n"
			}
			s += "  " + name + ":" + does + "    environment: {K: '" + k + "'}\n" + needs
		}
		return s
	}
	h.must(h.stack(protocol.Deploy, file("1", "")))
	first := h.services()
	b.start = func(id string) error {
		if id == first["a"].ID {
			return errors.New("Error response from daemon: driver failed programming external connectivity on endpoint x: Bind for 0.0.0.0:1 failed: port is already allocated")
		}
		return nil
	}
	out := h.do(h.stack(protocol.Deploy, file("2", "d")))
	if out.Status != protocol.Failed || out.Held == "" || !strings.Contains(out.Error, "port 1 is taken") {
		t.Errorf("rollback: %+v", out)
	}
	now := h.services()
	for _, s := range []string{"b", "c", "d"} {
		if now[s].ID != first[s].ID || now[s].Status != "running" {
			t.Errorf("%s after the rollback: %+v", s, now[s])
		}
	}
}

// TestOldCannotBeRemoved: the new containers run and are good; that the engine cannot remove an old one now does
// not undo that.
func TestOldCannotBeRemoved(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.balk()
	h.deploy("web")
	old := h.container("web").ID
	b.remove = func(id string) error {
		if id == old {
			return errBusy
		}
		return nil
	}
	if out := h.deploy("web", env("K", "new")); !strings.Contains(out.Error, "busy") {
		t.Errorf("nothing is said of it: %+v", out)
	}
	now := h.container("web")
	if now.ID == old || now.Status != "running" {
		t.Fatalf("after the change: %+v", now)
	}
	c, err := h.api.ContainerInspect(t.Context(), old)
	if err != nil || c.State.Running || c.HostConfig.RestartPolicy.Name != docker.RestartPolicyDisabled {
		t.Errorf("what could not be removed: %+v %v", c.State, err)
	}
	b.remove = nil
	h.agent.tidy(t.Context(), nil)
	if got := h.mine(); len(got) != 1 || len(h.agent.ledger.get(h.id("web")).Left) != 0 {
		t.Errorf("left: %v", got)
	}
	// What somebody starts in between is theirs.
	kept := h.container("web").ID
	b.remove = func(id string) error {
		if id == kept {
			return errBusy
		}
		return nil
	}
	h.deploy("web", env("K", "newest"))
	b.remove = nil
	if err := h.api.ContainerStart(t.Context(), kept, docker.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	h.agent.tidy(t.Context(), nil)
	if c, err := h.api.ContainerInspect(t.Context(), kept); err != nil || !c.State.Running || len(h.agent.ledger.get(h.id("web")).Left) != 0 {
		t.Errorf("started by somebody: %v", err)
	}
	// To remove the resource itself is another matter: it is not forgotten before it is gone.
	b.remove = func(string) error { return errBusy }
	gone := h.op("web", protocol.Remove, nil, plan.Remove)
	if out := h.do(gone); out.Status != protocol.Failed || h.agent.ledger.get(gone.Resource).Entry == nil {
		t.Errorf("a removal that failed: %+v", out)
	}
	b.remove = nil
	h.must(h.op("web", protocol.Remove, nil, plan.Remove))
	if got := h.mine(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// TestNewCannotBeRemoved: a failed container that the engine cannot remove keeps what ran before from nothing but
// its tidiness.
func TestNewCannotBeRemoved(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.balk()
	h.deploy("web")
	old := h.container("web").ID
	b.remove = func(id string) error {
		if id != old {
			return errBusy
		}
		return nil
	}
	out := h.do(h.op("web", protocol.Deploy, h.config(unhealthy), plan.Recreate))
	if out.Status != protocol.RolledBack || out.Held == "" || !strings.Contains(out.Error, "busy") {
		t.Errorf("rollback: %+v", out)
	}
	if now := h.container("web"); now == nil || now.ID != old || now.Status != "running" {
		t.Errorf("what ran before: %+v", now)
	}
	b.remove = nil
	h.deploy("web", env("K", "new"))
	if got := h.mine(); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

// TestGoneMeanwhile: a rollback says of what ran before that somebody took it away.
func TestGoneMeanwhile(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.balk()
	h.deploy("web")
	old := h.container("web").ID
	b.start = func(id string) error {
		if id != old {
			_ = h.api.ContainerRemove(t.Context(), old, docker.RemoveOptions{Force: true})
			return errBusy
		}
		return nil
	}
	out := h.do(h.op("web", protocol.Deploy, h.config(env("K", "new")), plan.Recreate))
	if out.Status != protocol.Failed || !strings.Contains(out.Error, "was removed meanwhile") {
		t.Errorf("rollback: %+v", out)
	}
}

// TestRollbackStartsRestarted: what was stopped to be restarted runs again after the rollback of the others.
func TestRollbackStartsRestarted(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.balk()
	file := func(k string) string {
		return "services:\n  a:" + alone + "    environment: {K: '" + k + "'}\n  b:" + alone
	}
	h.must(h.stack(protocol.Deploy, file("1")))
	first := h.services()
	failed := false
	b.start = func(id string) error {
		if id == first["b"].ID && !failed {
			failed = true
			return errBusy
		}
		return nil
	}
	out := h.do(h.stack(protocol.Deploy, file("2"), plan.ServiceStep{Name: "a", Action: plan.Recreate}, plan.ServiceStep{Name: "b", Action: plan.Restart}))
	if out.Status != protocol.RolledBack {
		t.Errorf("rollback: %+v", out)
	}
	for s, c := range h.services() {
		if c.ID != first[s].ID || c.Status != "running" {
			t.Errorf("%s after the rollback: %+v", s, c)
		}
	}
}

// TestServiceCannotBeRemoved: a service that was to go and stays is no success, though the others changed.
func TestServiceCannotBeRemoved(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.balk()
	h.must(h.stack(protocol.Deploy, "services:\n  a:"+alone+"  b:"+alone))
	first := h.services()
	b.remove = func(id string) error {
		if id == first["b"].ID {
			return errBusy
		}
		return nil
	}
	file := "services:\n  a:" + alone + "    environment: {K: v}\n"
	out := h.do(h.stack(protocol.Deploy, file, plan.ServiceStep{Name: "a", Action: plan.Recreate}, plan.ServiceStep{Name: "b", Action: plan.Remove}))
	if out.Status != protocol.Failed || out.Held != "" || !strings.Contains(out.Error, "service b is stopped but not removed") {
		t.Errorf("outcome: %+v", out)
	}
	if now := h.services(); now["a"].ID == first["a"].ID || now["a"].Status != "running" || now["b"].Status != "exited" {
		t.Errorf("services: %+v", now)
	}
	b.remove = nil
	h.must(h.stack(protocol.Deploy, file, plan.ServiceStep{Name: "b", Action: plan.Remove}))
	if got := h.mine(); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

// TestResumedSecret: a process that goes on with another's op does not know its secrets' values, and repeats nothing
// in which they may stand.
func TestResumedSecret(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-is-not-to-be-seen"
	h := newHost(t)
	cfg := h.config()
	cfg.Command = "[[PASSWORD]]"
	op := h.op("web", protocol.Deploy, cfg, plan.Create)
	op.Payload.Secrets["PASSWORD"] = secret
	h.stop()
	h.wrap = func(api client.APIClient) client.APIClient {
		return &dying{APIClient: api, at: 2, kill: func() { h.cancel() }} // created, not started
	}
	h.start()
	h.agent.Submit(t.Context(), op)
	if _, err := h.agent.Wait(t.Context(), op.ID); err == nil {
		t.Fatal("it was not killed")
	}
	h.stop()
	h.wrap = nil
	h.start()
	out := h.do(op)
	state, err := json.Marshal(h.observe())
	if err != nil {
		t.Fatal(err)
	}
	if out.Held == "" || !strings.Contains(out.Error, "start container") {
		t.Errorf("outcome: %+v", out)
	}
	for _, text := range []string{out.Error, out.Hint, out.Tail, string(state)} {
		if strings.Contains(text, secret) {
			t.Errorf("the secret stands in %s", text)
		}
	}
}

// TestLearnedBesideAnOp: what an observation learns of host files never overwrites the record of an op.
func TestLearnedBesideAnOp(t *testing.T) {
	l, err := openLedger(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	id := schema.NewID(schema.KindStack, "web")
	put := func(r *record) {
		t.Helper()
		if err := l.put(r); err != nil {
			t.Fatal(err)
		}
	}
	put(&record{Format: recordFormat, Resource: id, Entry: &plan.Entry{Resource: id}, Hosts: map[string]laid{"/f": {Hash: "1"}}})
	seen := l.get(id) // the observation begins
	put(&record{Format: recordFormat, Resource: id, Entry: seen.Entry, Hosts: seen.Hosts, Doing: &doing{Op: "op"}})
	if err := l.learnHosts(id, seen.Hosts, map[string]laid{"/g": {Hash: "2"}}); err != nil || l.get(id).Doing == nil || len(l.get(id).Hosts) != 1 {
		t.Errorf("while the op works: %+v %v", l.get(id), err)
	}
	put(&record{Format: recordFormat, Resource: id, Entry: seen.Entry, Hosts: map[string]laid{"/f": {Hash: "3"}}})
	if err := l.learnHosts(id, seen.Hosts, map[string]laid{"/f": {Hash: "1", Size: 9}, "/g": {Hash: "2"}}); err != nil {
		t.Fatal(err)
	}
	if got := l.get(id).Hosts; got["/f"].Hash != "3" || got["/g"].Hash != "2" {
		t.Errorf("after the op: %+v", got)
	}
}

// TestSweep: a new agent removes the half-written files of a killed one, and nothing else.
func TestSweep(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.stop()
	for name, stays := range map[string]bool{".new-1": false, ".build-1/x": false, "ledger/stack/.new-2": false, "undo/web.json.new": false,
		"stacks/web/.new-3": true, "stacks/.build-2/x": true, "build-3/x": true} {
		name := filepath.Join(h.root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := os.Stat(name); (err == nil) != stays {
				t.Errorf("%s: %v, want it to stay: %v", name, err, stays)
			}
		}()
	}
	h.start()
}

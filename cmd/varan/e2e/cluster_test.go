package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/varanhq/varan/apply/fleettest"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/forgetest"
	"github.com/varanhq/varan/sync/httpd"
)

// A clusterWorld is a fleet whose daemons meet at a NATS cluster of three servers, which the test runs. Each daemon is in
// a network of its own, joined to this machine by a link that can be cut. Its agent runs on this machine's engine.
type clusterWorld struct {
	*world
	nats  *fleettest.Cluster
	posts []*postOf
	agent *exec.Cmd
	gone  chan struct{} // closed when the agent has ended
	out   string        // of the agent
}

// A postOf is one daemon with its machine's network.
type postOf struct {
	*world // with its own varan.toml and data
	name   string
	ns     string
	wire   string
	daemon *daemon
}

func newClusterWorld(t *testing.T, names ...string) *clusterWorld {
	t.Helper()
	w := newWorld(t)
	if os.Geteuid() != 0 {
		t.Skip("networks of their own need root")
	}
	for _, program := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("the test needs %s: %v", program, err)
		}
	}
	c := &clusterWorld{world: w, out: filepath.Join(w.dir, "agent.out")}
	var ips []net.IP
	for i, name := range names {
		p, at := c.newPost(name, i)
		c.posts = append(c.posts, p)
		ips = append(ips, net.ParseIP(at))
	}
	r := c.varan("key", "--nats")
	if r.exit != 0 || !strings.Contains(r.stdout, "auth_callout") {
		t.Fatalf("varan key --nats: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	c.nats = fleettest.NewCluster(t, 3, r.stdout, ips...)
	for i, p := range c.posts {
		p.configure(c.nats.URL(ips[i].String()), c.nats.CAFile(), p.name)
	}
	return c
}

// newPost makes a daemon's network, and says at which address it sees this machine.
func (c *clusterWorld) newPost(name string, i int) (*postOf, string) {
	c.t.Helper()
	id := strings.TrimPrefix(c.id, "e2e")
	same := *c.world
	same.dir = filepath.Join(c.dir, name)
	same.data, same.config = filepath.Join(same.dir, "data"), filepath.Join(same.dir, "varan.toml")
	if err := os.MkdirAll(same.dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	p := &postOf{world: &same, name: name, ns: fmt.Sprintf("c%s%d", id, i), wire: fmt.Sprintf("c%s%da", id, i)}
	n := (int(id[0])*7+int(id[1])*5+int(id[2])*3+int(id[3]))*16 + i*4
	prefix, base := fmt.Sprintf("10.%d.%d.", 232+n>>16&7, n>>8&255), n&252
	at := fmt.Sprintf("%s%d", prefix, base+1)
	peer := p.wire[:len(p.wire)-1] + "b"
	c.t.Cleanup(func() {
		_ = run("ip", "link", "del", p.wire)
		_ = run("ip", "netns", "del", p.ns)
	})
	for _, args := range [][]string{
		{"netns", "add", p.ns},
		{"link", "add", p.wire, "type", "veth", "peer", "name", peer},
		{"link", "set", peer, "netns", p.ns},
		{"addr", "add", at + "/30", "dev", p.wire},
		{"link", "set", p.wire, "up"},
		{"-n", p.ns, "addr", "add", fmt.Sprintf("%s%d/30", prefix, base+2), "dev", peer},
		{"-n", p.ns, "link", "set", peer, "up"},
		{"-n", p.ns, "link", "set", "lo", "up"},
	} {
		if err := run("ip", args...); err != nil {
			c.t.Fatal(err)
		}
	}
	return p, at
}

// configure writes the daemon's varan.toml.
func (p *postOf) configure(url, ca, name string) {
	p.t.Helper()
	text := fmt.Sprintf("name = %q\ndata_dir = %q\nlisten = \"127.0.0.1:8080\"\n[hub]\nurl = %q\nca_file = %q\nname = %q\nkey_file = %q\npatience = \"5s\"\n[agent]\nroot = %q\n[config]\npoll = \"1s\"\ndelete = true\n",
		p.id, p.data, url, ca, name, filepath.Join(filepath.Dir(p.dir), "hub.key"), filepath.Join(p.dir, "root"))
	if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// begin starts the daemon in its network.
func (p *postOf) begin() {
	p.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, "serve.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	bin := p.bin
	if raceDetector {
		if bin, err = buildRace(); err != nil {
			p.t.Fatal(err)
		}
	}
	args := []string{bin, "serve"}
	if p.ns != "" {
		args = []string{"nsenter", "--net=/var/run/netns/" + p.ns, bin, "serve", "--repo", p.repo}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = p.dir, append(os.Environ(), "VARAN_CONFIG="+p.config, "NO_COLOR=1")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	d := &daemon{w: p.world, cmd: cmd, log: log, done: make(chan struct{})}
	go func() { cmd.Wait(); close(d.done) }()
	p.daemon = d
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		d.kill()
		data, _ := os.ReadFile(log.Name())
		if bytes.Contains(data, []byte("DATA RACE")) {
			p.t.Error("the daemon has a data race")
		}
		if p.t.Failed() && len(data) > 0 {
			p.t.Logf("serve.log of %s:\n%s", p.name, data)
			_ = os.Remove(log.Name()) // once is enough
		}
	})
}

func (p *postOf) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.daemon.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *postOf) link(state string) {
	p.t.Helper()
	if err := run("ip", "link", "set", p.wire, state); err != nil {
		p.t.Fatal(err)
	}
}

// status is what the daemon says of itself; nil if it does not answer.
func (p *postOf) status() (*httpd.Status, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, err := httpd.Dial(filepath.Join(p.data, "varan.sock")).Status(ctx)
	if err != nil {
		return nil, err.Error()
	}
	data, _ := json.Marshal(s)
	return &s, string(data)
}

// leads reports whether the daemon says that it leads, and in which term.
func (p *postOf) leads() (term uint64, ok bool) {
	s, _ := p.status()
	if s == nil || s.Lead == nil || !s.Lead.Leading {
		return 0, false
	}
	return s.Lead.Term, true
}

// leader waits until one of the daemons leads.
func (c *clusterWorld) leader(of []*postOf, limit time.Duration) (leader *postOf, term uint64) {
	c.t.Helper()
	c.eventually("a daemon leads", limit, func() (bool, string) {
		said := ""
		for _, p := range of {
			if n, ok := p.leads(); ok {
				leader, term = p, n
				return true, ""
			}
			_, s := p.status()
			said += p.name + ": " + s + "\n"
		}
		return false, said
	})
	return leader, term
}

// others are all daemons but one.
func (c *clusterWorld) others(but *postOf) []*postOf {
	return slices.DeleteFunc(slices.Clone(c.posts), func(p *postOf) bool { return p == but })
}

// startAgent starts the agent on this machine's engine.
func (c *clusterWorld) startAgent() {
	c.t.Helper()
	out, err := os.OpenFile(c.out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	key := strings.TrimSpace(c.varan("key").stdout)
	c.agent = exec.Command(c.bin, "agent", "--hub", c.nats.URL("127.0.0.1"), "--fleet-key", key, "--fleet", c.id, "--name", "h1", "--root", c.root)
	c.agent.Stdout, c.agent.Stderr = out, out
	if err := c.agent.Start(); err != nil {
		c.t.Fatal(err)
	}
	agent, gone := c.agent, make(chan struct{})
	c.gone = gone
	go func() { _ = agent.Wait(); close(gone) }()
	c.t.Cleanup(func() {
		_ = agent.Process.Kill()
		<-gone
		if data, _ := os.ReadFile(c.out); c.t.Failed() && len(data) > 0 {
			c.t.Logf("agent:\n%s", data)
			_ = os.Remove(c.out)
		}
	})
}

func (c *clusterWorld) killAgent() {
	_ = c.agent.Process.Kill()
	<-c.gone
}

// apps are four deployments, one after another two by two, that take a while to be healthy.
func apps(version string) string {
	return healthyAfter(1, on("h1", "a", version)) + healthyAfter(1, on("h1", "b", version, `after = ["ID-a"]`)) + healthyAfter(1, on("h1", "c", version)) + on("h1", "d", version, `after = ["ID-c"]`)
}

func (c *clusterWorld) push(version string) time.Time {
	c.t.Helper()
	start := time.Now()
	c.write(map[string]string{"a.toml": apps(version)})
	c.commit(version)
	return start
}

// at waits until all runs at that version.
func (c *clusterWorld) at(version string, limit time.Duration) {
	c.t.Helper()
	c.eventually("all at "+version, limit, func() (bool, string) {
		list := c.containers(true)
		good := 0
		for _, one := range list {
			if one.State == "running" {
				good++
			}
		}
		return len(list) == 4 && good == 4 && c.versions(version), c.names()
	})
}

// once fails if a container op happened twice since a time.
func (c *clusterWorld) once(since time.Time) {
	c.t.Helper()
	for what, n := range c.opsSince(since) {
		if n > 1 {
			c.t.Errorf("%s happened %d times", what, n)
		}
	}
}

// rests waits until the leader has nothing to do.
func (c *clusterWorld) rests(p *postOf) {
	c.t.Helper()
	p.settled()
}

// empty fails unless the leader's plan changes nothing.
func (c *clusterWorld) empty(p *postOf) {
	c.t.Helper()
	var r ran
	c.eventually("the agent is back and the plan is empty", 40*time.Second, func() (bool, string) {
		r = p.varan("plan", "--detailed-exitcode", c.repo)
		return r.exit == 0 && !strings.Contains(r.stdout, "is unreachable"), fmt.Sprint(r.exit, r.stdout, r.stderr)
	})
}

// newPlainCluster makes two daemons in this machine's own network of a world with its varan.toml, which has every key
// but those of [hub]. Their HTTP is at the addresses returned.
func newPlainCluster(w *world, repo string) (c *clusterWorld, http []string) {
	w.t.Helper()
	c = &clusterWorld{world: w, out: filepath.Join(w.dir, "agent.out")}
	r := c.varan("key", "--nats")
	if r.exit != 0 {
		w.t.Fatalf("varan key --nats: %s", r.stderr)
	}
	c.nats = fleettest.NewCluster(w.t, 3, r.stdout)
	data, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		same := *w
		same.dir = filepath.Join(w.dir, name)
		same.data, same.config = filepath.Join(same.dir, "data"), filepath.Join(same.dir, "varan.toml")
		address := "127.0.0.1:" + freePort(w.t)
		text := strings.Replace(string(data), fmt.Sprintf("data_dir = %q", w.data), fmt.Sprintf("data_dir = %q", same.data), 1)
		text = strings.Replace(text, "listen = \"\"", fmt.Sprintf("listen = %q", address), 1)
		text = strings.Replace(text, "[hub]\nlisten = \"\"", fmt.Sprintf("[hub]\nurl = %q\nca_file = %q\nname = %q", c.nats.URL("127.0.0.1"), c.nats.CAFile(), name), 1)
		if repo != "" {
			text = strings.Replace(text, "[config]\n", fmt.Sprintf("[config]\nurl = %q\n", repo), 1)
		}
		if err := os.MkdirAll(same.dir, 0o700); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(same.config, []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
		c.posts, http = append(c.posts, &postOf{world: &same, name: name}), append(http, address)
	}
	return c, http
}

// agentTOML starts the agent and returns what enrols it.
func (c *clusterWorld) agentTOML(leader *postOf) (toml string) {
	c.t.Helper()
	c.startAgent()
	c.eventually("the agent waits to be enrolled", 30*time.Second, func() (bool, string) {
		r := leader.varan("status", "--toml")
		toml = r.stdout
		return strings.Count(toml, "[[server]]") == 1, r.stdout + r.stderr
	})
	return toml
}

// TestClusterForge: a leader that is frozen while it tells a forge something, before the write or in it, writes nothing
// when it wakes up; the heir has said it, once.
func TestClusterForge(t *testing.T) {
	t.Parallel() // it waits, most of the time
	h := onForge(t, forge.GitHub, false, "")
	h.push("ann", "main", map[string]string{"README.md": "hello"})
	c, _ := newPlainCluster(h.world, h.infra.CloneURL())
	for _, p := range c.posts {
		p.begin()
	}
	leader, _ := c.leader(c.posts, 30*time.Second)
	base, err := h.infra.Push("ann", "main", map[string]string{"servers.toml": c.agentTOML(leader)}) // as it stands: a key may hold any letters
	if err != nil {
		t.Fatal(err)
	}
	h.told(40*time.Second, base, "varan/apply", "success", nil)
	c.eventually("h1 is reached", 30*time.Second, func() (bool, string) {
		s, said := leader.status()
		return s != nil && slices.ContainsFunc(s.Servers, func(x sync.ServerStatus) bool {
			return x.Name == "h1" && x.Unreachable == "" && x.State != "unreachable"
		}), said
	})
	for i, at := range []string{"before a write", "in a write"} {
		version := fmt.Sprintf("v%d", i+1)
		old, _ := c.leader(c.posts, 15*time.Second)
		heir := c.others(old)[0]
		head := h.push("ann", "change-"+version, map[string]string{"a.toml": on("h1", "a", version)})
		n := h.pull("ann", "change-"+version)
		h.told(30*time.Second, head, "varan/plan", "success", func() (bool, string) {
			ok, said := h.comment(n, "1 ")()
			return ok, said + fmt.Sprint(h.infra.History(head))
		})
		var frozen atomic.Bool
		h.forge.Trouble(forgetest.Trouble{Times: 1, Drop: at == "in a write", Match: func(r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/status") || forgetest.Writes(r) != (at == "in a write") || !frozen.CompareAndSwap(false, true) {
				return false
			}
			_ = old.daemon.cmd.Process.Signal(syscall.SIGSTOP)
			return at == "in a write"
		}})
		struck := time.Now()
		merged := h.merge(n)
		c.leader([]*postOf{heir}, 30*time.Second)
		h.told(40*time.Second, merged, "varan/apply", "success", h.comment(n, "✅"))
		t.Logf("frozen %s: %s leads and has told the forge %s after the merge", at, heir.name, time.Since(struck).Round(time.Millisecond))
		if !frozen.Load() {
			t.Fatal("the leader was not frozen")
		}
		heir.settled()
		before := len(h.infra.History(merged))
		writes := func() (n int) {
			for _, call := range h.forge.Calls() {
				if call.Method != http.MethodGet && (strings.Contains(call.Path, "/statuses") || strings.Contains(call.Path, "/comments")) {
					n++
				}
			}
			return n
		}
		said := writes()
		old.signal(syscall.SIGCONT)
		c.follower(old, heir)
		time.Sleep(3 * time.Second) // for what it must not do there is no event
		if after := len(h.infra.History(merged)); after != before || writes() != said {
			t.Errorf("who woke up wrote: %d statuses of the merge after %d, %d writes after %d: %+v", after, before, writes(), said, h.infra.History(merged))
		}
		h.said(n, head, merged)
	}
}

// TestClusterWebhook: a follower takes webhooks for the leader, and for whoever leads next while nobody does.
func TestClusterWebhook(t *testing.T) {
	t.Parallel()
	w, repo, url := hooked(t)
	c, addresses := newPlainCluster(w, "")
	w.write(map[string]string{"a.toml": ""})
	first := w.commit("first")
	repo.Send()
	for _, p := range c.posts {
		p.begin()
	}
	leader, _ := c.leader(c.posts, 30*time.Second)
	toml := c.agentTOML(leader)
	follower := c.others(leader)[0]
	base := "http://" + addresses[slices.Index(c.posts, follower)]
	send := func(id, before, after string) {
		t.Helper()
		if status, _ := deliver(http.DefaultClient, base, id, "guess", hook(url, before, after, "")); status != http.StatusUnauthorized {
			t.Errorf("a forged webhook: %d", status)
		}
		for range 2 { // the same once more
			if status, _ := deliver(http.DefaultClient, base, id, hookSecret, hook(url, before, after, "")); status != http.StatusAccepted {
				t.Fatalf("a webhook at a follower: %d", status)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(w.repo, "servers.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	w.write(map[string]string{"a.toml": on("h1", "a", "v1")})
	second := w.commit("second")
	repo.Send()
	begun := time.Now()
	send("1", first, second)
	leader.good(second)
	t.Logf("from a follower's webhook to applied: %s", time.Since(begun).Round(time.Millisecond))

	leader.daemon.kill()
	w.replace("a.toml", "K = v1", "K = v2")
	third := w.commit("third")
	repo.Send()
	begun = time.Now()
	send("2", second, third)
	follower.good(third)
	t.Logf("from a webhook while nobody led to applied: %s", time.Since(begun).Round(time.Millisecond))
}

// TestClusterGrown: a fleet of one machine becomes one of several daemons, as docs/high-availability.md says, and no
// container notices.
func TestClusterGrown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\n")
	server := "[[server]]\nname = \"h1\"\nconfig.address = \"local\"\n"
	w.write(map[string]string{"servers.toml": server, "a.toml": on("h1", "a", "v1") + on("h1", "b", "v1")})
	first := w.commit("one machine")
	d := w.daemon()
	w.good(first)
	before := w.ids()
	d.stop()
	if len(before) != 2 {
		t.Fatalf("running: %v", before)
	}

	c, _ := newPlainCluster(w, w.repo)
	for _, p := range c.posts {
		p.begin()
	}
	leader, _ := c.leader(c.posts, 30*time.Second)
	leader.until("h1 has no agent", func(s standing) bool { return len(s.Syncs) > 0 && s.Syncs[0].Tip == first })
	toml := c.agentTOML(leader)
	_, key, _ := strings.Cut(toml, "config.public_key")
	if err := os.WriteFile(filepath.Join(w.repo, "servers.toml"), []byte(server+"config.public_key"+key), 0o644); err != nil {
		t.Fatal(err)
	}
	second := w.commit("its agent is one as the others'")
	leader.good(second)
	c.empty(leader)
	if after := w.ids(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("after: %v, before %v", after, before)
	}
	w.replace("a.toml", "K = v1", "K = v2")
	third := w.commit("v2")
	leader.good(third)
	if !w.versions("v2") {
		t.Errorf("not all at v2: %s", w.names())
	}
}

// TestCluster: several daemons at a NATS cluster of three servers. Whatever happens to the one that leads, another one
// takes over within 10 s, what was pushed meanwhile is applied once, and who comes back does no harm.
func TestCluster(t *testing.T) {
	c := newClusterWorld(t, "a", "b")
	c.write(map[string]string{"a.toml": ""})
	c.commit("empty")
	for _, p := range c.posts {
		p.begin()
	}
	first, _ := c.leader(c.posts, 30*time.Second)
	if err := os.WriteFile(filepath.Join(c.repo, "servers.toml"), []byte(c.agentTOML(first)), 0o644); err != nil {
		t.Fatal(err)
	}
	start := c.push("v0")
	c.at("v0", 40*time.Second)
	c.rests(first)
	c.once(start)
	c.follower(c.others(first)[0], first)

	n := 0
	for round := range rounds(1, 10) {
		for _, disaster := range []string{"killed", "frozen", "cut off"} {
			n++
			version := fmt.Sprintf("v%d", n)
			if !t.Run(fmt.Sprintf("%s %d", disaster, round), func(t *testing.T) { c.in(t).disaster(disaster, version, round%2 == 1) }) {
				return
			}
		}
	}
	t.Run("a server of the cluster dies", func(t *testing.T) { c.in(t).serverDies() })
	t.Run("JetStream erased with the agent at term 50", func(t *testing.T) { c.in(t).erased() })
	for _, p := range c.posts {
		p.daemon.stop()
	}
}

// in is the same world, whose failures are t's.
func (c *clusterWorld) in(t *testing.T) *clusterWorld {
	same := *c
	same.world = c.world.in(t)
	return &same
}

// follower checks what a daemon that follows says.
func (c *clusterWorld) follower(p, leader *postOf) {
	c.t.Helper()
	c.eventually(p.name+" follows", 30*time.Second, func() (bool, string) {
		r := p.varan("status")
		return strings.Contains(r.stdout, "this daemon follows: "+leader.name+" leads"), r.stdout + r.stderr
	})
	if r := p.varan("hold", "server/h1", "because"); r.exit == 0 || !strings.Contains(r.stderr, leader.name+" leads") {
		c.t.Errorf("a follower obeys: exit %d %s", r.exit, r.stderr)
	}
	for who, want := range map[*postOf]string{p: "following", leader: "ready"} {
		if who.ns == "" {
			continue
		}
		out, err := exec.Command("nsenter", "--net=/var/run/netns/"+who.ns, "/bin/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/readyz").CombinedOutput()
		if got := strings.TrimSpace(string(out)); got != want {
			c.t.Errorf("/readyz of %s: %q %v, want %q", who.name, got, err, want)
		}
	}
}

// disaster strikes the leader, before a commit is pushed or while it works on it, and checks what comes of it.
func (c *clusterWorld) disaster(what, version string, busy bool) {
	old, oldTerm := c.leader(c.posts, 15*time.Second)
	others := c.others(old)
	start := time.Now()
	if busy || what == "frozen" { // in the middle of its run
		start = c.push(version)
		c.eventually("work begins", 20*time.Second, func() (bool, string) {
			for _, one := range c.containers(true) {
				if one.Created >= start.Unix() {
					return true, ""
				}
			}
			return false, c.names()
		})
	}
	struck := time.Now()
	switch what {
	case "killed":
		old.daemon.kill()
	case "frozen":
		old.signal(syscall.SIGSTOP)
	case "cut off":
		old.link("down")
	}
	if !busy && what != "frozen" {
		c.push(version)
	}
	heir, term := c.leader(others, 20*time.Second)
	took := time.Since(struck)
	c.at(version, time.Minute)
	done := time.Since(struck)
	c.t.Logf("%s leads %s after %s was %s, in term %d after %d; the commit was applied %s after it", heir.name, took.Round(time.Millisecond), old.name, what, term, oldTerm, done.Round(time.Millisecond))
	if took > 10*time.Second {
		c.t.Errorf("take-over took %s", took)
	}
	if term <= oldTerm {
		c.t.Errorf("term %d after %d", term, oldTerm)
	}
	c.rests(heir)
	before := c.running()
	switch what {
	case "killed":
		old.begin()
	case "frozen":
		old.signal(syscall.SIGCONT)
	case "cut off":
		if _, still := old.leads(); still {
			c.t.Errorf("%s is cut off and says that it leads", old.name)
		}
		old.link("up")
	}
	c.follower(old, heir)
	if after := c.running(); after != before {
		c.t.Errorf("who came back changed something: %s, before %s", after, before)
	}
	now, ok := heir.leads()
	if !ok || now != term {
		log, _ := os.ReadFile(filepath.Join(heir.dir, "serve.log"))
		if _, after, _ := strings.Cut(string(log), fmt.Sprintf("msg=\"this daemon leads\" term=%d", term)); !strings.Contains(after, "the lease cannot be read or written") {
			c.t.Errorf("%s leads no more, or in term %d", heir.name, now)
		}
		c.t.Logf("the NATS cluster stood still for so long that %s lost the lease: on a machine at its limit its own servers need seconds to agree", heir.name)
		heir, _ = c.leader(c.posts, 30*time.Second)
	}
	c.once(start)
	c.empty(heir)
}

func (c *clusterWorld) running() string {
	ids := c.ids()
	var all []string
	for name, id := range ids {
		all = append(all, name+" "+id)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// serverDies: each server of the cluster in turn is down for a while, and what is pushed meanwhile is applied once.
func (c *clusterWorld) serverDies() {
	for i := range rounds(1, 3) {
		start := time.Now()
		c.nats.Stop(i)
		version := fmt.Sprintf("s%d", i)
		c.push(version)
		c.at(version, time.Minute)
		c.t.Logf("applied %s after a server of the cluster died", time.Since(start).Round(time.Millisecond))
		leader, _ := c.leader(c.posts, 20*time.Second)
		c.rests(leader)
		c.once(start)
		c.nats.Start()
		c.empty(leader)
	}
}

// erased: all that the cluster kept is gone, and the agent has obeyed a far higher term.
func (c *clusterWorld) erased() {
	c.killAgent()
	if err := os.WriteFile(filepath.Join(c.root, "term"), []byte("50\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	before := c.running()
	c.nats.Erase()
	began := time.Now()
	c.startAgent()
	var leader *postOf
	c.eventually("a daemon leads above the agent's term", 40*time.Second, func() (bool, string) {
		said := ""
		for _, p := range c.posts {
			if term, ok := p.leads(); ok && term > 50 {
				leader = p
				return true, ""
			}
			_, s := p.status()
			said += p.name + ": " + s + "\n"
		}
		return false, said
	})
	c.t.Logf("%s leads above term 50 %s after the cluster came back empty", leader.name, time.Since(began).Round(time.Millisecond))
	c.empty(leader)
	if after := c.running(); after != before {
		c.t.Errorf("after the loss %s, before %s", after, before)
	}
	start := c.push("erased")
	c.at("erased", time.Minute)
	c.rests(leader)
	c.once(start)
}

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/varanhq/varan/sync/httpd"
)

// A hostOf is one more machine of a world's fleet: a Docker engine of its own in a network of its own, joined to this
// machine by one link that can be cut, and an agent that reaches the daemon over it.
type hostOf struct {
	*world // of the same fleet, with this host's engine: its containers and events are this host's
	name   string
	dir    string // short: unix sockets lie in it
	ns     string // network namespace
	wire   string // this machine's end of the link
	to     string // this machine's address on the link
	port   string // of the hub
	socket string
	out    string       // file of what the agent prints
	owner  *testing.T   // the whole test: processes outlive its parts
	agent  *agentOfHost // shared by the parts
	own    string       // the agent's binary where the host has a copy of its own; "" = the world's
}

// An agentOfHost is a host's agent process.
type agentOfHost struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has ended
}

// An aFleet is a world whose daemon has agents on other hosts.
type aFleet struct {
	*world
	hosts map[string]*hostOf
	names []string
	port  string
	whole *aFleet // the fleet of the whole test: processes outlive its parts
	// ending are the engines that are being shut down, side by side.
	ending *sync.WaitGroup
}

// newFleet makes the hosts, with engines and no agents yet.
func newFleet(t *testing.T, names ...string) *aFleet {
	t.Helper()
	w := newWorld(t)
	if os.Geteuid() != 0 {
		t.Skip("several engines need root")
	}
	for _, program := range []string{"dockerd", "ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("several engines need %s: %v", program, err)
		}
	}
	f := &aFleet{world: w, hosts: map[string]*hostOf{}, names: names, port: freePort(t), ending: new(sync.WaitGroup)}
	f.whole = f
	t.Cleanup(f.ending.Wait)
	f.configure("")
	errs := make(chan error)
	for i, name := range names {
		h := f.newHost(name, i)
		f.hosts[name] = h
		go func() { errs <- h.ready() }()
	}
	for range names {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range f.hosts {
		h.images()
		h.record()
	}
	return f
}

// configure writes varan.toml with a hub that listens; more is of [config].
func (f *aFleet) configure(more string) {
	f.t.Helper()
	f.world.configure("[config]\npoll = \"1s\"\n" + more)
	data, err := os.ReadFile(f.config)
	if err == nil {
		err = os.WriteFile(f.config, []byte(strings.Replace(string(data), "[hub]\nlisten = \"\"", "[hub]\nlisten = \":"+f.port+"\"\npatience = \"5s\"", 1)), 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// newHost makes the network and starts the engine in it.
func (f *aFleet) newHost(name string, i int) *hostOf {
	f.t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vf")
	if err != nil {
		f.t.Fatal(err)
	}
	id := strings.TrimPrefix(f.id, "e2e")
	h := &hostOf{name: name, dir: dir, ns: fmt.Sprintf("v%s%d", id, i), wire: fmt.Sprintf("v%s%da", id, i), port: f.port,
		socket: filepath.Join(dir, "s"), out: filepath.Join(dir, "agent.out"), owner: f.t, agent: &agentOfHost{}}
	// A network of four addresses for each host, apart from those of others who test at the same time.
	block := fnv.New32a()
	block.Write([]byte(id))
	n := int(block.Sum32()%(32<<12))*16 + i*4
	net := fmt.Sprintf("10.%d.%d.", 200+n>>16&31, n>>8&255)
	base := n & 252
	h.to = fmt.Sprintf("%s%d", net, base+1)
	peer := h.wire[:len(h.wire)-1] + "b"
	started := false
	f.t.Cleanup(func() {
		if !started {
			h.gone()
		}
	})
	for _, args := range [][]string{
		{"netns", "add", h.ns},
		{"link", "add", h.wire, "type", "veth", "peer", "name", peer},
		{"link", "set", peer, "netns", h.ns},
		{"addr", "add", h.to + "/30", "dev", h.wire},
		{"link", "set", h.wire, "up"},
		{"-n", h.ns, "addr", "add", fmt.Sprintf("%s%d/30", net, base+2), "dev", peer},
		{"-n", h.ns, "link", "set", peer, "up"},
		{"-n", h.ns, "link", "set", "lo", "up"},
	} {
		if err := run("ip", args...); err != nil {
			f.t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := h.inside("dockerd", "--data-root", filepath.Join(dir, "d"), "--exec-root", filepath.Join(dir, "e"),
		"--pidfile", filepath.Join(dir, "pid"), "-H", "unix://"+h.socket, "--bridge=none", "--iptables=false", "--ip-masq=false",
		"--containerd-namespace", h.ns, "--containerd-plugins-namespace", h.ns+"p", "--shutdown-timeout", "1")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	docker, err := client.NewClientWithOpts(client.WithHost("unix://"+h.socket), client.WithAPIVersionNegotiation())
	if err != nil {
		f.t.Fatal(err)
	}
	same := *f.world
	h.world = &same
	h.docker, h.told = docker, new(recording)
	started = true
	f.t.Cleanup(func() { f.ending.Go(func() { h.endEngine(cmd); h.gone() }) })
	return h
}

// gone takes away what stays of the host.
func (h *hostOf) gone() {
	_ = run("ip", "link", "del", h.wire)
	_ = run("ip", "netns", "del", h.ns)
	for syscall.Unmount(filepath.Join(h.dir, "e", "netns", "default"), syscall.MNT_DETACH) == nil {
		// One lies there for each start of a container in the host's network.
	}
	_ = os.RemoveAll(h.dir)
}

// endEngine removes the containers and ends the engine.
func (h *hostOf) endEngine(engine *exec.Cmd) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if list, err := h.docker.ContainerList(ctx, container.ListOptions{All: true}); err == nil {
		for _, c := range list {
			_ = h.docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
		}
	}
	h.docker.Close()
	_ = engine.Process.Signal(syscall.SIGTERM)
	ended := make(chan struct{})
	go func() { _ = engine.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		_ = engine.Process.Kill()
		<-ended
	}
}

// inside is a command in the host's network. nsenter becomes the command, so its process is the command's.
func (h *hostOf) inside(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=/var/run/netns/" + h.ns}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+h.socket, "NO_COLOR=1")
	return cmd
}

// ready waits for the engine.
func (h *hostOf) ready() error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := h.docker.Ping(context.Background())
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(h.dir, "dockerd.log"))
			return fmt.Errorf("engine of %s: %w\n%s", h.name, err, log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// startAgent starts the host's agent with the fleet's key.
func (h *hostOf) startAgent(key string, more ...string) {
	h.t.Helper()
	out, err := os.OpenFile(h.out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer out.Close()
	bin := h.bin
	if raceDetector {
		if bin, err = buildRace(); err != nil {
			h.t.Fatal(err)
		}
	}
	if h.own != "" {
		bin = h.own
	}
	args := []string{bin, "agent", "--hub", net.JoinHostPort(h.to, h.port), "--fleet-key", key, "--fleet", h.id, "--name", h.name, "--root", filepath.Join(h.dir, "root")}
	cmd := h.inside(append(args, more...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	gone := make(chan struct{})
	h.agent.cmd, h.agent.gone = cmd, gone
	go func() { _ = cmd.Wait(); close(gone) }()
	h.owner.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-gone
		data, _ := os.ReadFile(h.out)
		if strings.Contains(string(data), "DATA RACE") {
			h.owner.Errorf("the agent of %s has a data race", h.name)
		}
		if h.owner.Failed() && len(data) > 0 {
			h.owner.Logf("agent of %s:\n%s", h.name, data)
			_ = os.Remove(h.out) // once is enough
		}
	})
}

// killAgent ends the agent as a crash would.
func (h *hostOf) killAgent() {
	_ = h.agent.cmd.Process.Kill()
	<-h.agent.gone
}

// cut takes the link down; heal brings it up again.
func (h *hostOf) cut() {
	h.t.Helper()
	if err := run("ip", "link", "set", h.wire, "down"); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hostOf) heal() {
	h.t.Helper()
	if err := run("ip", "link", "set", h.wire, "up"); err != nil {
		h.t.Fatal(err)
	}
}

// key is the fleet's public key, once a daemon has made it.
func (f *aFleet) key() string {
	f.t.Helper()
	var key string
	f.eventually("the daemon makes the fleet's key", 20*time.Second, func() (bool, string) {
		r := f.varan("key")
		key = strings.TrimSpace(r.stdout)
		return r.exit == 0 && strings.HasPrefix(key, "U"), r.stdout + r.stderr
	})
	return key
}

// status is what varan status tells.
func (f *aFleet) status() (httpd.Status, string) {
	f.t.Helper()
	r := f.varan("status", "--json")
	var s httpd.Status
	_ = json.Unmarshal([]byte(r.stdout), &s)
	return s, r.stdout + r.stderr
}

// enrol starts all agents and commits what enrols them.
func (f *aFleet) enrol() {
	f.t.Helper()
	key := f.key()
	for _, h := range f.hosts {
		h.startAgent(key)
	}
	var text string
	f.eventually("the agents wait to be enrolled", 30*time.Second, func() (bool, string) {
		r := f.varan("status", "--toml")
		text = r.stdout
		return strings.Count(text, "[[server]]") == len(f.hosts), r.stdout + r.stderr
	})
	f.keys("servers.toml", text)
	f.commit("enrol")
	f.all("ok")
}

// keys writes a file of the config repository as it stands: a key may hold any letters, also those that world.write
// replaces.
func (f *aFleet) keys(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.repo, name), []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// all waits until every host is in that state.
func (f *aFleet) all(state string) {
	f.t.Helper()
	f.eventually("all servers are "+state, 90*time.Second, func() (bool, string) {
		s, said := f.status()
		n := 0
		for _, srv := range s.Servers {
			if f.hosts[srv.Name] != nil && (srv.State == state || state == "ok" && srv.Unreachable == "" && (srv.State == "warning" || srv.State == "critical")) {
				n++
			}
		}
		return n == len(f.hosts), said
	})
}

// running maps the containers of the whole fleet, by name without the world's id, to their ids and hosts.
func (f *aFleet) running() map[string]string {
	f.t.Helper()
	found := map[string]string{}
	for _, h := range f.hosts {
		for name, id := range h.ids() {
			found[strings.TrimPrefix(name, f.id+"-")] = h.name + " " + id
		}
	}
	return found
}

// at waits until every container of the fleet runs with K = version, and there are n of them.
func (f *aFleet) at(version string, n int, limit time.Duration) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%d containers at %s", n, version), limit, func() (bool, string) {
		all, good, said := 0, 0, []string{}
		for _, h := range f.hosts {
			list := h.containers(true)
			all += len(list)
			if h.versions(version) {
				for _, c := range list {
					if c.State == "running" {
						good++
					}
				}
			}
			said = append(said, h.name+": "+h.names())
		}
		if all != n || good != n {
			s, _ := f.status()
			for _, x := range s.Syncs {
				said = append(said, x.State+" "+x.Error)
			}
		}
		return all == n && good == n, strings.Join(said, "; ")
	})
}

// onceEach fails if any container op of a digest happened twice since a time.
func (f *aFleet) onceEach(since time.Time) {
	f.t.Helper()
	for _, h := range f.hosts {
		for what, n := range h.opsSince(since) {
			if n > 1 {
				f.t.Errorf("%s: %s happened %d times:\n%s", h.name, what, n, h.told.of(what, since))
			}
		}
	}
}

// of tells all events since a time of the resource that an op of opsSince is about.
func (r *recording) of(what string, since time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, m := range r.seen {
		if a := m.Actor.Attributes; m.TimeNano >= since.UnixNano() && strings.Contains(what, a["varan.resource"]) && a["varan.resource"] != "" {
			fmt.Fprintf(&b, "%s %s %s %.12s %s\n", time.Unix(0, m.TimeNano).UTC().Format("15:04:05.000"), m.Action, a["name"], m.Actor.ID, a["varan.digest"])
		}
	}
	return b.String()
}

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
)

// in1970 is the program with another clock: what its time.Now adds to the kernel's seconds is changed, so that now is
// the second of January 1970 and time goes on from there. Nothing else of it differs, which no library to preload could
// do to a static program.
func in1970(t *testing.T, bin, to string) string {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the program's clock is changed in amd64's machine code")
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	const epoch = 62135596800 - 59453308800 // what Go's time.Now adds: from 1970 to 1885
	added := binary.LittleEndian.AppendUint32(nil, epoch)
	var found []int
	for at := 0; ; at++ {
		next := bytes.Index(program[at:], added)
		if next < 0 {
			break
		}
		at += next
		// MOVL $epoch, reg; and soon SHRQ $33, reg: it looks whether the sum has more than 33 bits.
		if op := program[at-1]; op >= 0xb8 && op <= 0xbf && bytes.Contains(program[at+4:at+20], []byte{0x48, 0xc1}) && bytes.Contains(program[at+4:at+20], []byte{0x21}) {
			found = append(found, at)
		}
	}
	if len(found) != 1 {
		t.Fatalf("time.Now was found %d times in the program: has Go's changed? Look at its disassembly and mend this test", len(found))
	}
	binary.LittleEndian.PutUint32(program[found[0]:], uint32(epoch-time.Now().Unix()+86400))
	if err := os.WriteFile(to, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestClockOf1970: an agent whose clock stands at 1970 comes in, works, sees drift and is no reason for anything when
// its clock jumps to the present, and back.
func TestClockOf1970(t *testing.T) {
	f := newFleet(t, "h1")
	h := f.hosts["h1"]
	old := in1970(t, f.bin, filepath.Join(f.dir, "varan1970"))
	f.write(map[string]string{"a.toml": ""})
	f.commit("empty")
	f.configure("delete = true\n")
	d := f.daemon()
	h.own = old
	f.enrol()
	if out, _ := os.ReadFile(h.out); !strings.Contains(string(out), "time=1970-01-02") {
		t.Fatalf("the agent's clock is right:\n%s", out)
	}
	text := func(version string) string {
		return healthyAfter(0.5, on("h1", "a", version)) + on("h1", "b", version, `after = ["ID-a"]`)
	}
	start := f.deploy(text("v1"))
	f.at("v1", 2, time.Minute)
	f.settled()
	f.empty()
	f.onceEach(start)
	start = f.deploy(text("v2"))
	f.at("v2", 2, time.Minute)
	f.settled()
	f.onceEach(start)

	stopped := h.containers(true)[f.id+"-b"].ID
	if err := h.docker.ContainerStop(context.Background(), stopped, container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	f.eventually("what was stopped by hand runs again", time.Minute, func() (bool, string) { return len(h.ids()) == 2, h.names() })
	f.settled()
	s, said := f.status()
	for _, srv := range s.Servers {
		if srv.Name == "h1" && (srv.State != "ok" || srv.Figures == nil) {
			t.Errorf("status: %s", said)
		}
	}

	// The clock jumps while the agent is away: 56 years forth, and back.
	before := f.running()
	key := f.key()
	for i, program := range []string{"", old} {
		h.killAgent()
		h.own = program
		h.startAgent(key)
		f.all("ok")
		f.settled()
		f.empty()
		if after := f.running(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("after the clock jumped: %v, before %v", after, before)
		}
		version := fmt.Sprintf("v%d", 3+i)
		start := f.deploy(text(version))
		f.at(version, 2, time.Minute)
		f.settled()
		f.onceEach(start)
		before = f.running()
	}
	d.stop()
}

// TestAgentInContainer: the agent in a container as the docs show it, with the engine's socket and a volume, finds where
// its files lie on the host, outlives being killed, and is seen by a second agent beside it.
func TestAgentInContainer(t *testing.T) {
	f := newFleet(t, "h1")
	h := f.hosts["h1"]
	f.write(map[string]string{"a.toml": ""})
	f.commit("empty")
	d := f.daemon()
	defer d.stop()
	ctx := context.Background()

	program, err := os.ReadFile(f.bin)
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	_ = tw.WriteHeader(&tar.Header{Name: "varan", Mode: 0o755, Size: int64(len(program))})
	_, _ = tw.Write(program)
	_ = tw.Close()
	said, err := h.docker.ImageImport(ctx, image.ImportSource{Source: &layer, SourceName: "-"}, "varan:e2e", image.ImportOptions{Changes: []string{`ENTRYPOINT ["/varan"]`}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, said)
	said.Close()
	if err := os.MkdirAll("/run/varan", 0o700); err != nil {
		t.Fatal(err)
	}
	hub := net.JoinHostPort(h.to, h.port)
	c, err := h.docker.ContainerCreate(ctx, &container.Config{Image: "varan:e2e", Cmd: []string{"agent"},
		Env: []string{"VARAN_HUB=" + hub, "VARAN_FLEET_KEY=" + f.key(), "VARAN_FLEET=" + f.id, "VARAN_AGENT_NAME=h1"}},
		&container.HostConfig{NetworkMode: "host", RestartPolicy: container.RestartPolicy{Name: "unless-stopped"}, Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: h.socket, Target: "/var/run/docker.sock"},
			{Type: mount.TypeVolume, Source: "varan-agent", Target: "/var/lib/varan-agent"},
			{Type: mount.TypeBind, Source: "/run/varan", Target: "/run/varan"},
		}}, nil, nil, "varan-agent")
	if err == nil {
		err = h.docker.ContainerStart(ctx, c.ID, container.StartOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	printed := func() string {
		r, err := h.docker.ContainerLogs(ctx, c.ID, container.LogsOptions{ShowStdout: true, ShowStderr: true})
		if err != nil {
			return err.Error()
		}
		defer r.Close()
		data, _ := io.ReadAll(r)
		return string(data)
	}
	var toml string
	f.eventually("the agent waits to be enrolled", 30*time.Second, func() (bool, string) {
		toml = f.varan("status", "--toml").stdout
		return strings.Contains(toml, "[[server]]"), toml + printed()
	})
	f.keys("servers.toml", toml)
	f.commit("enrol")
	f.all("ok")

	stack := func(text string) {
		f.write(map[string]string{
			"a.toml":       "[[stack]]\nname = \"ID-s\"\n[stack.config]\nserver = \"h1\"\nrun_directory = \"s\"\nproject_name = \"ID-s\"\n",
			"s/conf/hello": text,
			"s/compose.yaml": `services:
  web:
    image: varan-e2e:1
    command: [sleep, "2147483647"]
    stop_signal: SIGKILL
    network_mode: none
    volumes: ["./conf:/conf:ro"]
`})
		f.commit("stack")
		f.eventually("the container sees "+text, time.Minute, func() (bool, string) {
			list := h.containers(false)
			for _, c := range list {
				if c.ID == "" || c.Image != "varan-e2e:1" {
					continue
				}
				got := h.inContainer(c.ID, "cat", "/conf/hello")
				return got == text, got + printed()
			}
			return false, h.names() + printed()
		})
		f.settled()
	}
	stack("one\n")
	for name, c := range h.containers(false) {
		for _, m := range c.Mounts {
			if m.Destination == "/conf" && !strings.HasPrefix(m.Source, filepath.Join(h.dir, "d", "volumes", "varan-agent", "_data")+"/") {
				t.Errorf("%s mounts %s, which is no path of the host's below the agent's volume", name, m.Source)
			}
		}
	}

	// A second agent, a process of the host in another network namespace, is told who is there.
	r := h.inside(f.bin, "agent", "--hub", hub, "--fleet-key", f.key(), "--fleet", f.id, "--root", filepath.Join(h.dir, "second"))
	r.Args = slices.Insert(r.Args, 2, "--mount=/proc/self/ns/mnt") // nothing of the container's but what lies on the host
	out, err := r.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "works on this Docker engine: process 1 on ") {
		t.Errorf("the second agent: %v, %s", err, out)
	}

	before := h.ids()
	if err := h.docker.ContainerKill(ctx, c.ID, "KILL"); err != nil {
		t.Fatal(err)
	}
	if err := h.docker.ContainerStart(ctx, c.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	f.all("ok")
	f.settled()
	f.empty()
	if after := h.ids(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("after the agent was killed: %v, before %v", after, before)
	}
	stack("two\n")
}

// inContainer runs a command in a container and returns what it prints.
func (h *hostOf) inContainer(id string, command ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	e, err := h.docker.ContainerExecCreate(ctx, id, container.ExecOptions{Cmd: command, AttachStdout: true, Tty: true})
	if err != nil {
		return err.Error()
	}
	conn, err := h.docker.ContainerExecAttach(ctx, e.ID, container.ExecAttachOptions{Tty: true})
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	data, _ := io.ReadAll(conn.Reader)
	return strings.ReplaceAll(string(data), "\r\n", "\n")
}

// TestTwoFleets: two fleets' daemons share an engine, each with a resource of the same kind and sync, and neither
// touches what is the other's, not even when its own all goes.
func TestTwoFleets(t *testing.T) {
	a, b := newWorld(t), newWorld(t)
	// The same resource in both; a container's name is the engine's, so those differ.
	declared := func(w *world, version string) string {
		web := strings.ReplaceAll(one("web"), "name = \"ID-web\"", "name = \"web\"") + "custom_name = \"" + w.id + "-web\"\n"
		return strings.ReplaceAll(web+one("stays"), "K = x", "K = "+version)
	}
	daemons := map[*world]*daemon{}
	for _, w := range []*world{a, b} {
		w.configure("[config]\npoll = \"1s\"\ndelete = true\n")
		w.write(map[string]string{"a.toml": declared(w, "v1")})
		w.commit("v1")
		daemons[w] = w.daemon()
	}
	for _, w := range []*world{a, b} {
		w.eventually("its container runs", time.Minute, func() (bool, string) { return len(w.ids()) == 2 && w.versions("v1"), w.names() })
		w.settled()
	}
	theirs := b.snapshot()
	a.write(map[string]string{"a.toml": declared(a, "v2")})
	a.commit("v2")
	a.eventually("a's is changed", time.Minute, func() (bool, string) { return len(a.ids()) == 2 && a.versions("v2"), a.names() })
	a.settled()
	daemons[a].kill()
	daemons[a] = a.daemon()
	a.write(map[string]string{"a.toml": strings.ReplaceAll(declared(a, "v2"), "web", "other")})
	a.commit("another one in its place")
	a.eventually("a's is another one", time.Minute, func() (bool, string) {
		_, gone := a.ids()[a.id+"-web"]
		_, there := a.ids()[a.id+"-other"]
		return !gone && there, a.names()
	})
	a.settled()
	if touched := b.touched(theirs); len(touched) > 0 {
		t.Errorf("the other fleet's containers were touched: %v", touched)
	}
	b.nothingNew(t)
	for _, d := range daemons {
		d.stop()
	}
}

// nothingNew fails if the world's daemon sees anything to do.
func (w *world) nothingNew(t *testing.T) {
	t.Helper()
	if r := w.varan("plan", "--detailed-exitcode", w.repo); r.exit != 0 {
		t.Errorf("its plan is not empty: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
}

// listening are the TCP addresses a process listens on.
func listening(t *testing.T, pid int) (at []string) {
	t.Helper()
	own := map[string]bool{}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				own[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(data), "\n") {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && own[f[9]] {
				_, port, _ := strings.Cut(f[1], ":")
				n, _ := strconv.ParseUint(port, 16, 16)
				at = append(at, fmt.Sprint(n))
			}
		}
	}
	slices.Sort(at)
	return at
}

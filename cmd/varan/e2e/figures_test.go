package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"golang.org/x/sync/errgroup"
)

// TestFigures prints varan's speed beside the raw engine calls for the same work, and beside docker-compose
// where it is installed, in one run. It asserts no time: machines differ. Run it with `task bench`.
func TestFigures(t *testing.T) {
	if os.Getenv("FIGURES") == "" {
		t.Skip("prints figures and asserts nothing; run `task bench` (FIGURES=1)")
	}
	f := &figures{}
	t.Run("50 services", func(t *testing.T) { f.services(t) })
	t.Run("10,000 resources", func(t *testing.T) { f.plans(t) })
	t.Run("idle", func(t *testing.T) { f.idle(t) })
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "what\tvaran\tbeside\t")
	for _, row := range f.rows {
		fmt.Fprintln(tw, strings.Join(row, "\t")+"\t")
	}
	tw.Flush()
	fmt.Printf("\n%s\n", b.String())
}

type figures struct{ rows [][]string }

func (f *figures) row(what, ours, beside string) {
	f.rows = append(f.rows, []string{what, ours, beside})
}

// w1 is a compose project of n services that only sleep.
func w1(n int, changed int) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range n {
		k := "x"
		if i < changed {
			k = "y"
		}
		fmt.Fprintf(&b, "  s%02d:\n    image: varan-e2e:1\n    command: sleep 2147483647\n    stop_signal: SIGKILL\n    environment: {K: %s}\n", i, k)
	}
	return b.String()
}

func (f *figures) services(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	const n = 50

	// The floor: network, create and start with eight calls in flight.
	raw := w.rawCreate(n)
	rawChange := w.rawChange()
	w.rawRemove()
	composeCold, composeChange, composeNoop := w.dockerCompose(n)

	w.configure("[config]\npoll = \"1h\"\n")
	w.write(map[string]string{"stacks.toml": "[[stack]]\nname = \"ID\"\n[stack.config]\nsettle = \"0s\"\n", "compose.yaml": w1(n, 0)})
	w.commit("cold")
	began := time.Now()
	d := w.daemon()
	w.eventually("50 containers run", 2*time.Minute, func() (bool, string) { return len(w.ids()) == n, w.names() })
	w.settled()
	f.row("cold start of 50 services, from nothing to told", since(w.lastStart(began)), "raw create and start, 8 in flight "+raw+composeCold)

	// One service of 50 changes.
	var changes []time.Duration
	for round := range 5 {
		w.write(map[string]string{"compose.yaml": w1(n, (round+1)%2)})
		w.git("add", "-A")
		began = time.Now()
		w.git("commit", "-q", "-m", "one changes")
		w.eventually("the service starts anew", 30*time.Second, func() (bool, string) { return w.startsSince(began) == 1, w.names() })
		changes = append(changes, w.lastStart(began))
		w.settled()
	}
	f.row("1 of 50 changed, from the commit to its start", median(changes), "raw remove, create, start "+rawChange+composeChange)

	// Nothing to do, daemon warm: one look at the host decides.
	list := timed(31, func() {
		if _, err := w.docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", "varan.fleet="+w.id))}); err != nil {
			t.Fatal(err)
		}
	})
	noop := timed(31, func() { w.socket(t, "POST", "/v1/plan", "{}") })
	f.row("nothing to do on 50 services, asked through the socket", noop, "raw list by label "+list+composeNoop)
	d.stop()
}

func (f *figures) plans(t *testing.T) {
	w := newWorld(t)
	for _, shape := range []string{"layers", "chain"} {
		dir := filepath.Join(w.dir, shape)
		if err := manyResources(dir, 10_000, shape); err != nil {
			t.Fatal(err)
		}
		for _, what := range []struct{ name, verb string }{{"validate", "validate"}, {"plan", "plan"}} {
			cmd := w.command(context.Background(), what.verb, dir)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			began := time.Now()
			cmd.Run()
			wall := time.Since(began)
			if code := cmd.ProcessState.ExitCode(); code != 0 {
				t.Fatalf("varan %s: exit %d\n%.2000s", what.verb, code, out.String())
			}
			usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
			cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			f.row(fmt.Sprintf("varan %s, 10,000 deployments as %s", what.name, shape),
				fmt.Sprintf("%s wall, %s CPU, %d MB", round(wall), round(cpu), usage.Maxrss/1024), "OpenTofu: 14 s flat, a chain of 1,000 49 s")
		}
	}
}

func (f *figures) idle(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{"a.toml": one("a")})
	w.commit("one")
	d := w.daemon()
	w.settled()
	pid := d.cmd.Process.Pid
	before := cpuOf(t, pid)
	pause := time.NewTimer(30 * time.Second)
	<-pause.C
	used := cpuOf(t, pid) - before
	f.row("idle daemon with its agent, 30 s", fmt.Sprintf("%d MB resident, %.2f %% of a core", rssOf(t, pid)/1024, 100*used.Seconds()/30), "")
	d.stop()
}

// manyResources writes 500 files of deployments: ten layers with three "after" each, or one chain.
func manyResources(dir string, n int, shape string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	per := n / 500
	for file := range 500 {
		var b strings.Builder
		for i := range per {
			k := file*per + i
			var after []string
			switch layer := n / 10; {
			case shape == "chain" && k > 0:
				after = append(after, fmt.Sprintf("r%05d", k-1))
			case shape == "layers" && k >= layer:
				for j := range 3 {
					after = append(after, fmt.Sprintf("r%05d", (k/layer-1)*layer+(k*7+j*13)%layer))
				}
			}
			fmt.Fprintf(&b, `[[deployment]]
name = "r%05d"
description = "one of many"
tags = ["many", "file%03d"]
after = [%s]
[deployment.config]
image = { type = "Image", params = { image = "registry.example.org/app/web:1.%d" } }
network = "bridge"
restart = "unless-stopped"
ports = [{ local = "%d", container = "80" }]
volumes = "data%d:/data"
environment = """
HOST = host%d
PORT = 80
MODE = production
LEVEL = info
"""
labels = """
team: shop
tier: web
"""
extra_args = ["--health-cmd", "true", "--health-interval", "30s"]

`, k, file, quoted(after), k%100, 10000+k%50000, k, k)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%03d.toml", file)), []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func quoted(names []string) string {
	for i, n := range names {
		names[i] = strconv.Quote(n)
	}
	return strings.Join(names, ", ")
}

// rawCreate makes a network and n containers with the plain API, eight calls in flight.
func (w *world) rawCreate(n int) string {
	ctx := context.Background()
	began := time.Now()
	name := w.id + "raw"
	if _, err := w.docker.NetworkCreate(ctx, name, network.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error { return w.rawOne(name, i, "x") })
	}
	if err := g.Wait(); err != nil {
		w.t.Fatal(err)
	}
	return since(time.Since(began))
}

func (w *world) rawOne(network string, i int, k string) error {
	ctx := context.Background()
	kill := "SIGKILL"
	c, err := w.docker.ContainerCreate(ctx, &container.Config{Image: "varan-e2e:1", Cmd: []string{"sleep", "2147483647"}, StopSignal: kill, Env: []string{"K=" + k}},
		&container.HostConfig{NetworkMode: container.NetworkMode(network)}, nil, nil, fmt.Sprintf("%s-raw-%02d", w.id, i))
	if err != nil {
		return err
	}
	return w.docker.ContainerStart(ctx, c.ID, container.StartOptions{})
}

func (w *world) rawChange() string {
	return timed(5, func() {
		name := fmt.Sprintf("%s-raw-%02d", w.id, 0)
		if err := w.docker.ContainerRemove(context.Background(), name, container.RemoveOptions{Force: true}); err != nil {
			w.t.Fatal(err)
		}
		if err := w.rawOne(w.id+"raw", 0, "y"); err != nil {
			w.t.Fatal(err)
		}
	})
}

func (w *world) rawRemove() {
	ctx := context.Background()
	var g errgroup.Group
	g.SetLimit(8)
	for _, c := range w.containers(true) {
		g.Go(func() error { return w.docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true}) })
	}
	if err := g.Wait(); err != nil {
		w.t.Fatal(err)
	}
	if err := w.docker.NetworkRemove(ctx, w.id+"raw"); err != nil {
		w.t.Fatal(err)
	}
}

// dockerCompose does the same with the docker-compose program, where there is one.
func (w *world) dockerCompose(n int) (cold, change, noop string) {
	if _, err := exec.LookPath("docker-compose"); err != nil {
		return "", "", ""
	}
	dir := filepath.Join(w.dir, "dc")
	os.MkdirAll(dir, 0o755)
	file := filepath.Join(dir, "compose.yaml")
	up := func(args ...string) time.Duration {
		began := time.Now()
		cmd := exec.Command("docker-compose", append([]string{"-p", w.id + "dc", "-f", file}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			w.t.Logf("docker-compose %v: %v\n%s", args, err, out)
		}
		return time.Since(began)
	}
	os.WriteFile(file, []byte(w1(n, 0)), 0o644)
	cold = ", docker-compose " + round(up("up", "-d"))
	noop = ", docker-compose " + round(up("up", "-d"))
	os.WriteFile(file, []byte(w1(n, 1)), 0o644)
	change = ", docker-compose " + round(up("up", "-d"))
	up("down")
	return cold, change, noop
}

// lastStart is how long after began the last container of this world started.
func (w *world) lastStart(began time.Time) time.Duration {
	var last int64
	for _, m := range w.recorded(began) {
		if m.Action == events.ActionStart && m.TimeNano > last {
			last = m.TimeNano
		}
	}
	return time.Duration(last - began.UnixNano())
}

func (w *world) startsSince(began time.Time) int {
	n := 0
	for _, m := range w.recorded(began) {
		if m.Action == events.ActionStart {
			n++
		}
	}
	return n
}

func timed(n int, f func()) string {
	var all []time.Duration
	for range n {
		began := time.Now()
		f()
		all = append(all, time.Since(began))
	}
	return median(all)
}

func median(all []time.Duration) string {
	slices.Sort(all)
	return fmt.Sprintf("%s (%s to %s, n=%d)", round(all[len(all)/2]), round(all[0]), round(all[len(all)-1]), len(all))
}

func since(d time.Duration) string { return round(d) }

func round(d time.Duration) string {
	if d > time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}

func rssOf(t *testing.T, pid int) int { return procField(t, pid, "VmRSS:") }

func procField(t *testing.T, pid int, field string) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	t.Fatalf("no %s in /proc/%d/status", field, pid)
	return 0
}

// cpuOf is the processor time a process has used, with the kernel's clock tick of 10 ms.
func cpuOf(t *testing.T, pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// socket asks the daemon through its unix socket.
func (w *world) socket(t *testing.T, method, path, body string) []byte {
	t.Helper()
	if w.http == nil {
		w.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(w.data, "varan.sock"))
		}}}
	}
	req, err := http.NewRequest(method, "http://varan"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s %s: %s %v\n%s", method, path, resp.Status, err, data)
	}
	return data
}

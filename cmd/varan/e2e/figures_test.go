package e2e

import (
	"bufio"
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

	"github.com/varanhq/varan/sync/gitrepo/gittest"
)

// TestFigures prints varan's speed beside the raw engine calls for the same work, and beside docker-compose
// where it is installed, in one run. It asserts no time: machines differ. Run it with `task bench`.
func TestFigures(t *testing.T) {
	if os.Getenv("FIGURES") == "" {
		t.Skip("prints figures and asserts nothing; run `task bench` (FIGURES=1)")
	}
	f := &figures{}
	t.Run("50 services", func(t *testing.T) { f.services(t) })
	t.Run("following", func(t *testing.T) { f.followed(t) })
	t.Run("10,000 resources", func(t *testing.T) { f.plans(t) })
	t.Run("idle", func(t *testing.T) { f.idle(t) })
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "what\tvaran\tbeside\tmeans\t")
	for _, row := range f.rows {
		fmt.Fprintln(tw, strings.Join(row, "\t")+"\t")
	}
	tw.Flush()
	fmt.Printf("\n%s\n", b.String())
}

type figures struct{ rows [][]string }

func (f *figures) row(what, ours, beside, means string) {
	f.rows = append(f.rows, []string{what, ours, beside, means})
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
	const n = 50

	// The cold start, in turns with the floor: network, create and start with P calls in flight. The best P counts.
	raw := map[int][]time.Duration{}
	floor := func(ps ...int) {
		for _, p := range ps {
			raw[p] = append(raw[p], w.rawCreate(n, p))
			w.rawRemove()
		}
	}
	local := "[config]\npoll = \"1h\"\n"
	w.configure(local)
	var cold []time.Duration
	var d *daemon
	for round := range 3 {
		floor([][]int{{4, 8}, {16, 4}, {8, 16}}[round]...)
		w.write(map[string]string{"stacks.toml": "REMOVE", "compose.yaml": "REMOVE"})
		w.commit("empty")
		d = w.daemon()
		w.settled()
		w.write(map[string]string{"stacks.toml": fmt.Sprintf("[[stack]]\nname = \"ID-%d\"\n[stack.config]\nsettle = \"0s\"\nfile_paths = [\"compose.yaml\"]\nrun_directory = \".\"\n", round), "compose.yaml": w1(n, 0)})
		began := w.advance()
		w.eventually("50 containers run", 2*time.Minute, func() (bool, string) { return len(w.ids()) == n, w.names() })
		w.settled()
		cold = append(cold, w.lastStart(began))
		if round < 2 {
			d.stop()
			w.rawRemove()
			os.RemoveAll(w.data)
			os.RemoveAll(w.root)
		}
	}
	best, rows := time.Hour, ""
	for _, p := range []int{4, 8, 16} {
		best = min(best, middle(raw[p]))
		rows += fmt.Sprintf(" P=%d %s", p, round(middle(raw[p])))
	}
	composeCold, composeChange, composeNoop := w.dockerCompose(n)
	f.row("cold start of 50, from the commit to the last start", median(cold),
		"raw create and start"+rows+composeCold, fmt.Sprintf("%.2f times (≤ 1.05)", float64(middle(cold))/float64(best)))

	// One service of 50 changes, in turns with the same by hand.
	if _, err := w.docker.NetworkCreate(t.Context(), w.id+"raw", network.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.rawOne(w.id+"raw", 0, "x"); err != nil {
		t.Fatal(err)
	}
	ended := w.runsEnd(t)
	var changes, told, byHand []time.Duration
	for round := range 9 {
		byHand = append(byHand, w.rawChange())
		w.write(map[string]string{"compose.yaml": w1(n, (round+1)%2)})
		began := w.advance()
		end := <-ended
		last := w.lastStart(began)
		changes = append(changes, last)
		told = append(told, end.Sub(began.Add(last)))
		w.settled()
	}
	f.row("1 of 50 changed, from the ref's move to its start", median(changes), "raw remove, create, start "+median(byHand)+composeChange,
		fmt.Sprintf("+%s (≤ 50 ms)", round(middle(changes)-middle(byHand))))
	f.row("its result told after its start, with settle 0", median(told), "", "(≤ 100 ms)")

	// A commit that touches nothing of ours, and nothing new at all, followed over HTTP.
	d.stop()
	w.http = nil
	g := gittest.New(t)
	g.Push(map[string]string{"stacks.toml": w.content("stacks.toml"), "compose.yaml": w.content("compose.yaml"), "README": "a\n"})
	w.repo = g.Serve(false).URL()
	w.configure("allow_http = true\nallow_internal = true\n---\n" + local)
	d = w.daemon()
	w.settled()
	w.eventually("the first plan over HTTP is empty", time.Minute, func() (bool, string) {
		out := string(w.socket(t, "POST", "/api/v1/plan", "{}"))
		return !strings.Contains(out, `"action":"create"`), out
	})
	var unrelated []time.Duration
	for i := range 9 {
		unrelated = append(unrelated, w.known(t, g.Push(map[string]string{"README": strconv.Itoa(i)})))
	}
	f.row("unrelated commit beside 50 services, from the event to known", median(unrelated), "", "(≤ 30 ms)")
	var lists, plans, remote []time.Duration
	for range 41 {
		lists = append(lists, took(func() { w.listFleet() }))
		remote = append(remote, took(func() { w.socket(t, "POST", "/api/v1/plan", "{}") }))
	}
	d.stop()
	w.http = nil
	w.repo = g.Work
	w.configure(local)
	d = w.daemon()
	w.settled()
	for range 41 {
		lists = append(lists, took(func() { w.listFleet() }))
		plans = append(plans, took(func() { w.socket(t, "POST", "/api/v1/plan", "{}") }))
	}
	f.row("nothing to do on 50 services, asked through the socket", median(plans), "raw list by label "+median(lists)+composeNoop,
		fmt.Sprintf("%.1f times (≤ 2.5)", float64(middle(plans))/float64(middle(lists))))
	f.row("the same with ls-remote over HTTP", median(remote), "", "(≤ 20 ms)")
	d.stop()
}

// advance commits what lies in the config repository, and returns when its branch began to move: git's own work
// before that is not ours.
func (w *world) advance() time.Time {
	w.t.Helper()
	w.git("add", "-A")
	commit := w.git("commit-tree", w.git("write-tree"), "-p", "HEAD", "-m", "change")
	began := time.Now()
	w.git("update-ref", "refs/heads/main", commit)
	return began
}

// known is how long the daemon takes, told that there is something, until a commit is taken in.
func (w *world) known(t *testing.T, commit string) time.Duration {
	began := time.Now()
	w.socket(t, "POST", "/api/v1/sync", "{}")
	for !bytes.Contains(w.socket(t, "GET", "/api/v1/status", ""), []byte(`"good":"`+commit)) {
		if time.Since(began) > time.Minute {
			t.Fatalf("commit %s is not taken in: %s", commit, w.socket(t, "GET", "/api/v1/status", ""))
		}
	}
	return time.Since(began)
}

// runsEnd tells the time whenever the daemon says that a run has ended.
func (w *world) runsEnd(t *testing.T) <-chan time.Time {
	w.socket(t, "GET", "/api/v1/status", "")
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://varan/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan time.Time, 64)
	listening := make(chan struct{})
	go func() {
		close(listening)
		resp, err := w.http.Do(req) // it answers with the first event
		if err != nil {
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			if bytes.Contains(lines.Bytes(), []byte(`"kind":"run_finished"`)) {
				ended <- time.Now()
			}
		}
	}()
	<-listening
	return ended
}

func (w *world) content(name string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.repo, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

func (w *world) listFleet() {
	opts := container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", "varan.fleet="+w.id))}
	if _, err := w.docker.ContainerList(context.Background(), opts); err != nil {
		w.t.Fatal(err)
	}
}

// followed measures a repository of 5,000 files and 2,000 commits, 1,000 of the files with a stack each, served by
// git's own http-backend.
func (f *figures) followed(t *testing.T) {
	w := newWorld(t)
	g := gittest.New(t)
	file := func(i int, value string) string {
		return strings.Replace(gittest.BigFile(i, value), "tags", "deploy = false\ntags", 1)
	}
	files := map[string]string{}
	for i := range 1000 {
		files[fmt.Sprintf("d%03d/s%04d.toml", i/2, i)] = file(i, "a")
	}
	for i := range 4000 {
		files[fmt.Sprintf("d%03d/f%04d.txt", i%500, i)] = fmt.Sprintf("file %d\n", i)
	}
	g.Push(files)
	g.History(1999, func(i int) (string, string) {
		return fmt.Sprintf("d%03d/f%04d.txt", i%500, i%4000), fmt.Sprintf("change %d\n", i)
	})
	w.repo = g.Serve(false).URL()
	w.configure("allow_http = true\nallow_internal = true\n---\n[config]\npoll = \"1h\"\n")
	d := w.daemon()
	w.settled()
	w.socket(t, "POST", "/api/v1/plan", "{}")
	var one, unrelated []time.Duration
	for i := range 9 {
		w.known(t, g.Push(map[string]string{"d001/s0002.toml": file(2, strconv.Itoa(i))})) // as any other
		g.Push(map[string]string{"d001/s0002.toml": file(2, "n"+strconv.Itoa(i))})
		one = append(one, took(func() { w.socket(t, "POST", "/api/v1/plan", "{}") }))
		w.known(t, g.Push(map[string]string{"d002/f0002.txt": "before " + strconv.Itoa(i)}))
		unrelated = append(unrelated, w.known(t, g.Push(map[string]string{"d002/f0002.txt": strconv.Itoa(i)})))
	}
	f.row("5,000 files, 1,000 stacks over HTTP: one changed, fetched, compared, planned", median(one), "", "(≤ 60 ms)")
	f.row("5,000 files, 1,000 stacks over HTTP: unrelated commit, known", median(unrelated), "", "(≤ 30 ms)")
	d.stop()
}

func (f *figures) plans(t *testing.T) {
	w := newWorld(t)
	for _, shape := range []string{"layers", "chain"} {
		small := time.Duration(0)
		for _, n := range []int{10_000, 100_000} {
			dir := filepath.Join(w.dir, shape+strconv.Itoa(n))
			if err := manyResources(dir, n, shape, ""); err != nil {
				t.Fatal(err)
			}
			var cpus []time.Duration
			peak := int64(0)
			for range max(1, 30_000/n) {
				cmd := w.command(context.Background(), "plan", dir)
				var out bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &out
				cmd.Run()
				if code := cmd.ProcessState.ExitCode(); code != 0 {
					t.Fatalf("varan plan: exit %d\n%.2000s", code, out.String())
				}
				peak = max(peak, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss/1024)
				cpus = append(cpus, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
			}
			goal := "(≤ 1.2 s, ≤ 250 MB)"
			if small == 0 {
				small = middle(cpus)
			} else {
				goal = fmt.Sprintf("%.1f times for 10 times as many", float64(middle(cpus))/float64(small))
			}
			f.row(fmt.Sprintf("varan plan, %d deployments as %s, CPU", n, shape), fmt.Sprintf("%s, at most %d MB", median(cpus), peak), "OpenTofu: 14 s flat, a chain of 1,000 49 s", goal)
			if n > 10_000 {
				os.RemoveAll(dir)
			}
		}
	}
	// The same in a daemon that has read it before: one file changes.
	w.configure("[config]\npoll = \"1h\"\n")
	if err := manyResources(w.repo, 10_000, "layers", "deploy = false\n"); err != nil {
		t.Fatal(err)
	}
	w.commit("many")
	d := w.daemon()
	w.settled()
	w.socket(t, "POST", "/api/v1/plan", "{}")
	w.socket(t, "POST", "/api/v1/pause", `{"reason":"so that only the asked plan is made"}`)
	var warm []time.Duration
	for i := range 9 {
		w.replace("f0300.toml", "image = {", fmt.Sprintf("command = \"c%d\"\nimage = {", i))
		w.advance()
		warm = append(warm, took(func() { w.socket(t, "POST", "/api/v1/plan", "{}") }))
		w.replace("f0300.toml", fmt.Sprintf("command = \"c%d\"\n", i), "")
	}
	f.row("10,000 deployments in a warm daemon, one file changed, planned", median(warm), "", "(≤ 60 ms)")
	d.stop()
}

func (f *figures) idle(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{"a.toml": one("a")})
	w.commit("one")
	d := w.daemon()
	w.settled()
	pid := d.cmd.Process.Pid
	pause := time.NewTimer(10 * time.Second) // start-up is over
	<-pause.C
	before := cpuOf(t, pid)
	pause.Reset(60 * time.Second)
	<-pause.C
	used := cpuOf(t, pid) - before
	f.row("idle daemon with its agent, 60 s", fmt.Sprintf("%d MB resident, %.2f %% of a core", rssOf(t, pid)/1024, 100*used.Seconds()/60), "", "(≤ 45 MB, ≤ 0.2 %)")
	d.stop()
}

// manyResources writes files of twenty of deployments: ten layers with three "after" each, or one chain.
func manyResources(dir string, n int, shape, more string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const per = 20
	for file := range n / per {
		var b strings.Builder
		for i := range per {
			k := file*per + i
			var after []string
			switch layer := n / 10; {
			case shape == "chain" && k > 0:
				after = append(after, fmt.Sprintf("r%06d", k-1))
			case shape == "layers" && k >= layer:
				for j := range 3 {
					after = append(after, fmt.Sprintf("r%06d", (k/layer-1)*layer+(k*7+j*13)%layer))
				}
			}
			ports := "" // there are not enough of them for all
			if k < 50_000 {
				ports = fmt.Sprintf("ports = [{ local = \"%d\", container = \"80\" }]\n", 10_000+k)
			}
			fmt.Fprintf(&b, `[[deployment]]
name = "r%06d"
%sdescription = "one of many"
tags = ["many", "file%04d"]
after = [%s]
[deployment.config]
image = { type = "Image", params = { image = "registry.example.org/app/web:1.%d" } }
network = "bridge"
restart = "unless-stopped"
%svolumes = "data%d:/data"
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

`, k, more, file, quoted(after), k%100, ports, k, k)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%04d.toml", file)), []byte(b.String()), 0o644); err != nil {
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

// rawCreate makes a network and n containers with the plain API, p calls in flight.
func (w *world) rawCreate(n, p int) time.Duration {
	ctx := context.Background()
	began := time.Now()
	name := fmt.Sprintf("%sraw%d", w.id, began.UnixNano())
	if _, err := w.docker.NetworkCreate(ctx, name, network.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	ids := make([]string, n)
	for _, step := range []func(i int) error{
		func(i int) (err error) { ids[i], err = w.rawMake(name, i, "x"); return err },
		func(i int) error { return w.docker.ContainerStart(ctx, ids[i], container.StartOptions{}) },
	} { // all made before any is started: on this engine that is the faster order
		var g errgroup.Group
		g.SetLimit(p)
		for i := range n {
			g.Go(func() error { return step(i) })
		}
		if err := g.Wait(); err != nil {
			w.t.Fatal(err)
		}
	}
	return time.Since(began)
}

func (w *world) rawMake(network string, i int, k string) (id string, err error) {
	c, err := w.docker.ContainerCreate(context.Background(), &container.Config{Image: "varan-e2e:1", Cmd: []string{"sleep", "2147483647"}, StopSignal: "SIGKILL", Env: []string{"K=" + k}},
		&container.HostConfig{NetworkMode: container.NetworkMode(network)}, nil, nil, fmt.Sprintf("%s-raw-%02d", w.id, i))
	return c.ID, err
}

func (w *world) rawOne(network string, i int, k string) error {
	id, err := w.rawMake(network, i, k)
	if err != nil {
		return err
	}
	return w.docker.ContainerStart(context.Background(), id, container.StartOptions{})
}

func (w *world) rawChange() time.Duration {
	return took(func() {
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
	nets, err := w.docker.NetworkList(ctx, network.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range nets {
		if strings.HasPrefix(n.Name, w.id) {
			// The engine now and then forgets to take a removed container off its network.
			if err := w.docker.NetworkRemove(ctx, n.ID); err != nil {
				w.t.Logf("network %s stays behind: %v", n.Name, err)
			}
		}
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

func took(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func middle(all []time.Duration) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

func median(all []time.Duration) string {
	return fmt.Sprintf("%s (%s to %s, n=%d)", round(middle(all)), round(slices.Min(all)), round(slices.Max(all)), len(all))
}

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

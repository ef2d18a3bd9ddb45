package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// A crowd is many agents in a process of their own: real connections, the real protocol, no Docker.
type crowd struct {
	Hub, FleetKey string
	Seeds         []string
}

// crowdFile names the file a process is told by to be a crowd.
const crowdFile = "VARAN_CROWD"

// TestCrowd is no test: the process that simulates agents.
func TestCrowd(t *testing.T) {
	file := os.Getenv(crowdFile)
	if file == "" {
		t.Skip("run by TestFleetFigures")
	}
	var c crowd
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	address, err := link.ParseAddress(c.Hub)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, seed := range c.Seeds {
		key, err := nkeys.FromSeed([]byte(seed))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			_ = link.Follow(t.Context(), link.Following{Hub: address}, link.Options{
				Handler: &simulated{name: server(i)}, Key: key, FleetKey: c.FleetKey, Name: server(i), Log: slog.New(slog.DiscardHandler),
			})
		})
	}
	wg.Wait() // until it is killed
}

func server(i int) string { return fmt.Sprintf("s%04d", i) }

// simulated is an agent whose containers are an entry in a map.
type simulated struct {
	name string
	mu   sync.Mutex
	made map[schema.ID]protocol.Op
}

func (s *simulated) Observe(context.Context, protocol.Observe) protocol.Observed {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := plan.ServerState{Name: s.name, Ledger: map[schema.ID]*plan.Entry{}}
	for id, op := range s.made {
		for _, u := range op.Payload.Units {
			st.Containers = append(st.Containers, plan.Container{ID: string(op.ID), Name: u.Container, Image: u.Image, Status: "running",
				Resource: id, Fleet: op.Fleet, Sync: op.Sync, Digest: u.Digest, Commit: op.Commit, After: op.Payload.After, Service: u.Service})
		}
		st.Ledger[id] = &plan.Entry{Resource: id, Fleet: op.Fleet, Sync: op.Sync, Commit: op.Commit, Op: string(op.ID), Outcome: "done",
			After: op.Payload.After, Units: op.Payload.Units, Volumes: op.Payload.Volumes, Binds: op.Payload.Binds}
	}
	slices.SortFunc(st.Containers, func(a, b plan.Container) int { return strings.Compare(a.Name, b.Name) })
	return protocol.Observed{Version: protocol.Version, State: st}
}

func (s *simulated) Submit(_ context.Context, op protocol.Op) protocol.Submit {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op.Verb == protocol.Deploy && op.Payload != nil {
		if s.made == nil {
			s.made = map[schema.ID]protocol.Op{}
		}
		s.made[op.Resource] = op
	}
	return protocol.Submit{Version: protocol.Version, State: "done", Outcome: &protocol.Outcome{Version: protocol.Version, ID: op.ID, Status: protocol.Done}}
}

func (s *simulated) Wait(_ context.Context, id protocol.OpID) (protocol.Outcome, error) {
	return protocol.Outcome{Version: protocol.Version, ID: id, Status: protocol.Done}, nil
}

// gather starts a process of n agents and tells how they are enrolled.
func gather(t *testing.T, hub, fleetKey string, n, dead int) (enrol map[string]string, start func()) {
	t.Helper()
	c := crowd{Hub: hub, FleetKey: fleetKey}
	enrol = map[string]string{}
	for i := range n + dead {
		key, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		public, _ := key.PublicKey()
		enrol[server(i)] = public
		if i < n {
			seed, _ := key.Seed()
			c.Seeds = append(c.Seeds, string(seed))
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "crowd.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return enrol, func() {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestCrowd$", "-test.timeout", "1h")
		cmd.Env = append(os.Environ(), crowdFile+"="+file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
}

// TestFleetFigures prints what a fleet of simulated agents costs.
func TestFleetFigures(t *testing.T) {
	if os.Getenv("FIGURES") == "" {
		t.Skip("prints figures and asserts nothing; run `task bench` (FIGURES=1)")
	}
	f := &figures{}
	n := 1000
	if s, err := strconv.Atoi(os.Getenv("AGENTS")); err == nil {
		n = s
	}
	t.Run("round trips", func(t *testing.T) { f.roundTrips(t, n) })
	t.Run("daemon", func(t *testing.T) { f.fleet(t, n) })
	t.Run("agent", func(t *testing.T) { f.agent(t) })
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range f.rows {
		fmt.Fprintln(tw, strings.Join(row, "\t")+"\t")
	}
	tw.Flush()
	fmt.Printf("\n%s\n", b.String())
}

// roundTrips asks one agent of many at a time, over TLS.
func (f *figures) roundTrips(t *testing.T, n int) {
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	hub, err := fleet.Start(fleet.Options{Key: key, Name: "figures", Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	enrol, start := gather(t, hub.Addr().String(), hub.FleetKey(), n, 0)
	if err := hub.Enrol(enrol); err != nil {
		t.Fatal(err)
	}
	debug.FreeOSMemory()
	alone := rssOf(t, os.Getpid()) / 1024
	began := time.Now()
	start()
	for len(connected(hub)) < n {
		time.Sleep(20 * time.Millisecond)
	}
	f.row(fmt.Sprintf("%d agents connect at once", n), time.Since(began).Round(time.Millisecond).String(), "", "")
	for i := range n { // says hello to each
		if _, err := hub.Observe(t.Context(), server(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(5 * time.Second)
	for range 4 { // each halves the stacks of who rests
		debug.FreeOSMemory()
	}
	before := cpuOf(t, os.Getpid())
	if path := os.Getenv("CPUPROFILE"); path != "" {
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = pprof.StartCPUProfile(file)
	}
	time.Sleep(30 * time.Second)
	pprof.StopCPUProfile()
	used := cpuOf(t, os.Getpid()) - before
	f.row(fmt.Sprintf("the hub alone with %d agents, idle 30 s", n), fmt.Sprintf("%d MB resident (%d without agents), %.1f %% of a core", rssOf(t, os.Getpid())/1024, alone, 100*used.Seconds()/30), "", "")
	if path := os.Getenv("MEMPROFILE"); path != "" {
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = pprof.Lookup("heap").WriteTo(file, 0)
		file.Close()
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		fmt.Printf("heap inuse %d MB, stacks %d MB, sys %d MB, released %d MB, goroutines %d\n", ms.HeapInuse>>20, ms.StackInuse>>20, ms.Sys>>20, ms.HeapReleased>>20, runtime.NumGoroutine())
	}
	var times []time.Duration
	for range 5000 {
		name := server(rand.IntN(n))
		began := time.Now()
		if _, err := hub.Observe(t.Context(), name, []protocol.Query{{Resource: "deployment/x"}}); err != nil { // what asks nothing is answered from memory
			t.Fatal(err)
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	f.row(fmt.Sprintf("round trip with TLS at %d agents, one at a time", n), fmt.Sprintf("median %v, p99 %v, worst %v",
		times[len(times)/2].Round(time.Microsecond), times[len(times)*99/100].Round(time.Microsecond), times[len(times)-1].Round(time.Microsecond)), "", "(p99 ≤ 1 ms)")
}

func connected(hub *fleet.Hub) (in []string) {
	for _, a := range hub.Status().Agents {
		if a.Connected {
			in = append(in, a.Server)
		}
	}
	return in
}

// fleet runs the daemon with n agents and ten resources on each.
func (f *figures) fleet(t *testing.T, n int) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hub := l.Addr().String()
	l.Close()
	key, _, err := fleet.LoadKey(filepath.Join(w.dir, "hub.key"))
	if err != nil {
		t.Fatal(err)
	}
	public, _ := key.PublicKey()
	const dead = 100
	enrol, start := gather(t, hub, public, n, dead)
	text := fmt.Sprintf("name = %q\ndata_dir = %q\nlisten = \"\"\n[hub]\nlisten = %q\nkey_file = %q\n[agent]\nroot = %q\n[config]\npoll = \"1h\"\n",
		w.id, w.data, hub, filepath.Join(w.dir, "hub.key"), w.root)
	if err := os.WriteFile(w.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) { // world.write would put names of its own into the keys
		if err := os.WriteFile(filepath.Join(w.repo, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var servers strings.Builder
	servers.WriteString("[[server]]\nname = \"here\"\nconfig.address = \"local\"\n")
	for i := range n {
		fmt.Fprintf(&servers, "[[server]]\nname = %q\nconfig.public_key = %q\n", server(i), enrol[server(i)])
	}
	put("servers.toml", servers.String())
	w.commit("servers")
	d := w.daemon()
	w.settled()
	alone := rssOf(t, d.cmd.Process.Pid) / 1024
	start()
	w.eventually("all agents are connected", 2*time.Minute, func() (bool, string) {
		var s struct{ Hub fleet.Status }
		_ = json.Unmarshal(w.socket(t, "GET", "/api/v1/status", ""), &s)
		in := 0
		for _, a := range s.Hub.Agents {
			if a.Connected {
				in++
			}
		}
		return in == n, fmt.Sprint(in)
	})
	w.settled()
	time.Sleep(15 * time.Second) // start-up is over, memory is given back
	pid := d.cmd.Process.Pid
	before := cpuOf(t, pid)
	time.Sleep(30 * time.Second)
	used := cpuOf(t, pid) - before
	f.row(fmt.Sprintf("daemon with %d agents, idle 30 s", n), fmt.Sprintf("%d MB resident (%d without agents), %.1f %% of a core", rssOf(t, pid)/1024, alone, 100*used.Seconds()/30), "", "(≤ 150 MB, ≤ 3 %)")

	var many strings.Builder
	for i := range n {
		for j := range 10 {
			fmt.Fprintf(&many, "[[deployment]]\nname = \"r%04d-%d\"\n[deployment.config]\nserver = %q\nimage = { type = \"Image\", params = { image = \"registry.example.org/web:1\" } }\nenvironment = \"HOST = h%d\"\n", i, j, server(i), j)
		}
	}
	w.socket(t, "POST", "/api/v1/pause", `{"reason":"so that only the asked plan is made"}`)
	put("many.toml", many.String())
	w.commit("many")
	var p plan.Plan
	once := func() []byte { return w.socket(t, "POST", "/api/v1/plan", "{}") }
	before = cpuOf(t, pid)
	first := took(func() { _ = json.Unmarshal(once(), &p) })
	f.row(fmt.Sprintf("plan %d resources on them, first time (%d create)", 10*n, p.Summary[plan.Create]),
		fmt.Sprintf("%v, %v of the daemon's CPU", first.Round(time.Millisecond), (cpuOf(t, pid)-before).Round(time.Millisecond)), "", "(≤ 2 s)")
	w.socket(t, "POST", "/api/v1/pause", `{"off":true}`)
	began := time.Now()
	w.eventually("all is made", 5*time.Minute, func() (bool, string) {
		p = plan.Plan{}
		_ = json.Unmarshal(once(), &p)
		return p.Summary[plan.None] >= 10*n, fmt.Sprint(p.Summary)
	})
	f.row(fmt.Sprintf("apply %d resources, simulated", 10*n), time.Since(began).Round(time.Millisecond).String(), "", "")
	var quiet []time.Duration
	before = cpuOf(t, pid)
	for range 5 {
		quiet = append(quiet, took(func() { once() }))
	}
	f.row(fmt.Sprintf("no-change reconcile of %d resources on %d servers", 10*n, n),
		fmt.Sprintf("%s, %v of the daemon's CPU", median(quiet), ((cpuOf(t, pid)-before)/5).Round(time.Millisecond)), "", "(≤ 1 s)")

	var gone strings.Builder
	for i := n; i < n+dead; i++ {
		fmt.Fprintf(&gone, "[[server]]\nname = %q\nconfig.public_key = %q\n", server(i), enrol[server(i)])
	}
	put("dead.toml", gone.String())
	w.commit("dead ones")
	w.settled()
	quiet = nil
	for range 5 {
		quiet = append(quiet, took(func() { once() }))
	}
	f.row(fmt.Sprintf("the same with %d dead agents beside", dead), median(quiet), "", "(no more)")
	time.Sleep(40 * time.Second) // what the plans left behind is given back
	f.row("daemon with all that, 40 s later", fmt.Sprintf("%d MB resident", rssOf(t, pid)/1024), "", "")
	d.stop()
}

// agent is one of a host, with Docker: how soon it is connected, and what it takes at rest beside ten containers.
func (f *figures) agent(t *testing.T) {
	w := newFleet(t, "h1")
	h := w.hosts["h1"]
	w.write(map[string]string{"a.toml": ""})
	w.commit("empty")
	d := w.daemon()
	w.enrol()
	var ten strings.Builder
	for i := range 10 {
		ten.WriteString(on("h1", fmt.Sprint("c", i), "v1"))
	}
	w.deploy(ten.String())
	w.at("v1", 10, time.Minute)
	w.settled()
	key := w.key()
	var starts []time.Duration
	for range 9 {
		h.killAgent()
		if err := os.Truncate(h.out, 0); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		h.startAgent(key)
		for {
			if out, _ := os.ReadFile(h.out); strings.Contains(string(out), "this agent is enrolled") {
				break
			}
			if time.Since(began) > 30*time.Second {
				t.Fatal("it does not come in")
			}
			time.Sleep(time.Millisecond)
		}
		starts = append(starts, time.Since(began))
		w.all("ok")
	}
	f.row("an agent's start to connected", median(starts), "", "(≤ 300 ms)")
	w.settled()
	time.Sleep(75 * time.Second) // what the start needed is given back
	pid := h.agent.cmd.Process.Pid
	before := cpuOf(t, pid)
	time.Sleep(60 * time.Second)
	used := cpuOf(t, pid) - before
	f.row("an agent with 10 containers, idle 60 s", fmt.Sprintf("%d MB resident, %.2f %% of a core", rssOf(t, pid)/1024, 100*used.Seconds()/60), "", "(≤ 40 MB, ≤ 0.1 %)")
	d.stop()
}

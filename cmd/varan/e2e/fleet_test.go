package e2e

import (
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// on is a deployment on a server, at a version.
func on(server, name, version string, more ...string) string {
	text := strings.Replace(one(name, more...), "[deployment.config]\n", "[deployment.config]\nserver = \""+server+"\"\n", 1)
	return strings.Replace(text, "K = x", "K = "+version, 1)
}

// healthyAfter makes a deployment healthy so many seconds after its start.
func healthyAfter(seconds float64, text string) string {
	text = strings.Replace(text, `command = "sleep 2147483647"`, fmt.Sprintf(`command = "sh -c 'sleep %v; touch /tmp/ready; sleep 2147483647'"`, seconds), 1)
	return strings.Replace(text, `extra_args = [`, `extra_args = ["--health-cmd", "test -e /tmp/ready", "--health-interval", "200ms", "--health-retries", "50", `, 1)
}

// TestFleet: three hosts with engines and agents of their own, and what may happen to them.
func TestFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "h1", "h2", "h3")
	f.write(map[string]string{"a.toml": ""})
	f.commit("empty")
	f.configure("delete = true\n")
	d := f.daemon()
	f.enrol()

	t.Run("after waits for health on other hosts", func(t *testing.T) { f.in(t).afterChain() })
	t.Run("logs of another host", func(t *testing.T) { f.in(t).logs() })
	t.Run("a failure skips only what depends on it", func(t *testing.T) { f.in(t).failure() })
	t.Run("a resource moves to another server", func(t *testing.T) { f.in(t).moves() })
	t.Run("a link cut in the middle of ops", func(t *testing.T) { f.in(t).cutFor(5 * time.Second) })
	if os.Getenv("SOAK") != "" {
		t.Run("a link cut for a minute", func(t *testing.T) { f.in(t).cutFor(time.Minute) })
	}
	t.Run("a link cut for good", func(t *testing.T) { f.in(t).cutForGood() })
	t.Run("killed at random moments", func(t *testing.T) { d = f.in(t).killed(d) })
	t.Run("the daemon is killed while an agent works on", func(t *testing.T) { d = f.in(t).outlived(d) })
	t.Run("the data directory is deleted", func(t *testing.T) { d = f.in(t).amnesia(d) })
	t.Run("the data directory is an old one", func(t *testing.T) { d = f.in(t).backup(d) })
	d.stop()
}

// in is the same fleet, whose failures are t's.
func (f *aFleet) in(t *testing.T) *aFleet {
	same := *f
	same.world = f.world.in(t)
	same.hosts = map[string]*hostOf{}
	for name, h := range f.hosts {
		other := *h
		other.world = h.world.in(t)
		same.hosts[name] = &other
	}
	return &same
}

// deploy commits what is to run.
func (f *aFleet) deploy(text string) time.Time {
	f.t.Helper()
	start := time.Now()
	f.write(map[string]string{"a.toml": text})
	f.commit("deploy")
	return start
}

// chain is three deployments on three hosts, each after the one before, and one that waits for nobody.
func chain(version string) string {
	return healthyAfter(1.5, on("h1", "a", version)) + healthyAfter(1.5, on("h2", "b", version, `after = ["ID-a"]`)) +
		on("h3", "c", version, `after = ["ID-b"]`) + on("h3", "free", version)
}

func (f *aFleet) afterChain() {
	start := f.deploy(chain("v1"))
	f.at("v1", 4, time.Minute)
	f.settled()
	began := func(host, name string) time.Time {
		c, err := f.hosts[host].docker.ContainerInspect(context.Background(), f.id+"-"+name)
		if err != nil {
			f.t.Fatal(err)
		}
		at, _ := time.Parse(time.RFC3339Nano, c.State.StartedAt)
		return at
	}
	a, b, c := began("h1", "a"), began("h2", "b"), began("h3", "c")
	if b.Sub(a) < 1500*time.Millisecond || c.Sub(b) < 1500*time.Millisecond {
		f.t.Errorf("b started %s after a, c %s after b: before they were healthy", b.Sub(a), c.Sub(b))
	}
	if free := began("h3", "free"); free.After(b) {
		f.t.Errorf("what waits for nobody started %s after b", free.Sub(b))
	}
	f.onceEach(start)
}

// logs come from the host a resource is on, with the secrets masked that its containers print.
func (f *aFleet) logs() {
	printer := strings.Replace(on("h2", "p", "v1"), `command = "sleep 2147483647"`, `command = "sh -c 'echo hello from $K; echo $WORD; sleep 2147483647'"`, 1)
	f.write(map[string]string{"p.toml": strings.Replace(printer, "K = v1", "K = v1\nWORD = [[WORD]]", 1) +
		"\n[[variable]]\nname = \"WORD\"\nvalue = \"swordfish\"\nis_secret = true\n"})
	f.commit("a printer")
	f.eventually("the logs of h2 are read", time.Minute, func() (bool, string) {
		r := f.varan("logs", "deployment/"+f.id+"-p")
		return r.exit == 0 && r.stdout == "hello from v1\n<WORD>\n", r.stdout + r.stderr
	})
	r := f.varan("logs", "deployment/"+f.id+"-p", "--tail", "1")
	if r.stdout != "<WORD>\n" {
		f.t.Errorf("the last line: %q %s", r.stdout, r.stderr)
	}
	f.write(map[string]string{"p.toml": "REMOVE"})
	f.commit("no printer")
	f.settled()
}

func (f *aFleet) failure() {
	before := f.running()
	bad := strings.Replace(healthyAfter(1.5, on("h1", "a", "v2")), "test -e /tmp/ready", "false", 1)
	bad = strings.Replace(bad, `"--health-retries", "50"`, `"--health-retries", "2"`, 1)
	f.deploy(bad + healthyAfter(1.5, on("h2", "b", "v2", `after = ["ID-a"]`)) + on("h3", "c", "v2", `after = ["ID-b"]`) + on("h3", "free", "v2"))
	f.eventually("the failure is reported", time.Minute, func() (bool, string) {
		s, said := f.status()
		return len(s.Syncs) > 0 && len(s.Running) == 0 && len(s.Holds) == 1, said
	})
	after := f.running()
	for _, name := range []string{"b", "c"} {
		if after[name] != before[name] {
			f.t.Errorf("%s was touched although what it comes after failed: %s, before %s", name, after[name], before[name])
		}
	}
	if after["a"] != before["a"] || after["a"] == "" {
		f.t.Errorf("a was not put back: %q, before %q", after["a"], before["a"])
	}
	if after["free"] == before["free"] || after["free"] == "" {
		f.t.Errorf("what depends on nothing was not changed: %q", after["free"])
	}
	f.deploy(chain("v3"))
	f.at("v3", 4, time.Minute)
	f.settled()
}

func (f *aFleet) moves() {
	f.deploy(strings.Replace(chain("v3"), `server = "h3"`, `server = "h1"`, 1)) // c
	f.eventually("c runs on h1 and nowhere else", time.Minute, func() (bool, string) {
		now := f.running()
		_, still := f.hosts["h3"].containers(true)[f.id+"-c"]
		return strings.HasPrefix(now["c"], "h1 ") && !still, fmt.Sprint(now)
	})
	f.settled()
	f.deploy(chain("v3"))
	f.eventually("c runs on h3 and nowhere else", time.Minute, func() (bool, string) {
		now := f.running()
		_, still := f.hosts["h1"].containers(true)[f.id+"-c"]
		return strings.HasPrefix(now["c"], "h3 ") && !still, fmt.Sprint(now)
	})
	f.settled()
}

// six is two deployments on each host that take a while, and nothing between them.
func six(version string) string {
	var b strings.Builder
	for i, host := range []string{"h1", "h2", "h3"} {
		for k := range 2 {
			b.WriteString(healthyAfter(2, on(host, fmt.Sprintf("%c", 'a'+2*i+k), version)))
		}
	}
	return b.String()
}

// begun waits until an op of a host is at work.
func (f *aFleet) begun(host string, since time.Time) {
	f.t.Helper()
	f.eventually("work begins on "+host, 30*time.Second, func() (bool, string) {
		for _, c := range f.hosts[host].containers(true) {
			if c.Created >= since.Unix() {
				return true, ""
			}
		}
		return false, f.hosts[host].names()
	})
}

func (f *aFleet) reset(text, version string, n int) {
	f.t.Helper()
	f.deploy(text)
	f.at(version, n, time.Minute)
	f.settled()
}

func (f *aFleet) cutFor(d time.Duration) {
	f.reset(six("v0"), "v0", 6)
	start := f.deploy(six("v1"))
	f.begun("h2", start)
	f.hosts["h2"].cut()
	time.Sleep(d)
	f.hosts["h2"].heal()
	f.at("v1", 6, 2*time.Minute)
	f.settled()
	f.onceEach(start)
}

func (f *aFleet) cutForGood() {
	f.reset(six("v0"), "v0", 6)
	start := f.deploy(six("v1"))
	f.begun("h2", start)
	f.hosts["h2"].cut()
	f.eventually("all other hosts go on", time.Minute, func() (bool, string) {
		return f.hosts["h1"].versions("v1") && f.hosts["h3"].versions("v1"), f.hosts["h1"].names() + f.hosts["h3"].names()
	})
	f.eventually("the run ends without h2", 90*time.Second, func() (bool, string) {
		s, said := f.status()
		return len(s.Running) == 0 && strings.Contains(said, `"unreachable"`), said
	})
	r := f.varan("plan", "--json", f.repo)
	if !strings.Contains(r.stdout, `"unreachable"`) {
		f.t.Errorf("the plan does not say that h2 is unreachable:\n%s", r.stdout)
	}
	f.hosts["h2"].heal()
	f.at("v1", 6, 2*time.Minute)
	f.settled()
	f.onceEach(start)
}

func (f *aFleet) killed(d *daemon) *daemon {
	f.reset(six("v0"), "v0", 6)
	seed := uint64(time.Now().UnixNano())
	f.t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 1))
	key := f.key()
	for round := range rounds(5, 200) {
		version := fmt.Sprintf("k%d", round)
		start := f.deploy(six(version))
		pause := time.Duration(random.IntN(5000)) * time.Millisecond
		time.Sleep(pause)
		victim := f.hosts[f.names[random.IntN(len(f.names))]]
		what := round % 3 // daemon, agent, both
		if what != 1 {
			d.kill()
		}
		if what != 0 {
			victim.killAgent()
		}
		if random.IntN(2) == 0 {
			time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
		}
		if what != 0 {
			victim.startAgent(key)
		}
		if what != 1 {
			d = f.whole.daemon()
		}
		f.at(version, 6, 2*time.Minute)
		f.onceEach(start)
		if f.t.Failed() {
			f.t.Logf("round %d: %s killed after %s", round, []string{"daemon", "agent of " + victim.name, "both, " + victim.name}[what], pause)
			return d
		}
		if round%20 == 19 {
			f.t.Logf("%d rounds", round+1)
		}
		if end, ok := f.t.Deadline(); ok && time.Until(end) < 3*time.Minute {
			f.t.Logf("no time for more than %d rounds", round+1)
			break
		}
	}
	f.settled()
	before := f.running()
	h := f.hosts["h2"]
	h.killAgent()
	if err := os.RemoveAll(filepath.Join(h.dir, "root", "ledger")); err != nil {
		f.t.Fatal(err)
	}
	h.startAgent(key)
	f.all("ok")
	f.settled()
	if after := f.running(); fmt.Sprint(after) != fmt.Sprint(before) {
		f.t.Errorf("without the ledger: %v, before %v", after, before)
	}
	f.empty()
	return d
}

// outlived: an agent goes on with its op while the daemon is gone, and the next daemon does not ask for the same again.
func (f *aFleet) outlived(d *daemon) *daemon {
	slow := func(version string) string {
		before, rest, _ := strings.Cut(six(version), healthyAfter(2, on("h2", "c", version)))
		return before + strings.Replace(on("h2", "c", version), `extra_args = ["--stop-signal", "SIGKILL"]`, "termination_timeout = 6", 1) + rest
	}
	f.reset(slow("v0"), "v0", 6)
	start := f.deploy(slow("v1"))
	h := f.hosts["h2"]
	f.eventually("the old container is being stopped", 30*time.Second, func() (bool, string) {
		_, begun := h.containers(true)[f.id+"-c.varan-new"]
		return begun, h.names()
	})
	d.kill()
	d = f.whole.daemon()
	f.at("v1", 6, time.Minute)
	f.settled()
	f.empty()
	f.onceEach(start)
	return d
}

// empty fails unless the daemon's plan changes nothing.
func (f *aFleet) empty() {
	f.t.Helper()
	var r ran
	f.eventually("every agent is back", time.Minute, func() (bool, string) { // an agent that was killed may still be on its way
		r = f.varan("plan", "--detailed-exitcode", f.repo)
		return !strings.Contains(r.stdout, "is unreachable"), r.stdout
	})
	if r.exit != 0 {
		f.t.Errorf("the plan is not empty: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
}

// amnesia: the daemon's data is deleted, JetStream's too, while the agents obey term 50.
func (f *aFleet) amnesia(d *daemon) *daemon {
	f.reset(six("m0"), "m0", 6)
	before, key := f.running(), f.key()
	d.kill()
	if err := os.RemoveAll(f.data); err != nil {
		f.t.Fatal(err)
	}
	for _, h := range f.hosts {
		h.killAgent()
		if err := os.WriteFile(filepath.Join(h.dir, "root", "term"), []byte("50\n"), 0o600); err != nil {
			f.t.Fatal(err)
		}
		h.startAgent(key)
	}
	d = f.whole.daemon()
	f.all("ok")
	f.settled()
	f.empty()
	if after := f.running(); fmt.Sprint(after) != fmt.Sprint(before) {
		f.t.Errorf("after the loss: %v, before %v", after, before)
	}
	start := f.deploy(six("m1"))
	f.at("m1", 6, time.Minute)
	f.settled()
	f.onceEach(start)
	for _, h := range f.hosts {
		kept, _ := os.ReadFile(filepath.Join(h.dir, "root", "term"))
		if n, _ := strconv.Atoi(strings.TrimSpace(string(kept))); n <= 50 {
			f.t.Errorf("%s obeys term %s", h.name, kept)
		}
	}
	return d
}

// backup: data restored from an old backup is no reason to bring back what ran then.
func (f *aFleet) backup(d *daemon) *daemon {
	f.reset(six("b0"), "b0", 6)
	d.stop()
	old := filepath.Join(f.dir, "backup")
	if err := os.CopyFS(old, os.DirFS(f.data)); err != nil {
		f.t.Fatal(err)
	}
	d = f.whole.daemon()
	f.reset(six("b1"), "b1", 6)
	f.reset(six("b2"), "b2", 6)
	before := f.running()
	d.kill()
	if err := os.RemoveAll(f.data); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(old, f.data); err != nil {
		f.t.Fatal(err)
	}
	start := time.Now()
	d = f.whole.daemon()
	f.all("ok")
	f.settled()
	f.empty()
	if after := f.running(); fmt.Sprint(after) != fmt.Sprint(before) {
		f.t.Errorf("with the old data: %v, before %v", after, before)
	}
	for _, h := range f.hosts {
		if ops := h.opsSince(start); len(ops) > 0 {
			f.t.Errorf("%s: with the old data these happened: %v", h.name, ops)
		}
	}
	f.reset(six("b3"), "b3", 6)
	return d
}

// TestEnrolment walks the way docs/fleet.md shows: from nothing to a healthy container on a second host.
func TestEnrolment(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "web2")
	h := f.hosts["web2"]
	f.write(map[string]string{"servers.toml": "[[server]]\nname = \"web1\"\nconfig.address = \"local\"\n"})
	f.commit("this machine")
	start := time.Now()
	d := f.daemon()
	defer d.stop()

	h.startAgent(f.key()) // what varan key prints
	var toml string
	f.eventually("the agent prints what to commit", 20*time.Second, func() (bool, string) {
		out, _ := os.ReadFile(h.out)
		_, after, ok := strings.Cut(string(out), "to enrol this agent:\n")
		toml, _, _ = strings.Cut(after, "time=")
		return ok && strings.Contains(toml, "config.public_key"), string(out)
	})
	f.eventually("it is shown as waiting, its key before what it says of itself", 20*time.Second, func() (bool, string) {
		r := f.varan("status")
		_, waiting, _ := strings.Cut(r.stdout, "agents that wait")
		key, claim := strings.Index(waiting, keyIn(t, toml)), strings.Index(waiting, "calls itself web2")
		return key >= 0 && claim > key, r.stdout
	})
	if log, _ := os.ReadFile(filepath.Join(f.dir, "serve.log")); !strings.Contains(string(log), "back this file up") {
		t.Error("the daemon does not say that its key is to be backed up")
	}
	if info, err := os.Stat(filepath.Join(f.dir, "hub.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the fleet's key: %v, %v", info, err)
	}
	f.keys("web2.toml", toml)
	f.write(map[string]string{"app.toml": healthyAfter(0.2, on("web2", "app", "v1"))})
	f.commit("enrol web2, and an app on it")
	f.at("v1", 1, 45*time.Second)
	f.settled()
	took := time.Since(start)
	t.Logf("from nothing to a healthy container on a second host in %s", took)
	if took > time.Minute {
		t.Errorf("it took %s", took)
	}
	if at := listening(t, d.cmd.Process.Pid); len(at) != 1 || at[0] != f.port {
		t.Errorf("the daemon listens on %v, the hub is %s: nothing else may", at, f.port)
	}
	r := f.varan("status")
	t.Log(r.stdout)
	if !strings.Contains(r.stdout, "web2") || strings.Contains(r.stdout, "agents that wait") {
		t.Errorf("status: %s", r.stdout)
	}

	// Taking the key out of Git locks it out, and what runs there goes on.
	f.write(map[string]string{"web2.toml": "[[server]]\nname = \"web2\"\n"})
	f.commit("lock web2 out")
	f.eventually("web2 is locked out", 30*time.Second, func() (bool, string) {
		r := f.varan("status")
		return strings.Contains(r.stdout, "agents that wait") && strings.Contains(r.stdout, "unreachable"), r.stdout
	})
	if n := len(f.running()); n != 1 {
		t.Errorf("%d containers run, want 1", n)
	}
}

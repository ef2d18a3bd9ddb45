package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// updateWait is how long a new agent has here to reach the hub.
const updateWait = 4 * time.Second

// TestUpgrade: a commit makes the agents another build, one at a time, and back; a build that does not do leaves the
// old one. Through all of it the agents keep their processes and the containers run on.
func TestUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Docker engine; -short is set")
	}
	built := make(chan [3]string, 2) // version, path, error
	for _, version := range []string{"v1-test", "v2-test"} {
		go func() {
			path, err := build("CGO_ENABLED=0", "-ldflags", "-s -w -X main.version="+version)
			built <- [3]string{version, path, fmt.Sprint(err)}
		}()
	}
	f := newFleet(t, "h1", "h2")
	u := &upgrade{aFleet: f, binaries: t.TempDir(), builds: map[string]string{}}
	for range cap(built) {
		b := <-built
		if b[2] != "<nil>" {
			t.Fatal(b[2])
		}
		u.builds[b[0]] = b[1]
		t.Cleanup(func() { os.RemoveAll(filepath.Dir(b[1])) })
	}
	u.agents("v1-test")
	f.write(map[string]string{"a.toml": on("h1", "a", "v1") + on("h2", "b", "v1")})
	f.commit("a container each")
	d := f.daemon()
	u.key = f.key()
	u.enrol()
	f.at("v1", 2, time.Minute)
	f.settled()
	u.containers, u.pids = f.running(), u.processes()

	t.Run("a binary that is not there, or not what was committed", func(t *testing.T) { u.in(t).absent("v2-test") })
	t.Run("one at a time", func(t *testing.T) { u.in(t).both("v2-test") })
	t.Run("one that ends at once", func(t *testing.T) {
		u.in(t).bad("v3-ends", "echo no such thing >&2; exit 3", "it ended before it reached the hub: exit status 3")
	})
	t.Run("one that hangs, and the agent killed meanwhile", func(t *testing.T) { u.in(t).killedMeanwhile() })
	t.Run("one that hangs", func(t *testing.T) { u.in(t).bad("v4-hangs", "exec sleep 1000", "it did not reach the hub within 4s") })
	t.Run("back to the older one", func(t *testing.T) { u.in(t).both("v1-test") })
	d.stop()
}

// An upgrade is a fleet with a folder of binaries.
type upgrade struct {
	*aFleet
	binaries, key string
	builds        map[string]string // paths by version
	containers    map[string]string
	pids          map[string]int
}

func (u *upgrade) in(t *testing.T) *upgrade {
	same := *u
	same.aFleet = u.aFleet.in(t)
	return &same
}

// agents gives each host a copy of the binary, and the daemon the folder.
func (u *upgrade) agents(version string) {
	u.t.Helper()
	for _, h := range u.hosts {
		h.own = filepath.Join(h.dir, "bin", "varan")
		u.copy(u.builds[version], h.own)
	}
	data, err := os.ReadFile(u.config)
	if err == nil {
		err = os.WriteFile(u.config, []byte(strings.Replace(string(data), "[hub]\n", "[hub]\nagents_dir = \""+u.binaries+"\"\n", 1)), 0o600)
	}
	if err != nil {
		u.t.Fatal(err)
	}
}

func (u *upgrade) copy(from, to string) (sum string) {
	u.t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		u.t.Fatal(err)
	}
	return sumOf(data)
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// enrol starts the agents and commits their keys.
func (u *upgrade) enrol() {
	u.t.Helper()
	for _, h := range u.hosts {
		h.startAgent(u.key, "--update-wait", updateWait.String())
	}
	var text string
	u.eventually("the agents wait to be enrolled", 30*time.Second, func() (bool, string) {
		r := u.varan("status", "--toml")
		text = r.stdout
		return strings.Count(text, "[[server]]") == len(u.hosts), r.stdout + r.stderr
	})
	u.keys("servers.toml", text)
	u.commit("enrol")
	u.all("ok")
}

// ask commits what the agents are to be.
func (u *upgrade) ask(version, sum string) {
	u.t.Helper()
	path := filepath.Join(u.repo, "servers.toml")
	data, err := os.ReadFile(path)
	if err != nil {
		u.t.Fatal(err)
	}
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if strings.HasPrefix(l, "config.agent_") {
			continue
		}
		lines = append(lines, l)
		if strings.HasPrefix(l, "config.public_key") {
			lines = append(lines, fmt.Sprintf("config.agent_version = %q", version), fmt.Sprintf("config.agent_sha256.%s-%s = %q", runtime.GOOS, runtime.GOARCH, sum))
		}
	}
	u.keys("servers.toml", strings.Join(lines, "\n")+"\n")
	u.commit("agents " + version)
}

func (u *upgrade) file(version string) string {
	return filepath.Join(u.binaries, plan.BinaryName(version, runtime.GOOS+"-"+runtime.GOARCH))
}

// processes are the agents' process ids.
func (u *upgrade) processes() map[string]int {
	pids := map[string]int{}
	for name, h := range u.hosts {
		pids[name] = h.agent.cmd.Process.Pid
	}
	return pids
}

// runs is the SHA-256 of the binary that a host's agent runs.
func (u *upgrade) runs(h *hostOf) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/exe", h.agent.cmd.Process.Pid))
	if err != nil {
		return err.Error()
	}
	return sumOf(data)
}

// untouched fails unless containers and agents' processes are what they were.
func (u *upgrade) untouched() {
	u.t.Helper()
	if now := u.aFleet.running(); !maps.Equal(now, u.containers) {
		u.t.Errorf("containers are %v, before %v", now, u.containers)
	}
	for name, pid := range u.processes() {
		if pid != u.pids[name] || !exists(fmt.Sprintf("/proc/%d/exe", pid)) {
			u.t.Errorf("the agent of %s is process %d, before %d", name, pid, u.pids[name])
		}
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// step is what the plan says of a server.
func (u *upgrade) step(server string) *plan.Step {
	u.t.Helper()
	s := u.plan().Step(schema.NewID(schema.KindServer, server))
	if s == nil {
		u.t.Fatalf("the plan has no step for server %s", server)
	}
	return s
}

func (u *upgrade) blocked(why string) {
	u.t.Helper()
	u.eventually("the plan says "+why, 20*time.Second, func() (bool, string) {
		s := u.step("h1")
		return s.Action == plan.Blocked && strings.Contains(s.Causes[0].Detail, why), fmt.Sprint(s.Action, s.Causes)
	})
}

func (u *upgrade) absent(version string) {
	u.ask(version, strings.Repeat("ab", 32))
	u.blocked("agents_dir holds no varan-" + version + "-")
	u.copy(u.builds[version], u.file(version))
	u.blocked("and agent_sha256 says abab")
	u.untouched()
}

// both commits a version and waits until both agents run it, one after the other.
func (u *upgrade) both(version string) {
	before := u.runs(u.hosts["h1"])
	sum := u.copy(u.builds[version], u.file(version))
	u.ask(version, sum)
	u.eventually("both agents are "+version, 3*time.Minute, func() (bool, string) {
		// The second goes on only when the first is well again.
		one, two := u.runs(u.hosts["h1"]), u.runs(u.hosts["h2"])
		if one == before && two != before {
			u.t.Fatal("h2 was updated before h1")
		}
		s, said := u.status()
		versions := map[string]string{}
		for _, srv := range s.Servers {
			if srv.Figures != nil {
				versions[srv.Name] = srv.Figures.Varan
			}
		}
		return one == sum && two == sum && versions["h1"] == version && versions["h2"] == version, said
	})
	u.settled()
	for _, h := range u.hosts {
		data, err := os.ReadFile(h.own + ".old")
		if err != nil || sumOf(data) != before {
			u.t.Errorf("%s did not keep the old binary: %v", h.name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(h.own), ".*")); len(left) > 0 {
			u.t.Errorf("%s left %v", h.name, left)
		}
	}
	if s := u.step("h1"); s.Action != plan.None {
		u.t.Errorf("the plan is not empty: %s %v", s.Action, s.Causes)
	}
	u.untouched()
}

// script is a binary that tells its version and then does what it is told.
func (u *upgrade) script(version, does string) (sum string) {
	u.t.Helper()
	text := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = version ] && { echo '{\"version\":%q}'; exit 0; }\n%s\n", version, does)
	if err := os.WriteFile(u.file(version), []byte(text), 0o755); err != nil {
		u.t.Fatal(err)
	}
	return sumOf([]byte(text))
}

// bad commits a binary that does not do: h1 goes back by itself and says why, h2 is not tried.
func (u *upgrade) bad(version, does, why string) {
	before := u.runs(u.hosts["h1"])
	u.ask(version, u.script(version, does))
	u.eventually("the failure is told", 40*time.Second, func() (bool, string) {
		s, said := u.status()
		for _, h := range s.Holds {
			if h.Resource == "server/h1" && strings.Contains(h.Reason, why) && strings.Contains(h.Reason, version) {
				return len(s.Running) == 0, said
			}
		}
		return false, said
	})
	u.all("ok")
	for _, h := range u.hosts {
		if now := u.runs(h); now != before {
			u.t.Errorf("%s runs another binary", h.name)
		}
		log, _ := os.ReadFile(h.out)
		if strings.Contains(string(log), version) != (h.name == "h1") {
			u.t.Errorf("%s: tried %v, want only h1:\n%s", h.name, h.name != "h1", log)
		}
	}
	if s := u.step("h1"); s.Action != plan.Held || !strings.Contains(fmt.Sprint(s.Causes), why) {
		u.t.Errorf("the plan: %s %v, want it held", s.Action, s.Causes)
	}
	if runs := u.varan("runs").stdout; !strings.Contains(runs, "failed") {
		u.t.Errorf("runs:\n%s", runs)
	} else if run, _, _ := strings.Cut(strings.Split(runs, "\n")[1], " "); strings.Contains(does, "no such thing") {
		if told := u.varan("runs", run); !strings.Contains(told.stdout, "no such thing") {
			u.t.Errorf("what it printed last is not in its run:\n%s", told.stdout+told.stderr)
		}
	}
	u.untouched()
}

// killedMeanwhile: a power loss, as far as a test can have one, while the new binary is tried.
func (u *upgrade) killedMeanwhile() {
	h := u.hosts["h1"]
	before := u.runs(h)
	pidFile := filepath.Join(h.dir, "child")
	u.ask("v5-hangs", u.script("v5-hangs", "echo $$ > "+pidFile+"; exec sleep 1000"))
	u.eventually("the new binary runs", 30*time.Second, func() (bool, string) { return exists(pidFile), "" })
	h.killAgent()
	child, _ := os.ReadFile(pidFile)
	u.eventually("the new binary ended with it", 5*time.Second, func() (bool, string) {
		return !exists("/proc/" + strings.TrimSpace(string(child)) + "/exe"), string(child)
	})
	h.startAgent(u.key, "--update-wait", updateWait.String())
	u.pids["h1"] = h.agent.cmd.Process.Pid
	u.eventually("the agent that starts knows", 20*time.Second, func() (bool, string) {
		log, _ := os.ReadFile(h.out)
		return strings.Contains(string(log), "stopped in the middle of its update"), string(log)
	})
	u.all("ok")
	if now := u.runs(h); now != before {
		u.t.Error("h1 runs another binary")
	}
	u.untouched()
}

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
)

// A standing is what "varan status --json" tells, as far as these tests look.
type standing struct {
	Ready    bool     `json:"ready"`
	Problem  string   `json:"problem"`
	Problems []string `json:"problems"`
	Paused   *struct {
		Reason string `json:"reason"`
	} `json:"paused"`
	Syncs []struct {
		State       string   `json:"state"`
		Error       string   `json:"error"`
		Tip         string   `json:"tip"`
		Good        string   `json:"good"`
		Applied     string   `json:"applied"`
		Asks        []string `json:"asks"`
		Digest      string   `json:"digest"`
		Diagnostics []struct {
			Severity string `json:"severity"`
			File     string `json:"file"`
			Line     int    `json:"line"`
			Message  string `json:"message"`
			Hint     string `json:"hint"`
		} `json:"diagnostics"`
	} `json:"syncs"`
	Resources []struct {
		Resource string `json:"resource"`
		State    string `json:"state"`
		Action   string `json:"action"`
		Cause    string `json:"cause"`
	} `json:"resources"`
	Holds []struct {
		Resource string `json:"resource"`
		Kind     string `json:"kind"`
		Reason   string `json:"reason"`
	} `json:"holds"`
	Running []struct {
		ID string `json:"id"`
	} `json:"running"`
}

// status asks the daemon; what it printed is for failures.
func (w *world) status() (s standing, text string) {
	w.t.Helper()
	r := w.varan("status", "--json")
	if r.exit != 0 {
		return s, r.stdout + r.stderr
	}
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		w.t.Fatalf("varan status --json: %v\n%s", err, r.stdout)
	}
	return s, r.stdout
}

// until waits until the status is as ok wants it.
func (w *world) until(what string, ok func(s standing) bool) (s standing) {
	w.t.Helper()
	w.eventually(what, time.Minute, func() (bool, string) {
		var text string
		s, text = w.status()
		return len(s.Syncs) > 0 && ok(s), text
	})
	return s
}

// at waits until the first sync has tip as its tip and is in that state.
func (w *world) at(tip, state string) standing {
	w.t.Helper()
	return w.until(state+" at "+tip, func(s standing) bool {
		return s.Syncs[0].Tip == tip && s.Syncs[0].State == state && len(s.Running) == 0
	})
}

// good waits until a commit is applied and nothing goes on.
func (w *world) good(commit string) standing {
	w.t.Helper()
	return w.until("applied "+commit, func(s standing) bool {
		return s.Syncs[0].Tip == commit && s.Syncs[0].State == "ok" && s.Syncs[0].Applied == commit && len(s.Running) == 0
	})
}

// A runLine is one of "varan runs --json".
type runLine struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Trigger string `json:"trigger"`
	Commit  string `json:"commit"`
	Actor   string `json:"actor"`
	Error   string `json:"error"`
}

// runs are newest first.
func (w *world) runs() (runs []runLine) {
	w.t.Helper()
	r := w.varan("runs", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &runs); err != nil {
		w.t.Fatalf("varan runs --json: exit %d: %v\n%s%s", r.exit, err, r.stdout, r.stderr)
	}
	return runs
}

// failed waits until the newest run is of that commit and failed; it returns what "varan runs ID" says.
func (w *world) failed(commit string) string {
	w.t.Helper()
	var id string
	w.eventually("the run of "+commit+" fails", time.Minute, func() (bool, string) {
		for _, r := range w.runs() {
			if r.Commit == commit && r.Status == "failed" {
				id = r.ID
				return true, ""
			}
		}
		return false, w.varan("runs").stdout
	})
	return w.varan("runs", id).stdout
}

// log is what the daemons of this world have logged.
func (w *world) log() string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, "serve.log"))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// shopOf is a stack of files in the repository.
func shopOf(compose string) map[string]string {
	return map[string]string{"shop.toml": `
[[stack]]
name = "ID-shop"
[stack.config]
run_directory = "shop"
`, "shop/compose.yaml": compose}
}

func sleeper(more ...string) string {
	return `services:
  web:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
    network_mode: none
` + strings.Join(more, "")
}

// TestBrokenCommit: a commit with broken TOML, or with a compose file that does not parse, is not applied at all;
// every error is listed with its place; what was good runs on and is put right; the next good commit applies.
func TestBrokenCommit(t *testing.T) {
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\n")
	w.write(shopOf(sleeper()))
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("good")
	d := w.daemon()
	w.good(first)

	t.Run("toml", func(t *testing.T) {
		w := w.in(t)
		before := w.ids()
		w.replace("a.toml", "K = x", "K = y")
		w.write(map[string]string{
			"b.toml": "[[deployment]]\nname = \"ID-b\"\nafter = [\"nowhere\"]\n[deployment.config]\nimge = \"x\"\n",
			"c.toml": "[[stak]]\nname = \"c\"\n",
			"d.toml": "x = [\n",
			"e.toml": "name = \"\xff\xfe\"\n",
		})
		broken := w.commit("broken")
		s := w.at(broken, "broken")
		text := w.varan("status").stdout
		for _, want := range []string{"b.toml:3", "nowhere", "b.toml:5", "imge", "did you mean", "c.toml:1", "stak", "d.toml:", "e.toml:1"} {
			if !strings.Contains(text, want) {
				t.Errorf("status does not say %q:\n%s", want, text)
			}
		}
		if s.Syncs[0].Good != first || s.Syncs[0].Applied != first {
			t.Errorf("good %s, applied %s, want %s", s.Syncs[0].Good, s.Syncs[0].Applied, first)
		}
		if !s.Ready {
			t.Error("a broken commit makes the daemon not ready")
		}
		if n := len(s.Syncs[0].Diagnostics); n != 6 {
			t.Errorf("%d diagnostics, want 6: %+v", n, s.Syncs[0].Diagnostics)
		}
		w.same(before)
		w.drift(w.id + "-a")
		if s := w.at(broken, "broken"); s.Syncs[0].Good != first { // once the drift was put right
			t.Errorf("good is %s, want %s", s.Syncs[0].Good, first)
		}
		before = w.ids()
		w.write(map[string]string{"b.toml": "REMOVE", "c.toml": "REMOVE", "d.toml": "REMOVE", "e.toml": "REMOVE"})
		w.good(w.commit("mended"))
		after := w.ids()
		if after[w.id+"-a"] == before[w.id+"-a"] {
			t.Error("the mended commit was not applied")
		}
		if after[w.id+"-shop-web-1"] != before[w.id+"-shop-web-1"] {
			t.Error("the mended commit recreated what it does not change")
		}
	})

	t.Run("compose", func(t *testing.T) {
		w := w.in(t)
		before := w.ids()
		good, _ := w.status()
		w.replace("a.toml", "K = y", "K = z")
		w.write(map[string]string{"shop/compose.yaml": "services:\n  web:\n    image: varan-e2e:2\n    porst: []\n"})
		s := w.at(w.commit("broken"), "broken")
		if ds := s.Syncs[0].Diagnostics; len(ds) != 1 || ds[0].File != "shop/compose.yaml" || !strings.Contains(ds[0].Message, "porst") {
			t.Errorf("diagnostics %+v", ds)
		}
		if s.Syncs[0].Applied != good.Syncs[0].Applied {
			t.Errorf("applied %s, want %s", s.Syncs[0].Applied, good.Syncs[0].Applied)
		}
		w.same(before)
		w.drift(w.id + "-shop-web-1")
		w.write(map[string]string{"shop/compose.yaml": "services:\n  web: [\n"})
		s = w.at(w.commit("worse"), "broken")
		if ds := s.Syncs[0].Diagnostics; len(ds) != 1 || ds[0].File != "shop/compose.yaml" || ds[0].Line == 0 {
			t.Errorf("diagnostics %+v", ds)
		}
		before = w.ids()
		w.write(shopOf(sleeper()))
		w.good(w.commit("mended"))
		if after := w.ids(); after[w.id+"-a"] == before[w.id+"-a"] || after[w.id+"-shop-web-1"] != before[w.id+"-shop-web-1"] {
			t.Errorf("after the mended commit: %s", w.names())
		}
	})
	d.stop()
	if n := strings.Count(w.log(), "panic"); n != 0 {
		t.Errorf("%d panics", n)
	}
}

// same fails if containers other than these run.
func (w *world) same(before map[string]string) {
	w.t.Helper()
	if after := w.ids(); fmt.Sprint(after) != fmt.Sprint(before) {
		w.t.Errorf("containers changed: before %v, after %v", before, after)
	}
}

// drift stops a container and waits until it runs again.
func (w *world) drift(name string) {
	w.t.Helper()
	zero := 0
	if err := w.docker.ContainerStop(context.Background(), name, container.StopOptions{Timeout: &zero}); err != nil {
		w.t.Fatal(err)
	}
	w.eventually(name+" runs again", 30*time.Second, func() (bool, string) {
		_, runs := w.ids()[name]
		return runs, w.names()
	})
}

// TestFailedSteps: what fails on the host fails that step and what comes after it, with the cause in plain words
// and what to do; everything else is applied, and what ran runs.
func TestFailedSteps(t *testing.T) {
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\n")
	w.write(shopOf(sleeper()))
	w.write(map[string]string{"z.toml": one("z"), "y.toml": one("y", `after = ["ID-shop"]`)})
	d := w.daemon0()
	w.good(w.commit("good"))
	k := 0
	for _, c := range []struct {
		name, compose string
		want          []string
		planned       bool // the plan says so already
	}{
		{"bind", sleeper("    volumes:\n      - type: bind\n        source: ./gone\n        target: /gone\n        bind:\n          create_host_path: false\n"),
			[]string{"shop/compose.yaml:", "gone", "create_host_path", "blocked"}, true},
		{"image", strings.Replace(sleeper(), "varan-e2e:1", "127.0.0.1:1/nothing/here:9", 1),
			[]string{"127.0.0.1:1/nothing/here:9", "pull", "tried again"}, false},
		{"gate", strings.Replace(sleeper(), "sleep 2147483647", "sh -c 'echo told-by-web; exit 3'", 1),
			[]string{"web", "exit", "3", "varan apply --retry"}, false},
		{"command", strings.Replace(sleeper(), "sleep 2147483647", "/no/such/program", 1),
			[]string{"service web", "/no/such/program", "varan apply --retry"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			before := w.ids()
			k++
			w.write(map[string]string{"shop/compose.yaml": c.compose, "z.toml": strings.Replace(one("z"), "K = x", fmt.Sprintf("K = %d", k), 1),
				"y.toml": strings.Replace(one("y", `after = ["ID-shop"]`), "K = x", fmt.Sprintf("K = %d", k), 1)})
			commit, said := w.commit(c.name), ""
			if c.planned {
				w.at(commit, "failed")
				said = w.varan("status").stdout
			} else {
				said = w.failed(commit)
				c.want = append(c.want, "not tried")
			}
			t.Logf("%s", said)
			for _, want := range c.want {
				if !strings.Contains(said, want) {
					t.Errorf("the run does not say %q:\n%s", want, said)
				}
			}
			w.eventually("all runs", 30*time.Second, func() (bool, string) {
				return len(w.ids()) == 3, w.names()
			})
			after := w.ids()
			if after[w.id+"-z"] == before[w.id+"-z"] {
				t.Error("an unrelated resource was not applied")
			}
			if after[w.id+"-y"] != before[w.id+"-y"] {
				t.Error("what comes after the failed one was changed")
			}
			if c.name != "gate" && c.name != "command" && after[w.id+"-shop-web-1"] != before[w.id+"-shop-web-1"] {
				t.Error("what ran was replaced")
			}
		})
	}
	d.stop()
}

// daemon0 makes the repository before the daemon starts on it.
func (w *world) daemon0() *daemon {
	w.t.Helper()
	w.commit("first")
	return w.daemon()
}

// TestNoEngine: without a Docker engine every command that needs one says so at once, with the socket it tried.
func TestNoEngine(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{"a.toml": one("a")})
	w.commit("first")
	for _, args := range [][]string{{"serve", "--repo", w.repo}, {"apply", "--yes", w.repo}, {"plan", w.repo}} {
		t.Run(args[0], func(t *testing.T) {
			w := w.in(t)
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			cmd := w.command(ctx, args...)
			cmd.Env = append(cmd.Env, "DOCKER_HOST=unix:///nowhere/docker.sock")
			start := time.Now()
			out, _ := cmd.CombinedOutput()
			took := time.Since(start)
			if code := cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit %d, want 1", code)
			}
			if !strings.Contains(string(out), "/nowhere/docker.sock") {
				t.Errorf("the socket is not named:\n%s", out)
			}
			if took > time.Second && !raceDetector {
				t.Errorf("took %s", took)
			}
			if strings.Count(string(out), "\n") > 8 {
				t.Errorf("too many words:\n%s", out)
			}
			t.Logf("%s %s", took, out)
		})
	}
}

// TestHostileFiles: files that are huge, deep, no files, or lead out of the tree cost little and are never read.
func TestHostileFiles(t *testing.T) {
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\n")
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("good")
	d := w.daemon()
	w.good(first)
	secret := filepath.Join(w.dir, "outside.toml")
	if err := os.WriteFile(secret, []byte("[[deployment]]\nname = \"outside\"\ncanary = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
		want []string // in status; none: the commit is applied
		warn []string
	}{
		{name: "100 MB", want: []string{"big.toml", "at most"}, make: func(t *testing.T, dir string) {
			line := "# " + strings.Repeat("x", 97) + "\n"
			must(t, os.WriteFile(filepath.Join(dir, "big.toml"), []byte(strings.Repeat(line, 1<<20)), 0o600))
		}},
		{name: "10,000 nested tables", want: []string{"deep.toml:1"}, make: func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "deep.toml"), []byte("["+strings.Repeat("a.", 9999)+"a]\nx = 1\n"), 0o600))
		}},
		{name: "10,000 nested inline tables", want: []string{"deep.toml:3"}, make: func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "deep.toml"), []byte("[[deployment]]\nname = \"x\"\nconfig = "+strings.Repeat("{a=", 10000)+"1"+strings.Repeat("}", 10000)+"\n"), 0o600))
		}},
		{name: "10,000 nested arrays", want: []string{"deep.toml:3"}, make: func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "deep.toml"), []byte("[[deployment]]\nname = \"x\"\ntags = "+strings.Repeat("[", 10000)+strings.Repeat("]", 10000)+"\n"), 0o600))
		}},
		{name: "symlinks", warn: []string{"out.toml", "leads out"}, make: func(t *testing.T, dir string) {
			must(t, os.Symlink(secret, filepath.Join(dir, "out.toml")))
			must(t, os.Symlink("../outside.toml", filepath.Join(dir, "up.toml")))
			must(t, os.Symlink("loop.toml", filepath.Join(dir, "loop.toml")))
			must(t, os.Symlink("..", filepath.Join(dir, "parent")))
		}},
		{name: "YAML bomb", want: []string{"bomb/compose.yaml"}, make: func(t *testing.T, dir string) {
			must(t, os.MkdirAll(filepath.Join(dir, "bomb"), 0o700))
			text := "x-a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
			for i := range 12 {
				text += fmt.Sprintf("x-a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 10), ","))
			}
			must(t, os.WriteFile(filepath.Join(dir, "bomb/compose.yaml"), []byte(text+"services:\n  web:\n    image: varan-e2e:1\n    labels: *a12\n"), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "bomb.toml"), []byte("[[stack]]\nname = \"bomb\"\n[stack.config]\nrun_directory = \"bomb\"\n"), 0o600))
		}},
		{name: "escapes", want: []string{"esc/compose.yaml"}, make: func(t *testing.T, dir string) {
			must(t, os.MkdirAll(filepath.Join(dir, "esc"), 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "esc/compose.yaml"), []byte("include:\n  - /etc/passwd\nservices:\n  web:\n    extends: {file: ../../outside.toml, service: x}\n"), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "esc.toml"), []byte("[[stack]]\nname = \"esc\"\n[stack.config]\nrun_directory = \"esc\"\n"), 0o600))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			before := w.ids()
			c.make(t, w.repo)
			start := time.Now()
			commit := w.commit(c.name)
			if c.want == nil {
				w.good(commit)
			} else {
				w.at(commit, "broken")
			}
			t.Logf("%s after %s: %s", c.name, time.Since(start), w.memory(d))
			text := w.varan("status").stdout
			for _, want := range append(c.want, c.warn...) {
				if !strings.Contains(text, want) {
					t.Errorf("status does not say %q:\n%.2000s", want, text)
				}
			}
			if len(text) > 20_000 || strings.Contains(text, "canary") {
				t.Errorf("status: %d bytes\n%.2000s", len(text), text)
			}
			w.same(before)
			w.git("rm", "-rqf", ".")
			w.write(map[string]string{"a.toml": one("a")})
			w.good(w.commit("after " + c.name))
		})
	}
	d.stop()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// memory is the daemon's resident memory, and its highest.
func (w *world) memory(d *daemon) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	var out []string
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "VmRSS") {
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(out, ", ")
}

// TestHostileFolder: in a folder that is no repository lie FIFOs, devices and names that are no UTF-8.
func TestHostileFolder(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{"a.toml": one("a")})
	must(t, syscall.Mkfifo(filepath.Join(w.repo, "pipe.toml"), 0o644))
	if err := syscall.Mknod(filepath.Join(w.repo, "dev.toml"), syscall.S_IFCHR|0o644, 1<<8|9); err != nil {
		t.Logf("no device made: %v", err)
		must(t, syscall.Mkfifo(filepath.Join(w.repo, "dev.toml"), 0o644))
	}
	must(t, os.WriteFile(filepath.Join(w.repo, "\xff.toml"), []byte("[[deployment]]\nname = \"x\"\n"), 0o600))
	d := w.daemon()
	s := w.until("applied", func(s standing) bool { return s.Syncs[0].State == "ok" && s.Ready && len(s.Running) == 0 })
	if len(w.ids()) != 1 {
		t.Errorf("runs: %s", w.names())
	}
	said := ""
	for _, d := range s.Syncs[0].Diagnostics {
		said += d.File + ": " + d.Message + "\n"
	}
	for _, want := range []string{"pipe.toml: this is no regular file", "dev.toml: this is no regular file", `\xff.toml`} {
		if !strings.Contains(said, want) {
			t.Errorf("status does not say %q:\n%s", want, said)
		}
	}
	d.stop()
}

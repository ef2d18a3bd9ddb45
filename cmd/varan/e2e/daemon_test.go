package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// another starts a further daemon that is expected to refuse, and returns what it said.
func (w *world) another(args ...string) ran {
	w.t.Helper()
	start := time.Now()
	r := w.varan(append([]string{"serve", "--repo", w.repo}, args...)...)
	if took := time.Since(start); took > 3*time.Second && !raceDetector {
		w.t.Errorf("refused after %s", took)
	}
	return r
}

// TestServeTwice: a second daemon on the same data directory, the same agent root or the same engine says who
// holds it and leaves; after kill -9 the next one starts at once.
func TestServeTwice(t *testing.T) {
	w := newWorld(t)
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("first")
	d := w.daemon()
	w.good(first)
	pid := fmt.Sprint(d.cmd.Process.Pid)
	data, root := filepath.Join(w.dir, "data2"), filepath.Join(w.dir, "root2")
	for name, args := range map[string][]string{
		"data directory": {},
		"agent root":     {"--data-dir", data},
		"engine":         {"--data-dir", data, "--root", root},
	} {
		if r := w.another(args...); r.exit != 1 || !strings.Contains(r.stderr, "process "+pid) {
			t.Errorf("same %s: exit %d, %s%s", name, r.exit, r.stdout, r.stderr)
		}
	}
	if r := w.varan("apply", "--yes", w.repo, "--data-dir", data); r.exit != 1 || !strings.Contains(r.stderr, "process "+pid) {
		t.Errorf("varan apply beside a daemon: exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}
	d.kill()
	start := time.Now()
	d = w.daemon()
	w.good(first)
	if took := time.Since(start); took > 5*time.Second && !raceDetector {
		t.Errorf("ready %s after kill -9", took)
	}
	info, err := os.Stat(filepath.Join(w.data, "varan.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	for _, f := range []string{w.data, w.root} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
	d.stop()
	if _, err := os.Stat(filepath.Join(w.data, "varan.sock")); err == nil {
		t.Error("the socket is left behind")
	}
	if r := w.varan("status"); r.exit != 1 || !strings.Contains(r.stderr, "no daemon answers at") || !strings.Contains(r.stderr, "varan serve") {
		t.Errorf("varan status without a daemon: exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}
}

// TestQuiet: looks that find nothing to do are no runs and no news.
func TestQuiet(t *testing.T) {
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\n")
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("first")
	d := w.daemon()
	w.good(first)
	w.calm()
	lines, runs := strings.Count(w.log(), "\n"), len(w.runs())
	if !strings.Contains(strings.SplitN(w.log(), "\n", 2)[0], w.repo) {
		t.Errorf("the first line does not say what is followed:\n%s", w.log())
	}
	// Events of the host that change nothing of ours, and commits that touch nothing.
	for i := range 3 {
		w.recorded(time.Now())
		w.write(map[string]string{"README.md": fmt.Sprint(i)})
		w.good(w.commit("nothing"))
	}
	w.calm()
	if n := strings.Count(w.log(), "\n"); n != lines {
		t.Errorf("%d lines logged about nothing:\n%s", n-lines, w.log())
	}
	if n := len(w.runs()); n != runs {
		t.Errorf("%d runs, want %d: %s", n, runs, w.varan("runs").stdout)
	}
	d.stop()
}

// calm waits until nothing was logged and no run begun for 1.5 s.
func (w *world) calm() {
	w.t.Helper()
	last, since := "", time.Now()
	w.eventually("calm", 30*time.Second, func() (bool, string) {
		s, _ := w.status()
		now := fmt.Sprint(len(w.log()), len(s.Running))
		if now != last {
			last, since = now, time.Now()
		}
		return len(s.Running) == 0 && time.Since(since) > 1500*time.Millisecond, now
	})
}

// TestStop: SIGTERM lets the steps under way finish and starts no further one; a second signal leaves at once, and
// the next start goes on.
func TestStop(t *testing.T) {
	w := newWorld(t)
	slow := func(name string, more ...string) string {
		return strings.Replace(one(name, more...), `settle = "0s"`, `settle = "3s"`, 1)
	}
	w.write(map[string]string{"a.toml": slow("a") + slow("b", `after = ["ID-a"]`)})
	first := w.commit("first")
	d := w.daemon()
	w.eventually("a runs", 30*time.Second, func() (bool, string) { return len(w.ids()) == 1, w.names() })
	start := time.Now()
	must(t, d.cmd.Process.Signal(syscall.SIGTERM))
	<-d.done
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if took := time.Since(start); took < time.Second || took > 10*time.Second {
		t.Errorf("took %s: a's gate is 3 s long", took)
	}
	if len(w.ids()) != 1 {
		t.Errorf("runs: %s", w.names())
	}
	if log := w.log(); !strings.Contains(log, "finishing the steps under way") || !strings.Contains(log, "deployment/"+w.id+"-a") || !strings.HasSuffix(strings.TrimSpace(log), "msg=stopped") {
		t.Errorf("log:\n%s", log)
	}
	before := w.ids()
	d = w.daemon()
	w.eventually("b is begun", 30*time.Second, func() (bool, string) { return len(w.ids()) == 2, w.names() })
	must(t, d.cmd.Process.Signal(syscall.SIGINT))
	w.eventually("it says so", 5*time.Second, func() (bool, string) { return strings.Count(w.log(), "finishing the steps under way") == 2, w.log() })
	second := time.NewTimer(700 * time.Millisecond) // sooner it would be the same Ctrl-C, passed on by a shell too
	<-second.C
	must(t, d.cmd.Process.Signal(syscall.SIGINT))
	<-d.done
	if code := d.cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit %d after two signals", code)
	}
	d = w.daemon()
	w.good(first)
	if after := w.ids(); after[w.id+"-a"] != before[w.id+"-a"] || len(after) != 2 {
		t.Errorf("runs: %s", w.names())
	}
	d.stop()
}

// TestReload: varan.toml and files of secrets are read again when they change. A changed secret recreates who uses
// it, in a run of its own; an emptied file keeps the last value and is an error that is shown.
func TestReload(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.dir, "token")
	must(t, os.WriteFile(file, []byte("first-canary-value\n"), 0o600))
	settings := func(more string) {
		w.configure("[config]\npoll = \"1s\"\n[secrets]\nTOKEN = { file = \"" + file + "\" }\n" + more)
	}
	settings("PLAIN = \"plain-one\"\n")
	w.write(map[string]string{"a.toml": strings.Replace(one("a"), "K = x", "K = [[TOKEN]]", 1) + strings.Replace(one("b"), "K = x", "K = [[PLAIN]]", 1) + one("c")})
	first := w.commit("first")
	d := w.daemon()
	w.good(first)
	w.calm()
	before, runs := w.ids(), len(w.runs())

	must(t, os.WriteFile(file, []byte("second-canary-value\n"), 0o600))
	w.hasEnv("a", "K=second-canary-value")
	after := w.ids()
	if after[w.id+"-b"] != before[w.id+"-b"] || after[w.id+"-c"] != before[w.id+"-c"] {
		t.Error("who does not use the secret was recreated")
	}
	w.calm()
	if rs := w.runs(); len(rs) != runs+1 || rs[0].Trigger != "secret" || rs[0].Status != "done" {
		t.Errorf("runs: %s", w.varan("runs").stdout)
	}

	before = w.ids()
	must(t, os.WriteFile(file, nil, 0o600))
	w.until("the empty file is told", func(s standing) bool {
		return len(s.Problems) == 1 && strings.Contains(s.Problems[0], "TOKEN") && strings.Contains(s.Problems[0], "empty")
	})
	w.drift(w.id + "-a") // with the value read before
	w.hasEnv("a", "K=second-canary-value")
	must(t, os.Remove(file))
	w.until("the missing file is told", func(s standing) bool { return len(s.Problems) == 1 && strings.Contains(s.Problems[0], "no such file") })
	w.same(before)
	must(t, os.WriteFile(file, []byte("third-canary-value\n"), 0o600))
	w.hasEnv("a", "K=third-canary-value")
	w.until("the problem is gone", func(s standing) bool { return len(s.Problems) == 0 })

	settings("PLAIN = \"plain-two\"\n")
	w.hasEnv("b", "K=plain-two")
	settings("PLAIN = \"plain-three\"\nnonsense = [\n")
	w.eventually("broken settings are told", 30*time.Second, func() (bool, string) {
		r := w.varan("status", "--data-dir", w.data) // which reaches the daemon all the same
		return r.exit == 0 && strings.Contains(r.stdout, "problem: varan.toml: line 16"), r.stdout + r.stderr
	})
	if r := w.varan("status"); r.exit != 1 || !strings.Contains(r.stderr, "varan.toml:16:") || !strings.Contains(r.stderr, "--data-dir") {
		t.Errorf("exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}
	w.hasEnv("b", "K=plain-two")
	settings("PLAIN = \"plain-two\"\n")
	w.until("well", func(s standing) bool { return len(s.Problems) == 0 && s.Syncs[0].State == "ok" })
	d.stop()
	for _, bad := range []string{"canary", "plain-one", "plain-two", "plain-three"} {
		if strings.Contains(w.log(), bad) {
			t.Errorf("%s is in the log", bad)
		}
	}
}

// hasEnv waits until the container has this variable.
func (w *world) hasEnv(name, want string) {
	w.t.Helper()
	w.eventually(want, 30*time.Second, func() (bool, string) {
		c, err := w.docker.ContainerInspect(context.Background(), w.id+"-"+name)
		if err != nil {
			return false, err.Error()
		}
		for _, e := range c.Config.Env {
			if e == want && c.State.Running {
				return true, ""
			}
		}
		return false, fmt.Sprint(c.Config.Env) + w.varan("status").stdout
	})
}

// TestDrive: every command that drives the daemon, for real.
func TestDrive(t *testing.T) {
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\n")
	w.write(map[string]string{"a.toml": one("a") + one("b") + one("old") + one("off", "deploy = false")})
	first := w.commit("first")
	d := w.daemon()
	w.good(first)
	ok := func(args ...string) string {
		t.Helper()
		r := w.varan(args...)
		if r.exit != 0 {
			t.Fatalf("varan %s: exit %d\n%s%s", strings.Join(args, " "), r.exit, r.stdout, r.stderr)
		}
		return r.stdout + r.stderr
	}
	a := "deployment/" + w.id + "-a"

	// hold: kept at the agent, shown, obeyed by commits and drift, kept across restarts.
	ok("hold", a, "moving the disk")
	before := w.ids()
	w.write(map[string]string{"a.toml": strings.ReplaceAll(one("a")+one("b")+one("old"), "K = x", "K = y") + one("off", "deploy = false")})
	held := w.commit("held")
	w.until("the commit is applied", func(s standing) bool {
		return s.Syncs[0].Tip == held && len(s.Running) == 0 && w.ids()[w.id+"-b"] != before[w.id+"-b"] && w.ids()[w.id+"-b"] != ""
	})
	if s, text := w.status(); len(s.Holds) != 1 || s.Holds[0].Resource != a || !strings.Contains(s.Holds[0].Reason, "moving the disk") {
		t.Errorf("status:\n%s", text)
	}
	d.stop()
	d = w.daemon()
	w.until("the hold is still there", func(s standing) bool {
		return len(s.Holds) == 1 && len(s.Running) == 0 && s.Ready && strings.Contains(s.Holds[0].Reason, "moving the disk")
	})
	if w.ids()[w.id+"-a"] != before[w.id+"-a"] {
		t.Error("what is held was changed")
	}
	if text := ok("status"); !strings.Contains(text, "moving the disk") || !strings.Contains(text, "held") {
		t.Errorf("status:\n%s", text)
	}
	ok("hold", a, "--off")
	w.eventually("a is changed", 30*time.Second, func() (bool, string) { id := w.ids()[w.id+"-a"]; return id != "" && id != before[w.id+"-a"], w.names() })
	w.good(held)

	// hold for a while ends by itself.
	ok("hold", a, "--for", "2s", "a moment")
	w.until("held", func(s standing) bool { return len(s.Holds) == 1 })
	w.until("over", func(s standing) bool { return len(s.Holds) == 0 })

	// pause: no run starts, also not after a restart; what was missed is made up for.
	ok("pause", "incident 42")
	before = w.ids()
	w.write(map[string]string{"a.toml": one("a") + one("b") + one("old") + one("off", "deploy = false")})
	paused := w.commit("paused")
	s := w.until("paused", func(s standing) bool {
		return s.Paused != nil && s.Syncs[0].State == "paused" && s.Syncs[0].Tip == paused
	})
	if !strings.Contains(s.Paused.Reason, "incident 42") {
		t.Errorf("paused because %q", s.Paused.Reason)
	}
	d.stop()
	d = w.daemon()
	w.until("paused", func(s standing) bool {
		return s.Paused != nil && s.Syncs[0].Tip == paused && s.Syncs[0].State == "paused" && s.Ready && len(s.Resources) > 0
	})
	w.calm()
	w.same(before)
	ok("pause", "--off")
	w.good(paused)
	if w.ids()[w.id+"-a"] == before[w.id+"-a"] {
		t.Error("what came while paused was not applied")
	}

	// run: also what has deploy = false.
	if out := ok("run", "deployment/"+w.id+"-off"); !strings.Contains(out, "-off") {
		t.Errorf("varan run said %q", out)
	}
	if w.ids()[w.id+"-off"] == "" {
		t.Error("varan run did not make it run")
	}
	if r := w.varan("run", "deployment/nothing"); r.exit != 1 || !strings.Contains(r.stderr, "deployment/nothing") {
		t.Errorf("exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}

	// logs.
	if r := w.varan("logs", a); r.exit != 0 {
		t.Errorf("logs: exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}

	// remove: what nothing declares any more, and nothing else.
	if r := w.varan("remove", "--yes", a); r.exit != 1 || !strings.Contains(r.stderr, "is declared at a.toml:2") {
		t.Errorf("exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}
	w.write(map[string]string{"a.toml": one("a") + one("b") + one("off", "deploy = false")})
	w.good(w.commit("without old"))
	ok("remove", "--yes", "deployment/"+w.id+"-old")
	if w.ids()[w.id+"-old"] != "" {
		t.Error("varan remove removed nothing")
	}

	// runs: the list, and one in full.
	rs := w.runs()
	if len(rs) < 5 || rs[0].Actor == "" {
		t.Errorf("runs: %+v", rs)
	}
	var one struct {
		Plan  json.RawMessage `json:"plan"`
		Steps []struct {
			Resource string `json:"resource"`
			Status   string `json:"status"`
		} `json:"steps"`
	}
	must(t, json.Unmarshal([]byte(ok("runs", rs[0].ID, "--json")), &one))
	if len(one.Steps) != 1 || one.Steps[0].Status != "done" || len(one.Plan) == 0 {
		t.Errorf("run %s: %+v", rs[0].ID, one)
	}
	if r := w.varan("runs", "nonsense"); r.exit != 1 {
		t.Errorf("exit %d", r.exit)
	}
	if r := w.varan("cancel"); r.exit != 1 || !strings.Contains(r.stderr, "no run") {
		t.Errorf("cancel without a run: exit %d, %s", r.exit, r.stderr)
	}
	d.stop()
}

// TestCancel: the step under way is finished, no further one starts, and the run says cancelled.
func TestCancel(t *testing.T) {
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\n")
	slow := strings.Replace(one("a"), `settle = "0s"`, `settle = "3s"`, 1)
	w.write(map[string]string{"a.toml": slow + one("b", `after = ["ID-a"]`)})
	first := w.commit("first")
	d := w.daemon()
	w.until("a run goes on", func(s standing) bool { return len(s.Running) == 1 && s.Running[0].ID != "" && len(w.ids()) == 1 })
	if r := w.varan("cancel"); r.exit != 0 {
		t.Fatalf("exit %d: %s", r.exit, r.stderr)
	}
	w.eventually("it is cancelled", 30*time.Second, func() (bool, string) {
		for _, r := range w.runs() {
			if r.Status == "cancelled" && r.Commit == first {
				return true, ""
			}
		}
		return false, w.varan("runs").stdout
	})
	w.calm()
	if ids := w.ids(); len(ids) != 1 || ids[w.id+"-a"] == "" {
		t.Errorf("after cancel: %s\n%s", w.names(), w.varan("runs").stdout)
	}
	if text := w.varan("status").stdout; !strings.Contains(text, "cancelled") {
		t.Errorf("status does not say so:\n%s", text)
	}
	w.write(map[string]string{"README.md": "x"})
	w.good(w.commit("next")) // a new commit goes on
	if len(w.ids()) != 2 {
		t.Errorf("runs: %s", w.names())
	}
	d.stop()
}

// TestApprove: a plan that asks waits; its digest and nothing else lets it go.
func TestApprove(t *testing.T) {
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\napply = \"manual\"\n")
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("first")
	d := w.daemon()
	s := w.at(first, "asking")
	if len(w.ids()) != 0 || s.Syncs[0].Digest == "" || len(s.Syncs[0].Asks) == 0 {
		t.Fatalf("asks %v %s", s.Syncs[0].Asks, s.Syncs[0].Digest)
	}
	if r := w.varan("approve", "1:0123"); r.exit != 1 || !strings.Contains(r.stderr, "waits") {
		t.Errorf("exit %d: %s", r.exit, r.stderr)
	}
	w.write(map[string]string{"a.toml": one("a") + one("b")})
	second := w.commit("second")
	s2 := w.until("asks anew", func(n standing) bool {
		return n.Syncs[0].Tip == second && n.Syncs[0].Digest != "" && n.Syncs[0].Digest != s.Syncs[0].Digest
	})
	if r := w.varan("approve", s.Syncs[0].Digest); r.exit != 1 {
		t.Errorf("an old digest was approved: %s", r.stdout)
	}
	if r := w.varan("approve", s2.Syncs[0].Digest); r.exit != 0 {
		t.Fatalf("exit %d: %s", r.exit, r.stderr)
	}
	w.good(second)
	if len(w.ids()) != 2 {
		t.Errorf("runs: %s", w.names())
	}
	if rs := w.runs(); rs[0].Actor == "" {
		t.Errorf("nobody approved: %+v", rs)
	}
	d.stop()
}

// TestSurface: what HTTP answers to whom.
func TestSurface(t *testing.T) {
	w := newWorld(t)
	token := "an-operator's-token-of-32-letters"
	hash := strings.Fields(w.sh("printf %s \"" + token + "\" | sha256sum"))[0]
	w.configure("[[token]]\nname = \"ci\"\nrole = \"operate\"\nhash = \"" + hash + "\"\n")
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("first")
	d := w.daemonOn("127.0.0.1:0")
	w.good(first)
	_, addr, _ := strings.Cut(w.log(), "http=")
	base := "http://" + strings.Fields(addr)[0]
	read, err := os.ReadFile(filepath.Join(w.data, "read-token"))
	must(t, err)
	if info, _ := os.Stat(filepath.Join(w.data, "read-token")); info.Mode().Perm() != 0o600 {
		t.Errorf("read-token: %v", info.Mode())
	}
	reader := strings.TrimSpace(string(read))
	for _, c := range []struct {
		method, path, token string
		code                int
		body                string
	}{
		{"GET", "/healthz", "", 200, "ok\n"},
		{"GET", "/readyz", "", 200, "ready\n"},
		{"GET", "/metrics", "", 401, ""},
		{"GET", "/metrics", "wrong-token-wrong-token", 401, ""},
		{"GET", "/metrics", reader, 200, "varan_ready 1"},
		{"GET", "/metrics", reader, 200, "varan_secret_errors 0"},
		{"GET", "/metrics", reader, 200, `varan_runs_total{status="done"} 1`},
		{"GET", "/api/v1/status", "", 401, ""},
		{"GET", "/api/v1/status", reader, 200, w.id},
		{"POST", "/api/v1/pause", "", 401, ""},
		{"POST", "/api/v1/pause", reader, 403, "operate"},
		{"POST", "/api/v1/pause", token, 200, ""},
		{"POST", "/api/v1/plan", token, 200, `"steps"`},
		{"GET", "/debug/pprof/", reader, 404, ""},
		{"GET", "/", "", 200, "/login"}, // the page says nothing but where to log in
		{"GET", "/nothing", "", 404, ""},
	} {
		body := `{"reason":"x"}`
		req, err := http.NewRequest(c.method, base+c.path, strings.NewReader(body))
		must(t, err)
		if c.token != "" {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if c.token == "" && bytes.Contains(got, []byte(w.id)) {
			t.Errorf("%s %s: the fleet's name is shown to everybody: %.300s", c.method, c.path, got)
		}
		if resp.StatusCode != c.code || !bytes.Contains(got, []byte(c.body)) {
			t.Errorf("%s %s: %d %.300s, want %d %s", c.method, c.path, resp.StatusCode, got, c.code, c.body)
		}
	}
	cmd := w.command(context.Background(), "status")
	cmd.Env = append(cmd.Env, "VARAN_URL="+base, "VARAN_TOKEN="+reader)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "paused: x") {
		t.Errorf("status over HTTP: %v\n%s", err, out)
	}
	d.stop()
}

// sh runs a shell command and returns what it printed.
func (w *world) sh(command string) string {
	w.t.Helper()
	out, err := exec.Command("sh", "-c", command).Output()
	if err != nil {
		w.t.Fatalf("%s: %v", command, err)
	}
	return string(out)
}

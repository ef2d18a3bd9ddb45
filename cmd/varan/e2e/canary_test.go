package e2e

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// mark stands in every line of every secret of TestCanary, so that one search finds all of them in any form.
const mark = "cnry-canary-"

// formsOf are the ways in which mark may be written within a longer text that somebody encoded.
func formsOf() []string {
	var percent strings.Builder
	for _, c := range []byte(mark) {
		fmt.Fprintf(&percent, "%%%02x", c)
	}
	all := []string{mark, hex.EncodeToString([]byte(mark)), percent.String()}
	for shift := range 3 { // only mark itself decides the characters in the middle, whatever stands around it
		s := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), mark...))
		all = append(all, s[(shift*8+5)/6:(shift+len(mark))*8/6])
	}
	return all
}

// clean fails if text shows a secret in any form.
func clean(t *testing.T, what, text string) {
	t.Helper()
	low := strings.ToLower(text)
	for _, form := range formsOf() {
		i := strings.Index(text, form)
		if i < 0 {
			i = strings.Index(low, form) // hex and percent in capitals; nothing is base64 of it by chance
		}
		if i >= 0 {
			t.Errorf("a secret is in %s: …%s…", what, text[max(0, i-200):min(len(text), i+200)])
			return
		}
	}
}

// descendants calls see with every process below pid, again and again, until stop is closed.
func descendants(pid int, stop <-chan struct{}, see func(pid string)) {
	var below func(string)
	below = func(p string) {
		lists, _ := filepath.Glob("/proc/" + p + "/task/*/children")
		for _, l := range lists {
			data, _ := os.ReadFile(l)
			for _, child := range strings.Fields(string(data)) {
				see(child)
				below(child)
			}
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			below(strconv.Itoa(pid))
		}
	}
}

const (
	lineSecret  = mark + "one-line-7Qz"
	multiSecret = "-----BEGIN " + mark + "first-----\n" + mark + "second-AbCdEfGhIjKlMnOpQrStUvWxYz-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789\n-----END " + mark + "last-----\n"
	shellSecret = mark + `it's "$HOME" & <b> %41 \n é; ` + "`id`"
)

// sayAll prints what it was given in every form that a shell has at hand.
const sayAll = `env; echo $LINE >&2; printf %s "$LINE" | base64; printf %s "$MULTI"; printf %s "$MULTI" | base64; ` +
	`printf %s "$SHELLY"; printf %s "$SHELLY" | base64; printf "user:%s" "$SHELLY" | base64`

const canaryEnvironment = `environment = '''
LINE = [[LINE]]
MULTI = [[MULTI]]
SHELLY = [[SHELLY]]
FILED = x-[[FILED]]
VSEC = [[VSEC]]
'''
`

func canaryDeployment(name, more string) string {
	return `
[[deployment]]
name = "ID-` + name + `"
[deployment.config]
` + more + canaryEnvironment
}

func canaryStack(name, more string) string {
	return "\n[[stack]]\nname = \"ID-" + name + "\"\n[stack.config]\nsettle = \"200ms\"\n" + more + canaryEnvironment
}

// TestCanary: what secrets stand for is in containers and in the 0600 files laid for them, and in nothing that is
// printed, kept, served or passed on a command line, however often and in whatever form it was printed by what failed.
func TestCanary(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	filed := filepath.Join(w.dir, "filed")
	must(t, os.WriteFile(filed, []byte(mark+"of-a-file\n"), 0o600))
	settings := func(line string) {
		w.configure(fmt.Sprintf(`[config]
poll = "1s"
[[git_provider]]
domain = "git.invalid"
accounts = [{ username = "bot", token = %q }]
[[docker_registry]]
domain = "127.0.0.1:1"
accounts = [{ username = "bot", token = %q }]
[secrets]
LINE = %q
MULTI = %s
SHELLY = %s
FILED = { file = %q }
`, mark+"git", mark+"registry", line, strconv.Quote(multiSecret), strconv.Quote(shellSecret), filed))
	}
	settings(lineSecret)
	image := `image = { type = "Image", params = { image = "varan-e2e:1" } }
network = "none"
extra_args = ["--stop-signal", "SIGKILL", "--label", "odd=[[SHELLY]]"]
settle = "200ms"
`
	w.write(map[string]string{
		"variables.toml": "[[variable]]\nname = \"VSEC\"\nvalue = \"" + mark + "variable\"\nis_secret = true\n",
		"d.toml": canaryDeployment("prints", image+"command = \"\"\"sh -c 'env; echo $LINE; exec sleep 2147483647'\"\"\"\n") +
			canaryDeployment("fails", image+"command = \"\"\"sh -c '"+strings.ReplaceAll(sayAll, "base64", "busybox base64")+"; exit 3'\"\"\"\n") +
			canaryDeployment("word", image+"command = \"[[SHELLY]]\"\n") +
			canaryDeployment("image", "image = { type = \"Image\", params = { image = \"127.0.0.1:1/[[LINE]]:1\" } }\nnetwork = \"none\"\n") +
			canaryDeployment("name", "image = { type = \"Image\", params = { image = \"Bad Name [[SHELLY]]\" } }\nnetwork = \"none\"\n") +
			canaryDeployment("mount", image+"command = \"true\"\n[deployment.config.x]\n"),
		"s.toml": canaryStack("prints", "run_directory = \"app\"\npre_deploy.command = \"sleep 0.5; echo '[[LINE]]' [[FILED]]\"\npost_deploy.command = \"echo [[LINE]] '$MULTI' >&2\"\n") +
			canaryStack("before", "pre_deploy.command = \"\"\"\necho [[LINE]] \"[[LINE]]\"\n"+strings.ReplaceAll(strings.ReplaceAll(sayAll, "\\", "\\\\"), "; ", "\n")+"\nexit 3\n\"\"\"\nfile_contents = \"services:\\n  a:\\n    image: varan-e2e:1\\n\"\n") +
			canaryStack("fails", "file_contents = \"\"\"\nservices:\n  a:\n    image: varan-e2e:1\n    network_mode: none\n    environment: { LINE: \"[[LINE]]\", MULTI: \"${MULTI}\" }\n"+
				"    command: [\"sh\", \"-c\", 'env; echo [[LINE]] | busybox base64; echo $$MULTI | busybox base64; exit 4']\n\"\"\"\n") +
			canaryStack("image", "file_contents = \"\"\"\nservices:\n  a:\n    image: 127.0.0.1:1/${LINE}:1\n  b:\n    image: 127.0.0.1:1/[[LINE]]:2\n\"\"\"\n") +
			canaryStack("word", "file_contents = \"\"\"\nservices:\n  a:\n    image: varan-e2e:1\n    network_mode: none\n    command: [\"${SHELLY}\"]\n\"\"\"\n"),
		"app/compose.yaml": `services:
  a:
    image: varan-e2e:1
    network_mode: none
    stop_signal: SIGKILL
    command: ["sh", "-c", "env; exec sleep 2147483647"]
    env_file: .env
    labels: { odd: "${SHELLY}" }
    environment:
      GIVEN: ${SHELLY}
`,
	})
	w.replace("d.toml", "[deployment.config.x]\n", "")
	w.replace("d.toml", `command = "true"`, `volumes = "/nowhere/[[LINE]]/[[LINE]]:/x:badmode"`+"\n"+`command = "true"`)
	first := w.commit("first")

	// Before anything runs.
	for _, args := range [][]string{{"validate", w.repo}, {"plan", w.repo}, {"plan", "--json", w.repo}} {
		r := w.varan(args...)
		clean(t, "varan "+args[0], r.stdout+r.stderr)
		if !strings.Contains(r.stdout+r.stderr, "prints") && args[0] == "plan" {
			t.Errorf("varan plan shows nothing:\n%s%s", r.stdout, r.stderr)
		}
	}

	token := "an-operator's-token-of-32-letters"
	hash := strings.Fields(w.sh("printf %s \"" + token + "\" | sha256sum"))[0]
	more, err := os.ReadFile(w.config)
	must(t, err)
	must(t, os.WriteFile(w.config, append(more, "\n[[token]]\nname = \"ci\"\nrole = \"operate\"\nhash = \""+hash+"\"\n"...), 0o600))
	must(t, os.MkdirAll(filepath.Join(w.dir, "tmp"), 0o700))
	w.extra = append(w.extra, "TMPDIR="+filepath.Join(w.dir, "tmp"))
	d := w.daemonOn("127.0.0.1:0")
	var mu sync.Mutex // guards lines
	lines := map[string]bool{}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		descendants(d.cmd.Process.Pid, stop, func(pid string) {
			line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			mu.Lock()
			lines[strings.ReplaceAll(string(line), "\x00", " ")] = true
			mu.Unlock()
		})
	}()
	w.until("the first run ended", func(s standing) bool {
		return s.Syncs[0].Tip == first && s.Syncs[0].State != "reading" && s.Syncs[0].State != "running" && len(w.runs()) > 0
	})
	w.failed(first)
	out := w.failedSteps()
	close(stop)
	<-stopped
	slept := false
	for line := range lines {
		clean(t, "a process's command line", line)
		slept = slept || strings.Contains(line, "sleep 0.5")
	}
	if !slept {
		t.Errorf("the commands were not seen: %q", slices.Collect(maps.Keys(lines)))
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", d.cmd.Process.Pid))
	must(t, err)
	clean(t, "the daemon's environment", string(environ))

	// What should be there is, or this test looks at nothing.
	env := strings.Join(w.envOf(w.id+"-prints-a-1"), "\n")
	for _, want := range []string{"GIVEN=" + shellSecret, "MULTI=" + multiSecret, "VSEC=" + mark + "variable"} {
		if !strings.Contains(env, want) {
			t.Errorf("the stack's container has no %q:\n%s", want, env)
		}
	}
	if env := strings.Join(w.envOf(w.id+"-prints"), "\n"); !strings.Contains(env, "FILED=x-"+mark+"of-a-file") {
		t.Errorf("the deployment's container: %s", env)
	}
	for _, name := range []string{"fails", "word", "image", "name", "mount"} {
		if !strings.Contains(out, "deployment/"+w.id+"-"+name) {
			t.Errorf("deployment %s did not fail:\n%s", name, out)
		}
	}
	for _, name := range []string{"before", "fails", "image", "word"} {
		if !strings.Contains(out, "stack/"+w.id+"-"+name) {
			t.Errorf("stack %s did not fail:\n%s", name, out)
		}
	}
	if !strings.Contains(out, "<LINE>") || !strings.Contains(out, "<MULTI>") {
		t.Errorf("what failed is not shown with names in the secrets' places:\n%s", out)
	}

	look := func() {
		t.Helper()
		for _, args := range [][]string{{"status"}, {"status", "--json"}, {"runs"}, {"runs", "--json"}, {"plan", w.repo}, {"plan", "--json", w.repo}} {
			r := w.varan(args...)
			clean(t, "varan "+strings.Join(args, " "), r.stdout+r.stderr)
		}
		for _, run := range w.runs() {
			clean(t, "varan runs ID", w.varan("runs", run.ID).stdout)
			clean(t, "varan runs ID --json", w.varan("runs", run.ID, "--json").stdout)
		}
		_, addr, _ := strings.Cut(w.log(), "http=")
		base := "http://" + strings.Fields(addr)[0]
		for _, c := range []struct{ method, path, body string }{
			{"GET", "/metrics", ""}, {"GET", "/api/v1/status", ""}, {"GET", "/api/v1/runs", ""}, {"GET", "/api/v1/runs/" + w.runs()[0].ID, ""},
			{"POST", "/api/v1/plan", "{}"},
		} {
			req, err := http.NewRequest(c.method, base+c.path, strings.NewReader(c.body))
			must(t, err)
			req.Header.Set("Authorization", "Bearer "+token)
			res, err := http.DefaultClient.Do(req)
			must(t, err)
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != 200 || len(body) == 0 {
				t.Errorf("%s: %d", c.path, res.StatusCode)
			}
			clean(t, c.path, string(body))
		}
		clean(t, "the daemon's log", w.log())
		w.cleanFiles()
	}
	look()
	if s, text := w.status(); len(s.Holds) == 0 {
		t.Errorf("nothing is held:\n%s", text)
	}

	// Another value: who uses it is made anew, nobody tells from what to what; by hand and through the daemon.
	r := w.varan("apply", "--yes", "--retry", w.repo)
	clean(t, "varan apply", r.stdout+r.stderr)
	if !strings.Contains(r.stdout+r.stderr, "<LINE>") {
		t.Errorf("varan apply: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	must(t, os.WriteFile(filed, []byte(mark+"of-another\n"), 0o600))
	w.hasEnv("prints", "FILED=x-"+mark+"of-another")
	w.calm()
	look()
	d.stop()
	clean(t, "the daemon's log", w.log())
	w.cleanFiles()
}

// failedSteps is what "varan runs ID" says of the newest run that failed.
func (w *world) failedSteps() string {
	w.t.Helper()
	for _, r := range w.runs() {
		if r.Status == "failed" {
			return w.varan("runs", r.ID).stdout
		}
	}
	return ""
}

// cleanFiles looks into every file that varan keeps, below its folders and its temporary one.
func (w *world) cleanFiles() {
	w.t.Helper()
	seen := 0
	for _, dir := range []string{w.data, w.root, filepath.Join(w.dir, "tmp")} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil //nolint:nilerr // gone meanwhile
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil //nolint:nilerr // gone meanwhile
			}
			seen++
			if filepath.Base(path) == "variables.toml" {
				return nil // whoever writes a value into Git finds it where its repository is laid for pre_deploy
			}
			if info, err := e.Info(); err == nil && info.Mode().Perm() == 0o600 && strings.HasSuffix(path, ".env") && strings.HasPrefix(path, filepath.Join(w.root, "stacks")) {
				return nil // where an env file is referenced, it is laid for its reader alone
			}
			clean(w.t, path, string(data))
			return nil
		})
		must(w.t, err)
	}
	if seen < 10 {
		w.t.Errorf("%d files were looked at", seen)
	}
}

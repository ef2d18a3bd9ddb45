package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"

	"github.com/varanhq/varan/plan"
)

// hostWrite puts files below dir on the host; "ID" in contents is the world's id.
func (w *world) hostWrite(dir string, files map[string]string) {
	w.t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(strings.ReplaceAll(content, "ID", w.id)), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

// listing is every file below dir with its content.
func (w *world) listing(dir string) string {
	w.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		b.WriteString(p + "\n" + string(data) + "\n")
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return b.String()
}

// absent fails if text stands in a file below one of the dirs, or in what was printed.
func (w *world) absent(text string, printed string, dirs ...string) {
	w.t.Helper()
	if strings.Contains(printed, text) {
		w.t.Errorf("%q was printed:\n%s", text, printed)
	}
	for _, dir := range dirs {
		filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if data, _ := os.ReadFile(p); strings.Contains(string(data), text) {
					w.t.Errorf("%s holds %q", p, text)
				}
			}
			return nil
		})
	}
}

const hostCompose = `services:
  a:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
    environment:
      COLOUR: ${COLOUR}
      PASSWORD: canary-in-compose
      SENT: ${SENT}
  b:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
    env_file: [b.env]
  c:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
    volumes: ["./data:/data"]
`

// TestFilesOnHost: a stack whose files lie on its server is created from them in place, left alone, changed where
// they change, put right, and known again without a ledger. No value of theirs leaves the host.
func TestFilesOnHost(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "opt", "app")
	w.hostWrite(dir, map[string]string{"compose.yaml": hostCompose, "b.env": "B=canary-in-env-file\n", ".env": "COLOUR=canary-blue\n",
		"../more.env": "MORE=1\n", "data/kept": "1\n"})
	w.write(map[string]string{"a.toml": `
[[stack]]
name = "ID"
[stack.config]
files_on_host = true
run_directory = "` + dir + `"
additional_env_files = ["` + filepath.Join(w.dir, "opt", "more.env") + `"]
settle = "0s"
`})
	before := w.listing(filepath.Join(w.dir, "opt"))
	printed := ""
	see := func(r ran) { printed += r.stdout + r.stderr }
	see(w.varan("plan", "--json", w.repo))
	see(w.apply())
	if n := len(w.ids()); n != 3 {
		t.Fatalf("%d containers run, want 3: %s", n, w.names())
	}
	w.nothingToDo()
	if after := w.listing(filepath.Join(w.dir, "opt")); after != before {
		t.Errorf("the host's files were touched:\n%s\nwant\n%s", after, before)
	}
	env := w.env("a")
	if !slices.Contains(env, "COLOUR=canary-blue") || !slices.Contains(env, "PASSWORD=canary-in-compose") {
		t.Errorf("environment of a: %v", env)
	}

	cases := []struct {
		name   string
		change func()
		want   []string
	}{
		{"nothing", func() {}, nil},
		{"comment", func() { w.hostWrite(dir, map[string]string{"compose.yaml": "# a comment\n" + hostCompose}) }, nil},
		{"data", func() { w.hostWrite(dir, map[string]string{"data/kept": "2\n"}) }, nil},
		{"env file", func() { w.hostWrite(dir, map[string]string{"b.env": "B=canary-other\n"}) }, []string{"~ID-b-1"}},
		{"compose file", func() {
			w.hostWrite(dir, map[string]string{"compose.yaml": strings.Replace(hostCompose, "PASSWORD: canary-in-compose", "PASSWORD: canary-new", 1)})
		}, []string{"~ID-a-1"}},
		{"variables", func() { w.hostWrite(dir, map[string]string{".env": "COLOUR=canary-green\n"}) }, []string{"~ID-a-1"}},
	}
	for _, c := range cases {
		ok := t.Run(c.name, func(t *testing.T) {
			w := *w
			w.t = t
			had := w.snapshot()
			c.change()
			p := w.plan()
			see(w.varan("plan", w.repo))
			see(w.varan("plan", "--json", w.repo))
			see(w.apply())
			if got := w.touched(had); !slices.Equal(got, c.want) {
				t.Errorf("touched %v, want %v", got, c.want)
			}
			if c.want != nil {
				s := p.Steps[0]
				if !slices.ContainsFunc(s.Causes, func(c plan.Cause) bool { return c.Kind == plan.HostFileChanged }) {
					t.Errorf("causes %v, want %s", s.Causes, plan.HostFileChanged)
				}
				if len(s.Changes) != 1 {
					t.Errorf("changes %v, want the one field", s.Changes)
				}
			}
			w.nothingToDo()
		})
		if !ok {
			return
		}
	}

	// Drift.
	ids := w.ids()
	if err := w.docker.ContainerRemove(context.Background(), w.id+"-c-1", container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	see(w.apply())
	now := w.ids()
	if len(now) != 3 || now[w.id+"-a-1"] != ids[w.id+"-a-1"] {
		t.Errorf("after a removed container: %v, before %v", now, ids)
	}

	// Amnesia.
	for _, gone := range []string{w.data, filepath.Join(w.root, "ledger")} {
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
	}
	w.nothingToDo()
	see(w.apply())
	for name, id := range w.ids() {
		if now[name] != id {
			t.Errorf("%s was recreated without a ledger", name)
		}
	}

	// A file that is gone stops the step and nothing else.
	if err := os.Rename(filepath.Join(dir, "b.env"), filepath.Join(dir, "b.env.away")); err != nil {
		t.Fatal(err)
	}
	r := w.varan("apply", "--yes", w.repo)
	see(r)
	if !strings.Contains(r.stdout+r.stderr, filepath.Join(dir, "b.env")+" does not exist") {
		t.Errorf("exit %d, the missing file is not named:\n%s%s", r.exit, r.stdout, r.stderr)
	}
	if p := w.plan(); p.Steps[0].Action != plan.Blocked {
		t.Errorf("the step is %s, want blocked", p.Steps[0].Action)
	}
	if got := w.ids(); len(got) != 3 {
		t.Errorf("containers run: %v, want 3", got)
	}
	w.absent("canary", printed, w.root, w.data)
	for _, c := range w.containers(true) {
		for k, v := range c.Labels {
			w.absent("canary", k+v)
		}
	}
}

// env is the environment of one service's container.
func (w *world) env(service string) []string {
	w.t.Helper()
	c, err := w.docker.ContainerInspect(context.Background(), w.id+"-"+service+"-1")
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Config.Env
}

// TestFilesOnHostRelative: a relative run_directory lies below the stack's own folder; a symlink out of it is not
// followed; a compose file that cannot be read names its place.
func TestFilesOnHostRelative(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.root, "stacks", w.id, "sub")
	w.hostWrite(dir, map[string]string{"compose.yaml": strings.Replace(hostCompose, "${SENT}", "${SENT}-x", 1), "b.env": "B=1\n"})
	w.configure("[secrets]\nPW = \"canary-secret\"\n")
	w.write(map[string]string{"a.toml": `
[[stack]]
name = "ID"
[stack.config]
files_on_host = true
run_directory = "sub"
environment = """
SENT = [[PW]]
COLOUR = red
"""
settle = "0s"
`})
	r := w.apply()
	if env := w.env("a"); !slices.Contains(env, "SENT=canary-secret-x") || !slices.Contains(env, "COLOUR=red") {
		t.Errorf("environment of a: %v", env)
	}
	w.absent("canary-secret", r.stdout+r.stderr, w.root, w.data)
	w.nothingToDo()
	had := w.snapshot()
	w.configure("[secrets]\nPW = \"canary-second\"\n")
	w.apply()
	if got := w.touched(had); !slices.Equal(got, []string{"~ID-a-1"}) {
		t.Errorf("a changed secret touched %v, want a", got)
	}
	w.nothingToDo()

	w.hostWrite(w.dir, map[string]string{"outside.env": "B=canary-outside\n"})
	if err := os.Remove(filepath.Join(dir, "b.env")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(w.dir, "outside.env"), filepath.Join(dir, "b.env")); err != nil {
		t.Fatal(err)
	}
	p := w.plan()
	if p.Steps[0].Action != plan.Blocked || !strings.Contains(p.Steps[0].Causes[0].Detail, "symlink") {
		t.Errorf("a symlink out of the folder: %s %v", p.Steps[0].Action, p.Steps[0].Causes)
	}
	if err := os.Remove(filepath.Join(dir, "b.env")); err != nil {
		t.Fatal(err)
	}
	w.hostWrite(dir, map[string]string{"b.env": "B=1\n", "compose.yaml": "services:\n  a:\n    image: [canary-typo\n"})
	p = w.plan()
	if p.Steps[0].Action != plan.Blocked || !strings.Contains(p.Steps[0].Causes[0].Detail, filepath.Join(dir, "compose.yaml")) {
		t.Errorf("a broken compose file: %s %v", p.Steps[0].Action, p.Steps[0].Causes)
	}
}

// TestHostEnvFile: variables of a stack in Git, and of an inline one, come from an env file of the host.
func TestHostEnvFile(t *testing.T) {
	w := newWorld(t)
	host := filepath.Join(w.dir, "host.env")
	w.hostWrite(w.dir, map[string]string{"host.env": "PASSWORD=canary-one\nTAG=1\n"})
	const services = `services:
  a:
    image: varan-e2e:${TAG:?the tag is missing}
    command: sleep 2147483647
    stop_signal: SIGKILL
    environment: { URL: "db://u:${PASSWORD}@db" }
  b:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
    volumes: ["./conf:/conf:ro"]
`
	inline := strings.ReplaceAll(services, `    volumes: ["./conf:/conf:ro"]`+"\n", "")
	w.write(map[string]string{"app/compose.yaml": services, "app/conf/x": "one", "a.toml": `
[[stack]]
name = "ID"
[stack.config]
run_directory = "app"
additional_env_files = ["` + host + `"]
settle = "0s"

[[stack]]
name = "ID-in"
[stack.config]
additional_env_files = ["` + host + `"]
settle = "0s"
file_contents = """
` + inline + `"""
`})
	printed := ""
	see := func(r ran) { printed += r.stdout + r.stderr }
	see(w.varan("plan", "--json", w.repo))
	see(w.apply())
	if n := len(w.ids()); n != 4 {
		t.Fatalf("%d containers run, want 4: %s", n, w.names())
	}
	if env := w.env("a"); !slices.Contains(env, "URL=db://u:canary-one@db") {
		t.Errorf("environment %v", env)
	}
	w.nothingToDo()
	for _, c := range []struct {
		name   string
		change func()
		want   []string
		cause  plan.CauseKind
	}{
		{"host file", func() { w.hostWrite(w.dir, map[string]string{"host.env": "PASSWORD=canary-two\nTAG=1\n"}) }, []string{"~ID-a-1", "~ID-in-a-1"}, plan.HostFileChanged},
		{"git file", func() { w.write(map[string]string{"app/conf/x": "two"}) }, []string{"~ID-b-1"}, plan.FileChanged},
		{"image by host file", func() { w.hostWrite(w.dir, map[string]string{"host.env": "PASSWORD=canary-two\nTAG=2\n"}) }, []string{"~ID-a-1", "~ID-in-a-1"}, plan.HostFileChanged},
	} {
		had := w.snapshot()
		c.change()
		p := w.plan()
		if s := p.Steps[0]; !slices.ContainsFunc(s.Causes, func(got plan.Cause) bool { return got.Kind == c.cause }) {
			t.Errorf("%s: causes %v, want %s", c.name, s.Causes, c.cause)
		}
		see(w.varan("plan", "--json", w.repo))
		see(w.apply())
		if got := w.touched(had); !slices.Equal(got, c.want) {
			t.Errorf("%s touched %v, want %v", c.name, got, c.want)
		}
		w.nothingToDo()
	}
	if err := os.Remove(host); err != nil {
		t.Fatal(err)
	}
	if p := w.plan(); p.Steps[0].Action != plan.Blocked || !strings.Contains(p.Steps[0].Causes[0].Detail, host) {
		t.Errorf("without the file: %s %v", p.Steps[0].Action, p.Steps[0].Causes)
	}
	w.absent("canary", printed, w.root, w.data)
}

// TestFilesOnHostCommands: what pre_deploy changes on the host is what is deployed, once.
func TestFilesOnHostCommands(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "opt")
	w.hostWrite(dir, map[string]string{"compose.yaml": hostCompose, "b.env": "B=old\n", "new.env": "B=new\n"})
	w.write(map[string]string{"a.toml": `
[[stack]]
name = "ID"
[stack.config]
files_on_host = true
run_directory = "` + dir + `"
pre_deploy.command = "cp new.env b.env"
post_deploy.command = "echo $COLOUR > after"
environment = """
COLOUR = red
"""
settle = "0s"
`})
	w.apply()
	if env := w.env("b"); !slices.Contains(env, "B=new") {
		t.Errorf("environment of b: %v", env)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "after")); err != nil || string(data) != "red\n" {
		t.Errorf("post_deploy wrote %q, %v", data, err)
	}
	w.nothingToDo()
	had := w.snapshot()
	w.hostWrite(dir, map[string]string{"new.env": "B=newer\n", "compose.yaml": strings.Replace(hostCompose, "SENT: ${SENT}", "SENT: x", 1)})
	w.apply()
	if got := w.touched(had); !slices.Equal(got, []string{"~ID-a-1"}) {
		t.Errorf("touched %v, want a: b's file was changed only by the run", got)
	}
	w.apply()
	if env := w.env("b"); !slices.Contains(env, "B=newer") {
		t.Errorf("environment of b: %v", env)
	}
	w.nothingToDo()
}

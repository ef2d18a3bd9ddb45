package e2e

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/cli/cli/command"
	dockerrun "github.com/docker/cli/cli/command/container"
	"github.com/docker/cli/cli/flags"
	"github.com/docker/docker/api/types/container"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// dockerRun runs docker's own "run" command.
func (w *world) dockerRun(args ...string) {
	w.t.Helper()
	cli, err := command.NewDockerCli(command.WithOutputStream(io.Discard), command.WithErrorStream(io.Discard))
	if err == nil {
		err = cli.Initialize(flags.NewClientOptions())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	//lint:ignore SA1019 docker's own run command; go.mod pins the version that has it
	cmd := dockerrun.NewRunCommand(cli)
	cmd.SilenceUsage = true
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "ID", w.id)
	}
	cmd.SetArgs(args)
	if err := cmd.Execute(); err != nil {
		w.t.Fatalf("docker run %v: %v", args, err)
	}
}

// refused wants a plan with an error that says all the words at the file's line, and nothing touched by apply.
func (w *world) refused(file string, line int, words ...string) {
	w.t.Helper()
	before := w.allIDs()
	p := w.plan()
	found := false
	for _, d := range p.Diagnostics {
		ok := d.Severity == schema.SeverityError && d.Pos.File == file && (line == 0 || d.Pos.Line == line)
		for _, word := range words {
			ok = ok && strings.Contains(d.Message+" "+d.Hint, strings.ReplaceAll(word, "ID", w.id))
		}
		found = found || ok
	}
	if !found {
		w.t.Errorf("no error at %s:%d with %q:\n%s", file, line, words, w.inFull(p))
	}
	if r := w.varan("apply", "--yes", w.repo); r.exit == 0 {
		w.t.Errorf("varan apply: exit 0\n%s%s", r.stdout, r.stderr)
	}
	w.sameIDs("after a refused apply", before)
}

// warned wants a diagnostic that says all the words.
func (w *world) warned(p *plan.Plan, words ...string) {
	w.t.Helper()
	for _, d := range p.Diagnostics {
		ok := d.Severity == schema.SeverityWarning
		for _, word := range words {
			ok = ok && strings.Contains(d.Message, strings.ReplaceAll(word, "ID", w.id))
		}
		if ok {
			return
		}
	}
	w.t.Errorf("no warning with %q:\n%s", words, w.inFull(p))
}

// lineOf is the line of a file in the repository on which text stands.
func (w *world) lineOf(file, text string) int {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.repo, file))
	if err != nil {
		w.t.Fatal(err)
	}
	for i, l := range strings.Split(string(data), "\n") {
		if strings.Contains(l, text) {
			return i + 1
		}
	}
	w.t.Fatalf("%s does not contain %q", file, text)
	return 0
}

// TestAdoptDockerRun: a container that Komodo's deployment run made is adopted; one that differs is recreated
// with what differs shown, and nobody's values.
func TestAdoptDockerRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	data := filepath.Join(w.dir, "precious")
	w.put(data, map[string]string{"file": "data\n"})
	port := freePort(t)
	komodo := []string{"-d", "--name", "ID-web", "--network", "bridge", "-p", port + ":80", "-v", data + ":/data", "--env", `K=a b`, "--env", "PASSWORD=hunter2",
		"--restart", "unless-stopped", "--label", "role=web", "--stop-signal", "SIGKILL", "varan-e2e:1", "sleep", "2147483647"}
	w.dockerRun(komodo...)
	before := w.allIDs()
	deployment := `
[[deployment]]
name = "ID-web"
[deployment.config]
image.type = "Image"
image.params.image = "varan-e2e:1"
network = "bridge"
ports = "` + port + `:80"
volumes = "` + data + `:/data"
environment = """
K = a b
PASSWORD = [[PASSWORD]]
"""
labels = "role: web"
restart = "unless-stopped"
extra_args = ["--stop-signal", "SIGKILL"]
command = "sleep 2147483647"
settle = "0s"
`
	w.configure("[secrets]\nPASSWORD = \"hunter2\"\n")
	w.write(map[string]string{"a.toml": deployment})
	w.wantActions(map[string]plan.Action{"deployment/ID-web": plan.Adopt})
	w.apply()
	w.sameIDs("after adoption", before)
	w.wantActions(nil)
	w.forget()
	w.wantActions(map[string]plan.Action{"deployment/ID-web": plan.Adopt})
	w.apply()
	w.sameIDs("after amnesia", before)
	w.seenRunning("deployment/ID-web")

	// Somebody makes it anew by hand, otherwise: it is not what was adopted.
	if err := w.docker.ContainerRemove(t.Context(), before[w.id+"-web"], container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	other := append([]string(nil), komodo...)
	for i, a := range other {
		switch a {
		case "K=a b":
			other[i] = "K=token-of-somebody"
		case "unless-stopped":
			other[i] = "always"
		}
	}
	w.dockerRun(other...)
	p := w.wantActions(map[string]plan.Action{"deployment/ID-web": plan.Recreate})
	changes := map[string]plan.Change{}
	for _, c := range p.Steps[0].Changes {
		changes[c.Path] = c
	}
	if c := changes["environment.K"]; len(changes) != 2 || c.Old != "(set on the host)" || c.New != "a b" || changes["restart"].Old != "always" {
		t.Errorf("changes %v", p.Steps[0].Changes)
	}
	text := w.varan("plan", w.repo)
	out := w.apply()
	for _, secret := range []string{"token-of-somebody", "hunter2"} {
		if strings.Contains(w.inFull(p)+text.stdout+text.stderr+out.stdout+out.stderr, secret) {
			t.Errorf("%q was shown", secret)
		}
	}
	c, err := w.docker.ContainerInspect(t.Context(), w.id+"-web")
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.Labels["varan.resource"] != "deployment/"+w.id+"-web" || w.inside(c.ID, "cat", "/data/file") != "data\n" {
		t.Errorf("labels %v", c.Config.Labels)
	}
	w.wantActions(nil)

	// Released and made anew by hand the same way, it is adopted again.
	w.replace("a.toml", `name = "ID-web"`, "name = \"ID-web\"\nrelease = true")
	ids := w.allIDs()
	w.apply()
	w.sameIDs("released", ids)
	w.wantActions(nil)
	w.replace("a.toml", "\nrelease = true", "")
	w.wantActions(map[string]plan.Action{"deployment/ID-web": plan.Adopt})
	w.apply()
	w.sameIDs("taken back", ids)
	w.wantActions(nil)
}

// TestHandMadeAnew: a service of an adopted project that somebody made anew by hand, otherwise, is compared
// again; the rest stays adopted.
func TestHandMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(w.dir, "opt", "app")
	run := func(service, k string) string {
		res, err := w.docker.ContainerCreate(t.Context(), &container.Config{Image: "varan-e2e:1", Cmd: []string{"sleep", "2147483647"}, Env: []string{"K=" + k}, StopSignal: "SIGKILL",
			Labels: map[string]string{"com.docker.compose.project": w.id, "com.docker.compose.service": service, "com.docker.compose.project.working_dir": dir,
				"com.docker.compose.oneoff": "False", "com.docker.compose.container-number": "1", "com.docker.compose.config-hash": "of-another-release"}},
			&container.HostConfig{NetworkMode: "none"}, nil, nil, w.id+"-"+service+"-1")
		if err == nil {
			err = w.docker.ContainerStart(t.Context(), res.ID, container.StartOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		return res.ID
	}
	run("a", "x")
	b := run("b", "x")
	service := "\n    image: varan-e2e:1\n    command: sleep 2147483647\n    stop_signal: SIGKILL\n    network_mode: none\n    environment: { K: x }\n"
	w.write(map[string]string{"s.toml": "[[stack]]\nname = \"ID\"\n[stack.config]\nrun_directory = \"app\"\nsettle = \"0s\"\n",
		"app/compose.yaml": "services:\n  a:" + service + "  b:" + service})
	before := w.allIDs()
	w.wantActions(map[string]plan.Action{"stack/ID": plan.Adopt})
	w.apply()
	w.sameIDs("adopted", before)
	if err := w.docker.ContainerRemove(t.Context(), b, container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	run("b", "y")
	p := w.wantActions(map[string]plan.Action{"stack/ID": plan.Update})
	if s := p.Steps[0].Services; len(s) != 1 || s[0].Name != "b" {
		t.Errorf("services %v", s)
	}
	w.apply()
	if w.allIDs()[w.id+"-a-1"] != before[w.id+"-a-1"] {
		t.Error("a was recreated too")
	}
	w.wantActions(nil)

	// A service that was stopped before it was adopted is started by the adoption.
	w.forget()
	if err := w.docker.ContainerKill(t.Context(), before[w.id+"-a-1"], "KILL"); err != nil {
		t.Fatal(err)
	}
	ids := w.allIDs()
	w.eventually("it is stopped", composeLimit, func() (bool, string) { return len(w.ids()) == 1, w.names() })
	w.wantActions(map[string]plan.Action{"stack/ID": plan.Restart})
	w.apply()
	w.sameIDs("started", ids)
	if len(w.ids()) != 2 {
		t.Error("it was not started: " + w.names())
	}
	w.wantActions(nil)

	// Removed, what was adopted goes too, and what somebody added beside it stays.
	c := run("c", "x")
	w.wantActions(nil)
	w.write(map[string]string{"s.toml": "# nothing\n"})
	w.wantActions(nil) // delete is not set
	w.configure("[config]\ndelete = true\n")
	w.wantActions(map[string]plan.Action{"stack/ID": plan.Remove})
	w.apply("--allow-removals", "1")
	w.sameIDs("removed", map[string]string{w.id + "-c-1": c})
	w.wantActions(nil)
}

// TestNamesOfOthers: a name that another fleet or somebody else's project holds is an error that says whose it
// is, and nothing is touched.
func TestNamesOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	labelled := func(name string, labels ...string) {
		args := []string{"-d", "--name", name, "--network", "none", "--stop-signal", "SIGKILL"}
		for _, l := range labels {
			args = append(args, "--label", l)
		}
		w.dockerRun(append(args, "varan-e2e:1", "sleep", "2147483647")...)
	}
	labelled("ID-fleet", "varan.fleet=others", "varan.resource=deployment/x")
	labelled("ID-project", "com.docker.compose.project=theirs", "com.docker.compose.service=thing", "com.docker.compose.oneoff=False")
	labelled("ID-s-web-1", "varan.fleet=others", "varan.resource=stack/y", "com.docker.compose.project=ID-s", "com.docker.compose.service=web", "com.docker.compose.oneoff=False")
	w.write(map[string]string{"fleet.toml": one("fleet"), "project.toml": one("project"),
		"stack.toml": "[[stack]]\nname = \"ID-s\"\n[stack.config]\nfile_contents = \"services: {web: {image: 'varan-e2e:1', command: sleep 9, network_mode: none}}\"\n"})
	w.refused("fleet.toml", 0, "fleet others", "ID-fleet")
	w.refused("project.toml", 0, "compose project theirs, service thing")
	w.refused("stack.toml", 0, "fleet others (stack/y)")
}

// TestWas: was moves a stack and a deployment to new names without a restart; without it, it is proposed.
func TestWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stack := func(name, more string) string {
		return "[[stack]]\nname = \"" + name + "\"\n" + more + "\n[stack.config]\nproject_name = \"ID-p\"\nsettle = \"0s\"\nrun_directory = \"app\"\n"
	}
	files := map[string]string{"s.toml": stack("ID-old", ""), "d.toml": strings.Replace(one("dold"), "settle", "custom_name = \"ID-d\"\nsettle", 1),
		"app/compose.yaml": "services:\n  a:\n    image: varan-e2e:1\n    command: sleep 2147483647\n    stop_signal: SIGKILL\n    volumes: [\"./data:/data\"]\n    network_mode: none\n"}
	w.write(files)
	w.apply()
	before := w.snapshot()
	w.write(map[string]string{"s.toml": stack("ID-new", ""), "d.toml": strings.Replace(strings.Replace(one("dold"), "settle", "custom_name = \"ID-d\"\nsettle", 1), "ID-dold", "ID-dnew", 1)})
	w.refused("s.toml", 1, `was = "ID-old"`)
	w.refused("d.toml", 0, `was = "ID-dold"`)
	w.write(map[string]string{"s.toml": stack("ID-new", `was = "ID-old"`),
		"d.toml": strings.Replace(strings.Replace(one("dold", `was = "ID-dold"`), "settle", "custom_name = \"ID-d\"\nsettle", 1), `name = "ID-dold"`, `name = "ID-dnew"`, 1)})
	w.wantActions(map[string]plan.Action{"stack/ID-new": plan.Adopt, "deployment/ID-dnew": plan.Adopt})
	w.apply()
	if touched := w.touched(before); len(touched) > 0 {
		t.Errorf("touched %v", touched)
	}
	w.wantActions(nil)
	w.seenRunning("stack/ID-new", "deployment/ID-dnew")
	// With the rename forgotten in Git too, the ledger still knows.
	w.replace("s.toml", `was = "ID-old"`, "")
	w.replace("d.toml", `was = "ID-dold"`, "")
	w.wantActions(nil)
	w.replace("s.toml", "\n[stack.config]", "was = \"ID-old\"\n[stack.config]")
	w.replace("d.toml", "\n[deployment.config]", "was = \"ID-dold\"\n[deployment.config]")
	w.forget()
	w.wantActions(nil)
	w.seenRunning("stack/ID-new", "deployment/ID-dnew")
	w.replace("app/compose.yaml", "stop_signal: SIGKILL", "stop_signal: SIGKILL\n    environment: { A: b }")
	dir := before[w.id+"-p-a-1"].Labels["com.docker.compose.project.working_dir"]
	w.apply()
	if now := w.containers(true)[w.id+"-p-a-1"].Labels; now["com.docker.compose.project.working_dir"] != dir || now["varan.resource"] != "stack/"+w.id+"-new" {
		t.Errorf("after a change: %v, before in %s", now, dir)
	}
	w.wantActions(nil)
}

// seenRunning fails unless a daemon says that the resources run, and finds what their containers print.
func (w *world) seenRunning(ids ...string) {
	w.t.Helper()
	w.commit("as it is")
	stop := w.serve()
	defer stop()
	w.settled()
	var s struct {
		Resources []struct{ Resource, State string } `json:"resources"`
	}
	r := w.varan("status", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		w.t.Fatal(err, r.stdout, r.stderr)
	}
	states := map[string]string{}
	for _, res := range s.Resources {
		states[res.Resource] = res.State
	}
	for _, id := range ids {
		id = w.named(id)
		if states[id] != "running" {
			w.t.Errorf("%s is %q", id, states[id])
		}
		if r := w.varan("logs", id); r.exit != 0 {
			w.t.Errorf("logs %s: exit %d\n%s%s", id, r.exit, r.stdout, r.stderr)
		}
	}
}

// TestDirectories: a bind mount's data never disappears silently.
func TestDirectories(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	compose := "services:\n  a:\n    image: varan-e2e:1\n    command: sleep 2147483647\n    stop_signal: SIGKILL\n    network_mode: none\n    volumes:\n      - ./conf:/conf\n      - ./data:/data\n"
	w.write(map[string]string{"s.toml": "[[stack]]\nname = \"ID\"\n[stack.config]\nrun_directory = \"app\"\nsettle = \"0s\"\n",
		"app/compose.yaml": compose, "app/conf/a.conf": "one\n"})
	w.warned(w.plan(), "mounts /data", "neither in Git nor on local", "empty folder")
	w.apply()
	first := w.containers(true)[w.id+"-a-1"]
	home := first.Labels["com.docker.compose.project.working_dir"]
	w.put(filepath.Join(home, "data"), map[string]string{"precious": "data\n"})

	// Another source needs allow_move.
	w.replace("app/compose.yaml", "./data:/data", "./elsewhere:/data")
	w.refused("app/compose.yaml", w.lineOf("app/compose.yaml", "./elsewhere"), "mounts /data", "empty folder")
	w.replace("s.toml", "settle", "allow_move = true\nsettle")
	w.warned(w.wantActions(map[string]plan.Action{"stack/ID": plan.Recreate}), "mounts /data", "empty folder")
	w.replace("app/compose.yaml", "./elsewhere:/data", "./data:/data")
	w.replace("s.toml", "allow_move = true\nsettle", "settle")
	w.wantActions(nil)

	// So does another folder.
	pinned := filepath.Join(w.dir, "pinned", "app")
	w.replace("s.toml", "settle", "directory = \""+pinned+"\"\nsettle")
	w.replace("app/compose.yaml", "stop_signal", "environment: { A: b }\n    stop_signal")
	w.refused("app/compose.yaml", w.lineOf("app/compose.yaml", "./data"), "mounts /data", "empty folder")
	w.replace("s.toml", "settle", "allow_move = true\nsettle")
	w.warned(w.plan(), "empty folder")
	w.apply()
	if c := w.containers(true)[w.id+"-a-1"]; c.Labels["com.docker.compose.project.working_dir"] != pinned {
		t.Errorf("works in %s, want %s", c.Labels["com.docker.compose.project.working_dir"], pinned)
	}
	w.wantActions(nil)
	w.replace("s.toml", "allow_move = true\nsettle", "settle")
	w.wantActions(nil)

	// What stood in Git and is gone fails its step.
	w.write(map[string]string{"app/conf/a.conf": "REMOVE"})
	os.Remove(filepath.Join(w.repo, "app/conf"))
	w.refused("app/compose.yaml", w.lineOf("app/compose.yaml", "./conf"), "stood in Git", "gone")
	w.write(map[string]string{"app/conf/a.conf": "one\n"})
	w.wantActions(nil)

	// What is not to be created is not.
	w.replace("app/compose.yaml", "      - ./data:/data\n", "      - ./data:/data\n      - { type: bind, source: ./must, target: /must, bind: { create_host_path: false } }\n")
	w.refused("app/compose.yaml", w.lineOf("app/compose.yaml", "./must"), "./must"[2:], "not there")
	w.put(filepath.Join(pinned, "must"), map[string]string{"x": "y"})
	w.apply()
	w.wantActions(nil)
}

// TestMovedProject: a project that runs in a folder which does not end as the repository's does is adopted where
// it is.
func TestMovedProject(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(w.dir, "opt", "plain")
	file := "services:\n  a:\n    image: varan-e2e:1\n    command: sleep 2147483647\n    stop_signal: SIGKILL\n    network_mode: none\n    volumes: [\"./data:/data\"]\n"
	w.put(dir, map[string]string{"compose.yaml": file, "data/precious": "data\n"})
	res, err := w.docker.ContainerCreate(t.Context(), &container.Config{Image: "varan-e2e:1", Cmd: []string{"sleep", "2147483647"}, StopSignal: "SIGKILL",
		Labels: map[string]string{"com.docker.compose.project": w.id, "com.docker.compose.service": "a", "com.docker.compose.project.working_dir": dir,
			"com.docker.compose.oneoff": "False", "com.docker.compose.container-number": "1"}},
		&container.HostConfig{NetworkMode: "none", Binds: []string{dir + "/data:/data:rw"}}, nil, nil, w.id+"-a-1")
	if err == nil {
		err = w.docker.ContainerStart(t.Context(), res.ID, container.StartOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	w.write(map[string]string{"s.toml": "[[stack]]\nname = \"ID\"\n[stack.config]\nrun_directory = \"stacks/app\"\nsettle = \"0s\"\n", "stacks/app/compose.yaml": file})
	before := w.allIDs()
	w.wantActions(map[string]plan.Action{"stack/ID": plan.Adopt})
	w.apply()
	w.sameIDs("adopted", before)
	w.wantActions(nil)
	w.write(map[string]string{"stacks/app/app.env": "A=b\n"})
	w.replace("stacks/app/compose.yaml", "stop_signal", "env_file: [app.env]\n    stop_signal")
	w.apply()
	sees := func() {
		t.Helper()
		c := w.containers(true)[w.id+"-a-1"]
		if c.Labels["com.docker.compose.project.working_dir"] != dir || w.inside(c.ID, "cat", "/data/precious") != "data\n" {
			t.Errorf("works in %s", c.Labels["com.docker.compose.project.working_dir"])
		}
	}
	sees()
	w.wantActions(nil)
	w.forget()
	w.wantActions(nil)

	// A file from beside its directory has no place there any more.
	w.write(map[string]string{"stacks/common.env": "C=d\n"})
	w.replace("stacks/app/compose.yaml", "env_file: [app.env]", "env_file: [app.env, ../common.env]")
	w.refused("stacks/app/compose.yaml", w.lineOf("stacks/app/compose.yaml", "./data"), "mounts /data", "empty folder")
	w.replace("stacks/app/compose.yaml", "env_file: [app.env, ../common.env]", "env_file: [app.env]\n    environment: { E: f }")
	w.replace("s.toml", "settle", "directory = \""+dir+"\"\nsettle")
	w.apply()
	sees()
	w.wantActions(nil)
}

// TestIntentions: ensure, deploy = false, compat follow.
func TestIntentions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(map[string]string{"a.toml": one("a") + one("b", "deploy = false") + strings.Replace(one("c", `ensure = "completed"`), "sleep 2147483647", "true", 1)})
	w.replace("a.toml", "restart = \"unless-stopped\"\ncommand = \"true\"", "restart = \"no\"\ncommand = \"true\"")
	w.apply()
	if ids := w.allIDs(); len(ids) != 2 || ids[w.id+"-b"] != "" {
		t.Fatalf("containers %v", ids)
	}
	w.wantActions(nil)
	before := w.allIDs()
	w.replace("a.toml", `name = "ID-a"`, "name = \"ID-a\"\nensure = \"stopped\"")
	w.wantActions(map[string]plan.Action{"deployment/ID-a": plan.Stop})
	w.apply()
	w.sameIDs("stopped", before)
	if len(w.ids()) != 0 {
		t.Error("it runs: " + w.names())
	}
	w.wantActions(nil)
	w.replace("a.toml", "\nensure = \"stopped\"", "")
	w.wantActions(map[string]plan.Action{"deployment/ID-a": plan.Restart})
	w.apply()
	w.sameIDs("started again", before)
	w.wantActions(nil)

	// Under compat, what runs is kept up to date and what does not run is left.
	w.configure("compat = \"komodo\"\n---\n# komodo\n")
	w.write(map[string]string{"a.toml": strings.Replace(one("a"), "K = x", "K = y", 1) + one("z")})
	p := w.plan()
	if got := w.actions(p)["deployment/ID-a"]; got != plan.Recreate {
		t.Errorf("what runs: %s\n%s", got, w.inFull(p))
	}
	if got := w.actions(p)["deployment/ID-z"]; got != "" {
		t.Errorf("what does not run: %s\n%s", got, w.inFull(p))
	}
	w.apply()
	if w.allIDs()[w.id+"-z"] != "" {
		t.Error("what did not run was created")
	}
}

// TestRemovals: delete asks beyond max_removals and for an empty desired set; varan remove removes by name.
func TestRemovals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(map[string]string{"a.toml": one("a") + one("b") + one("c") + one("d")})
	w.configure("[config]\ndelete = true\n")
	w.apply()
	before := w.allIDs()
	w.write(map[string]string{"a.toml": one("a") + one("b")})
	p := w.plan()
	if len(p.Asks) == 0 {
		t.Errorf("two of four go and nobody is asked\n%s", w.inFull(p))
	}
	if r := w.varan("apply", "--yes", w.repo); r.exit != 1 {
		t.Errorf("varan apply: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	w.sameIDs("asked", before)
	w.apply("--allow-removals", "2")
	if len(w.allIDs()) != 2 {
		t.Errorf("containers: %s", w.names())
	}
	before = w.allIDs()
	w.write(map[string]string{"a.toml": "# nothing\n"})
	if p = w.plan(); len(p.Asks) == 0 {
		t.Errorf("everything goes and nobody is asked\n%s", w.inFull(p))
	}
	if r := w.varan("apply", "--yes", w.repo); r.exit != 1 {
		t.Errorf("varan apply: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	w.sameIDs("asked", before)
	w.write(map[string]string{"a.toml": one("a")})
	w.configure("")
	w.commit("b is gone")
	stop := w.serve()
	w.settled()
	if r := w.varan("remove", "--yes", "deployment/"+w.id+"-b"); r.exit != 0 {
		t.Errorf("varan remove: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	w.eventually("it is removed", composeLimit, func() (bool, string) { return len(w.allIDs()) == 1, w.names() })
	stop()

	// The daemon waits until somebody agrees to exactly that plan.
	w.write(map[string]string{"a.toml": one("a") + one("e") + one("f")})
	w.configure("[config]\ndelete = true\nmax_removals = 1\n")
	w.commit("more")
	stop = w.serve()
	defer stop()
	w.settled()
	before = w.allIDs()
	w.write(map[string]string{"a.toml": one("a")})
	w.commit("e and f are gone")
	digest := ""
	w.eventually("the daemon asks", composeLimit, func() (bool, string) {
		r := w.varan("status", "--json")
		var s struct {
			Syncs []struct {
				Asks   []string `json:"asks"`
				Digest string   `json:"digest"`
			} `json:"syncs"`
		}
		if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || len(s.Syncs) == 0 || len(s.Syncs[0].Asks) == 0 {
			return false, r.stdout + r.stderr
		}
		digest = s.Syncs[0].Digest
		return digest != "", r.stdout
	})
	w.sameIDs("before the approval", before)
	if r := w.varan("approve", "1:00000000000000000000000000000000"); r.exit == 0 {
		t.Errorf("varan approve of another plan: exit 0\n%s%s", r.stdout, r.stderr)
	}
	w.sameIDs("after the approval of another plan", before)
	if r := w.varan("approve", digest); r.exit != 0 {
		t.Errorf("varan approve: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	w.eventually("they are removed", composeLimit, func() (bool, string) { return len(w.allIDs()) == 1, w.names() })
}

// TestWasProject: a renamed stack keeps its compose project while it is as it was; its next change moves it to
// the new project's names, in the folder it has.
func TestWasProject(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stack := func(name, more string) string {
		return "[[stack]]\nname = \"" + name + "\"\n" + more + "\n[stack.config]\nsettle = \"0s\"\nrun_directory = \"app\"\n"
	}
	w.write(map[string]string{"s.toml": stack("ID-old", ""),
		"app/compose.yaml": "services:\n  a:\n    image: varan-e2e:1\n    command: sleep 2147483647\n    stop_signal: SIGKILL\n    volumes: [\"./data:/data\"]\n    network_mode: none\n"})
	w.apply()
	before := w.allIDs()
	dir := w.containers(true)[w.id+"-old-a-1"].Labels["com.docker.compose.project.working_dir"]
	w.put(dir, map[string]string{"data/precious": "data\n"})
	w.write(map[string]string{"s.toml": stack("ID-new", `was = "ID-old"`)})
	w.wantActions(map[string]plan.Action{"stack/ID-new": plan.Adopt})
	w.apply()
	w.sameIDs("renamed", before)
	w.wantActions(nil)
	w.replace("s.toml", `was = "ID-old"`, "") // the ledger knows
	w.wantActions(nil)
	w.replace("s.toml", "\n[stack.config]", "was = \"ID-old\"\n[stack.config]")
	w.forget()
	w.wantActions(nil)
	w.replace("app/compose.yaml", "stop_signal", "environment: { A: b }\n    stop_signal")
	w.wantActions(map[string]plan.Action{"stack/ID-new": plan.Recreate})
	w.apply()
	list := w.containers(true)
	if len(list) != 1 {
		t.Fatalf("containers %s", w.names())
	}
	for _, c := range list {
		if c.Labels["com.docker.compose.project.working_dir"] != dir || w.inside(c.ID, "cat", "/data/precious") != "data\n" {
			t.Errorf("works in %v, want %s", c.Labels, dir)
		}
	}
	w.wantActions(nil)
	w.replace("s.toml", `was = "ID-old"`, "")
	w.wantActions(nil)
}

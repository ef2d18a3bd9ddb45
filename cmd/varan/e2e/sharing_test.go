package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// tunnel is a stack in which services share with others in every way compose knows.
func tunnel() map[string]string {
	const sleep = `
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
`
	return map[string]string{
		"stacks.toml": `
[[stack]]
name = "ID"
[stack.config]
run_directory = "tunnel"
settle = "0s"
`,
		"tunnel/compose.yaml": `services:
  vpn:` + sleep + `    container_name: ID-vpn-1
    environment: { SERVER: one }
    volumes: ["data:/shared"]
    ipc: shareable
  app:` + sleep + `    network_mode: "service:vpn"
  byname:` + sleep + `    network_mode: "container:ID-vpn-1"
  side:` + sleep + `    network_mode: "service:app"
  ipc:` + sleep + `    ipc: "service:vpn"
  pid:` + sleep + `    pid: "service:vpn"
  files:` + sleep + `    volumes_from: [vpn]
  again:` + sleep + `    depends_on: { vpn: { condition: service_started, restart: true } }
  needs:` + sleep + `    depends_on: [vpn]
  job:
    image: varan-e2e:1
    command: "true"
    network_mode: "service:vpn"
  other:` + sleep + `volumes:
  data: {}
`,
	}
}

// services are the services whose containers of the world's stack were touched since before, each with how: "+"
// made, "~" made anew, "^" restarted.
func (w *world) services(before map[string]container.Summary) []string {
	w.t.Helper()
	var out []string
	for _, name := range w.touched(before) {
		out = append(out, name[:1]+strings.TrimSuffix(strings.TrimPrefix(name[1:], "ID-"), "-1"))
	}
	return out
}

// shared fails unless who shares with vpn shares with the vpn that runs, and runs.
func (w *world) shared() {
	w.t.Helper()
	all := w.containers(true)
	name := func(service string) string { return w.id + "-" + service + "-1" }
	id := func(service string) string { return all[name(service)].ID }
	for service, c := range all {
		if c.State != "running" && service != name("job") {
			w.t.Errorf("%s is %s", service, c.State)
		}
	}
	for service, with := range map[string]string{"app": "vpn", "byname": "vpn", "side": "app"} {
		if got, want := all[name(service)].HostConfig.NetworkMode, "container:"+id(with); got != want {
			w.t.Errorf("%s has the network %s, want that of %s, %s", service, got, with, want)
		}
	}
	if got := string(w.containerOf("ipc").HostConfig.IpcMode); got != "container:"+id("vpn") {
		w.t.Errorf("ipc has %s", got)
	}
	if got := string(w.containerOf("pid").HostConfig.PidMode); got != "container:"+id("vpn") {
		w.t.Errorf("pid has %s", got)
	}
	if a, b := w.containerOf("files").Mounts, w.containerOf("vpn").Mounts; len(a) != 1 || len(b) != 1 || a[0].Name != b[0].Name {
		w.t.Errorf("files has the volumes %v, vpn %v", a, b)
	}
	// The kernel's word: the same network namespace.
	if a, b := w.networkOf("app"), w.networkOf("vpn"); a != b {
		w.t.Errorf("app is in network namespace %s, vpn in %s", a, b)
	}
}

// TestSharing: what shares a network, a namespace or volumes of a container is replaced and restarted with it.
func TestSharing(t *testing.T) {
	w := newWorld(t)
	w.write(tunnel())
	w.apply()
	w.shared()
	w.nothingToDo()

	cases := []struct {
		name   string
		change func()
		cause  string // one of the step's
		want   []string
	}{
		{name: "changed", change: func() { w.replace("tunnel/compose.yaml", "SERVER: one", "SERVER: two") },
			cause: "service app shares the network of vpn, which is recreated",
			want:  []string{"^again", "~app", "~byname", "~files", "~ipc", "~pid", "~side", "~vpn"}},
		{name: "taken away", change: func() { w.removed("vpn") },
			cause: "service app shares the network of vpn, which is recreated",
			want:  []string{"^again", "~app", "~byname", "~files", "~ipc", "~pid", "~side", "~vpn"}},
		{name: "stopped", change: func() { w.stopped("vpn") },
			cause: "service ipc shares the IPC namespace of vpn, which is restarted",
			want:  []string{"^again", "^app", "^byname", "^ipc", "^pid", "^side", "^vpn"}},
		{name: "unrelated change", change: func() {
			w.replace("tunnel/compose.yaml", "depends_on: [vpn]", "depends_on: [vpn]\n    labels: { a: b }")
		},
			want: []string{"~needs"}},
		{name: "sharer changed", change: func() {
			w.replace("tunnel/compose.yaml", `network_mode: "service:vpn"`, "network_mode: \"service:vpn\"\n    labels: { a: b }")
		}, cause: "service side shares the network of app, which is recreated", want: []string{"~app", "~job", "~side"}},
		{name: "made by hand", change: func() { w.madeAnew("vpn") },
			cause: "service pid shares the PID namespace of vpn as it was before: that container is gone",
			want:  []string{"~app", "~byname", "~ipc", "~pid", "~side", "~vpn"}},
	}
	for _, c := range cases {
		ok := t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			before := w.snapshot()
			c.change()
			if step := w.plan().Step(schema.ID("stack/" + w.id)); c.cause != "" && !slices.ContainsFunc(step.Causes, func(x plan.Cause) bool { return x.Detail == c.cause }) {
				t.Errorf("causes %v, want one to be %q", step.Causes, c.cause)
			}
			w.apply()
			if got := w.services(before); !slices.Equal(got, c.want) {
				t.Errorf("touched %v, want %v", got, c.want)
			}
			w.shared()
			w.nothingToDo()
		})
		if !ok {
			break
		}
	}
}

// containerOf is a service's container as the engine has it.
func (w *world) containerOf(service string) container.InspectResponse {
	w.t.Helper()
	c, err := w.docker.ContainerInspect(context.Background(), w.id+"-"+service+"-1")
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) removed(service string) {
	w.t.Helper()
	if err := w.docker.ContainerRemove(context.Background(), w.containerOf(service).ID, container.RemoveOptions{Force: true}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stopped(service string) {
	w.t.Helper()
	if err := w.docker.ContainerStop(context.Background(), w.containerOf(service).ID, container.StopOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) startedAgain(service string) {
	w.t.Helper()
	if err := w.docker.ContainerRestart(context.Background(), w.containerOf(service).ID, container.StopOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// madeAnew replaces a service's container by one that is the same but for its id.
func (w *world) madeAnew(service string) {
	w.t.Helper()
	old := w.containerOf(service)
	w.removed(service)
	old.Config.Hostname = ""
	c, err := w.docker.ContainerCreate(context.Background(), old.Config, old.HostConfig, nil, nil, strings.TrimPrefix(old.Name, "/"))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.docker.ContainerStart(context.Background(), c.ID, container.StartOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// networkOf is the kernel's name of the network namespace that a process in a service's container is in.
func (w *world) networkOf(service string) string {
	w.t.Helper()
	out := w.inside(w.containerOf(service).ID, "ls", "-l", "/proc/self/ns/net")
	_, net, ok := strings.Cut(out, " -> ")
	if !ok {
		w.t.Fatalf("ls in %s printed %q", service, out)
	}
	return strings.TrimSpace(net)
}

// TestSharingRollback: a new version that fails leaves who shares with it where they were, and running.
func TestSharingRollback(t *testing.T) {
	w := newWorld(t)
	w.write(tunnel())
	w.apply()
	before := w.containers(true)
	w.replace("tunnel/compose.yaml", "SERVER: one", "SERVER: two")
	w.replace("tunnel/compose.yaml", "    container_name: ID-vpn-1", "    container_name: ID-vpn-1\n    entrypoint: /bin/false")
	if r := w.varan("apply", "--yes", w.repo); r.exit != 1 {
		t.Errorf("varan apply: exit %d, want 1\n%s%s", r.exit, r.stdout, r.stderr)
	} else if want := `container "` + w.id + `-vpn-1" ended with exit code 1`; !strings.Contains(r.stdout+r.stderr, want) {
		t.Errorf("the cause, %s, is not told:\n%s%s", want, r.stdout, r.stderr)
	}
	for name, c := range w.containers(true) {
		if before[name].ID != c.ID {
			t.Errorf("%s is another container than before", name)
		}
	}
	w.shared()
	for _, s := range w.plan().Steps {
		if s.Action.Changes() {
			t.Errorf("%s %s is left to do because %v", s.Action, s.Resource, s.Causes)
		}
	}
}

// TestSharingAcross: a deployment that has the network of a stack's container follows it where it comes after it.
func TestSharingAcross(t *testing.T) {
	w := newWorld(t)
	files := tunnel()
	files["apps.toml"] = `
[[deployment]]
name = "ID-app"
after = ["stack/ID"]
[deployment.config]
image = { type = "Image", params = { image = "varan-e2e:1" } }
network = "container:ID-vpn-1"
command = "sleep 2147483647"
termination_timeout = 1
settle = "0s"
`
	files["tunnel/compose.yaml"] = `services:
  vpn:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
    environment: { SERVER: one }
`
	w.write(files)
	same := func() {
		t.Helper()
		all := w.containers(true)
		if got, want := all[w.id+"-app"].HostConfig.NetworkMode, "container:"+all[w.id+"-vpn-1"].ID; got != want || all[w.id+"-app"].State != "running" {
			t.Errorf("the deployment is %s and has the network %s, want %s", all[w.id+"-app"].State, got, want)
		}
		w.nothingToDo()
	}
	w.apply()
	same()
	for _, c := range []struct {
		name   string
		change func()
		want   []string
	}{
		{"changed", func() { w.replace("tunnel/compose.yaml", "one", "two") }, []string{"~ID-app", "~ID-vpn-1"}},
		{"taken away", func() { w.removed("vpn") }, []string{"~ID-app", "~ID-vpn-1"}},
		{"stopped", func() { w.stopped("vpn") }, []string{"^ID-app", "^ID-vpn-1"}},
		{"started again by hand", func() { w.startedAgain("vpn") }, []string{"^ID-app", "^ID-vpn-1"}},
		{"made by hand", func() { w.madeAnew("vpn") }, []string{"~ID-app", "~ID-vpn-1"}},
	} {
		before := w.snapshot()
		c.change()
		w.apply()
		if got := w.touched(before); !slices.Equal(got, c.want) {
			t.Errorf("%s: touched %v, want %v", c.name, got, c.want)
		}
		same()
	}
}

// TestSharingWatched: the daemon gives what shares with a container its network again when that one was started again
// by itself, and when it was taken away.
func TestSharingWatched(t *testing.T) {
	w := newWorld(t)
	files := tunnel()
	files["tunnel/compose.yaml"] = `services:
  vpn:
    image: varan-e2e:1
    command: ["sh", "-c", "trap 'exit 1' TERM; while true; do sleep 0.1; done"]
    restart: always
  app:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
    network_mode: "service:vpn"
`
	w.write(files)
	stop := w.serve()
	defer stop()
	w.eventually("both run", time.Minute, func() (bool, string) { return len(w.ids()) == 2, w.names() })
	w.settled()
	again := func() {
		t.Helper()
		w.eventually("app has the network of the vpn that runs", time.Minute, func() (bool, string) {
			if len(w.ids()) != 2 {
				return false, w.names()
			}
			app, vpn := w.containerOf("app"), w.containerOf("vpn")
			return string(app.HostConfig.NetworkMode) == "container:"+vpn.ID && app.State.StartedAt > vpn.State.StartedAt, w.names()
		})
		w.settled()
		if a, b := w.networkOf("app"), w.networkOf("vpn"); a != b {
			t.Errorf("app is in network namespace %s, vpn in %s", a, b)
		}
	}
	before := w.containerOf("vpn")
	w.inside(before.ID, "sh", "-c", "kill 1") // as a program that crashes
	w.eventually("vpn was started again", time.Minute, func() (bool, string) {
		return w.startedAt(before.ID) > before.State.StartedAt, w.names()
	})
	again()
	w.removed("vpn")
	again()
}

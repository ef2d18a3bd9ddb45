package stack

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
)

const testImage = "varan-test-stack:busybox"

// A host is one test's corner of the engine.
type host struct {
	t       *testing.T
	api     *client.Client
	engine  *container.Engine
	opts    Options
	project string
	fleet   string
	last    Manifest
}

type memoryJournal struct{ in container.Intent }

func (j *memoryJournal) Save(in container.Intent) error { j.in = in; return nil }

func newHost(t *testing.T) *host {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Docker engine")
	}
	api, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := api.Ping(ctx); err != nil {
		t.Fatalf("no Docker engine at %s: %v", api.DaemonHost(), err)
	}
	busybox(t, api)
	w := container.NewWatcher(api, time.Now().Unix())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	name := "vt" + strings.ToLower(strings.NewReplacer("/", "", "_", "", "-", "").Replace(t.Name())) + fmt.Sprintf("%x", time.Now().UnixNano()&0xffffff)
	h := &host{t: t, api: api, project: name, fleet: name, engine: container.NewEngine(api, w, slog.New(slog.NewTextHandler(io.Discard, nil)))}
	h.opts = Options{Root: t.TempDir(), API: api, Engine: h.engine}
	t.Cleanup(func() {
		bg := context.Background()
		f := filters.NewArgs(filters.Arg("label", "com.docker.compose.project="+name))
		list, _ := api.ContainerList(bg, docker.ListOptions{All: true, Filters: f})
		for _, c := range list {
			_ = api.ContainerRemove(bg, c.ID, docker.RemoveOptions{Force: true, RemoveVolumes: true})
		}
		_ = h.engine.RemoveNetworks(bg, name)
		_ = api.VolumeRemove(bg, name+"_data", true)
		cancel()
		<-done
		api.Close()
	})
	return h
}

func busybox(t *testing.T, api *client.Client) {
	t.Helper()
	ctx := context.Background()
	if _, err := api.ImageInspect(ctx, testImage); err == nil {
		return
	}
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("the tests' image is made of a static /bin/busybox: %v", err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range []string{"bin/busybox", "bin/sh", "bin/sleep", "bin/cat", "bin/true", "bin/env"} {
		hd := &tar.Header{Name: n, Mode: 0o755, Size: int64(len(data))}
		if n != "bin/busybox" {
			hd = &tar.Header{Name: n, Typeflag: tar.TypeSymlink, Linkname: "/bin/busybox", Mode: 0o777}
		}
		if err := w.WriteHeader(hd); err != nil {
			t.Fatal(err)
		}
		if n == "bin/busybox" {
			_, _ = w.Write(data)
		}
	}
	_ = w.Close()
	r, err := api.ImageImport(ctx, image.ImportSource{Source: &b, SourceName: "-"}, testImage, image.ImportOptions{Changes: []string{"ENV PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, r)
	r.Close()
}

// op makes a Deploy op of a stack the way the daemon does.
func (h *host) op(cfg schema.StackConfig, files map[string]string, secrets map[string]string) protocol.Op {
	h.t.Helper()
	tree := compose.NewMemory()
	for p, text := range files {
		if err := tree.Add(p, []byte(text), false, ""); err != nil {
			h.t.Fatal(err)
		}
	}
	if cfg.EnvFilePath == "" {
		cfg.EnvFilePath = ".env"
	}
	cfg.ProjectName = h.project
	known := map[string]bool{}
	sec := map[string]protocol.Secret{}
	for k, v := range secrets {
		known[k], sec[k] = true, protocol.Secret(v)
	}
	id := schema.ID("stack/" + h.project)
	d, _ := compose.Declare(context.Background(), compose.Input{Resource: &schema.Resource{ID: id, Kind: schema.KindStack, Name: h.project, Config: &cfg}, Tree: tree, Known: known})
	for _, g := range d.Diagnostics {
		if g.Severity == schema.SeverityError {
			h.t.Fatalf("%+v", g)
		}
	}
	p := &protocol.Payload{Project: d.Project, Directory: d.Directory, Units: d.Units, Volumes: d.Volumes, Binds: d.Binds, Stack: &cfg, Secrets: sec}
	for _, name := range d.Paths {
		data, err := tree.Read(name, 1<<20)
		if err != nil {
			h.t.Fatal(err)
		}
		p.Files = append(p.Files, protocol.File{Path: name, Hash: compose.BlobHash(data), Data: data})
	}
	return protocol.Op{Version: protocol.Version, Verb: protocol.Deploy, Resource: id, Fleet: h.fleet, Payload: p, ID: "op"}
}

// deploy carries an op out as the agent does, with action for the named services.
func (h *host) deploy(op protocol.Op, running string, steps ...plan.ServiceStep) (*Stack, container.Result) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Open(h.opts, op, running)
	if err != nil {
		h.t.Fatal(err)
	}
	if len(steps) == 0 {
		for _, u := range op.Payload.Units {
			steps = append(steps, plan.ServiceStep{Name: u.Service, Action: plan.Create})
		}
	}
	var names []string
	for _, st := range steps {
		names = append(names, st.Name)
	}
	if err := s.Prepare(ctx, names, nil); err != nil {
		h.t.Fatal(err)
	}
	if h.last, err = s.Lay(ctx, h.last); err != nil {
		h.t.Fatal(err)
	}
	if err := s.Before(ctx); err != nil {
		h.t.Fatal(err)
	}
	if err := s.Load(ctx); err != nil {
		h.t.Fatal(err)
	}
	r := h.engine.Run(ctx, container.Job{Resource: op.Resource, Fleet: op.Fleet, Project: s.Project(), Services: s.Services(steps), Creator: s,
		Settle: 10 * time.Millisecond, HealthTimeout: 20 * time.Second}, &memoryJournal{})
	if r.Failure != nil {
		h.t.Fatalf("%+v", r.Failure)
	}
	if err := s.Keep(); err != nil {
		h.t.Fatal(err)
	}
	return s, r
}

func (h *host) containers() map[string]docker.InspectResponse {
	h.t.Helper()
	ctx := context.Background()
	list, err := h.api.ContainerList(ctx, docker.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", "com.docker.compose.project="+h.project))})
	if err != nil {
		h.t.Fatal(err)
	}
	out := map[string]docker.InspectResponse{}
	for _, c := range list {
		i, err := h.api.ContainerInspect(ctx, c.ID)
		if err != nil {
			h.t.Fatal(err)
		}
		out[c.Labels["com.docker.compose.service"]] = i
	}
	return out
}

func (h *host) run(id string, cmd ...string) string {
	h.t.Helper()
	ctx := context.Background()
	e, err := h.api.ContainerExecCreate(ctx, id, docker.ExecOptions{Cmd: cmd, AttachStdout: true, AttachStderr: true, Tty: true})
	if err != nil {
		h.t.Fatal(err)
	}
	a, err := h.api.ContainerExecAttach(ctx, e.ID, docker.ExecAttachOptions{Tty: true})
	if err != nil {
		h.t.Fatal(err)
	}
	defer a.Close()
	out, _ := io.ReadAll(a.Reader)
	return strings.TrimSpace(string(out))
}

const worldFile = `
services:
  web:
    image: ` + testImage + `
    command: [sleep, "1000"]
    stop_signal: SIGKILL
    environment: {PASS: "${PASS}", A: "${A}"}
    volumes: ["./conf:/conf:ro", "./one.txt:/one.txt", "data:/data", "./state:/state"]
    configs: [{source: motd, target: /motd}]
    secrets: [{source: key}]
    networks: [front, back]
    depends_on: [db]
  db:
    image: ` + testImage + `
    command: [sleep, "1000"]
    stop_signal: SIGKILL
    env_file: [db.env, .env]
    networks: [back]
networks: {front: {}, back: {}}
volumes: {data: {}}
configs: {motd: {content: "hello ${A}"}}
secrets: {key: {environment: PASS}}
`

func world() (schema.StackConfig, map[string]string, map[string]string) {
	return schema.StackConfig{RunDirectory: "app", Environment: []schema.KV{{Key: "PASS", Value: "[[PW]]"}, {Key: "A", Value: "1"}}},
		map[string]string{"app/compose.yaml": worldFile, "app/conf/a": "a", "app/one.txt": "one", "app/db.env": "X=1\n"},
		map[string]string{"PW": "s3cret$x#y"}
}

func TestDeploy(t *testing.T) {
	h := newHost(t)
	cfg, files, secrets := world()
	s, _ := h.deploy(h.op(cfg, files, secrets), "")
	got := h.containers()
	web, db := got["web"], got["db"]
	for cmd, want := range map[string]string{
		"cat /conf/a": "a", "cat /one.txt": "one", "cat /motd": "hello 1", "cat /run/secrets/key": "s3cret$x#y",
	} {
		if out := h.run(web.ID, strings.Fields(cmd)...); out != want {
			t.Errorf("%s: %q, want %q", cmd, out, want)
		}
	}
	env := strings.Join(db.Config.Env, "\n")
	if !strings.Contains(env, "X=1") || !strings.Contains(env, "PASS=s3cret$x#y") {
		t.Errorf("env of db: %q", env)
	}
	for l, want := range map[string]string{
		"varan.resource": "stack/" + h.project, "varan.fleet": h.fleet, "com.docker.compose.project": h.project,
		"com.docker.compose.project.working_dir": s.Directory(), "com.docker.compose.service": "web", "com.docker.compose.oneoff": "False",
	} {
		if web.Config.Labels[l] != want {
			t.Errorf("label %s is %q, want %q", l, web.Config.Labels[l], want)
		}
	}
	if n := len(web.NetworkSettings.Networks); n != 2 {
		t.Errorf("%d networks", n)
	}
	info, err := os.Stat(filepath.Join(s.Directory(), ".env"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("env file: %v, %v", info, err)
	}
	// An update of one service leaves the other as it is, and writes changed files in place.
	before, err := os.Stat(filepath.Join(s.Directory(), "one.txt"))
	if err != nil {
		t.Fatal(err)
	}
	h.run(web.ID, "sh", "-c", "echo kept > /state/kept; echo mine > /data/mine")
	files["app/one.txt"] = "two"
	h.deploy(h.op(cfg, files, secrets), "", plan.ServiceStep{Name: "web", Action: plan.Recreate})
	again := h.containers()
	if again["db"].ID != db.ID || again["web"].ID == web.ID {
		t.Errorf("db %s → %s, web %s → %s", db.ID[:8], again["db"].ID[:8], web.ID[:8], again["web"].ID[:8])
	}
	after, err := os.Stat(filepath.Join(s.Directory(), "one.txt"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("one.txt is another file: %v", err)
	}
	if out := h.run(again["web"].ID, "cat", "/one.txt", "/state/kept", "/data/mine"); strings.ReplaceAll(out, "\r", "") != "twokept\nmine" {
		t.Errorf("after the update: %q", out)
	}
	if again["web"].Name != "/"+h.project+"-web-1" {
		t.Errorf("name %s", again["web"].Name)
	}
}

// A network whose definition changed is made anew with the services that use it.
func TestNetworkChange(t *testing.T) {
	h := newHost(t)
	cfg, files, secrets := world()
	h.deploy(h.op(cfg, files, secrets), "")
	before := h.containers()
	files["app/compose.yaml"] = strings.Replace(worldFile, "front: {}", "front: {labels: {x: y}}", 1)
	h.deploy(h.op(cfg, files, secrets), "", plan.ServiceStep{Name: "web", Action: plan.Recreate})
	after := h.containers()
	if before["db"].ID != after["db"].ID || before["web"].ID == after["web"].ID {
		t.Error("other containers than web's were replaced")
	}
	front, back := h.project+"_front", h.project+"_back"
	if before["web"].NetworkSettings.Networks[front].NetworkID == after["web"].NetworkSettings.Networks[front].NetworkID {
		t.Error("the network is the old one")
	}
	if before["web"].NetworkSettings.Networks[back].NetworkID != after["web"].NetworkSettings.Networks[back].NetworkID {
		t.Error("the other network was made anew")
	}
}

// A project left by compose itself is equal; one that differs says in what.
func TestCompare(t *testing.T) {
	h := newHost(t)
	ctx := context.Background()
	cfg, files, secrets := world()
	op := h.op(cfg, files, secrets)
	op.Payload.Pinned = filepath.Join(t.TempDir(), "komodo", "app")
	s, err := Open(h.opts, op, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lay(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Load(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, h.api, nil); err != nil { // compose alone, as its own program would
		t.Fatal(err)
	}
	running := func() map[string][]docker.Summary {
		out := map[string][]docker.Summary{}
		list, err := h.api.ContainerList(ctx, docker.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", "com.docker.compose.project="+h.project))})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			out[c.Labels["com.docker.compose.service"]] = append(out[c.Labels["com.docker.compose.service"]], c)
		}
		return out
	}
	check := func(name string, s *Stack, list map[string][]docker.Summary, want map[string]bool) map[string]plan.Comparison {
		t.Helper()
		got, err := s.Compare(ctx, list)
		if err != nil {
			t.Fatal(err)
		}
		for svc, equal := range want {
			if got[svc].Equal != equal {
				t.Errorf("%s: %s equal: %v %+v", name, svc, got[svc].Equal, got[svc].Changes)
			}
		}
		return got
	}
	check("hash", s, running(), map[string]bool{"web": true, "db": true})
	// Another release of compose has another hash: inspection decides.
	list := running()
	for _, cs := range list {
		for i := range cs {
			cs[i].Labels["com.docker.compose.config-hash"] = "of-another-release"
		}
	}
	check("inspection", s, list, map[string]bool{"web": true, "db": true})

	changed := strings.Replace(worldFile, "A: \"${A}\"", "A: \"2\", PASS2: \"${PASS}\"", 1)
	changed = strings.Replace(changed, `"./state:/state"`, `"./elsewhere:/state"`, 1)
	files["app/compose.yaml"] = changed
	op2 := h.op(cfg, files, secrets)
	op2.Payload.Pinned = op.Payload.Pinned
	s2, err := Open(h.opts, op2, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s2.Load(ctx); err != nil {
		t.Fatal(err)
	}
	got := check("changed", s2, list, map[string]bool{"web": false, "db": true})
	var paths []string
	for _, c := range got["web"].Changes {
		paths = append(paths, c.Path)
		if strings.Contains(fmt.Sprint(c), "s3cret") {
			t.Errorf("a secret in %v", c)
		}
	}
	if strings.Join(paths, " ") != "services.web.environment.A services.web.environment.PASS2 services.web.volumes./state" {
		t.Errorf("changes %v", paths)
	}
	if len(h.containers()) != 2 {
		t.Error("comparing created something")
	}
}

func TestBuildAndHooks(t *testing.T) {
	h := newHost(t)
	cfg := schema.StackConfig{RunBuild: true, PreDeploy: schema.Command{Command: "echo X=$WHO-[[PW]] > made.env\nenv > seen"},
		PostDeploy:  schema.Command{Command: "echo [[PW]]; false"},
		Environment: []schema.KV{{Key: "WHO", Value: `"me"`}}}
	files := map[string]string{
		"compose.yaml": "services: {app: {build: {context: ., args: {Q: '1'}}, command: [sleep, '1000'], stop_signal: SIGKILL, env_file: [made.env], network_mode: none}}",
		"Dockerfile":   "FROM " + testImage + "\nARG Q\nENV Q=$Q\nCOPY hello /hello\n", "hello": "hi",
	}
	t.Setenv("CANARY", "canary")
	op := h.op(cfg, files, map[string]string{"PW": "hunter22"})
	for p, text := range files { // pre_deploy: the whole tree
		if p != "compose.yaml" {
			op.Payload.Files = append(op.Payload.Files, protocol.File{Path: p, Data: []byte(text)})
		}
	}
	t.Cleanup(func() {
		_, _ = h.api.ImageRemove(context.Background(), h.project+"-app", image.RemoveOptions{Force: true})
	})
	s, _ := h.deploy(op, "")
	app := h.containers()["app"]
	if env := strings.Join(app.Config.Env, " "); !strings.Contains(env, "X=me-hunter22") || !strings.Contains(env, "Q=1") {
		t.Errorf("env %s", env)
	}
	if out := h.run(app.ID, "cat", "/hello"); out != "hi" {
		t.Errorf("hello: %q", out)
	}
	seen, err := os.ReadFile(filepath.Join(s.Directory(), "seen"))
	if err != nil || strings.Contains(string(seen), "canary") || !strings.Contains(string(seen), "WHO=me") {
		t.Errorf("pre_deploy saw %q (%v)", seen, err)
	}
	err = s.After(context.Background())
	f, ok := err.(*container.Failure)
	if !ok || !strings.Contains(f.Message, "exit status 1") || !strings.Contains(f.Tail, "<PW>") || strings.Contains(f.Tail, "hunter") {
		t.Errorf("post_deploy: %+v", err)
	}
}

func TestCancelledCommandLeavesNothing(t *testing.T) {
	opts := Options{Root: t.TempDir()}
	s, err := Open(opts, protocol.Op{Resource: "stack/x", Payload: &protocol.Payload{Directory: ".", Stack: &schema.StackConfig{FileContents: "services: {}",
		PreDeploy: schema.Command{Command: "sleep 987 & sleep 987"}}}}, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.Root(), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := s.Before(ctx); err == nil || time.Since(start) > 4*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"

	"github.com/varanhq/varan/plan"
)

// buildOnce builds the binary under test, once per test process; buildRace the one that daemons run from under
// the race detector.
var (
	buildOnce = sync.OnceValues(func() (string, error) { return build("CGO_ENABLED=0") })
	buildRace = sync.OnceValues(func() (string, error) { return build("CGO_ENABLED=1", "-race") })
)

// binaries is where they lie while the tests run.
var binaries string

// TestMain takes the binaries away: each has a hundred megabytes.
func TestMain(m *testing.M) {
	var err error
	if binaries, err = os.MkdirTemp("", "varan-e2e-bin"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(binaries)
	os.Exit(code)
}

func build(env string, flags ...string) (string, error) {
	dir, err := os.MkdirTemp(binaries, "")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "varan")
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", bin, "github.com/varanhq/varan/cmd/varan")...)
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
}

// A world is one user's machine: a config repository, a varan.toml, an agent root, and a fleet of its own on
// the shared engine.
type world struct {
	t      *testing.T
	bin    string
	id     string // unique; every name in the engine begins with it
	dir    string // everything below
	repo   string // the config repository
	data   string
	root   string
	config string   // varan.toml
	extra  []string // what commands see beside this process's environment
	docker *client.Client
	http   *http.Client // over the daemon's socket; made when first used

	told *recording
}

// A recording is what the engine told of one world.
type recording struct {
	mu   sync.Mutex // guards seen
	seen []events.Message
}

// in is the same world, whose failures are t's.
func (w *world) in(t *testing.T) *world {
	same := *w
	same.t = t
	return &same
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Docker engine; -short is set")
	}
	bin, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	docker, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := docker.Ping(context.Background()); err != nil {
		t.Fatalf("no Docker engine: %v", err)
	}
	b := make([]byte, 4)
	rand.Read(b)
	dir := t.TempDir()
	w := &world{
		t: t, bin: bin, docker: docker, told: new(recording),
		id:     "e2e" + hex.EncodeToString(b),
		dir:    dir,
		repo:   filepath.Join(dir, "repo"),
		data:   filepath.Join(dir, "data"),
		root:   filepath.Join(dir, "root"),
		config: filepath.Join(dir, "varan.toml"),
	}
	if err := os.MkdirAll(w.repo, 0o755); err != nil {
		t.Fatal(err)
	}
	w.configure("")
	w.images()
	t.Cleanup(w.clean)
	w.record()
	return w
}

// configure writes varan.toml: the fleet, the folders, and more ([config] keys come first in more).
func (w *world) configure(more string) {
	w.t.Helper()
	top, rest, _ := strings.Cut(more, "---\n")
	if rest == "" {
		rest, top = top, ""
	}
	text := fmt.Sprintf("name = %q\ndata_dir = %q\nlisten = \"\"\n%s\n[hub]\nlisten = \"\"\nkey_file = %q\n[agent]\nroot = %q\n%s\n",
		w.id, w.data, top, filepath.Join(w.dir, "hub.key"), w.root, rest)
	if err := os.WriteFile(w.config, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// images makes varan-e2e:1 and :2, a static busybox each.
func (w *world) images() {
	w.t.Helper()
	ctx := context.Background()
	if _, err := w.docker.ImageInspect(ctx, "varan-e2e:2"); err == nil {
		return
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		w.t.Fatalf("the tests need a static busybox (apt-get install busybox-static): %v", err)
	}
	for _, tag := range []string{"1", "2"} {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		tw.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755})
		tw.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o777})
		tw.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox))})
		tw.Write(busybox)
		for _, link := range []string{"sh", "sleep", "cat", "true", "false", "test", "touch", "ls", "env", "echo", "date", "rm", "grep"} {
			tw.WriteHeader(&tar.Header{Name: "bin/" + link, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
		}
		tw.WriteHeader(&tar.Header{Name: "version", Mode: 0o644, Size: 1})
		tw.Write([]byte(tag))
		tw.Close()
		r, err := w.docker.ImageImport(ctx, image.ImportSource{Source: &buf, SourceName: "-"}, "varan-e2e:"+tag,
			image.ImportOptions{Changes: []string{`ENV PATH=/bin`}})
		if err != nil {
			w.t.Fatal(err)
		}
		io.Copy(io.Discard, r)
		r.Close()
	}
}

func (w *world) clean() {
	ctx := context.Background()
	for _, c := range w.containers(true) {
		w.docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	}
	if nets, err := w.docker.NetworkList(ctx, network.ListOptions{}); err == nil {
		for _, n := range nets {
			if strings.HasPrefix(n.Name, w.id) {
				w.docker.NetworkRemove(ctx, n.ID)
			}
		}
	}
	if vols, err := w.docker.VolumeList(ctx, volume.ListOptions{}); err == nil {
		for _, v := range vols.Volumes {
			if strings.HasPrefix(v.Name, w.id) {
				w.docker.VolumeRemove(ctx, v.Name, true)
			}
		}
	}
	w.docker.Close()
}

// containers are those of this world, by name; all includes stopped ones.
func (w *world) containers(all bool) map[string]container.Summary {
	w.t.Helper()
	list, err := w.docker.ContainerList(context.Background(), container.ListOptions{All: all})
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]container.Summary{}
	for _, c := range list {
		name := strings.TrimPrefix(c.Names[0], "/")
		if strings.Contains(name, w.id) || c.Labels["varan.fleet"] == w.id {
			found[name] = c
		}
	}
	return found
}

// ids maps each running container's name to its id.
func (w *world) ids() map[string]string {
	ids := map[string]string{}
	for name, c := range w.containers(false) {
		ids[name] = c.ID
	}
	return ids
}

// named puts the world's id in the place of "ID", but into no public key.
func (w *world) named(content string) string {
	lines := strings.Split(content, "\n")
	for i, l := range lines {
		if !strings.Contains(l, "public_key") {
			lines[i] = strings.ReplaceAll(l, "ID", w.id)
		}
	}
	return strings.Join(lines, "\n")
}

// write puts files into the config repository; "ID" in names and contents is the world's id. The
// content "REMOVE" removes the file.
func (w *world) write(files map[string]string) {
	w.t.Helper()
	for name, content := range files {
		path := filepath.Join(w.repo, strings.ReplaceAll(name, "ID", w.id))
		if content == "REMOVE" {
			os.Remove(path)
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(w.named(content)), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// replace edits one file of the config repository; old must stand in it.
func (w *world) replace(name, old, new string) {
	w.t.Helper()
	path := filepath.Join(w.repo, strings.ReplaceAll(name, "ID", w.id))
	data, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	old, new = strings.ReplaceAll(old, "ID", w.id), strings.ReplaceAll(new, "ID", w.id)
	if !bytes.Contains(data, []byte(old)) {
		w.t.Fatalf("%s does not contain %q", name, old)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(data, []byte(old), []byte(new)), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// A ran is a finished command.
type ran struct {
	stdout, stderr string
	exit           int
}

// varan runs the binary with this world's varan.toml.
func (w *world) varan(args ...string) ran {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := w.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("varan %s: %v", strings.Join(args, " "), err)
	}
	return ran{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func (w *world) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.bin, args...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "VARAN_CONFIG="+w.config, "NO_COLOR=1")
	cmd.Env = append(cmd.Env, w.extra...)
	return cmd
}

// apply applies the config repository as it lies on disk, and must succeed.
func (w *world) apply(args ...string) ran {
	w.t.Helper()
	r := w.varan(append([]string{"apply", "--yes", w.repo}, args...)...)
	if r.exit != 0 {
		w.t.Fatalf("varan apply: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	return r
}

// plan is the plan of the config repository as it lies on disk.
func (w *world) plan(args ...string) *plan.Plan {
	w.t.Helper()
	r := w.varan(append([]string{"plan", "--json", w.repo}, args...)...)
	var p plan.Plan
	if err := json.Unmarshal([]byte(r.stdout), &p); err != nil {
		w.t.Fatalf("varan plan --json: exit %d: %v\n%s%s", r.exit, err, r.stdout, r.stderr)
	}
	return &p
}

// nothingToDo fails unless the plan changes nothing.
func (w *world) nothingToDo() {
	w.t.Helper()
	p := w.plan()
	for _, s := range p.Steps {
		if s.Action.Changes() {
			w.t.Errorf("plan is not empty: %s %s because %v, services %v, changes %v", s.Action, s.Resource, s.Causes, s.Services, s.Changes)
		}
	}
}

// touched tells which containers (by name, without the world's id) were created anew, restarted, or are
// gone since before.
func (w *world) touched(before map[string]container.Summary) []string {
	w.t.Helper()
	var names []string
	now := w.containers(true)
	for name, c := range now {
		old, had := before[name]
		switch {
		case !had:
			names = append(names, "+"+strings.ReplaceAll(name, w.id, "ID"))
		case old.ID != c.ID:
			names = append(names, "~"+strings.ReplaceAll(name, w.id, "ID"))
		case w.startedAt(c.ID) != old.Labels["e2e.started"]:
			names = append(names, "^"+strings.ReplaceAll(name, w.id, "ID"))
		}
	}
	for name := range before {
		if _, has := now[name]; !has {
			names = append(names, "-"+strings.ReplaceAll(name, w.id, "ID"))
		}
	}
	slices.Sort(names)
	return names
}

// snapshot is containers with each start time noted, for touched.
func (w *world) snapshot() map[string]container.Summary {
	w.t.Helper()
	list := w.containers(true)
	for name, c := range list {
		labels := map[string]string{}
		for k, v := range c.Labels {
			labels[k] = v
		}
		labels["e2e.started"] = w.startedAt(c.ID)
		c.Labels = labels
		list[name] = c
	}
	return list
}

func (w *world) startedAt(id string) string {
	w.t.Helper()
	c, err := w.docker.ContainerInspect(context.Background(), id)
	if err != nil {
		return "gone"
	}
	return c.State.StartedAt
}

// record streams the engine's container events of this world; the engine itself keeps only the last 256.
func (w *world) record() {
	ctx, cancel := context.WithCancel(context.Background())
	msgs, errs := w.docker.Events(ctx, events.ListOptions{Filters: filters.NewArgs(
		filters.Arg("type", "container"), filters.Arg("label", "varan.fleet="+w.id))})
	done := make(chan struct{})
	w.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for {
			select {
			case m := <-msgs:
				w.told.mu.Lock()
				w.told.seen = append(w.told.seen, m)
				w.told.mu.Unlock()
			case <-errs:
				return
			}
		}
	}()
}

// recorded are the events since a time. A container made and removed for it marks the end, so that nothing
// on its way is missed.
func (w *world) recorded(since time.Time) []events.Message {
	w.t.Helper()
	ctx := context.Background()
	c, err := w.docker.ContainerCreate(ctx, &container.Config{Image: "varan-e2e:1", Cmd: []string{"true"}, Labels: map[string]string{"varan.fleet": w.id}}, nil, nil, nil, "")
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{}); err != nil {
		w.t.Fatal(err)
	}
	var found []events.Message
	w.eventually("the event stream catches up", 10*time.Second, func() (bool, string) {
		w.told.mu.Lock()
		defer w.told.mu.Unlock()
		found = found[:0]
		for _, m := range w.told.seen {
			if m.Actor.ID == c.ID {
				return true, ""
			}
			if m.TimeNano >= since.UnixNano() {
				found = append(found, m)
			}
		}
		return false, "no event of the marker"
	})
	return found
}

// events counts this world's engine events since a time, as "action name".
func (w *world) events(since time.Time, actions ...string) map[string]int {
	w.t.Helper()
	counts := map[string]int{}
	for _, m := range w.recorded(since) {
		if slices.Contains(actions, string(m.Action)) {
			counts[string(m.Action)+" "+m.Actor.Attributes["name"]]++
		}
	}
	return counts
}

// eventually waits until ok is true, looking often; the last thing it said is in the failure.
func (w *world) eventually(what string, limit time.Duration, ok func() (bool, string)) {
	w.t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		done, said := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within %s: %s", what, limit, said)
		}
		<-tick.C
	}
}

// git runs git in the config repository.
func (w *world) git(args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = w.repo
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=e2e", "GIT_AUTHOR_EMAIL=e2e@example.com", "GIT_COMMITTER_NAME=e2e",
		"GIT_COMMITTER_EMAIL=e2e@example.com", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit commits everything in the config repository and returns the commit's id.
func (w *world) commit(message string) string {
	w.t.Helper()
	if _, err := os.Stat(filepath.Join(w.repo, ".git")); err != nil {
		w.git("init", "-q", "-b", "main")
	}
	w.git("add", "-A")
	w.git("commit", "-q", "--allow-empty", "-m", message)
	return w.git("rev-parse", "HEAD")
}

// names lists this world's containers with their states, for failure messages.
func (w *world) names() string {
	var all []string
	for name, c := range w.containers(true) {
		all = append(all, name+" "+c.Status)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// serve starts the daemon on the config repository; stop ends it and waits.
func (w *world) serve() (stop func()) {
	w.t.Helper()
	p := w.daemon()
	return func() { p.stop() }
}

// A daemon is a running "varan serve".
type daemon struct {
	w    *world
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
}

func (w *world) daemon() *daemon {
	w.t.Helper()
	return w.start("--repo", w.repo)
}

// daemonOn is a daemon that also listens on HTTP.
func (w *world) daemonOn(listen string) *daemon {
	w.t.Helper()
	return w.start("--repo", w.repo, "--listen", listen)
}

// start starts "varan serve".
func (w *world) start(args ...string) *daemon {
	w.t.Helper()
	log, err := os.OpenFile(filepath.Join(w.dir, "serve.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := w.command(context.Background(), append([]string{"serve"}, args...)...)
	if raceDetector {
		if cmd.Path, err = buildRace(); err != nil {
			w.t.Fatal(err)
		}
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	d := &daemon{w: w, cmd: cmd, log: log, done: make(chan struct{})}
	go func() { cmd.Wait(); close(d.done) }()
	w.t.Cleanup(func() {
		d.kill()
		data, _ := os.ReadFile(log.Name())
		if bytes.Contains(data, []byte("DATA RACE")) {
			w.t.Error("the daemon has a data race")
		}
		if w.t.Failed() {
			w.t.Logf("serve.log:\n%s", data)
		}
	})
	return d
}

func (d *daemon) stop() {
	d.cmd.Process.Signal(os.Interrupt)
	select {
	case <-d.done:
	case <-time.After(30 * time.Second):
		d.w.t.Error("varan serve did not stop within 30 s of SIGINT")
		d.kill()
	}
}

func (d *daemon) kill() {
	d.cmd.Process.Kill()
	<-d.done
}

// settled waits until the daemon has no run under way and its plan is empty.
func (w *world) settled() {
	w.t.Helper()
	w.eventually("the daemon is at rest", time.Minute, func() (bool, string) {
		r := w.varan("status", "--json")
		var s struct {
			Syncs []struct {
				State string `json:"state"`
				Tip   string `json:"tip"`
				Good  string `json:"good"`
			} `json:"syncs"`
			Running []any `json:"running"`
		}
		if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
			return false, r.stdout + r.stderr
		}
		for _, sync := range s.Syncs {
			if sync.State != "ok" || sync.Tip != sync.Good {
				return false, r.stdout
			}
		}
		if len(s.Running) > 0 {
			return false, r.stdout
		}
		return len(s.Syncs) > 0, r.stdout
	})
}

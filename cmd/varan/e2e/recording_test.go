package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
)

// A release is a docker compose program whose leavings are adopted. The suite makes what it left anew from the
// requests it sent to the engine, as recorded in testdata; with SOAK=1 the program itself is built and run, and
// with RECORD=1 the recordings are written.
type release struct {
	module, version string
	exclude         []string // of its go.mod: a dependency's do not count by themselves
}

var releases = []release{
	{module: "github.com/docker/compose/v2", version: "v2.40.3",
		exclude: []string{"github.com/davecgh/go-spew v1.1.2-0.20180830191138-d8f796af33cc", "github.com/pmezard/go-difflib v1.0.1-0.20181226105442-5d4384ee4fb2"}},
	{module: "github.com/docker/compose/v5", version: "v5.0.2"},
}

var builtReleases sync.Map // version → func() (string, error)

// program builds the release, outside the module: its dependencies are its own.
func (r release) program(t *testing.T) string {
	t.Helper()
	build, _ := builtReleases.LoadOrStore(r.version, sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "varan-e2e-compose")
		if err != nil {
			return "", err
		}
		mod := "module realcompose\n\ngo 1.24.9\n"
		for _, e := range r.exclude {
			mod += "\nexclude " + e + "\n"
		}
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
			return "", err
		}
		bin := filepath.Join(dir, "docker-compose")
		for _, args := range [][]string{
			{"get", r.module + "/cmd@" + r.version},
			{"build", "-o", bin, "-ldflags", "-X " + r.module + "/internal.Version=" + r.version, r.module + "/cmd"},
		} {
			cmd := exec.Command("go", args...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
			if out, err := cmd.CombinedOutput(); err != nil {
				return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
			}
		}
		return bin, nil
	}))
	bin, err := build.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// A sent request changed the engine. Ids in it are replaced by names, and what differs from run to run by
// placeholders.
type sent struct {
	Method string          `json:"method"`
	Path   string          `json:"path"` // without the API version
	Body   json.RawMessage `json:"body,omitempty"`
}

// places are the placeholders' values in this world.
func (w *world) places(dir, port string) [][2]string {
	i, err := w.docker.ImageInspect(context.Background(), "varan-e2e:1")
	if err != nil {
		w.t.Fatal(err)
	}
	return [][2]string{{dir, "{{DIR}}"}, {w.id, "{{ID}}"}, {i.ID, "{{IMAGE}}"}, {`"` + port + `"`, `"{{PORT}}"`}}
}

// composeUp brings a project up in dir as the release does: by the program, or by its recorded requests. args
// come before "up -d".
func (w *world) composeUp(r release, recording, dir, port string, args ...string) {
	w.t.Helper()
	file := filepath.Join("testdata", "compose-"+r.version+"-"+recording+".json")
	record := os.Getenv("RECORD") != ""
	if !record && os.Getenv("SOAK") == "" {
		w.replay(file, dir, port)
		return
	}
	cmd := exec.Command(r.program(w.t), append(args, "up", "-d")...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+w.dir)
	var requests *proxied
	if record {
		requests = w.recorder()
		cmd.Env = append(cmd.Env, "DOCKER_HOST=unix://"+requests.socket)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("docker compose %s: %v\n%s", r.version, err, out)
	}
	if record {
		requests.write(w, file, dir, port)
	}
}

func (w *world) replay(file, dir, port string) {
	w.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	text := string(data)
	for _, p := range w.places(dir, port) {
		text = strings.ReplaceAll(text, p[1], p[0])
	}
	var requests []sent
	if err := json.Unmarshal([]byte(text), &requests); err != nil {
		w.t.Fatalf("%s: %v", file, err)
	}
	c := engineClient(w.docker)
	for _, q := range requests {
		req, err := http.NewRequest(q.Method, "http://engine/v"+w.docker.ClientVersion()+q.Path, bytes.NewReader(q.Body))
		if err != nil {
			w.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := c.Do(req)
		if err != nil {
			w.t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode >= 300 && res.StatusCode != http.StatusNotModified {
			w.t.Fatalf("%s %s: %s: %s", q.Method, q.Path, res.Status, body)
		}
	}
}

func engineClient(docker *client.Client) *http.Client {
	dial := docker.Dialer()
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}}
}

// A proxied proxy stands between a program and the engine and keeps the requests that change something.
type proxied struct {
	socket string
	mu     sync.Mutex // guards what follows
	sent   []sent
	ids    [][2]string // id, name
}

var versioned = regexp.MustCompile(`^/v[0-9.]+/`)

func (w *world) recorder() *proxied {
	w.t.Helper()
	r := &proxied{socket: filepath.Join(w.dir, "proxy.sock")}
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
	proxy.Transport = engineClient(w.docker).Transport
	proxy.FlushInterval = -1
	proxy.ModifyResponse = func(res *http.Response) error {
		if !strings.HasSuffix(res.Request.URL.Path, "/create") || res.StatusCode != http.StatusCreated {
			return nil
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		res.Body = io.NopCloser(bytes.NewReader(body))
		var made struct{ Id string }
		_ = json.Unmarshal(body, &made)
		name := res.Request.URL.Query().Get("name")
		if name == "" {
			name, _ = res.Request.Context().Value(networkName{}).(string)
		}
		if made.Id != "" && name != "" {
			r.mu.Lock()
			r.ids = append(r.ids, [2]string{made.Id, name})
			r.mu.Unlock()
		}
		return nil
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodDelete {
			body, _ := io.ReadAll(req.Body)
			req.Body = io.NopCloser(bytes.NewReader(body))
			var named struct{ Name string }
			_ = json.Unmarshal(body, &named)
			req = req.WithContext(context.WithValue(req.Context(), networkName{}, named.Name))
			r.mu.Lock()
			r.sent = append(r.sent, sent{Method: req.Method, Path: versioned.ReplaceAllString(req.URL.RequestURI(), "/"), Body: bytes.TrimSpace(body)})
			r.mu.Unlock()
		}
		proxy.ServeHTTP(rw, req)
	})}
	go server.Serve(l)
	w.t.Cleanup(func() { server.Close() })
	return r
}

type networkName struct{}

func (r *proxied) write(w *world, file, dir, port string) {
	w.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	data, err := json.MarshalIndent(r.sent, "", " ")
	if err != nil {
		w.t.Fatal(err)
	}
	text := string(data)
	for _, p := range append(r.ids, w.places(dir, port)...) {
		text = strings.ReplaceAll(text, p[0], p[1])
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text+"\n"), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// composeLimit is how long a project may take to come up.
const composeLimit = 30 * time.Second

// inside runs a command in a container and returns what it printed.
func (w *world) inside(id string, args ...string) string {
	w.t.Helper()
	exec, err := w.docker.ContainerExecCreate(w.t.Context(), id, container.ExecOptions{Cmd: args, AttachStdout: true, AttachStderr: true, Tty: true})
	if err != nil {
		w.t.Fatal(err)
	}
	att, err := w.docker.ContainerExecAttach(w.t.Context(), exec.ID, container.ExecAttachOptions{Tty: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer att.Close()
	out, err := io.ReadAll(att.Reader)
	if err != nil {
		w.t.Errorf("run %v: %v", args, err)
	}
	return strings.ReplaceAll(string(out), "\r", "")
}

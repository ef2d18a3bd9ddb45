package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"golang.org/x/crypto/bcrypt"
)

const (
	registryUser = "puller"
	registryPass = "canary-registry-password"
)

// registry starts a private registry on this machine, which the engine speaks plain HTTP to, and gives its domain.
func (w *world) registry() string {
	w.t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		w.t.Fatalf("the test needs a registry (apt-get install docker-registry): %v", err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(registryPass), bcrypt.MinCost)
	if err != nil {
		w.t.Fatal(err)
	}
	dir := w.t.TempDir()
	w.hostWrite(dir, map[string]string{"htpasswd": registryUser + ":" + string(hash) + "\n", "config.yml": fmt.Sprintf(`version: 0.1
log: { level: info, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: %q }, delete: { enabled: true } }
http: { addr: "127.0.0.1:0", secret: test }
auth: { htpasswd: { realm: test, path: %q } }
`, filepath.Join(dir, "data"), filepath.Join(dir, "htpasswd"))})
	cmd := exec.Command(bin, "serve", filepath.Join(dir, "config.yml"))
	out, err := cmd.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stdout = cmd.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	listens, done := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(done)
		var said []string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			said = append(said, lines.Text())
			if m := regexp.MustCompile(`listening on ([0-9.:]+)`).FindStringSubmatch(lines.Text()); m != nil {
				listens <- m[1]
			}
		}
		_ = cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("the registry said:\n%s", strings.Join(said, "\n"))
		}
	}()
	w.t.Cleanup(func() { cmd.Process.Kill(); <-done })
	var domain string
	select {
	case domain = <-listens:
	case <-time.After(20 * time.Second):
		w.t.Fatal("the registry does not listen")
	}
	w.eventually("the registry answers", 20*time.Second, func() (bool, string) {
		r, err := http.Get("http://" + domain + "/v2/")
		if err != nil {
			return false, err.Error()
		}
		r.Body.Close()
		return r.StatusCode == http.StatusUnauthorized, r.Status
	})
	return domain
}

// push puts an image whose file /what says content into the registry, and takes it off the engine.
func (w *world) push(ref, content string) {
	w.t.Helper()
	ctx := context.Background()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		w.t.Fatal(err)
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	tw.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755})
	tw.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox))})
	tw.Write(busybox)
	for _, link := range []string{"sh", "sleep", "cat"} {
		tw.WriteHeader(&tar.Header{Name: "bin/" + link, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
	}
	noise := make([]byte, 4<<20) // so that a pull takes a moment
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for name, data := range map[string][]byte{"what": []byte(content), "noise": noise} {
		tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))})
		tw.Write(data)
	}
	tw.Close()
	r, err := w.docker.ImageImport(ctx, image.ImportSource{Source: &b, SourceName: "-"}, ref, image.ImportOptions{Changes: []string{"ENV PATH=/bin"}})
	if err != nil {
		w.t.Fatal(err)
	}
	io.Copy(io.Discard, r)
	r.Close()
	auth, _ := json.Marshal(registry.AuthConfig{Username: registryUser, Password: registryPass})
	p, err := w.docker.ImagePush(ctx, ref, image.PushOptions{RegistryAuth: base64.URLEncoding.EncodeToString(auth)})
	if err != nil {
		w.t.Fatal(err)
	}
	said, _ := io.ReadAll(p)
	p.Close()
	if bytes.Contains(said, []byte("errorDetail")) {
		w.t.Fatalf("push %s: %s", ref, said)
	}
	w.untag(ref)
}

// untag takes an image off the engine.
func (w *world) untag(ref string) {
	w.docker.ImageRemove(context.Background(), ref, image.RemoveOptions{Force: true})
}

// TestRegistryAccount: private images are pulled with the account a resource names; a refused account stops nothing
// and says so; a tag that moved is pulled only by a step that recreates; the password is nowhere.
func TestRegistryAccount(t *testing.T) {
	w := newWorld(t)
	domain := w.registry()
	one, two := domain+"/"+w.id+"/one:1", domain+"/"+w.id+"/two:1"
	w.t.Cleanup(func() { w.untag(one); w.untag(two) })
	w.push(one, "first")
	w.push(two, "first")
	account := func(password string) {
		w.configure(fmt.Sprintf("[[docker_registry]]\ndomain = %q\naccounts = [{ username = %q, token = %q }]\n", domain, registryUser, password))
	}
	account(registryPass)
	w.write(map[string]string{"a.toml": `
[[deployment]]
name = "ID-d"
[deployment.config]
image = { type = "Image", params = { image = "` + one + `" } }
image_registry_account = "` + registryUser + `"
network = "none"
command = "sleep 2147483647"
extra_args = ["--stop-signal", "SIGKILL"]
environment = "K = x"
settle = "0s"
` + stack(`registry_provider = "`+domain+`"
registry_account = "`+registryUser+`"
auto_pull = true
file_contents = """
services:
  s:
    image: `+two+`
    command: sleep 2147483647
    stop_signal: SIGKILL
    environment: { K: x }
"""`)})
	printed := ""
	see := func(r ran) ran { printed += r.stdout + r.stderr; return r }

	// While it pulls, no process shows the password.
	watch, stopped := make(chan struct{}), make(chan struct{})
	shown := false
	go func() {
		defer close(stopped)
		for {
			select {
			case <-watch:
				return
			case <-time.After(5 * time.Millisecond):
			}
			lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, l := range lines {
				data, _ := os.ReadFile(l)
				shown = shown || bytes.Contains(data, []byte(registryPass))
			}
		}
	}()
	r := see(w.apply())
	close(watch)
	<-stopped
	if shown {
		t.Error("the password stood in a process list")
	}
	if n := len(w.ids()); n != 2 {
		t.Fatalf("%d containers run, want 2: %s", n, w.names())
	}
	if !strings.Contains(r.stdout+r.stderr, "pulling") {
		t.Errorf("no word of the pull:\n%s%s", r.stdout, r.stderr)
	}
	w.nothingToDo()

	// A tag that moved is no change; a step that recreates pulls it.
	w.push(one, "second")
	w.push(two, "second")
	had := w.snapshot()
	see(w.apply())
	if got := w.touched(had); len(got) > 0 {
		t.Errorf("a tag that moved touched %v", got)
	}
	w.replace("a.toml", "K = x", "K = y")
	w.replace("a.toml", "K: x", "K: y")
	see(w.apply())
	if got := w.touched(had); !slices.Equal(got, []string{"~ID-d", "~ID-s-1"}) {
		t.Errorf("touched %v, want both", got)
	}
	for _, name := range []string{"-d", "-s-1"} {
		if got := w.fileIn(w.id+name, "/what"); got != "second" {
			t.Errorf("%s runs the image of %q, want the one that was pushed last", name, got)
		}
	}
	w.nothingToDo()

	// A refused account.
	account("canary-wrong-password")
	w.push(one, "third")
	w.push(two, "third")
	w.replace("a.toml", "K = y", "K = z")
	w.replace("a.toml", "K: y", "K: z")
	had = w.snapshot()
	r = see(w.varan("apply", "--yes", w.repo))
	if r.exit != 1 || !strings.Contains(r.stdout+r.stderr, "refuses the account \""+registryUser+"\"") {
		t.Errorf("a wrong password: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
	if got := w.touched(had); len(got) > 0 {
		t.Errorf("a refused account touched %v", got)
	}
	see(w.varan("plan", "--json", w.repo))
	for _, canary := range []string{registryPass, "canary-wrong-password", base64.StdEncoding.EncodeToString([]byte(registryPass))} {
		w.absent(canary, printed, w.root, w.data)
	}
}

// fileIn is a file's content in a container.
func (w *world) fileIn(container, name string) string {
	w.t.Helper()
	r, _, err := w.docker.CopyFromContainer(context.Background(), container, name)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	tr := tar.NewReader(r)
	if _, err := tr.Next(); err != nil {
		w.t.Fatal(err)
	}
	data, err := io.ReadAll(tr)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

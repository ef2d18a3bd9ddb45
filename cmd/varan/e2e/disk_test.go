package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// small makes dir a small file system of its own.
func (w *world) small(dir, size string) {
	w.t.Helper()
	if os.Getuid() != 0 {
		w.t.Skip("a small file system is mounted by root alone")
	}
	must(w.t, os.MkdirAll(dir, 0o700))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		w.t.Fatalf("mount a small file system: %v", err)
	}
	w.t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fill takes all space that is left in dir; what it returns gives it back.
func (w *world) fill(dir string) (empty func()) {
	w.t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	must(w.t, err)
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	f.Close()
	return func() { must(w.t, os.Remove(path)) }
}

// readonly makes a small file system read-only, or writable again; nothing may be open in it.
func (w *world) readonly(dir string, on bool) {
	w.t.Helper()
	flags := uintptr(syscall.MS_REMOUNT)
	if on {
		flags |= syscall.MS_RDONLY
	}
	must(w.t, syscall.Mount("", dir, "", flags, ""))
}

// TestFullDataDir: while data_dir is full or read-only no run starts, /readyz fails and the status says why; the
// containers run on; when there is space again, what came meanwhile is applied.
func TestFullDataDir(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\n")
	w.small(w.data, "64m")
	w.write(map[string]string{"a.toml": one("a")})
	first := w.commit("first")
	d := w.daemonOn("127.0.0.1:0")
	w.good(first)
	ready := func(want int) {
		t.Helper()
		w.eventually(fmt.Sprint("readyz says ", want), 30*time.Second, func() (bool, string) {
			res, err := http.Get("http://" + w.address() + "/readyz")
			if err != nil {
				return false, err.Error()
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			return res.StatusCode == want, fmt.Sprint(res.StatusCode, " ", string(body), w.varan("status").stdout)
		})
	}
	ready(200)
	before := w.ids()
	mend := w.fill(w.data)
	w.write(map[string]string{"a.toml": strings.Replace(one("a"), "K = x", "K = y", 1)})
	next := w.commit("full")
	ready(503)
	says := "data_dir " + w.data + " is full"
	w.until("it is told", func(s standing) bool {
		return s.Syncs[0].Tip == next && !s.Ready && strings.Contains(s.Problem, says)
	})
	if text := w.varan("status").stdout; !strings.Contains(text, says) {
		t.Errorf("status:\n%s", text)
	}
	for _, args := range [][]string{{"apply", "--yes", w.repo}, {"run", "deployment/" + w.id + "-a"}} {
		if r := w.varan(args...); r.exit != 1 || !strings.Contains(r.stderr, says) {
			t.Errorf("varan %s: exit %d, %s%s", args[0], r.exit, r.stdout, r.stderr)
		}
	}
	w.same(before)
	mend()
	w.good(next)
	w.hasEnv("a", "K=y")
	ready(200)
	if rs := w.runs(); rs[0].Status != "done" || rs[0].Commit != next {
		t.Errorf("runs: %+v", rs)
	}
	d.stop()

	w.readonly(w.data, true)
	if r := w.varan("serve", "--repo", w.repo); r.exit != 1 || !strings.Contains(r.stderr, "read-only file system") || !strings.Contains(r.stderr, w.data) {
		t.Errorf("on a read-only disk: exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}
	w.readonly(w.data, false)
	d = w.daemon()
	w.good(next)
	d.stop()
}

// TestFullRoot: while an agent's root is full or read-only, ops that change things are refused with the cause, and
// nothing is stopped; then they go on.
func TestFullRoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("[config]\npoll = \"1s\"\n")
	w.small(w.root, "8m")
	config := func(k string) map[string]string {
		files := shopOf(sleeper("    env_file: app.env\n    volumes: [\"./conf:/conf:ro\"]\n"))
		files["shop.toml"] += "settle = \"0s\"\n"
		files["a.toml"] = strings.Replace(one("a"), "K = x", "K = "+k, 1)
		files["shop/app.env"] = "K=" + k + "\n"
		files["shop/conf/big"] = strings.Repeat(k, 64<<10)
		return files
	}
	w.write(config("one"))
	first := w.commit("first")
	d := w.daemon()
	w.good(first)
	before := w.ids()
	conf := filepath.Join(w.root, "stacks", w.id+"-shop", "shop", "conf", "big")
	laid := w.read(conf)
	mend := w.fill(w.root)
	w.write(config("two"))
	next := w.commit("full")
	said := w.failed(next)
	if strings.Count(said, "no space left") < 2 || !strings.Contains(said, "deployment/"+w.id+"-a") || !strings.Contains(said, "stack/"+w.id+"-shop") {
		t.Errorf("the causes are not told:\n%s", said)
	}
	if r := w.varan("hold", "deployment/"+w.id+"-a", "x"); r.exit != 1 || !strings.Contains(r.stderr, "no space left") {
		t.Errorf("hold: exit %d, %s%s", r.exit, r.stdout, r.stderr)
	}
	w.calm()
	w.same(before)
	if w.read(conf) != laid {
		t.Error("a file that a container reads is not what it was")
	}
	if rs := w.runs(); len(rs) > 4 {
		t.Errorf("tried again and again: %+v", rs)
	}
	if s, text := w.status(); s.Syncs[0].State != "retrying" {
		t.Errorf("status:\n%s", text)
	}
	mend()
	w.apply()
	w.hasEnv("a", "K=two")
	w.hasEnv("shop-web-1", "K=two")
	w.nothingToDo()
	d.stop()
}

package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/varanhq/varan/schema"
)

func newDir(t *testing.T) (*Dir, string) {
	t.Helper()
	base := t.TempDir()
	d, err := OpenDir(filepath.Join(base, "stack"), filepath.Join(base, "undo", "stack.json"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, d.path
}

func mustLay(t *testing.T, d *Dir, before Manifest, files ...File) Manifest {
	t.Helper()
	m, err := d.Lay(files, before)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// contents lists what lies below dir.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if e.Type()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(p)
			out[rel] = "→" + to
			return err
		}
		data, err := os.ReadFile(p)
		out[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Errorf("folder (-want +got):\n%s", diff)
	}
}

func TestLay(t *testing.T) {
	d, dir := newDir(t)
	a, b := File{Path: "a", Data: []byte("1")}, File{Path: "x/y/b", Data: []byte("2"), Exec: true}
	link := File{Path: "x/l", Link: "y/b"}
	env := File{Path: ".env", Data: []byte("S=1\n"), Private: true}
	m := mustLay(t, d, nil, a, b, link, env)
	same(t, dir, map[string]string{"a": "1", "x/y/b": "2", "x/l": "→y/b", ".env": "S=1\n"})
	if i, _ := os.Stat(filepath.Join(dir, ".env")); i.Mode().Perm() != 0o600 {
		t.Error(i.Mode())
	}
	if i, _ := os.Stat(filepath.Join(dir, "x/y/b")); i.Mode().Perm() != 0o755 {
		t.Error(i.Mode())
	}
	if err := d.Keep(); err != nil {
		t.Fatal(err)
	}
	if got := d.Drifted(m); got != nil {
		t.Errorf("drifted %v", got)
	}

	// A container writes; Git changes one file and drops two, of which the container has changed one.
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("x/own", "container's")
	write("x/y/b", "changed by the container")
	if diff := cmp.Diff([]string{"x/y/b"}, d.Drifted(m)); diff != "" {
		t.Error(diff)
	}
	before, _ := os.Stat(filepath.Join(dir, "a"))
	mustLay(t, d, m, File{Path: "a", Data: []byte("longer")})
	same(t, dir, map[string]string{"a": "longer", "x/y/b": "changed by the container", "x/own": "container's"})
	if after, _ := os.Stat(filepath.Join(dir, "a")); !os.SameFile(before, after) {
		t.Error("a is another file")
	}
	// The update fails: everything is as it was.
	if err := d.Restore(); err != nil {
		t.Fatal(err)
	}
	same(t, dir, map[string]string{"a": "1", "x/y/b": "changed by the container", "x/l": "→y/b", ".env": "S=1\n", "x/own": "container's"})

	mustLay(t, d, m, File{Path: "a/now/folder", Data: []byte("f")})
	same(t, dir, map[string]string{"a/now/folder": "f", "x/y/b": "changed by the container", "x/own": "container's"})
	if err := d.Restore(); err != nil {
		t.Fatal(err)
	}
	same(t, dir, map[string]string{"a": "1", "x/y/b": "changed by the container", "x/l": "→y/b", ".env": "S=1\n", "x/own": "container's"})
	m2 := mustLay(t, d, m, a)
	if err := d.Keep(); err != nil {
		t.Fatal(err)
	}
	if stay, err := d.Remove(m2, func(string, Seen) bool { return true }); err != nil || stay != nil {
		t.Fatal(stay, err)
	}
	same(t, dir, map[string]string{"x/y/b": "changed by the container", "x/own": "container's"})
}

// TestUnlay: what a stack laid goes with it; what stood there before it came, what others laid too and what was
// changed since stays. The values of secrets go in any case.
func TestUnlay(t *testing.T) {
	for _, own := range []bool{true, false} {
		root := t.TempDir()
		id := schema.NewID(schema.KindStack, "web")
		base := filepath.Join(root, "stacks", "web")
		if !own {
			base = filepath.Join(t.TempDir(), "opt", "web")
		}
		write := func(name, text string) {
			t.Helper()
			if err := os.MkdirAll(filepath.Dir(filepath.Join(base, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(base, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write("was/equal", "1")
		write("was/other", "0")
		write(".env", "S=0\n")
		d, err := OpenDir(base, UndoFile(root, id))
		if err != nil {
			t.Fatal(err)
		}
		files := []File{{Path: "was/equal", Data: []byte("1")}, {Path: "was/other", Data: []byte("1")}, {Path: "new/a", Data: []byte("1")},
			{Path: "new/link", Link: "a"}, {Path: "both/b", Data: []byte("1")}, {Path: "conf/c", Data: []byte("1")}, {Path: "conf/d", Data: []byte("1")},
			{Path: ".env", Data: []byte("S=1\n"), Private: true}}
		m := mustLay(t, d, nil, files...)
		if err := d.Keep(); err != nil {
			t.Fatal(err)
		}
		m = mustLay(t, d, m, files...) // who made what is remembered
		if got := d.Drifted(m); got != nil {
			t.Errorf("drifted: %v", got)
		}
		failed := slices.Clone(files)
		failed[2].Data = []byte("an update that failed")
		mustLay(t, d, m, failed...)
		d.Close()
		write("conf/c", "edited")
		write("conf/theirs", "data")
		for range 2 { // a killed removal is done again
			stay, err := Unlay(root, id, base, m, func(abs string) bool { return abs == filepath.Join(base, "both/b") })
			if err != nil || len(stay) != 1 || stay[0] != "conf/c" {
				t.Errorf("stay: %q %v", stay, err)
			}
		}
		want := map[string]string{"both/b": "1", "conf/c": "edited", "conf/theirs": "data"}
		if !own {
			want["was/equal"], want["was/other"] = "1", "1"
		}
		same(t, base, want)
		for _, gone := range []string{filepath.Join(base, "new"), UndoFile(root, id)} {
			if _, err := os.Lstat(gone); err == nil {
				t.Errorf("%s is still there", gone)
			}
		}
	}
}

// TestUnlayAll: nothing at all is left where nobody else wrote, and a folder that is gone is no error.
func TestUnlayAll(t *testing.T) {
	root := t.TempDir()
	id := schema.NewID(schema.KindStack, "web")
	base := filepath.Join(root, "stacks", "web")
	d, err := OpenDir(base, UndoFile(root, id))
	if err != nil {
		t.Fatal(err)
	}
	m := mustLay(t, d, nil, File{Path: "a/b/c", Data: []byte("1")}, File{Path: "d", Data: []byte("1")})
	d.Close()
	for range 2 {
		if stay, err := Unlay(root, id, base, m, func(string) bool { return false }); err != nil || stay != nil {
			t.Errorf("stay: %q %v", stay, err)
		}
	}
	if _, err := os.Lstat(base); err == nil {
		t.Error("its folder is still there")
	}
}

func TestLayRefuses(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		plant func(dir string) error
		file  File
		names string
	}{
		"symlink":          {func(d string) error { return os.Symlink(secret, d+"/f") }, File{Path: "f"}, "/f"},
		"symlinked folder": {func(d string) error { return os.Symlink(filepath.Dir(secret), d+"/dir") }, File{Path: "dir/secret"}, "/dir"},
		"inner symlink":    {func(d string) error { return os.Symlink(".", d+"/dir") }, File{Path: "dir/f"}, "/dir"},
		"fifo":             {func(d string) error { return unix.Mkfifo(d+"/f", 0o666) }, File{Path: "f"}, "/f"},
		"device":           {func(d string) error { return unix.Mknod(d+"/f", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }, File{Path: "f"}, "/f"},
		"hard link":        {func(d string) error { return errors.Join(os.WriteFile(d+"/g", nil, 0o644), os.Link(d+"/g", d+"/f")) }, File{Path: "f"}, "/f"},
		"folder":           {func(d string) error { return os.Mkdir(d+"/f", 0o755) }, File{Path: "f"}, "/f"},
		"file as folder":   {func(d string) error { return os.WriteFile(d+"/dir", nil, 0o644) }, File{Path: "dir/f"}, "/dir"},
		"link out":         {func(string) error { return nil }, File{Path: "x/f", Link: "../../secret"}, "x/f"},
		"absolute link":    {func(string) error { return nil }, File{Path: "f", Link: "/etc/passwd"}, "f"},
		"path out":         {func(string) error { return nil }, File{Path: "../f"}, "../f"},
		"absolute path":    {func(string) error { return nil }, File{Path: "/f"}, "/f"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d, dir := newDir(t)
			if err := tc.plant(dir); errors.Is(err, unix.EPERM) {
				t.Skip("making devices is not allowed here")
			} else if err != nil {
				t.Fatal(err)
			}
			tc.file.Data = []byte("overwritten")
			done := make(chan error, 1)
			go func() { _, err := d.Lay([]File{tc.file}, nil); done <- err }()
			select {
			case err := <-done:
				if err == nil || !strings.Contains(err.Error(), tc.names) {
					t.Errorf("error %v, want one naming %s", err, tc.names)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("blocked")
			}
			if data, _ := os.ReadFile(secret); string(data) != "secret" {
				t.Errorf("the file outside is %q", data)
			}
		})
	}
}

// While a container swaps what lies in the folder for whatever is bad, nothing outside is written or read.
func TestHostileFolder(t *testing.T) {
	const updates = 10000
	d, dir := newDir(t)
	outside := filepath.Join(t.TempDir(), "out")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	canary := filepath.Join(outside, "f")
	if err := os.WriteFile(canary, []byte("canary"), 0o644); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			for until := time.Now().Add(time.Duration(rand.IntN(150)) * time.Microsecond); time.Now().Before(until); {
				runtime.Gosched()
			}
			if rand.IntN(3) > 0 { // the stack's owner has a turn: what is in an update's way is gone
				for _, name := range []string{"f", "sub"} {
					if i, err := os.Lstat(filepath.Join(dir, name)); err == nil && !i.Mode().IsRegular() && !i.IsDir() || err == nil && hardLinked(i) {
						_ = os.Remove(filepath.Join(dir, name))
					}
				}
				if i, err := os.Lstat(filepath.Join(dir, "sub")); err == nil && i.IsDir() {
					if i, err := os.Lstat(filepath.Join(dir, "sub/f")); err == nil && (!i.Mode().IsRegular() || hardLinked(i)) {
						_ = os.Remove(filepath.Join(dir, "sub/f"))
					}
				} else if err == nil {
					_ = os.Remove(filepath.Join(dir, "sub"))
				}
				continue
			}
			name := filepath.Join(dir, []string{"f", "sub", "sub/f"}[rand.IntN(3)])
			// The attacker must not act through its own symlink, nor wait on its own FIFO as RemoveAll would.
			if i, err := os.Lstat(filepath.Join(dir, "sub")); err == nil && i.IsDir() {
				_ = os.Remove(filepath.Join(dir, "sub/f"))
			} else if strings.HasSuffix(name, "sub/f") {
				continue
			}
			_ = os.Remove(name)
			switch rand.IntN(7) {
			case 0:
				_ = os.Symlink(canary, name)
			case 1:
				_ = os.Symlink(outside, name)
			case 2:
				_ = unix.Mkfifo(name, 0o666)
			case 3:
				_ = unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
			case 4:
				_ = os.Link(canary, name)
			case 5:
				_ = os.Symlink("/proc/self/environ", name)
			}
		}
	})
	laid, tried, began := 0, 0, time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var m Manifest
		for i := 0; i < updates || laid < 100 && time.Since(began) < time.Minute; i++ {
			tried = i + 1
			text := []byte(fmt.Sprint("update ", i))
			if n, err := d.Lay([]File{{Path: "f", Data: text}, {Path: "sub/f", Data: text}}, m); err == nil {
				m = n
				laid++
			}
			_ = d.Drifted(m)
			if i%3 == 0 {
				_ = d.Restore()
			} else {
				_ = d.Keep()
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Fatal("blocked")
	}
	close(stop)
	wg.Wait()
	t.Logf("%d of %d updates were laid between the swaps", laid, tried)
	if laid < 100 || laid == tried {
		t.Error("the swaps and the updates do not meet")
	}
	same(t, outside, map[string]string{"f": "canary"})
}

// hardLinked reports whether a file has more than one name.
func hardLinked(i os.FileInfo) bool {
	st, ok := i.Sys().(*syscall.Stat_t)
	return ok && i.Mode().IsRegular() && st.Nlink > 1
}

func TestSegment(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"a", "a/b", "a%2Fb", "..", ".", "", "a b", "A", "%.."} {
		s := Segment(name)
		if strings.ContainsAny(s, "/\x00") || s == "." || s == ".." || s == "" {
			t.Errorf("%q becomes %q", name, s)
		}
		if other, ok := seen[s]; ok {
			t.Errorf("%q and %q are both %q", name, other, s)
		}
		seen[s] = name
	}
}

func TestScript(t *testing.T) {
	for in, want := range map[string]string{"": "", "# x\n\n a # c\n b": "a && b", "a \\\n  b\nc": "a b && c"} {
		c := stackCommand(in)
		if got := Script(c); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func stackCommand(text string) schema.Command { return schema.Command{Command: text} }

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
)

// service is one service that sleeps.
func service(name string, more ...string) string {
	s := "  " + name + ":\n    image: varan-e2e:1\n    command: sleep 2147483647\n    stop_signal: SIGKILL\n"
	for _, m := range more {
		s += "    " + m + "\n"
	}
	return s
}

func stack(config string) string {
	return "[[stack]]\nname = \"ID\"\n[stack.config]\nsettle = \"0s\"\n" + config + "\n"
}

func (w *world) read(name string) string {
	w.t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// TestStackKeys: what the keys of a stack say happens, and a second look finds nothing to do.
func TestStackKeys(t *testing.T) {
	home := func(w *world) string { return filepath.Join(w.root, "stacks", w.id) }
	t.Run("file_contents is laid", func(t *testing.T) {
		w := newWorld(t)
		w.configure("[secrets]\nPW = \"canary-inline\"\n")
		w.write(map[string]string{"a.toml": stack("file_paths = [\"my.yaml\"]\nfile_contents = \"\"\"\nservices:\n" + service("a", `environment: { PW: "[[PW]]" }`) + "\"\"\"")})
		w.apply()
		text := w.read(filepath.Join(home(w), "my.yaml"))
		if !strings.Contains(text, "services:") || !strings.Contains(text, "[[PW]]") {
			t.Errorf("laid:\n%s", text)
		}
		w.absent("canary-inline", "", w.root)
		if !slices.Contains(w.env("a"), "PW=canary-inline") {
			t.Error("the container has not got the secret")
		}
		w.nothingToDo()
	})
	t.Run("pre_deploy and post_deploy", func(t *testing.T) {
		w := newWorld(t)
		w.write(map[string]string{"app/compose.yaml": "services:\n" + service("a", "env_file: [made.env]"),
			"app/make.sh": "echo MADE=$COLOUR > made.env\n",
			"a.toml": stack("run_directory = \"app\"\nenvironment = \"COLOUR = red\"\npre_deploy.command = \"\"\"\n# a comment\nsh make.sh\necho pre >> order\n\"\"\"\n" +
				"post_deploy.command = \"echo post >> order\"")})
		w.apply()
		if env := w.env("a"); !slices.Contains(env, "MADE=red") {
			t.Errorf("environment %v", env)
		}
		order := filepath.Join(home(w), "app", "order")
		if got := w.read(order); got != "pre\npost\n" {
			t.Errorf("order %q", got)
		}
		w.nothingToDo()
		w.apply()
		if got := w.read(order); got != "pre\npost\n" {
			t.Errorf("commands were run again with nothing to do: %q", got)
		}
		w.replace("a.toml", "sh make.sh", "false")
		w.replace("app/compose.yaml", "varan-e2e:1", "varan-e2e:2")
		had := w.snapshot()
		if r := w.varan("apply", "--yes", w.repo); r.exit != 1 || !strings.Contains(r.stdout+r.stderr, "pre_deploy") {
			t.Errorf("a failing pre_deploy: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
		}
		if got := w.touched(had); len(got) > 0 {
			t.Errorf("a failing pre_deploy touched %v", got)
		}
	})
	t.Run("run_build", func(t *testing.T) {
		w := newWorld(t)
		t.Cleanup(func() {
			w.docker.ImageRemove(context.Background(), w.id+"-built", image.RemoveOptions{Force: true})
		})
		w.write(map[string]string{"app/compose.yaml": "services:\n  built:\n    build: ./ctx\n    command: sleep 2147483647\n    stop_signal: SIGKILL\n" + service("other"),
			"app/ctx/Dockerfile": "FROM varan-e2e:1\nCOPY what /what\n", "app/ctx/what": "one",
			"a.toml": stack("run_directory = \"app\"\nrun_build = true")})
		w.apply()
		w.nothingToDo()
		had := w.snapshot()
		w.write(map[string]string{"app/ctx/what": "two"})
		w.apply()
		if got := w.touched(had); !slices.Equal(got, []string{"~ID-built-1"}) {
			t.Errorf("touched %v, want built", got)
		}
		c, err := w.docker.ContainerInspect(context.Background(), w.id+"-built-1")
		if err != nil {
			t.Fatal(err)
		}
		had = w.snapshot()
		w.write(map[string]string{"app/ctx/Dockerfile": "FROM varan-e2e:1\nRUN /bin/no-such-program\n"})
		if r := w.varan("apply", "--yes", w.repo); r.exit != 1 || !strings.Contains(r.stdout+r.stderr, "built") {
			t.Errorf("a failing build: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
		}
		if got := w.touched(had); len(got) > 0 {
			t.Errorf("a failing build touched %v", got)
		}
		w.docker.ImageRemove(context.Background(), c.Image, image.RemoveOptions{Force: true})
	})
	t.Run("destroy_before_deploy", func(t *testing.T) {
		w := newWorld(t)
		w.write(map[string]string{"app/compose.yaml": "services:\n" + service("a", "environment: { K: x }") + service("b"),
			"a.toml": stack("run_directory = \"app\"\ndestroy_before_deploy = true")})
		w.apply()
		w.nothingToDo()
		had := w.snapshot()
		since := time.Now()
		w.replace("app/compose.yaml", "K: x", "K: y")
		w.apply()
		if got := w.touched(had); !slices.Contains(got, "~ID-a-1") {
			t.Errorf("touched %v, want a", got)
		}
		first := ""
		for _, m := range w.recorded(since) {
			if a := string(m.Action); first == "" && (a == "die" || a == "start") {
				first = a
			}
		}
		if first != "die" {
			t.Errorf("first %q, want what ran to be gone before anything new starts", first)
		}
		w.nothingToDo()
	})
	t.Run("ignore_services", func(t *testing.T) {
		w := newWorld(t)
		w.write(map[string]string{"app/compose.yaml": "services:\n" + service("a") + "  job:\n    image: varan-e2e:1\n    command: \"false\"\n",
			"a.toml": stack("run_directory = \"app\"\nignore_services = [\"job\"]")})
		w.apply()
		w.eventually("the job ends and a runs", 20*time.Second, func() (bool, string) { return len(w.ids()) == 1, w.names() })
		w.nothingToDo()
	})
	t.Run("project_name", func(t *testing.T) {
		w := newWorld(t)
		w.write(map[string]string{"app/compose.yaml": "services:\n" + service("a"), "a.toml": stack("run_directory = \"app\"\nproject_name = \"ID-other\"")})
		w.apply()
		if c, ok := w.containers(false)[w.id+"-other-a-1"]; !ok || c.Labels["com.docker.compose.project"] != w.id+"-other" {
			t.Errorf("containers %s", w.names())
		}
		w.nothingToDo()
	})
	t.Run("env_file_path", func(t *testing.T) {
		w := newWorld(t)
		w.write(map[string]string{"app/compose.yaml": "services:\n" + service("a", "env_file: [conf/app.env]", "environment: { C: \"${COLOUR}\" }", "volumes: [\"./conf:/conf:ro\"]"),
			"a.toml": stack("run_directory = \"app\"\nenv_file_path = \"conf/app.env\"\nenvironment = \"COLOUR = red\"")})
		w.apply()
		if env := w.env("a"); !slices.Contains(env, "COLOUR=red") || !slices.Contains(env, "C=red") {
			t.Errorf("environment %v", env)
		}
		if got := w.read(filepath.Join(home(w), "app", "conf", "app.env")); !strings.Contains(got, "COLOUR=red") {
			t.Errorf("laid env file %q", got)
		}
		w.nothingToDo()
	})
	t.Run("several compose files", func(t *testing.T) {
		w := newWorld(t)
		w.write(map[string]string{"app/compose.yaml": "services:\n" + service("a", "environment: { K: x, L: l }"),
			"app/prod/over.yaml": "services:\n  a:\n    environment: { K: y }\n" + service("b"),
			"a.toml":             stack("run_directory = \"app\"\nfile_paths = [\"compose.yaml\", \"prod/over.yaml\"]")})
		w.apply()
		if env := w.env("a"); !slices.Contains(env, "K=y") || !slices.Contains(env, "L=l") {
			t.Errorf("environment %v", env)
		}
		if n := len(w.ids()); n != 2 {
			t.Errorf("%d containers run, want 2", n)
		}
		w.nothingToDo()
	})
	t.Run("extra_args", func(t *testing.T) {
		w := newWorld(t)
		w.write(map[string]string{"app/compose.yaml": "services:\n" + service("a") + service("b"),
			"a.toml": stack("run_directory = \"app\"\nextra_args = [\"--scale a=2\"]")})
		w.apply()
		if n := len(w.ids()); n != 3 {
			t.Errorf("%d containers run, want 3: %s", n, w.names())
		}
		w.nothingToDo()
		had := w.snapshot()
		w.replace("a.toml", "--scale a=2", "--scale=a=1")
		w.apply()
		if got := w.touched(had); slices.Contains(got, "~ID-b-1") || len(w.ids()) != 2 {
			t.Errorf("touched %v, %s", got, w.names())
		}
		w.nothingToDo()
		w.replace("a.toml", "--scale=a=1", "--no-such-flag")
		if r := w.varan("plan", w.repo); r.exit == 0 || !strings.Contains(r.stdout+r.stderr, "no-such-flag") {
			t.Errorf("an unknown flag: exit %d\n%s%s", r.exit, r.stdout, r.stderr)
		}
	})
}

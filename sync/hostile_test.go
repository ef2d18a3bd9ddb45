package sync

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/sandbox"
)

const canary = "c4n4ry"

// A hostile pull request.
type hostile struct {
	name  string
	files map[string]string
	links map[string]string // symlinks
	other func(t *testing.T, dir string)
	// want stands in an error's message or hint; "" = any outcome will do, as long as nothing leaks.
	want string
	// limit: it must end at a limit.
	limit bool
	// plain: without strace, which would take long.
	plain bool
}

func composeWith(service string) map[string]string {
	return map[string]string{"s/compose.yaml": "services:\n  web:\n    image: demo\n" + service}
}

func extraArgs(args string) map[string]string {
	return map[string]string{"x.toml": deployment("x", "1") + "extra_args = [" + args + "]\n"}
}

// hostiles are pull requests of somebody who wants to see more than is in the repository, or to be a burden. HOSTFILE
// is a file of the host with the canary in it.
func hostiles() []hostile {
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	var bomb, many, tables strings.Builder
	bomb.WriteString("x-a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n")
	for c := 'b'; c <= 'j'; c++ {
		p := string(c - 1)
		fmt.Fprintf(&bomb, "x-%c: &%c [*%s,*%s,*%s,*%s,*%s,*%s,*%s,*%s,*%s]\n", c, c, p, p, p, p, p, p, p, p, p)
	}
	bomb.WriteString("services:\n  web:\n    image: demo\n    labels: *j\n")
	for i := range 10_000 {
		fmt.Fprintf(&many, "[[deployment]]\nname = \"n%d\"\nconfig = {image = {type = \"Image\", params = {image = \"x\"}}}\n", i)
		fmt.Fprintf(&tables, "[a%d.b.c.d.e]\n", i)
	}
	evil := "\x1b[31m\u202egnp\u200b.<img src=x onerror=alert(1)> @everyone [x](http://evil) fixes #1 `"
	list := []hostile{
		{name: "env_file out of the tree", files: composeWith("    env_file: ../../../../../../../../HOSTFILE\n"), want: "s/compose.yaml"},
		{name: "env_file absolute", files: composeWith("    env_file: HOSTFILE\n")},
		{name: "env_file of the process", files: composeWith("    env_file: /proc/self/environ\n")},
		{name: "env_file list", files: composeWith("    env_file:\n      - path: HOSTFILE\n        required: false\n      - path: /proc/1/environ\n        format: raw\n")},
		{name: "label_file", files: composeWith("    label_file: HOSTFILE\n")},
		{name: "label_file out", files: composeWith("    label_file: ../../../../../../HOSTFILE\n")},
		{name: "include absolute", files: map[string]string{"s/compose.yaml": "include: [HOSTFILE]\nservices: {}\n"}},
		{name: "include out", files: map[string]string{"s/compose.yaml": "include: [../../../../../HOSTFILE]\nservices: {}\n"}},
		{name: "include env_file", files: map[string]string{"s/compose.yaml": "include:\n  - path: b.yaml\n    env_file: HOSTFILE\n", "s/b.yaml": "services:\n  web:\n    image: demo:${CANARY:-none}\n"}},
		{name: "include https", files: map[string]string{"s/compose.yaml": "include: ['https://127.0.0.1:1/compose.yaml']\n"}},
		{name: "include git", files: map[string]string{"s/compose.yaml": "include: ['git@127.0.0.1:x/y.git']\n"}},
		{name: "include oci", files: map[string]string{"s/compose.yaml": "include: ['oci://127.0.0.1:1/x:latest']\n"}},
		{name: "include circle", files: map[string]string{"s/compose.yaml": "include: [b.yaml]\n", "s/b.yaml": "include: [compose.yaml]\n"}},
		{name: "extends absolute", files: composeWith("    extends:\n      file: HOSTFILE\n      service: web\n")},
		{name: "extends remote", files: composeWith("    extends:\n      file: https://127.0.0.1:1/x.yaml\n      service: web\n")},
		{name: "extends circle", files: composeWith("    extends:\n      file: compose.yaml\n      service: web\n")},
		{name: "config file", files: map[string]string{"s/compose.yaml": "services:\n  web:\n    image: demo\n    configs: [c]\nconfigs:\n  c:\n    file: HOSTFILE\n"}},
		{name: "config environment", files: map[string]string{"s/compose.yaml": "services:\n  web:\n    image: demo\n    configs: [c]\nconfigs:\n  c:\n    environment: CANARY\n"}},
		{name: "secret file", files: map[string]string{"s/compose.yaml": "services:\n  web:\n    image: demo\n    secrets: [c]\nsecrets:\n  c:\n    file: /proc/self/environ\n"}},
		{name: "secret environment", files: map[string]string{"s/compose.yaml": "services:\n  web:\n    image: demo\n    secrets: [c]\nsecrets:\n  c:\n    environment: CANARY\n"}},
		{name: "interpolation", files: composeWith("    environment:\n      A: ${CANARY}\n      B: ${CANARY:-unset}\n      C: ${HOME}${PATH}\n")},
		{name: "interpolation demanded", files: composeWith("    environment:\n      A: ${CANARY:?is not set}\n")},
		{name: "environment passed through", files: composeWith("    environment: [CANARY, HOME]\n")},
		{name: "dot env linked", files: composeWith("    environment:\n      A: ${CANARY}\n"), links: map[string]string{"s/.env": "HOSTFILE"}},
		{name: "seccomp of compose", files: composeWith("    security_opt: ['seccomp:HOSTFILE']\n")},
		{name: "credential spec", files: composeWith("    credential_spec:\n      file: HOSTFILE\n")},
		{name: "provider", files: composeWith("    provider:\n      type: /bin/sh\n      options: {a: b}\n")},
		{name: "build of the host", files: composeWith("    build:\n      context: /\n      dockerfile: HOSTFILE\n")},
		{name: "build remote", files: composeWith("    build: https://127.0.0.1:1/x.git#main\n")},
		{name: "build secrets", files: map[string]string{"s/compose.yaml": "services:\n  web:\n    build:\n      context: .\n      secrets: [c]\nsecrets:\n  c:\n    file: HOSTFILE\n", "s/Dockerfile": "FROM scratch\n"}},
		{name: "commands", files: map[string]string{"s.toml": stack("s") + "pre_deploy = { path = \".\", command = \"cat HOSTFILE; curl 127.0.0.1:1\" }\n"}},
		{name: "compose linked", links: map[string]string{"s/compose.yaml": "HOSTFILE"}},
		{name: "compose linked relatively", links: map[string]string{"s/compose.yaml": "../../../../../../../../../../HOSTFILE"}},
		{name: "toml linked", links: map[string]string{"z.toml": "/proc/self/environ"}},
		{name: "link circle", files: composeWith("    env_file: a.env\n"), links: map[string]string{"s/a.env": "b.env", "s/b.env": "a.env"}},
		{name: "folder linked", files: composeWith("    env_file: root/HOSTFILE\n"), links: map[string]string{"s/root": "/"}},
		{name: "run_directory out", files: map[string]string{"s.toml": strings.Replace(stack("s"), `run_directory = "s"`, `run_directory = "../../../.."`, 1)}},
		{name: "file_paths out", files: map[string]string{"s.toml": stack("s") + "file_paths = [\"HOSTFILE\", \"../../HOSTFILE\"]\n"}},
		{name: "env_file_path out", files: map[string]string{"s.toml": stack("s") + "env_file_path = \"../../../HOSTFILE\"\nadditional_env_files = [\"HOSTFILE\"]\n"}},
		{name: "docker --env-file", files: extraArgs(`"--env-file", "HOSTFILE"`)},
		{name: "docker --label-file", files: extraArgs(`"--label-file=HOSTFILE"`)},
		{name: "docker -e NAME", files: extraArgs(`"-e", "CANARY", "--env", "HOME"`)},
		{name: "docker seccomp", files: extraArgs(`"--security-opt", "seccomp=HOSTFILE"`)},
		{name: "docker --cidfile", files: extraArgs(`"--cidfile", "HOSTFILE"`)},
		{name: "docker environ", files: extraArgs(`"--env-file", "/proc/self/environ", "--label-file", "/proc/self/environ"`)},
		{name: "guess of a secret", files: map[string]string{"x.toml": deployment("x", "[[PW]]") + "command = \"echo [[PW]]\"\nlabels = \"a = [[PW]]\"\n"}},
		{name: "a secret in names", files: map[string]string{"x.toml": "[[deployment]]\nname = \"[[PW]]\"\ndescription = \"[[PW]]\"\ntags = [\"[[PW]]\"]\n"}},
		{name: "a fixed commit elsewhere", files: map[string]string{"x.toml": "[[stack]]\nname = \"far\"\n[stack.config]\ngit_provider = \"127.0.0.1:1\"\ngit_https = false\nrepo = \"x/y\"\n"}},
		{name: "a repo on this machine", files: map[string]string{"x.toml": "[[repo]]\nname = \"r\"\nconfig.repo = \"file:///etc\"\n[[stack]]\nname = \"far\"\nconfig.linked_repo = \"r\"\n"}},
		{name: "a sync of the metadata service", files: map[string]string{"x.toml": "[[resource_sync]]\nname = \"r\"\n[resource_sync.config]\ngit_provider = \"169.254.169.254\"\ngit_https = false\nrepo = \"latest/meta-data\"\n"}},
		{name: "files on the daemon's host", files: map[string]string{"x.toml": "[[resource_sync]]\nname = \"r\"\n[resource_sync.config]\nfiles_on_host = true\nresource_path = [\"HOSTFILE\"]\n"}},
		{name: "injection", files: map[string]string{"x.toml": "[[deployment]]\nname = \"x\"\ndescription = " + fmt.Sprintf("%q", "x") + "\n[deployment.config]\nimage = {type = \"Image\", params = {image = \"demo\"}}\ncommand = '''" + evil + "'''\n", "e\u202evil\n::error::x.toml": "x = ["}},
		{name: "yaml bomb", files: map[string]string{"s/compose.yaml": bomb.String()}},
		{name: "yaml depth", files: map[string]string{"s/compose.yaml": "services:\n  web:\n    image: demo\n    x-deep: " + deep + "\n"}},
		{name: "yaml documents", files: map[string]string{"s/compose.yaml": strings.Repeat("---\nservices: {}\n", 20_000)}},
		{name: "toml depth", files: map[string]string{"x.toml": "x = " + deep + "\n"}, want: "x.toml"},
		{name: "toml tables", files: map[string]string{"x.toml": tables.String()}},
		{name: "toml dotted", files: map[string]string{"x.toml": strings.Repeat("a.", 50_000) + "a = 1\n"}},
		{name: "not utf-8", files: map[string]string{"x.toml": "a = \"\xff\xfe\x00\"\n", "s/compose.yaml": "\xff\xfe\x00"}, want: "x.toml"},
		{name: "10,000 resources", files: map[string]string{"x.toml": many.String()}, plain: true},
		{name: "a large toml file", files: map[string]string{"x.toml": "# " + strings.Repeat("x", 20<<20) + "\n"}, want: "split it", plain: true},
		{name: "a bomb of zeros", other: func(t *testing.T, dir string) { zeros(t, filepath.Join(dir, "x.toml"), 80<<20) }, plain: true},
		{name: "a bomb named in compose", files: composeWith("    env_file: zero.env\n"), other: func(t *testing.T, dir string) { zeros(t, filepath.Join(dir, "s", "zero.env"), 80<<20) }, plain: true},
		{name: "20,000 files", other: func(t *testing.T, dir string) {
			for i := range 20_000 {
				p := filepath.Join(dir, fmt.Sprint("d", i%100), fmt.Sprint(i, ".toml"))
				if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, fmt.Appendf(nil, "# %d\n", i), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
		}, plain: true},
		{name: "a deep folder", files: map[string]string{strings.Repeat("d/", 200) + "x.toml": "[[stak]]\n"}},
		{name: "git's own folder", files: composeWith("    env_file: ../.git/config\n")},
		{name: "a device", files: composeWith("    volumes: ['/dev/zero:/z']\n    devices: ['/dev/mem:/dev/mem']\n    env_file: /dev/zero\n")},
	}
	return list
}

func zeros(t *testing.T, name string, size int64) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(name)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rss is what this process holds, in bytes.
func rss(t *testing.T) int64 {
	t.Helper()
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var total, resident int64
	if _, err := fmt.Sscan(string(data), &total, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

// opened are system calls by which a process reaches out: a file that was opened, a connection.
var opened = regexp.MustCompile(`(?:open|openat|openat2|creat)\((?:AT_FDCWD, |\d+, )?"([^"]*)"[^=]*= (-?\d+)`)

// TestHostilePulls: whatever a pull request holds, its preview shows nothing that is not in the repository, opens
// nothing outside, connects to nothing, runs nothing, and costs the daemon no memory.
func TestHostilePulls(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("this test needs strace: %v", err)
	}
	dir := t.TempDir()
	hostFile := filepath.Join(dir, "host.env")
	if err := os.WriteFile(hostFile, []byte("CANARY="+canary+"-file\nservices: {web: {image: "+canary+"-file}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CANARY", canary+"-environment")
	w := follow(t, func(o *Options) {
		o.Settings.Secrets = map[string]protocol.Secret{"PW": protocol.Secret(canary + "-secret")}
		o.Settings.GitAccounts = []GitAccount{{Scheme: "http", Host: "127.0.0.1", Username: "bot", Token: canary + "-token"}}
	})
	base := w.git.Push(map[string]string{"a.toml": deployment("a", "[[PW]]"), "s.toml": stack("s"), "s/compose.yaml": composeFile})
	w.start()
	w.rep.applied(base)
	w.settledDown()
	ops := len(w.host.did())
	repo, err := w.mirrors.open(w.root.src.address(), "", false)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "varan") // the real one: it is what a stranger meets
	build := exec.Command("go", "build", "-o", program, "github.com/varanhq/varan/cmd/varan")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	before := rss(t)
	for i, h := range hostiles() {
		t.Run(h.name, func(t *testing.T) {
			for name, text := range h.files {
				h.files[name] = strings.ReplaceAll(text, "HOSTFILE", hostFile)
			}
			w.git.Git("checkout", "-q", "-B", "hostile", base)
			w.git.Git("clean", "-fdq")
			for name, target := range h.links {
				p := filepath.Join(w.git.Work, name)
				_ = os.Remove(p)
				if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.Symlink(strings.ReplaceAll(target, "HOSTFILE", strings.TrimPrefix(hostFile, "/")), p)); err != nil {
					t.Fatal(err)
				}
			}
			if h.other != nil {
				h.other(t, w.git.Work)
			}
			head := w.git.Commit(h.files)
			ref := fmt.Sprintf("refs/pull/%d/head", i+1)
			w.git.Git("push", "-q", "--force", w.git.Bare, head+":"+ref)
			run, trace := program, filepath.Join(t.TempDir(), "trace")
			if !h.plain {
				run = tracing(t, strace, trace, program)
			}
			p, err := w.root.previewOf(t.Context(), run, repo, Subject{Ref: ref, Commit: head}, nil, "", PreviewLimits())
			said := fmt.Sprint(err)
			if err == nil {
				data, err := json.Marshal(p)
				if err != nil {
					t.Fatal(err)
				}
				said = string(data)
				if text, err := p.Plan.JSON(); err != nil || strings.Contains(string(text), canary) {
					t.Errorf("the plan: %v %s", err, text)
				}
			}
			if strings.Contains(said, canary) {
				t.Errorf("it shows the canary: %.2000s", said)
			}
			if h.limit != errors.Is(err, sandbox.ErrKilled) && h.limit {
				t.Errorf("it ended with %v, want a limit", err)
			}
			if err != nil && !errors.Is(err, sandbox.ErrKilled) && !errors.Is(err, gitrepo.ErrTooBig) && !strings.Contains(said, "larger than") {
				t.Errorf("it ended with %v", err)
			}
			if h.want != "" && (err != nil || !strings.Contains(said, h.want) || !schema.Diagnostics(p.Plan.Diagnostics).HasErrors()) {
				t.Errorf("want %q in an error, got %.2000s", h.want, said)
			}
			if !h.plain {
				checkTrace(t, trace)
			}
		})
	}
	if n := len(w.host.did()); n != ops {
		t.Errorf("%d ops were done", n-ops)
	}
	limit := int64(128 << 20)
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		limit *= 8 // the race detector's own
	}
	if grown := rss(t) - before; grown > limit {
		t.Errorf("the daemon grew by %d MiB", grown>>20)
	}
}

// tracing is a program that runs this one under strace.
func tracing(t *testing.T, strace, trace, program string) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "traced")
	text := fmt.Sprintf("#!/bin/sh\nexec %s -f -q -s 300 -e trace=%%file,%%network,%%process -o %s -- %s \"$@\"\n", strace, trace, program)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Second); ; time.Sleep(10 * time.Millisecond) { // another process of this one may still hold it
		if err := exec.Command(script, "version").Run(); err == nil || time.Now().After(end) {
			return script
		}
	}
}

// checkTrace looks at what the child did once it was confined.
func checkTrace(t *testing.T, trace string) {
	t.Helper()
	data, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	i := strings.LastIndex(text, "chroot(")
	if i < 0 {
		t.Fatalf("it was not confined: %.2000s", text)
	}
	for _, line := range strings.Split(text[i:], "\n") {
		if m := opened.FindStringSubmatch(line); m != nil && !strings.HasPrefix(m[2], "-") {
			name, absolute := strings.CutPrefix(m[1], "/") // "/" is the private folder now
			if absolute && name != "" && !strings.HasPrefix(name, "git") && !strings.HasPrefix(name, "varan-compose-") {
				t.Errorf("it opened %s", line)
			}
		}
		for _, call := range []string{"connect(", "execve(", "sendto(", "bind(", "ptrace("} {
			if strings.Contains(line, call) && !strings.Contains(line, "= -1 EPERM") && !strings.Contains(line, "unfinished") {
				t.Errorf("it called %s", line)
			}
		}
	}
}

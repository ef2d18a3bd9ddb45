package compose

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

var update = flag.Bool("update", false, "rewrite golden files")

func tree(t testing.TB, files map[string]string) *Memory {
	t.Helper()
	m := NewMemory()
	for p, s := range files {
		link := ""
		if to, ok := strings.CutPrefix(s, "symlink:"); ok {
			s, link = "", to
		}
		if err := m.Add(p, []byte(s), false, link); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func stack(cfg schema.StackConfig) *schema.Resource {
	if cfg.EnvFilePath == "" {
		cfg.EnvFilePath = ".env"
	}
	return &schema.Resource{ID: "stack/app", Kind: schema.KindStack, Name: "app", Config: &cfg, Pos: schema.Pos{File: "stacks.toml", Line: 3, Column: 1}}
}

func kv(pairs ...string) (out []schema.KV) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, schema.KV{Key: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func declare(t testing.TB, cfg schema.StackConfig, files map[string]string) *plan.Declared {
	t.Helper()
	d, _ := Declare(context.Background(), Input{Resource: stack(cfg), Tree: tree(t, files), Known: map[string]bool{"PASS": true, "TOKEN": true}})
	return d
}

func mustDeclare(t testing.TB, cfg schema.StackConfig, files map[string]string) *plan.Declared {
	t.Helper()
	d := declare(t, cfg, files)
	for _, g := range d.Diagnostics {
		if g.Severity == schema.SeverityError {
			t.Fatalf("unexpected: %+v", g)
		}
	}
	if d.Unread != "" || d.Blocked != "" {
		t.Fatalf("unread %q, blocked %q", d.Unread, d.Blocked)
	}
	return d
}

// base is a stack with something of everything.
func base() (schema.StackConfig, map[string]string) {
	cfg := schema.StackConfig{RunDirectory: "apps/web", Environment: kv("TAG", "1.2", "DB_PASS", "[[PASS]]"),
		ConfigFiles: []schema.ConfigFile{
			{Path: "extra.conf", Services: []string{"web"}, Requires: "Restart"},
			{Path: "none.conf", Requires: "None"},
		}}
	files := map[string]string{
		"apps/web/compose.yaml": `
name: ignored
services:
  web:
    image: nginx:${TAG}
    ports: ["8080:80", "127.0.0.1:53:53/udp"]
    environment:
      A: "1"
      PASS: ${DB_PASS}
    volumes:
      - ./conf:/etc/nginx/conf.d:ro
      - ./one.txt:/one.txt
      - data:/data
      - ./state:/state
    depends_on: [db]
    networks: [front]
    configs: [site]
    restart: unless-stopped
  db:
    image: postgres:16
    env_file: [db.env]
    labels: {role: db}
    networks: [front]
    secrets: [cert]
  job:
    image: busybox
    command: ["true"]
    network_mode: none
networks:
  front: {driver: bridge}
volumes:
  data: {}
configs:
  site: {file: ./site.conf}
secrets:
  cert: {file: ../../shared/cert.pem}
`,
		"apps/web/conf/a.conf": "a", "apps/web/conf/b.conf": "b", "apps/web/one.txt": "one",
		"apps/web/db.env": "POSTGRES_DB=app\n", "apps/web/site.conf": "site", "shared/cert.pem": "cert",
		"apps/web/extra.conf": "extra", "apps/web/none.conf": "none", "README.md": "hi",
	}
	return cfg, files
}

func digests(d *plan.Declared) map[string]plan.Digest {
	out := map[string]plan.Digest{}
	for _, u := range d.Units {
		out[u.Service] = u.Digest
	}
	return out
}

func TestDeclare(t *testing.T) {
	cfg, files := base()
	d, reads := Declare(context.Background(), Input{Resource: stack(cfg), Tree: tree(t, files), Known: map[string]bool{"PASS": true}})
	d.Diagnostics = append([]schema.Diagnostic{}, d.Diagnostics...)
	got, err := json.MarshalIndent(map[string]any{"declared": d, "reads": reads}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "declare.json", got)
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(want)), string(got)); diff != "" {
		t.Errorf("%s (-want +got; a changed digest recreates every container):\n%s", file, diff)
	}
}

// Each kind of change touches exactly the services it concerns.
func TestWhatAChangeTouches(t *testing.T) {
	sub := func(file, from, to string) func(*schema.StackConfig, map[string]string) {
		return func(_ *schema.StackConfig, f map[string]string) {
			if !strings.Contains(f[file], from) {
				panic("no " + from)
			}
			f[file] = strings.Replace(f[file], from, to, 1)
		}
	}
	const c = "apps/web/compose.yaml"
	cases := map[string]struct {
		change func(*schema.StackConfig, map[string]string)
		want   []string
	}{
		"nothing":             {func(*schema.StackConfig, map[string]string) {}, nil},
		"comment":             {sub(c, "services:", "# hello\nservices:"), nil},
		"key order":           {sub(c, "    image: postgres:16\n    env_file: [db.env]\n", "    env_file: [db.env]\n    image: postgres:16\n"), nil},
		"list or map":         {sub(c, "labels: {role: db}", "labels: [role=db]"), nil},
		"unrelated file":      {sub("README.md", "hi", "ho"), nil},
		"depends_on":          {sub(c, "    depends_on: [db]\n", ""), nil},
		"image":               {sub(c, "postgres:16", "postgres:17"), []string{"db"}},
		"environment of web":  {sub(c, `A: "1"`, `A: "2"`), []string{"web"}},
		"env file of db":      {sub("apps/web/db.env", "app", "app2"), []string{"db"}},
		"variable":            {func(cfg *schema.StackConfig, _ map[string]string) { cfg.Environment[0].Value = "1.3" }, []string{"web"}},
		"emptied environment": {func(cfg *schema.StackConfig, _ map[string]string) { cfg.Environment = nil }, []string{"web"}},
		"file in mounted dir": {sub("apps/web/conf/b.conf", "b", "c"), []string{"web"}},
		"new file in dir":     {func(_ *schema.StackConfig, f map[string]string) { f["apps/web/conf/c.conf"] = "c" }, []string{"web"}},
		"mounted file":        {sub("apps/web/one.txt", "one", "two"), []string{"web"}},
		"compose config":      {sub("apps/web/site.conf", "site", "sites"), []string{"web"}},
		"compose secret":      {sub("shared/cert.pem", "cert", "certs"), []string{"db"}},
		"tracked for web":     {sub("apps/web/extra.conf", "extra", "more"), []string{"web"}},
		"tracked, None":       {sub("apps/web/none.conf", "none", "more"), nil},
		"label":               {sub(c, "role: db", "role: primary"), []string{"db"}},
		"network definition":  {sub(c, "driver: bridge", "driver: bridge, internal: true"), []string{"db", "web"}},
		"volume definition":   {sub(c, "data: {}", "data: {driver: local, driver_opts: {type: tmpfs, device: tmpfs}}"), []string{"web"}},
		"second compose file": {func(cfg *schema.StackConfig, f map[string]string) {
			cfg.FilePaths = []string{"compose.yaml", "prod.yaml"}
			f["apps/web/prod.yaml"] = "services: {db: {mem_limit: 1g}}"
		}, []string{"db"}},
		"scale": {sub(c, "    restart: unless-stopped", "    restart: unless-stopped\n    scale: 2"), nil},
	}
	cfg, files := base()
	before := digests(mustDeclare(t, cfg, files))
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cfg, files := base()
			tc.change(&cfg, files)
			after := digests(mustDeclare(t, cfg, files))
			var got []string
			for s, d := range after {
				if before[s] != d {
					got = append(got, s)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("changed services (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInline(t *testing.T) {
	cfg := schema.StackConfig{FileContents: `
services:
  app:
    image: app:1
    environment:
      PASS: [[PASS]]
      URL: http://user:[[TOKEN]]@host/${DB}
    env_file: .env
`, Environment: kv("DB", "\"[[TOKEN]]x\"")}
	d := mustDeclare(t, cfg, nil)
	u := d.Units[0]
	for _, want := range []string{`"PASS":"[[PASS]]"`, `"URL":"http://user:[[TOKEN]]@host/[[TOKEN]]x"`, `"DB":"[[TOKEN]]x"`} {
		if !strings.Contains(string(u.Spec), want) {
			t.Errorf("spec lacks %s:\n%s", want, u.Spec)
		}
	}
	if diff := cmp.Diff([]string{"PASS", "TOKEN"}, u.Secrets); diff != "" {
		t.Error(diff)
	}
	if len(d.Paths) != 0 {
		t.Errorf("paths %v", d.Paths)
	}
	cfg.FileContents = strings.ReplaceAll(cfg.FileContents, "[[PASS]]", "[[NOPE]]")
	d = declare(t, cfg, nil)
	if len(d.Missing) != 1 || d.Missing[0].Name != "NOPE" {
		t.Errorf("missing %v", d.Missing)
	}
}

func TestExtendsAndInclude(t *testing.T) {
	files := map[string]string{
		"app/compose.yaml": `
include: [../more/inc.yaml]
services:
  web:
    extends: {file: ../common/base.yaml, service: base}
    environment: {X: "1"}
`,
		"common/base.yaml": "services: {base: {image: 'base:${V:-1}', volumes: ['./d:/d'], env_file: [b.env]}}",
		"common/b.env":     "FROM=base\n",
		"common/d/f":       "f",
		"more/inc.yaml":    "services: {side: {image: 'side:${V}', volumes: ['./s:/s']}}",
		"more/.env":        "V=7\n",
		"more/s/f":         "f",
	}
	d := mustDeclare(t, schema.StackConfig{RunDirectory: "app"}, files)
	want := []string{"app/compose.yaml", "common/b.env", "common/base.yaml", "common/d/f", "more/.env", "more/inc.yaml", "more/s/f"}
	if diff := cmp.Diff(want, d.Paths); diff != "" {
		t.Error(diff)
	}
	if d.Units[0].Image != "side:7" || d.Units[1].Image != "base:1" {
		t.Errorf("images %s, %s", d.Units[0].Image, d.Units[1].Image)
	}
	for _, u := range d.Units {
		if strings.Contains(string(u.Spec), os.TempDir()) || strings.Contains(string(u.Spec), "varan-") {
			t.Errorf("a path of this host in %s", u.Spec)
		}
	}
	if !strings.Contains(string(d.Units[1].Spec), `"FROM":"base"`) {
		t.Errorf("extended env_file is lost: %s", d.Units[1].Spec)
	}
}

func TestMistakes(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'j'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 10))
	}
	doubling := "A=xxxxxxxxxxxxxxxx\n"
	for i := range 40 {
		doubling += fmt.Sprintf("B%d=${%s}${%s}\n", i, map[bool]string{true: "A", false: fmt.Sprintf("B%d", i-1)}[i == 0], map[bool]string{true: "A", false: fmt.Sprintf("B%d", i-1)}[i == 0])
	}
	web := "services: {web: {image: a%s}}"
	cases := map[string]struct {
		cfg   schema.StackConfig
		files map[string]string
		want  string // file:line: part of message
	}{
		"no file":           {want: "stacks.toml:3: no compose.yaml"},
		"unknown key":       {files: map[string]string{"compose.yaml": "services:\n  web:\n    image: a\n    imaeg: b\n"}, want: "compose.yaml:"},
		"yaml":              {files: map[string]string{"compose.yaml": "services:\n  web: [\n"}, want: "compose.yaml:"},
		"no image":          {files: map[string]string{"compose.yaml": "services:\n  web:\n    command: x\n"}, want: "compose.yaml:2: "},
		"bomb":              {files: map[string]string{"compose.yaml": bomb}, want: "compose.yaml:"},
		"deep":              {files: map[string]string{"compose.yaml": strings.Repeat("[", 5000)}, want: "compose.yaml:"},
		"large":             {files: map[string]string{"compose.yaml": strings.Repeat("#", 2<<20)}, want: "stacks.toml:3: compose file compose.yaml is larger"},
		"doubling":          {files: map[string]string{"compose.yaml": fmt.Sprintf(web, ""), ".env": doubling}, want: ".env:0: env file .env: its variables grow"},
		"symlink out":       {files: map[string]string{"compose.yaml": "symlink:../../etc/passwd"}, want: "stacks.toml:3: "},
		"absolute symlink":  {cfg: schema.StackConfig{FilePaths: []string{"compose.yaml"}}, files: map[string]string{"compose.yaml": "symlink:/etc/passwd"}, want: "stacks.toml:3: "},
		"include out":       {files: map[string]string{"compose.yaml": "include: [../../etc/passwd]\n"}, want: "compose.yaml:1: included file ../../etc/passwd lies outside"},
		"include variable":  {files: map[string]string{"compose.yaml": "include: ['${X:-/etc/passwd}']\n"}, want: "compose.yaml:1: included file /etc/passwd lies outside"},
		"include remote":    {files: map[string]string{"compose.yaml": "include: ['https://x.example/c.yaml']\n"}, want: "is remote"},
		"include env":       {files: map[string]string{"compose.yaml": "include: [{path: a.yaml, env_file: /proc/self/environ}]\n", "a.yaml": fmt.Sprintf(web, "")}, want: "env_file /proc/self/environ lies outside"},
		"extends out":       {files: map[string]string{"compose.yaml": "services: {web: {extends: {file: /etc/passwd, service: x}}}"}, want: "extended file /etc/passwd lies outside"},
		"extends by alias":  {files: map[string]string{"compose.yaml": "x-a: &a {extends: {file: ../x, service: x}}\nservices: {web: {<<: *a}}"}, want: "extended file ../x lies outside"},
		"run_directory":     {cfg: schema.StackConfig{RunDirectory: "../x"}, want: "run_directory ../x lies outside"},
		"file_paths":        {cfg: schema.StackConfig{FilePaths: []string{"/etc/passwd"}}, want: "compose file /etc/passwd lies outside"},
		"env_file relative": {files: map[string]string{"compose.yaml": fmt.Sprintf(web, ", env_file: ../x.env")}, want: "env_file ../x.env lies outside"},
		"additional env":    {cfg: schema.StackConfig{AdditionalEnvFiles: []schema.EnvFile{{Path: "a.env"}}}, files: map[string]string{"compose.yaml": fmt.Sprintf(web, "")}, want: "env file a.env does not exist"},
		"config file":       {cfg: schema.StackConfig{ConfigFiles: []schema.ConfigFile{{Path: "a"}}}, files: map[string]string{"compose.yaml": fmt.Sprintf(web, "")}, want: "config file a does not exist"},
		"provider":          {files: map[string]string{"compose.yaml": "services: {web: {provider: {type: x}}}"}, want: "a program varan does not run"},
		"include self":      {files: map[string]string{"compose.yaml": "include: [compose.yaml]\n"}, want: "includes itself"},
		"undefined network": {files: map[string]string{"compose.yaml": "services:\n  web:\n    image: a\n    networks: [nope]\n"}, want: "compose.yaml:2: "},
		"required variable": {files: map[string]string{"compose.yaml": "services: {web: {image: '${IMG:?set it}'}}"}, want: "set it"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := declare(t, tc.cfg, tc.files)
			var all []string
			for _, g := range d.Diagnostics {
				all = append(all, fmt.Sprintf("%s:%d: %s", g.File, g.Line, g.Message))
			}
			if !strings.Contains(strings.Join(all, "\n"), tc.want) || len(all) == 0 || len(d.Units) != 0 {
				t.Errorf("got %q, %d units; want %q", all, len(d.Units), tc.want)
			}
		})
	}
}

// What lies on the host is never opened by the daemon; the plan knows that it is needed.
func TestHostFiles(t *testing.T) {
	d := mustDeclare(t, schema.StackConfig{}, map[string]string{"compose.yaml": `
services:
  web:
    image: a
    env_file: [/etc/passwd, local.env]
    volumes: ["/etc/passwd:/p:ro", "/var/run/docker.sock:/s", "./data:/data", "../up:/up"]
    privileged: true
    network_mode: host
`})
	u := d.Units[0]
	if diff := cmp.Diff([]string{"/etc/passwd", "local.env"}, u.HostFiles); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(string(u.Spec), "root:") {
		t.Error("a host file was read")
	}
	var what []string
	for _, p := range d.Privileges {
		what = append(what, p.What)
	}
	if diff := cmp.Diff([]string{"docker socket", "privileged", "host network"}, what); diff != "" {
		t.Error(diff)
	}
	if d := declare(t, schema.StackConfig{FilesOnHost: true}, nil); d.Unread == "" {
		t.Error("files_on_host was read")
	}
}

// No variable of this process reaches a declaration.
func TestProcessEnvironmentIsNotSeen(t *testing.T) {
	t.Setenv("CANARY", "canary-value")
	d := mustDeclare(t, schema.StackConfig{}, map[string]string{"compose.yaml": "services: {web: {image: 'a:${CANARY:-none}', environment: [CANARY, HOME]}}"})
	if s := string(d.Units[0].Spec); strings.Contains(s, "canary") || strings.Contains(s, os.Getenv("HOME")) && os.Getenv("HOME") != "/" && strings.Contains(s, `"HOME":"`) {
		t.Errorf("spec %s", s)
	}
}

func TestFolderEqualsMemory(t *testing.T) {
	_, files := base()
	dir := t.TempDir()
	for p, s := range files {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, m := NewFolder(root), tree(t, files)
	for _, p := range []string{".", "apps", "apps/web/conf", "apps/web/one.txt"} {
		a, err := f.Lookup(p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := m.Lookup(p)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, a); diff != "" {
			t.Errorf("%s (-memory +folder):\n%s", p, diff)
		}
	}
	list := func(tr Tree) (out []Entry) {
		if err := tr.Walk(".", func(e Entry) error { out = append(out, e); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if diff := cmp.Diff(list(m), list(f)); diff != "" {
		t.Error(diff)
	}
}

func w1(n int) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range n {
		fmt.Fprintf(&b, "  s%02d:\n    image: busybox\n    stop_signal: SIGKILL\n    environment: {K: x}\n", i)
	}
	return b.String()
}

func BenchmarkDeclare50(b *testing.B) {
	files := tree(b, map[string]string{"compose.yaml": w1(50)})
	r := stack(schema.StackConfig{})
	b.ReportAllocs()
	for b.Loop() {
		if d, _ := Declare(context.Background(), Input{Resource: r, Tree: files}); len(d.Units) != 50 {
			b.Fatal(d.Diagnostics)
		}
	}
}

func BenchmarkLoad50(b *testing.B) {
	files := tree(b, map[string]string{"compose.yaml": w1(50)})
	r := stack(schema.StackConfig{})
	b.ReportAllocs()
	for b.Loop() {
		if p, err := Load(context.Background(), Input{Resource: r, Tree: files}, Host{Dir: "/stack"}); err != nil || len(p.Services) != 50 {
			b.Fatal(err)
		}
	}
}

func FuzzCompose(f *testing.F) {
	f.Add("services: {web: {image: a}}")
	f.Add("include: [x]\nservices: {web: {extends: {file: x, service: y}, env_file: [.env]}}")
	f.Add("x: &a [*a]\nservices: {web: {<<: *a}}")
	f.Add("\"0\r\r")
	breaks := strings.NewReplacer("\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n") // what YAML counts as the end of a line
	f.Fuzz(func(t *testing.T, text string) {
		m := NewMemory()
		_ = m.Add("compose.yaml", []byte(text), false, "")
		_ = m.Add(".env", []byte("A=1\n"), false, "")
		d, _ := Declare(context.Background(), Input{Resource: stack(schema.StackConfig{}), Tree: m})
		for _, g := range d.Diagnostics {
			if lines := strings.Count(breaks.Replace(text), "\n") + 1; g.File == "compose.yaml" && g.Line > lines+1 {
				t.Errorf("line %d of %d: %s", g.Line, lines, g.Message)
			}
		}
	})
}

func FuzzEnvFile(f *testing.F) {
	f.Add("A=1\nB=${A}$A\nC=\"x\ny\"\n")
	f.Add("A='\nB=\"${")
	f.Fuzz(func(t *testing.T, text string) {
		vars, err := envFile([]byte(text), map[string]string{"X": "1"})
		if err != nil {
			return
		}
		n := 0
		for _, v := range vars {
			n += len(v)
		}
		if n > maxExpanded+len(text) {
			t.Errorf("grew to %d bytes", n)
		}
	})
}

// The variables of an inline stack's additional env files are the host's: the daemon knows that it cannot tell.
func TestInlineAdditionalEnv(t *testing.T) {
	cfg := schema.StackConfig{FileContents: "services: {web: {image: 'a:${TAG}'}}", AdditionalEnvFiles: []schema.EnvFile{{Path: "host.env"}}}
	if d := declare(t, cfg, nil); !strings.Contains(d.Unread, "host.env") || len(d.Diagnostics) > 0 {
		t.Errorf("unread %q, %v", d.Unread, d.Diagnostics)
	}
	read := func(abs string) ([]byte, bool, error) { return []byte("TAG=7\n"), abs == "/srv/app/host.env", nil }
	p, err := Load(context.Background(), Input{Resource: stack(cfg)}, Host{Dir: "/srv/app", Read: read})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Services["web"].Image; got != "a:7" {
		t.Errorf("image %s", got)
	}
}

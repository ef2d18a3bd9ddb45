package settings

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var where = Where{Home: "/home/u"}

func load(t *testing.T, text string, values map[string]Override) (*Settings, []string) {
	t.Helper()
	s, diags := Load(Input{Where: where, File: "varan.toml", Data: []byte(text), Values: values})
	var got []string
	for _, d := range diags {
		got = append(got, fmt.Sprintf("%s:%d:%d: %s: %s | %s", d.File, d.Line, d.Column, d.Severity, d.Message, d.Hint))
	}
	return s, got
}

const full = `
name     = "prod"
data_dir = "/var/lib/varan"
listen   = "127.0.0.1:8080"
public_url = ""
compat   = "komodo"
allow_internal = true
allow_http = true
behind_proxy = true
trusted_proxies = ["10.0.0.0/8", "::1"]
tls_cert_file = ""
tls_key_file = ""
[hub]
listen   = ""
key_file = "/etc/varan/hub.key"
url      = ""
[agent]
root = "/var/lib/varan-agent"
[config]
url = "https://github.com/acme/infra.git"
branch = "main"
path = ["."]
poll = "1m"
apply = "auto"
delete = false
[[git_provider]]
domain = "github.com"
accounts = [{ username = "bot", token = "t0ps3cret" }]
[[git_providers]]
domain = "git.example.com"
accounts = [{ username = "bot", ssh_key_file = "/k" }]
[[docker_registry]]
domain = "ghcr.io"
accounts = [{ username = "bot", token_file = "/t" }]
[[image_registry]]
domain = "quay.io"
[secrets]
DB_PASSWORD = { file = "/x" }
API = "s3cret"
[[token]]
name = "ci"
role = "read"
hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
`

func TestLoad(t *testing.T) {
	s, diags := load(t, full, map[string]Override{
		"config.poll": {"5s", "VARAN_CONFIG_POLL"}, "secrets.MORE": {"m", "VARAN_SECRETS_MORE"}, "config.path": {"a, b", "--path"},
	})
	if len(diags) > 0 {
		t.Fatalf("diagnostics: %q", diags)
	}
	if s.Config.Poll != Duration(5*time.Second) || s.Config.Drift != "report" || fmt.Sprint(s.Config.Path) != "[a b]" {
		t.Errorf("config = %+v", s.Config)
	}
	if len(s.GitProvider) != 2 || len(s.DockerRegistry) != 2 {
		t.Errorf("providers: %d git, %d registries, want 2 and 2", len(s.GitProvider), len(s.DockerRegistry))
	}
	if s.Secrets["API"].Secret.Reveal() != "s3cret" || s.Secrets["DB_PASSWORD"].File != "/x" || s.Secrets["MORE"].Secret.Reveal() != "m" {
		t.Errorf("secrets not read")
	}
	if out := fmt.Sprintf("%v %+v %#v", *s, s.Secrets["API"], s.Secrets["API"].Secret); strings.Contains(out, "s3cret") {
		t.Errorf("a secret printed: %s", out)
	}
	d := Defaults(where)
	if d.DataDir != "/home/u/.local/share/varan" || where.File() != "/home/u/.config/varan/varan.toml" || (Where{Root: true}).File() != "/etc/varan/varan.toml" {
		t.Errorf("folders: %q %q", d.DataDir, where.File())
	}
}

func TestMistakes(t *testing.T) {
	tests := []struct{ name, toml, want string }{
		{"unknown key", "name = \"a\"\nlistn = \"x\"\n", `varan.toml:2:1: error: unknown key "listn" | did you mean "listen"?`},
		{"unknown below", "[config]\nbranh = \"x\"\n", `varan.toml:2:1: error: unknown key "branh" in [config] | did you mean "branch"?`},
		{"in a list", "[[git_provider]]\ndomain = \"a\"\naccounts = [{ usrname = \"x\" }]\n", `varan.toml:3:15: error: unknown key "usrname" in [git_provider.accounts] | did you mean "username"?`},
		{"elsewhere", "poll = \"1s\"\n", `varan.toml:1:1: error: unknown key "poll" | "poll" stands in [config]`},
		{"wrong word", "[config]\napply = \"yes\"\n", `varan.toml:2:1: error: apply is "yes"; it can be "auto" or "manual" | `},
		{"root in data", "data_dir = \"/d\"\n[agent]\nroot = \"/d/a\"\n", `varan.toml:3:1: error: agent.root must not lie inside data_dir: deleting data_dir must lose no stack's files | `},
		{"open http", "listen = \":80\"\n", `varan.toml:1:1: error: plain HTTP beyond loopback needs tls_cert_file, or behind_proxy = true where a proxy adds TLS | `},
		{"password for a cluster", "[hub]\nurl = \"tls://u:hush@nats1:4222\"\n", `varan.toml:2:1: error: hub.url holds a user or password: `},
		{"no cluster's address", "[hub]\nurl = \"tls://nats1:4222,nats2\"\n", `varan.toml:2:1: error: hub.url is nats://HOST:PORT or tls://HOST:PORT`},
		{"cluster and listen", "[hub]\nlisten = \":8443\"\nurl = \"tls://nats1:4222\"\n", `varan.toml:2:1: warning: hub.listen is not used with hub.url`},
		{"secret", "[secrets]\nA = 3\n", `varan.toml:2:`},
		{"broken", "name = \n", `varan.toml:1:`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, got := load(t, tt.toml, nil)
			if len(got) != 1 || !strings.HasPrefix(got[0], tt.want) {
				t.Errorf("got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	got := Environment([]string{"VARAN_LISTEN=:1", "VARAN_CONFIG_POLL=2s", "VARAN_SECRETS_A=b=c", "VARAN_TOKEN=x", "PATH=/"})
	if len(got) != 3 || got["listen"].Text != ":1" || got["secrets.A"].Text != "b=c" || got["config.poll"].From != "VARAN_CONFIG_POLL" {
		t.Errorf("got %v", got)
	}
}

func TestWatcher(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, age time.Duration) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if age > 0 {
			when := time.Now().Add(-age)
			if err := os.Chtimes(p, when, when); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("varan.toml", "[secrets]\nA = { file = \"a\" }\n", 0)
	write("a", "one\n", time.Minute)
	changed := make(chan string, 8)
	w := &Watcher{Input: Input{Where: where}, Path: filepath.Join(dir, "varan.toml"), Log: slog.New(slog.DiscardHandler),
		Changed: func(s *Settings) {
			v := s.Secrets["A"].Secret.Reveal()
			if s.Secrets["B"] != nil {
				v += "+B"
			}
			changed <- v
		}}
	s, diags, err := w.Read(t.Context())
	if err != nil || len(diags) > 0 || s.Secrets["A"].Secret.Reveal() != "one" {
		t.Fatalf("read: %v %v", diags, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	defer func() { stop(); <-done }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("never: %s", what)
			}
		}
	}
	time.Sleep(50 * time.Millisecond) // the watch is set by Run; an earlier write would be found 30 s later

	write("a", "two\n", 0)
	if got := <-changed; got != "two" {
		t.Errorf("after a change: %q", got)
	}
	write("a", "", 0)
	until("a problem", func() bool { return len(w.Problems()) == 1 && w.Problems()[0].Kept })
	write("varan.toml", "[secrets]\nA = { file = \"a\" }\nB = \"b\"\n", 0)
	for got := range changed {
		if got == "two+B" {
			break
		}
	}
	write("varan.toml", "[secrets\n", 0)
	until("a broken file is told", func() bool {
		for _, p := range w.Problems() {
			if p.Key == "varan.toml" && p.Kept {
				return true
			}
		}
		return false
	})
}

// TestDocs: every key stands in docs/configuration.md, and its example loads as it stands but for the hash.
func TestDocs(t *testing.T) {
	data, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for table, keys := range knownKeys() {
		for _, k := range keys {
			if !strings.Contains(text, k) {
				t.Errorf("docs/configuration.md does not tell of %s.%s", table, k)
			}
		}
	}
	_, example, _ := strings.Cut(text, "```toml\n")
	example, _, _ = strings.Cut(example, "```")
	_, diags := load(t, strings.ReplaceAll(example, `"…"`, `"`+strings.Repeat("0", 64)+`"`), nil)
	for _, d := range diags {
		if !strings.Contains(d, "not carried out by this version") {
			t.Error(d)
		}
	}
}

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// app is a stack in which every service stands for one way of being changed.
func app(w *world) map[string]string {
	const sleep = `
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
`
	return map[string]string{
		"stacks.toml": `
[[stack]]
name = "ID"
description = "every way of being changed"
tags = ["e2e"]
[stack.config]
run_directory = "app"
file_paths = ["compose.yaml", "compose.extra.yaml"]
environment = """
COLOUR = blue
"""
settle = "0s"
`,
		"app/compose.yaml": `# a comment
services:
  inline:` + sleep + `    environment:
      A: "1"
      K: x
  envfile:` + sleep + `    env_file: [service.env]
  folder:` + sleep + `    volumes: ["./conf:/conf:ro"]
  single:` + sleep + `    volumes: ["./single.conf:/single.conf:ro"]
  hostfile:` + sleep + `    env_file: ["` + filepath.Join(w.dir, "host.env") + `"]
  config:` + sleep + `    configs: [app_conf]
  content:` + sleep + `    configs: [text_conf]
  secret:` + sleep + `    secrets: [app_secret]
  label:` + sleep + `    labels: { role: "one" }
  volume:` + sleep + `    volumes: ["data:/data"]
  network:` + sleep + `    networks: [special]
  interp:` + sleep + `    environment: { COLOUR: "${COLOUR}" }
  tunnel:` + sleep + `    labels: { exit: "one" }
  behind:` + sleep + `    network_mode: "service:tunnel"
  beside:` + sleep + `    depends_on: { tunnel: { condition: service_started, restart: true } }
configs:
  app_conf: { file: ./app.conf }
  text_conf: { content: "one" }
secrets:
  app_secret: { file: ./secret.txt }
volumes:
  data: {}
networks:
  special: { labels: { purpose: "one" } }
`,
		"app/compose.extra.yaml": `services:
  label:
    environment: { EXTRA: "1" }
`,
		"app/service.env":     "X=1\n",
		"app/conf/app.conf":   "one\n",
		"app/conf/other.conf": "one\n",
		"app/single.conf":     "one\n",
		"app/app.conf":        "one\n",
		"app/secret.txt":      "hunter2\n",
		"unrelated/notes.md":  "one\n",
	}
}

// TestChanges: each kind of change touches exactly the services it concerns, and then there is nothing to do.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	host := filepath.Join(w.dir, "host.env")
	if err := os.WriteFile(host, []byte("H=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.write(app(w))
	w.apply()
	if n := len(w.containers(false)); n != 15 {
		t.Fatalf("%d containers run, want 15", n)
	}
	w.nothingToDo()

	cases := []struct {
		name   string
		change func()
		want   []string // services
		fails  bool     // the plan must be refused
	}{
		{name: "nothing", change: func() {}},
		{name: "unrelated file", change: func() { w.write(map[string]string{"unrelated/notes.md": "two\n"}) }},
		{name: "description", change: func() { w.replace("stacks.toml", "every way", "each way") }},
		{name: "tag", change: func() { w.replace("stacks.toml", `["e2e"]`, `["e2e", "more"]`) }},
		{name: "comment", change: func() { w.replace("app/compose.yaml", "# a comment", "# another comment") }},
		{name: "key order", change: func() {
			w.replace("app/compose.yaml", "      A: \"1\"\n      K: x\n", "      K: x\n      A: \"1\"\n")
		}},
		{name: "image", change: func() {
			w.replace("app/compose.yaml", "inline:\n    image: varan-e2e:1", "inline:\n    image: varan-e2e:2")
		}, want: []string{"inline"}},
		{name: "environment", change: func() { w.replace("app/compose.yaml", "K: x", "K: y") }, want: []string{"inline"}},
		{name: "interpolated variable", change: func() { w.replace("stacks.toml", "COLOUR = blue", "COLOUR = green") }, want: []string{"interp"}},
		{name: "env file", change: func() { w.write(map[string]string{"app/service.env": "X=2\n"}) }, want: []string{"envfile"}},
		{name: "emptied env file", change: func() { w.write(map[string]string{"app/service.env": ""}) }, want: []string{"envfile"}},
		{name: "mounted folder", change: func() { w.write(map[string]string{"app/conf/app.conf": "two\n"}) }, want: []string{"folder"}},
		{name: "file gone from mounted folder", change: func() { w.write(map[string]string{"app/conf/other.conf": "REMOVE"}) }, want: []string{"folder"}},
		{name: "mounted single file", change: func() { w.write(map[string]string{"app/single.conf": "two\n"}) }, want: []string{"single"}},
		{name: "host file", change: func() {
			if err := os.WriteFile(host, []byte("H=2\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, want: []string{"hostfile"}},
		{name: "compose config", change: func() { w.write(map[string]string{"app/app.conf": "two\n"}) }, want: []string{"config"}},
		{name: "compose config content", change: func() { w.replace("app/compose.yaml", `content: "one"`, `content: "two"`) }, want: []string{"content"}},
		{name: "compose secret", change: func() { w.write(map[string]string{"app/secret.txt": "hunter3\n"}) }, want: []string{"secret"}},
		{name: "second compose file", change: func() { w.replace("app/compose.extra.yaml", `EXTRA: "1"`, `EXTRA: "2"`) }, want: []string{"label"}},
		{name: "label", change: func() { w.replace("app/compose.yaml", `role: "one"`, `role: "two"`) }, want: []string{"label"}},
		{name: "network", change: func() { w.replace("app/compose.yaml", `purpose: "one"`, `purpose: "two"`) }, want: []string{"network"}},
		{name: "service whose network another shares", change: func() { w.replace("app/compose.yaml", `exit: "one"`, `exit: "two"`) }, want: []string{"beside", "behind", "tunnel"}},
		{name: "service that shares a network", change: func() {
			w.replace("app/compose.yaml", `network_mode: "service:tunnel"`, "network_mode: \"service:tunnel\"\n    labels: { a: b }")
		}, want: []string{"behind"}},
		{name: "volume definition", change: func() { w.replace("app/compose.yaml", "data: {}", `data: { labels: { a: "b" } }`) }, fails: true},
		{name: "volume definition back", change: func() { w.replace("app/compose.yaml", `data: { labels: { a: "b" } }`, "data: {}") }},
		{name: "service added", change: func() {
			w.replace("app/compose.yaml", "\nconfigs:\n", "\n  added:\n    image: varan-e2e:1\n    command: sleep 2147483647\n    stop_signal: SIGKILL\nconfigs:\n")
		}, want: []string{"added"}},
		{name: "service removed", change: func() {
			w.replace("app/compose.yaml", "\n  added:\n    image: varan-e2e:1\n    command: sleep 2147483647\n    stop_signal: SIGKILL\nconfigs:\n", "\nconfigs:\n")
		}, want: []string{"added"}},
	}
	for _, c := range cases {
		ok := t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			before := w.snapshot()
			c.change()
			if c.fails {
				if r := w.varan("apply", "--yes", w.repo); r.exit != 1 {
					t.Errorf("varan apply: exit %d, want 1\n%s%s", r.exit, r.stdout, r.stderr)
				}
			} else {
				w.apply()
			}
			var services []string
			for _, name := range w.touched(before) {
				service := strings.TrimSuffix(strings.TrimPrefix(name[1:], "ID-"), "-1")
				services = append(services, service)
			}
			if !slices.Equal(services, c.want) {
				t.Errorf("touched %v, want %v", services, c.want)
			}
			if !c.fails {
				w.nothingToDo()
			}
		})
		if !ok {
			break // what follows builds on this state
		}
	}
}

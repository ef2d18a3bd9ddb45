package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/varanhq/varan/plan"
)

// shop is a project as people have them: data in a folder beside the file, a named volume, env files, a health
// check, an order, a port, two networks and a job that ends.
const shop = `services:
  db:
    image: varan-e2e:1
    command: ["sh", "-c", "echo $$DB_NAME > /data/name; exec sleep 2147483647"]
    stop_signal: SIGKILL
    restart: unless-stopped
    env_file: [db.env]
    environment:
      PASSWORD: ${DB_PASSWORD}
    volumes: ["./data:/data", "store:/store"]
    networks: [back]
    healthcheck:
      test: ["CMD", "test", "-f", "/data/name"]
      interval: 1s
      retries: 10
  migrate:
    image: varan-e2e:1
    command: "true"
    restart: "no"
    depends_on: { db: { condition: service_healthy } }
    networks: [back]
  web:
    image: varan-e2e:1
    command: sleep 2147483647
    stop_signal: SIGKILL
    restart: always
    depends_on: { db: { condition: service_healthy }, migrate: { condition: service_completed_successfully } }
    environment: [COLOUR=blue]
    ports: ["127.0.0.1:PORT:80"]
    volumes: ["./conf/app.conf:/app.conf:ro"]
    networks: { back: {}, front: { aliases: [shop] } }
    labels: { role: web }
    extra_hosts: ["upstream:10.0.0.1"]
    cap_add: [NET_ADMIN]
    mem_limit: 64m
    logging: { driver: json-file, options: { max-size: 1m } }
volumes:
  store: {}
networks:
  back: {}
  front: {}
`

// freePort is one that no listener with port 0 and no connection gets while the test's own is down: it lies below the
// range the kernel takes those from.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		if l, err := net.Listen("tcp", ":"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// actions are the plan's steps that are not none, by resource without the world's id.
func (w *world) actions(p *plan.Plan) map[string]plan.Action {
	out := map[string]plan.Action{}
	for _, s := range p.Steps {
		if s.Action != plan.None {
			out[strings.ReplaceAll(string(s.Resource), w.id, "ID")] = s.Action
		}
	}
	return out
}

func (w *world) wantActions(want map[string]plan.Action) *plan.Plan {
	w.t.Helper()
	p := w.plan()
	if got := w.actions(p); !maps.Equal(got, want) {
		w.t.Fatalf("plan %v, want %v\n%s", got, want, w.inFull(p))
	}
	return p
}

// inFull is a plan in full, for failure messages.
func (w *world) inFull(p *plan.Plan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%s %s because %v, services %v, changes %v\n", s.Action, s.Resource, s.Causes, s.Services, s.Changes)
	}
	for _, d := range p.Diagnostics {
		fmt.Fprintf(&b, "%s:%d: %s (%s)\n", d.Pos.File, d.Pos.Line, d.Message, d.Hint)
	}
	return b.String()
}

// forget is amnesia: the daemon's data directory and the agent's ledger are gone.
func (w *world) forget() {
	w.t.Helper()
	for _, dir := range []string{w.data, filepath.Join(w.root, "ledger")} {
		if err := os.RemoveAll(dir); err != nil {
			w.t.Fatal(err)
		}
	}
}

// allIDs maps each container's name to its id, stopped ones included.
func (w *world) allIDs() map[string]string {
	ids := map[string]string{}
	for name, c := range w.containers(true) {
		ids[name] = c.ID
	}
	return ids
}

func (w *world) sameIDs(what string, want map[string]string) {
	w.t.Helper()
	if got := w.allIDs(); !maps.Equal(got, want) {
		w.t.Fatalf("%s: containers %v, want %v", what, got, want)
	}
}

func (w *world) put(dir string, files map[string]string) {
	w.t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// A layout is one way in which a project lies on a host, and its declaration for varan.
type layout struct {
	name string
	// folder is the project's folder on the host.
	folder func(w *world) string
	args   func(w *world) []string // of docker compose, before "up -d"
	repo   func(file string) map[string]string
	change func(w *world) // changes the service web in the repository
}

var layouts = []layout{
	{
		// docker compose up in a folder, which the repository now holds.
		name:   "folder",
		folder: func(w *world) string { return filepath.Join(w.dir, "opt", w.id) },
		args:   func(*world) []string { return nil },
		repo: func(file string) map[string]string {
			return map[string]string{
				"stacks.toml": `
[[stack]]
name = "ID"
[stack.config]
run_directory = "ID"
environment = """
DB_PASSWORD = hunter2
"""
settle = "0s"
`,
				"ID/compose.yaml":  file,
				"ID/db.env":        "DB_NAME=shop\n",
				"ID/conf/app.conf": "one\n",
			}
		},
		change: func(w *world) { w.replace("ID/compose.yaml", "COLOUR=blue", "COLOUR=green") },
	},
	{
		// A stack that Komodo wrote from its own file_contents: /etc/komodo/stacks/NAME.
		name:   "komodo",
		folder: func(w *world) string { return filepath.Join(w.dir, "etc", "komodo", "stacks", w.id) },
		args: func(w *world) []string {
			return []string{"-p", w.id, "-f", "compose.yaml", "--env-file", ".env"}
		},
		repo: func(file string) map[string]string {
			return map[string]string{"stacks.toml": `
[[stack]]
name = "ID"
[stack.config]
environment = """
DB_PASSWORD = hunter2
"""
settle = "0s"
file_contents = """
` + strings.ReplaceAll(file, `\`, `\\`) + `"""
`}
		},
		change: func(w *world) { w.replace("stacks.toml", "COLOUR=blue", "COLOUR=green") },
	},
	{
		// A stack that Komodo cloned: the repository's root is /etc/komodo/stacks/NAME, the project below it.
		name:   "komodo-repo",
		folder: func(w *world) string { return filepath.Join(w.dir, "etc", "komodo", "stacks", w.id, "app") },
		args: func(w *world) []string {
			return []string{"-p", w.id, "-f", "compose.yaml", "--env-file", ".env"}
		},
		repo: func(file string) map[string]string {
			return map[string]string{
				"stacks.toml": `
[[stack]]
name = "ID"
[stack.config]
run_directory = "app"
file_paths = ["compose.yaml"]
environment = """
DB_PASSWORD = [[DB_PASSWORD]]
"""
settle = "0s"
`,
				"app/compose.yaml":  file,
				"app/db.env":        "DB_NAME=shop\n",
				"app/conf/app.conf": "one\n",
			}
		},
		change: func(w *world) { w.replace("app/compose.yaml", "COLOUR=blue", "COLOUR=green") },
	},
}

// TestAdoptCompose: a project as docker compose left it, or as Komodo laid it out, is adopted with the same
// containers, by both lines of compose; a change recreates its service in the same folder with its data, and
// nothing else; and all of it holds without data directory and ledger.
func TestAdoptCompose(t *testing.T) {
	for _, r := range releases {
		for _, l := range layouts {
			t.Run(r.version+"/"+l.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				port := freePort(t)
				file := strings.ReplaceAll(shop, "PORT", port)
				dir := l.folder(w)
				w.put(dir, map[string]string{"compose.yaml": file, ".env": "DB_PASSWORD=hunter2\n", "db.env": "DB_NAME=shop\n",
					"conf/app.conf": "one\n", "data/precious": "data\n"})
				w.composeUp(r, l.name, dir, port, l.args(w)...)
				w.eventually("the project runs", composeLimit, func() (bool, string) {
					return len(w.ids()) == 2 && strings.Contains(w.names(), "healthy") && strings.Contains(w.names(), "Exited (0)"), w.names()
				})
				before := w.allIDs()

				w.configure("[secrets]\nDB_PASSWORD = \"hunter2\"\n")
				w.write(l.repo(file))
				adopt := map[string]plan.Action{"stack/ID": plan.Adopt}
				w.wantActions(adopt)
				w.apply()
				w.sameIDs("after adoption", before)
				w.wantActions(nil)
				w.forget()
				w.wantActions(adopt)
				w.apply()
				w.sameIDs("after amnesia", before)

				l.change(w)
				p := w.wantActions(map[string]plan.Action{"stack/ID": plan.Update})
				if s := p.Steps[0].Services; len(s) != 1 || s[0] != (plan.ServiceStep{Name: "web", Action: plan.Recreate}) {
					t.Errorf("services %v", s)
				}
				if strings.Contains(w.inFull(p), "hunter2") {
					t.Error("the plan shows a value of the host")
				}
				w.apply()
				after := w.allIDs()
				for name, id := range before {
					if changed := after[name] != id; changed != (name == w.id+"-web-1") {
						t.Errorf("%s recreated: %v", name, changed)
					}
				}
				w.wantActions(nil)
				w.mountsIn(dir, "web", "db")

				w.forget()
				w.wantActions(adopt) // its other services bear no labels
				w.apply()
				w.sameIDs("after amnesia after a change", after)
				w.wantActions(nil)

				// The service that holds the data is recreated too, once more in the same folder.
				for name := range l.repo(file) {
					data, _ := os.ReadFile(filepath.Join(w.repo, strings.ReplaceAll(name, "ID", w.id)))
					if strings.Contains(string(data), "retries: 10") {
						w.replace(name, "retries: 10", "retries: 11")
					}
				}
				w.apply()
				final := w.allIDs()
				if final[w.id+"-db-1"] == after[w.id+"-db-1"] || final[w.id+"-web-1"] != after[w.id+"-web-1"] || final[w.id+"-migrate-1"] != after[w.id+"-migrate-1"] {
					t.Errorf("after a change of db: %v, before %v", final, after)
				}
				w.mountsIn(dir, "web", "db")
				if data, err := os.ReadFile(filepath.Join(dir, "data", "precious")); err != nil || string(data) != "data\n" {
					t.Errorf("the data: %q, %v", data, err)
				}
				w.wantActions(nil)

				// The daemon, with nothing left to remember, adopts the same.
				w.forget()
				w.commit("as it runs")
				stop := w.serve()
				w.settled()
				stop()
				w.sameIDs("under a new daemon", final)
				w.wantActions(nil)
			})
		}
	}
}

// mountsIn fails unless the services' binds lie in dir, and the data is seen through them.
func (w *world) mountsIn(dir string, services ...string) {
	w.t.Helper()
	for _, s := range services {
		c, err := w.docker.ContainerInspect(w.t.Context(), w.id+"-"+s+"-1")
		if err != nil {
			w.t.Fatal(err)
		}
		if got := c.Config.Labels["com.docker.compose.project.working_dir"]; got != dir {
			w.t.Errorf("%s works in %s, want %s", s, got, dir)
		}
		binds := 0
		for _, m := range c.Mounts {
			if m.Type == "bind" {
				binds++
				if !strings.HasPrefix(m.Source, dir+"/") {
					w.t.Errorf("%s mounts %s from %s, want below %s", s, m.Destination, m.Source, dir)
				}
			}
		}
		if binds == 0 {
			w.t.Errorf("%s mounts nothing: %v", s, c.Mounts)
		}
		if s == "db" {
			if out := w.inside(c.ID, "cat", "/data/precious"); out != "data\n" {
				w.t.Errorf("db sees %q", out)
			}
		}
	}
}

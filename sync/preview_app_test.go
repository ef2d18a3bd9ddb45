package sync

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/gitrepo/gittest"
)

// TestPreviewAppTellsNothing: what the config repository sets for a stack is not told in the app's repository, however
// its compose file uses it.
func TestPreviewAppTellsNothing(t *testing.T) {
	const canary = "hidden-canary"
	app := gittest.New(t)
	app.Push(map[string]string{"compose.yaml": composeFile})
	at := app.Serve(false).URL()
	host, path, _ := strings.Cut(strings.TrimPrefix(at, "http://"), "/")
	w := follow(t)
	toml := fmt.Sprintf("[[stack]]\nname = \"app\"\ndeploy = true\n[stack.config]\ngit_provider = %q\ngit_https = false\nrepo = %q\nenvironment = \"V = "+canary+"\"\n", host, path)
	base := w.git.Push(map[string]string{"a.toml": deployment("a", "1") + toml})
	w.start()
	w.rep.applied(base)
	w.settledDown()
	addr, err := gitrepo.ParseAddress(at)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := w.mirrors.open(addr, "", false)
	if err != nil {
		t.Fatal(err)
	}
	for i, service := range []string{
		"image: demo\n    environment:\n      E: ${V}", "image: ${V}", "image: demo:${V}", "image: demo\n    ports: [\"${V}\"]", "image: demo\n    ports: [\"80:${V}\"]",
		"image: demo\n    volumes: [\"./${V}:/data\"]", "image: demo\n    volumes: [\"${V}:/data\"]", "image: demo\n    env_file: [\"${V}\"]", "image: demo\n    env_file: [\"/${V}\"]",
		"image: demo\n    container_name: ${V}", "image: demo\n    network_mode: ${V}", "image: demo\n    network_mode: container:${V}", "image: demo\n    depends_on: [\"${V}\"]",
		"image: demo\n    mem_limit: ${V}", "image: demo\n    restart: ${V}", "image: demo\n    extends: {file: \"${V}\", service: web}", "image: demo\n    healthcheck: {interval: \"${V}\"}",
		"image: demo\n    pid: ${V}", "image: demo\n    privileged: ${V}", "image: ${V:?${V}}", "image: ${NONE:?${V}}", "image: demo\n    stop_signal: ${V}", "image: demo\n    networks: [\"${V}\"]",
		"image: demo\n    build: {context: \"${V}\"}", "image: demo\n    labels: {\"varan.x\": \"${V}\"}", "image: demo\n    devices: [\"${V}\"]", "image: demo\n    scale: ${V}", "image: demo\n    cap_add: [\"${V}\"]",
		"image: demo\n    configs: [\"${V}\"]", "image: demo\n    secrets: [\"${V}\"]", "image: demo\n    platform: ${V}", "image: demo\n    profiles: [\"${V}\"]", "image: demo\n    dns: [\"${V}\"]", "image: demo\n    extra_hosts: [\"${V}\"]",
		"image: demo\n    label_file: [\"${V}\"]", "image: demo\n    volumes_from: [\"${V}\"]", "image: demo\n    annotations: {x: \"${V}\"}", "image: demo\n    security_opt: [\"seccomp=${V}\"]",
		"image: demo\nvolumes:\n  x: {name: \"${V}\"}\nnetworks:\n  y: {name: \"${V}\", external: true}", "image: demo\nconfigs:\n  x: {file: \"${V}\"}\nname: ${V}", "image: demo\ninclude: [\"${V}\"]", "image: demo\n    blkio_config: {weight: \"${V}\"}",
	} {
		n := i + 10
		_, merge := propose(t, app, n, map[string]string{"compose.yaml": "services:\n  web:\n    " + service + "\n"})
		p, err := w.root.previewOf(t.Context(), os.Args[0], repo, Subject{Ref: fmt.Sprintf("refs/pull/%d/merge", n), Commit: merge}, &addr, "main", PreviewLimits())
		if err != nil {
			if strings.Contains(err.Error(), canary) {
				t.Errorf("%q: the error tells it: %v", service, err)
			}
			continue
		}
		data, err := json.Marshal(p.Plan)
		if err != nil {
			t.Fatal(err)
		}
		for _, risk := range Risks(p.Plan) {
			data = append(data, risk...)
		}
		if strings.Contains(string(data), canary) {
			t.Errorf("%q is told: %s", service, data)
		}
	}
}

// TestPreviewConfigTellsNothing: what stands in an app's repository is not told in a pull request to the config
// repository: who may read one may not be one who may read the other.
func TestPreviewConfigTellsNothing(t *testing.T) {
	const canary = "app-canary"
	app := gittest.New(t)
	app.Push(map[string]string{"compose.yaml": "services:\n  web:\n    image: demo\n    environment:\n      K: " + canary + "\n      P: ${P}\n", "other.env": "X=" + canary + "\n", "broken.yaml": "services:\n  web:\n    image: demo\n    ports: [\"" + canary + "\"]\n",
		"plain": canary + "\n"})
	at := app.Serve(false).URL()
	host, path, _ := strings.Cut(strings.TrimPrefix(at, "http://"), "/")
	w := follow(t)
	toml := func(more string) map[string]string {
		return map[string]string{"a.toml": deployment("a", "1") + fmt.Sprintf("[[stack]]\nname = \"app\"\ndeploy = true\n[stack.config]\ngit_provider = %q\ngit_https = false\nrepo = %q\n%s\n", host, path, more)}
	}
	base := w.git.Push(toml(`environment = "V = 1"`))
	w.start()
	w.rep.applied(base)
	w.settledDown()
	for i, more := range []string{`environment = "V = 2"`, `environment = "P = 2"`, `additional_env_files = ["other.env"]`, `additional_env_files = ["plain"]`, `file_paths = ["broken.yaml"]`, `file_paths = ["plain"]`, `file_paths = ["other.env"]`,
		`file_paths = ["compose.yaml", "broken.yaml"]`, `env_file_path = "plain"`, `run_directory = "plain"`, `extra_args = ["--scale", "x=1"]`, `project_name = "other"`} {
		n := i + 10
		_, merge := propose(t, w.git, n, toml(more))
		p, err := w.preview(Subject{Ref: fmt.Sprintf("refs/pull/%d/merge", n), Commit: merge})
		if err != nil {
			if strings.Contains(err.Error(), canary) {
				t.Errorf("%s: the error tells it: %v", more, err)
			}
			t.Logf("%s: %v", more, err)
			continue
		}
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), canary) {
			t.Errorf("%s is told: %s", more, data)
		}
	}
}

// TestPreviewQuotesNoFurtherSync: what a further sync's repository gets wrong is told in a pull request to the config
// repository without its words.
func TestPreviewQuotesNoFurtherSync(t *testing.T) {
	const canary = "team-canary"
	w := follow(t)
	other := follow(t)
	other.git.Push(map[string]string{"a.toml": deployment("a", "1")})
	base := w.git.Push(map[string]string{"x.toml": deployment("x", "1"), "team.toml": team(other, "servers = [\"local\"]")})
	w.start()
	w.rep.applied(base)
	w.settledDown()
	other.git.Push(map[string]string{"a.toml": strings.Replace(deployment("a", "1"), "network =", "server = \""+canary+"\"\nnetwork =", 1)})
	if err := w.Sync(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	w.until("it is refused", func(Status) bool { return w.child().State == "broken" })
	if !strings.Contains(w.child().Diagnostics[0].Message, canary) {
		t.Fatalf("its own authors are not told: %+v", w.child().Diagnostics)
	}
	for i, files := range []map[string]string{{"README.md": "hello"}, {"x.toml": "[[deploymnt]]\n"}} {
		n := i + 7
		_, merge := propose(t, w.git, n, files)
		p, err := w.preview(Subject{Ref: fmt.Sprintf("refs/pull/%d/merge", n), Commit: merge})
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(p)
		if err != nil || strings.Contains(string(data), canary) {
			t.Errorf("%v %s", err, data)
		}
	}
	r := w.rep.applied(w.git.Push(map[string]string{"x.toml": deployment("x", "2")}))
	data, err := json.Marshal(r.Plan)
	if err != nil || strings.Contains(string(data), canary) || !strings.Contains(string(data), "is not applied") {
		t.Errorf("after the merge: %v %s", err, data)
	}
}

package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-connections/nat"
)

// TestPortTaken: a port that somebody else's container holds fails that step and what comes after it, names the
// holder, stops nothing, and is not tried again at once.
func TestPortTaken(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	holder, err := w.docker.ContainerCreate(ctx, &container.Config{Image: "varan-e2e:1", Cmd: []string{"sleep", "1000"}, ExposedPorts: nat.PortSet{"80/tcp": {}}},
		&container.HostConfig{PortBindings: nat.PortMap{"80/tcp": {{HostIP: "127.0.0.1"}}}}, nil, nil, w.id+"-holder")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.docker.ContainerStart(ctx, holder.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	in, err := w.docker.ContainerInspect(ctx, holder.ID)
	if err != nil {
		t.Fatal(err)
	}
	port := in.NetworkSettings.Ports["80/tcp"][0].HostPort

	w.configure("[config]\npoll = \"1s\"\n")
	free := strings.Replace(one("a"), `network = "none"`, `network = "bridge"`, 1)
	w.write(map[string]string{"a.toml": free + one("b", `after = ["ID-a"]`) + one("c")})
	w.commit("free")
	d := w.daemon()
	w.settled()
	before := w.ids()

	taken := strings.Replace(free, `network = "bridge"`, `network = "bridge"`+"\nports = \"127.0.0.1:"+port+":80\"", 1)
	start := time.Now()
	w.write(map[string]string{"a.toml": taken + one("b", `after = ["ID-a"]`) + strings.Replace(one("c"), "K = x", "K = y", 1)})
	w.commit("taken")
	var runs []struct {
		ID     string `json:"id"`
		Status string `json:"status"`
	}
	w.eventually("the run fails", time.Minute, func() (bool, string) {
		r := w.varan("runs", "--json")
		return json.Unmarshal([]byte(r.stdout), &runs) == nil && len(runs) > 0 && runs[0].Status == "failed", r.stdout + r.stderr
	})
	said := w.varan("runs", runs[0].ID)
	if text := said.stdout; !strings.Contains(text, "port "+port) || !strings.Contains(text, w.id+"-holder") || !strings.Contains(text, "was not tried") && !strings.Contains(text, "not tried") {
		t.Errorf("the run does not name port, holder and what was not tried:\n%s", text)
	}
	pause := time.NewTimer(4 * time.Second)
	<-pause.C
	after := w.ids()
	if after[w.id+"-a"] != before[w.id+"-a"] || after[w.id+"-b"] != before[w.id+"-b"] {
		t.Error("a taken port stopped what ran")
	}
	if after[w.id+"-c"] == before[w.id+"-c"] {
		t.Error("an unrelated resource was not applied")
	}
	tries := 0
	for _, m := range w.recorded(start) {
		if m.Action == "create" && m.Actor.Attributes["varan.resource"] == "deployment/"+w.id+"-a" {
			tries++
		}
	}
	if tries > 1 {
		t.Errorf("tried %d times within 4 s, want once", tries)
	}
	if st := w.varan("status", "--json"); !strings.Contains(st.stdout, `"retrying"`) {
		t.Errorf("status does not say retrying:\n%s", st.stdout)
	}
	d.stop()
}

package container

import (
	"context"
	"strings"
	"testing"

	"github.com/docker/docker/client"
	"github.com/google/go-cmp/cmp"

	"github.com/varanhq/varan/schema"
)

// nobody is an engine's client that is never connected.
func nobody(t *testing.T) *recorder {
	c, err := client.NewClientWithOpts(client.WithHost("unix:///nowhere"))
	if err != nil {
		t.Fatal(err)
	}
	return &recorder{APIClient: c}
}

func TestDeploymentArgs(t *testing.T) {
	d := Deployment{Name: "web", Config: &schema.DeploymentConfig{
		Image: schema.ImageConfig{Image: "nginx:1"}, Network: "lan", Restart: "on-failure", TerminationSignal: "SIGINT", TerminationTimeout: 30,
		Ports: []schema.KV{{Key: "8080", Value: "80"}, {Key: "0.0.0.0", Value: "53:53/udp"}}, Volumes: []schema.KV{{Key: "/a", Value: "/b:ro"}},
		Environment: []schema.KV{{Key: "A", Value: `"x y"`}, {Key: "B", Value: "[[S]]"}}, Labels: []schema.KV{{Key: "l", Value: "v"}},
		ExtraArgs: []string{"--memory 64m", "-e 'C=1 2'", "-d", "--hostname=[[S]]"}, Command: `nginx -g "daemon off;" [[S]]`},
		Reveal: func(s string) string { return strings.ReplaceAll(s, "[[S]]", `a "b" $(c)`) }}
	got, err := d.Args()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"--pull=never", "--disable-content-trust=true", "--platform=", "--name=web", "--network=lan", "--publish=8080:80", "--publish=0.0.0.0:53:53/udp",
		"--volume=/a:/b:ro", "--env=A=x y", `--env=B=a "b" $(c)`, "--restart=on-failure:10", "--stop-signal=SIGINT", "--stop-timeout=30", "--label=l=v",
		"--memory", "64m", "-e", "C=1 2", "-d", `--hostname=a "b" $(c)`, "--", "nginx:1", "nginx", "-g", "daemon off;", `a "b" $(c)`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	rec := nobody(t)
	d.Config.ExtraArgs = []string{"--memory 64m", "--cap-add NET_ADMIN"}
	if err := d.Create(context.Background(), rec, nil); err != nil {
		t.Fatal(err)
	}
	a := rec.asks[0]
	if a.name != "web" || a.host.Memory != 64<<20 || a.config.Image != "nginx:1" || len(a.config.Cmd) != 4 || a.host.RestartPolicy.MaximumRetryCount != 10 {
		t.Errorf("asked: %+v %+v", a.config, a.host)
	}
}

// TestRefusedFlags: docker's parser reads files and the environment for these, so they never reach it.
func TestRefusedFlags(t *testing.T) {
	t.Setenv("CANARY", "do-not-read-me")
	for _, args := range []string{
		"--env-file /etc/passwd", "--env-file=/etc/passwd", "--label-file /etc/passwd", "-e CANARY", "--env CANARY", "-eCANARY", "-it -e CANARY",
		"--security-opt seccomp=/etc/passwd", "--security-opt=seccomp:/etc/passwd", "--cidfile /tmp/x", "--use-api-socket", "--name other",
		"--pull always", "-v ./x:/y", "--volume=../x:/y", "--mount type=bind,src=./x,dst=/y", "-l varan.fleet=x", "--no-such-flag", "nginx", "--memory", "--help",
	} {
		d := Deployment{Name: "web", Config: &schema.DeploymentConfig{Image: schema.ImageConfig{Image: "i"}, ExtraArgs: []string{args}}}
		rec := nobody(t)
		err := d.Create(context.Background(), rec, nil)
		if err == nil {
			t.Errorf("%s was let through", args)
		} else if strings.Contains(err.Error(), "do-not-read") || strings.Contains(err.Error(), "root:") {
			t.Errorf("%s: %v", args, err)
		}
		if len(rec.asks) != 0 {
			t.Errorf("%s: a container was asked for", args)
		}
	}
	for _, args := range []string{"--security-opt seccomp=unconfined", "-e A=", "-e 'A=b c'", "--gpus all", "--rm", "--detach", "-it", "--device /dev/fuse", "--ulimit nofile=1:2", "--network-alias a"} {
		d := Deployment{Name: "web", Config: &schema.DeploymentConfig{Image: schema.ImageConfig{Image: "i"}, Network: "n", ExtraArgs: []string{args}}}
		if err := d.Create(context.Background(), nobody(t), nil); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
}

package build

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

func TestImage(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Docker engine")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	api, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	if _, err := api.Ping(ctx); err != nil {
		t.Fatalf("no Docker engine at %s: %v", api.DaemonHost(), err)
	}
	dir := t.TempDir()
	write(t, dir, "hello.txt", "hello")
	write(t, dir, "sub/Dockerfile", "FROM scratch\nARG WHO\nLABEL who=$WHO\nCOPY hello.txt /hello.txt\n")
	tag := "varan-test-build:" + strings.ToLower(filepath.Base(dir))
	t.Cleanup(func() {
		_, _ = api.ImageRemove(context.Background(), tag, image.RemoveOptions{Force: true})
	})
	var said []string
	err = Image(ctx, api, Job{Tags: []string{tag}, Context: dir, Dockerfile: "sub/Dockerfile", Args: map[string]string{"WHO": "me"}, Labels: map[string]string{"l": "1"}}, nil,
		func(l string) { said = append(said, l) })
	if err != nil {
		t.Fatal(err)
	}
	got, err := api.ImageInspect(ctx, tag)
	if err != nil {
		t.Fatal(err)
	}
	if got.Config.Labels["who"] != "me" || got.Config.Labels["l"] != "1" {
		t.Errorf("labels %v", got.Config.Labels)
	}
	if !strings.Contains(strings.Join(said, "\n"), "COPY hello.txt") {
		t.Errorf("said %q", said)
	}
	err = Image(ctx, api, Job{Tags: []string{tag}, Context: dir, Inline: "FROM scratch\nCOPY nope /\n"}, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "nope") {
		t.Errorf("a missing file: %v", err)
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

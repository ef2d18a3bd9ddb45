package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"varan": main})
}

// exits runs a command that must end with that code: exits 2 varan plan.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		got = ee.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit %d, want %d", got, want)
	}
}

// eventually runs a command again and again until its output matches: eventually SECONDS PATTERN COMMAND…
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: eventually SECONDS PATTERN COMMAND…")
	}
	seconds, err := strconv.Atoi(args[0])
	ts.Check(err)
	want, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	for end := time.Now().Add(time.Duration(seconds) * time.Second); ; time.Sleep(100 * time.Millisecond) {
		cmd := exec.Command(filepath.Join(strings.Split(ts.Getenv("PATH"), ":")[0], args[2]), args[3:]...)
		cmd.Env = append(os.Environ(), "VARAN_CONFIG="+ts.Getenv("VARAN_CONFIG"), "HOME="+ts.Getenv("HOME"))
		out, _ := cmd.CombinedOutput() // it may fail until it works
		if want.Match(out) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("never matched %q; the last output:\n%s", args[1], out)
		}
	}
}

func params(t *testing.T, dir string, setup func(*testscript.Env) error) testscript.Params {
	return testscript.Params{
		Dir:                 dir,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "eventually": eventually},
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_DATA_HOME", filepath.Join(e.WorkDir, "data"))
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			e.Setenv("VARAN_CONFIG", filepath.Join(e.WorkDir, "varan.toml"))
			if setup != nil {
				return setup(e)
			}
			return nil
		},
	}
}

// TestScripts runs testdata/script over the real program, without Docker.
func TestScripts(t *testing.T) {
	testscript.Run(t, params(t, "testdata/script", func(e *testscript.Env) error {
		path := filepath.Join(e.WorkDir, "varan.toml")
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		return os.WriteFile(path, []byte(settingsFor(e.WorkDir, "main")), 0o600)
	}))
}

func settingsFor(dir, fleet string) string {
	return fmt.Sprintf("name = %q\ndata_dir = %q\nlisten = \"\"\n[hub]\nkey_file = %q\n[agent]\nroot = %q\n",
		fleet, filepath.Join(dir, "data"), filepath.Join(dir, "hub.key"), filepath.Join(dir, "agent"))
}

// TestDocker runs testdata/docker with a real engine. $ID is unique to a script, and all that bears it is removed.
func TestDocker(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Docker engine")
	}
	docker, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { docker.Close() })
	if _, err := docker.Ping(t.Context()); err != nil {
		t.Fatalf("no Docker engine: %v", err)
	}
	importBusybox(t, docker)
	testscript.Run(t, params(t, "testdata/docker", func(e *testscript.Env) error {
		b := make([]byte, 4)
		if _, err := rand.Read(b); err != nil {
			return err
		}
		id := "cli" + hex.EncodeToString(b)
		e.Setenv("ID", id)
		e.Defer(func() { removeAll(t, docker, id) })
		// Files of the archive cannot hold the id: ID in them stands for it.
		err := filepath.WalkDir(e.WorkDir, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, bytes.ReplaceAll(data, []byte("@ID@"), []byte(id)), 0o644)
		})
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(e.WorkDir, "varan.toml"), []byte(settingsFor(e.WorkDir, id)), 0o600)
	}))
}

const testImage = "varan-cli-test:1"

// importBusybox makes an image of a static busybox.
func importBusybox(t *testing.T, docker *client.Client) {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("the tests need a static busybox (apt-get install busybox-static): %v", err)
	}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox))},
		{Typeflag: tar.TypeLink, Name: "bin/sh", Linkname: "bin/busybox", Mode: 0o755},
		{Typeflag: tar.TypeLink, Name: "bin/sleep", Linkname: "bin/busybox", Mode: 0o755},
	} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := tw.Write(busybox); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := docker.ImageImport(context.Background(), image.ImportSource{Source: &buf, SourceName: "-"}, testImage, image.ImportOptions{Changes: []string{`CMD ["sleep", "2147483647"]`}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	out.Close()
	t.Cleanup(func() { _, _ = docker.ImageRemove(context.Background(), testImage, image.RemoveOptions{}) })
}

func removeAll(t *testing.T, docker *client.Client, id string) {
	ctx := context.Background()
	list, err := docker.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		t.Error(err)
	}
	for _, c := range list {
		if c.Labels["varan.fleet"] == id || len(c.Names) > 0 && strings.Contains(c.Names[0], id) {
			if err := docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil && !cerrdefs.IsNotFound(err) {
				t.Error(err)
			}
		}
	}
	nets, err := docker.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("name", id))})
	if err != nil {
		t.Error(err)
	}
	for _, n := range nets {
		if err := docker.NetworkRemove(ctx, n.ID); err != nil {
			t.Error(err)
		}
	}
}

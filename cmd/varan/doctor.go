package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/docker/docker/client"
	"github.com/spf13/cobra"

	"github.com/varanhq/varan/sync/httpd"
	"github.com/varanhq/varan/sync/report"
)

// doctorCommand looks at what varan needs on this machine.
type doctorCommand struct {
	sh     *shell
	config *config
}

func newDoctor(sh *shell) *cobra.Command {
	c := &doctorCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "doctor", Short: "look at what varan needs on this machine",
		Example: "  varan doctor",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	c.config = newConfig(sh, cmd.Flags())
	return cmd
}

// Run looks; exit 1 when something stands in the way.
func (c *doctorCommand) Run(ctx context.Context) error {
	set, w, err := c.config.read(ctx)
	if err != nil {
		return err
	}
	bad := 0
	line := func(what string, detail string, err error) {
		if err != nil {
			bad++
			c.sh.print("✗ " + what + ": " + report.Escape(err.Error()) + "\n")
			return
		}
		c.sh.print("✓ " + what + ": " + report.Escape(detail) + "\n")
	}
	file := w.Path
	if _, err := os.Stat(file); err != nil {
		file += " is not there, defaults hold"
	}
	line("settings", file, nil)
	for _, p := range w.Problems() {
		line("secret", "", errors.New(p.String()))
	}
	detail, err := engine(ctx)
	line("Docker engine", detail, err)
	for _, d := range []struct{ what, dir string }{{"data_dir", set.DataDir}, {"agent root", set.Agent.Root}} {
		free, err := freeSpace(d.dir)
		line(d.what, d.dir+", "+free+" free", err)
	}
	if err := httpd.Dial(set.Socket()).Ping(ctx); err != nil {
		c.sh.print("· daemon: none answers at " + set.Socket() + "\n")
	} else {
		line("daemon", "answers at "+set.Socket(), nil)
	}
	if bad > 0 {
		return silent(1)
	}
	return nil
}

// engine asks the Docker engine for its version; the error names the socket tried.
func engine(ctx context.Context) (string, error) {
	docker, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return "", fmt.Errorf("read DOCKER_HOST: %w", err)
	}
	defer docker.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	v, err := docker.ServerVersion(ctx)
	if err != nil {
		return "", fmt.Errorf("none answers at %s: %w\nstart Docker, or set DOCKER_HOST to where it listens", docker.DaemonHost(), err)
	}
	return fmt.Sprintf("%s (API %s) at %s", v.Version, v.APIVersion, docker.DaemonHost()), nil
}

// freeSpace looks at the nearest folder that exists.
func freeSpace(dir string) (string, error) {
	for {
		var st syscall.Statfs_t
		err := syscall.Statfs(dir, &st)
		if err == nil {
			return fmt.Sprintf("%.1f GB", float64(st.Bavail)*float64(st.Bsize)/1e9), nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", err
		}
		dir = up
	}
}

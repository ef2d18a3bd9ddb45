package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
)

// HostRoot is root as the engine's host knows it. Outside a container that is root itself. Inside one, the engine is
// asked for the container's mounts, and the host's path of the one that holds root is made a link to it, so that one
// path is good on both sides: stacks name files by it, and the engine mounts them.
func HostRoot(ctx context.Context, root, dockerHost string) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("find agent root %s: %w", root, err)
	}
	ids := selves()
	if len(ids) == 0 {
		return root, nil
	}
	opts := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if dockerHost != "" {
		opts = append(opts, client.WithHost(dockerHost))
	}
	c, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return "", fmt.Errorf("connect to Docker: %w", err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for _, id := range ids {
		info, err := c.ContainerInspect(ctx, id)
		if cerrdefs.IsNotFound(err) {
			continue // the container of another engine, or a host name that is also a container's
		}
		if err != nil {
			if client.IsErrConnectionFailed(err) {
				return "", fmt.Errorf("no Docker engine answers at %s: %w", c.DaemonHost(), err)
			}
			return "", fmt.Errorf("ask the Docker engine about the container varan runs in: %w", err)
		}
		if !us(info) {
			continue
		}
		host, err := hostPath(info.Mounts, root)
		if err != nil {
			return "", err
		}
		return host, standIn(host, root)
	}
	return root, nil
}

// us reports whether this process can be of that container: it runs, and calls itself as this machine is called.
func us(info container.InspectResponse) bool {
	name, err := os.Hostname()
	return err == nil && info.ContainerJSONBase != nil && info.State != nil && info.State.Running && info.Config != nil &&
		(info.Config.Hostname == name || strings.HasPrefix(info.ID, name) || info.HostConfig != nil && info.HostConfig.NetworkMode.IsHost())
}

// selves are the containers this process may run in, likeliest first.
func selves() []string {
	var ids []string
	if id := ownContainer(); id != "" {
		ids = append(ids, id)
	}
	_, docker := os.Stat("/.dockerenv")
	_, podman := os.Stat("/run/.containerenv")
	if name, err := os.Hostname(); err == nil && (docker == nil || podman == nil) {
		ids = append(ids, name) // a container is called by its short id unless it was named
	}
	return ids
}

// hostPath is where on the host path lies, by the mount that holds it.
func hostPath(mounts []container.MountPoint, path string) (string, error) {
	best := -1
	for i, m := range mounts {
		rel, err := filepath.Rel(m.Destination, path)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			continue
		}
		if best < 0 || len(m.Destination) > len(mounts[best].Destination) {
			best = i
		}
	}
	if best < 0 {
		return "", fmt.Errorf("%s lies in varan's own container and would be lost with it: mount a volume or a folder of the host there, as in -v varan-agent:%s", path, path)
	}
	m := mounts[best]
	if !m.RW {
		return "", fmt.Errorf("%s is mounted read-only into varan's container", m.Destination)
	}
	if !filepath.IsAbs(m.Source) {
		return "", fmt.Errorf("the engine does not say where on the host %s lies; mount a folder of the host there", m.Destination)
	}
	rel, _ := filepath.Rel(m.Destination, path)
	return filepath.Join(m.Source, rel), nil
}

// standIn makes host, a path of the host, mean root in this container too.
func standIn(host, root string) error {
	if host == root {
		return nil
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("make agent root: %w", err)
	}
	at, err := filepath.EvalSymlinks(host)
	if err == nil {
		if same(at, root) {
			return nil
		}
		return fmt.Errorf("%s is where %s lies on the host, but in this container something else is there: mount the root at the same path on both sides", host, root)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at %s: %w", host, err)
	}
	if err = os.MkdirAll(filepath.Dir(host), 0o755); err == nil {
		err = os.Symlink(root, host)
	}
	if err != nil {
		return fmt.Errorf("name the agent root as the host does (%s → %s): %w; or mount the root at the same path on both sides", host, root, err)
	}
	return nil
}

func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

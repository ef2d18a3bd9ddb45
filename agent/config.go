package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/BurntSushi/toml"

	"github.com/varanhq/varan/agent/container"
)

// readConfig reads agent.toml: what this host allows. It is read once, at the start; whoever changes it on the
// host restarts the agent.
func readConfig(opts Options) (allow container.Allow, updates bool, err error) {
	path := opts.Config
	if path == "" {
		path = filepath.Join(opts.Root, "agent.toml")
	}
	yes := func() *bool { b := true; return &b }
	var file struct {
		Allow struct {
			Commands     *bool    `toml:"commands"`
			Privileged   *bool    `toml:"privileged"`
			HostNetwork  *bool    `toml:"host_network"`
			DockerSocket *bool    `toml:"docker_socket"`
			Builds       *bool    `toml:"builds"`
			SelfUpdate   *bool    `toml:"self_update"`
			BindRoots    []string `toml:"bind_roots"`
			Images       []string `toml:"images"`
		} `toml:"allow"`
	}
	al := &file.Allow
	al.Commands, al.Privileged, al.HostNetwork, al.DockerSocket, al.Builds, al.SelfUpdate = yes(), yes(), yes(), yes(), yes(), yes()
	meta, err := toml.DecodeFile(path, &file)
	if errors.Is(err, fs.ErrNotExist) && opts.Config == "" {
		return container.Allow{}, true, nil
	}
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return container.Allow{}, false, fmt.Errorf("read %s: %s", path, pe.ErrorWithPosition())
		}
		return container.Allow{}, false, fmt.Errorf("read agent.toml: %w", err)
	}
	if left := meta.Undecoded(); len(left) > 0 {
		return container.Allow{}, false, fmt.Errorf("read %s: unknown key %q; [allow] takes commands, privileged, host_network, docker_socket, builds, self_update, bind_roots and images", path, left[0])
	}
	for _, r := range al.BindRoots {
		if !filepath.IsAbs(r) {
			return container.Allow{}, false, fmt.Errorf("read %s: bind_roots holds %q, which is not absolute", path, r)
		}
	}
	if _, err := os.Stat(path); err != nil {
		return container.Allow{}, false, err
	}
	return container.Allow{NoCommands: !*al.Commands, NoPrivileged: !*al.Privileged, NoHostNetwork: !*al.HostNetwork,
		NoDockerSocket: !*al.DockerSocket, NoBuilds: !*al.Builds, BindRoots: al.BindRoots, Images: al.Images}, *al.SelfUpdate, nil
}

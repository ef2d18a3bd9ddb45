package container

import (
	"fmt"
	"path"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
)

// Allow is the [allow] table of a host's agent.toml: it has the last word on what is created there. The zero
// value allows everything.
type Allow struct {
	NoCommands     bool
	NoPrivileged   bool
	NoHostNetwork  bool
	NoDockerSocket bool
	NoBuilds       bool
	BindRoots      []string // absolute folders; nil: any
	Images         []string // patterns of image references; nil: any
}

// A Refusal is an op that agent.toml does not allow.
type Refusal struct {
	Key  string // of agent.toml
	What string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s is refused on this host by [allow] %s in agent.toml", r.What, r.Key)
}

func (r *Refusal) failure() *Failure {
	return &Failure{Message: r.Error(), Hint: "whoever runs the host decides that; see [allow] in agent.toml", Refused: true}
}

// Bind says why a bind mount's source is refused; nil if it is not.
func (a Allow) Bind(source string) error {
	source = path.Clean(source)
	if a.NoDockerSocket && (source == "/var/run/docker.sock" || source == "/run/docker.sock" || source == "/var/run" || source == "/run" || source == "/") {
		return &Refusal{"docker_socket", "mounting " + source}
	}
	if a.BindRoots == nil {
		return nil
	}
	for _, root := range a.BindRoots {
		root = path.Clean(root)
		if source == root || root == "/" || strings.HasPrefix(source, root+"/") {
			return nil
		}
	}
	return &Refusal{"bind_roots", "mounting " + source}
}

// Image says why an image is refused; nil if it is not.
func (a Allow) Image(ref string) error {
	if a.Images == nil {
		return nil
	}
	for _, p := range a.Images {
		if ok, _ := path.Match(p, ref); ok || p == "*" || p == ref || (strings.HasSuffix(p, "*") && strings.HasPrefix(ref, strings.TrimSuffix(p, "*"))) {
			return nil
		}
	}
	return &Refusal{"images", "image " + ref}
}

func (a Allow) check(c *container.Config, h *container.HostConfig) error {
	if err := a.Image(c.Image); err != nil {
		return err
	}
	if a.NoPrivileged {
		switch {
		case h.Privileged:
			return &Refusal{"privileged", "a privileged container"}
		case len(h.CapAdd) > 0:
			return &Refusal{"privileged", "a container with added capabilities (" + strings.Join(h.CapAdd, ", ") + ")"}
		case h.PidMode.IsHost() || h.IpcMode.IsHost() || h.UsernsMode.IsHost() || h.UTSMode.IsHost():
			return &Refusal{"privileged", "a container that shares a namespace with the host"}
		case len(h.Devices) > 0:
			return &Refusal{"privileged", "a container with devices of the host"}
		case len(h.SecurityOpt) > 0:
			return &Refusal{"privileged", "a container with security options"}
		}
	}
	if a.NoHostNetwork && h.NetworkMode.IsHost() {
		return &Refusal{"host_network", "the host's network"}
	}
	for _, b := range h.Binds {
		if src, _, ok := strings.Cut(b, ":"); ok && strings.HasPrefix(src, "/") {
			if err := a.Bind(src); err != nil {
				return err
			}
		}
	}
	for _, m := range h.Mounts {
		if m.Type == mount.TypeBind {
			if err := a.Bind(m.Source); err != nil {
				return err
			}
		}
	}
	return nil
}

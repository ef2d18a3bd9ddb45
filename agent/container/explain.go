package container

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
)

func label(l string, kv ...string) filters.Args {
	f := filters.NewArgs()
	if l != "" {
		f.Add("label", l)
	}
	for i := 0; i+1 < len(kv); i += 2 {
		f.Add(kv[i], kv[i+1])
	}
	return f
}

var (
	portTaken   = regexp.MustCompile(`(?:Bind for \S*?:(\d+) failed: port is already allocated)|(?:listen (?:tcp|udp)[46]? \S*?:(\d+): bind: address already in use)|(?:failed to bind (?:host )?port (?:for )?\S*?:(\d+))`)
	nameTaken   = regexp.MustCompile(`container name "/?([^"]+)" is already in use by container "?([0-9a-f]+)`)
	bindMissing = regexp.MustCompile(`bind source path does not exist: (\S+)`)
	noImage     = regexp.MustCompile(`(?i)no such image: (\S+)`)
	noNetwork   = regexp.MustCompile(`network (\S+) not found`)
	noProgram   = regexp.MustCompile(`exec: \\?"([^"\\]+)\\?": (executable file not found in \$PATH|stat [^:]+: no such file or directory|permission denied|is a directory)`)
	notRunning  = regexp.MustCompile(`cannot join network of a non running container|[Cc]ontainer [0-9a-f]{64} is (?:not running|restarting)`)
	notADir     = regexp.MustCompile(`error mounting "([^"]+)" to rootfs at "([^"]+)".*not a directory`)
)

// explain turns an error of the engine into plain words with what to do about it. what is what was tried, in
// the infinitive. An error that is explained already, or a cancellation, is passed on.
func (e *Engine) explain(ctx context.Context, err error, service, what string) error {
	return e.explained(ctx, err, service, what, false)
}

// explain is the engine's, without the engine's own words if quiet: they repeat what the container was made with.
func (r *run) explain(ctx context.Context, err error, quiet bool, service, what string) error {
	return r.engine.explained(ctx, err, service, what, quiet)
}

func (e *Engine) explained(ctx context.Context, err error, service, what string, quiet bool) error {
	var f *Failure
	var refused *Refusal
	if errors.As(err, &f) {
		return err
	}
	if errors.As(err, &refused) {
		return err
	}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return context.Cause(ctx)
	}
	text := strings.TrimPrefix(err.Error(), "Error response from daemon: ")
	f = &Failure{Service: service}
	switch {
	case client.IsErrConnectionFailed(err):
		f.Message = fmt.Sprintf("the Docker engine at %s does not answer", e.api.DaemonHost())
		f.Hint = "start it (systemctl start docker), and see that this user may use its socket"
	case portTaken.MatchString(text):
		port := ""
		for _, g := range portTaken.FindStringSubmatch(text)[1:] {
			port += g
		}
		f.Message, f.Hint = e.portHolder(ctx, port), "free the port or choose another one"
	case nameTaken.MatchString(text):
		m := nameTaken.FindStringSubmatch(text)
		f.Message, f.Hint = fmt.Sprintf("the name %q is taken by another container (%.12s)", m[1], m[2]), "remove or rename that container, or choose another name"
	case strings.Contains(text, "no space left on device"):
		f.Message, f.Hint = "the disk is full", "free some space: docker system df shows what Docker uses"
	case quiet:
		f.Message = what + ": the engine refuses; what it says is left out, as a secret may stand in it"
		f.Hint = "docker start on the host shows it"
	case bindMissing.MatchString(text):
		f.Message = fmt.Sprintf("the bind source %s is not on the host", bindMissing.FindStringSubmatch(text)[1])
		f.Hint = "make it, or let it be made (create_host_path: true)"
	case noImage.MatchString(text):
		f.Message, f.Hint = fmt.Sprintf("image %s is not on the host", noImage.FindStringSubmatch(text)[1]), "pull or build it first, or set auto_pull = true"
	case noProgram.MatchString(text):
		m := noProgram.FindStringSubmatch(text)
		f.Message, f.Hint = fmt.Sprintf("the image has no program %q that could be run", m[1]), "look at command and entrypoint"
	case notADir.MatchString(text):
		m := notADir.FindStringSubmatch(text)
		f.Message = fmt.Sprintf("%s cannot be mounted at %s: one is a file, the other a folder", m[1], m[2])
		f.Hint = "Docker makes an empty folder where a bind source is missing: remove it and put the file there"
	case noNetwork.MatchString(text) && errdefs.IsNotFound(err):
		f.Message, f.Hint = fmt.Sprintf("network %q does not exist", noNetwork.FindStringSubmatch(text)[1]), "declare it, or make it first (docker network create)"
	case notRunning.MatchString(text):
		f.Message, f.Hint = what+": the container whose network or namespace it shares does not run", "look at that one's log"
		f.joins = true
	default:
		f.Message = what + ": " + text
	}
	return f
}

// portHolder says who publishes a port.
func (e *Engine) portHolder(ctx context.Context, port string) string {
	n, _ := strconv.Atoi(port)
	list, err := e.api.ContainerList(context.WithoutCancel(ctx), container.ListOptions{})
	if err == nil {
		for _, c := range list {
			for _, p := range c.Ports {
				if int(p.PublicPort) == n && n != 0 {
					return fmt.Sprintf("port %d is taken by container %s", n, holder(c))
				}
			}
		}
	}
	return fmt.Sprintf("port %s is taken by a program on the host that is no container", port)
}

// freePorts checks, before anything is stopped, that no container which stays holds a port that is asked for.
func (r *run) freePorts(service string, host *container.HostConfig) error {
	if host.NetworkMode.IsHost() {
		return nil // published ports mean nothing then
	}
	for port, bindings := range host.PortBindings {
		for _, b := range bindings {
			want, err := strconv.Atoi(b.HostPort)
			if err != nil || want == 0 {
				continue
			}
			for _, c := range r.byName {
				if r.olds[c.ID] || !runs(c.State) {
					continue
				}
				for _, p := range c.Ports {
					if int(p.PublicPort) == want && p.Type == port.Proto() && overlap(p.IP, b.HostIP) {
						return &Failure{Service: service,
							Message: fmt.Sprintf("port %d is taken by container %s", want, holder(c)),
							Hint:    "free the port or choose another one"}
					}
				}
			}
		}
	}
	return nil
}

func overlap(a, b string) bool {
	every := func(s string) bool { return s == "" || s == "0.0.0.0" || s == "::" }
	return a == b || every(a) || every(b)
}

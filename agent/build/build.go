package build

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/client"
	buildkit "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// A Job is one image to build.
type Job struct {
	Tags       []string
	Context    string // a folder; "" with Remote
	Remote     string // a URL BuildKit fetches by itself, instead of Context
	Dockerfile string // its path below Context, default "Dockerfile"
	Inline     string // the Dockerfile's text, instead of Dockerfile
	Args       map[string]string
	Labels     map[string]string
	Target     string
	Platforms  []string
	Contexts   map[string]string // further named contexts: folders, or references BuildKit understands
	Secrets    map[string][]byte
	Hosts      []string // extra hosts, as name=ip
	NoCache    bool
	Pull       bool // ask the registries for newer base images
	Network    string
	ShmSize    int64
}

// An Auth gives the login for a registry's domain.
type Auth func(domain string) (username, password string, ok bool)

// Image builds the image in the engine behind api. say is told what is being done and what commands print; it
// may be nil. The error is BuildKit's own message.
func Image(ctx context.Context, api client.APIClient, job Job, login Auth, say func(line string)) error {
	c, err := buildkit.New(ctx, "", buildkit.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return api.DialHijack(ctx, "/grpc", "h2c", nil)
	}), buildkit.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
		return api.DialHijack(ctx, "/session", proto, meta)
	}))
	if err != nil {
		return fmt.Errorf("reach the engine's BuildKit: %w", err)
	}
	defer c.Close()
	opt, done, err := options(job)
	if err != nil {
		return err
	}
	defer done()
	opt.Session = append(opt.Session, logins{login: login})
	if len(job.Secrets) > 0 {
		opt.Session = append(opt.Session, secretsprovider.FromMap(job.Secrets))
	}
	status := make(chan *buildkit.SolveStatus)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := c.Solve(ctx, nil, opt, status)
		return err
	})
	g.Go(func() error {
		report(status, say)
		return nil
	})
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil && context.Cause(ctx) != nil && ctx.Err() == context.Cause(ctx) {
			return context.Cause(ctx)
		}
		return fmt.Errorf("build %s: %w", strings.Join(job.Tags, ", "), err)
	}
	return nil
}

// options says the job in BuildKit's words. done removes what was made for it.
func options(job Job) (opt buildkit.SolveOpt, done func(), err error) {
	var made []string
	done = func() {
		for _, d := range made {
			_ = os.RemoveAll(d)
		}
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	attrs := map[string]string{}
	opt = buildkit.SolveOpt{Frontend: "dockerfile.v0", FrontendAttrs: attrs, LocalMounts: map[string]fsutil.FS{},
		Exports: []buildkit.ExportEntry{{Type: "moby", Attrs: map[string]string{"name": strings.Join(job.Tags, ",")}}}}
	mount := func(name, dir string) error {
		fs, err := fsutil.NewFS(dir)
		if err != nil {
			return fmt.Errorf("open build context %s: %w", dir, err)
		}
		opt.LocalMounts[name] = fs
		return nil
	}
	dockerfile := job.Dockerfile
	if dockerfile == "" {
		dockerfile = "Dockerfile"
	}
	if job.Remote != "" {
		attrs["context"] = job.Remote
		attrs["filename"] = dockerfile
	} else if err := mount("context", job.Context); err != nil {
		return opt, done, err
	}
	switch {
	case job.Inline != "":
		dir, err := os.MkdirTemp("", "varan-dockerfile-")
		if err != nil {
			return opt, done, fmt.Errorf("make a folder for the Dockerfile: %w", err)
		}
		made = append(made, dir)
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(job.Inline), 0o600); err != nil {
			return opt, done, fmt.Errorf("write the Dockerfile: %w", err)
		}
		attrs["filename"] = "Dockerfile"
		if err := mount("dockerfile", dir); err != nil {
			return opt, done, err
		}
		if job.Remote != "" {
			attrs["dockerfilekey"] = "dockerfile"
		}
	case job.Remote == "":
		attrs["filename"] = filepath.Base(dockerfile)
		if err := mount("dockerfile", filepath.Join(job.Context, filepath.Dir(dockerfile))); err != nil {
			return opt, done, err
		}
	}
	for k, v := range job.Args {
		attrs["build-arg:"+k] = v
	}
	for k, v := range job.Labels {
		attrs["label:"+k] = v
	}
	for _, name := range slices.Sorted(maps.Keys(job.Contexts)) {
		from := job.Contexts[name]
		if !filepath.IsAbs(from) {
			attrs["context:"+name] = from
			continue
		}
		if err := mount("ctx-"+name, from); err != nil {
			return opt, done, err
		}
		attrs["context:"+name] = "local:ctx-" + name
	}
	set := func(key, value string) {
		if value != "" {
			attrs[key] = value
		}
	}
	set("target", job.Target)
	set("platform", strings.Join(job.Platforms, ","))
	set("add-hosts", strings.Join(job.Hosts, ","))
	if job.Network == "none" || job.Network == "host" {
		attrs["force-network-mode"] = job.Network
	}
	if job.Network == "host" {
		opt.AllowedEntitlements = []string{"network.host"}
	}
	if job.ShmSize > 0 {
		attrs["shm-size"] = fmt.Sprint(job.ShmSize)
	}
	if job.NoCache {
		attrs["no-cache"] = ""
	}
	if job.Pull {
		attrs["image-resolve-mode"] = "pull"
	}
	return opt, done, nil
}

// report tells each step once as it begins, and each line a command prints.
func report(status <-chan *buildkit.SolveStatus, say func(string)) {
	told := map[string]bool{}
	for s := range status {
		if say == nil {
			continue
		}
		for _, v := range s.Vertexes {
			if v.Started != nil && !told[v.Digest.String()] && !strings.HasPrefix(v.Name, "[internal]") {
				told[v.Digest.String()] = true
				say(v.Name)
			}
		}
		for _, l := range s.Logs {
			for line := range strings.Lines(string(l.Data)) {
				say(strings.TrimRight(line, "\r\n"))
			}
		}
	}
}

// logins answers BuildKit's questions for registry logins from what the op carries, and nothing else.
type logins struct {
	auth.UnimplementedAuthServer
	login Auth
}

var _ session.Attachable = logins{}

// Register implements session.Attachable.
func (l logins) Register(s *grpc.Server) { auth.RegisterAuthServer(s, l) }

// Credentials implements the session's auth service.
func (l logins) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	host := req.Host
	if host == "registry-1.docker.io" {
		host = "docker.io"
	}
	if l.login != nil {
		if user, pass, ok := l.login(host); ok {
			return &auth.CredentialsResponse{Username: user, Secret: pass}, nil
		}
	}
	return &auth.CredentialsResponse{}, nil
}

package stack

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/compose/v5/pkg/api"
	composelib "github.com/docker/compose/v5/pkg/compose"
	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/varanhq/varan/agent/container"
)

// Create makes the containers of services with compose's own library. What the project has beside them is left
// alone: neither started, stopped nor recreated. Networks and volumes they need are made if absent.
func (s *Stack) Create(ctx context.Context, engine client.APIClient, services []string) error {
	project, err := s.selected(services)
	if err != nil {
		return err
	}
	service, err := composelib.NewComposeService(container.NewCLI(keeper{engine, project.Networks}),
		composelib.WithPrompt(func(string, bool) (bool, error) { return false, nil }),
		composelib.WithStreams(io.Discard, io.Discard, bytes.NewReader(nil)))
	if err != nil {
		return err
	}
	return service.Create(ctx, project, api.CreateOptions{
		Services: project.ServiceNames(), IgnoreOrphans: true, QuietPull: true,
		Recreate: api.RecreateNever, RecreateDependencies: api.RecreateNever,
	})
}

// selected is the project with only these services, labelled as compose's command labels them.
func (s *Stack) selected(services []string) (*types.Project, error) {
	project := s.project.Project
	if len(services) > 0 {
		var err error
		if project, err = project.WithSelectedServices(services, types.IgnoreDependencies); err != nil {
			return nil, err
		}
	}
	project = project.WithoutUnnecessaryResources()
	return project.WithServicesTransform(func(name string, def types.ServiceConfig) (types.ServiceConfig, error) {
		def.CustomLabels = types.Labels{
			api.ProjectLabel: project.Name, api.ServiceLabel: name, api.VersionLabel: api.ComposeVersion,
			api.WorkingDirLabel: project.WorkingDir, api.ConfigFilesLabel: strings.Join(project.ComposeFiles, ","),
			api.OneoffLabel: "False",
		}
		def.PullPolicy = types.PullPolicyNever // Prepare has brought the images
		return def, nil
	})
}

// Fill puts inline configs and secrets, and those from variables, into a container before it starts.
func (s *Stack) Fill(ctx context.Context, engine client.APIClient, service, id string) error {
	def, err := s.project.GetService(service)
	if err != nil {
		return err
	}
	for _, ref := range def.Secrets {
		o := s.project.Secrets[ref.Source]
		target := cmp.Or(ref.Target, ref.Source)
		if !path.IsAbs(target) {
			target = "/run/secrets/" + target
		}
		if err := s.inject(ctx, engine, def, id, types.FileReferenceConfig(ref), types.FileObjectConfig(o), target); err != nil {
			return err
		}
	}
	for _, ref := range def.Configs {
		o := s.project.Configs[ref.Source]
		if err := s.inject(ctx, engine, def, id, types.FileReferenceConfig(ref), types.FileObjectConfig(o), cmp.Or(ref.Target, "/"+ref.Source)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stack) inject(ctx context.Context, engine client.APIClient, def types.ServiceConfig, id string, ref types.FileReferenceConfig, o types.FileObjectConfig, target string) error {
	content := o.Content
	if content == "" && o.Environment != "" {
		v, ok := s.project.Environment[o.Environment]
		if !ok {
			return &container.Failure{Service: def.Name, Message: fmt.Sprintf("the variable %s, which %q takes its content from, is not set", o.Environment, ref.Source),
				Hint: "add it to the stack's environment"}
		}
		content = v
	}
	if content == "" {
		return nil // a file is mounted, and nothing is nothing
	}
	if def.ReadOnly {
		return &container.Failure{Service: def.Name, Message: fmt.Sprintf("%q cannot be put into the read-only service %q", ref.Source, def.Name), Hint: "use a file for it"}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	mode := int64(0o444)
	if ref.Mode != nil {
		mode = int64(*ref.Mode)
	}
	uid, _ := strconv.Atoi(ref.UID)
	gid, _ := strconv.Atoi(ref.GID)
	h := &tar.Header{Name: strings.TrimPrefix(target, "/"), Size: int64(len(content)), Mode: mode, Uid: uid, Gid: gid}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.WriteString(w, content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := engine.CopyToContainer(ctx, id, "/", &b, docker.CopyToContainerOptions{CopyUIDGID: ref.UID != "" || ref.GID != ""}); err != nil {
		return fmt.Errorf("put %q into the container of service %q: %w", ref.Source, def.Name, err)
	}
	return nil
}

// Started runs a service's post_start hooks.
func (s *Stack) Started(ctx context.Context, engine client.APIClient, service, id string) error {
	def, err := s.project.GetService(service)
	if err != nil {
		return nil // removed
	}
	for _, hook := range def.PostStart {
		if err := s.hook(ctx, engine, def.Name, id, hook); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stack) hook(ctx context.Context, engine client.APIClient, service, id string, hook types.ServiceHook) error {
	var env []string
	for k, v := range hook.Environment {
		if v != nil {
			env = append(env, k+"="+*v)
		}
	}
	exec, err := engine.ContainerExecCreate(ctx, id, docker.ExecOptions{User: hook.User, Privileged: hook.Privileged, Env: env,
		WorkingDir: hook.WorkingDir, Cmd: hook.Command, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return fmt.Errorf("run post_start of service %q: %w", service, err)
	}
	att, err := engine.ContainerExecAttach(ctx, exec.ID, docker.ExecAttachOptions{})
	if err != nil {
		return fmt.Errorf("run post_start of service %q: %w", service, err)
	}
	out := newTail(s.mask)
	done := context.AfterFunc(ctx, att.Close)
	_, _ = io.Copy(out, att.Reader)
	done()
	att.Close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	end, err := engine.ContainerExecInspect(ctx, exec.ID)
	if err != nil {
		return fmt.Errorf("run post_start of service %q: %w", service, err)
	}
	if end.ExitCode != 0 {
		return &container.Failure{Service: service, Message: fmt.Sprintf("post_start of service %q ended with exit code %d", service, end.ExitCode), Tail: out.String(), Gate: true}
	}
	return nil
}

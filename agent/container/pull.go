package container

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/pkg/jsonmessage"
	"golang.org/x/sync/errgroup"
)

// Policies of a [Pull].
const (
	PullAlways  = "always"  // ask the registry for what the tag means now
	PullMissing = "missing" // only what is not on the host
	PullNever   = "never"
)

// A Pull is one image that must be on the host before anything is stopped.
type Pull struct {
	Service string
	Image   string
	Policy  string
}

// An Auth gives the login for a registry's domain; ok is false where there is none.
type Auth func(domain string) (username, password string, ok bool)

// pullsAtOnce bounds downloads; the engine itself fetches several layers of each at once.
const pullsAtOnce = 3

// Pull sees to it that the images are on the host. An image that is there is not asked for again if it is named
// by its digest, or if it never came from a registry (built or imported on this host): asking for those could
// only fail. The first failure ends it; nothing was stopped for it.
func (e *Engine) Pull(ctx context.Context, pulls []Pull, auth Auth, progress func(service, phase, detail string)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pullsAtOnce)
	seen := map[string]string{}
	for _, p := range pulls {
		if seen[p.Image] == PullAlways || (seen[p.Image] != "" && p.Policy != PullAlways) {
			continue
		}
		seen[p.Image] = p.Policy
		if err := e.Allow.Image(p.Image); err != nil {
			return err
		}
		g.Go(func() error { return e.pull(ctx, p, auth, progress) })
	}
	return g.Wait()
}

func (e *Engine) pull(ctx context.Context, p Pull, auth Auth, progress func(service, phase, detail string)) error {
	if strings.TrimSpace(p.Image) == "" {
		return &Failure{Service: p.Service, Message: fmt.Sprintf("service %q has neither an image nor a build", p.Service)}
	}
	here, err := e.api.ImageInspect(ctx, p.Image)
	switch {
	case err == nil:
		if p.Policy != PullAlways || fixed(p.Image) || len(here.RepoDigests) == 0 {
			e.brought(here.ID, p.Image, false)
			return nil
		}
	case !errdefs.IsNotFound(err):
		return e.explain(ctx, err, p.Service, "look for image "+p.Image)
	case p.Policy == PullNever:
		return &Failure{Service: p.Service, Message: fmt.Sprintf("image %s is not on the host, and pull_policy is never", p.Image), Hint: "build or load it on the host, or change pull_policy"}
	}
	if progress == nil {
		progress = func(string, string, string) {}
	}
	progress(p.Service, "pulling", "")
	opts := image.PullOptions{}
	domain, account := "", ""
	if ref, err := reference.ParseNormalizedNamed(p.Image); err == nil {
		domain = reference.Domain(ref)
		if auth != nil {
			if user, pass, ok := auth(domain); ok {
				b, _ := json.Marshal(registry.AuthConfig{Username: user, Password: pass, ServerAddress: domain})
				account = user
				opts.RegistryAuth = base64.URLEncoding.EncodeToString(b)
			}
		}
	}
	r, err := e.api.ImagePull(ctx, p.Image, opts)
	if err == nil {
		err = follow(r, func(detail string) { progress(p.Service, "pulling", detail) })
		r.Close()
	}
	if err == nil {
		e.Note(ctx, p.Image)
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f := &Failure{Service: p.Service, Message: fmt.Sprintf("image %s cannot be pulled: %s", p.Image, strings.TrimPrefix(err.Error(), "Error response from daemon: ")),
		Hint: "see that the registry answers and that the image and tag exist there"}
	low := strings.ToLower(err.Error())
	switch {
	case account != "" && (strings.Contains(low, "unauthorized") || strings.Contains(low, "denied")):
		f.Message = fmt.Sprintf("image %s cannot be pulled: the registry %s refuses the account %q", p.Image, domain, account)
		f.Hint = fmt.Sprintf("see its token under [[docker_registry]] with domain %q in varan.toml, and that the account may read the image", domain)
	case strings.Contains(low, "unauthorized") || strings.Contains(low, "denied"):
		f.Hint = fmt.Sprintf("see that the image exists; if it is private, give a [[docker_registry]] with domain %q an account in varan.toml", domain)
	case strings.Contains(low, "no such host") || strings.Contains(low, "refused") || strings.Contains(low, "timeout") || strings.Contains(low, "unreachable"):
		f.Hint = fmt.Sprintf("the registry %s does not answer; it is tried again by itself", domain)
	}
	return f
}

// Note tells whoever wants to know that an image was pulled or built.
func (e *Engine) Note(ctx context.Context, ref string) {
	if e.Brought == nil {
		return
	}
	if img, err := e.api.ImageInspect(ctx, ref); err == nil {
		e.Brought(img.ID, ref, true)
	}
}

func (e *Engine) brought(id, ref string, fresh bool) {
	if e.Brought != nil {
		e.Brought(id, ref, fresh)
	}
}

// fixed reports whether the reference names content and not a tag that may move.
func fixed(ref string) bool { return strings.Contains(ref, "@sha256:") }

// follow reads a pull's messages to their end and tells how far it is.
func follow(r io.Reader, say func(string)) error {
	dec := json.NewDecoder(r)
	sizes := map[string][2]int64{}
	last := ""
	for {
		var m jsonmessage.JSONMessage
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if m.Error != nil {
			return m.Error
		}
		if m.Progress == nil || m.Progress.Total <= 0 || !slices.Contains([]string{"Downloading", "Download complete"}, m.Status) {
			continue
		}
		sizes[m.ID] = [2]int64{m.Progress.Current, m.Progress.Total}
		var have, total int64
		for _, s := range sizes {
			have, total = have+s[0], total+s[1]
		}
		if d := fmt.Sprintf("%d %%", have*100/max(total, 1)); d != last {
			last = d
			say(d)
		}
	}
}

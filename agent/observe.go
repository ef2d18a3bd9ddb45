package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"

	"github.com/varanhq/varan/agent/container"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/stack"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// policies remembers what of a container does not change and the list does not tell: the restart policies of those
// that have ended. Asking costs a call each.
type policies struct {
	mu   sync.Mutex // guards of
	ends map[string]bool
}

// endsByItself reports whether a container's restart policy leaves it be after exit 0.
func (a *Agent) endsByItself(ctx context.Context, id string) bool {
	a.policies.mu.Lock()
	ends, ok := a.policies.ends[id]
	a.policies.mu.Unlock()
	if ok {
		return ends
	}
	c, err := a.api.ContainerInspect(ctx, id)
	if err != nil || c.HostConfig == nil {
		return false
	}
	p := c.HostConfig.RestartPolicy.Name
	ends = p == "" || p == docker.RestartPolicyDisabled || p == docker.RestartPolicyOnFailure
	a.policies.mu.Lock()
	defer a.policies.mu.Unlock()
	if a.policies.ends == nil {
		a.policies.ends = map[string]bool{}
	}
	a.policies.ends[id] = ends
	return ends
}

// Observe tells the host's state. What could not be told stands in the answer's Error.
func (a *Agent) Observe(ctx context.Context, q protocol.Observe) protocol.Observed {
	out := protocol.Observed{Version: protocol.Version, State: plan.ServerState{Name: a.opts.Server, Engine: a.engineID, Self: a.engine.Self, Agent: a.program(), Ledger: map[schema.ID]*plan.Entry{}}}
	if q.Fleet != "" && q.Fleet != a.opts.Fleet {
		out.Error = fmt.Sprintf("this agent was started for fleet %q, and %q asks: start it with --fleet %s", a.opts.Fleet, q.Fleet, q.Fleet)
		return out
	}
	a.mended(ctx)
	busy := a.underWay() // before the list: an op that ends in between is told of, and looked at again
	list, err := a.api.ContainerList(ctx, docker.ListOptions{All: true})
	if err != nil {
		out.Error = fmt.Sprintf("the Docker engine at %s does not answer: %v", a.api.DaemonHost(), err)
		return out
	}
	s := &out.State
	alive := make(map[string]bool, len(list))
	s.Containers = make([]plan.Container, 0, len(list))
	for i := range list {
		alive[list[i].ID] = true
		s.Containers = append(s.Containers, a.container(ctx, &list[i]))
	}
	slices.SortFunc(s.Containers, func(x, y plan.Container) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID)) })
	a.forget(alive)
	s.Busy = busy
	s.Holds = a.ledger.serverHolds()
	a.ledger.all(func(r *record) {
		if r.Entry != nil {
			s.Ledger[r.Resource] = r.Entry
		}
		s.Holds = append(s.Holds, r.Holds...)
	})
	a.sharing(ctx, s)
	now := time.Now()
	s.Holds = slices.DeleteFunc(s.Holds, func(h plan.Hold) bool { return h.Over(now) })
	for i := range s.Holds {
		s.Holds[i].Ends = time.Time{} // by this clock
	}
	slices.SortFunc(s.Holds, func(x, y plan.Hold) int {
		return cmp.Or(cmp.Compare(x.Resource, y.Resource), cmp.Compare(x.Kind, y.Kind))
	})
	a.answer(ctx, s, q.Queries)
	return out
}

// mendTime is how long an observation waits for ops that a killed process left half done. By then what they start
// is started, and waits for its health at most.
const mendTime = 20 * time.Second

// mended waits until what a killed process left half done is put right: a plan made from the half-done state
// would do it again.
func (a *Agent) mended(ctx context.Context) {
	a.mu.Lock()
	var open []*task
	for _, t := range a.tasks {
		if t.resume {
			open = append(open, t)
		}
	}
	a.mu.Unlock()
	if len(open) == 0 {
		return
	}
	limit := time.NewTimer(mendTime)
	defer limit.Stop()
	for _, t := range open {
		select {
		case <-t.done:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// underWay lists the resources that ops work on, or are about to.
func (a *Agent) underWay() []schema.ID {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []schema.ID
	for _, t := range a.tasks {
		switch t.op.Verb {
		case protocol.Await, protocol.SetHold, protocol.Prune:
			continue
		}
		select {
		case <-t.done:
		default:
			out = append(out, t.op.Resource)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (a *Agent) forget(alive map[string]bool) {
	a.marks.forget(alive)
	a.shares.forget(alive)
	a.policies.mu.Lock()
	defer a.policies.mu.Unlock()
	for id := range a.policies.ends {
		if !alive[id] {
			delete(a.policies.ends, id)
		}
	}
}

// container is one container as plan wants it, from what the list says; only one that ended with 0 is looked at
// further.
func (a *Agent) container(ctx context.Context, c *docker.Summary) plan.Container {
	l := c.Labels
	out := plan.Container{ID: c.ID, Image: c.Image, ImageID: c.ImageID, Status: c.State,
		Project: l["com.docker.compose.project"], Service: l["com.docker.compose.service"], WorkDir: l["com.docker.compose.project.working_dir"],
		OneOff: l["com.docker.compose.oneoff"] == "True", Ports: ports(c.Ports)}
	if of, ok := strings.CutPrefix(c.HostConfig.NetworkMode, "container:"); ok {
		out.NetworkOf = of
	}
	if len(c.Names) > 0 {
		out.Name = strings.TrimPrefix(slices.MinFunc(c.Names, func(x, y string) int { return cmp.Compare(strings.Count(x, "/"), strings.Count(y, "/")) }), "/")
	}
	switch {
	case strings.HasSuffix(out.Name, container.NewSuffix):
		out.Leftover = "new"
	case strings.Contains(out.Name, container.OldSuffix):
		out.Leftover = "old"
	}
	if !a.marks.released(c.ID) {
		out.Resource, out.Fleet, out.Sync = schema.ID(l[container.LabelResource]), l[container.LabelFleet], l[container.LabelSync]
		out.Digest, out.Commit = plan.Digest(l[container.LabelDigest]), l[container.LabelCommit]
		if after := l[container.LabelAfter]; after != "" {
			out.After = strings.Split(after, ",")
		}
		if out.Project == "" && out.Resource != "" {
			out.Service = out.Resource.Name()
		}
		// Made by us and never started: what belongs into it may be missing, so it is no container yet. The next
		// op that creates it takes it up.
		if out.Resource != "" && out.Fleet == a.opts.Fleet && c.State == docker.StateCreated {
			out.Leftover = "new"
		}
	}
	switch {
	case strings.Contains(c.Status, "(healthy)"):
		out.Health = "healthy"
	case strings.Contains(c.Status, "(unhealthy)"):
		out.Health = "unhealthy"
	case strings.Contains(c.Status, "(health: starting)"):
		out.Health = "starting"
	}
	if rest, ok := strings.CutPrefix(c.Status, "Exited ("); ok {
		code, _, _ := strings.Cut(rest, ")")
		out.Exit, _ = strconv.Atoi(code)
		out.Completed = out.Exit == 0 && !a.marks.killed(c.ID) && a.endsByItself(ctx, c.ID)
	}
	return out
}

func ports(list []docker.Port) []plan.Port {
	var out []plan.Port
	for _, p := range list {
		if p.PublicPort != 0 {
			out = append(out, plan.Port{HostIP: p.IP, Host: p.PublicPort, Protocol: p.Type})
		}
	}
	slices.SortFunc(out, func(x, y plan.Port) int {
		return cmp.Or(cmp.Compare(x.Host, y.Host), cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.HostIP, y.HostIP))
	})
	return out
}

// answer tells what was asked about single resources.
func (a *Agent) answer(ctx context.Context, s *plan.ServerState, queries []protocol.Query) {
	for _, q := range queries {
		if s.Facts == nil {
			s.Facts = map[schema.ID]*plan.Facts{}
		}
		if q.Payload != nil && len(q.Payload.Volumes) > 0 && s.Volumes == nil {
			s.Volumes = a.volumes(ctx)
		}
		s.Facts[q.Resource] = a.facts(ctx, s, q)
	}
}

// volumes are the named volumes that exist, with the digest of the definition they were made with.
func (a *Agent) volumes(ctx context.Context) map[string]plan.Digest {
	list, err := a.api.VolumeList(ctx, volume.ListOptions{})
	if err != nil {
		return nil
	}
	out := map[string]plan.Digest{}
	for _, v := range list.Volumes {
		out[v.Name] = plan.Digest(v.Labels[container.LabelDigest])
	}
	return out
}

func (a *Agent) facts(ctx context.Context, s *plan.ServerState, q protocol.Query) *plan.Facts {
	rec := a.ledger.get(q.Resource)
	f := &plan.Facts{}
	p := q.Payload
	var open *stack.Stack
	f.Directory = directory(rec)
	var read []string
	if q.Declare && declaredHere(p) {
		d, filled, err := a.declareOnHost(ctx, protocol.Op{Resource: q.Resource, Fleet: a.opts.Fleet, Payload: p}, rec)
		if err != nil {
			f.Problem = redactor(p)(err.Error())
			return f
		}
		f.Declared, read = d.Shown, d.Files
		p, q.Payload = filled, filled
		if d.Open.Blocked != "" {
			return f
		}
		open := *filled // what agent.toml says is about the values themselves
		open.Units = d.Open.Units
		f.Refused = a.refusals(&open)
	}
	if p != nil && p.Stack != nil {
		op := protocol.Op{Resource: q.Resource, Fleet: a.opts.Fleet, Payload: p}
		st, err := a.openStack(ctx, op, rec)
		if err != nil {
			f.Problem = err.Error()
			return f
		}
		open = st
		f.Directory, f.Place = cmp.Or(f.Directory, st.Directory()), st.Directory()
	}
	if len(rec.Laid) > 0 && rec.Base != "" {
		if d, err := stack.OpenDir(rec.Base, stack.UndoFile(a.opts.Root, q.Resource)); err == nil {
			f.FilesDrifted = d.Drifted(rec.Laid)
			d.Close()
			for i := range f.FilesDrifted {
				if open != nil {
					f.FilesDrifted[i] = open.InTree(f.FilesDrifted[i])
				}
			}
		}
	}
	if p == nil {
		return f
	}
	f.HostFilesChanged = a.hostFilesChanged(rec, append(hostFiles(p), read...))
	f.MissingBinds = missingBinds(p.Binds, open)
	f.SecretsChanged = a.secretsChanged(ctx, q.Resource, p, func() []string { return a.live(ctx, s, q.Resource, p) })
	if f.Declared == nil {
		f.Refused = a.refusals(p)
	}
	if q.Compare {
		c, err := a.compare(ctx, q, rec)
		if err != nil {
			f.Problem = redactor(p)(err.Error())
		}
		f.Compare = c
	}
	return f
}

// live is what the engine shows of the resource's containers, as JSON.
func (a *Agent) live(ctx context.Context, s *plan.ServerState, id schema.ID, p *protocol.Payload) []string {
	var out []string
	for _, c := range s.Containers {
		mine := c.Resource == id && c.Fleet == a.opts.Fleet
		free := c.Resource == "" && c.Leftover == "" && ((p.Project != "" && c.Project == p.Project) ||
			(p.Deployment != nil && c.Project == "" && slices.ContainsFunc(p.Units, func(u plan.Unit) bool { return u.Container == c.Name })))
		if !mine && !free {
			continue
		}
		i, err := a.api.ContainerInspect(ctx, c.ID)
		if err != nil {
			continue
		}
		var b strings.Builder
		enc := json.NewEncoder(&b)
		if enc.Encode(i) == nil {
			out = append(out, b.String())
		}
	}
	return out
}

// refusals say beforehand what agent.toml will refuse.
func (a *Agent) refusals(p *protocol.Payload) []string {
	var out []string
	add := func(err error) {
		if err != nil && !slices.Contains(out, err.Error()) {
			out = append(out, err.Error())
		}
	}
	for _, u := range p.Units {
		if u.Image != "" && !u.Build {
			add(a.allow.Image(u.Image))
		}
		if u.Build && a.allow.NoBuilds {
			add(&container.Refusal{Key: "builds", What: "a build"})
		}
		var spec any
		if json.Unmarshal(u.Spec, &spec) == nil {
			a.refuseSpec(spec, add)
		}
	}
	for _, b := range p.Binds {
		if strings.HasPrefix(b.Source, "/") {
			add(a.allow.Bind(b.Source))
		}
	}
	for _, what := range p.Privileges {
		namespace, shared := strings.CutPrefix(what, "host ")
		capability, added := strings.CutPrefix(what, "capability ")
		switch {
		case what == "host network":
			if a.allow.NoHostNetwork {
				add(&container.Refusal{Key: "host_network", What: "the host's network"})
			}
		case !a.allow.NoPrivileged:
		case what == "privileged":
			add(&container.Refusal{Key: "privileged", What: "a privileged container"})
		case added:
			add(&container.Refusal{Key: "privileged", What: "a container with added capabilities (" + capability + ")"})
		case shared && namespace != "cgroupns", strings.HasPrefix(what, "device "):
			add(&container.Refusal{Key: "privileged", What: "a container with " + what})
		}
	}
	if c := p.Stack; c != nil && a.allow.NoCommands && (stack.Script(c.PreDeploy) != "" || stack.Script(c.PostDeploy) != "") {
		add(&container.Refusal{Key: "commands", What: "pre_deploy or post_deploy"})
	}
	slices.Sort(out)
	return out
}

func (a *Agent) refuseSpec(v any, add func(error)) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			a.refuseSpec(e, add)
		}
	case string:
		if strings.Contains(v, "docker.sock") && a.allow.NoDockerSocket {
			add(&container.Refusal{Key: "docker_socket", What: "mounting the Docker socket"})
		}
	case map[string]any:
		if v["privileged"] == true && a.allow.NoPrivileged {
			add(&container.Refusal{Key: "privileged", What: "a privileged container"})
		}
		for _, key := range []string{"cap_add", "devices", "security_opt"} {
			if list, ok := v[key].([]any); ok && len(list) > 0 && a.allow.NoPrivileged {
				add(&container.Refusal{Key: "privileged", What: "a container with " + key})
			}
		}
		if (v["pid"] == "host" || v["ipc"] == "host" || v["uts"] == "host" || v["userns_mode"] == "host") && a.allow.NoPrivileged {
			add(&container.Refusal{Key: "privileged", What: "a container that shares a namespace with the host"})
		}
		if (v["network_mode"] == "host" || v["network"] == "host") && a.allow.NoHostNetwork {
			add(&container.Refusal{Key: "host_network", What: "the host's network"})
		}
		for _, e := range v {
			a.refuseSpec(e, add)
		}
	}
}

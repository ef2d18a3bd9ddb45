package compose

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// An Input is one stack with the files it is declared by.
type Input struct {
	Resource *schema.Resource // a stack; variables resolved, secrets as [[NAME]]
	// Tree holds the files of the stack's repository: those of its linked repo, of its repo, or, for a stack
	// that names neither and has no file_contents, of the config repository itself. Nil: not known (Why says
	// why), and a stack that needs it is Unread.
	Tree Tree
	Why  string
	// Known names every [[NAME]] that has a value.
	Known map[string]bool
	// OnHost: Tree is the server's own folder (files_on_host, at the agent). Paths of the tree may be absolute.
	OnHost bool
	// HostEnv reads an env file of the server that variables come from (at the agent); nil: it is not known here.
	HostEnv func(name string) (data []byte, ok bool, err error)
}

// A Read is one path a declaration depends on. While every Read still has its Hash, so has the declaration.
type Read struct {
	Path string
	Hash string // "" = nothing stood there
}

// GeneratedEnv is the FileHash path of the env file that environment becomes.
const GeneratedEnv = "environment"

// Declare reads what a stack declares. Mistakes are its Diagnostics; it never fails otherwise. Reads lists what
// it looked at, for a caller that keeps the outcome.
func Declare(ctx context.Context, in Input) (*plan.Declared, []Read) {
	cfg := in.Resource.Stack()
	d := &plan.Declared{Resource: in.Resource.ID, Project: ProjectName(in.Resource), Hooks: hooks(cfg),
		Tree: strings.TrimSpace(cfg.PreDeploy.Command) != "" && !Inline(cfg)}
	d.OnHost = cfg.FilesOnHost || in.HostEnv != nil
	d.Missing = missing(in)
	switch {
	case cfg.Swarm != "":
		d.Blocked = "swarm is not handled by varan"
		return d, nil
	case cfg.ComposeCmdWrapper != "":
		d.Blocked = "compose_cmd_wrapper is not carried out: varan runs no compose command"
		return d, nil
	case cfg.FilesOnHost && !in.OnHost:
		d.Unread = "its files lie on the server (files_on_host), which has not told what they declare"
		return d, nil
	case in.Tree == nil && !Inline(cfg):
		d.Unread = cmp.Or(in.Why, "its repository was not read")
		return d, nil
	}
	rec := &recorder{tree: in.Tree, seen: map[string]string{}}
	in.Tree = rec
	m := newModel(in, world{value: asName, env: in.HostEnv})
	up, diags := ParseUpArgs(in.Resource)
	m.diags = append(m.diags, diags...)
	if !m.failed() {
		m.load(ctx)
	}
	if len(m.needHost) > 0 && !m.failed() {
		d.Unread = "its variables come from a file on the server: " + strings.Join(m.needHost, ", ")
		d.OnHost, d.Tree = true, !Inline(cfg)
	}
	if m.project != nil && !m.failed() {
		for name, n := range up.Scale {
			if def, err := m.project.GetService(name); err != nil {
				m.fail(in.Resource.At("config.extra_args"), "", "extra_args: --scale: the stack has no service %q", name)
			} else {
				def.SetScale(n)
				m.project.Services[name] = def
			}
		}
		c := &composer{model: m, d: d, paths: map[string]bool{}}
		c.all()
	}
	sortDiagnostics(m.diags)
	d.Diagnostics = m.diags
	if m.failed() {
		d.Units = nil
	}
	if Inline(cfg) {
		return d, nil
	}
	return d, rec.reads()
}

// hooks is a digest of the commands around a deploy; "" without any.
func hooks(cfg *schema.StackConfig) plan.Digest {
	if cfg.PreDeploy.Command == "" && cfg.PostDeploy.Command == "" {
		return ""
	}
	return digest(map[string]any{"pre_deploy": cfg.PreDeploy, "post_deploy": cfg.PostDeploy})
}

// missing lists the names without a value in the texts that are interpolated.
func missing(in Input) []plan.Missing {
	cfg := in.Resource.Stack()
	if cfg.SkipSecretInterp {
		return nil
	}
	var out []plan.Missing
	seen := map[string]bool{}
	look := func(text string, at schema.Pos) {
		for _, ref := range nameRef.FindAllStringSubmatch(text, -1) {
			if _, ok := in.Known[ref[1]]; !ok && ref[1] != "" && !seen[ref[1]] {
				seen[ref[1]] = true
				out = append(out, plan.Missing{Name: ref[1], Pos: at})
			}
		}
	}
	for _, kv := range cfg.Environment {
		at := kv.Pos
		if at == (schema.Pos{}) {
			at = in.Resource.At("config.environment")
		}
		look(kv.Value, at)
		look(kv.Key, at)
	}
	if Inline(cfg) {
		look(cfg.FileContents, in.Resource.At("config.file_contents"))
	}
	return out
}

// A composer fills a Declared from a loaded model.
type composer struct {
	*model
	d     *plan.Declared
	paths map[string]bool
	bytes int64
	big   bool // too many files: said once
}

func (c *composer) all() {
	d := c.d
	d.Directory = c.work
	d.Volumes = map[string]plan.Definition{}
	c.refuse()
	tracked := c.configFiles()
	for _, name := range c.project.ServiceNames() {
		u := c.unit(name, tracked)
		d.Units = append(d.Units, u)
	}
	for _, f := range c.cfg.IgnoreServices {
		if _, ok := c.index["services."+f]; !ok && !c.inline {
			c.warn(c.res.At("config.ignore_services"), "", "ignore_services: the stack has no service %q", f)
		}
	}
	if c.inline {
		c.used = map[string]bool{}
	}
	if d.Tree {
		c.carry(".", c.res.At("config.pre_deploy"))
	}
	for p := range c.used {
		c.paths[p] = true
	}
	d.Paths = slices.Sorted(maps.Keys(c.paths))
	slices.SortFunc(d.Binds, func(a, b plan.Bind) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Source, b.Source))
	})
}

// refuse names what compose would hand to other programs of the host.
func (c *composer) refuse() {
	for _, name := range c.project.ServiceNames() {
		s := c.project.Services[name]
		switch {
		case s.Provider != nil:
			c.fail(c.place("services", name, "provider"), "run it as a service with an image", "service %q has a provider, a program varan does not run", name)
		case len(s.Models) > 0:
			c.fail(c.place("services", name, "models"), "", "service %q uses models, which varan does not run", name)
		case s.UseAPISocket:
			c.fail(c.place("services", name, "use_api_socket"), "mount /var/run/docker.sock", "service %q sets use_api_socket, which varan does not carry out", name)
		case s.GetScale() > 1 && s.ContainerName != "":
			c.fail(c.place("services", name, "container_name"), "remove container_name", "service %q has %d replicas and one container_name", name, s.GetScale())
		}
	}
}

// configFiles gives, per service ("" = all), the hashes of the tracked config files.
func (c *composer) configFiles() map[string][]plan.FileHash {
	out := map[string][]plan.FileHash{}
	for i, f := range c.cfg.ConfigFiles {
		at := c.at("config.config_files", i)
		p, err := within(c.base, f.Path)
		if c.onHost && path.IsAbs(f.Path) {
			p, err = strings.TrimPrefix(path.Clean(f.Path), "/"), nil
		}
		if err != nil {
			c.fail(at, "config files are relative to run_directory", "config file %v", err)
			continue
		}
		if c.inline {
			continue // nothing but the compose file is in its folder
		}
		e, ok := c.carry(p, at)
		if !ok {
			c.fail(at, "", "config file %s does not exist", p)
			continue
		}
		if f.Requires == "" || f.Requires == "None" {
			continue
		}
		h := plan.FileHash{Path: p, Hash: e.Hash, Pos: at}
		if len(f.Services) == 0 {
			out[""] = append(out[""], h)
		}
		for _, s := range f.Services {
			if _, ok := c.services[s]; !ok {
				c.fail(at, "", "config file %s: the stack has no service %q", f.Path, s)
				continue
			}
			out[s] = append(out[s], h)
		}
	}
	return out
}

// carry notes that the agent needs what stands at p, a file or all below a folder, and tells what it is.
func (c *composer) carry(p string, at schema.Pos) (Entry, bool) {
	e, links, err := follow(c.tree, p)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.fail(at, "", "%v", err)
		}
		return Entry{}, false
	}
	for _, l := range links {
		c.add(l, at)
	}
	if e.Mode != ModeDir {
		c.add(e, at)
		return e, true
	}
	if c.onHost {
		return e, true
	}
	err = c.tree.Walk(e.Path, func(f Entry) error {
		c.add(f, at)
		if c.big {
			return errBig
		}
		return nil
	})
	if err != nil && !errors.Is(err, errBig) {
		c.fail(at, "", "read %s: %v", e.Path, err)
	}
	return e, true
}

var errBig = errors.New("too many files")

func (c *composer) add(e Entry, at schema.Pos) {
	if c.paths[e.Path] || c.big {
		return
	}
	c.paths[e.Path] = true
	if c.bytes += e.Size; c.bytes > maxBytes || len(c.paths) > maxPaths {
		c.big = true
		c.fail(at, "keep large data out of the repository, or mount a volume", "the stack takes more than %d files or %d MB to its host", maxPaths, maxBytes>>20)
	}
}

func (c *composer) unit(name string, tracked map[string][]plan.FileHash) plan.Unit {
	def, s := c.project.Services[name], c.services[name]
	u := plan.Unit{
		Service: name, Container: def.ContainerName, Scale: def.GetScale(), Image: def.Image, Build: def.Build != nil,
		OneShot: oneShot(def), Ignored: slices.Contains(c.cfg.IgnoreServices, name),
		HostFiles: s.hostFiles, Needs: slices.Sorted(maps.Keys(def.DependsOn)), Shares: c.shares(def),
	}
	for _, need := range u.Needs {
		if def.DependsOn[need].Restart && !slices.ContainsFunc(u.Shares, func(s plan.Share) bool { return s.Service == need && s.What != plan.ShareVolumes }) {
			u.Restarts = append(u.Restarts, need)
		}
	}
	if u.Container == "" && u.Scale == 1 {
		u.Container = c.name + "-" + name + "-1"
	}
	if u.Image == "" {
		u.Image = c.name + "-" + name
	}
	files := map[string]plan.FileHash{}
	note := func(p, hash string, at schema.Pos) { files[p] = plan.FileHash{Path: p, Hash: hash, Pos: at} }
	for _, f := range append(slices.Clone(tracked[""]), tracked[name]...) {
		files[f.Path] = f
	}

	spec := asMap(def)
	for _, k := range []string{"build", "pull_policy", "depends_on", "profiles", "scale", "env_file", "label_file", "develop", "extends", "name"} {
		delete(spec, k)
	}
	if deploy, ok := spec["deploy"].(map[string]any); ok {
		if delete(deploy, "replicas"); len(deploy) == 0 {
			delete(spec, "deploy")
		}
	}
	for k, v := range spec {
		if v == nil {
			delete(spec, k)
		}
	}
	definitions := map[string]any{}
	define := func(kind, key string, v any) map[string]any {
		all, _ := definitions[kind].(map[string]any)
		if all == nil {
			all = map[string]any{}
			definitions[kind] = all
		}
		all[key] = asMap(v)
		return all[key].(map[string]any)
	}
	for key := range def.Networks {
		if n, ok := c.project.Networks[key]; ok {
			define("networks", key, n)
		}
	}
	if list, ok := spec["volumes"].([]any); ok {
		for i, v := range def.Volumes {
			c.mount(name, v, i, note)
			if def, ok := c.project.Volumes[v.Source]; ok && v.Type == types.VolumeTypeVolume {
				spec := define("volumes", v.Source, def)
				if !def.External {
					c.d.Volumes[def.Name] = definition(spec, c.place("volumes", v.Source))
				}
			}
			if m, ok := list[i].(map[string]any); ok && v.Type == types.VolumeTypeBind {
				m["source"] = cleaned(v.Source)
			}
		}
	}
	for _, ref := range def.Configs {
		if o, ok := c.project.Configs[ref.Source]; ok {
			def := define("configs", ref.Source, o)
			c.object(types.FileObjectConfig(o), def, c.place("configs", ref.Source, "file"), note)
		}
	}
	for _, ref := range def.Secrets {
		if o, ok := c.project.Secrets[ref.Source]; ok {
			def := define("secrets", ref.Source, o)
			c.object(types.FileObjectConfig(o), def, c.place("secrets", ref.Source, "file"), note)
		}
	}
	if len(definitions) > 0 {
		spec["definitions"] = definitions
	}
	if def.Build != nil {
		c.build(name, def, spec, note)
	}
	c.ports(name, def)
	c.privileges(name, def)
	u.Spec = canonical(spec)
	names := maps.Clone(s.secrets)
	for _, ref := range nameRef.FindAllSubmatch(u.Spec, -1) {
		if c.inline || c.envText != "" {
			if _, known := c.knownSecret(string(ref[1])); known && len(ref[1]) > 0 {
				names[string(ref[1])] = true
			}
		}
	}
	u.Secrets = slices.Sorted(maps.Keys(names))
	for _, p := range slices.Sorted(maps.Keys(files)) {
		u.Files = append(u.Files, files[p])
	}
	sort.Strings(u.HostFiles)
	u.HostFiles = slices.Compact(u.HostFiles)
	u.Digest = plan.NewDigest(u.Spec, u.Files)
	return u
}

// knownSecret reports whether name stands in a text of the resource that is interpolated; [[NAME]] in a file of
// the repository is plain text.
func (c *composer) knownSecret(name string) (string, bool) {
	if c.cfg.SkipSecretInterp {
		return "", false
	}
	ref := "[[" + name + "]]"
	return name, strings.Contains(EnvText(c.cfg), ref) || c.inline && strings.Contains(c.cfg.FileContents, ref)
}

// oneShot: a container that ends with exit 0 is done, not down.
func oneShot(s types.ServiceConfig) bool {
	switch {
	case s.Restart != "":
		return s.Restart == "no" || strings.HasPrefix(s.Restart, "on-failure")
	case s.Deploy != nil && s.Deploy.RestartPolicy != nil:
		c := s.Deploy.RestartPolicy.Condition
		return c == "none" || c == "on-failure"
	}
	return true
}

// cleaned spells a bind's source in one way.
func cleaned(source string) string {
	if source == "" || path.IsAbs(source) || strings.HasPrefix(source, "~") {
		return path.Clean(source)
	}
	if p := path.Clean(source); strings.HasPrefix(p, "..") {
		return p
	} else {
		return "./" + p
	}
}

// mount notes a bind and the files of the repository it shows to the container.
func (c *composer) mount(service string, v types.ServiceVolumeConfig, i int, note func(p, hash string, at schema.Pos)) {
	if v.Type != types.VolumeTypeBind {
		return
	}
	at := c.place("services", service, "volumes", strconv.Itoa(i))
	b := plan.Bind{Service: service, Source: v.Source, Target: v.Target, Pos: at}
	b.NoCreate = v.Bind != nil && !bool(v.Bind.CreateHostPath)
	if path.IsAbs(v.Source) || strings.HasPrefix(v.Source, "~") {
		b.Source = path.Clean(v.Source)
		if b.Source == "/var/run/docker.sock" || b.Source == "/run/docker.sock" {
			c.d.Privileges = append(c.d.Privileges, plan.Privilege{Service: service, What: "docker socket", Pos: at})
		}
		c.d.Binds = append(c.d.Binds, b)
		return
	}
	b.Source = path.Join(c.work, v.Source)
	switch {
	case b.Source == ".." || strings.HasPrefix(b.Source, "../"):
		c.warn(at, "keep it below the repository's root", "service %q mounts %s, which lies outside the stack's folder", service, v.Source)
	case c.onHost:
		b.Source = c.shown(b.Source)
	case b.Source == c.envPath && c.envPath != "":
		b.InGit = true
		note(GeneratedEnv, BlobHash([]byte(EnvText(c.cfg))), at)
		c.services[service].envUsed = true
	default:
		if e, ok := c.carry(b.Source, at); ok {
			b.InGit = true
			note(b.Source, e.Hash, at)
		}
	}
	c.d.Binds = append(c.d.Binds, b)
}

// object notes the file of a config or secret.
func (c *composer) object(o types.FileObjectConfig, def map[string]any, at schema.Pos, note func(p, hash string, at schema.Pos)) {
	if o.Content != "" {
		def["content"] = o.Content
	}
	if o.File == "" {
		return
	}
	if c.onHost && !strings.HasPrefix(o.File, "~") {
		p := path.Join(c.work, o.File)
		if path.IsAbs(o.File) {
			p = strings.TrimPrefix(path.Clean(o.File), "/")
		}
		e, _, err := follow(c.tree, p)
		switch {
		case err == nil && e.Mode == ModeFile:
			note("/"+p, e.Hash, at)
		case errors.Is(err, fs.ErrNotExist):
			c.fail(at, "make the file on the host", "file /%s does not exist on this host", p)
		}
		return
	}
	if path.IsAbs(o.File) || strings.HasPrefix(o.File, "~") {
		return // the host's
	}
	p, err := within(c.work, o.File)
	if err != nil {
		c.fail(at, "", "file %v", err)
		return
	}
	def["file"] = cleaned(o.File)
	if p == c.envPath && c.envPath != "" {
		note(GeneratedEnv, BlobHash([]byte(EnvText(c.cfg))), at)
		return
	}
	e, ok := c.carry(p, at)
	if !ok {
		c.warn(at, "put it into the repository, or keep it on the host", "file %s is not in the repository: it is expected in the stack's folder on the host", p)
		return
	}
	note(p, e.Hash, at)
}

// build notes what a service's image is built of. It counts as part of the service only where the stack builds.
func (c *composer) build(name string, def types.ServiceConfig, spec map[string]any, note func(p, hash string, at schema.Pos)) {
	b := def.Build
	at := c.place("services", name, "build")
	if c.cfg.RunBuild {
		spec["build"] = asMap(b)
	}
	if b.Context == "" || strings.Contains(b.Context, "://") || strings.HasPrefix(b.Context, "git@") {
		return
	}
	contexts := []string{b.Context}
	for _, k := range slices.Sorted(maps.Keys(b.AdditionalContexts)) {
		if v := b.AdditionalContexts[k]; !strings.Contains(v, ":") {
			contexts = append(contexts, v)
		}
	}
	for _, dir := range contexts {
		p, err := within(c.work, dir)
		if err != nil {
			c.fail(at, "", "build context %v", err)
			continue
		}
		if c.onHost {
			continue
		}
		e, ok := c.carry(p, at)
		if !ok {
			if c.cfg.RunBuild {
				c.fail(at, "", "build context %s does not exist", folder(p))
			}
			continue
		}
		if c.cfg.RunBuild {
			note(p, e.Hash, at)
		}
	}
}

func (c *composer) ports(name string, def types.ServiceConfig) {
	for i, p := range def.Ports {
		at := c.place("services", name, "ports", strconv.Itoa(i))
		from, to, isRange := strings.Cut(p.Published, "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.ParseUint(from, 10, 16)
		b, err2 := strconv.ParseUint(to, 10, 16)
		if p.Published == "" || err1 != nil || err2 != nil || a == 0 || def.GetScale() > 1 && isRange {
			continue
		}
		for n := a; n <= b && n < a+maxPorts; n++ {
			c.d.Ports = append(c.d.Ports, plan.Port{HostIP: p.HostIP, Host: uint16(n), Protocol: cmp.Or(p.Protocol, "tcp"), Service: name, Pos: at})
			if isRange && p.Target != 0 && b > a {
				break // a range for one container port: the engine takes any free one of it
			}
		}
	}
}

func (c *composer) privileges(name string, def types.ServiceConfig) {
	add := func(what, key string) {
		c.d.Privileges = append(c.d.Privileges, plan.Privilege{Service: name, What: what, Pos: c.place("services", name, key)})
	}
	if def.Privileged {
		add("privileged", "privileged")
	}
	if def.NetworkMode == "host" {
		add("host network", "network_mode")
	}
	if def.Pid == "host" {
		add("host pid", "pid")
	}
}

func definition(spec map[string]any, at schema.Pos) plan.Definition {
	return plan.Definition{Digest: digest(spec), Spec: canonical(spec), Pos: at}
}

// asMap is v as its JSON's map.
func asMap(v any) map[string]any {
	data, err := json.Marshal(v)
	if err != nil {
		return map[string]any{}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	out := map[string]any{}
	if dec.Decode(&out) != nil {
		return map[string]any{}
	}
	return out
}

// canonical is v in the form digests are over.
func canonical(v any) json.RawMessage {
	data, err := plan.CanonicalJSON(v)
	if err != nil {
		return json.RawMessage("{}") // v came from JSON
	}
	return data
}

func digest(spec any) plan.Digest { return plan.NewDigest(canonical(spec), nil) }

func sortDiagnostics(diags []schema.Diagnostic) {
	slices.SortStableFunc(diags, func(a, b schema.Diagnostic) int {
		return cmp.Or(a.Pos.Compare(b.Pos), cmp.Compare(a.Message, b.Message))
	})
}

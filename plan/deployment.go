package plan

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/varanhq/varan/schema"
)

// maxPortRange bounds how many ports one line may publish.
const maxPortRange = 65536

// DeclareDeployment reads a deployment's one unit from its fields. r has its non-secret variables resolved;
// known names every [[NAME]] that has a value, secret (true) or not, as in Desired.Known.
func DeclareDeployment(r *schema.Resource, known map[string]bool) *Declared {
	out := &Declared{Resource: r.ID}
	c := r.Deployment()
	if c == nil {
		out.Unread = "it is no deployment"
		return out
	}
	d := &deployment{out: out, r: r, c: c}
	if c.Swarm != "" {
		out.Blocked = "swarm is not handled by varan"
	}
	d.image()
	extra := d.arguments()
	d.spec(extra)
	if !c.SkipSecretInterp {
		d.names(known)
	}
	d.unit.Digest = NewDigest(d.unit.Spec, d.unit.Files)

	host := cmp.Or(c.Network, "host") == "host"
	d.share(ShareNetwork, c.Network)
	d.flags(extra, &host)
	if host {
		d.privilege("host network", d.at("network", schema.Pos{}))
	} else {
		for _, kv := range c.Ports {
			d.publish(kv.Key+":"+kv.Value, d.at("ports", kv.Pos))
		}
		for _, p := range d.extraPorts {
			d.publish(p, r.At("config.extra_args"))
		}
	}
	for _, kv := range c.Volumes {
		d.mount(kv.Key, kv.Value, d.at("volumes", kv.Pos))
	}
	out.Units = []Unit{d.unit}
	return out
}

type deployment struct {
	out        *Declared
	r          *schema.Resource
	c          *schema.DeploymentConfig
	unit       Unit
	extraPorts []string
}

func (d *deployment) at(key string, pos schema.Pos) schema.Pos {
	if pos.File != "" {
		return pos
	}
	return d.r.At("config." + key)
}

func (d *deployment) fail(pos schema.Pos, message, hint string) {
	d.out.Diagnostics = append(d.out.Diagnostics, schema.Diagnostic{
		Severity: schema.SeverityError, Pos: pos, Message: string(d.r.ID) + ": " + message, Hint: hint})
}

func (d *deployment) image() {
	d.unit.Image = d.c.Image.Image
	switch {
	case d.c.Image.Build != "":
		d.unit.Image = "build/" + d.c.Image.Build
		d.unit.Build = true
		d.out.Blocked = "its image comes from build/" + d.c.Image.Build + ", and builds are not carried out by this version"
	case d.c.Image.Image == "":
		d.fail(d.r.At("config.image"), "it has no image", `write image = { type = "Image", params = { image = "…" } } under its config`)
	}
}

// spec is the canonical form of what makes the container what it is: the order of variables, labels, ports and
// mounts does not show in it.
func (d *deployment) spec(extra []string) {
	c := d.c
	name := cmp.Or(c.CustomName, d.r.Name)
	spec := map[string]any{
		"image":   d.unit.Image,
		"name":    name,
		"network": cmp.Or(c.Network, "host"),
		"restart": cmp.Or(c.Restart, "no"),
	}
	put := func(key string, v any, empty bool) {
		if !empty {
			spec[key] = v
		}
	}
	env, labels := map[string]string{}, map[string]string{}
	for _, kv := range c.Environment {
		env[kv.Key] = unquote(kv.Value)
	}
	for _, kv := range c.Labels {
		labels[kv.Key] = unquote(kv.Value)
		if strings.HasPrefix(kv.Key, "varan.") {
			d.fail(d.at("labels", kv.Pos), "labels named varan.* are varan's own", "choose another name than "+kv.Key)
		}
	}
	put("environment", env, len(env) == 0)
	put("labels", labels, len(labels) == 0)
	put("ports", pairs(c.Ports), len(c.Ports) == 0)
	put("volumes", pairs(c.Volumes), len(c.Volumes) == 0)
	put("command", strings.TrimSpace(c.Command), strings.TrimSpace(c.Command) == "")
	put("extra_args", extra, len(extra) == 0)
	put("stop_signal", c.TerminationSignal, c.TerminationSignal == "" || c.TerminationSignal == "SIGTERM")
	put("stop_timeout", c.TerminationTimeout, c.TerminationTimeout == 0 || c.TerminationTimeout == 10)
	put("skip_secret_interp", true, !c.SkipSecretInterp)
	raw, err := encodePlain(spec) // canonical as it is: of maps, whose keys are sorted, and no structs
	if err != nil {               // strings, numbers and maps of them always encode
		d.fail(d.r.Pos, err.Error(), "")
	}
	d.unit.Service, d.unit.Container, d.unit.Spec = d.r.Name, name, raw
	d.unit.OneShot = spec["restart"] == "no" || strings.HasPrefix(cmp.Or(c.Restart, "no"), "on-failure")
}

func pairs(list []schema.KV) []string {
	out := make([]string, 0, len(list))
	for _, kv := range list {
		out = append(out, kv.Key+":"+kv.Value)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// unquote removes the quotes around a value that begins and ends with one.
func unquote(v string) string {
	if len(v) >= 2 && strings.ContainsRune(`"'`, rune(v[0])) && strings.ContainsRune(`"'`, rune(v[len(v)-1])) {
		return v[1 : len(v)-1]
	}
	return v
}

// names finds the [[NAME]]s of the fields that are interpolated: which are secrets, which have no value.
func (d *deployment) names(known map[string]bool) {
	type text struct {
		s   string
		pos schema.Pos
	}
	var texts []text
	add := func(key string, list []schema.KV) {
		for _, kv := range list {
			texts = append(texts, text{kv.Key + "\n" + kv.Value, d.at(key, kv.Pos)})
		}
	}
	add("environment", d.c.Environment)
	add("ports", d.c.Ports)
	add("volumes", d.c.Volumes)
	add("labels", d.c.Labels)
	texts = append(texts, text{d.c.Command, d.r.At("config.command")})
	for _, a := range d.c.ExtraArgs {
		texts = append(texts, text{a, d.r.At("config.extra_args")})
	}
	seen := map[string]bool{}
	for _, t := range texts {
		for _, name := range Names(t.s) {
			if seen[name] {
				continue
			}
			seen[name] = true
			secret, ok := known[name]
			switch {
			case !ok:
				d.out.Missing = append(d.out.Missing, Missing{Name: name, Pos: t.pos})
			case secret:
				d.unit.Secrets = append(d.unit.Secrets, name)
			}
		}
	}
	slices.Sort(d.unit.Secrets)
}

// arguments are the words of extra_args.
func (d *deployment) arguments() []string {
	out, err := Arguments(d.c.ExtraArgs)
	if err != nil {
		d.fail(d.r.At("config.extra_args"), "extra_args: "+err.Error(), "close it")
	}
	return out
}

// flags looks in extra_args for what a reader or the planner must know. The agent parses them by docker's own
// flag parser; here only the spelling of some is looked at.
func (d *deployment) flags(args []string, host *bool) {
	pos := d.r.At("config.extra_args")
	for i := 0; i < len(args); i++ {
		name, value, has := strings.Cut(args[i], "=")
		next := func() string {
			if !has && i+1 < len(args) {
				i++
				return args[i]
			}
			return value
		}
		switch name {
		case "--privileged":
			if !has || value == "true" {
				d.privilege("privileged", pos)
			}
		case "--pid":
			mode := next()
			if mode == "host" {
				d.privilege("host pid", pos)
			}
			d.share(SharePID, mode)
		case "--ipc", "--uts", "--userns", "--cgroupns":
			mode := next()
			if mode == "host" {
				d.privilege("host "+strings.TrimPrefix(name, "--"), pos)
			}
			if name == "--ipc" {
				d.share(ShareIPC, mode)
			}
		case "--network", "--net":
			mode := next()
			*host = mode == "host"
			d.share(ShareNetwork, mode)
		case "--volumes-from":
			from, _, _ := strings.Cut(next(), ":")
			d.share(ShareVolumes, "container:"+from)
		case "--cap-add":
			d.privilege("capability "+next(), pos)
		case "--device":
			d.privilege("device "+next(), pos)
		case "--publish", "-p":
			d.extraPorts = append(d.extraPorts, next())
		case "--volume", "-v":
			if source, target, ok := strings.Cut(next(), ":"); ok {
				d.mount(source, target, pos)
			}
		case "--mount":
			d.mountFlag(next(), pos)
		case "--env-file", "--label-file":
			d.fail(pos, name+" cannot be used", "write the lines under environment or labels")
		case "--restart":
			policy := next()
			d.unit.OneShot = policy == "no" || policy == "" || strings.HasPrefix(policy, "on-failure")
		case "--env", "-e":
			if v := next(); !strings.Contains(v, "=") {
				d.fail(pos, "-e "+v+" would take its value from the environment of the agent", "write it under environment")
			}
		case "--security-opt":
			if v := next(); strings.HasPrefix(v, "seccomp=") && v != "seccomp=unconfined" && v != "seccomp=builtin" {
				d.fail(pos, "--security-opt seccomp=FILE cannot be used", "only unconfined and builtin can")
			}
		}
	}
}

// share notes a mode that stands for another container's namespace.
func (d *deployment) share(what, mode string) {
	name, ok := strings.CutPrefix(mode, "container:")
	if s := (Share{What: what, Container: name}); ok && name != "" && !slices.Contains(d.unit.Shares, s) {
		d.unit.Shares = append(d.unit.Shares, s)
	}
}

func (d *deployment) privilege(what string, pos schema.Pos) {
	p := Privilege{Service: d.r.Name, What: what, Pos: pos}
	if !slices.Contains(d.out.Privileges, p) {
		d.out.Privileges = append(d.out.Privileges, p)
	}
}

// mountFlag reads --mount type=bind,source=…,target=….
func (d *deployment) mountFlag(value string, pos schema.Pos) {
	fields := map[string]string{}
	for _, part := range strings.Split(value, ",") {
		k, v, _ := strings.Cut(part, "=")
		fields[k] = v
	}
	if fields["type"] == "bind" {
		d.mount(cmp.Or(fields["source"], fields["src"]), cmp.Or(fields["target"], fields["dst"], fields["destination"]), pos)
	}
}

// mount notes a bind mount; a named volume is docker's to make.
func (d *deployment) mount(source, target string, pos schema.Pos) {
	if strings.HasPrefix(source, ".") || strings.HasPrefix(source, "~") {
		d.fail(pos, "volume "+source+" is relative, and a deployment has no folder of its own", "write an absolute path or a volume's name")
		return
	}
	if !path.IsAbs(source) {
		return
	}
	target, _, _ = strings.Cut(target, ":")
	d.out.Binds = append(d.out.Binds, Bind{Service: d.r.Name, Source: path.Clean(source), Target: target, Pos: pos})
	if clean := path.Clean(source); clean == "/var/run/docker.sock" || clean == "/run/docker.sock" {
		d.privilege("docker socket", pos)
	} else if clean == "/" {
		d.privilege("the host's whole file system", pos)
	}
}

// publish reads one published port, [address:]host[-last]:container[-last][/protocol].
func (d *deployment) publish(text string, pos schema.Pos) {
	rest, protocol, _ := strings.Cut(text, "/")
	protocol = cmp.Or(strings.ToLower(protocol), "tcp")
	ip := ""
	if strings.HasPrefix(rest, "[") {
		end := strings.Index(rest, "]:")
		if end < 0 {
			return
		}
		ip, rest = rest[1:end], rest[end+2:]
	}
	parts := strings.Split(rest, ":")
	if len(parts) == 3 {
		ip, parts = parts[0], parts[1:]
	}
	if len(parts) != 2 || parts[0] == "" {
		return // the engine chooses a port
	}
	first, last, isRange := strings.Cut(parts[0], "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if errA != nil || errB != nil || a == 0 || b < a {
		return // not a number: a secret's name, or a mistake that schema or the agent reports
	}
	if isRange && !strings.Contains(parts[1], "-") {
		return // the engine takes any free one of the range
	}
	for p := a; p <= b && p < a+maxPortRange; p++ {
		d.out.Ports = append(d.out.Ports, Port{HostIP: ip, Host: uint16(p), Protocol: protocol, Service: d.r.Name, Pos: pos})
	}
}

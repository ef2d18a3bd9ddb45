package schema

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/go-connections/nat"
)

// check looks at one resource by itself.
func (d *decoder) check(r *Resource) {
	mapTexts(r, func(key, text string, pos Pos) string {
		if strings.Contains(text, "[[") {
			if _, _, err := Interpolate(text, func(string) (string, bool) { return "", false }); err != nil {
				d.diags = append(d.diags, Diagnostic{Severity: d.lenient(), Pos: pos, Message: fmt.Sprintf("%s: %s: %v", d.subject, key, err)})
			}
		}
		return text
	})
	switch c := r.Config.(type) {
	case *DeploymentConfig:
		d.checkDeployment(r, c)
	case *StackConfig:
		d.checkStack(r, c)
	case *ServerConfig:
		d.checkWindows(r, c.MaintenanceWindows)
		d.checkAddress(r, c)
		d.checkThresholds(r, c)
		d.checkAgentVersion(r, c)
		if c.PublicKey != "" && !agentKey(c.PublicKey) {
			d.at(r, d.lenient(), "config.public_key", "it is the text of 56 characters, beginning with U, that varan agent prints", "config.public_key is no agent's public key")
		}
	case *BuildConfig:
		d.checkLabels(r, "config.labels", c.Labels)
	case *ProcedureConfig:
		d.checkProcedure(r, c)
	case *AlerterConfig:
		d.checkWindows(r, c.MaintenanceWindows)
		d.checkTargets(r, c)
	case *ResourceSyncConfig:
		d.checkSync(r, c)
	}
}

func (d *decoder) swarm(r *Resource, name string) {
	if name == "" {
		return
	}
	d.at(r, SeverityWarning, "config.swarm", "", "a swarm is not handled by varan")
	d.diags[len(d.diags)-1].Unhandled = true
}

func (d *decoder) checkDeployment(r *Resource, c *DeploymentConfig) {
	d.checkUpdates(r, c.PollForUpdates, c.AutoUpdate)
	d.swarm(r, c.Swarm)
	switch {
	case c.Image.Type == "Build":
		if c.Image.Build == "" {
			d.at(r, d.lenient(), "config.image", "", "config.image names no build")
		}
	case c.Image.Image == "" && r.Has("config.image") && !r.Has("config.image.type") && !r.Has("config.image.params"): // of a wrong type
	case c.Image.Image == "":
		d.at(r, d.lenient(), "config.image", `set config.image = { type = "Image", params = { image = "…" } }`, "it has no image")
	case !strings.Contains(c.Image.Image, "[["):
		if _, err := reference.ParseNormalizedNamed(c.Image.Image); err != nil {
			d.at(r, SeverityError, "config.image.params.image", imageHint(c.Image.Image), "%q is not an image reference: %s", c.Image.Image, shortError(err))
		}
	}
	for _, kv := range c.Ports {
		d.checkPort(kv)
	}
	for _, kv := range c.Volumes {
		if kv.Key == "" || kv.Value == "" {
			d.kvError(kv, SeverityError, "", "the mount %q needs a source and a target", joinConv(kv))
			continue
		}
		target, _, _ := strings.Cut(kv.Value, ":")
		if !path.IsAbs(target) && !strings.Contains(target, "[[") && !isWindowsPath(kv) {
			d.kvError(kv, SeverityError, "", "the mount's target %q is not an absolute path", target)
		}
	}
	d.checkEnvironment(c.Environment)
	d.checkLabels(r, "config.labels", c.Labels)
}

func isWindowsPath(kv KV) bool { return len(kv.Key) == 1 && strings.HasPrefix(kv.Value, `\`) }

func joinConv(kv KV) string {
	if kv.Value == "" {
		return kv.Key
	}
	return kv.Key + ":" + kv.Value
}

func (d *decoder) kvError(kv KV, sev Severity, hint, format string, args ...any) {
	if len(d.diags) > maxFileDiagnostics {
		return
	}
	d.diags = append(d.diags, Diagnostic{Severity: sev, Pos: kv.Pos, Length: len(kv.Key), Message: d.subject + ": " + fmt.Sprintf(format, args...), Hint: hint})
}

func (d *decoder) checkPort(kv KV) {
	text := joinConv(kv)
	if strings.Contains(text, "[[") {
		return
	}
	if _, err := nat.ParsePortSpec(text); err != nil {
		d.kvError(kv, SeverityError, "write it as 8080:80, 127.0.0.1:8080:80 or 53:53/udp", "%q is not a port mapping: %s", text, shortError(err))
	}
}

// shortError is the last part of a library's error, which says what is wrong.
func shortError(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, ": "); i >= 0 && i+2 < len(s) {
		return s[i+2:]
	}
	return s
}

func imageHint(image string) string {
	if low := strings.ToLower(image); low != image {
		if _, err := reference.ParseNormalizedNamed(low); err == nil {
			return fmt.Sprintf("did you mean %q?", low)
		}
	}
	if strings.Contains(image, "://") {
		return "leave the protocol away"
	}
	return ""
}

func (d *decoder) checkEnvironment(kvs []KV) {
	for _, kv := range kvs {
		if kv.Key == "" || strings.ContainsAny(kv.Key, " \t\x00") {
			d.kvError(kv, d.lenient(), "", "%q cannot be the name of an environment variable", kv.Key)
		}
	}
}

// checkLabels refuses labels that are ours to set.
func (d *decoder) checkLabels(r *Resource, key string, kvs []KV) {
	for _, kv := range kvs {
		name := strings.Trim(kv.Key, `"' `)
		if name == "varan" || strings.HasPrefix(name, "varan.") {
			d.kvError(kv, SeverityError, "choose another name", "labels named varan.* are varan's own: %q", name)
		}
		if name == "" {
			d.kvError(kv, SeverityError, "", "a label has no name")
		}
	}
}

func (d *decoder) checkStack(r *Resource, c *StackConfig) {
	d.swarm(r, c.Swarm)
	if !c.FilesOnHost && c.LinkedRepo == "" && c.Repo == "" && strings.TrimSpace(c.FileContents) == "" &&
		c.RunDirectory == "" && len(c.FilePaths) == 0 {
		key := "config"
		d.at(r, d.lenient(), key, "set file_contents, repo, linked_repo or files_on_host, or run_directory for a folder of this repository",
			"it has no source: nothing says where its compose file is")
	}
	if c.ProjectName != "" && !validProject(c.ProjectName) && !strings.Contains(c.ProjectName, "[[") {
		d.at(r, SeverityError, "config.project_name", "use lower-case letters, digits, - and _, beginning with a letter or digit",
			"%q cannot be a compose project's name", c.ProjectName)
	}
	if (c.RegistryProvider == "") != (c.RegistryAccount == "") {
		d.at(r, SeverityWarning, pick(c.RegistryProvider != "", "config.registry_provider", "config.registry_account"), "",
			"registry_provider and registry_account only count together")
	}
	d.checkEnvironment(c.Environment)
	if c.Directory != "" && !path.IsAbs(c.Directory) {
		d.at(r, SeverityError, "config.directory", "", "directory = %q is not an absolute path", c.Directory)
	}
	d.checkUpdates(r, c.PollForUpdates, c.AutoUpdate)
	if c.ComposeCmdWrapper != "" {
		d.at(r, SeverityWarning, "config.compose_cmd_wrapper", "", "compose_cmd_wrapper is not carried out: varan runs no compose command")
		d.diags[len(d.diags)-1].Unhandled = true
	}
}

// checkUpdates says that nothing looks for newer images by itself yet.
func (d *decoder) checkUpdates(r *Resource, poll, update bool) {
	if !poll && !update {
		return
	}
	key := pick(update, "auto_update", "poll_for_updates")
	d.at(r, SeverityWarning, "config."+key, "", "%s is not carried out by this version: a moving tag is pulled when its service is recreated", key)
	d.diags[len(d.diags)-1].Unhandled = true
}

func pick(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

func validProject(s string) bool {
	for i, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '-' || c == '_')) {
			return false
		}
	}
	return true
}

func (d *decoder) checkWindows(r *Resource, ws []Window) {
	for i, w := range ws {
		key := "config.maintenance_windows[" + strconv.Itoa(i) + "]"
		switch {
		case w.ScheduleType == "Weekly" && w.DayOfWeek == "":
			d.at(r, SeverityError, key, "", "the Weekly window %q has no day_of_week", w.Name)
		case w.ScheduleType == "OneTime" && w.Date == "":
			d.at(r, SeverityError, key, "", "the OneTime window %q has no date", w.Name)
		}
	}
}

// agentKey reports whether s has the form of an agent's public key; whether it is one, the hub finds out.
func agentKey(s string) bool {
	return len(s) == 56 && s[0] == 'U' && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// checkAddress explains an address that nobody dials.
func (d *decoder) checkAddress(r *Resource, c *ServerConfig) {
	if c.Address != "" && c.Address != "local" && c.PublicKey == "" && !r.Template {
		d.at(r, SeverityWarning, "config.address", "start varan agent on the host and commit the public_key it prints; or address = \"local\" for the machine varan itself runs on",
			"address = %q is not used: agents dial in, and this server has no public_key yet", c.Address)
	}
}

var (
	agentVersion  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)
	agentPlatform = regexp.MustCompile(`^[a-z0-9]{1,16}-[a-z0-9]{1,16}$`)
	agentDigest   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// checkAgentVersion checks what its agent is to be. The words become the name of a file.
func (d *decoder) checkAgentVersion(r *Resource, c *ServerConfig) {
	const version, sums = "config.agent_version", "config.agent_sha256"
	switch {
	case c.AgentVersion == "" && len(c.AgentSHA256) == 0:
		return
	case c.AgentVersion == "":
		d.at(r, SeverityError, sums, "", "agent_sha256 needs agent_version beside it")
	case !agentVersion.MatchString(c.AgentVersion):
		d.at(r, SeverityError, version, "it is what varan version prints: letters, digits and . _ + -", "agent_version = %q is no version", c.AgentVersion)
	case len(c.AgentSHA256) == 0:
		d.at(r, SeverityError, version, `agent_sha256.linux-amd64 = "…", as sha256sum prints it`, "agent_version needs agent_sha256, for an agent takes no binary that no commit vouches for")
	}
	for _, platform := range slices.Sorted(maps.Keys(c.AgentSHA256)) {
		switch {
		case !agentPlatform.MatchString(platform):
			d.at(r, SeverityError, sums, "", "agent_sha256: %q is no platform, as linux-amd64 is", platform)
		case !agentDigest.MatchString(c.AgentSHA256[platform]):
			d.at(r, SeverityError, sums, "", "agent_sha256: what %s has is not 64 hex digits in lower case", platform)
		}
	}
}

func (d *decoder) checkThresholds(r *Resource, c *ServerConfig) {
	for _, t := range []struct {
		name              string
		warning, critical float64
	}{{"cpu", c.CPUWarning, c.CPUCritical}, {"mem", c.MemWarning, c.MemCritical}, {"disk", c.DiskWarning, c.DiskCritical}} {
		if t.warning > t.critical {
			key := pick(r.Has("config."+t.name+"_warning"), "config."+t.name+"_warning", "config."+t.name+"_critical")
			d.at(r, SeverityWarning, key, "", "%s_warning (%s) is above %s_critical (%s)", t.name, number(t.warning), t.name, number(t.critical))
		}
	}
}

func (d *decoder) checkProcedure(r *Resource, c *ProcedureConfig) {
	if c.Schedule != "" {
		if _, err := ParseSchedule(c.ScheduleFormat, c.Schedule); err != nil {
			d.at(r, SeverityError, "config.schedule", "", "schedule = %q: %v", c.Schedule, err)
		}
	}
	for i, s := range c.Stages {
		for j, e := range s.Executions {
			if p, ok := e.Execution.Params.(*ProcedureParams); ok && e.Execution.Type == "RunProcedure" && p.Procedure == r.Name {
				key := fmt.Sprintf("config.stage[%d].executions[%d]", i, j)
				d.at(r, SeverityError, key, "", "it runs itself")
			}
		}
	}
}

// targetKinds are the kinds a target may name, in Komodo's spelling.
var targetKinds = map[string]Kind{"Server": KindServer, "Stack": KindStack, "Deployment": KindDeployment, "Build": KindBuild,
	"Repo": KindRepo, "Procedure": KindProcedure, "Builder": KindBuilder, "Alerter": KindAlerter, "ResourceSync": KindResourceSync,
	"ServerTemplate": KindServerTemplate}

func (d *decoder) checkTargets(r *Resource, c *AlerterConfig) {
	for _, list := range []struct {
		key     string
		targets []Target
	}{{"config.resources", c.Resources}, {"config.except_resources", c.ExceptResources}} {
		for i, t := range list.targets {
			kind := targetKinds[t.Type]
			if kind == "" || t.ID == "" || strings.ContainsAny(t.ID, `*?\`) {
				continue
			}
			key := list.key + "[" + strconv.Itoa(i) + "]"
			if r.Has(key + ".id") {
				key += ".id"
			}
			d.refs = append(d.refs, pendingRef{kind: kind, id: NewID(kind, NormalName(kind, t.ID)), raw: t.ID, pos: r.At(key), length: r.Length(key)})
		}
	}
}

func (d *decoder) checkSync(r *Resource, c *ResourceSyncConfig) {
	for _, list := range []struct {
		key      string
		patterns []string
	}{{"config.kinds", c.Kinds}, {"config.servers", c.Servers}, {"config.secrets", c.Secrets}} {
		for i, p := range list.patterns {
			if _, err := CompilePattern(p); err != nil {
				key := list.key
				if k := key + "[" + strconv.Itoa(i) + "]"; r.Has(k) {
					key = k
				}
				d.at(r, SeverityError, key, "", "%v", err)
			}
		}
	}
}

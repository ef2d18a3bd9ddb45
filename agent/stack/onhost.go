package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/plan/compose"
	"github.com/varanhq/varan/schema"
)

// A hostTree is a host's files. A symlink below fence, which containers may write to, does not lead out of it.
type hostTree struct {
	*compose.Folder
	fence string // "" = none
}

// Lookup implements compose.Tree.
func (t hostTree) Lookup(name string) (compose.Entry, error) {
	e, err := t.Folder.Lookup(name)
	if err != nil || e.Mode != compose.ModeSymlink {
		return e, err
	}
	from := path.Join("/", path.Dir(name))
	to := path.Clean(e.Link)
	if !path.IsAbs(to) {
		to = path.Join(from, to)
	}
	if t.fence != "" && below(path.Join("/", name), t.fence) && !below(to, t.fence) {
		return e, fmt.Errorf("/%s is a symlink that leaves the stack's folder; it is not followed", name)
	}
	if path.IsAbs(e.Link) {
		up := "."
		if n := strings.Count(strings.TrimSuffix(from, "/"), "/"); n > 0 {
			up = strings.TrimSuffix(strings.Repeat("../", n), "/")
		}
		e.Link = path.Join(up, to)
	}
	return e, nil
}

func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// A HostDeclared is what a stack's files on this host declare.
type HostDeclared struct {
	Open  *plan.Declared // as they say it: never leaves the host
	Shown *plan.Declared // values as fingerprints
	Files []string       // those read, absolute
}

// Declare reads the stack's files on this host, as the daemon reads those of a repository. print makes a
// fingerprint under the agent's key: what a host file says may be secret.
func (s *Stack) Declare(ctx context.Context, print func(parts ...string) string) (*HostDeclared, error) {
	in := compose.Input{Resource: s.res, OnHost: s.cfg().FilesOnHost, Known: map[string]bool{}}
	for name := range s.secrets {
		in.Known[name] = true
	}
	out := &HostDeclared{}
	var values []string // of host files, where not everything is
	if in.OnHost {
		root, err := os.OpenRoot("/")
		if err != nil {
			return nil, err
		}
		defer root.Close()
		in.Tree = hostTree{compose.NewHost(root), s.fence}
	} else {
		sent, err := s.sent()
		if err != nil {
			return nil, err
		}
		in.Tree = sent
		in.HostEnv = func(name string) ([]byte, bool, error) {
			if !path.IsAbs(name) {
				name = path.Join(s.dir, name)
			}
			data, ok, err := s.file(name)
			out.Files = append(out.Files, name)
			values = append(values, compose.EnvValues(data)...)
			return data, ok, err
		}
	}
	d, reads := compose.Declare(ctx, in)
	out.Open = d
	for _, r := range reads {
		if in.OnHost && r.Hash != "" {
			out.Files = append(out.Files, path.Join("/", r.Path))
		}
	}
	s.blame(d)
	out.Shown = s.shown(d, print, func(v string) bool {
		return in.OnHost || slices.ContainsFunc(values, func(h string) bool { return h != "" && (v == h || len(h) > 2 && strings.Contains(v, h)) })
	})
	if in.OnHost {
		out.Shown.Paths = nil
	}
	return out, nil
}

// blame turns mistakes in files of this host, which no commit is to blame for, into what keeps the step.
func (s *Stack) blame(d *plan.Declared) {
	var rest []schema.Diagnostic
	for _, diag := range d.Diagnostics {
		if diag.File != "" && !path.IsAbs(diag.File) && s.cfg().FilesOnHost {
			diag.File = "/" + diag.File
		}
		diag.Message = s.mask.String(diag.Message)
		if diag.Severity != schema.SeverityError {
			rest = append(rest, diag)
			continue
		}
		text := diag.Message
		if diag.File != "" && !strings.Contains(text, diag.File) {
			text = fmt.Sprintf("%s:%d: %s", diag.File, diag.Line, text)
		}
		if diag.Hint != "" {
			text += " (" + diag.Hint + ")"
		}
		if d.Blocked == "" {
			d.Blocked = text
		}
	}
	d.Diagnostics = rest
}

// plainField reports whether a field of a service is shown as it is: it names things and says no secret.
// Everything else of a host file may, an environment above all.
func plainField(name string) bool {
	switch name {
	case "image", "container_name", "hostname", "restart", "network_mode", "networks", "ports", "volumes", "user", "working_dir",
		"stop_signal", "stop_grace_period", "cap_add", "cap_drop", "devices", "pid", "ipc", "tmpfs", "expose", "platform", "runtime",
		"group_add", "security_opt", "configs", "secrets", "deploy", "ulimits", "dns", "extra_hosts":
		return true
	}
	return false
}

// shown, for values ofHost, is d with the values of host files as fingerprints, and digests over that.
func (s *Stack) shown(d *plan.Declared, print func(parts ...string) string, ofHost func(string) bool) *plan.Declared {
	hide := func(at []string, v string) string {
		if v == "" || !ofHost(v) {
			return v
		}
		text := onHost + " " + print(append([]string{"host value", string(s.op.Resource)}, append(slices.Clone(at), v)...)...)[:12]
		for _, name := range plan.Names(v) {
			if _, ok := s.secrets[name]; ok {
				text += " [[" + name + "]]"
			}
		}
		return text
	}
	out := *d
	out.Units = slices.Clone(d.Units)
	for i := range out.Units {
		u := &out.Units[i]
		u.Files = slices.Clone(u.Files)
		for j, f := range u.Files {
			if !s.cfg().FilesOnHost {
				break
			}
			u.Files[j].Hash = print("host file", string(s.op.Resource), f.Path, f.Hash)
		}
		u.Spec = rewrite(u.Spec, func(at []string, v string) string {
			if plainField(at[0]) {
				return v
			}
			if at[0] == "definitions" && slices.Contains([]string{"name", "driver", "file"}, at[len(at)-1]) && len(at) == 4 {
				return v
			}
			return hide(append([]string{u.Service}, at...), v)
		})
		u.Digest = plan.NewDigest(u.Spec, u.Files)
	}
	out.Volumes = map[string]plan.Definition{}
	for name, def := range d.Volumes {
		def.Spec = rewrite(def.Spec, func(at []string, v string) string {
			if at[0] == "name" || at[0] == "driver" {
				return v
			}
			return hide(append([]string{"volume", name}, at...), v)
		})
		def.Digest = plan.NewDigest(def.Spec, nil)
		out.Volumes[name] = def
	}
	return &out
}

// rewrite passes every string of a spec through fn, with the way to it.
func rewrite(spec json.RawMessage, fn func(at []string, v string) string) json.RawMessage {
	dec := json.NewDecoder(strings.NewReader(string(spec)))
	dec.UseNumber()
	var tree any
	if dec.Decode(&tree) != nil {
		return spec
	}
	var walk func(at []string, v any) any
	walk = func(at []string, v any) any {
		switch v := v.(type) {
		case string:
			return fn(at, v)
		case []any:
			for i := range v {
				v[i] = walk(append(slices.Clone(at), fmt.Sprint(i)), v[i])
			}
		case map[string]any:
			for k := range v {
				v[k] = walk(append(slices.Clone(at), k), v[k])
			}
		}
		return v
	}
	out, err := plan.CanonicalJSON(walk(nil, tree))
	if err != nil {
		return spec
	}
	return out
}

// hideValues takes values out of changes that compare what runs with files of this host.
func hideValues(changes []plan.Change) {
	for i := range changes {
		for _, v := range []*any{&changes[i].Old, &changes[i].New} {
			if *v != nil {
				*v = onHost
			}
		}
	}
}

var _ compose.Tree = hostTree{}

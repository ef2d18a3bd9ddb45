package sync

import (
	"slices"
	"strings"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// values are what [[NAME]] may stand for in one sync.
type values struct {
	plain   map[string]string          // variables
	secrets map[string]protocol.Secret // variables with is_secret, and [secrets]
	known   map[string]bool            // every name: is it a secret?
}

// newValues joins variables and secrets; a variable comes before a secret of its name.
func newValues(vars map[string]*schema.Variable, secrets map[string]protocol.Secret) *values {
	v := &values{plain: map[string]string{}, secrets: map[string]protocol.Secret{}, known: map[string]bool{}}
	for name, s := range secrets {
		v.secrets[name], v.known[name] = s, true
	}
	for name, x := range vars {
		if x.IsSecret {
			v.secrets[name], v.known[name] = protocol.Secret(x.Value), true
			continue
		}
		delete(v.secrets, name)
		v.plain[name], v.known[name] = x.Value, false
	}
	for name := range v.plain { // a variable may hold others; a circle ends after a few rounds
		for range 5 {
			next := v.substitute(v.plain[name])
			if next == v.plain[name] {
				break
			}
			v.plain[name] = next
		}
	}
	return v
}

// substitute puts variables in place of their [[NAME]]. Secrets, unknown names and the escape [[[NAME]]] stay
// as they are: the agent has the last word on them.
func (v *values) substitute(text string) string {
	if !strings.Contains(text, "[[") {
		return text
	}
	var b strings.Builder
	for {
		i := strings.Index(text, "[[")
		if i < 0 {
			b.WriteString(text)
			return b.String()
		}
		b.WriteString(text[:i])
		text = text[i:]
		if strings.HasPrefix(text, "[[[") {
			end := strings.Index(text, "]]]")
			if end < 0 {
				b.WriteString(text)
				return b.String()
			}
			b.WriteString(text[:end+3])
			text = text[end+3:]
			continue
		}
		end := strings.Index(text, "]]")
		if end < 0 {
			b.WriteString(text)
			return b.String()
		}
		if value, ok := v.plain[text[2:end]]; ok {
			b.WriteString(value)
		} else {
			b.WriteString(text[:end+2])
		}
		text = text[end+2:]
	}
}

func (v *values) pairs(list []schema.KV) []schema.KV {
	out := slices.Clone(list)
	for i := range out {
		out[i].Key, out[i].Value = v.substitute(out[i].Key), v.substitute(out[i].Value)
	}
	return out
}

func (v *values) list(list []string) []string {
	out := slices.Clone(list)
	for i := range out {
		out[i] = v.substitute(out[i])
	}
	return out
}

// resolve gives a stack or deployment with its variables in place of their names; the very same when it uses
// none.
func (v *values) resolve(r *schema.Resource) *schema.Resource {
	used := slices.ContainsFunc(namesOf(r), func(name string) bool { _, plain := v.plain[name]; return plain })
	if !used {
		return r
	}
	out := *r
	switch c := r.Config.(type) {
	case *schema.DeploymentConfig:
		d := *c
		d.Environment, d.Ports, d.Volumes, d.Labels = v.pairs(c.Environment), v.pairs(c.Ports), v.pairs(c.Volumes), v.pairs(c.Labels)
		d.Command, d.ExtraArgs = v.substitute(c.Command), v.list(c.ExtraArgs)
		out.Config = &d
	case *schema.StackConfig:
		s := *c
		s.FileContents, s.Environment = v.substitute(c.FileContents), v.pairs(c.Environment)
		s.PreDeploy.Command, s.PostDeploy.Command = v.substitute(c.PreDeploy.Command), v.substitute(c.PostDeploy.Command)
		s.ExtraArgs, s.BuildExtraArgs = v.list(c.ExtraArgs), v.list(c.BuildExtraArgs)
		out.Config = &s
	}
	return &out
}

// namesOf lists the [[NAME]]s in the texts of a resource that are interpolated, sorted.
func namesOf(r *schema.Resource) []string {
	var texts []string
	pairs := func(list []schema.KV) {
		for _, kv := range list {
			texts = append(texts, kv.Key, kv.Value)
		}
	}
	switch c := r.Config.(type) {
	case *schema.DeploymentConfig:
		if c.SkipSecretInterp {
			return nil
		}
		pairs(c.Environment)
		pairs(c.Ports)
		pairs(c.Volumes)
		pairs(c.Labels)
		texts = append(append(texts, c.Command), c.ExtraArgs...)
	case *schema.StackConfig:
		if c.SkipSecretInterp {
			return nil
		}
		pairs(c.Environment)
		texts = append(texts, c.FileContents, c.PreDeploy.Command, c.PostDeploy.Command)
		texts = append(append(texts, c.ExtraArgs...), c.BuildExtraArgs...)
	}
	return plan.Names(texts...)
}

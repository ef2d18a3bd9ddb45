package schema

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Interpolate puts values in place of [[NAME]], in one pass: what a value holds is not looked at again.
// [[[NAME]]] stands for the text [[NAME]]. A name without a value stays as it is and is listed in missing,
// each once, in order, unless it is no name at all: shell tests like [[ -f x ]] and [[:space:]] are left
// alone. A [[ without ]] is an error, as is [[[[.
func Interpolate(text string, lookup func(name string) (value string, ok bool)) (string, []string, error) {
	return interpolate(text, false, lookup)
}

func interpolate(text string, keepEscape bool, lookup func(name string) (value string, ok bool)) (string, []string, error) {
	if !strings.Contains(text, "[[") {
		return text, nil, nil
	}
	var b strings.Builder
	var missing []string
	for {
		i := strings.Index(text, "[[")
		if i < 0 {
			b.WriteString(text)
			return b.String(), missing, nil
		}
		b.WriteString(text[:i])
		text = text[i:]
		switch {
		case strings.HasPrefix(text, "[[[["):
			return "", missing, errors.New("[[[[ stands for nothing: write [[NAME]], or [[[NAME]]] for the text [[NAME]]")
		case strings.HasPrefix(text, "[[["):
			end := strings.Index(text, "]]]")
			if end < 0 {
				return "", missing, errors.New("[[[ without ]]]")
			}
			if keepEscape {
				b.WriteString(text[:end+3])
			} else {
				b.WriteString(text[1 : end+2])
			}
			text = text[end+3:]
		default:
			end := strings.Index(text, "]]")
			if end < 0 {
				return "", missing, errors.New("[[ without ]]")
			}
			name := text[2:end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString(text[:end+2])
				if plausibleName(name) && !slices.Contains(missing, name) {
					missing = append(missing, name)
				}
			}
			text = text[end+2:]
		}
	}
}

// plausibleName tells a name from other text between double brackets.
func plausibleName(s string) bool {
	for i, c := range s {
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && (c >= '0' && c <= '9' || c == '-' || c == '.')) {
			return false
		}
	}
	return s != ""
}

// Names are the names that text interpolates, each once, in order.
func Names(text string) []string {
	_, names, _ := Interpolate(text, func(string) (string, bool) { return "", false })
	return names
}

// A MissingName is a [[NAME]] without a value, and where it stands.
type MissingName struct {
	Name string
	Pos  Pos
}

// ResolveVariables returns r with its non-secret variables filled in, and the names that have no value
// anywhere. known tells of names kept elsewhere (varan.toml, the agents) and whether they are secret.
//
// Secrets stay as [[NAME]], also those a variable's value brings in, and so does the escape [[[NAME]]]:
// whoever holds the secrets calls Interpolate once on each text (see [InterpolatedTexts]) and is then done.
// Variables do not resolve inside variables. With skip_secret_interp r is returned as it is.
func ResolveVariables(r *Resource, vars map[string]*Variable, known func(name string) (secret, ok bool)) (*Resource, []MissingName) {
	var missing []MissingName
	copied := *r
	changed := false
	miss := func(name string, pos Pos) {
		m := MissingName{Name: name, Pos: pos}
		if !slices.Contains(missing, m) {
			missing = append(missing, m)
		}
	}
	ask := func(name string) (found bool) {
		if known == nil {
			return false
		}
		_, ok := known(name)
		return ok
	}
	copied.Config = mapTexts(r, func(key, text string, pos Pos) string {
		if !strings.Contains(text, "[[") {
			return text
		}
		out, names, err := interpolate(text, true, func(name string) (string, bool) {
			if v := vars[name]; v != nil && !v.IsSecret {
				for _, inner := range Names(v.Value) {
					if w := vars[inner]; (w == nil || !w.IsSecret) && !ask(inner) {
						miss(inner, v.Pos)
					}
				}
				return v.Value, true
			}
			return "", false
		})
		if err != nil {
			return text // Parse has said so
		}
		for _, name := range names {
			if v := vars[name]; (v == nil || !v.IsSecret) && !ask(name) {
				miss(name, pos)
			}
		}
		changed = changed || out != text
		return out
	})
	if !changed {
		return r, missing
	}
	return &copied, missing
}

// InterpolatedTexts are the texts of r in which [[NAME]] is replaced, by key; nothing with skip_secret_interp.
func InterpolatedTexts(r *Resource) map[string][]string {
	texts := map[string][]string{}
	mapTexts(r, func(key, text string, _ Pos) string {
		texts[key] = append(texts[key], text)
		return text
	})
	return texts
}

// mapTexts returns a copy of r's Config in which every text that interpolates went through f. Komodo
// interpolates no image names, repositories, networks or paths, and so do we.
func mapTexts(r *Resource, f func(key, text string, pos Pos) string) any {
	kvs := func(key string, list []KV) []KV {
		out := slices.Clone(list)
		for i, kv := range out {
			out[i].Key = f(key, kv.Key, kv.Pos)
			out[i].Value = f(key, kv.Value, kv.Pos)
		}
		return out
	}
	text := func(key string, s *string) { *s = f(key, *s, r.At(key)) }
	list := func(key string, ss []string) []string {
		out := slices.Clone(ss)
		for i := range out {
			at := key
			if k := key + "[" + strconv.Itoa(i) + "]"; r.Has(k) {
				at = k
			}
			out[i] = f(key, out[i], r.At(at))
		}
		return out
	}
	switch c := r.Config.(type) {
	case *DeploymentConfig:
		if c.SkipSecretInterp {
			return c
		}
		n := *c
		n.Environment = kvs("config.environment", c.Environment)
		n.Ports = kvs("config.ports", c.Ports)
		n.Volumes = kvs("config.volumes", c.Volumes)
		n.Labels = kvs("config.labels", c.Labels)
		n.ExtraArgs = list("config.extra_args", c.ExtraArgs)
		text("config.command", &n.Command)
		return &n
	case *StackConfig:
		if c.SkipSecretInterp {
			return c
		}
		n := *c
		n.Environment = kvs("config.environment", c.Environment)
		n.ExtraArgs = list("config.extra_args", c.ExtraArgs)
		n.BuildExtraArgs = list("config.build_extra_args", c.BuildExtraArgs)
		text("config.file_contents", &n.FileContents)
		text("config.pre_deploy.command", &n.PreDeploy.Command)
		text("config.post_deploy.command", &n.PostDeploy.Command)
		return &n
	case *RepoConfig:
		if c.SkipSecretInterp {
			return c
		}
		n := *c
		n.Environment = kvs("config.environment", c.Environment)
		text("config.on_clone.command", &n.OnClone.Command)
		text("config.on_pull.command", &n.OnPull.Command)
		return &n
	case *BuildConfig:
		if c.SkipSecretInterp {
			return c
		}
		n := *c
		n.BuildArgs = kvs("config.build_args", c.BuildArgs)
		n.SecretArgs = kvs("config.secret_args", c.SecretArgs)
		n.Labels = kvs("config.labels", c.Labels)
		n.ExtraArgs = list("config.extra_args", c.ExtraArgs)
		text("config.pre_build.command", &n.PreBuild.Command)
		text("config.dockerfile", &n.Dockerfile)
		return &n
	case *AlerterConfig:
		n := *c
		e := &n.Endpoint
		const key = "config.endpoint.params.url"
		switch {
		case e.Custom != nil:
			x := *e.Custom
			text(key, &x.URL)
			e.Custom = &x
		case e.Slack != nil:
			x := *e.Slack
			text(key, &x.URL)
			e.Slack = &x
		case e.Discord != nil:
			x := *e.Discord
			text(key, &x.URL)
			e.Discord = &x
		case e.Ntfy != nil:
			x := *e.Ntfy
			text(key, &x.URL)
			e.Ntfy = &x
		case e.Pushover != nil:
			x := *e.Pushover
			text(key, &x.URL)
			e.Pushover = &x
		}
		return &n
	}
	return r.Config
}

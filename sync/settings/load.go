package settings

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/agnivade/levenshtein"

	"github.com/varanhq/varan/schema"
)

var errValue = errors.New(`a secret is "value" or { file = "path" }`)

// Input is all that Settings come from.
type Input struct {
	Where Where
	File  string // as named in diagnostics
	Data  []byte // nil: there is no file
	// Values override the file: dotted keys ("config.poll") from flags, then from VARAN_ variables.
	Values map[string]Override
}

// An Override is one key's value from outside the file.
type Override struct {
	Text string
	From string // "--listen" or "VARAN_LISTEN", for messages
}

// Load reads varan.toml over the defaults and checks it. Files of secrets are not read: see [Reader]. The
// Settings are complete whatever the Diagnostics say; with an error among them they must not be used.
func Load(in Input) (*Settings, []schema.Diagnostic) {
	s := Defaults(in.Where)
	l := loader{in: in}
	if in.Data != nil {
		l.decode(s)
	}
	l.override(s)
	s.GitProvider = append(s.GitProvider, s.GitProviders...)
	s.DockerRegistry = append(s.DockerRegistry, s.ImageRegistry...)
	s.GitProviders, s.ImageRegistry = nil, nil
	l.check(s)
	slices.SortStableFunc(l.diags, func(a, b schema.Diagnostic) int { return a.Pos.Compare(b.Pos) })
	return s, l.diags
}

type loader struct {
	in    Input
	keys  map[string]mark
	diags []schema.Diagnostic
}

func (l *loader) decode(s *Settings) {
	const most = 1 << 20
	if len(l.in.Data) > most {
		l.diags = append(l.diags, schema.Diagnostic{Severity: schema.SeverityError, Pos: schema.Pos{File: l.in.File},
			Message: fmt.Sprintf("the file has %d bytes; more than %d is no varan.toml", len(l.in.Data), most)})
		return
	}
	l.keys = marks(l.in.File, l.in.Data)
	md, err := toml.Decode(string(l.in.Data), s)
	var pe toml.ParseError
	switch {
	case errors.As(err, &pe):
		pos := schema.Pos{File: l.in.File, Line: pe.Position.Line, Column: pe.Position.Col}
		if m, ok := l.keys[pe.LastKey]; ok && pos.Column == 0 {
			pos = m.pos
		}
		l.diags = append(l.diags, schema.Diagnostic{Severity: schema.SeverityError, Pos: pos, Length: pe.Position.Len, Message: pe.Message})
		return
	case err != nil:
		l.diags = append(l.diags, schema.Diagnostic{Severity: schema.SeverityError, Pos: schema.Pos{File: l.in.File}, Message: strings.TrimPrefix(err.Error(), "toml: ")})
		return
	}
	known := knownKeys()
	var unknown []string
	for _, k := range md.Undecoded() {
		parts := make([]string, len(k))
		copy(parts, k)
		name := strings.Join(parts, ".")
		if slices.ContainsFunc(unknown, func(u string) bool { return strings.HasPrefix(name, u+".") }) || strings.HasPrefix(name, "secrets.") {
			continue
		}
		unknown = append(unknown, name)
		parent, last := "", name
		if i := strings.LastIndexByte(name, '.'); i >= 0 {
			parent, last = name[:i], name[i+1:]
		}
		d := schema.Diagnostic{Severity: schema.SeverityError, Pos: l.at(name), Length: len(last),
			Message: fmt.Sprintf("unknown key %q", last)}
		if parent != "" {
			d.Message += fmt.Sprintf(" in [%s]", parent)
		}
		if near := nearest(last, known[parent]); near != "" {
			d.Hint = fmt.Sprintf("did you mean %q?", near)
		} else if in := holder(last, known); in != "" {
			d.Hint = fmt.Sprintf("%q stands in [%s]", last, in)
		}
		l.diags = append(l.diags, d)
	}
}

// at is where a key stands, or the file.
func (l *loader) at(key string) schema.Pos {
	if m, ok := l.keys[key]; ok {
		return m.pos
	}
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		return l.at(key[:i])
	}
	return schema.Pos{File: l.in.File}
}

// checkCluster looks at the addresses of an existing NATS cluster.
func (l *loader) checkCluster(s *Settings) {
	scheme := ""
	for _, one := range strings.Split(s.Hub.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		switch {
		case err == nil && u.User != nil:
			l.fail("hub.url", "hub.url holds a user or password: the daemon logs in with keys that derive from the fleet's; varan key --nats prints what the cluster needs to know of them")
			return
		case err != nil || u.Hostname() == "" || u.Scheme != "nats" && u.Scheme != "tls":
			l.fail("hub.url", "hub.url is nats://HOST:PORT or tls://HOST:PORT, several with commas between")
			return
		case scheme != "" && u.Scheme != scheme:
			l.fail("hub.url", "the addresses of hub.url are all nats:// or all tls://")
			return
		}
		scheme = u.Scheme
	}
	if s.Hub.Listen != "" {
		l.warn("hub.listen", "hub.listen is not used with hub.url: agents connect to the NATS cluster")
	}
}

func (l *loader) fail(key, format string, args ...any) {
	d := schema.Diagnostic{Severity: schema.SeverityError, Message: fmt.Sprintf(format, args...)}
	if o, ok := l.in.Values[key]; ok {
		d.Message = o.From + ": " + d.Message
	} else {
		d.Pos = l.at(key)
		d.Length = len(key[strings.LastIndexByte(key, '.')+1:])
	}
	l.diags = append(l.diags, d)
}

func (l *loader) warn(key, format string, args ...any) {
	l.fail(key, format, args...)
	l.diags[len(l.diags)-1].Severity = schema.SeverityWarning
}

// override sets the keys given from outside the file.
func (l *loader) override(s *Settings) {
	for _, key := range slices.Sorted(maps.Keys(l.in.Values)) {
		o := l.in.Values[key]
		if name, ok := strings.CutPrefix(key, "secrets."); ok {
			if s.Secrets == nil {
				s.Secrets = map[string]*Value{}
			}
			s.Secrets[name] = &Value{Secret: NewSecret(o.Text)}
			continue
		}
		f, ok := field(reflect.ValueOf(s).Elem(), key)
		if !ok {
			l.fail(key, "no such setting")
			continue
		}
		if err := set(f, o.Text); err != nil {
			l.fail(key, "%v", err)
		}
	}
}

// field finds a scalar or list of strings by its dotted key.
func field(v reflect.Value, key string) (reflect.Value, bool) {
	head, rest, deeper := strings.Cut(key, ".")
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("toml") != head {
			continue
		}
		f := v.Field(i)
		if deeper {
			if f.Kind() == reflect.Struct {
				return field(f, rest)
			}
			return reflect.Value{}, false
		}
		return f, settable(f.Type())
	}
	return reflect.Value{}, false
}

func settable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		return true
	case reflect.Slice:
		return t.Elem().Kind() == reflect.String
	}
	return false
}

func set(f reflect.Value, text string) error {
	if d, ok := f.Addr().Interface().(*Duration); ok {
		return d.UnmarshalText([]byte(text))
	}
	switch f.Kind() {
	case reflect.String:
		f.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		f.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is no number", text)
		}
		f.SetInt(n)
	case reflect.Slice:
		var list []string
		for _, x := range strings.Split(text, ",") {
			if x = strings.TrimSpace(x); x != "" {
				list = append(list, x)
			}
		}
		f.Set(reflect.ValueOf(list))
	}
	return nil
}

// Keys lists the dotted keys that a flag or variable can set, sorted.
func Keys() []string {
	var keys []string
	walkKeys(reflect.TypeFor[Settings](), "", func(parent, key string, t reflect.Type) {
		if settable(t) && !strings.Contains(parent, "[]") {
			keys = append(keys, strings.TrimPrefix(parent+"."+key, "."))
		}
	})
	slices.Sort(keys)
	return keys
}

// Variable is the environment variable of a key: "config.poll" is VARAN_CONFIG_POLL.
func Variable(key string) string {
	return "VARAN_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// Environment picks the overrides out of an environment ("NAME=value" strings). VARAN_SECRETS_X sets the secret
// X. A variable that begins with VARAN_ and means nothing is not an error: other programs may share the prefix.
func Environment(environ []string) map[string]Override {
	byName := map[string]string{}
	for _, k := range Keys() {
		byName[Variable(k)] = k
	}
	out := map[string]Override{}
	for _, kv := range environ {
		name, text, _ := strings.Cut(kv, "=")
		if k, ok := byName[name]; ok {
			out[k] = Override{text, name}
		} else if n, ok := strings.CutPrefix(name, "VARAN_SECRETS_"); ok && n != "" {
			out["secrets."+n] = Override{text, name}
		}
	}
	return out
}

// walkKeys visits every key of a table; a list of tables is visited under "parent[]".
func walkKeys(t reflect.Type, parent string, visit func(parent, key string, t reflect.Type)) {
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("toml")
		if key == "" {
			continue
		}
		visit(parent, key, f.Type)
		path := strings.TrimPrefix(parent+"."+key, ".")
		switch {
		case f.Type == reflect.TypeFor[Secret]():
		case f.Type.Kind() == reflect.Struct:
			walkKeys(f.Type, path, visit)
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			walkKeys(f.Type.Elem(), path+"[]", visit)
		}
	}
}

// knownKeys maps a table's path to its keys.
func knownKeys() map[string][]string {
	known := map[string][]string{}
	walkKeys(reflect.TypeFor[Settings](), "", func(parent, key string, _ reflect.Type) {
		p := strings.ReplaceAll(parent, "[]", "")
		known[p] = append(known[p], key)
	})
	return known
}

func nearest(word string, among []string) string {
	best, at := "", 3
	for _, k := range among {
		if d := levenshtein.ComputeDistance(strings.ToLower(word), k); d < at && d*2 < max(len(word), len(k)) {
			best, at = k, d
		}
	}
	return best
}

// holder finds the one table that has the key.
func holder(key string, known map[string][]string) string {
	var in []string
	for parent, keys := range known {
		if parent != "" && slices.Contains(keys, key) {
			in = append(in, parent)
		}
	}
	if len(in) == 1 {
		return in[0]
	}
	return ""
}

var fleetName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

func (l *loader) check(s *Settings) {
	if !fleetName.MatchString(s.Name) {
		l.fail("name", "the fleet's name %q must be letters, digits, '.', '_' or '-', at most 63", s.Name)
	}
	if name := s.Config.StatusName; name != "" && !fleetName.MatchString(name) {
		l.fail("config.status_name", "%q must be letters, digits, '.', '_' or '-', at most 63", name)
	}
	l.oneOf("compat", s.Compat, "", "komodo")
	l.oneOf("config.apply", s.Config.Apply, "auto", "manual")
	l.oneOf("config.drift", s.Config.Drift, "", "correct", "report")
	l.oneOf("config.on_surprise", s.Config.OnSurprise, "ask", "apply")
	l.oneOf("config.preview_forks", s.Config.PreviewForks, "off", "collaborators", "all")
	l.oneOf("log_format", s.LogFormat, "text", "json")
	l.oneOf("log_level", s.LogLevel, "debug", "info", "warn", "error")
	if s.Config.Drift == "" {
		s.Config.Drift = "correct"
		if s.Compat == "komodo" {
			s.Config.Drift = "report"
		}
	}
	if s.Config.Poll < Duration(1e9) {
		l.fail("config.poll", "poll must be at least 1s")
	}
	if s.Config.MaxRemovals < 0 {
		l.fail("config.max_removals", "max_removals must not be negative")
	}
	if s.Config.MaxFailures < 1 {
		l.fail("config.max_failures", "max_failures must be at least 1")
	}
	for _, key := range []string{"data_dir", "agent.root", "hub.key_file"} {
		f, _ := field(reflect.ValueOf(s).Elem(), key)
		if !filepath.IsAbs(f.String()) {
			l.fail(key, "%s must be an absolute path, not %q", key, f.String())
		} else {
			f.SetString(filepath.Clean(f.String()))
		}
	}
	if inside(s.Agent.Root, s.DataDir) {
		l.fail("agent.root", "agent.root must not lie inside data_dir: deleting data_dir must lose no stack's files")
	}
	if inside(s.Hub.KeyFile, s.DataDir) {
		l.fail("hub.key_file", "hub.key_file must not lie inside data_dir: it is the one file to back up")
	}
	if _, port, ok := cutPort(s.Hub.Listen); s.Hub.Listen != "" {
		if _, err := strconv.ParseUint(port, 10, 16); !ok || err != nil {
			l.fail("hub.listen", "hub.listen %q is not HOST:PORT or :PORT", s.Hub.Listen)
		}
	}
	if dir := s.Hub.AgentsDir; dir != "" && !filepath.IsAbs(dir) {
		l.fail("hub.agents_dir", "hub.agents_dir must be an absolute path, not %q", dir)
	}
	if s.Hub.Patience <= 0 {
		l.fail("hub.patience", "hub.patience must be longer than nothing")
	}
	if s.Hub.URL != "" {
		l.checkCluster(s)
	}
	for _, f := range s.Forge {
		l.oneOf("forge.type", f.Type, "github", "gitea", "forgejo", "gitlab")
	}
	l.checkHTTP(s)
	l.checkProviders("git_provider", s.GitProvider)
	l.checkProviders("docker_registry", s.DockerRegistry)
	for i, t := range s.Token {
		if t.Name == "" {
			l.fail("token", "[[token]] number %d has no name", i+1)
		}
		l.oneOf("token.role", t.Role, "read", "operate")
		if b, err := hex.DecodeString(strings.TrimPrefix(t.Hash, "sha256:")); err != nil || len(b) != 32 {
			l.fail("token.hash", "the hash of token %q must be the SHA-256 of the token in hex: printf %%s TOKEN | sha256sum", t.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		if name == "" || strings.ContainsAny(name, "[] \t\n") {
			l.fail("secrets."+name, "a secret's name %q must not hold spaces or brackets", name)
		}
	}
}

func (l *loader) checkHTTP(s *Settings) {
	if (s.TLSCertFile == "") != (s.TLSKeyFile == "") {
		l.fail(cmp.Or(present(s.TLSCertFile, "tls_cert_file"), "tls_key_file"), "tls_cert_file and tls_key_file need each other")
	}
	if s.Listen != "" {
		host, port, ok := cutPort(s.Listen)
		if !ok {
			l.fail("listen", "listen %q is not HOST:PORT", s.Listen)
		} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			l.fail("listen", "listen %q has no port between 0 and 65535", s.Listen)
		} else if !loopback(host) && s.TLSCertFile == "" && !s.BehindProxy {
			l.fail("listen", "plain HTTP beyond loopback needs tls_cert_file, or behind_proxy = true where a proxy adds TLS")
		}
	}
	for _, p := range s.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err != nil {
			if _, err := netip.ParseAddr(p); err != nil {
				l.fail("trusted_proxies", "%q is neither an address nor a network", p)
			}
		}
	}
	if s.PublicURL != "" {
		if u, err := url.Parse(s.PublicURL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
			l.fail("public_url", "public_url %q is not an https:// address", s.PublicURL)
		}
	}
}

func present(v, key string) string {
	if v == "" {
		return ""
	}
	return key
}

func (l *loader) checkProviders(key string, ps []Provider) {
	seen := map[string]bool{}
	for i, p := range ps {
		if p.Domain == "" {
			l.fail(key, "[[%s]] number %d has no domain", key, i+1)
		}
		if strings.Contains(p.Domain, "://") {
			l.fail(key+".domain", "domain is a host like %q, not a URL", strings.SplitN(p.Domain, "://", 2)[1])
		}
		for _, a := range p.Accounts {
			who := p.Domain + "\x00" + a.Username
			if seen[who] {
				l.fail(key+".accounts", "%s has two accounts named %q", p.Domain, a.Username)
			}
			seen[who] = true
			if a.Token.v != "" && a.TokenFile != "" {
				l.fail(key+".accounts", "account %q of %s has both token and token_file", a.Username, p.Domain)
			}
		}
	}
}

func (l *loader) oneOf(key, v string, allowed ...string) {
	if slices.Contains(allowed, v) {
		return
	}
	var quoted []string
	for _, a := range allowed {
		quoted = append(quoted, strconv.Quote(a))
	}
	l.fail(key, "%s is %q; it can be %s", key[strings.LastIndexByte(key, '.')+1:], v, strings.Join(quoted, " or "))
}

func cutPort(addr string) (host, port string, ok bool) {
	i := strings.LastIndexByte(addr, ':')
	if i < 0 {
		return "", "", false
	}
	return strings.Trim(addr[:i], "[]"), addr[i+1:], true
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// inside reports whether path is dir or lies below it.
func inside(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

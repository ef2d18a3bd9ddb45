package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
)

// An Address says where a repository is. Only remotes have a Host.
type Address struct {
	Scheme string // https, http, ssh, or file for anything on this machine
	User   string // ssh only
	Host   string // lower case, without port
	Port   string // "" = the scheme's
	Path   string // remotes: begins with "/"; file: an absolute path
	Home   bool   // ssh: Path is relative to the user's home (user@host:path)
}

// scp is the short form of an ssh address: user@host:path.
var scp = regexp.MustCompile(`^([A-Za-z0-9._-]+)@(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([^/].*|/.*)$`)

// ErrAddress marks an address varan does not take.
var ErrAddress = errors.New("address not taken")

// ParseAddress understands https://, http://, ssh://, user@host:path, file:// and, as a path, what is left.
// Credentials inside an address are refused: they are bound in varan.toml.
func ParseAddress(s string) (Address, error) {
	if m := scp.FindStringSubmatch(s); m != nil {
		return Address{Scheme: "ssh", User: m[1], Host: strings.ToLower(strings.Trim(m[2], "[]")),
			Path: "/" + strings.TrimPrefix(m[3], "/"), Home: m[3][0] != '/'}, nil
	}
	if strings.Contains(s, "::") && !strings.Contains(s, "/::") && !strings.Contains(s, "://") {
		return Address{}, fmt.Errorf("%w: remote helpers (%s) are not supported", ErrAddress, s[:strings.Index(s, "::")+2])
	}
	if !strings.Contains(s, "://") {
		return localAddress(s)
	}
	u, err := url.Parse(s)
	if err != nil {
		return Address{}, fmt.Errorf("%w: not a URL", ErrAddress) // the error would quote the userinfo
	}
	if _, has := u.User.Password(); has {
		return Address{}, fmt.Errorf("%w: %s holds a password: put it into [[git_provider]]", ErrAddress, u.Redacted())
	}
	a := Address{Scheme: strings.ToLower(u.Scheme), Host: strings.ToLower(u.Hostname()), Port: u.Port(), Path: u.Path}
	switch a.Scheme {
	case "https", "http":
		if u.User != nil {
			return Address{}, fmt.Errorf("%w: a user in an %s address: put the account into [[git_provider]]", ErrAddress, a.Scheme)
		}
	case "ssh":
		a.User = u.User.Username()
		if a.User == "" {
			a.User = "git"
		}
	case "file":
		if u.Host != "" && u.Host != "localhost" {
			return Address{}, fmt.Errorf("%w: file://%s is on another host", ErrAddress, u.Host)
		}
		return localAddress(u.Path)
	default:
		return Address{}, fmt.Errorf("%w: scheme %q (https, ssh, http or file)", ErrAddress, a.Scheme)
	}
	if a.Host == "" || strings.Trim(a.Path, "/") == "" {
		return Address{}, fmt.Errorf("%w: %s names no repository", ErrAddress, u.Redacted())
	}
	if a.Port == defaultPort(a.Scheme) {
		a.Port = ""
	}
	return a, nil
}

func localAddress(p string) (Address, error) {
	if p == "" {
		return Address{}, fmt.Errorf("%w: empty", ErrAddress)
	}
	abs, err := filepath.Abs(p)
	if err != nil {
		return Address{}, fmt.Errorf("%w: %s: %w", ErrAddress, p, err)
	}
	return Address{Scheme: "file", Path: abs}, nil
}

func defaultPort(scheme string) string {
	switch scheme {
	case "https":
		return "443"
	case "http":
		return "80"
	case "ssh":
		return "22"
	}
	return ""
}

// Local reports whether the address is on this machine.
func (a Address) Local() bool { return a.Scheme == "file" }

// String is the address without any user's name: fit for logs, labels and pages.
func (a Address) String() string {
	if a.Local() {
		return a.Path
	}
	return a.Scheme + "://" + a.authority() + a.Path
}

func (a Address) authority() string {
	if a.Port != "" {
		return net.JoinHostPort(a.Host, a.Port)
	}
	if strings.Contains(a.Host, ":") {
		return "[" + a.Host + "]"
	}
	return a.Host
}

func (a Address) hostPort() string {
	port := a.Port
	if port == "" {
		port = defaultPort(a.Scheme)
	}
	return net.JoinHostPort(a.Host, port)
}

// Same reports whether two addresses name one repository, whatever the scheme's spelling: a trailing ".git"
// or "/" and the ssh user make no difference.
func (a Address) Same(b Address) bool {
	trim := func(p string) string { return strings.TrimSuffix(strings.Trim(p, "/"), ".git") }
	if a.Local() || b.Local() {
		return a.Local() == b.Local() && filepath.Clean(a.Path) == filepath.Clean(b.Path)
	}
	samePort := a.Port == b.Port || a.Scheme != b.Scheme // https beside ssh: the host decides
	return a.Host == b.Host && samePort && strings.EqualFold(trim(a.Path), trim(b.Path))
}

// A Credential is bound to scheme, host, port and, when Path is not empty, to repositories below it.
type Credential struct {
	Scheme   string // "" = https
	Host     string // with ":port" unless it is the scheme's
	Path     string
	Username string
	Token    string
	SSHKey   string // PEM
	// Fresh, in the place of Token, gives one that counts now: a GitHub App's lives an hour. It is handed the one that
	// was refused, "" = none was.
	Fresh func(ctx context.Context, refused string) (string, error)
}

// token is what to sign in with over HTTP, "" = nothing.
func (c *Credential) token(ctx context.Context, refused string) (string, error) {
	if c == nil {
		return "", nil
	}
	if c.Fresh == nil {
		return c.Token, nil
	}
	token, err := c.Fresh(ctx, refused)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrAuth, err)
	}
	return token, nil
}

// String names the account without its secret.
func (c Credential) String() string { return c.Username + "@" + c.Host }

// GoString keeps %#v from showing the token.
func (c Credential) GoString() string { return "gitrepo.Credential{" + c.String() + "}" }

// Covers reports whether the credential may be sent to the address.
func (c Credential) Covers(a Address) bool {
	scheme := c.Scheme
	if scheme == "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(c.Host)
	if err != nil {
		host, port = strings.Trim(c.Host, "[]"), ""
	}
	if port == defaultPort(scheme) {
		port = ""
	}
	if scheme != a.Scheme || !strings.EqualFold(host, a.Host) || port != a.Port {
		return false
	}
	prefix := strings.Trim(c.Path, "/")
	path := strings.Trim(a.Path, "/")
	return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

// Pick chooses the credential for an address: among those that cover it the one of that account, or, with no
// account named, the one with the longest path. Nil: none.
func Pick(creds []Credential, a Address, account string) *Credential {
	var best *Credential
	for i := range creds {
		c := &creds[i]
		if !c.Covers(a) || account != "" && c.Username != account {
			continue
		}
		if best == nil || len(c.Path) > len(best.Path) {
			best = c
		}
	}
	return best
}

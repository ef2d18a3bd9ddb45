package forge

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Options say which forge, and as whom: one [[forge]] of varan.toml.
type Options struct {
	Kind   Kind
	Domain string // "github.com", with ":port" unless it is the scheme's
	APIURL string // "" = where that kind has its API on Domain
	Token  string // or App
	App    *App   // GitHub only
	Agent  string // User-Agent; "" = "varan"

	AllowInternal bool
	AllowHTTP     bool
	Roots         *x509.CertPool // nil = the system's
}

// App is a GitHub App's credential.
type App struct {
	ID           int64
	Installation int64
	Key          string // PEM
}

// String shows no secret.
func (o Options) String() string { return string(o.Kind) + " at " + o.Domain }

// GoString keeps %#v from showing one.
func (o Options) GoString() string { return o.String() }

// String shows no secret.
func (a App) String() string { return fmt.Sprintf("App %d, installation %d", a.ID, a.Installation) }

// GoString keeps %#v from showing one.
func (a App) GoString() string { return a.String() }

// Base is where the API lies, without a slash at its end; for Gitea without /api/v1.
func (o Options) Base() (*url.URL, error) {
	at := o.APIURL
	if at == "" {
		switch {
		case o.Domain == "":
			return nil, errors.New("a [[forge]] needs a domain")
		case o.Kind == GitHub && strings.EqualFold(o.Domain, "github.com"):
			at = "https://api.github.com"
		case o.Kind == GitHub:
			at = "https://" + o.Domain + "/api/v3"
		case o.Kind == Gitea:
			at = "https://" + o.Domain
		case o.Kind == GitLab:
			at = "https://" + o.Domain + "/api/v4"
		default:
			return nil, fmt.Errorf("no forge is of the type %q: github, gitea or gitlab", o.Kind)
		}
	}
	u, err := url.Parse(at)
	switch {
	case err != nil:
		return nil, errors.New("api_url cannot be read as a URL") // the error would repeat what may hold a password
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("api_url is scheme, host and path only: the credential stands in its own key")
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("api_url %q must begin with https://", at)
	case u.Scheme == "http" && !o.AllowHTTP:
		return nil, fmt.Errorf("api_url %q: plain http needs allow_http = true in varan.toml", at)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	switch o.Kind {
	case Gitea:
		u.Path = strings.TrimSuffix(u.Path, "/api/v1")
	case GitLab:
		if !strings.HasSuffix(u.Path, "/api/v4") {
			u.Path += "/api/v4"
		}
	}
	return u, nil
}

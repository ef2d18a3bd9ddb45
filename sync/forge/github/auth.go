package github

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	gosync "sync"

	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/golang-jwt/jwt/v4"
	"github.com/google/go-github/v60/github"

	"github.com/varanhq/varan/sync/forge"
)

// tokenAuth adds a token.
type tokenAuth struct {
	token string
	next  http.RoundTripper
}

// RoundTrip sends with the token.
func (t *tokenAuth) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+t.token)
	return t.next.RoundTrip(req)
}

// appAuth adds an installation's token, and fetches a new one shortly before it ends or when it is refused: an
// owner may revoke it, and clocks differ.
type appAuth struct {
	app  forge.App
	key  *ghinstallation.RSASigner
	base string
	next http.RoundTripper
	apps *ghinstallation.AppsTransport // as the App itself

	mu      gosync.Mutex // guards current
	current *ghinstallation.Transport
}

func newAppAuth(base *url.URL, app forge.App) (*appAuth, error) {
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(app.Key))
	if err != nil {
		return nil, fmt.Errorf("it is not an RSA key in PEM form: %w", err)
	}
	return &appAuth{app: app, base: base.String(), key: ghinstallation.NewRSASigner(jwt.SigningMethodRS256, key)}, nil
}

// renew forgets the token of old, if that is still the current one, and returns what to send with.
func (a *appAuth) renew(old *ghinstallation.Transport) *ghinstallation.Transport {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.apps == nil {
		a.apps, _ = ghinstallation.NewAppsTransportWithOptions(a.next, a.app.ID, ghinstallation.WithSigner(a.key)) // fails without a signer only
		a.apps.BaseURL = a.base
	}
	if a.current == old {
		apps := *a.apps // it writes its own base address into it at each refresh
		a.current = ghinstallation.NewFromAppsTransport(&apps, a.app.Installation)
		a.current.BaseURL = a.base
		a.current.InstallationTokenOptions = &github.InstallationTokenOptions{} // nil would be sent as null, which is no body GitHub knows
		a.current.Client = &http.Client{Transport: a.next}
	}
	return a.current
}

// token is the installation's, another one than the refused.
func (a *appAuth) token(ctx context.Context, refused string) (string, error) {
	a.mu.Lock()
	with := a.current
	a.mu.Unlock()
	token, err := with.Token(ctx)
	if err == nil && refused != "" && token == refused {
		token, err = a.renew(with).Token(ctx)
	}
	return token, err
}

// RoundTrip sends as the installation. A refused token is fetched anew once.
func (a *appAuth) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	with := a.current
	a.mu.Unlock()
	res, err := with.RoundTrip(req)
	if err != nil || res.StatusCode != http.StatusUnauthorized || req.Body != nil && req.GetBody == nil {
		return res, err
	}
	_ = res.Body.Close()
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, fmt.Errorf("send again with a new token: %w", err)
		}
	}
	return a.renew(with).RoundTrip(again)
}

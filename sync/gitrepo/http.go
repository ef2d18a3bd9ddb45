package gitrepo

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"

	"github.com/varanhq/varan/sync/dial"
)

const (
	maxRefs   = 64 << 20 // bytes of advertised refs
	userAgent = "git/2.0 (varan)"
)

// smartHTTP speaks Git's smart HTTP protocol with one kept-alive connection.
type smartHTTP struct {
	base   string // address without a trailing slash
	cred   *Credential
	addr   Address
	client *http.Client
}

func newSmartHTTP(addr Address, cred *Credential, allowInternal bool, roots *x509.CertPool) *smartHTTP {
	t := &smartHTTP{base: strings.TrimSuffix(addr.String(), "/"), cred: cred, addr: addr}
	t.client = &http.Client{
		Transport: &http.Transport{ // no Proxy: nothing of the environment decides where a credential goes
			DialContext:           dial.Dialer(allowInternal).DialContext,
			TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:     true,
			MaxIdleConns:          2,
			IdleConnTimeout:       5 * time.Minute,
			TLSHandshakeTimeout:   20 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute,
		},
		CheckRedirect: t.redirect,
	}
	return t
}

// redirect follows to https only; the credential goes along only to where it is bound. net/http carries the
// header of the first request to sub-domains too, so it is taken off and set anew.
func (t *smartHTTP) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return errors.New("more than five redirects")
	}
	if req.URL.Scheme != "https" {
		return fmt.Errorf("%w: redirect to %s: only https is followed", ErrRefused, req.URL.Redacted())
	}
	req.URL.User = nil
	req.Header.Del("Authorization")
	return t.authorize(req, "")
}

// authorize adds the credential if it is bound to where the request goes. refused is a token that was not accepted.
func (t *smartHTTP) authorize(req *http.Request, refused string) error {
	if t.cred == nil {
		return nil
	}
	to := Address{Scheme: req.URL.Scheme, Host: strings.ToLower(req.URL.Hostname()), Port: req.URL.Port(), Path: repoPath(req.URL)}
	if to.Port == defaultPort(to.Scheme) {
		to.Port = ""
	}
	if !t.cred.Covers(to) {
		return nil
	}
	token, err := t.cred.token(req.Context(), refused)
	if token == "" || err != nil {
		return err
	}
	user := t.cred.Username
	if user == "" {
		user = "git"
	}
	req.SetBasicAuth(user, token)
	return nil
}

// repoPath is the repository's path in the URL of one of its services.
func repoPath(u *url.URL) string {
	p := strings.TrimSuffix(u.Path, "/git-upload-pack")
	return strings.TrimSuffix(p, "/info/refs")
}

func (t *smartHTTP) close() { t.client.CloseIdleConnections() }

func (t *smartHTTP) open(ctx context.Context) (conversation, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.base+"/info/refs?service=git-upload-pack", nil)
	if err != nil {
		return nil, err
	}
	res, err := t.do(req)
	if err != nil {
		return nil, err
	}
	defer drain(res.Body)
	if ct := res.Header.Get("Content-Type"); ct != "application/x-git-upload-pack-advertisement" {
		return nil, fmt.Errorf("%w: %s answers %q, not Git's smart protocol", ErrNotFound, t.addr, ct)
	}
	refs, err := advertised(res.Body, maxRefs)
	if err != nil {
		return nil, err
	}
	base := *res.Request.URL // after redirects
	base.RawQuery = ""
	base.Path = strings.TrimSuffix(base.Path, "/info/refs")
	return &httpTalk{t: t, base: base.String(), adv: refs}, nil
}

func (t *smartHTTP) do(req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", userAgent)
	if err := t.authorize(req, ""); err != nil {
		return nil, err
	}
	res, err := t.client.Do(req)
	if _, token, signed := req.BasicAuth(); err == nil && res.StatusCode == http.StatusUnauthorized && signed && t.cred.Fresh != nil && req.Body == nil {
		drain(res.Body)
		if err := t.authorize(req, token); err != nil {
			return nil, err
		}
		res, err = t.client.Do(req)
	}
	if err != nil {
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err // its URL is ours, and the caller names it
		}
		return nil, err
	}
	switch {
	case res.StatusCode == http.StatusOK:
		return res, nil
	case res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden:
		err = ErrAuth
		if t.cred == nil {
			err = fmt.Errorf("%w: none is set for it in [[git_provider]]", ErrAuth)
		}
	case res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusGone:
		err = ErrNotFound
		if t.cred == nil {
			err = fmt.Errorf("%w, or it is private and [[git_provider]] has no account for it", ErrNotFound)
		}
	default:
		err = errors.New("unexpected answer")
	}
	drain(res.Body)
	return nil, fmt.Errorf("%w (HTTP %d)", err, res.StatusCode)
}

// drain reads what little is left so that the connection can be used again.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}

type httpTalk struct {
	t    *smartHTTP
	base string
	adv  *packp.AdvRefs
}

func (c *httpTalk) refs() *packp.AdvRefs { return c.adv }
func (c *httpTalk) close()               {}

func (c *httpTalk) pack(ctx context.Context, pr *packp.UploadPackRequest) (io.ReadCloser, error) {
	var body bytes.Buffer
	if err := encode(&body, pr); err != nil {
		return nil, fmt.Errorf("write the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/git-upload-pack", &body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	req.Header.Set("Accept", "application/x-git-upload-pack-result")
	res, err := c.t.do(req)
	if err != nil {
		return nil, err
	}
	return &drained{res.Body}, nil
}

// drained reads the body's end before closing it.
type drained struct{ io.ReadCloser }

func (d *drained) Close() error { drain(d.ReadCloser); return nil }

package github

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"github.com/varanhq/varan/sync/forge"
)

// A Manifest asks GitHub for an App with exactly what varan needs.
type Manifest struct {
	Name     string // unique on all of GitHub
	Webhook  string // where events go: public_url + "/webhook/github"; "" = no webhook, varan polls
	Redirect string // where GitHub leads the browser to with the code
	Org      string // "" = the user's own App
}

// JSON is the manifest as GitHub reads it.
func (m Manifest) JSON() ([]byte, error) {
	wants := map[string]string{"metadata": "read"}
	for _, p := range permissions {
		wants[p.name] = p.level
	}
	out := map[string]any{
		"name": m.Name, "url": "https://github.com/varanhq/varan", "public": false,
		"description":         "Shows on pull requests what a merge will do to Docker hosts, and says how it went.",
		"default_permissions": wants, "redirect_url": m.Redirect,
	}
	if m.Webhook != "" {
		out["hook_attributes"] = map[string]any{"url": m.Webhook, "active": true}
		out["default_events"] = events
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode the App's manifest: %w", err)
	}
	return text, nil
}

// form is one button: GitHub takes a manifest only from a form that a person sends.
var form = template.Must(template.New("manifest").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A GitHub App for varan</title></head>
<body><h1>A GitHub App for varan</h1>
<p>GitHub will show what the App may do before anything is made. It is private to {{.Owner}}.</p>
<form action="{{.Action}}" method="post"><input type="hidden" name="manifest" value="{{.Manifest}}">
<button>Create the App on {{.Domain}}</button></form>
</body></html>
`))

// Page is the HTML form that sends the manifest. The state comes back beside the code, so that nobody else's code is
// taken for ours.
func (m Manifest) Page(domain, state string) ([]byte, error) {
	text, err := m.JSON()
	if err != nil {
		return nil, err
	}
	at := "https://" + domain + "/settings/apps/new"
	owner := "you"
	if m.Org != "" {
		at = "https://" + domain + "/organizations/" + url.PathEscape(m.Org) + "/settings/apps/new"
		owner = m.Org
	}
	var out bytes.Buffer
	err = form.Execute(&out, map[string]string{
		"Action": at + "?state=" + url.QueryEscape(state), "Manifest": string(text), "Domain": domain, "Owner": owner,
	})
	if err != nil {
		return nil, fmt.Errorf("write the App's page: %w", err)
	}
	return out.Bytes(), nil
}

// A NewApp is what GitHub made of a manifest. Key and webhook secret are told this once.
type NewApp struct {
	ID            int64
	Slug          string
	URL           string // its page, where it is installed
	Key           string // PEM
	WebhookSecret string
}

// String shows no secret.
func (a NewApp) String() string { return fmt.Sprintf("App %d (%s)", a.ID, a.Slug) }

// GoString keeps %#v from showing one.
func (a NewApp) GoString() string { return a.String() }

// Convert trades a manifest's code for the App. A code is good for one hour and one use; no credential is needed.
func Convert(ctx context.Context, o forge.Options, code string) (NewApp, error) {
	o.Kind = forge.GitHub
	base, err := o.Base()
	if err != nil {
		return NewApp{}, err
	}
	if code == "" || strings.ContainsAny(code, "/?#% ") {
		return NewApp{}, fmt.Errorf("%q is no code of a manifest: it stands behind ?code= in the address GitHub led to", code)
	}
	h := forge.NewHTTP(o, base, func(next http.RoundTripper) http.RoundTripper { return next })
	h.Secret(code)
	c := &Client{domain: o.Domain, http: h}
	app, res, err := client(h.Client, base).Apps.CompleteAppManifest(ctx, code)
	if err != nil {
		return NewApp{}, c.err(err, res, "trade the manifest's code for the App at %s", o.Domain)
	}
	return NewApp{
		ID: app.GetID(), Slug: app.GetSlug(), URL: app.GetHTMLURL(), Key: app.GetPEM(), WebhookSecret: app.GetWebhookSecret(),
	}, nil
}

package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/connect"
	"github.com/varanhq/varan/sync/forge/github"
	"github.com/varanhq/varan/sync/gitrepo"
	"github.com/varanhq/varan/sync/report"
	"github.com/varanhq/varan/sync/settings"
)

func newForge(sh *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "forge", Short: "GitHub, Gitea, Forgejo, GitLab: check and set up",
		Example: "  varan forge check\n  varan forge app-manifest --org acme",
	}
	cmd.AddCommand(newForgeCheck(sh), newForgeManifest(sh))
	return cmd
}

// forgeCheckCommand tries the credentials of every [[forge]].
type forgeCheckCommand struct {
	sh     *shell
	config *config
	Repos  []string
}

func newForgeCheck(sh *shell) *cobra.Command {
	c := &forgeCheckCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "check [OWNER/NAME…]", Short: "try the credentials of every [[forge]] and say what they lack",
		Long: `check signs in at every [[forge]] of varan.toml and looks whether it may do what varan needs on the config
repository, or on the repositories named. Nothing is written there. It ends with 1 if something needed is missing.`,
		Example: "  varan forge check\n  varan forge check acme/infra acme/shop",
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Repos = args
			return c.Run(cmd.Context())
		},
	}
	c.config = newConfig(sh, cmd.Flags())
	return cmd
}

// Run tries them all; exit 1 when something needed is missing.
func (c *forgeCheckCommand) Run(ctx context.Context) error {
	set, _, err := c.config.read(ctx)
	if err != nil {
		return err
	}
	if len(set.Forge) == 0 {
		return errors.New("varan.toml has no [[forge]]\nadd one: type, domain and token_file, or app_id, installation_id and private_key_file")
	}
	bad := 0
	for i := range set.Forge {
		f := &set.Forge[i]
		if f.Token.Reveal() == "" && f.AppID == 0 {
			c.sh.print("· " + report.Escape(f.Domain) + ": has no credential, only a webhook secret: varan hears of pushes and says nothing there\n")
			continue
		}
		repos, err := c.repos(set, f)
		if err != nil {
			return err
		}
		client, err := connect.To(forgeOptions(set, f))
		if err != nil {
			return err
		}
		if len(repos) == 0 {
			bad++
			c.sh.print("✗ " + report.Escape(f.Domain) + ": name a repository there: varan forge check OWNER/NAME\n")
		}
		for _, repo := range repos {
			findings, err := client.Check(ctx, repo)
			if err != nil {
				return fmt.Errorf("check %s: %w", f.Domain, err)
			}
			c.sh.print(report.Escape(fmt.Sprintf("%s at %s", repo, f.Domain)) + "\n")
			bad += c.show(findings)
		}
	}
	if bad > 0 {
		return silent(1)
	}
	return nil
}

// show prints findings and counts those that matter.
func (c *forgeCheckCommand) show(findings []forge.Finding) (bad int) {
	for _, f := range findings {
		mark := "✓ "
		switch {
		case !f.OK && f.Optional:
			mark = "· "
		case !f.OK:
			mark = "✗ "
			bad++
		}
		c.sh.print("  " + mark + report.Escape(f.What+": "+f.Detail) + "\n")
		if f.Fix != "" {
			c.sh.print("    " + report.Escape(f.Fix) + "\n")
		}
	}
	return bad
}

// repos are those named, else the config repository if it lies on that forge.
func (c *forgeCheckCommand) repos(set *settings.Settings, f *settings.Forge) ([]forge.Repo, error) {
	var out []forge.Repo
	for _, name := range c.Repos {
		r, err := forge.ParseRepo(name)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	if len(out) > 0 || set.Config.URL == "" {
		return out, nil
	}
	at, err := gitrepo.ParseAddress(set.Config.URL)
	if err != nil || at.Local() {
		return nil, nil // serve says what is wrong with it
	}
	host := at.Host
	if at.Port != "" && at.Scheme != "ssh" {
		host += ":" + at.Port
	}
	if !strings.EqualFold(host, f.Domain) {
		return nil, nil
	}
	r, err := forge.ParseRepo(at.Path)
	if err != nil {
		return nil, fmt.Errorf("[config] url: %w", err)
	}
	return []forge.Repo{r}, nil
}

// forgeManifestCommand makes a GitHub App.
type forgeManifestCommand struct {
	sh     *shell
	config *config

	Domain, APIURL, Org, Name, Webhook string
	Dir, Page, Code                    string
}

func newForgeManifest(sh *shell) *cobra.Command {
	c := &forgeManifestCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "app-manifest", Short: "create a GitHub App with exactly the permissions varan needs",
		Long: `app-manifest serves a page on this machine with one button. It leads to GitHub, which shows what the App may do
and makes it; then the browser comes back here, and the App's private key and webhook secret are written to files.

On a machine without a browser: write the page with --page, open it elsewhere, press the button, and give the code
from the address that GitHub leads to (it does not have to load) with --code.`,
		Example: "  varan forge app-manifest --org acme --webhook https://varan.acme.example/webhook/github\n" +
			"  varan forge app-manifest --page app.html\n  varan forge app-manifest --code 0123456789abcdef",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	c.config = newConfig(sh, cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&c.Domain, "domain", "github.com", "where GitHub is")
	f.StringVar(&c.APIURL, "api-url", "", "where its API is, if not where it usually is")
	f.StringVar(&c.Org, "org", "", "the organization that owns the App (default: you)")
	f.StringVar(&c.Name, "name", "", "the App's name, unique on GitHub (default varan-ORG)")
	f.StringVar(&c.Webhook, "webhook", "", "where GitHub sends events (default public_url + /webhook/github, else none: varan polls)")
	f.StringVar(&c.Dir, "out", ".", "the `FOLDER` for the key and the secret")
	f.StringVar(&c.Page, "page", "", "write the page to a `FILE` and end")
	f.StringVar(&c.Code, "code", "", "trade the `CODE` that GitHub led back with for the App")
	return cmd
}

// Run makes the App, or one half of the way.
func (c *forgeManifestCommand) Run(ctx context.Context) error {
	set, _, err := c.config.read(ctx)
	if err != nil {
		return err
	}
	o := forge.Options{
		Kind: forge.GitHub, Domain: c.Domain, APIURL: c.APIURL, Agent: "varan/" + buildVersion(),
		AllowInternal: set.AllowInternal, AllowHTTP: set.AllowHTTP,
	}
	if c.Webhook == "" && set.PublicURL != "" {
		c.Webhook = strings.TrimRight(set.PublicURL, "/") + "/webhook/github"
	}
	if c.Name == "" {
		c.Name = strings.TrimSuffix("varan-"+c.Org, "-")
	}
	m := github.Manifest{Name: c.Name, Webhook: c.Webhook, Org: c.Org, Redirect: "http://127.0.0.1:1/varan"}
	code := c.Code
	switch {
	case c.Page != "":
		page, err := m.Page(c.Domain, rand.Text())
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.Page, page, 0o644); err != nil {
			return fmt.Errorf("write the page: %w", err)
		}
		c.sh.say("open %s in a browser and press the button; the address that GitHub leads to will not load:\nvaran forge app-manifest --code with what stands behind ?code= in it", c.Page)
		return nil
	case code == "":
		if code, err = c.browse(ctx, m); err != nil {
			return err
		}
	}
	app, err := github.Convert(ctx, o, code)
	if err != nil {
		return err
	}
	return c.keep(app)
}

// browse serves the page and waits for the browser to come back with the code.
func (c *forgeManifestCommand) browse(ctx context.Context, m github.Manifest) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen for the browser: %w", err)
	}
	state := rand.Text()
	m.Redirect = "http://" + l.Addr().String() + "/created"
	page, err := m.Page(c.Domain, state)
	if err != nil {
		return "", err
	}
	codes := make(chan string, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page)
	})
	mux.HandleFunc("GET /created", func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.URL.Query().Get("state")), []byte(state)) != 1 {
			http.Error(w, "this is not the answer to the page of this command", http.StatusForbidden)
			return
		}
		select {
		case codes <- r.URL.Query().Get("code"):
		default: // it has one
		}
		_, _ = w.Write([]byte("The App is made. Go on in the terminal.\n"))
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second) // the browser's answer is under way
		defer cancel()
		_ = srv.Shutdown(stop)
		<-served
	}()
	c.sh.say("open http://%s/ in a browser on this machine and press the button", l.Addr())
	select {
	case code := <-codes:
		return code, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// keep writes what GitHub tells only once, and says what to do next.
func (c *forgeManifestCommand) keep(app github.NewApp) error {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("find %s: %w", c.Dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	key := filepath.Join(dir, fmt.Sprintf("github-app-%d.pem", app.ID))
	if err := writeNew(key, app.Key); err != nil {
		return err
	}
	toml := fmt.Sprintf("[[forge]]\ntype = \"github\"\ndomain = %q\n", c.Domain)
	if c.APIURL != "" {
		toml += fmt.Sprintf("api_url = %q\n", c.APIURL)
	}
	toml += fmt.Sprintf("app_id = %d\ninstallation_id = 0 # varan forge check tells it once the App is installed\nprivate_key_file = %q\n", app.ID, key)
	if app.WebhookSecret != "" {
		secret := filepath.Join(dir, fmt.Sprintf("github-app-%d.webhook", app.ID))
		if err := writeNew(secret, app.WebhookSecret); err != nil {
			return err
		}
		toml += fmt.Sprintf("webhook_secret_file = %q\n", secret)
	}
	c.sh.print(toml)
	c.sh.say("\nput this into varan.toml, then install the App on the config repository:\n  %s/installations/new\nand ask for its installation_id: varan forge check", app.URL)
	return nil
}

// writeNew writes a secret that cannot be had again: over nothing that is there.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write a secret: %w", err)
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/httpd"
	"github.com/varanhq/varan/sync/settings"
)

// A caller reaches a running daemon: by its socket on this machine, or by VARAN_URL with VARAN_TOKEN.
type caller struct {
	sh     *shell
	config *config
}

func newCaller(sh *shell, cmd *cobra.Command) *caller {
	c := &caller{sh: sh, config: newConfig(sh, cmd.Flags())}
	c.config.key(cmd.Flags(), "data-dir", "data_dir", "the daemon's folder, where its socket is")
	return c
}

func (c *caller) client(ctx context.Context) (*httpd.Client, error) {
	if url := c.sh.env["VARAN_URL"]; url != "" {
		return httpd.Connect(url, c.sh.env["VARAN_TOKEN"])
	}
	set, _, err := c.config.read(ctx)
	if dir, named := c.config.over["data_dir"]; err != nil && named { // a broken varan.toml does not lock its owner out
		set, err = &settings.Settings{DataDir: dir.Text}, nil
	}
	if err != nil {
		c.sh.say("varan: --data-dir DIR reaches a running daemon all the same.")
		return nil, err
	}
	client := httpd.Dial(set.Socket())
	if err := client.Ping(ctx); err != nil {
		if errors.Is(err, httpd.ErrNoDaemon) {
			return nil, fmt.Errorf("no daemon answers at %s\nstart one with varan serve, or set VARAN_URL and VARAN_TOKEN to reach another machine's", set.Socket())
		}
		return nil, err
	}
	return client, nil
}

// json prints v as indented JSON.
func (c *caller) json(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	c.sh.print(string(data) + "\n")
	return nil
}

// drive runs what streams events and shows it live. An interrupt cancels the run.
func (c *caller) drive(ctx context.Context, client *httpd.Client, do func(context.Context, func(apply.Event)) (*apply.Result, error)) error {
	signals, give := interrupts()
	defer give()
	l := newLive(c.sh, &plan.Plan{})
	l.grow = true
	var result *apply.Result
	var failed error
	base := context.WithoutCancel(ctx)
	if !l.watch(ctx, signals, func() { _ = client.Cancel(base, "") }, func() { result, failed = do(base, l.Event) }) {
		c.sh.say("Left; the daemon goes on. varan status shows how it stands.")
		return silent(130)
	}
	return tell(c.sh, result, failed)
}

// resourceID reads KIND/NAME.
func resourceID(s string) (schema.ID, error) {
	kind, name, ok := strings.Cut(s, "/")
	if !ok || kind == "" || name == "" {
		return "", fmt.Errorf("%q is not KIND/NAME, as in stack/shop", s)
	}
	return schema.NewID(schema.Kind(kind), name), nil
}

// ago is how long before now a time was, in one unit.
func ago(now, t time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "never"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(max(0, d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// settingsFor is what a completion reads; it says nothing.
func (c *caller) quietSettings(ctx context.Context) *settings.Settings {
	w := c.config.watcher(nil)
	s, _, err := w.Read(ctx)
	if err != nil {
		return nil
	}
	return s
}

// completeResources offers the resources the daemon knows.
func (c *caller) completeResources(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	s := c.quietSettings(cmd.Context())
	if s == nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	st, err := httpd.Dial(s.Socket()).Status(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, r := range st.Resources {
		ids = append(ids, string(r.Resource))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/cli/cli/command"
	docker "github.com/docker/cli/cli/command/container"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/streams"
	"github.com/docker/docker/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// A Deployment creates the one container of a deployment, the way `docker create` would: docker's own command
// parses the flags. No shell is involved; extra_args and command are split into words as a shell would, and
// [[NAME]] is replaced in each word only then, so that a value with spaces stays one word.
type Deployment struct {
	Name   string // of the container
	Config *schema.DeploymentConfig
	Reveal func(string) string // replaces [[NAME]]; nil: nothing to replace
}

// Create runs docker's create command against api.
func (d Deployment) Create(ctx context.Context, api client.APIClient, _ []string) error {
	args, err := d.Args()
	if err != nil {
		return err
	}
	cmd := createCommand(&cli{api: api})
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(ctx); err != nil {
		var st interface{ Unwrap() error }
		if errors.As(err, &st) && st.Unwrap() != nil {
			return err
		}
		return plain(err)
	}
	return nil
}

// plain drops the advice to run docker --help.
func plain(err error) error {
	if text, _, ok := strings.Cut(err.Error(), "\n"); ok {
		return errors.New(strings.TrimSpace(text))
	}
	return err
}

func createCommand(c command.Cli) *cobra.Command {
	//lint:ignore SA1019 the only parser of docker's flags there is; the version is pinned
	cmd := docker.NewCreateCommand(c)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SetIn(bytes.NewReader(nil))
	// Flags of `docker run` that say how to run in the foreground mean nothing here.
	cmd.Flags().BoolP("detach", "d", true, "")
	cmd.Flags().Bool("sig-proxy", true, "")
	cmd.Flags().String("detach-keys", "", "")
	return cmd
}

// Args are the arguments of docker create, checked: none of them makes docker's parser read a file or the
// environment of this process.
func (d Deployment) Args() ([]string, error) {
	c := d.Config
	reveal := d.Reveal
	if reveal == nil {
		reveal = func(s string) string { return s }
	}
	args := []string{"--pull=never", "--disable-content-trust=true", "--platform=", "--name=" + d.Name}
	add := func(flag, value string) { args = append(args, "--"+flag+"="+reveal(value)) }
	network := c.Network
	if network == "" {
		network = "host"
	}
	add("network", network)
	for _, p := range c.Ports {
		add("publish", p.Key+":"+p.Value)
	}
	for _, v := range c.Volumes {
		if strings.HasPrefix(v.Key, ".") || strings.HasPrefix(v.Key, "~") {
			return nil, &Failure{Message: fmt.Sprintf("volume %q is relative, and a deployment has no folder of its own", v.Key+":"+v.Value),
				Hint: "write an absolute path or a volume's name"}
		}
		add("volume", v.Key+":"+v.Value)
	}
	for _, e := range c.Environment {
		add("env", e.Key+"="+Unquote(e.Value))
	}
	switch c.Restart {
	case "", "no":
		add("restart", "no")
	case "on-failure":
		add("restart", "on-failure:10")
	default:
		add("restart", c.Restart)
	}
	if c.TerminationSignal != "" && c.TerminationSignal != "SIGTERM" {
		add("stop-signal", c.TerminationSignal)
	}
	if c.TerminationTimeout != 10 && c.TerminationTimeout != 0 {
		add("stop-timeout", fmt.Sprint(c.TerminationTimeout))
	}
	for _, l := range c.Labels {
		if strings.HasPrefix(l.Key, "varan.") {
			return nil, &Failure{Message: fmt.Sprintf("label %q: labels named varan.* are varan's own", l.Key), Hint: "choose another name"}
		}
		add("label", l.Key+"="+Unquote(l.Value))
	}
	extra, err := plan.Arguments(c.ExtraArgs)
	if err != nil {
		return nil, fmt.Errorf("read extra_args: %w", err)
	}
	for i := range extra {
		extra[i] = reveal(extra[i])
	}
	if err := checkExtra(extra); err != nil {
		return nil, err
	}
	args = append(args, extra...)
	if c.Image.Image == "" {
		return nil, &Failure{Message: "the deployment has no image", Hint: "set image"}
	}
	args = append(args, "--", reveal(c.Image.Image))
	cmd, err := words(c.Command, reveal)
	if err != nil {
		return nil, fmt.Errorf("read command: %w", err)
	}
	return append(args, cmd...), nil
}

// Unquote removes the quotes of a value that begins and ends with one, as the shell did for Komodo.
func Unquote(v string) string {
	if len(v) >= 2 && strings.ContainsRune(`"'`, rune(v[0])) && strings.ContainsRune(`"'`, rune(v[len(v)-1])) {
		return v[1 : len(v)-1]
	}
	return v
}

func words(text string, reveal func(string) string) ([]string, error) {
	w, err := plan.Words(text)
	if err != nil {
		return nil, err
	}
	for i := range w {
		w[i] = reveal(w[i])
	}
	return w, nil
}

// refused are flags that make docker's parser read a file or the environment, or that fight with what varan
// itself decides, and what to write instead.
var refused = map[string]string{ //nolint:gochecknoglobals // a table that is never written
	"env-file":              "write the variables under environment",
	"label-file":            "write the labels under labels",
	"cidfile":               "varan finds its containers by their labels",
	"use-api-socket":        "mount the socket under volumes if you mean to give it away",
	"name":                  "use custom_name",
	"pull":                  "varan pulls before it stops anything",
	"disable-content-trust": "",
	"help":                  "",
}

// checkExtra parses extra_args by docker's own set of flags without letting any of them act, and refuses those
// that would read what only this process can see.
func checkExtra(words []string) error {
	set := pflag.NewFlagSet("extra_args", pflag.ContinueOnError)
	set.SetInterspersed(false)
	set.Usage = func() {}
	set.SetOutput(io.Discard)
	var problem error
	refuse := func(format string, args ...any) {
		if problem == nil {
			problem = &Failure{Message: "extra_args: " + fmt.Sprintf(format, args...), Hint: "change extra_args"}
		}
	}
	createCommand(&cli{}).Flags().VisitAll(func(f *pflag.Flag) {
		nf := *f
		nf.Value = &heard{kind: f.Value.Type(), on: func(v string) {
			if why, ok := refused[f.Name]; ok {
				if why != "" {
					why = ": " + why
				}
				refuse("--%s cannot be used%s", f.Name, why)
			}
			switch f.Name {
			case "env":
				if !strings.Contains(v, "=") {
					refuse("--env %s would take its value from the agent's own environment: write it under environment", v)
				}
			case "label":
				if k, _, _ := strings.Cut(v, "="); strings.HasPrefix(k, "varan.") {
					refuse("--label %s: labels named varan.* are varan's own", k)
				}
			case "security-opt":
				k, val, ok := strings.Cut(v, "=")
				if !ok {
					k, val, _ = strings.Cut(v, ":")
				}
				if k == "seccomp" && val != "unconfined" && val != "builtin" {
					refuse("--security-opt seccomp=%s would read a file on the host: only unconfined and builtin can be used", val)
				}
			case "volume":
				if strings.HasPrefix(v, ".") || strings.HasPrefix(v, "~") {
					refuse("--volume %s is relative, and a deployment has no folder of its own", v)
				}
			case "mount":
				for _, part := range strings.Split(v, ",") {
					k, val, _ := strings.Cut(part, "=")
					if (k == "source" || k == "src") && strings.HasPrefix(val, ".") {
						refuse("--mount %s is relative, and a deployment has no folder of its own", v)
					}
				}
			}
		}}
		nf.Changed = false
		set.AddFlag(&nf)
	})
	if err := set.Parse(words); err != nil {
		return &Failure{Message: "extra_args: " + err.Error(), Hint: "extra_args takes flags of docker run"}
	}
	if problem != nil {
		return problem
	}
	if rest := set.Args(); len(rest) > 0 {
		return &Failure{Message: fmt.Sprintf("extra_args: %q is no flag", rest[0]), Hint: "the program's own arguments belong under command"}
	}
	return nil
}

// heard is a flag's value that tells what it was set to and keeps nothing.
type heard struct {
	kind string
	on   func(string)
}

func (h *heard) String() string     { return "" }
func (h *heard) Set(v string) error { h.on(v); return nil }
func (h *heard) Type() string       { return h.kind }

// cli is as much of docker's command line as its create command needs: a client, and no configuration of the
// user this process runs as.
type cli struct {
	command.Cli
	api client.APIClient
}

// NewCLI is docker's command line around api, for libraries that want one. It reads no configuration file and
// prints nothing.
func NewCLI(api client.APIClient) command.Cli { return &cli{api: api} }

func (c *cli) Client() client.APIClient           { return c.api }
func (c *cli) Out() *streams.Out                  { return streams.NewOut(io.Discard) }
func (c *cli) Err() *streams.Out                  { return streams.NewOut(io.Discard) }
func (c *cli) In() *streams.In                    { return streams.NewIn(io.NopCloser(bytes.NewReader(nil))) }
func (c *cli) SetIn(*streams.In)                  {}
func (c *cli) ConfigFile() *configfile.ConfigFile { return configfile.New("") }
func (c *cli) ServerInfo() command.ServerInfo     { return command.ServerInfo{OSType: "linux"} }
func (c *cli) CurrentVersion() string             { return c.api.ClientVersion() }
func (c *cli) BuildKitEnabled() (bool, error)     { return true, nil }
func (c *cli) CurrentContext() string             { return "default" }

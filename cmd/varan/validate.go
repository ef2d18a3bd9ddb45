package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync/report"
)

// validateCommand parses and checks TOML; files that it names are plan's to check.
type validateCommand struct {
	sh      *shell
	Paths   []string
	Format  string // text, json, github
	Compat  string
	Verbose bool
}

func newValidate(sh *shell) *cobra.Command {
	c := &validateCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "validate [PATH…]", Short: "check TOML: every mistake at once, with its place",
		Long: `validate reads all *.toml below the given folders together, as one config, and lists every mistake with its file,
line and column. It reads nothing else and needs no Docker. Exit 0: fine, 1: errors.`,
		Example: `  varan validate                          the folder you are in
  varan validate infra servers.toml       several paths, checked together
  varan validate --compat=komodo infra    a Komodo repository, with Komodo's leniency
  varan validate --format github infra    annotations in a workflow
  varan validate -v infra                 say what was read, and which files hold nothing of ours`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Paths = args
			return c.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&c.Format, "format", "text", "text, json or github")
	cmd.Flags().StringVar(&c.Compat, "compat", sh.env["VARAN_COMPAT"], "read the files as Komodo does: --compat=komodo")
	cmd.Flags().Lookup("compat").NoOptDefVal = "komodo"
	cmd.Flags().BoolVarP(&c.Verbose, "verbose", "v", false, "say what was read")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"text", "json", "github"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("compat", cobra.FixedCompletions([]string{"komodo"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// Run validates once.
func (c *validateCommand) Run(context.Context) error {
	if !slices.Contains([]string{"text", "json", "github"}, c.Format) {
		return fmt.Errorf("--format is %q; it can be text, json or github", c.Format)
	}
	compat, err := compatOf(c.Compat)
	if err != nil {
		return err
	}
	paths := c.Paths
	if len(paths) == 0 {
		paths = []string{"."}
	}
	files, err := readPaths(paths)
	if err != nil {
		return err
	}
	config, diags := schema.Parse(files, schema.Options{Compat: compat})
	switch c.Format {
	case "json":
		type out struct {
			Severity schema.Severity `json:"severity"`
			File     string          `json:"file"`
			Line     int             `json:"line"`
			Column   int             `json:"column"`
			Message  string          `json:"message"`
			Hint     string          `json:"hint"`
		}
		list := make([]out, 0, len(diags))
		for _, d := range diags {
			list = append(list, out{d.Severity, d.File, d.Line, d.Column, d.Message, d.Hint})
		}
		data, err := json.MarshalIndent(struct {
			Version     int   `json:"version"`
			Resources   int   `json:"resources"`
			Diagnostics []out `json:"diagnostics"`
		}{1, len(config.Resources), list}, "", "  ")
		if err != nil {
			return err
		}
		c.sh.print(string(data) + "\n")
	case "github":
		c.sh.print(report.Annotations(diags))
	default:
		source := map[string][]byte{}
		for _, f := range files {
			source[f.Path] = f.Data
		}
		c.sh.print(report.Diagnostics(diags, func(f string) []byte { return source[f] }, c.sh.terminal(c.sh.out)))
	}
	if c.Verbose {
		c.verbose(files, config)
	}
	errs := len(diags.Errors())
	if c.Format == "text" {
		say := fmt.Sprintf("%d files, %d resources, %d variables: ", len(files), len(config.Resources), len(config.Variables))
		switch warnings := len(diags) - errs; {
		case errs > 0:
			say += fmt.Sprintf("%d errors, %d warnings", errs, warnings)
		case warnings > 0:
			say += fmt.Sprintf("fine, with %d warnings", warnings)
		default:
			say += "fine"
		}
		c.sh.say("%s", say)
	}
	if errs > 0 {
		return silent(1)
	}
	return nil
}

// verbose says what was read, and which files hold no table of ours.
func (c *validateCommand) verbose(files []schema.File, config *schema.Config) {
	used := map[string]int{}
	for _, r := range config.Resources {
		used[r.Pos.File]++
	}
	for _, v := range config.Variables {
		used[v.Pos.File]++
	}
	for _, f := range files {
		if n := used[f.Path]; n > 0 {
			c.sh.say("%s: %d", report.Escape(f.Path), n)
		} else {
			c.sh.say("%s: skipped, nothing of ours in it", report.Escape(f.Path))
		}
	}
}

func compatOf(s string) (schema.Compat, error) {
	switch c := schema.Compat(s); c {
	case schema.CompatNone, schema.CompatKomodo:
		return c, nil
	}
	return "", fmt.Errorf("--compat is %q; it can be komodo", s)
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionCommand says which varan this is.
type versionCommand struct {
	sh   *shell
	JSON bool
}

func newVersion(sh *shell) *cobra.Command {
	c := &versionCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "version", Short: "say which varan this is", Args: cobra.NoArgs,
		Example: "  varan version\n  varan version --json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	return cmd
}

func (c *versionCommand) Run(context.Context) error {
	v := buildVersion()
	if c.JSON {
		data, err := json.Marshal(map[string]string{"version": v, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
		if err != nil {
			return err
		}
		c.sh.print(string(data) + "\n")
		return nil
	}
	c.sh.print(fmt.Sprintf("varan %s (%s, %s/%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH))
	return nil
}

// version is what a release is called; the linker sets it (-ldflags "-X main.version=…").
var version string

// buildVersion is the release, else the module's version as the Go toolchain stamped it, or the commit it was built
// from.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	rev, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+changes"
			}
		}
	}
	if rev == "" {
		return "devel"
	}
	return "devel-" + rev + dirty
}

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/varanhq/varan/schema"
)

// schemaCommand prints the JSON Schema of the TOML files.
type schemaCommand struct {
	sh     *shell
	Compat string
}

func newSchema(sh *shell) *cobra.Command {
	c := &schemaCommand{sh: sh}
	cmd := &cobra.Command{
		Use: "schema", Short: "print the JSON Schema of the TOML files, for editors",
		Example: "  varan schema > varan.schema.json\n  varan schema --compat=komodo",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	cmd.Flags().StringVar(&c.Compat, "compat", sh.env["VARAN_COMPAT"], "as lenient as Komodo: --compat=komodo")
	cmd.Flags().Lookup("compat").NoOptDefVal = "komodo"
	_ = cmd.RegisterFlagCompletionFunc("compat", cobra.FixedCompletions([]string{"komodo"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// Run prints it.
func (c *schemaCommand) Run(context.Context) error {
	compat, err := compatOf(c.Compat)
	if err != nil {
		return err
	}
	data, err := jsonSchema(compat)
	if err != nil {
		return err
	}
	c.sh.print(string(data))
	return nil
}

func jsonSchema(compat schema.Compat) ([]byte, error) {
	return schema.JSONSchema(compat)
}

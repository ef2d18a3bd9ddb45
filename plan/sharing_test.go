package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/varanhq/varan/schema"
)

func TestDeploymentShares(t *testing.T) {
	config, diags := schema.Parse([]schema.File{{Path: "d.toml", Data: []byte(`
[[deployment]]
name = "app"
[deployment.config]
image = { type = "Image", params = { image = "app:1" } }
network = "container:vpn"
extra_args = ["--ipc=container:vpn", "--pid container:other", "--volumes-from data:ro", "--network=container:vpn"]
`)}}, schema.Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	want := []Share{{What: ShareIPC, Container: "vpn"}, {What: SharePID, Container: "other"}, {What: ShareVolumes, Container: "data"},
		{What: ShareNetwork, Container: "vpn"}}
	if diff := cmp.Diff(want, DeclareDeployment(config.Resources[0], nil).Units[0].Shares, cmp.Transformer("sorted", func(s []Share) map[Share]bool {
		out := map[Share]bool{}
		for _, x := range s {
			out[x] = true
		}
		return out
	})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

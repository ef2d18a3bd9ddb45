package sync

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// TestBinaries: what of agents_dir can be had, and why the rest cannot.
func TestBinaries(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) string {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(content))
		return hex.EncodeToString(sum[:])
	}
	good := put("varan-v1-linux-amd64", "good")
	put("varan-v1-linux-empty", "")
	if err := os.Mkdir(filepath.Join(dir, "varan-v1-linux-folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	config := func(sums ...string) *schema.Config {
		text := "[[server]]\nname = \"web\"\nconfig.agent_version = \"v1\"\n"
		for i := 0; i < len(sums); i += 2 {
			text += fmt.Sprintf("config.agent_sha256.linux-%s = %q\n", sums[i], sums[i+1])
		}
		c, diags := schema.Parse([]schema.File{{Path: "a.toml", Data: []byte(text)}}, schema.Options{})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		return c
	}
	other := strings.Repeat("ab", 32)
	var b binaries
	got := b.missing(dir, config("amd64", good, "arm64", good, "empty", good, "folder", good))
	for platform, want := range map[string]string{"amd64": "", "arm64": "holds no varan-v1-linux-arm64", "empty": "is no binary", "folder": "is no binary"} {
		if why := got[plan.BinaryName("v1", "linux-"+platform)]; (want == "") != (why == "") || !strings.Contains(why, want) {
			t.Errorf("%s: %q, want %q", platform, why, want)
		}
	}
	if why := b.missing(dir, config("amd64", other))["varan-v1-linux-amd64"]; !strings.Contains(why, "agent_sha256 says abab") {
		t.Errorf("another binary: %q", why)
	}
	if why := b.missing("", config("amd64", good))["varan-v1-linux-amd64"]; !strings.Contains(why, "agents_dir") {
		t.Errorf("no folder: %q", why)
	}
	put("varan-v1-linux-amd64", "evil") // as long, and a moment later
	later := time.Now().Add(time.Second)
	if err := os.Chtimes(filepath.Join(dir, "varan-v1-linux-amd64"), later, later); err != nil {
		t.Fatal(err)
	}
	if len(b.missing(dir, config("amd64", good))) == 0 {
		t.Error("a file that was changed is taken for what it was")
	}

	put("varan-v1-linux-amd64", "good")
	step := &plan.Step{Server: "web", Resource: "server/web"}
	state := &plan.State{Servers: map[string]*plan.ServerState{"web": {Agent: &plan.AgentState{Platform: "linux-amd64"}}}}
	p, err := b.payload(dir, step, state, config("amd64", good))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2)
	if _, err := p.Agent.Whole.ReadAt(buf, 2); err != nil || string(buf) != "od" || p.Agent.Size != 4 || p.Agent.SHA256 != good || p.Agent.Version != "v1" {
		t.Errorf("payload %+v, reads %q, %v", p.Agent, buf, err)
	}
	if _, err := b.payload(dir, step, &plan.State{}, config("amd64", good)); err == nil {
		t.Error("a binary for an agent that nobody knows")
	}
}

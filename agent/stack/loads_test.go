package stack

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/schema"
)

// TestLoads: a project is loaded once for Prepare and Deploy, and again whenever anything it is loaded from differs.
func TestLoads(t *testing.T) {
	root := t.TempDir()
	host := filepath.Join(root, "host.env")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(host, "H=1\n")
	var loads Loads
	open := func(file, secret string) *Stack {
		t.Helper()
		op := protocol.Op{Resource: schema.NewID(schema.KindStack, "web"), Payload: &protocol.Payload{Directory: ".",
			Stack: &schema.StackConfig{}, Secrets: map[string]protocol.Secret{"PASS": protocol.Secret(secret)},
			Files: []protocol.File{{Path: "compose.yaml", Data: []byte(file)}}}}
		op.Payload.Stack.LinkedRepo, op.Payload.Stack.EnvFilePath = "r", ".env"
		op.Payload.Stack.Environment = []schema.KV{{Key: "S", Value: "[[PASS]]"}}
		s, err := Open(Options{Root: root, Loads: &loads}, op, "")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const file = "version: '3'\nservices:\n  a:\n    image: x\n    environment: {S: '${S}'}\n    env_file:\n      - path: "
	one := file + host + "\n      - path: own.env\n        required: false\n"
	prepare := func(file, secret string) *Stack {
		t.Helper()
		s := open(file, secret)
		if _, err := s.load(t.Context(), false, false); err != nil {
			t.Fatal(err)
		}
		return s
	}
	deploy := func(file, secret string) map[string]string {
		t.Helper()
		s := open(file, secret)
		if err := s.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		out := map[string]string{"image": s.project.Services["a"].Image}
		for k, v := range s.project.Services["a"].Environment {
			out[k] = *v
		}
		return out
	}
	first := prepare(one, "1")
	kept := loads.list[0].project
	again, err := open(one, "1").load(t.Context(), false, false)
	if err != nil || again != kept {
		t.Errorf("the same was loaded again: %v", err)
	}
	if got := deploy(one, "1"); got["S"] != "1" || got["H"] != "1" || got["image"] != "x" {
		t.Errorf("deployed: %v", got)
	}
	if len(loads.list) != 0 {
		t.Error("it is kept after its last use")
	}
	prepare(one, "1")
	if got := deploy(one, "2"); got["S"] != "2" {
		t.Errorf("another secret: %v", got)
	}
	if got := deploy(one+"    labels: {a: b}\n", "1"); got["S"] != "1" {
		t.Errorf("another file: %v", got)
	}
	prepare(one, "1")
	write(host, "H=2\n")
	if got := deploy(one, "1"); got["H"] != "2" {
		t.Errorf("a host file changed: %v", got)
	}
	prepare(one, "1")
	write(filepath.Join(first.Directory(), "own.env"), "O=1\n")
	if got := deploy(one, "1"); got["O"] != "1" {
		t.Errorf("a file came into the stack's folder: %v", got)
	}
	for i := range 3 * keptLoads {
		prepare(one, string(rune('a'+i)))
	}
	if len(loads.list) != keptLoads {
		t.Errorf("%d are kept", len(loads.list))
	}
}

package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/agent/update"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// updatable is a host whose agent may become another program, with the op and the part that ask for that.
func updatable(t *testing.T) (h *host, carry, op protocol.Op) {
	h = newHost(t)
	h.stop()
	var err error
	if h.update, err = update.New(h.root, "v1", time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	h.update.Exe = filepath.Join(t.TempDir(), "varan")
	if err := os.WriteFile(h.update.Exe, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.start()
	binary := []byte("#!/bin/sh\necho '{\"version\":\"v2\"}'\n")
	sum := sha256.Sum256(binary)
	b := protocol.Binary{Version: "v2", Platform: platform, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(binary))}
	part := b
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(binary)
	z.Close()
	part.Part = packed.Bytes()
	op = h.op("", protocol.Update, nil, "")
	op.Resource, op.Digest, op.Payload = schema.NewID(schema.KindServer, "local"), "1:v2", &protocol.Payload{Agent: &b}
	carry = op
	carry.ID, carry.Verb, carry.Payload = op.ID+"-0", protocol.Carry, &protocol.Payload{Agent: &part}
	return h, carry, op
}

// TestUpdateWaitsForOps: what is under way ends first, what comes after is left to the agent that comes.
func TestUpdateWaitsForOps(t *testing.T) {
	t.Parallel()
	h, carry, op := updatable(t)
	h.must(carry)
	slow := h.op("slow", protocol.Deploy, h.config(func(c *schema.DeploymentConfig) { c.Settle = schema.Duration(2 * time.Second) }), plan.Create)
	h.agent.Submit(t.Context(), slow)
	for len(h.agent.underWay()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if s := h.agent.Submit(t.Context(), op); s.State != "accepted" {
		t.Fatalf("the update is %s: %v", s.State, s.Outcome)
	}
	draining := func() bool {
		h.agent.mu.Lock()
		defer h.agent.mu.Unlock()
		return h.agent.draining
	}
	for !draining() {
		time.Sleep(time.Millisecond)
	}
	late := h.op("late", protocol.Deploy, h.config(), plan.Create)
	h.agent.Submit(t.Context(), late)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	select {
	case <-h.agent.Leaving():
		t.Fatal("the agent left in the middle of an op")
	case <-time.After(300 * time.Millisecond):
	}
	out, err := h.agent.Wait(ctx, slow.ID)
	if err != nil || out.Status != protocol.Done {
		t.Fatalf("what was under way: %+v %v", out, err)
	}
	select {
	case <-h.agent.Leaving():
	case <-ctx.Done():
		t.Fatal("the agent does not leave")
	}
	h.stop()

	// Somebody kills the process in the middle of the trial; the old binary starts again.
	begin := h.update.Begin()
	if begin.Ended == nil {
		t.Fatalf("it starts as %+v", begin)
	}
	h.start()
	if mine := h.mine(); len(mine) != 1 {
		t.Errorf("containers %v, want only the one that was under way", mine)
	}
	if err := h.agent.Updated(begin.Ended); err != nil {
		t.Fatal(err)
	}
	if out := h.do(op); out.Status != protocol.Failed || !strings.Contains(out.Error, "stopped in the middle of its update") {
		t.Errorf("the update: %+v", out)
	}
	if again := h.update.Begin(); again != (update.Start{}) {
		t.Errorf("it is told twice: %+v", again)
	}
	h.must(late)
	if mine := h.mine(); len(mine) != 2 {
		t.Errorf("containers %v, want both", mine)
	}
}

// TestUpdateHolds: a binary that is to blame is held until another one does.
func TestUpdateHolds(t *testing.T) {
	t.Parallel()
	h, carry, op := updatable(t)
	h.must(carry)
	op.Payload.Agent.Version = "v3" // it will say that it is v2
	out := h.do(op)
	if out.Status != protocol.Failed || out.Held != op.Digest || !strings.Contains(out.Error, "says that it is v2") {
		t.Errorf("the update: %+v", out)
	}
	if holds := h.observe().Holds; len(holds) != 1 || holds[0].Digest != op.Digest || holds[0].Resource != op.Resource {
		t.Errorf("holds %v", holds)
	}
	done := update.Ended{Op: "op2", Resource: op.Resource, Outcome: protocol.Outcome{ID: "op2", Status: protocol.Done}}
	if err := h.agent.Updated(&done); err != nil {
		t.Fatal(err)
	}
	if holds := h.observe().Holds; len(holds) != 0 {
		t.Errorf("holds %v", holds)
	}
	if len(h.observe().Ledger) != 0 {
		t.Error("the ledger has an entry, which looks like a resource")
	}
}

// TestUpdateRefused: whoever runs the host has the last word, and a plan shows it beforehand.
func TestUpdateRefused(t *testing.T) {
	t.Parallel()
	h, carry, op := updatable(t)
	if p := h.observe().Agent; p == nil || p.Fixed != "" || len(p.SHA256) != 64 || p.Platform != platform {
		t.Errorf("the agent is %+v", p)
	}
	other := op
	other.Payload = &protocol.Payload{Agent: &protocol.Binary{Version: "v2", Platform: "plan9-386", SHA256: op.Payload.Agent.SHA256, Size: 1}}
	other.ID += "other"
	if out := h.do(other); out.Status != protocol.Refused || !strings.Contains(out.Error, "for plan9-386") {
		t.Errorf("another machine's: %+v", out)
	}
	h.stop()
	if err := os.WriteFile(filepath.Join(h.root, "agent.toml"), []byte("[allow]\nself_update = false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	if p := h.observe().Agent; p == nil || !strings.Contains(p.Fixed, "self_update") {
		t.Errorf("the agent is %+v", p)
	}
	for _, op := range []protocol.Op{carry, op} {
		if out := h.do(op); out.Status != protocol.Refused || !strings.Contains(out.Error, "self_update") {
			t.Errorf("%s: %+v", op.Verb, out)
		}
	}
	h.stop()
	h.update = nil
	h.start()
	if p := h.observe().Agent; p == nil || !strings.Contains(p.Fixed, "part of the varan that serves") {
		t.Errorf("the agent inside a daemon is %+v", p)
	}
	if out := h.do(op); out.Status != protocol.Refused {
		t.Errorf("the agent inside a daemon: %+v", fmt.Sprint(out))
	}
}

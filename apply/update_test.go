package apply_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"io"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// agents is a plan that updates the agents of three servers in turn, and deploys db to the first of them.
func agents() *plan.Plan {
	p := steps("create a db")
	p.Steps[0].After = []schema.ID{"server/a"}
	for _, name := range []string{"a", "b", "c"} {
		p.Steps = append(p.Steps, plan.Step{Action: plan.Update, Server: name, Resource: schema.NewID(schema.KindServer, name), Digest: "1:v2"})
	}
	p.Steps[2].After, p.Steps[3].After = []schema.ID{"server/a"}, []schema.ID{"server/b"}
	return p
}

// TestAgentsInTurn: each agent gets its binary in parts and is updated when the one before is done; what is deployed
// to their servers waits for none of it.
func TestAgentsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		binary := make([]byte, 2*protocol.PartSize+1000)
		rand.Read(binary)
		got := map[string][]byte{}
		w := newWorld()
		w.does = func(op protocol.Op) (protocol.Outcome, error) {
			if op.Verb == protocol.Carry {
				b := op.Payload.Agent
				z, err := gzip.NewReader(bytes.NewReader(b.Part))
				if err != nil {
					t.Error(err)
				}
				part, err := io.ReadAll(z)
				if err != nil || int64(len(got[op.Server])) != b.Offset || b.Size != int64(len(binary)) {
					t.Errorf("a part at %d of %d: %v", b.Offset, b.Size, err)
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				got[op.Server] = append(got[op.Server], part...)
			}
			return protocol.Outcome{}, nil
		}
		res, status := run(t, t.Context(), w, apply.Options{Plan: agents(), Payloads: withBinary(binary)})
		want(t, status, "db:done a:done b:done c:done")
		if res.Status != apply.StatusDone {
			t.Errorf("the run is %s", res.Status)
		}
		for _, name := range []string{"a", "b", "c"} {
			if !bytes.Equal(got[name], binary) {
				t.Errorf("%s got %d bytes that differ", name, len(got[name]))
			}
			w.before(t, "end carry "+name, "begin update "+name)
		}
		w.before(t, "end update a", "begin carry b")
		w.before(t, "end update b", "begin carry c")
		w.before(t, "end deploy db", "end update a")
		w.never(t, "prepare a")
	})
}

// TestAgentThatFails: the first that fails, in whatever it is asked, ends it for the others, and for nothing else.
func TestAgentThatFails(t *testing.T) {
	for _, verb := range []protocol.Verb{protocol.Carry, protocol.Update} {
		t.Run(string(verb), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.does = fails(verb, "b", protocol.Outcome{Status: protocol.RolledBack, Stopped: true, Held: "1:v2", Error: "it did not reach the hub"})
				res, status := run(t, t.Context(), w, apply.Options{Plan: agents(), Payloads: withBinary([]byte("x"))})
				want(t, status, "db:done a:done b:rolled_back c:not_tried")
				if why := res.Step("server/c").Why; why != "it comes after server/b, which failed and was rolled back" {
					t.Errorf("why: %s", why)
				}
				w.never(t, "carry c")
			})
		})
	}
}

// TestPartsHaveIDs: each part is an op of its own, the same when it is asked for again.
func TestPartsHaveIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ids := func() (out []protocol.OpID) {
			w := newWorld()
			w.does = func(op protocol.Op) (protocol.Outcome, error) {
				if op.Server == "a" && op.Verb == protocol.Carry {
					out = append(out, op.ID)
				}
				return protocol.Outcome{}, nil
			}
			run(t, t.Context(), w, apply.Options{Plan: agents(), Payloads: withBinary(make([]byte, protocol.PartSize+1)), Run: "r1"})
			return out
		}
		first, second := ids(), ids()
		if len(first) != 2 || first[0] == first[1] {
			t.Errorf("ids %v", first)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Error(diff)
		}
	})
}

func withBinary(binary []byte) apply.Payloads {
	return apply.PayloadFunc(func(_ context.Context, s plan.Step) (*protocol.Payload, error) {
		if s.Resource.Kind() != "server" {
			return &protocol.Payload{}, nil
		}
		return &protocol.Payload{Agent: &protocol.Binary{Version: "v2", Size: int64(len(binary)), Whole: bytes.NewReader(binary)}}, nil
	})
}

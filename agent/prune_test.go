package agent

import (
	"context"
	"testing"
	"time"

	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// TestPrune: of the images varan brought, those go that nothing uses, declares, or used of late; nobody else's do.
func TestPrune(t *testing.T) {
	h := newHost(t)
	a := h.agent
	make := func(name string) (ref, id string) {
		t.Helper()
		ref = "varan-prune-test-" + h.fleet + "-" + name + ":1"
		c, err := h.api.ContainerCreate(t.Context(), &docker.Config{Image: testImage, Cmd: []string{name}}, nil, nil, nil, h.fleet+"-"+name+"-seed")
		if err != nil {
			t.Fatal(err)
		}
		img, err := h.api.ContainerCommit(t.Context(), c.ID, docker.CommitOptions{Reference: ref})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = h.api.ImageRemove(context.Background(), ref, image.RemoveOptions{Force: true}) })
		if err := h.api.ContainerRemove(t.Context(), c.ID, docker.RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		return ref, img.ID
	}
	old := func(id string) {
		a.images.mu.Lock()
		defer a.images.mu.Unlock()
		a.images.have[id].At = time.Now().Add(-2 * pruneAfter)
	}
	unused, unusedID := make("unused")
	recent, recentID := make("recent")
	used, usedID := make("used")
	declared, declaredID := make("declared")
	tagged, taggedID := make("tagged")
	foreign, _ := make("foreign")
	for ref, id := range map[string]string{unused: unusedID, recent: recentID, used: usedID, declared: declaredID, tagged: taggedID} {
		a.engine.Note(t.Context(), ref)
		if id != recentID {
			old(id)
		}
	}
	if _, err := h.api.ContainerCreate(t.Context(), &docker.Config{Image: used, Cmd: []string{"true"}}, nil, nil, nil, h.fleet+"-user"); err != nil {
		t.Fatal(err)
	}
	rec := a.ledger.get("stack/x")
	rec.Entry = &plan.Entry{Resource: "stack/x", Fleet: h.fleet, Units: []plan.Unit{{Service: "x", Image: declared}}}
	if err := a.ledger.put(rec); err != nil {
		t.Fatal(err)
	}
	mine := "varan-prune-test-" + h.fleet + "-mine:1"
	if err := h.api.ImageTag(t.Context(), tagged, mine); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = h.api.ImageRemove(context.Background(), mine, image.RemoveOptions{Force: true}) })

	op := protocol.Op{Version: protocol.Version, ID: protocol.OpID("prune" + h.fleet), Verb: protocol.Prune, Resource: schema.ID("server/local"), Fleet: h.fleet}
	if s := a.Submit(t.Context(), op); s.State != "accepted" {
		t.Fatalf("submit: %+v", s)
	}
	if out, err := a.Wait(t.Context(), op.ID); err != nil || out.Status != protocol.Done {
		t.Fatalf("prune: %+v, %v", out, err)
	}
	for ref, want := range map[string]bool{unused: false, recent: true, used: true, declared: true, tagged: false, mine: true, foreign: true} {
		if _, err := h.api.ImageInspect(t.Context(), ref); (err == nil) != want {
			t.Errorf("%s: there = %v, want %v", ref, err == nil, want)
		}
	}
	if s := a.Submit(t.Context(), op); s.State != "done" && s.State != "running" {
		t.Errorf("the same op again: %+v", s)
	}
	again := openImages(a.images.path, a.log)
	if again.have[recentID] == nil || again.have[unusedID] != nil {
		t.Errorf("remembered: %v", again.have)
	}
}

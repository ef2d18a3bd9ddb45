package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	docker "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"github.com/varanhq/varan/agent/protocol"
)

// pruneAfter is how long an image that varan brought stays after it was brought or last used: what a person may want
// to go back to, and what is pulled for a step that has not come yet.
const pruneAfter = 24 * time.Hour

// images remembers which images varan pulled or built. It is lost with the agent's root: then they are nobody's, and
// stay.
type images struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex // guards have and the file
	have map[string]*brought
}

// A brought image, by its id.
type brought struct {
	Refs []string  `json:"refs"`
	At   time.Time `json:"at"` // brought or last seen in use, by this host's clock
}

func openImages(path string, log *slog.Logger) *images {
	m := &images{path: path, log: log, have: map[string]*brought{}}
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &m.have)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("which images were pulled is not known any more; they stay", "err", err)
	}
	if m.have == nil {
		m.have = map[string]*brought{}
	}
	return m
}

// note remembers an image that was pulled or built, or that was and is needed anew.
func (m *images) note(id, ref string, fresh bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.have[id]
	switch {
	case b == nil && !fresh:
		return // somebody else's
	case b == nil:
		b = &brought{}
		m.have[id] = b
	}
	b.At = time.Now()
	if !slices.Contains(b.Refs, ref) {
		b.Refs = append(b.Refs, ref)
	}
	m.save()
}

// save wants the mutex held.
func (m *images) save() {
	data, err := json.Marshal(m.have)
	if err == nil {
		err = writeSynced(m.path, data)
	}
	if err != nil {
		m.log.Warn("remember which images were pulled", "err", err)
	}
}

// prune removes images nothing uses: what varan brought, or with all whatever there is. An image of a declared
// resource stays though it does not run, as does what was brought or used of late.
func (a *Agent) prune(ctx context.Context, op protocol.Op) (protocol.Outcome, error) {
	if a.atWork(op.ID) {
		return protocol.Outcome{Status: protocol.Failed, Error: "other ops are under way; images are pruned when they are over"}, nil
	}
	list, err := a.api.ImageList(ctx, image.ListOptions{})
	if err != nil {
		return protocol.Outcome{}, fmt.Errorf("list images: %w", err)
	}
	running, err := a.api.ContainerList(ctx, docker.ListOptions{All: true})
	if err != nil {
		return protocol.Outcome{}, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{} // image ids, and references that are declared
	for _, c := range running {
		used[c.ImageID] = true
	}
	a.ledger.all(func(r *record) {
		if r.Entry == nil {
			return
		}
		for _, u := range r.Entry.Units {
			used[u.Image] = true
		}
		if r.Doing != nil && r.Doing.Entry != nil {
			for _, u := range r.Doing.Entry.Units {
				used[u.Image] = true
			}
		}
	})
	m := a.images
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	there := map[string]bool{}
	removed := 0
	for i := range list {
		img := &list[i]
		there[img.ID] = true
		b := m.have[img.ID]
		declared := slices.ContainsFunc(img.RepoTags, func(t string) bool { return used[t] || used[strings.TrimSuffix(t, ":latest")] })
		switch {
		case used[img.ID] || declared:
			if b != nil {
				b.At = now
			}
			continue
		case b == nil && !op.All, b != nil && now.Sub(b.At) < pruneAfter:
			continue
		}
		if a.removeImage(ctx, img, b, op.All) {
			removed++
			delete(m.have, img.ID)
		}
	}
	for id := range m.have {
		if !there[id] {
			delete(m.have, id)
		}
	}
	m.save()
	if removed > 0 {
		a.log.Info("images that nothing uses are removed", "images", removed)
	}
	return protocol.Outcome{Status: protocol.Done}, nil
}

// removeImage takes an image away, never by force: the names varan brought it under, or all of them, and the image when
// it has no other. It reports whether the image is gone.
func (a *Agent) removeImage(ctx context.Context, img *image.Summary, b *brought, all bool) bool {
	left := 0
	for _, tag := range img.RepoTags {
		if tag == "<none>:<none>" {
			continue
		}
		if !all && !slices.Contains(b.Refs, tag) && !slices.Contains(b.Refs, strings.TrimSuffix(tag, ":latest")) {
			left++
			continue
		}
		if _, err := a.api.ImageRemove(ctx, tag, image.RemoveOptions{PruneChildren: true}); err != nil {
			a.log.Debug("image stays", "image", tag, "err", err)
			left++
		}
	}
	if left > 0 {
		return false
	}
	if _, err := a.api.ImageRemove(ctx, img.ID, image.RemoveOptions{PruneChildren: true}); err != nil && !errdefs.IsNotFound(err) {
		a.log.Debug("image stays", "image", img.ID, "err", err)
		return false
	}
	return true
}

// atWork reports whether ops other than this one are under way.
func (a *Agent) atWork(but protocol.OpID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, t := range a.tasks {
		select {
		case <-t.done:
		default:
			if id != but {
				return true
			}
		}
	}
	return false
}

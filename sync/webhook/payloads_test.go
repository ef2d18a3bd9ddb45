package webhook

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A row of the index of payloads.
type row struct {
	File, Forge, Event, Action, Ref, Kind string
	EventType                             string `json:"event_type"`
	Deleted, Forced, Fork, Merged         bool
	Changed                               any
	OnPull                                bool   `json:"on_pull_request"`
	NewCommits                            bool   `json:"new_commits"`
	ObjectKind                            string `json:"object_kind"`
	body                                  []byte
}

// payloads reads the deliveries that forges really sent.
func payloads(t testing.TB) []row {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		shared := filepath.Join(dir, "..", "shared")
		data, err := os.ReadFile(filepath.Join(shared, "contracts", "webhooks-index.json"))
		if err != nil {
			if dir == filepath.Dir(dir) {
				t.Skip("the payloads of forges (../shared beside the repository) are not here")
			}
			dir = filepath.Dir(dir)
			continue
		}
		var rows []row
		if err := json.Unmarshal(data, &rows); err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			if rows[i].body, err = os.ReadFile(filepath.Join(shared, rows[i].File)); err != nil {
				t.Fatal(err)
			}
		}
		return rows
	}
}

// want is the event and the pull request's action that a payload must lead to, by its name in the index.
func (r *row) want() (Event, Action) {
	name := strings.TrimSuffix(filepath.Base(r.File), ".json")
	name = strings.TrimPrefix(name, "forgejo.")
	has := func(prefixes ...string) bool {
		for _, p := range prefixes {
			if name == p || strings.HasPrefix(name, p+".") {
				return true
			}
		}
		return false
	}
	switch {
	case has("push.branch_updated", "push.branch_created", "push.branch_forced"):
		return Push, ""
	case has("pull_request.opened", "merge_request.open"):
		return Pull, Opened
	case has("pull_request.synchronize", "pull_request.synchronized", "merge_request.update.new_commits"):
		return Pull, Updated
	case has("pull_request.reopened", "merge_request.reopen"):
		return Pull, Reopened
	case has("pull_request.edited.base", "merge_request.update.target_branch"):
		return Pull, Retarget
	case has("pull_request.closed.merged", "merge_request.merge"):
		return Pull, Merged
	case has("pull_request.closed.unmerged", "merge_request.close"):
		return Pull, Closed
	case has("issue_comment.created.on_pr", "note.merge_request"):
		return Comment, ""
	case has("merge_group.checks_requested"):
		return MergeGroup, ""
	}
	return Other, ""
}

// TestPayloads: every payload leads to the right trigger or to a 2xx that says that it is not for us, by JSON and by
// form; sent twice, it does nothing twice.
func TestPayloads(t *testing.T) {
	w := newWorld(t)
	for _, p := range payloads(t) {
		t.Run(strings.ReplaceAll(p.File, "/", "_"), func(t *testing.T) {
			event, action := p.want()
			for _, form := range []bool{false, true} {
				before := len(w.target.hints())
				d := delivery{forge: Forge(p.Forge), event: p.Event, body: p.body, id: freshID(), form: form}
				status, text := w.send(d)
				if status < 200 || status > 299 {
					t.Fatalf("form %v: %d %s", form, status, text)
				}
				if event == Other {
					if !strings.HasPrefix(text, "not for us: ") {
						t.Errorf("form %v: %d %s", form, status, text)
					}
					if n := len(w.target.hints()); n != before {
						t.Errorf("form %v: %d hints", form, n-before)
					}
					continue
				}
				if status != http.StatusAccepted {
					t.Fatalf("form %v: %d %s", form, status, text)
				}
				h := w.target.wait(t, before+1)[before]
				if h.Event != event || action != "" && h.Pull.Action != action {
					t.Errorf("got %s %+v, want %s %s", h.Event, h.Pull, event, action)
				}
				p.check(t, h)
				if status, text = w.send(d); status != http.StatusOK || !strings.HasPrefix(text, "had before") {
					t.Errorf("sent again: %d %s", status, text)
				}
				d.id = "" // a stranger replays it
				if status, text = w.send(d); status != http.StatusOK || !strings.HasPrefix(text, "had before") {
					t.Errorf("replayed: %d %s", status, text)
				}
				if n := len(w.target.hints()); n != before+1 {
					t.Errorf("form %v: %d hints of one delivery", form, n-before)
				}
			}
		})
	}
}

// check compares a hint with what the index says of its payload.
func (r *row) check(t *testing.T, h *Hint) {
	t.Helper()
	if h.Repo.Path == "" && !strings.Contains(r.File, "merge_group") { // cut down by who published it
		t.Error("no repository")
	}
	if h.Push != nil {
		if want := strings.TrimPrefix(r.Ref, "refs/heads/"); r.Ref != "" && h.Push.Branch != want {
			t.Errorf("branch %q, want %q", h.Push.Branch, want)
		}
		if h.Push.Forced != r.Forced {
			t.Errorf("forced %v, want %v", h.Push.Forced, r.Forced)
		}
		if h.Push.Forced && h.Push.Complete {
			t.Error("a forced push tells no paths")
		}
	}
	if h.Pull != nil && h.Pull.Fork != r.Fork && r.Fork {
		t.Error("the head is in a fork")
	}
}

// TestForgedPayloads: every payload again, wrongly signed, cut off, of the wrong type, with SHA-1 alone, unsigned, or
// where no secret is set: refused, and nothing is triggered.
func TestForgedPayloads(t *testing.T) {
	w := newWorld(t)
	rows := payloads(t)
	for _, p := range rows {
		good := delivery{forge: Forge(p.Forge), event: p.Event, body: p.body, secret: testSecret}
		for name, c := range map[string]struct {
			edit func(*delivery)
			want int
		}{
			"wrong secret":   {func(d *delivery) { d.secret = "guess" }, http.StatusUnauthorized},
			"empty secret":   {func(d *delivery) { d.bare = true; d.headers = emptySigned(d) }, http.StatusUnauthorized},
			"unsigned":       {func(d *delivery) { d.bare = true }, http.StatusUnauthorized},
			"sha1 alone":     {func(d *delivery) { d.sha1 = true }, http.StatusUnauthorized},
			"wrong type":     {func(d *delivery) { d.media = "text/plain" }, http.StatusUnsupportedMediaType},
			"no type":        {func(d *delivery) { d.media = "/" }, http.StatusUnsupportedMediaType},
			"unknown forge":  {func(d *delivery) { d.path = "/webhook/elsewhere" }, http.StatusUnauthorized},
			"cut and signed": {func(d *delivery) { d.body = bytes.TrimSpace(d.body)[:len(d.body)/2] }, http.StatusBadRequest},
		} {
			d := good
			c.edit(&d)
			if status, text := w.send(d); status != c.want {
				t.Errorf("%s, %s: %d %s", p.File, name, status, text)
			}
		}
		if Forge(p.Forge) != GitLab { // whose token signs nothing
			r := good.request()
			cut := bytes.NewReader(p.body[:len(p.body)-1])
			r.Body, r.ContentLength = http.NoBody, 0
			for name, req := range map[string]*http.Request{"truncated": r.Clone(t.Context()), "one byte": r.Clone(t.Context())} {
				if name == "truncated" {
					req.Body = readCloser{cut}
				} else {
					other := bytes.Clone(p.body)
					other[len(other)/2] ^= 1
					req.Body = readCloser{bytes.NewReader(other)}
				}
				if status := w.serve(req); status != http.StatusUnauthorized {
					t.Errorf("%s, %s: %d", p.File, name, status)
				}
			}
		}
		secrets := w.secrets
		w.secrets = nil
		if status, text := w.send(good); status != http.StatusUnauthorized {
			t.Errorf("%s, no secret set: %d %s", p.File, status, text)
		}
		w.secrets = []Secret{{Forge: Forge(p.Forge), Value: ""}}
		d := good
		d.bare, d.headers = true, emptySigned(&d)
		if status, text := w.send(d); status != http.StatusUnauthorized {
			t.Errorf("%s, empty secret set: %d %s", p.File, status, text)
		}
		w.secrets = secrets
	}
	if n := len(w.target.hints()); n > 0 {
		t.Errorf("%d hints were made", n)
	}
	if w.store.writes > 0 {
		t.Errorf("%d records were written", w.store.writes)
	}
}

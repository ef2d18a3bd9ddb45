package webhook

import (
	"net/http"
	"testing"

	"github.com/varanhq/varan/schema"
)

// TestListener: Komodo's URLs, as its reference has them.
func TestListener(t *testing.T) {
	known := map[schema.ID]*Resource{
		"stack/web": {Branch: "main", Enabled: true}, "stack/own": {Branch: "main", Enabled: true, Secret: "its own"}, "stack/off": {Branch: "main"},
		"resource_sync/main": {Branch: "main", Enabled: true}, "procedure/p": {Enabled: true}, "build/image": {Branch: "main", Enabled: true}, "repo/r": {Branch: "main", Enabled: true},
	}
	main := push("acme/infra", "main", one, two, "x")
	dev := push("acme/infra", "feature/dev", one, two, "x")
	for name, c := range map[string]struct {
		path   string
		body   []byte
		forge  Forge
		secret string
		status int
		hint   schema.ID
	}{
		"stack":                 {"/listener/github/stack/web/deploy", main, GitHub, "", 202, "stack/web"},
		"name as Komodo spells": {"/listener/github/stack/Web/deploy", main, GitHub, "", 202, "stack/web"},
		"refresh":               {"/listener/github/stack/web/refresh", main, GitHub, "", 202, "stack/web"},
		"sync":                  {"/listener/github/sync/main/sync", main, GitHub, "", 202, "resource_sync/main"},
		"gitlab":                {"/listener/gitlab/stack/web/deploy", main, GitLab, "", 202, "stack/web"},
		"gitlab, wrong":         {"/listener/gitlab/stack/web/deploy", main, GitLab, "guess", 401, ""},
		"build":                 {"/listener/github/build/image", main, GitHub, "", 202, "build/image"},
		"build, longer":         {"/listener/github/build/image/build", main, GitHub, "", 202, "build/image"},
		"repo":                  {"/listener/github/repo/r/pull", main, GitHub, "", 202, "repo/r"},
		"any branch":            {"/listener/github/procedure/p/__ANY__", []byte(`{"x":1}`), GitHub, "", 202, "procedure/p"},
		"escaped branch":        {"/listener/github/procedure/p/feature%2Fdev", dev, GitHub, "", 202, "procedure/p"},
		"another branch":        {"/listener/github/stack/web/deploy", dev, GitHub, "", 200, ""},
		"procedure, another":    {"/listener/github/procedure/p/main", dev, GitHub, "", 200, ""},
		"tag":                   {"/listener/github/stack/web/deploy", []byte(`{"ref":"refs/tags/main"}`), GitHub, "", 200, ""},
		"deleted":               {"/listener/github/stack/web/deploy", []byte(`{"ref":"refs/heads/main","after":"` + zeros + `"}`), GitHub, "", 200, ""},
		"off":                   {"/listener/github/stack/off/deploy", main, GitHub, "", 200, ""},
		"no such execution":     {"/listener/github/stack/web/explode", main, GitHub, "", 200, ""},
		"own secret":            {"/listener/github/stack/own/deploy", main, GitHub, "its own", 202, "stack/own"},
		"own secret alone":      {"/listener/github/stack/own/deploy", main, GitHub, "", 401, ""},
		"not its secret":        {"/listener/github/stack/web/deploy", main, GitHub, "its own", 401, ""},
		"unknown":               {"/listener/github/stack/none/deploy", main, GitHub, "", 401, ""},
		"sha1":                  {"/listener/github/alerter/x/y", main, GitHub, "", 401, ""},
		"not JSON":              {"/listener/github/stack/web/deploy", []byte("ref=main"), GitHub, "", 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.target.known = known
			status, text := w.send(delivery{path: c.path, forge: c.forge, event: "push", body: c.body, secret: c.secret})
			if status != c.status {
				t.Fatalf("%d %s", status, text)
			}
			if c.hint == "" {
				if n := len(w.target.hints()); n > 0 {
					t.Errorf("%d hints", n)
				}
				return
			}
			h := w.target.wait(t, 1)[0]
			if h.Event != Execution || h.Execution.Resource != c.hint {
				t.Errorf("%+v", h.Execution)
			}
		})
	}
}

// TestOneBodyManyListeners: one push goes to the URLs of several resources, with the same body.
func TestOneBodyManyListeners(t *testing.T) {
	w := newWorld(t)
	w.target.known = map[schema.ID]*Resource{"stack/a": {Branch: "main", Enabled: true}, "stack/b": {Branch: "main", Enabled: true}}
	body := push("acme/infra", "main", one, two, "x")
	for _, path := range []string{"/listener/github/stack/a/deploy", "/listener/github/stack/b/deploy", "/webhook/github"} {
		if status, text := w.send(delivery{path: path, forge: GitHub, event: "push", body: body, id: "same"}); status != http.StatusAccepted {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	w.target.wait(t, 3)
}

func TestListenerBeforeTheFirstReading(t *testing.T) {
	w := newWorld(t)
	w.target.notRead = true
	if status, text := w.send(delivery{path: "/listener/github/stack/a/deploy", forge: GitHub, body: push("a/b", "main", one, two)}); status != http.StatusServiceUnavailable {
		t.Error(status, text)
	}
}

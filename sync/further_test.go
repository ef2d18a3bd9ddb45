package sync

import (
	"strings"
	"testing"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/plan"
)

// team declares a further sync on other's repository.
func team(other *world, more ...string) string {
	url := strings.Replace(other.opts.Settings.Config.URL, "http://", "", 1)
	host, repo, _ := strings.Cut(url, "/")
	return "[[resource_sync]]\nname = \"team\"\n[resource_sync.config]\ngit_provider = \"" + host + "\"\ngit_https = false\nrepo = \"" + repo +
		"\"\nresource_path = [\".\"]\n" + strings.Join(more, "\n") + "\n"
}

// child is how the further sync stands.
func (w *world) child() SyncStatus {
	for _, s := range w.Status().Syncs {
		if s.Name == "team" {
			return s
		}
	}
	return SyncStatus{}
}

func TestFurtherSync(t *testing.T) {
	w := follow(t, func(o *Options) {
		o.Settings.Secrets = map[string]protocol.Secret{"TEAM_KEY": "one", "ROOT_KEY": "two"}
	})
	other := follow(t)
	first := other.git.Push(map[string]string{"a.toml": deployment("a", "1") + deployment("b", "1"), "s.toml": stack("s"), "s/compose.yaml": composeFile})
	w.git.Push(map[string]string{"x.toml": deployment("x", "1"), "team.toml": team(other, "delete = true", `secrets = ["TEAM_*"]`)})
	w.start()
	rest := func(names string) {
		t.Helper()
		w.until("runs "+names, func(s Status) bool { return w.host.names() == names && len(s.Running) == 0 })
	}
	rest("a b s-web-1 x")
	if c := w.child(); c.State != "ok" || c.Tip != first || c.Good != first {
		t.Errorf("child %+v", c)
	}
	// What a child declares carries its name and commit, and its files are its own repository's.
	w.host.mu.Lock()
	var commit, sync string
	for _, c := range w.host.containers {
		if c.Resource == "stack/s" {
			commit, sync = c.Commit, c.Sync
		}
	}
	files := w.host.payloads["stack/s"].Files
	w.host.mu.Unlock()
	if commit != first || sync != "team" {
		t.Errorf("stack/s is labelled sync %q commit %q, want team %q", sync, commit, first)
	}
	if len(files) != 1 || files[0].Path != "s/compose.yaml" {
		t.Errorf("files %+v", files)
	}

	// Outside its scope: told at its line, and what was good stays.
	for name, c := range map[string]struct{ toml, says string }{
		"a server":       {"[[server]]\nname = \"evil\"\n[server.config]\naddress = \"local\"\n", "may not declare a server"},
		"a variable":     {"[[variable]]\nname = \"V\"\nvalue = \"1\"\n", "may not declare variables"},
		"a secret":       {strings.Replace(deployment("c", "[[ROOT_KEY]]"), "\"a\"", "\"c\"", 1), "may not use the secret [[ROOT_KEY]]"},
		"a further sync": {strings.Replace(team(w), "\"team\"", "\"loop\"", 1), "is not followed from there"},
		"a broken file":  {"[[deployment]\n", ""},
		"a name taken":   {deployment("x", "2"), "deployment"},
	} {
		bad := other.git.Push(map[string]string{"bad.toml": c.toml})
		w.until(name+" is refused", func(Status) bool {
			st := w.child()
			return st.State == "broken" && st.Tip == bad && st.Good == first && len(st.Diagnostics) > 0
		})
		if text := w.child().Diagnostics[0]; !strings.Contains(text.Message, c.says) {
			t.Errorf("%s: %q does not say %q", name, text.Message, c.says)
		}
		rest("a b s-web-1 x")
	}

	// A good commit again; a secret within its scope; b is gone and removed, by the child's own delete.
	third := other.git.Push(map[string]string{"bad.toml": "", "a.toml": deployment("a", "[[TEAM_KEY]]")})
	rest("a s-web-1 x")
	if c := w.child(); c.State != "ok" || c.Good != third {
		t.Errorf("child %+v", c)
	}

	// The root's own orphans are its own delete's to decide.
	w.git.Push(map[string]string{"x.toml": deployment("y", "1")})
	rest("a s-web-1 y")
}

func TestFurtherSyncUnreachable(t *testing.T) {
	w := follow(t, func(o *Options) { o.Settings.Config.Delete = true })
	other := follow(t)
	w.git.Push(map[string]string{"x.toml": deployment("x", "1") + deployment("z", "1"),
		"team.toml": strings.Replace(team(other), "repo = \"", "repo = \"nowhere/", 1)})
	w.start()
	w.until("applied", func(s Status) bool { return w.host.names() == "x z" && len(s.Running) == 0 })
	if c := w.child(); c.State != "unreachable" || c.Error == "" {
		t.Errorf("child %+v", c)
	}
	// While it was never read nothing is an orphan.
	commit := w.git.Push(map[string]string{"x.toml": deployment("x", "1")})
	r := w.rep.applied(commit)
	if w.host.names() != "x z" || r.Plan.Summary[plan.Remove] != 0 {
		t.Errorf("%q runs, plan %v", w.host.names(), r.Plan.Summary)
	}
}

func TestFurtherSyncTags(t *testing.T) {
	w := follow(t)
	other := follow(t)
	tagged := strings.Replace(deployment("a", "1"), "name = \"a\"", "name = \"a\"\ntags = [\"prod\"]", 1)
	other.git.Push(map[string]string{"a.toml": tagged + deployment("b", "1")})
	w.git.Push(map[string]string{"team.toml": team(other, `match_tags = ["prod"]`, `servers = ["loc*"]`)})
	w.start()
	w.until("only what has the tag", func(s Status) bool { return w.host.names() == "a" && len(s.Running) == 0 })
	w.git.Push(map[string]string{"team.toml": team(other, `match_tags = ["prod"]`, `servers = ["other"]`)})
	w.until("its server is refused", func(Status) bool { return w.child().State == "broken" })
}

package sync

import (
	"strings"
	"testing"
)

// One child's match_tags hold although another child is read after it.
func TestFurtherSyncTagsOfTwo(t *testing.T) {
	w := follow(t)
	a, b := follow(t), follow(t)
	a.git.Push(map[string]string{"a.toml": tagged("a", "prod", "") + deployment("a2", "1")})
	b.git.Push(map[string]string{"b.toml": deployment("b", "1")})
	first := w.git.Push(map[string]string{"a.toml": team(a, `match_tags = ["prod"]`), "b.toml": strings.Replace(team(b), "\"team\"", "\"zeam\"", 1)})
	w.start()
	w.rep.applied(first)
	if got := w.host.names(); got != "a b" {
		t.Errorf("runs %q, want a b", got)
	}
}

func tagged(name, tag, more string) string {
	return strings.Replace(deployment(name, "1"), "name = \""+name+"\"\n", "name = \""+name+"\"\ntags = [\""+tag+"\"]\n"+more, 1)
}

// A [[resource_sync]] on the config repository that is gone from the files reads nothing more, and its match_tags hold.
func TestFurtherPartGone(t *testing.T) {
	w := follow(t, func(o *Options) { o.Settings.Config.Path = []string{"infra"} })
	host, repo, _ := strings.Cut(strings.TrimPrefix(w.opts.Settings.Config.URL, "http://"), "/")
	table := "[[resource_sync]]\nname = \"part\"\n[resource_sync.config]\ngit_provider = \"" + host + "\"\ngit_https = false\nrepo = \"" + repo + "\"\nresource_path = [\"team\"]\nmatch_tags = [\"prod\"]\n"
	first := w.git.Push(map[string]string{"infra/x.toml": deployment("x", "1"), "infra/y.toml": deployment("y", "1"), "infra/sync.toml": table,
		"team/a.toml": tagged("a", "prod", ""), "team/b.toml": tagged("b", "test", "")})
	w.start()
	t.Logf("diags %v", w.rep.applied(first).Diagnostics)
	if got := w.host.names(); got != "a x y" {
		t.Errorf("match_tags: runs %q, want a x y", got)
	}
	w.rep.applied(w.git.Push(map[string]string{"infra/sync.toml": ""}))
	if got := w.host.names(); got != "x y" {
		t.Errorf("gone: left %q, want x y", got)
	}
}

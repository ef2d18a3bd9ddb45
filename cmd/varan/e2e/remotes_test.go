package e2e

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/varanhq/varan/sync/gitrepo/gittest"
)

// pushed commits files to a remote's branch main; "ID" in them is the world's id.
func (w *world) pushed(r *gittest.Repo, files map[string]string) string {
	w.t.Helper()
	for name, text := range files {
		files[name] = strings.ReplaceAll(text, "ID", w.id)
	}
	return r.Push(files)
}

// valued is a deployment of that value.
func valued(k string) map[string]string {
	return map[string]string{"a.toml": strings.Replace(one("a"), "K = x", "K = "+k, 1)}
}

// unreachable waits until the sync cannot be read for that reason; containers are as before.
func (w *world) unreachable(why string, before map[string]string) {
	w.t.Helper()
	w.until("unreachable: "+why, func(s standing) bool {
		return s.Syncs[0].State == "unreachable" && strings.Contains(s.Syncs[0].Error, why)
	})
	w.same(before)
	if s, text := w.status(); len(before) > 0 && len(s.Resources) != 1 {
		w.t.Errorf("what is declared was forgotten:\n%s", text)
	}
}

// TestRemoteHTTPS: a repository behind https and a token. Whatever goes wrong with it is an error that says what, and
// never an empty Config; a branch that was set back or begun anew asks; one that was rewritten is let settle.
func TestRemoteHTTPS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := gittest.New(t)
	server := g.Serve(true)
	server.Auth = "bot:canary-git-token"
	var broken atomic.Int64 // a status that everything is answered with; 0 = as it should be
	inner := server.Config.Handler
	server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if code := broken.Load(); code != 0 {
			http.Error(rw, "broken", int(code))
			return
		}
		inner.ServeHTTP(rw, req)
	})
	ca := filepath.Join(w.dir, "ca.crt")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	w.extra = []string{"SSL_CERT_FILE=" + ca}
	token := filepath.Join(w.dir, "token")
	must(t, os.WriteFile(token, []byte("canary-wrong-token\n"), 0o600))
	host := strings.TrimPrefix(server.Server.URL, "https://")
	configure := func(account string) {
		w.configure(fmt.Sprintf("allow_internal = true\n---\n[config]\nurl = %q\npoll = \"1s\"\ndelete = true\n%s", server.URL(), account))
	}
	account := fmt.Sprintf("[[git_provider]]\ndomain = %q\naccounts = [{ username = \"bot\", token_file = %q }]\n", host, token)

	// Nothing to log in with, the wrong token, the right one: each counts without a restart.
	first := w.pushed(g, valued("one"))
	configure("")
	d := w.start()
	w.unreachable("[[git_provider]]", map[string]string{})
	configure(account)
	w.until("refused", func(s standing) bool {
		return s.Syncs[0].State == "unreachable" && strings.Contains(s.Syncs[0].Error, "401") && !strings.Contains(s.Syncs[0].Error, "[[git_provider]]")
	})
	must(t, os.WriteFile(token, []byte("canary-git-token\n"), 0o600))
	w.good(first)
	before := w.ids()

	// What breaks, and comes back.
	bare, aside := g.Bare, g.Bare+".aside"
	for _, c := range []struct {
		name, says  string
		spoil, mend func()
	}{
		{"401", "401", func() { broken.Store(401) }, func() { broken.Store(0) }},
		{"404", "404", func() { broken.Store(404) }, func() { broken.Store(0) }},
		{"deleted branch", `no such branch: "main" (it has "other")`, func() {
			g.Git("push", "-q", "origin", "HEAD:other")
			gittest.Git(t, bare, "symbolic-ref", "HEAD", "refs/heads/other")
			g.Git("push", "-q", "origin", ":main")
		}, func() { g.Send() }},
		{"empty repository", "no commit yet", func() {
			must(t, os.Rename(bare, aside))
			gittest.Git(t, filepath.Dir(bare), "init", "-q", "--bare", "-b", "main", bare)
		}, func() { must(t, os.RemoveAll(bare)); must(t, os.Rename(aside, bare)) }},
		{"gone", "404", func() { must(t, os.Rename(bare, aside)) }, func() { must(t, os.Rename(aside, bare)) }},
	} {
		c.spoil()
		w.unreachable(c.says, before)
		c.mend()
		w.good(first)
		w.same(before)
	}

	// Set back to an older commit: asks.
	second := w.pushed(g, valued("two"))
	w.good(second)
	before = w.ids()
	g.Git("reset", "-q", "--hard", first)
	g.Send()
	s := w.at(first, "asking")
	if !strings.Contains(strings.Join(s.Syncs[0].Asks, " "), "set back") {
		t.Errorf("asks %q", s.Syncs[0].Asks)
	}
	w.same(before)
	if r := w.varan("approve", s.Syncs[0].Digest); r.exit != 0 {
		t.Fatalf("approve: exit %d: %s", r.exit, r.stderr)
	}
	w.good(first)
	w.hasEnv("a", "K=one")

	// Another history: asks.
	before = w.ids()
	g.Git("checkout", "-q", "--orphan", "fresh")
	orphan := w.pushed(g, valued("three"))
	s = w.at(orphan, "asking")
	if !strings.Contains(strings.Join(s.Syncs[0].Asks, " "), "no known history") {
		t.Errorf("asks %q", s.Syncs[0].Asks)
	}
	w.same(before)
	if r := w.varan("approve", s.Syncs[0].Digest); r.exit != 0 {
		t.Fatalf("approve: exit %d: %s", r.exit, r.stderr)
	}
	w.good(orphan)
	third := w.pushed(g, valued("four"))
	w.good(third)

	// Rewritten: let settle, for half a minute.
	before = w.ids()
	g.Git("reset", "-q", "--hard", orphan)
	at := time.Now()
	amended := w.pushed(g, valued("five"))
	s = w.at(amended, "waiting")
	if !strings.Contains(s.Syncs[0].Error, "30s") {
		t.Errorf("it does not say how long it waits: %q", s.Syncs[0].Error)
	}
	for time.Since(at) < 25*time.Second {
		w.same(before)
		<-time.After(time.Second)
	}
	w.good(amended)
	if took := time.Since(at); took < 30*time.Second {
		t.Errorf("taken after %s", took)
	}
	w.hasEnv("a", "K=five")
	w.absent("canary", w.varan("status", "--json").stdout+w.varan("runs", "--json").stdout+w.log(), w.root, w.data)
	d.stop()
}

// TestRemoteSSH: a repository behind ssh. The key of an unknown host is an error with the line to add, another key
// than the known one an error too; both are taken up when they are put right.
func TestRemoteSSH(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := gittest.New(t)
	s, other := gittest.SSH(t), gittest.SSH(t)
	known, key := filepath.Join(w.dir, "known_hosts"), filepath.Join(w.dir, "key")
	must(t, os.WriteFile(known, nil, 0o600))
	must(t, os.WriteFile(key, []byte(s.Key), 0o600))
	w.configure(fmt.Sprintf("allow_internal = true\nknown_hosts_file = \"known_hosts\"\n---\n[config]\nurl = %q\npoll = \"1s\"\n[[git_provider]]\ndomain = %q\naccounts = [{ username = \"git\", ssh_key_file = %q }]\n",
		"ssh://"+s.User+"@"+s.Addr+g.Bare, s.Addr, key))
	first := w.pushed(g, valued("one"))
	d := w.start()
	w.unreachable(s.Line, map[string]string{})
	must(t, os.WriteFile(known, []byte(s.Line+"\n"), 0o600))
	w.good(first)
	before := w.ids()

	_, wrong, _ := strings.Cut(other.Line, " ")
	name, _, _ := strings.Cut(s.Line, " ")
	must(t, os.WriteFile(known, []byte(name+" "+wrong+"\n"), 0o600))
	w.unreachable("is not the one in", before)
	second := w.pushed(g, valued("two"))
	w.unreachable("is not the one in", before)
	must(t, os.WriteFile(known, []byte(s.Line+"\n"), 0o600))
	w.good(second)
	w.hasEnv("a", "K=two")
	d.stop()
}

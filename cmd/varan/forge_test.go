package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/forgetest"
)

// forgeWorld is a stand-in forge with acme/infra.
func forgeWorld(t *testing.T, kind forge.Kind) (*forgetest.Server, *forgetest.Repo) {
	t.Helper()
	if forgetest.Shared() == "" {
		t.Skip("no ../shared/contracts beside the repository: the stand-in has nothing to be held against")
	}
	c, err := forgetest.ReadContracts(forgetest.Shared())
	if err != nil {
		t.Fatal(err)
	}
	s, err := forgetest.New(forgetest.Options{Kind: kind, Dir: t.TempDir(), Contracts: c, Fail: t.Errorf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	r, err := s.AddRepo("acme/infra")
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

// varan runs the program in this process, with a varan.toml.
func varan(ctx context.Context, dir, toml string, errs io.Writer, args ...string) (out string, err error) {
	path := filepath.Join(dir, "varan.toml")
	if err := os.WriteFile(path, []byte(toml), 0o600); err != nil {
		return "", err
	}
	var buf bytes.Buffer
	root := newRoot(newShell(strings.NewReader(""), &buf, errs, []string{"HOME=" + dir, "VARAN_CONFIG=" + path}))
	root.SetArgs(args)
	err = root.ExecuteContext(ctx)
	return buf.String(), err
}

const internal = "allow_internal = true\nallow_http = true\n"

// TestForgeCheck: fine ends with 0, something missing with 1 and what to do.
func TestForgeCheck(t *testing.T) {
	for _, kind := range []forge.Kind{forge.GitHub, forge.Gitea, forge.GitLab} {
		t.Run(string(kind), func(t *testing.T) {
			s, repo := forgeWorld(t, kind)
			u := s.AddUser("bot")
			repo.Grant("bot", forge.Admin)
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "token"), []byte(u.Token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			toml := internal + fmt.Sprintf("[config]\nurl = %q\n[[forge]]\ntype = %q\ndomain = %q\napi_url = %q\ntoken_file = %q\n",
				repo.CloneURL(), kind, s.Domain(), s.APIURL(), filepath.Join(dir, "token"))
			var errs bytes.Buffer
			out, err := varan(t.Context(), dir, toml, &errs, "forge", "check")
			if err != nil || !strings.Contains(out, "acme/infra at "+s.Domain()) || strings.Contains(out, "✗") || !strings.Contains(out, "✓ sign in: as bot") {
				t.Errorf("%v\n%s%s", err, out, &errs)
			}
			repo.Grant("bot", forge.Read)
			out, err = varan(t.Context(), dir, toml, &errs, "forge", "check", "acme/infra")
			if quiet := (*exit)(nil); !errors.As(err, &quiet) || quiet.code != 1 || !strings.Contains(out, "✗") || strings.Contains(out+errs.String(), u.Token) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	if _, err := varan(t.Context(), t.TempDir(), "", io.Discard, "forge", "check"); err == nil || !strings.Contains(err.Error(), "no [[forge]]") {
		t.Errorf("got %v", err)
	}
}

// TestForgeManifest goes the whole way of a new user: page, button, code, files, installation, check.
func TestForgeManifest(t *testing.T) {
	s, repo := forgeWorld(t, forge.GitHub)
	dir := t.TempDir()
	r, w := io.Pipe()
	done := make(chan error, 1)
	var out string
	go func() {
		var err error
		out, err = varan(t.Context(), dir, internal+"public_url = \"https://varan.acme.example\"\n", w, "forge", "app-manifest",
			"--org", "acme", "--domain", s.Domain(), "--api-url", s.APIURL(), "--out", filepath.Join(dir, "keys"))
		_ = w.Close()
		done <- err
	}()
	var at string
	line := make([]byte, 4096)
	for at == "" {
		n, err := r.Read(line)
		if err != nil {
			t.Fatal(err, <-done)
		}
		at = regexp.MustCompile(`http://127\.0\.0\.1:\d+/`).FindString(string(line[:n]))
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	get := func(url string) (int, string) {
		t.Helper()
		res, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(text)
	}
	_, page := get(at)
	field := func(pattern string) string {
		m := regexp.MustCompile(pattern).FindStringSubmatch(page)
		if m == nil {
			t.Fatalf("no %s in\n%s", pattern, page)
		}
		return html.UnescapeString(m[1])
	}
	manifest, state := field(`name="manifest" value="([^"]*)"`), field(`\?state=([^"]*)"`)
	code, err := s.Create([]byte(manifest), "acme")
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Redirect string               `json:"redirect_url"`
		Hook     struct{ URL string } `json:"hook_attributes"`
	}
	if err := json.Unmarshal([]byte(manifest), &m); err != nil || m.Hook.URL != "https://varan.acme.example/webhook/github" {
		t.Errorf("%s %v", manifest, err)
	}
	if status, _ := get(m.Redirect + "?code=evil&state=guess"); status != http.StatusForbidden {
		t.Errorf("somebody else's code: %d", status)
	}
	if status, text := get(m.Redirect + "?code=" + code + "&state=" + state); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	keys, err := filepath.Glob(filepath.Join(dir, "keys", "*"))
	if err != nil || len(keys) != 2 {
		t.Fatal(keys, err)
	}
	for _, path := range keys {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	toml := internal + fmt.Sprintf("[config]\nurl = %q\n", repo.CloneURL()) + out
	var id int64
	if _, err := fmt.Sscanf(out[strings.Index(out, "app_id"):], "app_id = %d", &id); err != nil {
		t.Fatal(out, err)
	}
	if _, err := s.Install(id, repo); err != nil {
		t.Fatal(err)
	}
	told, err := varan(t.Context(), dir, toml, io.Discard, "forge", "check")
	number := regexp.MustCompile(`installation_id = [1-9]\d*`).FindString(told)
	if err == nil || number == "" {
		t.Fatalf("%v\n%s", err, told)
	}
	toml = strings.Replace(toml, "installation_id = 0", number, 1)
	if told, err = varan(t.Context(), dir, toml, io.Discard, "forge", "check"); err != nil || strings.Contains(told, "·") {
		t.Errorf("%v\n%s", err, told)
	}
}

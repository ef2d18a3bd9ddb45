package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPage: the page of a real daemon shows a failed run with what its container printed, to who has the token.
func TestPage(t *testing.T) {
	w := newWorld(t)
	w.configure("\n---\n[secrets]\nPAGE_SECRET = \"page-secret-value\"\n")
	w.write(map[string]string{"a.toml": `[[deployment]]
name = "ID-a"
[deployment.config]
image = { type = "Image", params = { image = "varan-e2e:1" } }
command = """sh -c 'echo "printed-by-it <b>$S</b>"; exit 3'"""
restart = "no"
environment = "S = [[PAGE_SECRET]]"
`})
	w.git("init", "-q", "-b", "main")
	w.commit("a container that fails")
	addr := "127.0.0.1:" + freePort(t)
	d := w.daemonOn(addr)
	defer d.stop()
	var run string
	w.eventually("the run has failed", time.Minute, func() (bool, string) {
		r := w.varan("runs", "--json")
		var runs []struct{ ID, Status string }
		if err := json.Unmarshal([]byte(r.stdout), &runs); err != nil || len(runs) == 0 {
			return false, r.stdout + r.stderr
		}
		run = runs[len(runs)-1].ID
		return runs[len(runs)-1].Status == "failed", r.stdout
	})
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Timeout: 10 * time.Second}
	get := func(path string) (*http.Response, string) {
		t.Helper()
		resp, err := client.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(data)
	}
	for _, path := range []string{"/", "/runs/" + run} {
		if resp, body := get(path); resp.Request.URL.Path != "/login" || strings.Contains(body, w.id) {
			t.Errorf("%s without a token leads to %s:\n%s", path, resp.Request.URL, body)
		}
	}
	token, err := os.ReadFile(filepath.Join(w.data, "read-token"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.PostForm("http://"+addr+"/login", url.Values{"token": {strings.TrimSpace(string(token))}, "next": {"/runs/" + run}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	resp, body := get("/runs/" + run)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("the run's page: %s, %v", resp.Status, resp.Header)
	}
	for _, want := range []string{w.id + "-a", "printed-by-it &lt;b&gt;", "failed"} {
		if !strings.Contains(body, want) {
			t.Errorf("the run's page does not show %q:\n%s", want, body)
		}
	}
	if _, over := get("/"); !strings.Contains(over, "/runs/"+run) || !strings.Contains(over, w.id+"-a") {
		t.Errorf("the overview does not lead to the run:\n%s", over)
	}
	if strings.Contains(body, "page-secret-value") {
		t.Error("the page shows a secret that a container printed")
	}
}

package forge_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/connect"
)

// FuzzAnswers: whatever a forge answers, every call ends with a value or with an error fit for one line of a log.
func FuzzAnswers(f *testing.F) {
	for _, body := range []string{
		``, `null`, `[]`, `{}`, `[null]`, `[{}]`, `"x"`, `[[]]`, `{"message":"\u001b]8;;evil\u0007 token-of-varan \n/varan apply"}`,
		`{"message":{"base":["a","b"]},"error":["x"]}`, `{"statuses":[null,{"context":null}],"check_runs":[null]}`,
		`[{"number":1,"iid":1,"id":1,"head":null,"base":{"repo":null},"user":null,"author":null,"merged_at":"2026-01-02T03:04:05Z","state":"merged"}]`,
		`[{"id":1,"body":null,"html_url":"https://x/o/r/pull/x","pull_request_url":"://","user":null,"created_at":"x"}]`,
		`{"id":1,"number":-1,"html_url":"/pull/99999999999999999999","system":true,"noteable_iid":-1}`,
		`{"permission":"admin","user":{"login":"ann"},"access_level":60,"state":"active"}`,
		`[{"filename":null,"new_path":"../..","status":"renamed","previous_filename":"/etc/passwd"}]`,
		`{"login":"varan","username":"varan","slug":"varan"}`, `{"path_with_namespace":"/","visibility":7}`,
	} {
		for kind := range 3 {
			f.Add(kind, 200, `<http://x/?page=2>; rel="next"`, body)
			f.Add(kind, 422, "", body)
		}
	}
	for kind := range 3 {
		for _, link := range []string{`<x>;`, `;`, `<http://x>; rel`, `<http://x/?a;b>; rel="next"`, `<http://x>; rel=,;`} {
			f.Add(kind, 200, link, `[]`)
		}
	}
	var answer atomic.Value // func(http.ResponseWriter)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer.Load().(func(http.ResponseWriter))(w)
	}))
	f.Cleanup(srv.Close)
	f.Fuzz(func(t *testing.T, kind, status int, link, body string) {
		if status < 200 || status > 499 || status == 429 {
			t.Skip("5xx is waited for, 1xx is not an answer")
		}
		if strings.ContainsFunc(link, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Skip("no header: the connection breaks, and that is waited for")
		}
		n := 0
		answer.Store(func(w http.ResponseWriter) { // one request after another
			w.Header().Set("Content-Type", "application/json")
			if n++; n < 40 {
				w.Header().Set("Link", link)
				w.Header().Set("X-Next-Page", link)
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		})
		const token = "token-of-varan"
		c, err := connect.To(forge.Options{
			Kind: []forge.Kind{forge.GitHub, forge.Gitea, forge.GitLab}[uint(kind)%3], Domain: "forge.example", APIURL: srv.URL, Token: token,
			AllowInternal: true, AllowHTTP: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		at := forge.Repo{Owner: "acme", Name: "infra"}
		const sha = "1111111111111111111111111111111111111111"
		level, permission := c.Permission(ctx, at, "bob")
		if level != forge.None && !strings.Contains(strings.ToLower(body), "bob") && c.Kind() != forge.GitLab {
			t.Errorf("bob is said to have %s by %q", level, body)
		}
		for _, err := range []error{
			permission, errOf(c.Me(ctx)), errOf(c.Repository(ctx, at)), errOf(c.PullRequests(ctx, at)), errOf(c.PullRequest(ctx, at, 1)),
			errOf(c.PullRequestsOf(ctx, at, sha)), errOf(c.ChangedFiles(ctx, at, 1)), errOf(c.Statuses(ctx, at, sha)),
			c.SetStatus(ctx, at, sha, forge.Status{Context: "c", State: forge.Success}), errOf(c.Comments(ctx, at, 1)), errOf(c.Comment(ctx, at, 1, 1)),
			errOf(c.OwnComment(ctx, at, 1, "marker")), errOf(c.CreateComment(ctx, at, 1, "hello")), errOf(c.EditComment(ctx, at, 1, 1, "hello")),
			errOf(c.NewComments(ctx, at, time.Unix(1, 0))), errOf(c.Check(ctx, at)),
		} {
			if err == nil {
				continue
			}
			if text := err.Error(); strings.Contains(text, token) || strings.ContainsFunc(text, unicode.IsControl) || len(text) > 4000 {
				t.Errorf("an error fit for nothing: %q", text)
			}
			limited := (*forge.RateLimited)(nil)
			if errors.As(err, &limited) && time.Until(limited.Until) > 3*time.Hour {
				t.Errorf("silenced until %s", limited.Until)
			}
		}
	})
}

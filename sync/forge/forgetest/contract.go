package forgetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/varanhq/varan/sync/forge"
)

// Shared is the folder of the contracts, found by walking up from the working folder; "" if there is none, and then
// the caller skips its test.
func Shared() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		at := filepath.Join(dir, "shared")
		if _, err := os.Stat(filepath.Join(at, "contracts", "README.md")); err == nil {
			return at
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

// Contracts are what real forges promise.
type Contracts struct {
	github   *openapi3.T
	webhooks *openapi3.T
	gitea    *openapi3.T
	forgejo  *openapi3.T
}

// ReadContracts reads them once; they may serve any number of servers.
func ReadContracts(shared string) (*Contracts, error) {
	var c Contracts
	var err error
	if c.github, err = load(filepath.Join(shared, "github", "openapi.json")); err != nil {
		return nil, err
	}
	if c.webhooks, err = load(filepath.Join(shared, "github", "webhooks-openapi.json")); err != nil {
		return nil, err
	}
	if c.gitea, err = convert(filepath.Join(shared, "gitea", "swagger.json")); err != nil {
		return nil, err
	}
	if c.forgejo, err = convert(filepath.Join(shared, "gitea", "forgejo-swagger.json")); err != nil {
		return nil, err
	}
	c.amend()
	return &c, nil
}

// amend says what the published contracts leave out: the head of a pull request whose fork is gone has neither
// repository nor user. GitHub shows it as "unknown repository" and its API answers null there; Gitea's converter
// sets the branch's repository only if it finds one (services/convert/pull.go, ToAPIPullRequest).
func (c *Contracts) amend() {
	for _, name := range []string{"pull-request", "pull-request-simple"} {
		head := c.github.Components.Schemas[name].Value.Properties["head"].Value
		nullable(head.Properties, "repo")
		nullable(head.Properties, "user")
	}
	for _, doc := range []*openapi3.T{c.gitea, c.forgejo} {
		nullable(doc.Components.Schemas["PRBranchInfo"].Value.Properties, "repo")
	}
}

// nullable allows null for one property, without touching what others refer to.
func nullable(props openapi3.Schemas, name string) {
	own := *props[name].Value
	own.Nullable = true
	props[name] = &openapi3.SchemaRef{Value: &own}
}

// convert reads a contract of the older form.
func convert(path string) (*openapi3.T, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	var old openapi2.T
	if err := json.Unmarshal(data, &old); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	doc, err := openapi2conv.ToV3(&old)
	if err != nil {
		return nil, fmt.Errorf("convert %s: %w", filepath.Base(path), err)
	}
	return doc, nil
}

func load(path string) (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return doc, nil
}

// router finds operations below a prefix. Parameters that may hold slashes are widened in a copy of the paths:
// OpenAPI cannot say that they may.
func router(doc *openapi3.T, prefix string) (routers.Router, error) {
	doc2 := *doc
	doc2.Servers = openapi3.Servers{{URL: prefix}}
	doc2.Paths = openapi3.NewPaths()
	for path, item := range doc.Paths.Map() {
		for _, name := range []string{"path", "filepath", "branch", "basehead"} {
			path = strings.ReplaceAll(path, "{"+name+"}", "{"+name+":.+}")
		}
		if !strings.Contains(path, "/commits/{ref}") { // widening it would swallow /commits/{sha}/pulls
			path = strings.ReplaceAll(path, "{ref}", "{ref:.+}")
		}
		doc2.Paths.Set(path, item)
	}
	return gorillamux.NewRouter(&doc2)
}

// check wraps an API so that requests and answers are held against the contract, and answers are filled with what
// the contract requires and nobody looks at.
type check struct {
	router routers.Router
	errors []*openapi3.Schema // what a refusal must look like; empty = not checked
	fail   func(format string, args ...any)
	next   http.Handler
}

func (c *check) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route, params, err := c.router.FindRoute(r)
	if err != nil {
		c.fail("the forge has no operation %s %s: %v", r.Method, r.URL.Path, err)
		c.next.ServeHTTP(w, r)
		return
	}
	in := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, MultiError: true},
	}
	if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
		c.fail("a request breaks the contract: %s %s: %s", r.Method, r.URL.Path, brief(err))
	}
	rec := &recorder{header: w.Header(), status: http.StatusOK}
	c.next.ServeHTTP(rec, r)
	body := rec.body.Bytes()
	if rec.status < 300 {
		if schema := answerSchema(route.Operation, rec.status); schema != nil && len(body) > 0 {
			body = fillJSON(schema, body)
		}
		out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: rec.status, Header: rec.header, Options: in.Options}
		if err := openapi3filter.ValidateResponse(r.Context(), out.SetBodyBytes(body)); err != nil {
			c.fail("an answer of the stand-in breaks the contract: %s %s: %d: %s", r.Method, r.URL.Path, rec.status, brief(err))
		}
	} else if rec.status >= 400 && len(c.errors) > 0 && !rec.foreign {
		c.refusal(r, rec.status, body)
	}
	w.WriteHeader(rec.status)
	_, _ = w.Write(body)
}

// refusal checks an error's body.
func (c *check) refusal(r *http.Request, status int, body []byte) {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		c.fail("%s %s: %d without JSON: %q", r.Method, r.URL.Path, status, body)
		return
	}
	for _, s := range c.errors {
		if s.VisitJSON(v) == nil {
			return
		}
	}
	c.fail("%s %s: %d is no error as the forge has them: %s", r.Method, r.URL.Path, status, body)
}

func answerSchema(op *openapi3.Operation, status int) *openapi3.Schema {
	res := op.Responses.Status(status)
	if res == nil || res.Value == nil {
		return nil
	}
	mt := res.Value.Content.Get("application/json")
	if mt == nil || mt.Schema == nil {
		return nil
	}
	return mt.Schema.Value
}

// brief is a validation's error without the schema and the value, which are long.
func brief(err error) string {
	var out []string
	var walk func(error)
	walk = func(err error) {
		var many openapi3.MultiError
		var one *openapi3.SchemaError
		var req *openapi3filter.RequestError
		var res *openapi3filter.ResponseError
		switch {
		case errors.As(err, &many) && len(many) > 0:
			for _, e := range many {
				walk(e)
			}
		case errors.As(err, &one):
			out = append(out, fmt.Sprintf("/%s: %s", strings.Join(one.JSONPointer(), "/"), one.Reason))
		case errors.As(err, &req):
			out = append(out, req.Error())
		case errors.As(err, &res):
			out = append(out, res.Error())
		default:
			out = append(out, err.Error())
		}
	}
	walk(err)
	text := strings.Join(out, "; ")
	if len(text) > 1500 {
		text = text[:1500] + "…"
	}
	return text
}

// recorder keeps an answer until it is checked.
type recorder struct {
	header  http.Header
	status  int
	body    bytes.Buffer
	foreign bool // the trouble asked for wrote it, not the forge
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *recorder) WriteHeader(status int)      { r.status = status }

// fillJSON is fill for bytes.
func fillJSON(schema *openapi3.Schema, body []byte) []byte {
	var v any
	dec := json.NewDecoder(bytes.NewReader(body))
	if dec.Decode(&v) != nil {
		return body
	}
	out, err := json.Marshal(fill(schema, v, 0))
	if err != nil {
		return body
	}
	return out
}

// fill adds to v what the schema requires and v lacks: the least that is valid.
func fill(s *openapi3.Schema, v any, depth int) any {
	if s == nil || depth > 40 || v == nil && s.Nullable {
		return v
	}
	for _, sub := range s.AllOf {
		v = fill(sub.Value, v, depth+1)
	}
	if some := slices.Concat(s.OneOf, s.AnyOf); len(some) > 0 {
		for _, sub := range some {
			if tried := fill(sub.Value, clone(v), depth+1); s.VisitJSON(tried) == nil {
				v = tried
				break
			}
		}
	}
	switch x := v.(type) {
	case map[string]any:
		for _, name := range s.Required {
			if _, has := x[name]; has {
				continue
			}
			if p := s.Properties[name]; p != nil && p.Value != nil {
				x[name] = least(p.Value, depth+1)
			} else {
				x[name] = map[string]any{}
			}
		}
		for name, has := range x {
			if p := s.Properties[name]; p != nil && p.Value != nil {
				x[name] = fill(p.Value, has, depth+1)
			}
		}
	case []any:
		for i := range x {
			if s.Items != nil {
				x[i] = fill(s.Items.Value, x[i], depth+1)
			}
		}
	}
	return v
}

func clone(v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := maps.Clone(x)
		for k := range out {
			out[k] = clone(out[k])
		}
		return out
	case []any:
		out := slices.Clone(x)
		for i := range out {
			out[i] = clone(out[i])
		}
		return out
	}
	return v
}

// least is the smallest value of a schema.
func least(s *openapi3.Schema, depth int) any {
	switch {
	case s.Nullable:
		return nil
	case s.Default != nil:
		return s.Default
	case len(s.Enum) > 0:
		return s.Enum[0]
	case len(s.AllOf) > 0:
		return fill(s, map[string]any{}, depth)
	case len(s.OneOf) > 0:
		return least(s.OneOf[0].Value, depth+1)
	case len(s.AnyOf) > 0:
		return least(s.AnyOf[0].Value, depth+1)
	}
	switch {
	case s.Type.Includes("string"):
		switch s.Format {
		case "date-time":
			return "2026-01-02T03:04:05Z"
		case "uri":
			return "https://forge.example/"
		}
		if s.Pattern != "" {
			return strings.Repeat("0", 40)
		}
		return strings.Repeat("x", int(s.MinLength))
	case s.Type.Includes("integer"), s.Type.Includes("number"):
		return float64(0)
	case s.Type.Includes("boolean"):
		return false
	case s.Type.Includes("array"):
		return []any{}
	}
	return fill(s, map[string]any{}, depth)
}

// hookBody fills a GitHub webhook's payload and holds it against its schema.
func (c *Contracts) hookBody(event, action string, payload map[string]any) ([]byte, error) {
	at := "/" + event
	if action != "" {
		at += "/" + action
	}
	item := c.webhooks.Paths.Find(at)
	if item == nil || item.Post == nil {
		return nil, fmt.Errorf("GitHub has no webhook %s", at)
	}
	schema := item.Post.RequestBody.Value.Content.Get("application/json").Schema.Value
	plain, err := json.Marshal(payload) // the schema's walk knows plain JSON only
	if err != nil {
		return nil, fmt.Errorf("encode webhook %s: %w", at, err)
	}
	body := fillJSON(schema, plain)
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, fmt.Errorf("decode webhook %s: %w", at, err)
	}
	if err := schema.VisitJSON(v, openapi3.MultiErrors()); err != nil {
		return nil, fmt.Errorf("webhook %s breaks the contract: %s", at, brief(err))
	}
	return body, nil
}

// checked wraps the API of a kind in its contract.
func (c *Contracts) checked(kind forge.Kind, forgejo bool, prefix string, fail func(string, ...any), api http.Handler) (http.Handler, error) {
	doc := c.github
	switch {
	case kind == forge.Gitea && forgejo:
		doc = c.forgejo
	case kind == forge.Gitea:
		doc = c.gitea
	}
	r, err := router(doc, prefix)
	if err != nil {
		return nil, fmt.Errorf("route %s's contract: %w", kind, err)
	}
	h := &check{router: &locked{next: r}, fail: fail, next: api}
	if kind == forge.GitHub {
		for _, name := range []string{"basic-error", "validation-error", "validation-error-simple"} {
			if s := doc.Components.Schemas[name]; s != nil {
				h.errors = append(h.errors, s.Value)
			}
		}
	}
	return h, nil
}

// locked: finding a route writes to the router's own documents.
type locked struct {
	mu   gosync.Mutex
	next routers.Router
}

func (l *locked) FindRoute(r *http.Request) (*routers.Route, map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next.FindRoute(r)
}

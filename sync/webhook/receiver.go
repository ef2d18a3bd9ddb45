package webhook

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varanhq/varan/schema"
)

// A Target is who hints are for.
type Target interface {
	// Concerns says, at once and from what is known, whether anybody is to look, and in a few words who or why not.
	Concerns(h *Hint) (look bool, why string)
	// Take begins to look and returns at once. It calls ended once, perhaps before it returns: with nil when what the
	// hint told of was planned, was overtaken by something newer or is nobody's, with an error when the hint is to
	// be brought again; ErrNotYet is one. It may be given hints more than once, and may forget them all when the process ends.
	Take(h *Hint, ended func(error))
	// Resource finds what one of Komodo's URLs names; ready is false while nothing was read yet.
	Resource(id schema.ID) (r *Resource, ready bool)
}

// A Resource is what is known of a Komodo URL's target.
type Resource struct {
	Secret  string // its own webhook_secret; "" = that of the forge counts
	Branch  string // whose pushes count; "" = the URL says so
	Enabled bool   // webhook_enabled
}

// Options of a Receiver.
type Options struct {
	Target Target
	Store  Store // nil: it takes deliveries in for the Queue and brings none, and its Run is not called
	// Queue is where several daemons put deliveries for the one that leads, whose Run takes them out of it; nil = this is
	// the only daemon. Held says, before something is taken out, whether this one still leads; nil = it does.
	Queue *Queue
	Held  func() bool
	// Secrets are those that count now; it is asked at every delivery.
	Secrets func() []Secret
	Log     *slog.Logger
	Timing  Timing
}

// A Receiver answers deliveries and brings hints to their target.
type Receiver struct {
	opts   Options
	mux    *http.ServeMux
	inbox  *inbox
	bodies budget
	quiet  limiter
}

// New makes a Receiver. Nothing is accepted before its Run has read what is still to be done.
func New(opts Options) *Receiver {
	opts.Log = cmp.Or(opts.Log, slog.New(slog.DiscardHandler))
	opts.Timing.complete()
	r := &Receiver{opts: opts, mux: http.NewServeMux(), bodies: budget{left: maxUnverified}}
	r.inbox = newInbox(opts.Store, opts.Target, opts.Log, opts.Timing)
	r.mux.HandleFunc("POST /webhook/{forge}", r.forge)
	r.mux.HandleFunc("POST /listener/{auth}/{kind}/{name}", r.listener)
	r.mux.HandleFunc("POST /listener/{auth}/{kind}/{name}/{execution}", r.listener)
	return r
}

// Run keeps and brings hints until ctx ends.
func (r *Receiver) Run(ctx context.Context) error {
	if r.opts.Queue == nil {
		return r.inbox.run(ctx)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.inbox.run(ctx) })
	g.Go(func() error { return r.opts.Queue.drain(ctx, r.inbox, r.opts.Held) })
	return g.Wait()
}

// Keeps reports whether deliveries can be kept: what came last could, and is read.
func (r *Receiver) Keeps() bool {
	if r.opts.Queue != nil {
		return !r.opts.Queue.failing.Load()
	}
	select {
	case <-r.inbox.begun:
		return !r.inbox.failing.Load()
	default:
		return false
	}
}

// ServeHTTP answers a delivery.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.mux.ServeHTTP(w, req) }

// A verdict is an answer to a delivery.
type verdict struct {
	status int
	text   string
	hint   *Hint
}

// refused is the one answer to an unknown name, a missing, wrong or outdated signature, and a secret nobody set.
var refused = verdict{status: http.StatusUnauthorized, text: "not signed with a secret that is known here"} //nolint:gochecknoglobals // never written

func (r *Receiver) forge(w http.ResponseWriter, req *http.Request) {
	forge := Forge(req.PathValue("forge"))
	r.answer(w, req, r.take(w, req, forge, r.secretsOf(forge), func(forge Forge, body []byte) (*Hint, error) {
		return parse(forge, req.Header, body)
	}))
}

// secretsOf are the secrets whose forge sends to that URL.
func (r *Receiver) secretsOf(forge Forge) []Secret {
	same := func(a Forge) Forge {
		if a == Forgejo {
			return Gitea
		}
		return a
	}
	return slices.DeleteFunc(slices.Clone(r.opts.Secrets()), func(s Secret) bool { return same(s.Forge) != same(forge) })
}

// take reads, verifies, understands and keeps a delivery.
func (r *Receiver) take(w http.ResponseWriter, req *http.Request, forge Forge, secrets []Secret, read func(Forge, []byte) (*Hint, error)) verdict {
	media, _, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil || media != "application/json" && media != "application/x-www-form-urlencoded" {
		return verdict{status: http.StatusUnsupportedMediaType, text: "send application/json, or a form with payload"}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(r.opts.Timing.Body)) // where there is a connection
	raw, free, err := r.bodies.read(req)
	defer free()
	switch {
	case errors.Is(err, errTooLarge):
		return verdict{status: http.StatusRequestEntityTooLarge, text: err.Error()}
	case errors.Is(err, errFull):
		return verdict{status: http.StatusServiceUnavailable, text: err.Error()}
	case err != nil:
		return verdict{status: http.StatusBadRequest, text: "the body was cut off"}
	}
	secret, ok := checkOf(forge, req.Header, secrets).find(raw)
	if !ok {
		return refused
	}
	body := raw
	if media == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(raw))
		if err != nil || len(form["payload"]) != 1 {
			return verdict{status: http.StatusBadRequest, text: "the form has no payload"}
		}
		body = []byte(form.Get("payload"))
	}
	h, err := read(cmp.Or(secret.Forge, forge), body)
	if err != nil {
		return verdict{status: http.StatusBadRequest, text: err.Error()}
	}
	h.Forge, h.Domain = cmp.Or(secret.Forge, forge), secret.Domain
	return r.keep(req, h, sha256.Sum256(raw))
}

// keep has a hint on disk before its sender is told so.
func (r *Receiver) keep(req *http.Request, h *Hint, body [32]byte) verdict {
	if !h.bound() {
		return verdict{status: http.StatusBadRequest, text: "a name in the payload is longer than any forge allows"}
	}
	if h.Event == Other {
		return verdict{status: http.StatusOK, text: "not for us: " + h.Why, hint: h}
	}
	look, why := r.opts.Target.Concerns(h)
	if !look {
		return verdict{status: http.StatusOK, text: "not for us: " + why, hint: h}
	}
	ctx, cancel := context.WithTimeout(req.Context(), r.opts.Timing.Answer)
	defer cancel()
	put := r.inbox.put
	if r.opts.Queue != nil {
		put = r.opts.Queue.put
	}
	switch news, err := put(ctx, deliveryID(req.Header), body, h); {
	case err != nil:
		r.opts.Log.ErrorContext(ctx, "webhook not kept", "err", err)
		return verdict{status: http.StatusServiceUnavailable, text: "the delivery could not be kept; send it again", hint: h}
	case !news:
		return verdict{status: http.StatusOK, text: "had before: " + why, hint: h}
	}
	return verdict{status: http.StatusAccepted, text: why, hint: h}
}

// deliveryID is what a forge calls a delivery, the same again when it is sent once more.
func deliveryID(h http.Header) string {
	for _, name := range []string{"X-Github-Delivery", "X-Forgejo-Delivery", "X-Gitea-Delivery", "Idempotency-Key", "Webhook-Id", "X-Gitlab-Event-Uuid"} {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}

func (r *Receiver) answer(w http.ResponseWriter, req *http.Request, v verdict) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if v.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "30")
	}
	w.WriteHeader(v.status)
	_, _ = io.WriteString(w, v.text+"\n")
	switch {
	case v.status >= 300:
		if r.quiet.allow(time.Now()) { // anybody can make these: a log is no place to fill
			r.opts.Log.WarnContext(req.Context(), "webhook refused", "path", short(req.URL.Path), "status", v.status, "why", v.text)
		}
	case v.hint != nil:
		r.opts.Log.DebugContext(req.Context(), "webhook", "event", v.hint.Event, "repo", short(v.hint.Repo.Path), "status", v.status, "answer", v.text)
	}
}

// limiter lets a few through in each window of a minute.
type limiter struct {
	mu    sync.Mutex // guards the rest
	start time.Time
	count int
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.start) > time.Minute {
		l.start, l.count = now, 0
	}
	l.count++
	return l.count <= 10
}

// executions are what Komodo's URLs may ask for, by the kind they name.
var executions = map[string]struct { //nolint:gochecknoglobals // never written
	kind  schema.Kind
	names []string // nil: a branch, or __ANY__
}{
	"sync":      {schema.KindResourceSync, []string{"sync", "refresh"}},
	"stack":     {schema.KindStack, []string{"deploy", "refresh"}},
	"repo":      {schema.KindRepo, []string{"clone", "pull", "build"}},
	"build":     {schema.KindBuild, []string{"", "build"}},
	"procedure": {schema.KindProcedure, nil},
}

const anyBranch = "__ANY__"

// listener answers at Komodo's URLs.
func (r *Receiver) listener(w http.ResponseWriter, req *http.Request) {
	auth, execution := Forge(req.PathValue("auth")), req.PathValue("execution")
	of, known := executions[req.PathValue("kind")]
	id := schema.NewID(of.kind, schema.NormalName(of.kind, req.PathValue("name")))
	var res *Resource
	if known && (auth == GitHub || auth == GitLab) {
		ready := true
		if res, ready = r.opts.Target.Resource(id); !ready {
			r.answer(w, req, verdict{status: http.StatusServiceUnavailable, text: "nothing was read yet; send it again"})
			return
		}
	}
	own, shared := Secret{void: true}, slices.DeleteFunc(slices.Clone(r.opts.Secrets()), func(s Secret) bool { return (s.Forge == GitLab) != (auth == GitLab) })
	if res != nil && res.Secret != "" {
		own = Secret{Value: res.Secret}
	}
	for i := range shared { // an unknown name is answered like a wrong signature, after the same work
		shared[i].void = res == nil || res.Secret != ""
	}
	secrets := append(shared, own)
	r.answer(w, req, r.take(w, req, auth, secrets, func(_ Forge, body []byte) (*Hint, error) {
		h, err := parseExecution(body)
		if err != nil || h.Event == Other {
			return h, err
		}
		e := h.Execution
		e.Resource, e.Name = id, execution
		want := res.Branch
		switch {
		case of.names != nil && !slices.Contains(of.names, execution):
			return other("a %s has no execution %s", req.PathValue("kind"), short(execution)), nil
		case of.names == nil && execution == "":
			return other("the URL ends with a branch, or %s", anyBranch), nil
		case of.names == nil:
			want = execution
		}
		switch {
		case !res.Enabled:
			return other("webhook_enabled is false for %s", id), nil
		case want != anyBranch && e.Branch == "":
			return other("the payload is not of a push to a branch"), nil
		case want != anyBranch && e.Branch != want:
			return other("%s is on another branch than %s", id, short(e.Branch)), nil
		}
		return h, nil
	}))
}

// parseExecution reads of a payload what Komodo reads: the branch.
func parseExecution(body []byte) (*Hint, error) {
	var p struct {
		Ref     string `json:"ref"`
		After   string `json:"after"`
		Deleted bool   `json:"deleted"`
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, errors.New("the body is not JSON, not all of it, or no payload")
	}
	if p.Deleted || p.After != "" && commitOf(p.After) == "" {
		return other("the branch was deleted; that deploys nothing"), nil
	}
	branch, _ := branchOf(p.Ref)
	return &Hint{Event: Execution, Execution: &ExecutionHint{Branch: branch}}, nil
}

package httpd

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/apply/lease"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
)

// A Daemon is what the API drives: sync.Daemon keeps these promises.
type Daemon interface {
	Status() sync.Status
	Runs(ctx context.Context, limit int) ([]sync.RunInfo, error)
	RunByID(ctx context.Context, id string) (*sync.Run, error)
	Plan(ctx context.Context, req sync.PlanRequest) (*plan.Plan, error)
	Apply(ctx context.Context, req sync.ApplyRequest, events func(apply.Event)) (*plan.Plan, *apply.Result, error)
	Events(ctx context.Context, fn func(apply.Event)) error
	Hold(ctx context.Context, req sync.HoldRequest) error
	Pause(ctx context.Context, req sync.PauseRequest) error
	Cancel(ctx context.Context, run string) error
	Remove(ctx context.Context, id schema.ID, actor string, events func(apply.Event)) (*apply.Result, error)
	Approve(ctx context.Context, digest, actor string) error
	RunNow(ctx context.Context, id schema.ID, actor string, events func(apply.Event)) (*apply.Result, error)
	Sync(ctx context.Context, name string) error
	Logs(ctx context.Context, req sync.LogsRequest, w io.Writer) error
}

// A Hub is where agents meet the daemon: fleet.Hub keeps these promises.
type Hub interface {
	Status() fleet.Status
	Revoke(key string, off bool) error
	Rotate(ctx context.Context, finish bool) (fleet.Rotation, error)
	// WebSocket takes in an agent that came by HTTP from the address given.
	WebSocket(w http.ResponseWriter, r *http.Request, from netip.Addr)
}

// Revocation locks an agent out by its public key.
type Revocation struct {
	Key string `json:"key"`
	Off bool   `json:"off,omitempty"`
}

// KeyChange asks for the fleet's next key, or makes it the fleet's though agents are missing.
type KeyChange struct {
	Finish bool `json:"finish,omitempty"`
}

// Status is sync's, with what only the process knows.
type Status struct {
	sync.Status
	Version string `json:"version"`
	// Hub is how the agents' connections stand.
	Hub *fleet.Status `json:"hub,omitempty"`
	// Lead is who leads, of several daemons.
	Lead *lease.Status `json:"lead,omitempty"`
	// Problems are secrets and settings that could not be read.
	Problems []string `json:"problems,omitempty"`
}

// A Subject is a resource to act on, and who asks.
type Subject struct {
	Resource schema.ID `json:"resource,omitempty"`
	Run      string    `json:"run,omitempty"`
	Digest   string    `json:"digest,omitempty"`
	Sync     string    `json:"sync,omitempty"`
	Actor    string    `json:"actor,omitempty"`
}

// A Frame is one line of an answer that grows: events, then the end of it.
type Frame struct {
	Event  *apply.Event  `json:"event,omitempty"`
	Plan   *plan.Plan    `json:"plan,omitempty"`
	Result *apply.Result `json:"result,omitempty"`
	Error  *Fault        `json:"error,omitempty"`
	End    bool          `json:"end,omitempty"`
}

// A Fault is an error on the wire.
type Fault struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// faults pair the errors that callers tell apart with their codes.
var faults = [...]struct {
	err    error
	code   string
	status int
}{
	{sync.ErrUnknown, "unknown", http.StatusNotFound},
	{sync.ErrChanged, "changed", http.StatusConflict},
	{sync.ErrBusy, "busy", http.StatusConflict},
	{ErrFollows, "follows", http.StatusServiceUnavailable},
	{sync.ErrNotAsked, "not_asked", http.StatusConflict},
}

func faultOf(err error) (Fault, int) {
	for _, f := range faults {
		if errors.Is(err, f.err) {
			return Fault{f.code, err.Error()}, f.status
		}
	}
	return Fault{"failed", err.Error()}, http.StatusInternalServerError
}

// Err is the error a Fault came from, as errors.Is sees it.
func (f Fault) Err() error { return &remoteError{f} }

type remoteError struct{ f Fault }

func (e *remoteError) Error() string { return e.f.Message }
func (e *remoteError) Is(target error) bool {
	for _, f := range faults {
		if f.code == e.f.Code {
			return f.err == target
		}
	}
	return false
}

// routes are the API. What acts is a POST and needs the role operate.
func (s *Server) routes(local bool) http.Handler {
	mux := http.NewServeMux()
	get := func(path string, h func(http.ResponseWriter, *http.Request) error) {
		mux.Handle("GET "+path, s.guard(local, false, h))
	}
	post := func(path string, h func(http.ResponseWriter, *http.Request) error) {
		mux.Handle("POST "+path, s.guard(local, true, h))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { word(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s.ready() {
			word(w, http.StatusOK, "ready")
			return
		}
		if s.follows() {
			word(w, http.StatusOK, "following")
			return
		}
		word(w, http.StatusServiceUnavailable, "waiting")
	})
	if s.opts.Hooks != nil && !local {
		mux.Handle("POST /webhook/", s.metrics.count(s.opts.Hooks))
		mux.Handle("POST /listener/", s.metrics.count(s.opts.Hooks))
	}
	if !local {
		s.page.routes(mux)
	}
	get("/metrics", func(w http.ResponseWriter, r *http.Request) error {
		s.metrics.handler.ServeHTTP(w, r)
		return nil
	})
	get("/api/v1/status", func(w http.ResponseWriter, r *http.Request) error {
		return answer(w, s.status())
	})
	get("/api/v1/runs", func(w http.ResponseWriter, r *http.Request) error {
		limit, err := strconv.Atoi(r.FormValue("limit"))
		if err != nil || limit < 1 {
			limit = 20
		}
		runs, err := s.opts.Daemon.Runs(r.Context(), min(limit, 1000))
		if err != nil {
			return err
		}
		if runs == nil {
			runs = []sync.RunInfo{}
		}
		return answer(w, runs)
	})
	get("/api/v1/runs/{id}", func(w http.ResponseWriter, r *http.Request) error {
		run, err := s.opts.Daemon.RunByID(r.Context(), r.PathValue("id"))
		if err != nil {
			return err
		}
		return answer(w, run)
	})
	get("/api/v1/logs", func(w http.ResponseWriter, r *http.Request) error {
		tail, _ := strconv.Atoi(r.FormValue("tail"))
		req := sync.LogsRequest{
			Resource: schema.ID(r.FormValue("resource")), Server: r.FormValue("server"), Service: r.FormValue("service"),
			Tail: tail, Follow: r.FormValue("follow") == "true", Since: r.FormValue("since"),
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		out := &flusher{w: w, rc: http.NewResponseController(w)}
		err := s.opts.Daemon.Logs(r.Context(), req, out)
		if err != nil && out.wrote {
			s.opts.Log.Warn("logs cut off", "resource", req.Resource, "err", err)
			return nil
		}
		return err
	})
	get("/api/v1/events", func(w http.ResponseWriter, r *http.Request) error {
		return s.stream(w, r, func(events func(apply.Event)) (Frame, error) {
			return Frame{}, s.opts.Daemon.Events(r.Context(), events)
		})
	})
	post("/api/v1/plan", func(w http.ResponseWriter, r *http.Request) error {
		req, err := read[sync.PlanRequest](r)
		if err != nil {
			return err
		}
		if err := ownFolders(local, req); err != nil {
			return err
		}
		p, err := s.opts.Daemon.Plan(r.Context(), req)
		if err != nil {
			return err
		}
		return answer(w, p)
	})
	post("/api/v1/apply", func(w http.ResponseWriter, r *http.Request) error {
		req, err := read[sync.ApplyRequest](r)
		if err != nil {
			return err
		}
		if err := ownFolders(local, req.PlanRequest); err != nil {
			return err
		}
		req.Actor = actor(r, req.Actor)
		return s.stream(w, r, func(events func(apply.Event)) (Frame, error) {
			p, result, err := s.opts.Daemon.Apply(r.Context(), req, events)
			return Frame{Plan: p, Result: result}, err
		})
	})
	post("/api/v1/run", func(w http.ResponseWriter, r *http.Request) error {
		req, err := read[Subject](r)
		if err != nil {
			return err
		}
		return s.stream(w, r, func(events func(apply.Event)) (Frame, error) {
			result, err := s.opts.Daemon.RunNow(r.Context(), req.Resource, actor(r, req.Actor), events)
			return Frame{Result: result}, err
		})
	})
	post("/api/v1/remove", func(w http.ResponseWriter, r *http.Request) error {
		req, err := read[Subject](r)
		if err != nil {
			return err
		}
		return s.stream(w, r, func(events func(apply.Event)) (Frame, error) {
			result, err := s.opts.Daemon.Remove(r.Context(), req.Resource, actor(r, req.Actor), events)
			return Frame{Result: result}, err
		})
	})
	post("/api/v1/hold", act(func(ctx context.Context, r *http.Request, req sync.HoldRequest) error {
		return s.opts.Daemon.Hold(ctx, req)
	}))
	post("/api/v1/pause", act(func(ctx context.Context, r *http.Request, req sync.PauseRequest) error {
		return s.opts.Daemon.Pause(ctx, req)
	}))
	post("/api/v1/cancel", act(func(ctx context.Context, r *http.Request, req Subject) error {
		return s.opts.Daemon.Cancel(ctx, req.Run)
	}))
	post("/api/v1/approve", act(func(ctx context.Context, r *http.Request, req Subject) error {
		return s.opts.Daemon.Approve(ctx, req.Digest, actor(r, req.Actor))
	}))
	post("/api/v1/sync", act(func(ctx context.Context, r *http.Request, req Subject) error {
		return s.opts.Daemon.Sync(ctx, req.Sync)
	}))
	if s.opts.Hub != nil {
		post("/api/v1/agent/revoke", act(func(_ context.Context, _ *http.Request, req Revocation) error {
			return s.opts.Hub.Revoke(req.Key, req.Off)
		}))
		post("/api/v1/key/rotate", func(w http.ResponseWriter, r *http.Request) error {
			req, err := read[KeyChange](r)
			if err != nil {
				return err
			}
			rotation, err := s.opts.Hub.Rotate(r.Context(), req.Finish)
			if err != nil {
				return err
			}
			return answer(w, rotation)
		})
		if !local { // its key is what lets an agent in
			mux.HandleFunc("GET /agent", func(w http.ResponseWriter, r *http.Request) {
				from, _ := netip.ParseAddr(s.client(r))
				s.opts.Hub.WebSocket(w, r, from)
			})
		}
	}
	return mux
}

// errFolder answers a request over HTTP that names a folder of this machine.
var errFolder = &refusal{http.StatusForbidden, "a folder of the daemon's machine is read over its socket only"}

func ownFolders(local bool, req sync.PlanRequest) error {
	if !local && (req.Dir != "" || req.Ref != "") {
		return errFolder
	}
	return nil
}

// act handles a command without an answer.
func act[T any](do func(context.Context, *http.Request, T) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		req, err := read[T](r)
		if err != nil {
			return err
		}
		if err := do(r.Context(), r, req); err != nil {
			return err
		}
		return answer(w, struct{}{})
	}
}

// maxBody bounds a request: none of ours is near it.
const maxBody = 1 << 20

func read[T any](r *http.Request) (v T, err error) {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	if err := d.Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		return v, &refusal{http.StatusBadRequest, "the request is not understood: " + err.Error()}
	}
	return v, nil
}

func answer(w http.ResponseWriter, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(data, '\n'))
	_ = err // the caller is gone
	return nil
}

func word(w http.ResponseWriter, status int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, s+"\n")
}

// stream sends events as they come and the end of what run does.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, run func(func(apply.Event)) (Frame, error)) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	var send mutexed
	last, err := run(func(e apply.Event) {
		send.do(func() {
			if enc.Encode(Frame{Event: &e}) == nil {
				_ = rc.Flush()
			}
		})
	})
	if err != nil {
		f, _ := faultOf(err)
		last.Error = &f
	}
	last.End = true
	send.do(func() { _ = enc.Encode(last) })
	return nil
}

// flusher hands each write on at once.
type flusher struct {
	w     io.Writer
	rc    *http.ResponseController
	wrote bool
}

func (f *flusher) Write(p []byte) (int, error) {
	if len(p) == 0 { // would begin the answer, and an error could not be told any more
		return 0, nil
	}
	n, err := f.w.Write(p)
	f.wrote = f.wrote || n > 0
	_ = f.rc.Flush()
	return n, err
}

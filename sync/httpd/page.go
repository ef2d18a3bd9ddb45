package httpd

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/report"
)

//go:embed page
var pageFiles embed.FS

// A page is the read-only view for people: the overview, a run, the log-in. It has no script, and nothing in it
// acts on the fleet.
type page struct {
	s         *Server
	templates *template.Template
	policy    string
	sessions  sessions
	origin    *http.CrossOriginProtection
}

func newPage(s *Server) (*page, error) {
	css, err := pageFiles.ReadFile("page/style.css")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(css)
	p := &page{s: s, origin: http.NewCrossOriginProtection()}
	p.policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	p.templates, err = template.New("").Funcs(functions(string(css))).ParseFS(pageFiles, "page/page.html")
	return p, err
}

// functions are what the templates may call. Every text that comes from elsewhere goes through show: html/template
// takes the meaning from markup, show makes visible what nobody would see.
func functions(css string) template.FuncMap {
	show := func(v any) string {
		switch v := v.(type) {
		case string:
			return report.HTML(v)
		case plan.Digest:
			return report.HTML(string(v))
		}
		return "?"
	}
	return template.FuncMap{
		"show":  show,
		"style": func() template.CSS { return template.CSS(css) },
		"id":    func(id schema.ID) string { return report.HTML(string(id)) },
		"place": func(d schema.Diagnostic) string { return report.Place(d.Pos) },
		"words": func(v any) string {
			switch v := v.(type) {
			case string:
				return report.HTML(strings.ReplaceAll(v, "_", " "))
			case plan.Action:
				return report.HTML(strings.ReplaceAll(string(v), "_", " "))
			case plan.HoldKind:
				return report.HTML(strings.ReplaceAll(string(v), "_", " "))
			}
			return "?"
		},
		"class": class,
		"health": func(s string) string { // of a resource: what runs is well
			if s == "running" {
				return "ok"
			}
			return class(s)
		},
		"commit": func(s string) string {
			if len(s) == 40 {
				s = s[:7]
			}
			return report.HTML(s)
		},
		"counts": report.Counts,
		"millis": func(ms int64) string {
			if ms == 0 {
				return ""
			}
			return report.Millis(ms)
		},
		"time": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" },
		"took": func(from, to time.Time) string {
			if to.IsZero() {
				return ""
			}
			return report.Millis(to.Sub(from).Milliseconds())
		},
		"runURL": func(id string) string { return "/runs/" + url.PathEscape(id) },
		"sign": func(line string) string {
			switch line[:min(1, len(line))] {
			case "+":
				return "add"
			case "-":
				return "del"
			case "!":
				return "chg"
			}
			return ""
		},
	}
}

// class is a word of ours as the style sheet knows it, "" if it is none.
func class(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return s
}

// routes are the pages, which are read, and the two forms, which end or begin a session and nothing else.
func (p *page) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", p.behind(p.overview))
	mux.HandleFunc("GET /runs/{id}", p.behind(p.run))
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		p.write(w, http.StatusOK, "login", view{Title: "varan", Next: localPath(r.FormValue("next"))})
	})
	mux.HandleFunc("POST /login", p.login)
	mux.HandleFunc("POST /logout", p.logout)
}

// A view is what a template shows.
type view struct {
	Title, Fleet, Error string
	Next                string
	Refresh             string // of <meta http-equiv="refresh">, ours alone

	Status       *Status
	Runs         []sync.RunInfo
	Well, Unwell []sync.ResourceStatus

	Run         *sync.Run
	Waves       bool
	Failed      []sync.RunStep
	Steps       []stepView
	Diagnostics []schema.Diagnostic
}

type stepView struct {
	sync.RunStep
	Wave   int
	Causes []string
	Diff   []string
}

func (p *page) write(w http.ResponseWriter, status int, name string, v view) {
	var b bytes.Buffer
	if err := p.templates.ExecuteTemplate(&b, name, v); err != nil {
		p.s.opts.Log.Error("page not written", "page", name, "err", err)
		http.Error(w, "this page could not be written; the log says why", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// behind lets in who has a session or a token, and shows the log-in to all others.
func (p *page) behind(h func(http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from := p.s.client(r)
		if r.Header.Get("Authorization") != "" {
			if !p.s.fails.allow(from, time.Now()) {
				p.slowDown(w)
				return
			}
			if _, ok := p.s.who(r); ok {
				h(w, r)
				return
			}
			p.s.fails.fail(from, time.Now())
		}
		if c, err := r.Cookie(cookieName); err == nil && p.sessions.holds(c.Value, p.s.tokens(), time.Now()) {
			h(w, r)
			return
		}
		next := localPath(r.URL.Path)
		// A click on a link elsewhere comes without the cookie, which is SameSite=Strict: going on from here brings it.
		if r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") == "navigate" {
			p.write(w, http.StatusOK, "bounce", view{Title: "varan", Next: next, Refresh: "0;url=" + next})
			return
		}
		http.Redirect(w, r, "/login?next="+url.QueryEscape(next), http.StatusSeeOther)
	}
}

func (p *page) slowDown(w http.ResponseWriter) {
	p.write(w, http.StatusTooManyRequests, "login", view{Title: "varan", Next: "/", Error: "Too many failed log-ins; wait a minute."})
}

var runPath = regexp.MustCompile(`^/runs/[A-Za-z0-9._~-]{1,128}$`)

// localPath is where to go after the log-in: one of our pages, else the overview.
func localPath(s string) string {
	if runPath.MatchString(s) {
		return s
	}
	return "/"
}

func (p *page) overview(w http.ResponseWriter, r *http.Request) {
	st := p.s.status()
	runs, err := p.s.opts.Daemon.Runs(r.Context(), 30)
	if err != nil {
		p.s.opts.Log.Warn("runs not listed", "err", err)
		st.Problems = append(slices.Clone(st.Problems), "the runs could not be read: "+err.Error())
	}
	v := view{Title: "varan " + st.Fleet, Fleet: st.Fleet, Status: &st, Runs: runs, Refresh: "30"}
	for _, x := range st.Resources {
		if (x.State == "running" || x.State == "completed") && !x.Action.Changes() && x.Cause == "" {
			v.Well = append(v.Well, x)
		} else {
			v.Unwell = append(v.Unwell, x)
		}
	}
	p.write(w, http.StatusOK, "overview", v)
}

func (p *page) run(w http.ResponseWriter, r *http.Request) {
	fleet := p.s.opts.Daemon.Status().Fleet
	run, err := p.s.opts.Daemon.RunByID(r.Context(), r.PathValue("id"))
	if err != nil {
		v := view{Title: "No such run", Fleet: fleet, Error: "The journal has no run " + r.PathValue("id") + ", or no longer."}
		status := http.StatusNotFound
		if !errors.Is(err, sync.ErrUnknown) {
			v.Title, v.Error, status = "The run could not be read", err.Error(), http.StatusInternalServerError
		}
		p.write(w, status, "missing", v)
		return
	}
	v := view{Title: "Run " + run.ID, Fleet: fleet, Run: run}
	if run.Ended.IsZero() {
		v.Refresh = "3"
	}
	planned := map[schema.ID]*plan.Step{}
	if run.Plan != nil {
		v.Diagnostics = run.Plan.Diagnostics
		for i := range run.Plan.Steps {
			planned[run.Plan.Steps[i].Resource] = &run.Plan.Steps[i]
		}
	}
	for _, st := range run.Steps {
		if st.Status == "failed" || st.Status == "rolled_back" || st.Status == "unknown" {
			v.Failed = append(v.Failed, st)
			st.Error, st.Hint, st.Tail = "", "", "" // told on top
		}
		sv := stepView{RunStep: st}
		if s := planned[st.Resource]; s != nil {
			sv.Wave, sv.Diff = s.Wave, report.ChangeLines(s.Changes)
			v.Waves = v.Waves || s.Wave > 0
			for _, c := range s.Causes {
				sv.Causes = append(sv.Causes, report.CauseWords(c))
			}
		}
		v.Steps = append(v.Steps, sv)
	}
	p.write(w, http.StatusOK, "run", v)
}

package report

import (
	"strings"
	"time"

	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// A Live follows a run's events and says what stands where. It is a value of the event stream: no clock of its
// own, not safe for use by several goroutines.
type Live struct {
	t     Terminal
	steps []*liveStep
	byID  map[schema.ID]*liveStep
	wName int
	wSrv  int
	Done  int // steps that ended
}

type liveStep struct {
	id      schema.ID
	server  string
	action  plan.Action
	after   []schema.ID
	started time.Time
	phase   string
	detail  string
	ended   bool
}

// NewLive follows the changing steps of a plan.
func NewLive(p *plan.Plan, t Terminal) *Live {
	l := &Live{t: t, byID: map[schema.ID]*liveStep{}}
	for _, s := range p.Steps {
		if s.Action.Changes() || s.Action == plan.Adopt {
			l.add(s.Resource, s.Server, s.Action).after = s.After
		}
	}
	return l
}

func (l *Live) add(id schema.ID, server string, a plan.Action) *liveStep {
	s := &liveStep{id: id, server: server, action: a}
	l.steps = append(l.steps, s)
	l.byID[id] = s
	l.wName = max(l.wName, len(Escape(string(id))))
	l.wSrv = max(l.wSrv, len(Escape(server)))
	return s
}

// Total is how many steps the run has to end.
func (l *Live) Total() int { return len(l.steps) }

// Meet makes an event's step known that was not in the plan.
func (l *Live) Meet(e apply.Event) {
	if e.Resource != "" && l.byID[e.Resource] == nil && e.Action.Changes() {
		l.add(e.Resource, e.Server, e.Action)
	}
}

// Add takes an event. It returns the line of a step that ended, "" otherwise; news tells that a plain log
// should print Line of the event's resource.
func (l *Live) Add(e apply.Event) (ended string, news bool) {
	s := l.byID[e.Resource]
	if s == nil {
		if e.Kind == apply.StepDone && e.Step != nil && e.Step.Status != apply.StatusDone && e.Action.Changes() {
			s = l.add(e.Resource, e.Server, e.Action)
		} else {
			return "", false
		}
	}
	switch e.Kind {
	case apply.OpStarted:
		s.started = e.At
		s.phase, s.detail = verbWords(e.Verb), ""
	case apply.OpFinished:
		if e.Verb == protocol.Prepare { // its turn to change things comes later
			s.started, s.phase, s.detail = time.Time{}, "", ""
		}
	case apply.OpProgress:
		if e.Progress == nil {
			return "", false
		}
		phase := Escape(e.Progress.Phase)
		if e.Progress.Service != "" {
			phase += " " + Escape(e.Progress.Service)
		}
		news = phase != s.phase
		s.phase, s.detail = phase, Escape(e.Progress.Detail)
	case apply.OpAsked:
		s.detail = "asked again: " + Escape(e.Detail)
		news = true
	case apply.StepDone:
		if s.ended || e.Step == nil {
			return "", false
		}
		s.ended = true
		l.Done++
		return l.end(s, e.Step), false
	}
	return "", news
}

func verbWords(v protocol.Verb) string {
	switch v {
	case protocol.Prepare:
		return "preparing"
	case protocol.Deploy:
		return "deploying"
	case protocol.Restart:
		return "restarting"
	case protocol.Adopt:
		return "adopting"
	case protocol.Remove:
		return "removing"
	case protocol.Release:
		return "releasing"
	case protocol.Stop:
		return "stopping"
	}
	return Escape(string(v))
}

// Running lists the steps that have begun and not ended, as ids.
func (l *Live) Running() []string {
	var out []string
	for _, s := range l.steps {
		if !s.ended && !s.started.IsZero() {
			out = append(out, Escape(string(s.id)))
		}
	}
	return out
}

// Line is one step's state now.
func (l *Live) Line(id schema.ID, now time.Time) string {
	if s := l.byID[id]; s != nil {
		return l.line(s, now)
	}
	return ""
}

// Lines are the states of the steps that run, then a line on those that wait; at most most lines.
func (l *Live) Lines(now time.Time, most int) []string {
	var run []string
	var wait []*liveStep
	for _, s := range l.steps {
		switch {
		case s.ended:
		case s.started.IsZero():
			wait = append(wait, s)
		default:
			run = append(run, l.line(s, now))
		}
	}
	lines := run
	for i, s := range wait {
		if len(lines) >= most-1 && i < len(wait)-1 {
			lines = append(lines, "  "+plural(len(wait)-i, "step")+" more waiting")
			break
		}
		lines = append(lines, l.line(s, now))
	}
	if most > 0 && len(lines) > most {
		lines = lines[:most]
	}
	return lines
}

func (l *Live) line(s *liveStep, now time.Time) string {
	k := l.t.ink()
	state := s.phase
	if s.detail != "" {
		state += " " + s.detail
	}
	if s.started.IsZero() {
		state = "waiting"
		var on []string
		for _, a := range s.after {
			if p := l.byID[a]; p != nil && !p.ended {
				on = append(on, Escape(string(a)))
			}
		}
		if len(on) > 0 {
			state += " for " + strings.Join(on, ", ")
		}
		return k.paint(k.dim, clip("  · "+l.who(s)+state, l.t.Width))
	}
	if d := now.Sub(s.started); d >= time.Second {
		state += "  " + Millis(d.Milliseconds())
	}
	return clip("  "+glyph(s.action)+" "+l.who(s)+state, l.t.Width)
}

func (l *Live) who(s *liveStep) string {
	return pad(Escape(string(s.id)), l.wName) + "   " + pad(Escape(s.server), l.wSrv) + "   "
}

func (l *Live) end(s *liveStep, r *apply.StepResult) string {
	k := l.t.ink()
	switch r.Status {
	case apply.StatusDone:
		return "  " + k.paint(k.green, "✓") + " " + l.who(s) + doneWords(s, r)
	case apply.StatusNotTried:
		return "  " + k.paint(k.magenta, "-") + " " + l.who(s) + "not tried" + colon(Escape(r.Why))
	case apply.StatusRolledBack:
		return "  " + k.paint(k.red, "✗") + " " + l.who(s) + "put back" + colon(Escape(r.Error))
	case apply.StatusUnknown:
		return "  " + k.paint(k.red, "?") + " " + l.who(s) + "outcome unknown" + colon(Escape(r.Error))
	}
	return "  " + k.paint(k.red, "✗") + " " + l.who(s) + statusWord(r.Status) + colon(Escape(r.Error))
}

// doneWords is what came of a step: "healthy after 6.1 s", "removed".
func doneWords(s *liveStep, r *apply.StepResult) string {
	switch s.action {
	case plan.Adopt:
		return "adopted"
	case plan.Remove:
		return "removed"
	case plan.Stop:
		return "stopped"
	case plan.ReleaseObjects:
		return "released"
	}
	word := ""
	for _, x := range r.Services {
		if x.State == "failed" || x.State == "removed" {
			continue
		}
		if word == "" || x.State == "healthy" {
			word = Escape(x.State)
		}
	}
	if word == "" {
		word = "done"
	}
	return word + " after " + Millis(r.PrepareMillis+r.Millis)
}

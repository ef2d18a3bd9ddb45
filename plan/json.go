package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/varanhq/varan/schema"
)

// Actions are all actions, in the order people read them.
func Actions() []Action {
	return []Action{Create, Update, Recreate, Restart, Stop, Run, Adopt, Remove, ReleaseObjects, None, Unknown, Blocked, Held}
}

// Changes reports whether applying the plan would do something to a host.
func (p *Plan) Changes() bool {
	for i := range p.Steps {
		if p.Steps[i].Action.Changes() {
			return true
		}
	}
	return false
}

// HasErrors reports whether a diagnostic of the plan is an error.
func (p *Plan) HasErrors() bool {
	for _, d := range p.Diagnostics {
		if d.Severity == schema.SeverityError {
			return true
		}
	}
	return false
}

// Step returns the step of a resource, or nil.
func (p *Plan) Step(id schema.ID) *Step {
	for i := range p.Steps {
		if p.Steps[i].Resource == id {
			return &p.Steps[i]
		}
	}
	return nil
}

// JSON is what `varan plan --json` prints: every key is always there, an empty list is [], and it ends with
// a line feed.
func (p *Plan) JSON() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(p.wire()); err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	return buf.Bytes(), nil
}

// wirePlan is the published shape: fields are added, never renamed.
type wirePlan struct {
	Version     int              `json:"version"`
	Commit      string           `json:"commit"`
	Digest      string           `json:"digest"`
	Summary     wireSummary      `json:"summary"`
	Steps       []wireStep       `json:"steps"`
	Diagnostics []wireDiagnostic `json:"diagnostics"`
	Asks        []string         `json:"asks"`
}

type wireSummary Summary

// MarshalJSON keeps the order of Actions, which a map would lose.
func (s wireSummary) MarshalJSON() ([]byte, error) {
	var buf bytes.Buffer
	buf.WriteByte('{')
	for i, a := range Actions() {
		if i > 0 {
			buf.WriteByte(',')
		}
		fmt.Fprintf(&buf, "%q:%d", string(a), s[a])
	}
	buf.WriteByte('}')
	return buf.Bytes(), nil
}

type wireStep struct {
	Resource schema.ID     `json:"resource"`
	Action   Action        `json:"action"`
	Server   string        `json:"server"`
	Wave     int           `json:"wave"`
	After    []schema.ID   `json:"after"`
	Causes   []wireCause   `json:"causes"`
	Services []ServiceStep `json:"services"`
	Changes  []Change      `json:"changes"`
	Source   Source        `json:"source"`
}

type wireCause struct {
	Kind   CauseKind `json:"kind"`
	Detail string    `json:"detail"`
}

type wireDiagnostic struct {
	Severity schema.Severity `json:"severity"`
	File     string          `json:"file"`
	Line     int             `json:"line"`
	Column   int             `json:"column"`
	Message  string          `json:"message"`
	Hint     string          `json:"hint"`
}

func (p *Plan) wire() wirePlan {
	w := wirePlan{
		Version: p.Version, Commit: p.Commit, Digest: p.Digest, Summary: wireSummary(p.Summary),
		Steps:       make([]wireStep, 0, len(p.Steps)),
		Diagnostics: make([]wireDiagnostic, 0, len(p.Diagnostics)),
		Asks:        notNil(p.Asks),
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		causes := make([]wireCause, 0, len(s.Causes))
		for _, c := range s.Causes {
			causes = append(causes, wireCause(c))
		}
		w.Steps = append(w.Steps, wireStep{
			Resource: s.Resource, Action: s.Action, Server: s.Server, Wave: s.Wave, After: notNil(s.After),
			Causes: causes, Services: notNil(s.Services), Changes: notNil(s.Changes), Source: s.Source,
		})
	}
	for _, d := range p.Diagnostics {
		w.Diagnostics = append(w.Diagnostics, wireDiagnostic{
			Severity: d.Severity, File: d.File, Line: d.Line, Column: d.Column, Message: d.Message, Hint: d.Hint,
		})
	}
	return w
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// seal fills in Digest, over everything the plan shows but the digest itself, and over what the steps that do something
// bring about: a plan that creates the same resources otherwise is another one to approve. The commit stays out: the
// same steps of a later commit are the plan that was approved.
func (p *Plan) seal() error {
	w := struct {
		wirePlan
		Brings []string `json:"brings"`
	}{wirePlan: p.wire(), Brings: p.brings()}
	w.Digest, w.Commit = "", ""
	data, err := encodePlain(w)
	if err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	sum := sha256.Sum256(data)
	p.Digest = hex.EncodeToString(sum[:])
	return nil
}

// brings names what each step that does something declares: its units, where they lie, and the commands around them.
func (p *Plan) brings() []string {
	out := []string{}
	for i := range p.Steps {
		s := &p.Steps[i]
		if !s.Action.Changes() && s.Action != Adopt {
			continue
		}
		line := string(s.Resource) + " " + string(s.Digest)
		if d := s.Declared; d != nil {
			line += " " + string(d.Hooks) + " " + strconv.Quote(d.Directory)
		}
		out = append(out, line)
	}
	return out
}

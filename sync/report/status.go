package report

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// The names of the two commit statuses.
const (
	PlanContext  = "varan/plan"
	ApplyContext = "varan/apply"
)

// contextLimit is how long the name of a status may be, in characters.
const contextLimit = 255

// Context is the name of a status: PlanContext or ApplyContext, with the sync's name behind it when there are
// several. Different names give different contexts, also where a name is too long.
func Context(name, sync string) string {
	if sync == "" {
		return name
	}
	full := name + "/" + strings.Join(strings.Fields(Escape(sync)), " ")
	if len([]rune(full)) <= contextLimit {
		return full
	}
	sum := sha256.Sum256([]byte(sync))
	return string([]rune(full)[:contextLimit-9]) + "~" + hex.EncodeToString(sum[:4])
}

// PlanStatus describes a plan in the commit status varan/plan.
func PlanStatus(p *plan.Plan) string {
	if n := countErrors(p.Diagnostics); n > 0 {
		for _, d := range p.Diagnostics {
			if d.Severity == schema.SeverityError {
				return Status(plural(n, "error") + ": " + strings.TrimPrefix(Place(d.Pos)+" "+d.Message, " "))
			}
		}
	}
	s := Counts(p.Summary)
	if !p.Changes() {
		s = "Nothing to do: " + s
	}
	if len(p.Asks) > 0 {
		s += "; waits for an approval: " + strings.Join(p.Asks, "; ")
	}
	return Status(s)
}

// BlockedStatus describes a commit that is not applied as far as its files are refused.
func BlockedStatus(p *plan.Plan) string {
	if countErrors(p.Diagnostics) > 0 {
		return PlanStatus(p)
	}
	return Status("Not applied: " + Counts(p.Summary))
}

// BrokenStatus describes a commit that cannot be planned.
func BrokenStatus(ds []schema.Diagnostic) string { return PlanStatus(&plan.Plan{Diagnostics: ds}) }

// ApplyStatus describes a run in the commit status varan/apply: the counts, and the first failure.
func ApplyStatus(r *apply.Result) string {
	s := resultCounts(r)
	switch r.Status {
	case apply.StatusAsks:
		return Status("Waits for an approval: " + strings.Join(r.Asks, "; "))
	case apply.StatusDone, apply.StatusFailed:
		s += " in " + Millis(r.Millis)
	case apply.StatusRunning:
		return Status("Under way")
	default:
		s = "Stopped (" + statusWord(r.Status) + "): " + s
	}
	for i := range r.Steps {
		st := &r.Steps[i]
		if st.Status == apply.StatusFailed || st.Status == apply.StatusRolledBack {
			return Status(s + ". " + string(st.Resource) + colon(st.Error))
		}
	}
	return Status(s)
}

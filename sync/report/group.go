package report

import (
	"encoding/json"
	"strings"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// A bunch is steps that are told in one line: one step, or many that do the same for the same reason.
type bunch struct {
	steps []*plan.Step
	// results are what became of the steps, one each; nil before a run.
	results []*apply.StepResult
}

func (b *bunch) first() *plan.Step { return b.steps[0] }

// outcome is that of the first; all of a bunch have the same status.
func (b *bunch) outcome() *apply.StepResult {
	if b.results == nil {
		return nil
	}
	return b.results[0]
}

// enough is how many equal steps are told in one line: two are still read faster one by one.
const enough = 3

// bunches puts steps into lines, in the order of each line's first step.
func bunches(steps []*plan.Step, results resultsOf) []*bunch {
	keys := make([]string, len(steps))
	members := map[string]int{}
	for i, s := range steps {
		keys[i] = sameness(s, results[s.Resource])
		members[keys[i]]++
	}
	at := map[string]*bunch{}
	var out []*bunch
	for i, s := range steps {
		b := at[keys[i]]
		if b == nil || members[keys[i]] < enough {
			b = &bunch{}
			at[keys[i]] = b
			out = append(out, b)
		}
		b.steps = append(b.steps, s)
		if results != nil {
			b.results = append(b.results, results[s.Resource])
		}
	}
	return out
}

// sameness is equal for steps that can share a line.
func sameness(s *plan.Step, r *apply.StepResult) string {
	k := struct {
		Wave     int
		Kind     schema.Kind
		Action   plan.Action
		Causes   []plan.Cause
		Services []plan.ServiceStep
		Changes  []plan.Change
		Status   apply.Status
		Error    string
	}{Wave: s.Wave, Kind: s.Resource.Kind(), Action: s.Action, Causes: s.Causes, Services: s.Services, Changes: s.Changes}
	if r != nil {
		k.Status, k.Error = r.Status, r.Error
		if r.Because != "" {
			k.Error = r.Why
		}
	}
	data, err := json.Marshal(k)
	if err != nil { // a value no JSON has: it stands alone
		return string(s.Resource)
	}
	return string(data)
}

// name is "stack/web", or what the names of a bunch have in common: "stack/traefik-*". shared is false if that is
// no more than their kind.
func (b *bunch) name() (name string, shared bool) {
	first := string(b.first().Resource)
	if len(b.steps) == 1 {
		return first, true
	}
	pre := first
	for _, s := range b.steps[1:] {
		id := string(s.Resource)
		n := 0
		for n < len(pre) && n < len(id) && pre[n] == id[n] {
			n++
		}
		pre = pre[:n]
	}
	cut := strings.LastIndexAny(pre, "/-_.@:")
	return pre[:cut+1] + "*", cut > strings.IndexByte(first, '/')
}

// called is the name in a sink: what the steps have in common and how many they are, or the first of them.
func (b *bunch) called(code func(string) string) string {
	name, shared := b.name()
	switch n := len(b.steps); {
	case n == 1:
		return code(clipRunes(name, 120))
	case shared:
		return code(clipRunes(name, 120)) + " × " + itoa(n)
	}
	const shown = 3
	var out []string
	for i, s := range b.steps {
		if i == shown && len(b.steps) > shown+1 {
			return strings.Join(out, ", ") + " and " + itoa(len(b.steps)-i) + " more"
		}
		out = append(out, code(clipRunes(string(s.Resource), 120)))
	}
	return strings.Join(out, ", ")
}

// servers are those of the bunch, each once, in the steps' order.
func (b *bunch) servers() []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range b.steps {
		if s.Server != "" && !seen[s.Server] {
			seen[s.Server] = true
			out = append(out, s.Server)
		}
	}
	return out
}

// millis is how long the slowest took.
func (b *bunch) millis() int64 {
	var m int64
	for _, r := range b.results {
		if r != nil {
			m = max(m, r.PrepareMillis+r.Millis)
		}
	}
	return m
}

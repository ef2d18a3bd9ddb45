package report

import (
	"testing"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

// comments are the golden ones, by name.
func comments() map[string]string {
	a := about()
	paged := a
	paged.Page = "https://varan.acme.example/runs/20261122T230501Z-7f3a"
	broken := a
	broken.Source = func(file string) []byte {
		if file == "stacks/web.toml" {
			return []byte(brokenTOML)
		}
		return nil
	}
	partly := typical()
	partly.Diagnostics = []schema.Diagnostic{{Severity: schema.SeverityError, Pos: schema.Pos{File: "stacks/app.toml", Line: 20, Column: 3}, Message: "deployment/db needs [[DB_PASSWORD]], which has no value", Hint: "declare a [[variable]] of that name, or put it under [secrets] in varan.toml"}}
	partly.Steps[1].Changes = partly.Steps[1].Changes[:1]
	partly.Steps[3].Action, partly.Steps[3].Causes = plan.Blocked, []plan.Cause{{Kind: plan.NoValue, Detail: "no value for [[DB_PASSWORD]]"}}
	several := a
	several.Sync = "apps"
	several.Manual = true
	several.Notes = []string{"/varan apply of @mallory was not obeyed: that takes write permission"}
	quiet := &plan.Plan{}
	unchanged(quiet, 14)
	moved := typical()
	moved.Digest = "1:other"
	moved.Steps[1].Action, moved.Steps[1].Causes = plan.Recreate, []plan.Cause{{Kind: plan.Drifted, Detail: "somebody made it by hand"}}
	previewed := paged
	previewed.Previewed = typical()
	hp, hr, ha := hostile("`@all` #1 [x](http://evil.example) <img src=x> | \u202e**b** fixes #2")
	big := thousand()
	unwell := typical()
	unwell.Steps[2].Action, unwell.Steps[2].Causes = plan.Recreate, []plan.Cause{{Kind: plan.ImageChanged, Detail: "app gets another image"}}
	unwell.Steps[2].Changes = []plan.Change{{Path: "services.app.image", Old: "ghcr.io/acme/app:2.3.9", New: "ghcr.io/acme/app:2.4.0"}}
	blockedRun := ran(risky())
	blockedRun.Status, blockedRun.Asks = apply.StatusAsks, risky().Asks
	return map[string]string{
		"plan-typical":   Preview(typical(), a),
		"plan-fleet":     Preview(traefiks(), a),
		"plan-risky":     Preview(risky(), a),
		"plan-manual":    Preview(typical(), several),
		"plan-nothing":   Preview(sum(quiet), a),
		"plan-thousand":  Preview(big, a),
		"plan-partly":    Preview(partly, a),
		"plan-broken":    Broken(brokenDiagnostics(), broken),
		"plan-hostile":   Preview(hp, ha),
		"plan-fork":      NotPreviewed(`it comes from a fork, and preview_forks = "collaborators" takes those of collaborators only`, a),
		"apply-done":     Outcome(typical(), ran(typical()), previewed),
		"apply-failed":   Outcome(unwell, typicalFailure(unwell), paged),
		"apply-moved":    Outcome(moved, ran(moved), previewed),
		"apply-fleet":    Outcome(traefiks(), ran(traefiks(), fails(traefiks())...), paged),
		"apply-thousand": Outcome(big, ran(big, fails(big)...), paged),
		"apply-asks":     Outcome(risky(), blockedRun, a),
		"apply-hostile":  Outcome(hp, hr, ha),
	}
}

// fails lets every third step fail alike.
func fails(p *plan.Plan) []apply.StepResult {
	var out []apply.StepResult
	for i := 0; i < len(p.Steps) && i < 58; i += 3 {
		out = append(out, apply.StepResult{Resource: p.Steps[i].Resource, Status: apply.StatusFailed, Error: "pull traefik:3.2: registry answers 429 Too Many Requests", Retry: 60e9})
	}
	return out
}

func TestComments(t *testing.T) {
	for name, md := range comments() {
		golden(t, name+".md", md)
		checkComment(t, name, md)
		if n := len([]rune(md)); n > CommentLimit {
			t.Errorf("%s has %d characters, more than %d", name, n, CommentLimit)
		}
	}
}

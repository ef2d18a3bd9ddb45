package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

const (
	head = "4f2c1e9a0b3d5c7e9f1a2b3c4d5e6f708192a3b4"
	base = "77aa0b1c2d3e4f5061728394a5b6c7d8e9f0a1b2"
)

func about() About {
	return About{
		Fleet: "main", Commit: head, Base: base, Branch: "main", Blob: "https://github.com/acme/infra/blob/" + head,
		Command: "/varan apply", Took: 380 * time.Millisecond, Source: source,
	}
}

func sum(p *plan.Plan) *plan.Plan {
	if p.Summary == nil {
		p.Summary = plan.Summary{}
	}
	for i := range p.Steps {
		p.Summary[p.Steps[i].Action]++
	}
	p.Version, p.Commit = 1, head
	if p.Digest == "" {
		p.Digest = "1:9d31c04be2a7f65018d3b2c9a4e5f607"
	}
	return p
}

func unchanged(p *plan.Plan, n int) {
	for i := range n {
		p.Steps = append(p.Steps, plan.Step{Resource: schema.ID(fmt.Sprintf("stack/quiet-%02d", i)), Server: []string{"db1", "web1", "web2", "nas"}[i%4], Action: plan.None})
	}
}

func creating(id schema.ID, server string, wave int, file string, line int, image string, after ...schema.ID) plan.Step {
	return plan.Step{
		Resource: id, Server: server, Action: plan.Create, Wave: wave, After: after,
		Causes:   []plan.Cause{{Kind: plan.NotRunning}},
		Services: []plan.ServiceStep{{Name: "app", Action: plan.Create}},
		Changes: []plan.Change{{Path: "services.app.image", New: image}, {Path: "services.app.environment.DATABASE_URL", New: "postgres://app:[[DB_PASSWORD_2]]@db/app", Secret: true},
			{Path: "services.app.ports", New: []any{"8080:80"}}},
		Source: plan.Source{File: file, Line: line},
	}
}

// typical is the pull request of the reference: a database, what comes after it, a server that is away.
func typical() *plan.Plan {
	p := &plan.Plan{Steps: []plan.Step{
		{
			Resource: "stack/db", Server: "db1", Action: plan.Update, Source: plan.Source{File: "stacks/db.toml", Line: 12},
			Causes:   []plan.Cause{{Kind: plan.ImageChanged, Detail: "db gets another image"}, {Kind: plan.FileChanged, Detail: "conf/postgresql.conf changed"}},
			Services: []plan.ServiceStep{{Name: "backup", Action: plan.None}, {Name: "db", Action: plan.Recreate}},
			Changes: []plan.Change{
				{Path: "services.db.image", Old: "postgres:16.3", New: "postgres:16.4"},
				{Path: "services.db.environment.PASSWORD", Old: "[[DB_PASSWORD]]", New: "[[DB_PASSWORD_2]]", Secret: true},
				{Path: "conf/postgresql.conf", Old: strings.Repeat("a41f", 10), New: strings.Repeat("9c02", 10)},
			},
		},
		creating("stack/app", "web1", 1, "stacks/app.toml", 1, "ghcr.io/acme/app:2.4.0", "stack/db"),
		creating("stack/app-eu", "web2", 1, "stacks/app.toml", 14, "ghcr.io/acme/app:2.4.0", "stack/db"),
		{Resource: "deployment/edge", Server: "web1", Wave: 2, Action: plan.Restart, After: []schema.ID{"stack/app", "stack/app-eu"}, Source: plan.Source{File: "edge.toml", Line: 3},
			Causes: []plan.Cause{{Kind: plan.CameAfter, Detail: "comes after stack/app, which changes"}}},
		{Resource: "stack/photos", Server: "nas", Action: plan.Unknown, Causes: []plan.Cause{{Kind: plan.Unreachable, Detail: "server nas: no agent answers since 14:02"}}},
		{Resource: "stack/music", Server: "nas", Action: plan.Unknown, Causes: []plan.Cause{{Kind: plan.Unreachable, Detail: "server nas: no agent answers since 14:02"}}},
	}}
	unchanged(p, 58)
	return sum(p)
}

// traefiks is one change on 58 servers, with its agents' network behind it.
func traefiks() *plan.Plan {
	p := &plan.Plan{}
	for i := range 58 {
		p.Steps = append(p.Steps, plan.Step{
			Resource: schema.ID(fmt.Sprintf("stack/traefik-%02d", i)), Server: fmt.Sprintf("edge%02d", i), Action: plan.Recreate,
			Causes:   []plan.Cause{{Kind: plan.ImageChanged, Detail: "traefik gets another image"}},
			Services: []plan.ServiceStep{{Name: "traefik", Action: plan.Recreate}},
			Changes:  []plan.Change{{Path: "services.traefik.image", Old: "traefik:3.1", New: "traefik:3.2"}},
			Source:   plan.Source{File: "traefik.toml", Line: 1 + 9*i},
		})
	}
	for i := range 58 {
		p.Steps = append(p.Steps, plan.Step{
			Resource: schema.ID(fmt.Sprintf("deployment/whoami-%02d", i)), Server: fmt.Sprintf("edge%02d", i), Action: plan.Restart, Wave: 1,
			After:  []schema.ID{schema.ID(fmt.Sprintf("stack/traefik-%02d", i))},
			Causes: []plan.Cause{{Kind: plan.CameAfter, Detail: "comes after its traefik, which changes"}},
		})
	}
	p.Steps = append(p.Steps, plan.Step{Resource: "stack/status", Server: "mon1", Action: plan.Update, Wave: 1, After: []schema.ID{"stack/traefik-00"},
		Causes:   []plan.Cause{{Kind: plan.SpecChanged, Detail: "gatus is declared otherwise"}},
		Services: []plan.ServiceStep{{Name: "gatus", Action: plan.Recreate}, {Name: "db", Action: plan.None}},
		Changes:  []plan.Change{{Path: "services.gatus.environment.TARGET", Old: "3.1", New: "3.2"}}, Source: plan.Source{File: "mon/status.toml", Line: 2}})
	unchanged(p, 14)
	return sum(p)
}

// risky is all that must stand on top.
func risky() *plan.Plan {
	p := &plan.Plan{
		Asks: []string{"3 resources would be removed, more than max_removals allows (1)"},
		Steps: []plan.Step{
			{Resource: "stack/db", Server: "db1", Action: plan.Recreate, Causes: []plan.Cause{{Kind: plan.SpecChanged, Detail: "db is declared otherwise"}},
				Changes: []plan.Change{{Path: "services.db.volumes", Old: []any{"./data:/var/lib/postgresql/data"}, New: []any{"./pgdata:/var/lib/postgresql/data"}}}, Source: plan.Source{File: "stacks/db.toml", Line: 1}},
			{Resource: "deployment/agent", Server: "web1", Action: plan.Create, Causes: []plan.Cause{{Kind: plan.NotRunning}}},
			{Resource: "stack/old-a", Server: "web1", Action: plan.Remove, Causes: []plan.Cause{{Kind: plan.Orphaned}}},
			{Resource: "stack/old-b", Server: "web1", Action: plan.Remove, Causes: []plan.Cause{{Kind: plan.Orphaned}}},
			{Resource: "stack/other", Server: "web2", Action: plan.Remove, Causes: []plan.Cause{{Kind: plan.Orphaned}}},
			{Resource: "deployment/secretive", Server: "web1", Action: plan.Blocked, Causes: []plan.Cause{{Kind: plan.NoValue, Detail: "no value for [[API_KEY]]"}}},
			{Resource: "deployment/stuck", Server: "web1", Action: plan.Held, Causes: []plan.Cause{{Kind: plan.OnHold, Detail: "failed: unhealthy after 5 m"}}},
		},
		Diagnostics: []schema.Diagnostic{
			{Severity: schema.SeverityWarning, Risk: schema.RiskPrivilege, Pos: schema.Pos{File: "agent.toml", Line: 7, Column: 1}, Message: "deployment/agent: gets host network"},
			{Severity: schema.SeverityWarning, Risk: schema.RiskPrivilege, Pos: schema.Pos{File: "agent.toml", Line: 6, Column: 1}, Message: "deployment/agent: gets privileged"},
			{Severity: schema.SeverityWarning, Risk: schema.RiskData, Pos: schema.Pos{File: "stacks/db.toml", Line: 2, Column: 2}, Message: "stack/db: db mounts /var/lib/postgresql/data from ./pgdata instead of ./data: the container will see an empty folder unless the data is moved"},
			{Severity: schema.SeverityWarning, Pos: schema.Pos{File: "stacks/db.toml", Line: 1, Column: 1}, Message: `"webhook_enabled" is not handled by varan`, Hint: "remove it, or keep it for Komodo"},
		},
	}
	unchanged(p, 9)
	return sum(p)
}

// thousand are so many different steps that no comment holds them.
func thousand() *plan.Plan {
	p := &plan.Plan{}
	for i := range 1000 {
		p.Steps = append(p.Steps, plan.Step{
			Resource: schema.ID(fmt.Sprintf("stack/service-%04d", i)), Server: fmt.Sprintf("host%03d", i%100), Wave: i / 250,
			Action: []plan.Action{plan.Create, plan.Update, plan.Recreate}[i%3],
			Causes: []plan.Cause{{Kind: plan.SpecChanged, Detail: fmt.Sprintf("app-%d is declared otherwise", i)}},
			Changes: []plan.Change{{Path: "services.app.environment.NUMBER", Old: fmt.Sprint(i), New: fmt.Sprint(i + 1)},
				{Path: "services.app.command", Old: "run --fast", New: fmt.Sprintf("run --fast --shard %d", i)}},
			Source: plan.Source{File: fmt.Sprintf("stacks/%d.toml", i), Line: 1},
		})
	}
	return sum(p)
}

const brokenTOML = "[[stack]]\nname = \"web\"\nafter = [\"databse\"]\n\n[[stack]]\nname = \"api\"\nport = \"80\" # `ticks`\n"

func brokenDiagnostics() []schema.Diagnostic {
	return []schema.Diagnostic{
		{Severity: schema.SeverityError, Pos: schema.Pos{File: "stacks/web.toml", Line: 3, Column: 10}, Length: 9, Message: `stack "web" comes after "databse", which no file declares`, Hint: `did you mean "database"? (db.toml:2)`},
		{Severity: schema.SeverityError, Pos: schema.Pos{File: "stacks/web.toml", Line: 7, Column: 1}, Length: 4, Message: `unknown key "port"`, Hint: "did you mean \"ports\"?\nit stands below [stack.config]"},
		{Severity: schema.SeverityError, Pos: schema.Pos{File: "gone.toml", Line: 1, Column: 1}, Message: "two resources are named stack/web", Hint: "rename one of them"},
		{Severity: schema.SeverityWarning, Pos: schema.Pos{File: "stacks/web.toml", Line: 5, Column: 1}, Message: "no server is declared"},
	}
}

// ran is a result of p: the steps listed went as said, what changes else is done.
func ran(p *plan.Plan, odd ...apply.StepResult) *apply.Result {
	r := &apply.Result{Run: "20261122T230501Z-7f3a", Status: apply.StatusDone, Millis: 41_280, Head: apply.Head{Commit: p.Commit, Trigger: "commit"}}
	for i := range p.Steps {
		s := &p.Steps[i]
		st := apply.StepResult{Resource: s.Resource, Server: s.Server, Action: s.Action, Status: apply.StatusDone}
		if s.Action.Changes() {
			st.PrepareMillis, st.Millis, st.Changed = int64(800+37*i), int64(5100+211*i), true
		}
		for _, o := range odd {
			if o.Resource == s.Resource {
				o.Server, o.Action = s.Server, s.Action
				st = o
			}
		}
		if st.Status == apply.StatusFailed || st.Status == apply.StatusRolledBack {
			r.Status = apply.StatusFailed
		}
		r.Steps = append(r.Steps, st)
	}
	return r
}

func typicalFailure(p *plan.Plan) *apply.Result {
	return ran(p,
		apply.StepResult{Resource: "stack/app", Status: apply.StatusFailed, Error: `port 8080 is taken by container "legacy-api" (not varan's)`,
			Hint: "free the port or change it at stacks/app/compose.yaml:9", PrepareMillis: 2100, Millis: 90, Tail: "panic: CANARY-OUTPUT\nexit 1\n"},
		apply.StepResult{Resource: "stack/app-eu", Status: apply.StatusRolledBack, Stopped: true, Held: "1:x", Error: "app was unhealthy after 5 m: GET /health answers 500", PrepareMillis: 1500, Millis: 301_000},
		apply.StepResult{Resource: "deployment/edge", Status: apply.StatusNotTried, Because: "stack/app", Why: "stack/app failed"},
	)
}

// hostile puts text into every place that strangers reach.
func hostile(s string) (*plan.Plan, *apply.Result, About) {
	p := &plan.Plan{
		Digest: s,
		Asks:   []string{s},
		Steps: []plan.Step{
			{Resource: schema.ID("stack/" + s), Server: s, Action: plan.Update, Causes: []plan.Cause{{Kind: plan.Drifted, Detail: s}, {Kind: plan.SpecChanged, Detail: s + "2"}},
				Services: []plan.ServiceStep{{Name: s, Action: plan.Recreate}, {Name: s + "2", Action: plan.None}, {Name: s + "3", Action: plan.Remove}},
				Changes: []plan.Change{{Path: s, Old: s, New: s + "x"}, {Path: s + ".image", Old: s, New: s + "y"}, {Path: s, Old: "a\n" + s + "\nb", New: "a\n/x\n" + s}, {Path: s, New: map[string]any{s: s}},
					{Path: s, Secret: true}}, Source: plan.Source{File: s, Line: 3}},
			{Resource: schema.ID(s), Server: s + "2", Wave: 1, Action: plan.Create, After: []schema.ID{schema.ID("stack/" + s)}, Causes: []plan.Cause{{Kind: plan.NotRunning}}},
			{Resource: schema.ID("deployment/" + s), Server: s, Action: plan.Remove, Causes: []plan.Cause{{Kind: plan.Orphaned}}},
			{Resource: schema.ID("deployment/u" + s), Server: s + "3", Action: plan.Unknown, Causes: []plan.Cause{{Kind: plan.Unreachable, Detail: s}}},
			{Resource: schema.ID("deployment/h" + s), Server: s, Action: plan.Held, Causes: []plan.Cause{{Kind: plan.OnHold, Detail: s}}},
		},
		Diagnostics: []schema.Diagnostic{
			{Severity: schema.SeverityWarning, Risk: schema.RiskData, Pos: schema.Pos{File: s, Line: 1, Column: 2}, Message: "stack/" + s + ": " + s},
			{Severity: schema.SeverityWarning, Risk: schema.RiskKey, Message: s},
			{Severity: schema.SeverityWarning, Pos: schema.Pos{File: s, Line: 1}, Message: s, Hint: s},
		},
	}
	for i := range 4 {
		p.Steps = append(p.Steps, plan.Step{Resource: schema.ID(fmt.Sprintf("stack/%s-%d", s, i)), Server: fmt.Sprint(s, i), Action: plan.Restart, Causes: []plan.Cause{{Kind: plan.Drifted, Detail: s}}})
	}
	sum(p)
	p.Digest = s
	r := ran(p,
		apply.StepResult{Resource: schema.ID("stack/" + s), Status: apply.StatusFailed, Error: s, Hint: s + "\n" + s, Tail: s},
		apply.StepResult{Resource: schema.ID(s), Status: apply.StatusNotTried, Because: schema.ID("stack/" + s), Why: s},
		apply.StepResult{Resource: schema.ID("deployment/" + s), Status: apply.StatusNotTried, Why: s},
	)
	r.Run, r.Head.Actor, r.Asks = s, s, []string{s}
	a := about()
	a.Fleet, a.Sync, a.Branch, a.Commit, a.Base = s, s, s, s, s
	a.Notes = []string{s, s}
	a.Source = func(string) []byte { return []byte(s + "\n/" + s) }
	return p, r, a
}

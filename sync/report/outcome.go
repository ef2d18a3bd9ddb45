package report

import (
	"slices"
	"strings"
	"time"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/plan"
	"github.com/varanhq/varan/schema"
)

type resultsOf map[schema.ID]*apply.StepResult

// Outcome is the comment after the merge: what failed and what to do about it, what was not tried, what was done
// and how long it took, and whether that is what had been shown. p is the plan that was carried out.
func Outcome(p *plan.Plan, r *apply.Result, a About) string {
	results := resultsOf{}
	for i := range r.Steps {
		results[r.Steps[i].Resource] = &r.Steps[i]
	}
	s := newSheet(a.limit)
	s.add(Marker(a.Fleet) + "\n")
	if r.Status == apply.StatusAsks {
		s.add(seal(p.Digest, a.commit(p)) + "\n")
	}
	s.part(a.title("apply", resultHeadline(r)))
	facts := planFacts(p)
	if r.Run != "" {
		facts = append(facts, "run "+Code(clipRunes(r.Run, 80)))
	}
	if r.Head.Actor != "" {
		facts = append(facts, "asked for by "+Code(clipRunes(r.Head.Actor, 80)))
	}
	foot := a.foot(facts...)
	s.left -= size(foot) + 2
	s.part(a.answers(s.left / 10))
	if r.Status == apply.StatusAsks {
		asking := *p
		asking.Asks = r.Asks
		s.part(a.approval(&asking, true, s.left/10))
		a.mistakes(s, p)
		s.part(a.risks(p, s.left/5))
		a.body(s, p, nil)
	} else {
		for _, f := range a.failures(r, s.left*4/10) {
			s.part(f)
		}
		a.mistakes(s, p)
		s.part(a.compared(p, r, s.left/10))
		a.body(s, p, results)
	}
	s.left += size(foot) + 2
	s.add(foot)
	return s.b.String()
}

// resultHeadline is "✅ 3 done in 12.3 s".
func resultHeadline(r *apply.Result) string {
	sum := strings.ReplaceAll(resultCounts(r), ", ", " · ")
	took := " in " + Millis(r.Millis)
	switch r.Status {
	case apply.StatusDone:
		return "✅ " + sum + took
	case apply.StatusFailed:
		return "❌ " + sum + took
	case apply.StatusAsks:
		return "waits for an approval"
	case apply.StatusRunning:
		return "⏳ under way · " + sum
	}
	return "⏹ " + Markdown(statusWord(r.Status)) + " · " + sum + took
}

// resultCounts counts what became of the steps, what went wrong first.
func resultCounts(r *apply.Result) string {
	counts := map[apply.Status]int{}
	for i := range r.Steps {
		st := &r.Steps[i]
		if st.Action.Changes() || st.Status != apply.StatusDone {
			counts[st.Status]++
		}
	}
	return countStatuses(counts)
}

// failures are the blocks on top, one for each way of failing; r's steps that failed alike share one.
func (a About) failures(r *apply.Result, room int) []string {
	blocked := map[schema.ID][]schema.ID{}
	for i := range r.Steps {
		if s := &r.Steps[i]; s.Status == apply.StatusNotTried && s.Because != "" {
			blocked[s.Because] = append(blocked[s.Because], s.Resource)
		}
	}
	type alike struct {
		first *apply.StepResult
		all   []*apply.StepResult
	}
	var groups []*alike
	at := map[string]*alike{}
	for i := range r.Steps {
		s := &r.Steps[i]
		switch s.Status {
		case apply.StatusFailed, apply.StatusRolledBack, apply.StatusUnknown:
		case apply.StatusNotTried:
			if s.Because != "" || !s.Action.Changes() {
				continue
			}
		default:
			continue
		}
		key := string(s.Status) + "\x00" + s.Error + "\x00" + s.Why + "\x00" + s.Hint
		g := at[key]
		if g == nil {
			g = &alike{first: s}
			at[key] = g
			groups = append(groups, g)
		}
		g.all = append(g.all, s)
	}
	var out []string
	for i, g := range groups {
		block := a.failure(g.first, g.all, blocked)
		if room -= size(block); room < 0 {
			n := 0
			for _, g := range groups[i:] {
				n += len(g.all)
			}
			return append(out, "**"+plural(n, "more step")+" did not end well**, see the table.\n")
		}
		out = append(out, block)
	}
	return out
}

func (a About) failure(s *apply.StepResult, all []*apply.StepResult, blocked map[schema.ID][]schema.ID) string {
	who := idOf(string(s.Resource))
	if s.Server != "" {
		who += " on " + Markdown(clipRunes(s.Server, 80))
	}
	if len(all) > 1 {
		b := &bunch{}
		for _, x := range all {
			b.steps = append(b.steps, &plan.Step{Resource: x.Resource, Server: x.Server})
		}
		who = b.called(Code)
		if n := len(b.servers()); n > 1 {
			who += " on " + plural(n, "server")
		}
	}
	verb, kind := " failed", "CAUTION"
	switch s.Status {
	case apply.StatusRolledBack:
		verb = " failed and was put back"
	case apply.StatusUnknown:
		verb = " has no known outcome"
		kind = "WARNING"
	case apply.StatusNotTried:
		verb = " was not tried"
		kind = "WARNING"
	}
	if len(all) > 1 {
		verb = strings.NewReplacer(" was ", " were ", " has ", " have ").Replace(verb)
	}
	reason := s.Error
	if s.Status == apply.StatusNotTried {
		reason = s.Why
	}
	lines := []string{"**" + who + verb + "**" + colon(Markdown(clipRunes(reason, 1200)))}
	var facts []string
	switch {
	case s.Status == apply.StatusRolledBack:
		facts = append(facts, "What ran before runs again.")
	case s.Status == apply.StatusFailed && !s.Stopped:
		facts = append(facts, "Nothing was stopped.")
	}
	if s.Held != "" {
		facts = append(facts, "This version is held until it changes, or `varan apply --retry`.")
	}
	if s.Retry > 0 {
		facts = append(facts, "It is tried again in "+pause(s.Retry)+".")
	}
	var waiting []schema.ID
	for _, x := range all {
		waiting = append(waiting, blocked[x.Resource]...)
	}
	if len(waiting) > 0 {
		was := " was not tried."
		if len(waiting) > 1 {
			was = " were not tried."
		}
		facts = append(facts, names(waiting, 6)+was)
	}
	if len(facts) > 0 {
		lines = append(lines, "", strings.Join(facts, " "))
	}
	if s.Hint != "" {
		lines = append(lines, "")
		for _, h := range strings.Split(clipHint(s.Hint), "\n") {
			lines = append(lines, "What to do: "+Markdown(h))
		}
	}
	block := alert(kind, lines...)
	if tail := strings.TrimRight(s.Tail, "\n"); tail != "" && a.Output {
		out := strings.Split(tail, "\n")
		out = out[max(0, len(out)-20):]
		for i := range out {
			out[i] = "| " + clipRunes(show(strings.TrimSuffix(out[i], "\r")), 200)
		}
		block += "\n<details><summary>What it printed last</summary>\n\n" + fence("", out) + "\n</details>\n"
	} else if page := goodURL(a.Page); page != "" && tail != "" {
		block = strings.TrimSuffix(block, "\n") + "\n>\n> " + link("What it printed last", page) + ", behind the token.\n"
	}
	return block
}

// pause is a time to wait as people say it.
func pause(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return plural(int(d/time.Hour), "hour")
	case d >= time.Minute && d%time.Minute == 0:
		return plural(int(d/time.Minute), "minute")
	}
	return Millis(d.Milliseconds())
}

func clipHint(h string) string {
	lines := strings.Split(h, "\n")
	if len(lines) > 6 {
		lines = lines[:6]
	}
	for i := range lines {
		lines[i] = clipRunes(lines[i], 400)
	}
	return strings.Join(lines, "\n")
}

// compared says whether what was done is what had been shown.
func (a About) compared(p *plan.Plan, r *apply.Result, room int) string {
	if a.Previewed == nil {
		if r.Differs {
			return alert("NOTE", "The servers had moved since the preview; what was carried out is the plan of now.")
		}
		return ""
	}
	if !r.Differs && a.Previewed.Digest == p.Digest {
		return "Carried out as previewed."
	}
	items := differences(a.Previewed, p)
	if len(items) == 0 {
		return "Carried out as previewed, but for what changes nothing."
	}
	lines := append([]string{"The servers had moved since the preview. Now"}, bullets(items, room)...)
	return alert("NOTE", lines...)
}

// differences lists what a plan does otherwise than the one shown before.
func differences(shown, done *plan.Plan) []string {
	was := map[schema.ID]*plan.Step{}
	for i := range shown.Steps {
		was[shown.Steps[i].Resource] = &shown.Steps[i]
	}
	act := func(s *plan.Step) plan.Action {
		if s == nil || !s.Action.Changes() && s.Action != plan.Blocked && s.Action != plan.Held && s.Action != plan.Unknown {
			return plan.None
		}
		return s.Action
	}
	var out []string
	tell := func(id schema.ID, now, before plan.Action) {
		out = append(out, idOf(string(id))+": "+countWord(now)+", shown was "+countWord(before))
	}
	for i := range done.Steps {
		s := &done.Steps[i]
		old := was[s.Resource]
		delete(was, s.Resource)
		switch {
		case act(s) != act(old):
			tell(s.Resource, act(s), act(old))
		case s.Action.Changes() && sameness(s, nil) != sameness(old, nil):
			out = append(out, idOf(string(s.Resource))+": "+string(s.Action)+" for other reasons or with other changes than shown")
		}
	}
	var gone []schema.ID
	for id, s := range was {
		if act(s) != plan.None {
			gone = append(gone, id)
		}
	}
	slices.Sort(gone)
	for _, id := range gone {
		tell(id, plan.None, act(was[id]))
	}
	return out
}

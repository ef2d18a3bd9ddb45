package plan

import (
	"bytes"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/varanhq/varan/schema"
)

const canary = "hunter2-never-shown"

// A world is a drawn Desired and State.
type world struct {
	d    *Desired
	st   *State
	made int // containers so far, by simulate
}

// drawWorld draws declarations and, for each, what stands of it: nothing, the same, something older,
// somebody else's, half of it; with and without ledger; on servers that answer or not.
func drawWorld(t *rapid.T) *world {
	w := &world{
		d: &Desired{Fleet: "main", Sync: "main", Commit: "c1", Local: "local", Config: &schema.Config{}, Declared: map[schema.ID]*Declared{},
			Known: map[string]bool{"PW": true, "HOST": false}},
		st: &State{Servers: map[string]*ServerState{
			"local": {Name: "local", Ledger: map[schema.ID]*Entry{}, Facts: map[schema.ID]*Facts{}},
			"web1":  {Name: "web1", Ledger: map[schema.ID]*Entry{}, Facts: map[schema.ID]*Facts{}},
			"down":  {Name: "down", Unreachable: "no answer"},
		}},
	}
	w.d.Rules = Rules{Complete: rapid.Bool().Draw(t, "complete"), Delete: rapid.Bool().Draw(t, "delete"),
		ReportDrift: rapid.Bool().Draw(t, "report"), Retry: rapid.Bool().Draw(t, "retry")}
	for _, s := range []string{"web1", "down", "far"} {
		w.d.Config.Resources = append(w.d.Config.Resources, &schema.Resource{ID: schema.NewID(schema.KindServer, s), Kind: schema.KindServer, Name: s, Pos: schema.Pos{File: "s.toml", Line: 1, Column: 1}})
	}
	count := rapid.IntRange(0, 7).Draw(t, "resources")
	var ids []schema.ID
	for i := range count {
		ids = append(ids, w.drawResource(t, i, ids))
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "orphans") {
		w.drawOrphan(t, i)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "strangers") {
		s := w.st.Servers["local"]
		s.Containers = append(s.Containers, Container{ID: fmt.Sprint("stranger", i), Name: rapid.SampledFrom([]string{"r0-a-1", "r1", "x"}).Draw(t, "name") + fmt.Sprint(i),
			Status: "running", Fleet: "other", Resource: "stack/r0", Project: rapid.SampledFrom([]string{"", "r2"}).Draw(t, "project"), Ports: []Port{{Host: 80, Protocol: "tcp"}}})
	}
	slices.SortFunc(w.d.Config.Resources, func(a, b *schema.Resource) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return w
}

func (w *world) drawResource(t *rapid.T, i int, earlier []schema.ID) schema.ID {
	kind := rapid.SampledFrom([]schema.Kind{schema.KindStack, schema.KindStack, schema.KindDeployment, schema.KindProcedure}).Draw(t, "kind")
	name := fmt.Sprint("r", i)
	r := &schema.Resource{ID: schema.NewID(kind, name), Kind: kind, Name: name, Pos: schema.Pos{File: "r.toml", Line: 10 * i, Column: 1},
		Deploy: rapid.SampledFrom([]schema.Deploy{schema.DeployTrue, schema.DeployTrue, schema.DeployTrue, schema.DeployFalse, schema.DeployFollow}).Draw(t, "deploy"),
		Ensure: rapid.SampledFrom([]schema.Ensure{schema.EnsureRunning, schema.EnsureRunning, schema.EnsureStopped, schema.EnsureCompleted}).Draw(t, "ensure"),
		Server: rapid.SampledFrom([]string{"local", "local", "local", "web1", "down", "far"}).Draw(t, "server"), Release: rapid.IntRange(0, 9).Draw(t, "release") == 0}
	for _, e := range earlier {
		if rapid.IntRange(0, 2).Draw(t, "after") == 0 {
			r.After = append(r.After, schema.Ref{ID: e, Raw: e.Name()})
		}
	}
	w.d.Config.Resources = append(w.d.Config.Resources, r)
	if kind == schema.KindProcedure {
		return r.ID
	}
	decl := &Declared{Resource: r.ID}
	services := []string{name}
	if kind == schema.KindStack {
		r.Config = &schema.StackConfig{}
		decl.Project = name
		services = []string{"a", "b", "c"}[:rapid.IntRange(1, 3).Draw(t, "services")]
	} else {
		r.Config = &schema.DeploymentConfig{}
	}
	for _, s := range services {
		u := unitOf(s, rapid.SampledFrom([]string{"img:1", "img:2"}).Draw(t, "image"))
		u.OneShot = rapid.Bool().Draw(t, "one-shot")
		u.Ignored = rapid.IntRange(0, 5).Draw(t, "ignored") == 0
		if kind == schema.KindStack {
			u.Scale = rapid.IntRange(0, 2).Draw(t, "scale")
		} else {
			u.Container = name
		}
		if n := len(decl.Units); n > 0 && rapid.IntRange(0, 2).Draw(t, "shares") == 0 {
			with := decl.Units[rapid.IntRange(0, n-1).Draw(t, "with")].Service
			u.Shares = []Share{{What: rapid.SampledFrom([]string{ShareNetwork, ShareNetwork, SharePID, ShareVolumes}).Draw(t, "what"), Service: with}}
		} else if n > 0 && rapid.Bool().Draw(t, "restarts") {
			u.Restarts = []string{decl.Units[0].Service}
		} else if len(r.After) > 0 && rapid.IntRange(0, 2).Draw(t, "shares elsewhere") == 0 {
			if of := w.d.Declared[r.After[0].ID]; of != nil {
				r := &schema.Resource{Kind: of.Resource.Kind(), Name: of.Resource.Name()}
				u.Shares = []Share{{What: ShareNetwork, Container: cmpName(r, of, of.Units[0], 0)}}
			}
		}
		if rapid.Bool().Draw(t, "secret") {
			u.Secrets = []string{"PW"}
		}
		decl.Units = append(decl.Units, u)
	}
	if rapid.IntRange(0, 4).Draw(t, "port") == 0 {
		decl.Ports = []Port{{Host: 80, Protocol: "tcp", Service: services[0]}}
	}
	if rapid.IntRange(0, 9).Draw(t, "missing") == 0 {
		decl.Missing = []Missing{{Name: "NONE"}}
	}
	w.d.Declared[r.ID] = decl
	s := w.st.Servers[r.Server]
	if s == nil || s.Unreachable != "" {
		return r.ID
	}
	w.drawStanding(t, s, r, decl)
	return r.ID
}

func unitOf(service, image string) Unit {
	spec, _ := CanonicalJSON(map[string]any{"image": image, "environment": map[string]string{"K": "[[PW]]"}})
	return Unit{Service: service, Spec: spec, Digest: NewDigest(spec, nil), Image: image}
}

func (w *world) drawStanding(t *rapid.T, s *ServerState, r *schema.Resource, decl *Declared) {
	how := rapid.SampledFrom([]string{"nothing", "ours", "ours", "free", "adopted"}).Draw(t, "standing")
	facts := &Facts{Compare: map[string]Comparison{}}
	entry := &Entry{Resource: r.ID, Fleet: "main", Sync: "main", Outcome: "done", Project: decl.Project, Adopted: how == "adopted"}
	for _, u := range decl.Units {
		if how != "nothing" && rapid.IntRange(0, 3).Draw(t, "there") > 0 {
			for i := range rapid.IntRange(1, 2).Draw(t, "count") {
				if r.Kind == schema.KindDeployment && i > 0 {
					continue
				}
				c := Container{ID: string(r.ID) + u.Service + fmt.Sprint(i), Image: u.Image, Service: u.Service, Project: decl.Project,
					Name:   cmpName(r, decl, u, i),
					Status: rapid.SampledFrom([]string{"running", "running", "running", "exited", "paused", "dead", "restarting"}).Draw(t, "status"),
					Health: rapid.SampledFrom([]string{"", "healthy", "unhealthy"}).Draw(t, "health")}
				c.Completed = c.Status == "exited" && u.OneShot && rapid.Bool().Draw(t, "completed")
				if how == "ours" {
					c.Resource, c.Fleet, c.Sync, c.Digest = r.ID, "main", "main", u.Digest
					if rapid.IntRange(0, 3).Draw(t, "stale") == 0 {
						c.Digest = unitOf(u.Service, "old:0").Digest
					}
				}
				for _, share := range u.Shares {
					c.NetworkOf, c.PIDOf = w.shared(s, decl, share)
					if c.NetworkOf != "" && rapid.IntRange(0, 3).Draw(t, "stranded") == 0 {
						c.NetworkOf = "gone"
					}
					c.Severed = c.NetworkOf != "" && rapid.IntRange(0, 3).Draw(t, "severed") == 0
				}
				s.Containers = append(s.Containers, c)
			}
			facts.Compare[u.Service] = Comparison{Equal: rapid.Bool().Draw(t, "equal"), Changes: []Change{
				{Path: "image", Old: "x", New: u.Image}, {Path: "environment.K", Old: canary, New: canary}}}
		}
		old := u
		if rapid.IntRange(0, 3).Draw(t, "ledger stale") == 0 {
			old = unitOf(u.Service, "old:0")
		}
		entry.Units = append(entry.Units, old)
	}
	if rapid.Bool().Draw(t, "secret changed") {
		facts.SecretsChanged = []string{"PW"}
	}
	s.Facts[r.ID] = facts
	if how == "adopted" || how == "ours" && rapid.Bool().Draw(t, "entry") {
		s.Ledger[r.ID] = entry
	}
	if rapid.IntRange(0, 5).Draw(t, "hold") == 0 {
		s.Holds = append(s.Holds, Hold{Resource: r.ID, Kind: rapid.SampledFrom([]HoldKind{HoldUser, HoldFailed, HoldContested}).Draw(t, "hold kind"), Digest: ResourceDigest(decl.Units), Reason: "because"})
	}
	if len(s.Containers) > 0 && rapid.IntRange(0, 9).Draw(t, "self") == 0 {
		s.Self = s.Containers[len(s.Containers)-1].ID
	}
}

// shared is whose network, or whose PID namespace, a container made now would have.
func (w *world) shared(host *ServerState, decl *Declared, s Share) (network, pid string) {
	for _, c := range host.Containers {
		if s.Service != "" && c.Project == decl.Project && c.Service == s.Service || s.Container != "" && c.Name == s.Container {
			switch s.What {
			case ShareNetwork:
				return c.ID, ""
			case SharePID:
				return "", c.ID
			}
		}
	}
	return "", ""
}

func cmpName(r *schema.Resource, decl *Declared, u Unit, i int) string {
	if r.Kind == schema.KindDeployment {
		return r.Name
	}
	return fmt.Sprintf("%s-%s-%d", decl.Project, u.Service, i+1)
}

func (w *world) drawOrphan(t *rapid.T, i int) {
	s := w.st.Servers["local"]
	id := schema.NewID(schema.KindStack, fmt.Sprint("orphan", i))
	c := Container{ID: string(id), Name: id.Name() + "-a-1", Project: id.Name(), Service: "a", Status: "running", Resource: id, Fleet: "main", Sync: "main"}
	if i > 0 {
		c.After = []string{fmt.Sprint("stack/orphan", i-1)}
	}
	s.Containers = append(s.Containers, c)
	if rapid.Bool().Draw(t, "orphan entry") {
		s.Ledger[id] = &Entry{Resource: id, Fleet: "main", Sync: "main", Outcome: "done", Project: id.Name(), After: c.After}
	}
}

// simulate does to the State what the agents would do for the plan.
func (w *world) simulate(fail func(string, ...any), p *Plan) {
	for i := range p.Steps {
		s := &p.Steps[i]
		host := w.st.Servers[s.Server]
		switch {
		case s.Action == Remove:
			host.Containers = slices.DeleteFunc(host.Containers, func(c Container) bool {
				return c.Fleet == "main" && c.Resource == s.Resource
			})
			delete(host.Ledger, s.Resource)
		case s.Action == ReleaseObjects:
			delete(host.Ledger, s.Resource)
		case s.Action == Adopt:
			w.write(host, s, true)
		case s.Action.Changes():
			w.change(fail, host, s)
		}
	}
}

func (w *world) write(host *ServerState, s *Step, adopted bool) {
	host.Ledger[s.Resource] = &Entry{Resource: s.Resource, Fleet: "main", Sync: "main", Outcome: "done", Adopted: adopted,
		Project: s.Declared.Project, Units: s.Declared.Units}
	if f := host.Facts[s.Resource]; f != nil {
		f.SecretsChanged, f.HostFilesChanged, f.FilesDrifted = nil, nil, nil
	}
}

func (w *world) change(fail func(string, ...any), host *ServerState, s *Step) {
	deployment := s.Resource.Kind() == schema.KindDeployment
	mine := func(c *Container, service string) bool {
		if c.Fleet != "" {
			return c.Fleet == "main" && c.Resource == s.Resource && (deployment || c.Service == service)
		}
		if deployment {
			return c.Name == s.Declared.Units[0].Container && c.Project == ""
		}
		return c.Project == s.Declared.Project && c.Service == service
	}
	for _, svc := range s.Services {
		if svc.Action == Restart || svc.Action == Stop {
			for i := range host.Containers {
				if c := &host.Containers[i]; mine(c, svc.Name) {
					c.Status, c.Health, c.Completed, c.Severed = "running", "", false, false
					if svc.Action == Stop {
						c.Status = "exited"
					}
				}
			}
			continue
		}
		host.Containers = slices.DeleteFunc(host.Containers, func(c Container) bool { return mine(&c, svc.Name) })
		if svc.Action == Remove {
			continue
		}
		for _, u := range s.Declared.Units {
			if u.Service != svc.Name {
				continue
			}
			for k := range max(u.Scale, 1) {
				name := u.Container
				if name == "" {
					name = fmt.Sprintf("%s-%s-%d", s.Declared.Project, u.Service, k+1)
				}
				for _, c := range host.Containers {
					if c.Name == name {
						fail("%s makes container %s, which %s/%s has", s.Resource, name, c.Fleet, c.Resource)
					}
				}
				w.made++
				host.Containers = append(host.Containers, Container{ID: fmt.Sprint("new", w.made, "-", name), Name: name, Status: "running", Resource: s.Resource, Fleet: "main",
					Sync: "main", Digest: u.Digest, Project: s.Declared.Project, Service: u.Service, Image: u.Image})
			}
		}
	}
	for _, svc := range s.Services { // when all are made, as their ids are known
		for _, u := range s.Declared.Units {
			for i := range host.Containers {
				if c := &host.Containers[i]; u.Service == svc.Name && mine(c, svc.Name) && strings.HasPrefix(c.ID, "new") && svc.Action != Restart {
					for _, share := range u.Shares {
						c.NetworkOf, c.PIDOf = w.shared(host, s.Declared, share)
					}
				}
			}
		}
	}
	if s.Action != Stop && s.Action != Restart {
		free := slices.ContainsFunc(host.Containers, func(c Container) bool {
			return c.Fleet == "" && slices.ContainsFunc(s.Declared.Units, func(u Unit) bool { return mine(&c, u.Service) })
		})
		w.write(host, s, free)
	}
}

func TestApplyingLeavesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.d.Rules.AllowRemovals = 100
		strangers := func() (out []Container) {
			for _, s := range w.st.Servers {
				for _, c := range s.Containers {
					if c.Fleet == "other" {
						out = append(out, c)
					}
				}
			}
			return out
		}
		before := fmt.Sprintf("%+v", strangers())
		first := Make(w.d, w.st, nil)
		w.simulate(t.Fatalf, first)
		if after := fmt.Sprintf("%+v", strangers()); after != before {
			t.Fatalf("strangers changed:\n%s\n%s", before, after)
		}
		second := Make(w.d, w.st, nil)
		for _, s := range second.Steps {
			if s.Action.Changes() {
				a, _ := first.JSON()
				b, _ := second.JSON()
				t.Fatalf("%s %s is left to do\nfirst %s\nsecond %s", s.Action, s.Resource, a, b)
			}
		}
	})
}

func TestOrderAndDeterminism(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		p := Make(w.d, w.st, nil)
		at := map[schema.ID]int{}
		for i, s := range p.Steps {
			for _, a := range s.After {
				if _, ok := at[a]; !ok {
					t.Fatalf("%s stands before %s, which it comes after", s.Resource, a)
				}
			}
			at[s.Resource] = i
		}
		for _, s := range p.Steps {
			for _, a := range s.After {
				parent := p.Steps[at[a]]
				if parent.Action.Changes() && s.Wave <= parent.Wave || s.Wave < parent.Wave {
					t.Fatalf("wave of %s (%d) after %s (%d)", s.Resource, s.Wave, a, parent.Wave)
				}
			}
		}
		first, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(first, []byte(canary)) {
			t.Fatalf("a value from a host is shown: %s", first)
		}
		rnd := rand.New(rand.NewSource(int64(rapid.IntRange(0, 1<<30).Draw(t, "seed"))))
		for range 5 {
			rnd.Shuffle(len(w.d.Config.Resources), func(i, j int) {
				r := w.d.Config.Resources
				r[i], r[j] = r[j], r[i]
			})
			for _, s := range w.st.Servers {
				rnd.Shuffle(len(s.Containers), func(i, j int) { s.Containers[i], s.Containers[j] = s.Containers[j], s.Containers[i] })
				rnd.Shuffle(len(s.Holds), func(i, j int) { s.Holds[i], s.Holds[j] = s.Holds[j], s.Holds[i] })
			}
			if again, _ := Make(w.d, w.st, nil).JSON(); !bytes.Equal(first, again) {
				t.Fatalf("another order, another plan:\n%s\n%s", first, again)
			}
		}
	})
}

func TestRemovalCap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.d.Rules.Complete, w.d.Rules.Delete = true, true
		p := Make(w.d, w.st, nil)
		removed, live := 0, map[schema.ID]bool{}
		for _, s := range w.st.Servers {
			for _, c := range s.Containers {
				if c.Fleet == "main" {
					live[c.Resource] = true
				}
			}
			for id := range s.Ledger {
				live[id] = true
			}
		}
		for _, s := range p.Steps {
			if s.Action == Remove {
				removed++
			}
		}
		if total := len(live); removed > max(1, total/4)+1 && len(p.Asks) == 0 && removed > 2 {
			t.Fatalf("%d of %d removed without asking", removed, total)
		}
		if removed > 0 && removed == len(live) && len(p.Asks) == 0 {
			t.Fatalf("everything removed without asking")
		}
	})
}

func TestAmnesia(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.d.Rules.AllowRemovals = 100
		w.simulate(t.Fatalf, Make(w.d, w.st, nil))
		for _, s := range w.st.Servers {
			s.Ledger = map[schema.ID]*Entry{}
			for _, f := range s.Facts {
				f.SecretsChanged = nil // a changed secret of what was held is still to be done
				for name := range f.Compare {
					f.Compare[name] = Comparison{Equal: true}
				}
			}
		}
		p := Make(w.d, w.st, nil)
		for _, s := range p.Steps {
			if !s.Action.Changes() || slices.ContainsFunc(s.Causes, func(c Cause) bool { return c.Kind == CameAfter }) {
				continue
			}
			// What was never as declared (held, blocked before, missing and only reported) may be planned now.
			if w.asDeclared(&s) {
				b, _ := p.JSON()
				t.Fatalf("%s %s after the ledger is lost\n%s", s.Action, s.Resource, b)
			}
		}
	})
}

// joined reports whether a container shares with containers that are there.
func (w *world) joined(host *ServerState, s *Step, u *Unit, c *Container) bool {
	for _, share := range u.Shares {
		if of := share.of(c); c.Severed || of != "" && !slices.ContainsFunc(host.Containers, func(x Container) bool { return x.ID == of }) {
			return false
		}
	}
	return true
}

// asDeclared reports whether every unit of the step stands as declared.
func (w *world) asDeclared(s *Step) bool {
	if s.Declared == nil {
		return true
	}
	host := w.st.Servers[s.Server]
	for _, u := range s.Declared.Units {
		n, all := 0, 0
		for _, c := range host.Containers {
			if c.Resource == s.Resource && c.Service == u.Service {
				all++
			}
			if c.Resource == s.Resource && c.Fleet == "main" && c.Service == u.Service && c.Digest == u.Digest && (c.Status == "running" || c.Completed) && w.joined(host, s, &u, &c) {
				n++
			}
		}
		if n != max(u.Scale, 1) || n != all {
			return false
		}
	}
	return true
}

package fleet_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/varanhq/varan/agent/link"
	"github.com/varanhq/varan/agent/protocol"
	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/apply/fleet"
	"github.com/varanhq/varan/apply/fleettest"
)

// looked counts how often an agent is asked how it stands.
type looked struct {
	*fleettest.Agent
	times atomic.Int64
}

func (l *looked) Observe(ctx context.Context, q protocol.Observe) protocol.Observed {
	l.times.Add(1)
	return l.Agent.Observe(ctx, q)
}

// What an agent said holds until something is heard of a change, and no longer.
func TestObservationsAreKept(t *testing.T) {
	key, public := newKey(t)
	hub := newHub(t, fleet.Options{Listen: "127.0.0.1:0"})
	if err := hub.Enrol(map[string]string{"web1": public}); err != nil {
		t.Fatal(err)
	}
	a := &looked{Agent: fleettest.NewAgent()}
	changed := make(chan struct{})
	r := dialOut(t, hub.Status().Listen, link.Options{Handler: a, Key: key, FleetKey: hub.FleetKey(), Changed: changed, Progress: a.Progress})
	r.want(t, link.Connected)
	<-hub.Changed()
	look := func(why string, want int64, queries ...protocol.Query) {
		t.Helper()
		before := a.times.Load()
		if _, err := hub.Observe(t.Context(), "web1", queries); err != nil {
			t.Fatal(err)
		}
		if got := a.times.Load() - before; got != want {
			t.Errorf("%s: asked %d times, want %d", why, got, want)
		}
	}
	look("the first time", 1)
	look("nothing happened", 0)
	look("a question", 1, protocol.Query{Resource: "stack/db"})
	look("nothing happened since", 0)
	changed <- struct{}{}
	<-hub.Changed()
	look("it changed", 1)
	look("nothing happened after that", 0)
	if _, err := hub.Do(t.Context(), protocol.Op{ID: "op1", Verb: protocol.Deploy, Resource: "stack/db", Server: "web1"}, nil); err != nil {
		t.Fatal(err)
	}
	look("something was done", 1)
	look("nothing happened after that either", 0)
	hub.Refresh()
	look("a person asks", 1)
	if err := hub.Enrol(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Observe(t.Context(), "web1", nil); err == nil {
		t.Error("what was kept outlives the agent's enrolment")
	}
}

// A hundred servers that are not there cost the others nothing.
func TestDeadServersDelayNobody(t *testing.T) {
	keys := map[string]string{}
	var names []string
	for i := range 100 {
		_, public := newKey(t)
		name := fmt.Sprintf("dead%d", i)
		keys[name], names = public, append(names, name)
	}
	key, public := newKey(t)
	keys["web1"] = public
	hub := newHub(t, fleet.Options{})
	if err := hub.Enrol(keys); err != nil {
		t.Fatal(err)
	}
	a := fleettest.NewAgent()
	serve(t, hub, link.Options{Handler: a, Key: key, Progress: a.Progress})
	time.Sleep(2100 * time.Millisecond) // a hub that has only just started waits for agents on their way
	alone := time.Now()
	apply.Observe(t.Context(), hub, []string{"web1"}, nil)
	one := time.Since(alone)
	began := time.Now()
	st := apply.Observe(t.Context(), hub, append(names, "web1"), nil)
	if took := time.Since(began); took > one+2*time.Second { // one that waited would take 100 times a time-out
		t.Errorf("with 100 dead servers an observation took %s, without %s", took, one)
	}
	if s := st.Servers["web1"]; s.Unreachable != "" {
		t.Errorf("web1: %s", s.Unreachable)
	}
	if s := st.Servers["dead7"]; s.Unreachable != "its agent is not connected" {
		t.Errorf("dead7: %q", s.Unreachable)
	}
}

package fleet

import (
	"bytes"
	"testing"
	"time"
)

// TestPace: nobody sends the hub more than it takes from one agent, and who sends as agents do never waits.
func TestPace(t *testing.T) {
	for name, c := range map[string]struct {
		read  []byte
		every time.Duration // between reads, on the agent's side
		most  float64       // messages or pieces a second that get through
		waits bool
	}{
		"an agent at work":      {[]byte("PUB varan.hub.U 5\r\nhello\r\n"), 10 * time.Millisecond, 200, false},
		"a large answer":        {bytes.Repeat([]byte{'x'}, 32<<10), 2 * time.Millisecond, 1001, false},
		"a flood of messages":   {bytes.Repeat([]byte("PUB varan.hub.U 0\r\n\r\n"), 20), 0, paceRate / 20, true},
		"a flood of pieces":     {[]byte("PU"), 0, 2 * paceRate, true},
		"a flood of large ones": {bytes.Repeat([]byte{'x'}, 32<<10), 0, paceRate / 2, true},
	} {
		now := time.Unix(0, 0)
		began, waited, reads := now, false, 0
		p := &pace{left: paceBurst, last: now, now: func() time.Time { return now }, rest: func(d time.Duration) { now = now.Add(d); waited = true }}
		for now.Sub(began) < time.Minute && reads < 1_000_000 {
			p.wait(c.read)
			now = now.Add(c.every)
			reads++
		}
		rate := float64(reads) / now.Sub(began).Seconds()
		if waited != c.waits || rate > c.most*1.2 { // and the burst
			t.Errorf("%s: waited %v, %.0f a second", name, waited, rate)
		}
	}
}

// TestContactPace: of an agent that floods a cluster so much is heard and no more, and the others are heard as ever.
func TestContactPace(t *testing.T) {
	c := &contacts{byKey: make(map[string]*contact)}
	now := time.Now()
	heard := 0
	for range 3 * paceBurst {
		if c.mayGoOn("loud", 100, now) {
			heard++
		}
	}
	if heard > paceBurst+1 || heard < paceBurst {
		t.Errorf("%d messages at once were heard, want %d", heard, paceBurst)
	}
	if !c.mayGoOn("quiet", 100, now) {
		t.Error("another agent is not heard")
	}
	if c.mayGoOn("loud", 100, now) || !c.mayGoOn("loud", 100, now.Add(100*time.Millisecond)) {
		t.Error("it is to be heard again after a while, and not before")
	}
}

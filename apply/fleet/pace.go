package fleet

import (
	"bytes"
	"time"
)

const (
	// paceRate is how many messages a second the hub takes from one agent, paceBurst how many at once, and paceBytes
	// what counts as one of a large message. Every message costs the hub a signature's check; an agent that is well
	// sends a few a second, and its large answers go piece by piece, each acknowledged.
	paceRate  = 2000
	paceBurst = 4000
	paceBytes = 16 << 10
)

// A pace bounds what one agent may send, whatever that is. One goroutine uses it.
type pace struct {
	left float64
	last time.Time
	now  func() time.Time
	rest func(time.Duration)
}

func newPace() *pace {
	return &pace{left: paceBurst, last: time.Now(), now: time.Now, rest: time.Sleep}
}

// wait charges for what was read and waits until that is paid.
func (p *pace) wait(data []byte) {
	if p == nil {
		return
	}
	now := p.now()
	p.left = min(paceBurst, p.left+now.Sub(p.last).Seconds()*paceRate)
	p.last = now
	// Who cuts its messages so that none is found in one piece pays for the pieces.
	p.left -= max(0.5, float64(bytes.Count(data, []byte("PUB "))), float64(len(data))/paceBytes)
	if p.left < 0 {
		p.rest(time.Duration(-p.left / paceRate * float64(time.Second)))
	}
}

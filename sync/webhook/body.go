package webhook

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

const (
	maxBody = 25 << 20 // GitHub sends no larger ones
	// maxUnverified bounds the bodies, of all deliveries together, of which nobody knows yet who sent them.
	maxUnverified = 64 << 20
)

var (
	errTooLarge = errors.New("the body is larger than 25 MB")
	errFull     = errors.New("too many deliveries are being read")
)

// A budget is memory that deliveries share.
type budget struct {
	mu   sync.Mutex // guards left
	left int
}

func (b *budget) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}

// read reads a body, taking from the budget as bytes come and not as they are promised. free gives back, once.
func (b *budget) read(r *http.Request) (body []byte, free func(), err error) {
	held := 0
	free = sync.OnceFunc(func() { b.give(held) })
	if r.ContentLength > maxBody {
		return nil, free, errTooLarge
	}
	for {
		if len(body) == cap(body) {
			next := min(max(2*cap(body), 16<<10), maxBody+1)
			if !b.take(next) { // beside the old one, while it is copied
				return nil, free, errFull
			}
			grown := make([]byte, len(body), next)
			copy(grown, body)
			b.give(held)
			body, held = grown, next
		}
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > maxBody:
			return nil, free, errTooLarge
		case errors.Is(err, io.EOF):
			return body, free, nil
		case err != nil:
			return nil, free, err
		}
	}
}

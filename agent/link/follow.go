package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/protocol/wire"
)

const (
	// The first try after a connection was lost comes after about backoffMin; each doubles the next one's wait.
	backoffMin = 500 * time.Millisecond
	backoffMax = 30 * time.Second
	// refusedMax is how long an agent waits at most to ask again whether its key was committed: somebody sits before
	// the screen and waits for it.
	refusedMax = 4 * time.Second
	// busyMax is how long it waits at most when somebody is there and hung up at once: a hub that takes in so many new
	// connections of one address at a time, while all agents behind it come back.
	busyMax = time.Second
	// steady is how long a connection must have stood for the waits to begin anew.
	steady = 30 * time.Second
)

// News of a connection, for Follow's caller.
type News int

const (
	Connected News = iota
	Lost           // or never had; it is tried again
	Refused        // the hub does not know this agent's key, or no longer
)

// Following is how Follow goes about it.
type Following struct {
	Hub Address
	// Others are further addresses of the same hub, the servers of a cluster: each in turn is tried.
	Others []Address
	// KeyFile holds the agent's key; a key waiting in NextKeyFile beside it takes its place once the hub lets it in
	// and the old one no longer. "" = there is never another one.
	KeyFile string
	// Tell is told when something changes between the agent and its hub; err says why it is not connected.
	Tell func(n News, err error)
}

// Follow keeps the agent connected to its hub until ctx ends, whatever happens, and serves it.
func Follow(ctx context.Context, f Following, opts Options) error {
	log := cmp.Or(opts.Log, slog.New(slog.DiscardHandler))
	tell, told := f.Tell, News(-1)
	wait, present, turn := backoffMin, opts.Key, false
	f.Tell = func(n News, err error) {
		if n == Connected && opts.Key != present {
			if err := os.Rename(NextKeyFile(f.KeyFile), f.KeyFile); err != nil {
				log.Error("the agent's new key is in use and could not take the old one's place", "err", err)
			}
			present = opts.Key
		}
		if n != told && tell != nil {
			tell(n, err)
		}
		told = n
	}
	all := append([]Address{f.Hub}, f.Others...)
	at := rand.N(len(all)) // so that not all agents of a fleet are at one server
	for ; ; at++ {
		f.Hub = all[at%len(all)]
		began := time.Now()
		news, err := once(ctx, f, opts)
		if ctx.Err() != nil {
			return nil
		}
		var broken *brokenError
		if errors.As(err, &broken) {
			return broken.err
		}
		f.Tell(news, err)
		if news == Refused && f.KeyFile != "" { // each in turn, until one is let in
			if next, err := nextKey(f.KeyFile); err != nil {
				log.Warn("the agent's next key is not used", "err", err)
			} else if opts.Key = present; next != nil && !turn {
				opts.Key, turn = next, true
			} else {
				turn = false
			}
		}
		if time.Since(began) > steady {
			wait = backoffMin
		}
		pause := wait/2 + rand.N(wait) // 1,000 agents do not come back in one second
		switch {
		case news == Refused:
			pause = min(pause, refusedMax)
		case len(f.Others) > 0 && at%len(all) != len(all)-1: // the next may be well
			pause = min(pause, busyMax)
		case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
			pause = min(pause, busyMax)
		}
		log.Debug("not connected", "hub", f.Hub.String(), "err", err, "again", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		wait = min(2*wait, backoffMax)
	}
}

// NextKeyFile is where an agent's next key waits to be committed.
func NextKeyFile(keyFile string) string { return keyFile + ".next" }

// nextKey is the key that waits, nil if none does.
func nextKey(keyFile string) (nkeys.KeyPair, error) {
	if _, err := os.Stat(NextKeyFile(keyFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return LoadKey(NextKeyFile(keyFile))
}

// A brokenError is one of this machine: trying again does not help.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }

// once connects and serves until the connection is lost.
func once(ctx context.Context, f Following, opts Options) (News, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	public, err := opts.Key.PublicKey()
	if err != nil {
		return Lost, &brokenError{err}
	}
	var last error // NATS's client calls back on one goroutine
	// The dialer knows where the hub is: what NATS's client makes of its own URL must ask no name server.
	conn, err := nats.Connect("nats://hub", nats.SkipHostLookup(), nats.SetCustomDialer(dialer{ctx, f.Hub}), nats.Name(opts.Name),
		wire.Login(public, opts.Key), nats.CustomInboxPrefix(wire.InboxPrefix(public)), nats.NoReconnect(),
		nats.Timeout(dialTimeout), nats.PingInterval(wire.Heartbeat), nats.MaxPingsOutstanding(2), nats.FlusherTimeout(10*time.Second),
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { last = err }),
		nats.ClosedHandler(func(c *nats.Conn) { cancel(cmp.Or(c.LastError(), last, errClosed)) }))
	if err != nil && strings.Contains(err.Error(), "expected 'PONG'") { // how NATS's client says it
		err = fmt.Errorf("no daemon said whether to let this agent in: %w", err)
	}
	if err != nil {
		return newsOf(err), err
	}
	defer conn.Close()
	opts.hears = func() { f.Tell(Connected, nil) }
	if err := Serve(ctx, conn, opts); err != nil && ctx.Err() == nil && !conn.IsClosed() && !errors.Is(err, nats.ErrConnectionClosed) {
		return Lost, &brokenError{err}
	}
	err = context.Cause(ctx)
	return newsOf(err), err
}

var errClosed = errors.New("the hub closed the connection")

func newsOf(err error) News {
	if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) || err != nil && strings.Contains(strings.ToLower(err.Error()), "authorization violation") {
		return Refused
	}
	return Lost
}

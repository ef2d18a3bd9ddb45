package sync

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/varanhq/varan/agent/mask"
	"github.com/varanhq/varan/agent/protocol"
)

// Logs copies what a resource's containers printed to w, from whichever server they are on. The agent masks the
// resource's secrets before anything leaves its host; here all that this daemon knows are masked again, for what is
// declared no longer.
func (d *Daemon) Logs(ctx context.Context, req LogsRequest, w io.Writer) error {
	if d.opts.Logs == nil {
		return errors.New("this daemon cannot ask for logs")
	}
	server, err := d.printingServer(req)
	if err != nil {
		return err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails
	q := protocol.Logs{Version: protocol.Version, Stream: hex.EncodeToString(id[:]), Fleet: d.root.fleet(), Resource: req.Resource,
		Service: req.Service, Tail: req.Tail, Since: req.Since, Follow: req.Follow, Millis: protocol.LogsMaxWait}
	values := map[string]string{}
	if r := d.root.reading(); r != nil {
		q.Was = was(r.config, req.Resource)
		if p, err := r.payload(ctx, req.Resource, nil, nil, false); err == nil {
			q.Secrets = p.Secrets
		}
		for name, v := range r.values.secrets {
			values[name] = string(v)
		}
	}
	out := mask.New(values).Writer(w)
	defer out.Close()
	defer func() { // the agent need not wait for it to be forgotten
		end := q
		end.Close, end.Next, end.Secrets = true, true, nil
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = d.opts.Logs(ctx, server, end)
	}()
	for {
		l, err := d.opts.Logs(ctx, server, q)
		if ctx.Err() != nil {
			return nil // who reads is gone
		}
		if err != nil {
			return err
		}
		if _, err := out.Write(l.Data); err != nil {
			return nil // who reads is gone
		}
		switch {
		case l.Error != "":
			return fmt.Errorf("logs of %s on %s: %s", req.Resource, server, l.Error)
		case l.End:
			return nil
		}
		q.Next, q.Secrets = true, nil
	}
}

// printingServer is the name by which the fleet knows the server a resource's containers are on.
func (d *Daemon) printingServer(req LogsRequest) (string, error) {
	s := d.root.syncer
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Server != "" {
		return s.agentOf(req.Server), nil
	}
	if s.last != nil {
		if st := s.last.Step(req.Resource); st != nil && st.Server != "" {
			return s.agentOf(st.Server), nil
		}
	}
	if s.state != nil {
		for _, name := range sortedKeys(s.state.Servers) {
			if len(s.state.Servers[name].Of(req.Resource, "", s.fleetLocked())) > 0 {
				return s.agentOf(name), nil
			}
		}
	}
	return "", fmt.Errorf("%s: %w", req.Resource, ErrUnknown)
}

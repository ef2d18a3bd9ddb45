package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/protocol/wire"
)

const (
	calloutSubject = "$SYS.REQ.USER.AUTH"
	calloutQueue   = "varan"
	// Daemons tell each other, in their own account: who was refused, and that the roll has changed.
	waitingSubject = "varan.daemon.waiting"
	rollSubject    = "varan.daemon.roll"
	rollDomain     = "varan roll 1\n" // so that no other signature of the key passes for a roll's
	rollEvery      = 15 * time.Second
)

// answerCallout answers the cluster's servers, one question at one daemon, whom to let in.
func (h *Hub) answerCallout() error {
	if _, err := h.own.QueueSubscribe(calloutSubject, calloutQueue, func(m *nats.Msg) {
		if reply := h.judge(m.Data); reply != nil {
			_ = m.Respond(reply) // a lost answer is a connection that is tried again
		}
	}); err != nil {
		return fmt.Errorf("answer whom the cluster lets in: %w", err)
	}
	if _, err := h.own.Subscribe(waitingSubject, h.hearWaiting); err != nil {
		return fmt.Errorf("hear of agents that wait: %w", err)
	}
	if _, err := h.own.Subscribe(rollSubject, func(*nats.Msg) { h.nudgeRoll() }); err != nil {
		return fmt.Errorf("hear of agents that are let in: %w", err)
	}
	if err := h.own.FlushTimeout(clusterTimeout); err != nil {
		return fmt.Errorf("answer whom the cluster lets in: %w", err)
	}
	h.work.Go(func() { h.followRoll(h.ctx) })
	h.work.Go(func() { h.probeCallout(h.ctx) })
	return nil
}

// judge answers one question; nil = this daemon does not know yet, and the one who asks is tried again.
func (h *Hub) judge(data []byte) []byte {
	q, err := jwt.DecodeAuthorizationRequestClaims(string(data))
	if err != nil {
		h.log.Debug("a question whom to let in is not understood", "err", err)
		return nil
	}
	if !nkeys.IsValidPublicUserKey(q.UserNkey) || q.Server.ID == "" {
		return nil // no server asks so
	}
	key := q.ConnectOptions.Nkey
	user := jwt.NewUserClaims(q.UserNkey)
	user.Audience, user.Name = clusterAgentsAccount, key
	a := jwt.NewAuthorizationResponseClaims(q.UserNkey)
	a.Audience = q.Server.ID
	in, known := h.admits(q)
	switch {
	case !known:
		return nil
	case in == letIn:
		user.Permissions = jwt.Permissions{
			Pub:  jwt.Permission{Allow: jwt.StringList{wire.FromAgent(key)}},
			Sub:  jwt.Permission{Allow: jwt.StringList{wire.ToAgent(key), wire.InboxPrefix(key) + ".>"}},
			Resp: &jwt.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}, // it may acknowledge what it was sent, once
		}
	case in == letProbe:
		user.Permissions = jwt.Permissions{Pub: jwt.Permission{Deny: jwt.StringList{">"}}, Sub: jwt.Permission{Deny: jwt.StringList{">"}}}
	default:
		a.Error = "no agent of this fleet"
	}
	if a.Error == "" {
		if a.Jwt, err = user.Encode(h.logins.issuer); err != nil {
			h.log.Error("an agent cannot be let in", "err", err)
			return nil
		}
	}
	out, err := a.Encode(h.logins.issuer)
	if err != nil {
		h.log.Error("an agent cannot be let in", "err", err)
		return nil
	}
	return []byte(out)
}

type admission int

const (
	letNobody admission = iota
	letIn
	letProbe
)

// admits decides who comes; known is false while this daemon has not heard whose keys are committed.
func (h *Hub) admits(q *jwt.AuthorizationRequestClaims) (in admission, known bool) {
	key := q.ConnectOptions.Nkey
	if !proves(key, q.ConnectOptions.SignedNonce, []byte(q.ClientInformation.Nonce)) {
		return letNobody, true
	}
	if probe, err := h.logins.probe.PublicKey(); err == nil && key == probe {
		return letProbe, true
	}
	from, _ := netip.ParseAddr(q.ClientInformation.Host)
	h.mu.Lock()
	in, known = letNobody, h.enrolled != nil
	if h.servers[key] != "" {
		in = letIn
		delete(h.waiting, key)
	}
	h.mu.Unlock()
	switch {
	case in == letIn:
		h.contacts.entered(key, from)
	case known:
		if data, err := json.Marshal(Waiting{Key: key, Claim: claimed(q.ConnectOptions.Name), From: from}); err == nil {
			_ = h.own.Publish(waitingSubject, data) // it asks again every few seconds
		}
	}
	return in, known
}

// hearWaiting notes an agent that this daemon or another one refused.
func (h *Hub) hearWaiting(m *nats.Msg) {
	var w Waiting
	if json.Unmarshal(m.Data, &w) != nil || !nkeys.IsValidPublicUserKey(w.Key) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.servers[w.Key] == "" {
		h.waits(w.Key, w.Claim, w.From, time.Now())
	}
}

// A roll is what the leader tells the other daemons: who is let in. The fleet's key signs it.
type roll struct {
	Fleet   string            `json:"fleet"`
	Serial  uint64            `json:"serial"` // counts up
	Servers map[string]string `json:"servers"`
	Revoked []string          `json:"revoked"`
}

// writeRoll keeps who is let in where all daemons read it. The leader does that.
func (h *Hub) writeRoll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	h.mu.Lock()
	h.serial++
	h.rolled = time.Now()
	r := roll{Fleet: h.opts.Name, Serial: h.serial, Servers: maps.Clone(h.enrolled), Revoked: slices.Sorted(maps.Keys(h.revoked))}
	key, kv := h.opts.Key, h.bucket
	h.mu.Unlock()
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	sig, err := key.Sign(append([]byte(rollDomain), body...))
	if err != nil {
		return err
	}
	if _, err := kv.Put(ctx, rollKey, append(sig, body...)); err != nil {
		return fmt.Errorf("tell the other daemons who is let in: %w", err)
	}
	return h.own.Publish(rollSubject, nil)
}

// readRoll takes over what the leader wrote last.
func (h *Hub) readRoll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	e, err := h.kv().Get(ctx, rollKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		h.takeRoll(roll{})
		return nil
	}
	if err != nil {
		return fmt.Errorf("read who is let in: %w", err)
	}
	r, err := h.openRoll(e.Value())
	if err != nil {
		h.complain("who is let in", err)
		return nil
	}
	h.complain("who is let in", nil)
	h.takeRoll(r)
	return nil
}

func (h *Hub) openRoll(data []byte) (r roll, err error) {
	const size = 64
	if len(data) < size {
		return r, errors.New("the list of agents is cut off")
	}
	h.mu.Lock()
	key := h.opts.Key
	h.mu.Unlock()
	if key.Verify(append([]byte(rollDomain), data[size:]...), data[:size]) != nil {
		return r, errors.New("the list of agents is not signed with this fleet's key: do all daemons have the same key_file?")
	}
	if err := json.Unmarshal(data[size:], &r); err != nil {
		return r, fmt.Errorf("read the list of agents: %w", err)
	}
	if r.Fleet != h.opts.Name {
		return r, fmt.Errorf("the list of agents is of the fleet %q: each fleet needs a cluster, or its accounts, of its own", r.Fleet)
	}
	return r, nil
}

// takeRoll makes a follower's what the leader decided. The leader itself reads Git, and writes its own again over what
// another one wrote.
func (h *Hub) takeRoll(r roll) {
	h.mu.Lock()
	if h.enrolled != nil && h.leadsLocked() {
		late := r.Serial < h.serial && time.Since(h.rolled) < clusterTimeout // not all servers have what was written just now
		if r.Serial != h.serial && !late {
			h.serial, h.rollDue = max(h.serial, r.Serial), true
			h.nudgeRoll()
		}
		h.mu.Unlock()
		return
	}
	if r.Serial <= h.serial {
		h.mu.Unlock()
		return
	}
	first := h.serial == 0
	h.serial = r.Serial
	revoked := make(map[string]bool, len(r.Revoked))
	for _, key := range r.Revoked {
		revoked[key] = true
	}
	if first { // what stands in this daemon's file was not taken back while it ran
		maps.Copy(revoked, h.revoked)
	}
	changed := !maps.Equal(revoked, h.revoked)
	h.enrolled, h.revoked = r.Servers, revoked
	gone := h.admit()
	h.mu.Unlock()
	if changed {
		if err := writeRevoked(h.revokedFile(), revoked); err != nil {
			h.log.Error("the keys that were locked out are not kept", "err", err)
		}
	}
	for _, key := range gone {
		h.disconnect(key)
	}
}

// nudgeRoll has the roll read, or written by who leads, soon.
func (h *Hub) nudgeRoll() {
	select {
	case h.rollTurn <- struct{}{}:
	default:
	}
}

// followRoll keeps the roll: as leader it is written when it is not as decided here, else read.
func (h *Hub) followRoll(ctx context.Context) {
	every := time.NewTicker(rollEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		case <-h.rollTurn:
		}
		h.mu.Lock()
		due := h.rollDue && h.leadsLocked()
		if due {
			h.rollDue = false
		}
		h.mu.Unlock()
		var err error
		if due {
			if err = h.writeRoll(ctx); err != nil {
				h.mu.Lock()
				h.rollDue = true
				h.mu.Unlock()
			}
		} else {
			err = h.readRoll(ctx)
		}
		if err != nil && ctx.Err() == nil {
			h.log.Debug("the list of agents is not passed on", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
				h.nudgeRoll()
			}
		}
	}
}

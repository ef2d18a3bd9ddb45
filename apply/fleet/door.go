package fleet

import (
	"encoding/base64"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/protocol/wire"
)

// A door decides who may connect, and to what. Agents are in an account without JetStream, where each reaches its
// own two subjects and its inbox and nothing else.
type door struct {
	hub            *Hub
	daemonKey      string // the daemon's own account
	busKey         string // the daemon in the agents' account
	daemon, agents *server.Account
}

// Check is called by the NATS server for each new connection.
func (d *door) Check(c server.ClientAuthentication) bool {
	key := c.GetOpts().Nkey
	if !proves(key, c.GetOpts().Sig, c.GetNonce()) {
		return false
	}
	switch {
	case key == d.daemonKey:
		c.RegisterUser(&server.User{Username: key, Account: d.daemon})
	case key == d.busKey, d.hub.isFleet(key):
		c.RegisterUser(&server.User{Username: key, Account: d.agents})
	case d.hub.lets(key, c):
		c.RegisterUser(&server.User{Username: key, Account: d.agents, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{wire.FromAgent(key)}},
			Subscribe: &server.SubjectPermission{Allow: []string{wire.ToAgent(key), wire.InboxPrefix(key) + ".>"}},
			// It may acknowledge what it was sent, once.
			Response: &server.ResponsePermission{MaxMsgs: 1, Expires: time.Minute},
		}})
	default:
		return false
	}
	return true
}

// proves reports whether the connection holds the key: it signed the server's nonce.
func proves(key, sig string, nonce []byte) bool {
	if !nkeys.IsValidPublicUserKey(key) || len(nonce) == 0 {
		return false
	}
	raw, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		return false
	}
	public, err := nkeys.FromPublicKey(key)
	return err == nil && public.Verify(nonce, raw) == nil
}

// lets reports whether the holder of key is an agent of this fleet; who is none is noted as waiting.
func (h *Hub) lets(key string, c server.ClientAuthentication) bool {
	nonce := string(c.GetNonce())
	from := h.gate.from(nonce)
	h.mu.Lock()
	in := key == h.opts.Own || h.servers[key] != ""
	if !in && from.IsValid() {
		h.waits(key, c.GetOpts().Name, from, time.Now())
	} else if in {
		delete(h.waiting, key)
	}
	h.mu.Unlock()
	if in {
		h.gate.passed(nonce, key)
	}
	return in
}

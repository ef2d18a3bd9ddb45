package wire

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// Heartbeat is how often either side of a connection makes sure of the other; two unanswered end it.
const Heartbeat = 10 * time.Second

// Login proves to a NATS server that this side holds key, by signing the server's nonce.
//
// Whoever answers at a hub's address chooses that nonce, so what looks like anything but one is not signed: else a
// false hub could have a manifest signed and send it on. That it can pass a true hub's nonce on gains it a connection
// on which it can do nothing, for messages are signed one by one.
func Login(public string, key nkeys.KeyPair) nats.Option {
	return nats.Nkey(public, func(nonce []byte) ([]byte, error) {
		if !isNonce(nonce) {
			return nil, errors.New("what the hub wants signed is no nonce")
		}
		return key.Sign(nonce)
	})
}

// isNonce reports whether b is some base64 text, as NATS servers send it. No manifest is: each begins with words and
// a line's end.
func isNonce(b []byte) bool {
	if len(b) == 0 || len(b) > 64 {
		return false
	}
	for _, c := range b {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
		if !ok {
			return false
		}
	}
	return true
}

package fleet

import (
	"encoding/base64"
	"log/slog"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/varanhq/varan/agent/protocol/wire"
)

// question is what a server asks of somebody who signed nonce with key.
func question(t testing.TB, user string, key nkeys.KeyPair, nonce, signed string) []byte {
	t.Helper()
	server, err := nkeys.CreateServer()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.Sign([]byte(signed))
	if err != nil {
		t.Fatal(err)
	}
	q := jwt.NewAuthorizationRequestClaims("x")
	q.UserNkey, q.Server.ID, q.ClientInformation.Nonce, q.ClientInformation.Host = user, "NSERVER", nonce, "192.0.2.1"
	q.ConnectOptions.Nkey, q.ConnectOptions.SignedNonce = public, base64.RawURLEncoding.EncodeToString(sig)
	text, err := q.Encode(server)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}

// judging is a hub that knows one agent.
func judging(t testing.TB) (h *Hub, agent nkeys.KeyPair, public string) {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	if agent, err = nkeys.CreateUser(); err != nil {
		t.Fatal(err)
	}
	if public, err = agent.PublicKey(); err != nil {
		t.Fatal(err)
	}
	h = &Hub{log: slog.New(slog.DiscardHandler), contacts: &contacts{byKey: make(map[string]*contact)}, waiting: make(map[string]*Waiting),
		enrolled: map[string]string{public: "web1"}, servers: map[string]string{public: "web1"}}
	if h.logins, err = newLogins(key); err != nil {
		t.Fatal(err)
	}
	return h, agent, public
}

// TestJudge: whoever signed the server's nonce with an enrolled key is let in to its own subjects; nobody else is, and a
// daemon that knows no roll yet says nothing.
func TestJudge(t *testing.T) {
	h, agent, public := judging(t)
	stranger, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	_, user := newUser(t)
	answer := func(data []byte) *jwt.AuthorizationResponse {
		t.Helper()
		out := h.judge(data)
		if out == nil {
			return nil
		}
		a, err := jwt.DecodeAuthorizationResponseClaims(string(out))
		if err != nil {
			t.Fatal(err)
		}
		if issuer, _ := h.logins.issuer.PublicKey(); a.Issuer != issuer || a.Subject != user || a.Audience != "NSERVER" {
			t.Errorf("answer by %s for %s at %s", a.Issuer, a.Subject, a.Audience)
		}
		return &a.AuthorizationResponse
	}
	a := answer(question(t, user, agent, "nonce", "nonce"))
	if a == nil || a.Error != "" {
		t.Fatalf("an enrolled agent: %+v", a)
	}
	in, err := jwt.DecodeUserClaims(a.Jwt)
	if err != nil {
		t.Fatal(err)
	}
	if in.Audience != clusterAgentsAccount || len(in.Pub.Allow) != 1 || in.Pub.Allow[0] != wire.FromAgent(public) || len(in.Sub.Allow) != 2 || in.Resp == nil || in.Resp.MaxMsgs != 1 {
		t.Errorf("let in to %s, %+v", in.Audience, in.Permissions)
	}
	for what, data := range map[string][]byte{
		"a stranger": question(t, user, stranger, "nonce", "nonce"), "another nonce's signature": question(t, user, agent, "nonce", "other"), "no nonce": question(t, user, agent, "", ""),
		"the fleet's bus": question(t, user, h.logins.bus, "nonce", "nonce"),
	} {
		if a := answer(data); a == nil || a.Error == "" || a.Jwt != "" {
			t.Errorf("%s: %+v", what, a)
		}
	}
	probe := answer(question(t, user, h.logins.probe, "nonce", "nonce"))
	if probe == nil || probe.Error != "" {
		t.Fatalf("the probe: %+v", probe)
	}
	if in, err := jwt.DecodeUserClaims(probe.Jwt); err != nil || len(in.Pub.Deny) != 1 || in.Pub.Deny[0] != ">" || in.Sub.Deny[0] != ">" {
		t.Errorf("the probe may do something: %+v, %v", in, err)
	}
	if out := h.judge(question(t, "", agent, "nonce", "nonce")); out != nil {
		t.Errorf("a question for no user: %s", out)
	}
	h.enrolled = nil
	if a := answer(question(t, user, agent, "nonce", "nonce")); a != nil && a.Error != "" {
		t.Errorf("refused before anything is known: %+v", a)
	}
}

func newUser(t testing.TB) (nkeys.KeyPair, string) {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key, public
}

// FuzzCluster: nothing that can come from a cluster, as a question or as a roll, is more than refused.
func FuzzCluster(f *testing.F) {
	h, agent, _ := judging(f)
	_, user := newUser(f)
	f.Add(question(f, user, agent, "nonce", "nonce"))
	f.Add([]byte("eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.e30"))
	f.Add(make([]byte, 65))
	key, _ := newUser(f)
	h.opts.Key = key
	f.Fuzz(func(t *testing.T, data []byte) {
		h.judge(data)
		if _, err := h.openRoll(data); err == nil {
			t.Error("a roll that the fleet's key did not sign is taken")
		}
	})
}

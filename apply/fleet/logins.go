package fleet

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/nats-io/nkeys"
)

// Accounts of a cluster that daemons and agents meet at.
const (
	clusterAccount       = "VARAN"        // the daemons': JetStream, and the questions whom to let in
	clusterAgentsAccount = "VARAN_AGENTS" // where daemons and agents meet, without JetStream
)

// logins are the keys under which daemons are known to an existing cluster. They derive from the fleet's key, so that
// all daemons that share it share them, and it stays the one file to back up.
type logins struct {
	daemon nkeys.KeyPair // in clusterAccount
	bus    nkeys.KeyPair // in clusterAgentsAccount
	issuer nkeys.KeyPair // signs who is let in
	probe  nkeys.KeyPair // is let in to nothing: it shows whether daemons are asked
}

func newLogins(fleet nkeys.KeyPair) (l logins, err error) {
	seed, err := fleet.Seed() // the key's own bytes: not to be cleared
	if err != nil {
		return l, fmt.Errorf("read the fleet's key: %w", err)
	}
	_, raw, err := nkeys.DecodeSeed(seed)
	if err != nil {
		return l, fmt.Errorf("read the fleet's key: %w", err)
	}
	for _, k := range []struct {
		to     *nkeys.KeyPair
		what   string
		prefix nkeys.PrefixByte
	}{
		{&l.daemon, "daemon", nkeys.PrefixByteUser}, {&l.bus, "bus", nkeys.PrefixByteUser},
		{&l.issuer, "issuer", nkeys.PrefixByteAccount}, {&l.probe, "probe", nkeys.PrefixByteUser},
	} {
		sub, err := hkdf.Key(sha256.New, raw, nil, "varan cluster "+k.what+" 1", 32)
		if err != nil {
			return l, fmt.Errorf("derive the cluster's keys: %w", err)
		}
		if *k.to, err = nkeys.FromRawSeed(k.prefix, sub); err != nil {
			return l, fmt.Errorf("derive the cluster's keys: %w", err)
		}
	}
	return l, nil
}

// ClusterConfig is what a NATS cluster needs in its configuration for the fleet of that key. It holds no secret.
func ClusterConfig(fleet nkeys.KeyPair) (string, error) {
	l, err := newLogins(fleet)
	if err != nil {
		return "", err
	}
	public := make([]any, 0, 3)
	for _, k := range []nkeys.KeyPair{l.daemon, l.bus, l.issuer} {
		p, err := k.PublicKey()
		if err != nil {
			return "", fmt.Errorf("derive the cluster's keys: %w", err)
		}
		public = append(public, p)
	}
	return fmt.Sprintf(strings.TrimPrefix(`
# Goes into the configuration of every server of the cluster, the same in each.
accounts {
  VARAN {                       # varan's daemons: journal, lease, webhooks
    jetstream: enabled
    users: [ { nkey: %[1]s } ]
  }
  VARAN_AGENTS {                # where daemons and agents meet; no JetStream
    users: [ { nkey: %[2]s } ]
  }
}
authorization {
  timeout: 5                    # seconds, in which a daemon is asked
  auth_callout {                # who is an agent, varan's daemons say
    issuer: %[3]s
    account: VARAN
    auth_users: [ %[1]s, %[2]s ]
    allowed_accounts: [ VARAN_AGENTS ]
  }
}
`, "\n"), public...), nil
}

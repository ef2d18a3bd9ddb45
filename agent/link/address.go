package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// An Address is where a hub is reached.
type Address struct {
	host string   // HOST:PORT, over TLS
	web  *url.URL // or by WebSocket; nil = not
}

// webPath is where a daemon's HTTP surface takes agents in.
const webPath = "/agent"

// ParseAddress reads HOST:PORT or tls://HOST:PORT, or wss://HOST[:PORT][/PATH] for a hub behind a reverse proxy.
// ws:// is taken on loopback only.
func ParseAddress(s string) (Address, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "tls", s
	}
	switch scheme {
	case "tls", "nats":
		host, port, err := net.SplitHostPort(strings.TrimSuffix(rest, "/"))
		if err != nil || host == "" || port == "" {
			return Address{}, fmt.Errorf("hub address %q is not HOST:PORT", s)
		}
		return Address{host: net.JoinHostPort(host, port)}, nil
	case "wss", "https", "ws", "http":
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return Address{}, fmt.Errorf("hub address %q is not wss://HOST[:PORT][/PATH]", s)
		}
		u.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
		if a, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !a.IsLoopback()) {
			return Address{}, fmt.Errorf("hub address %q: without TLS only on loopback; wss:// is what a reverse proxy speaks", s)
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = webPath
		}
		return Address{web: u}, nil
	}
	return Address{}, fmt.Errorf("hub address %q: HOST:PORT, tls://HOST:PORT and wss://HOST are understood", s)
}

// ParseAddresses reads one address, or several with commas between: the servers of a NATS cluster.
func ParseAddresses(s string) ([]Address, error) {
	var out []Address
	for _, one := range strings.Split(s, ",") {
		a, err := ParseAddress(strings.TrimSpace(one))
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// String is the address as a person would write it.
func (a Address) String() string {
	if a.web != nil {
		return strings.Replace(a.web.String(), "http", "ws", 1)
	}
	return a.host
}

// dialTimeout bounds each try to connect.
const dialTimeout = 10 * time.Second

// anyCertificate is TLS that looks at no certificate: names and dates may change at will, for the fleet's key, by
// which each message is signed, is what an agent trusts. Who stands between sees sealed messages and can drop them.
func anyCertificate() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}
}

// A dialer is how NATS's client gets its connection, with the encryption done.
type dialer struct {
	ctx context.Context // the connection's: NATS's client has none to give
	to  Address
}

// SkipTLSHandshake tells NATS's client that it is done here, before a byte of its protocol.
func (d dialer) SkipTLSHandshake() bool { return true }

// Dial connects; what NATS's client makes of the address is not needed.
func (d dialer) Dial(string, string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, dialTimeout)
	defer cancel()
	if d.to.web == nil {
		t := tls.Dialer{NetDialer: &net.Dialer{KeepAlive: 15 * time.Second}, Config: anyCertificate()}
		return t.DialContext(ctx, "tcp", d.to.host)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: anyCertificate(), TLSHandshakeTimeout: dialTimeout}
	ws, resp, err := websocket.Dial(ctx, d.to.web.String(), &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport, CheckRedirect: noRedirect}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("%s answers %s: no WebSocket of a varan daemon", d.to, resp.Status)
		}
		return nil, err
	}
	return websocket.NetConn(d.ctx, ws, websocket.MessageBinary), nil
}

var errRedirect = errors.New("the hub's address leads elsewhere; use the one it leads to")

func noRedirect(*http.Request, []*http.Request) error { return errRedirect }

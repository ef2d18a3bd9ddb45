package dial

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

func TestAllowed(t *testing.T) {
	for ip, want := range map[string]bool{
		"169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "::ffff:169.254.169.254": false,
		"64:ff9b::169.254.169.254": false, "64:ff9b::127.0.0.1": false, "fd00:ec2::254": false, "224.0.0.1": false,
		"127.0.0.1": false, "::1": false, "0.0.0.0": false, "::": false,
		"10.1.2.3": true, "fd00::1": true, "93.184.216.34": true, "64:ff9b::93.184.216.34": true,
	} {
		if err := allowed(netip.MustParseAddr(ip).Unmap(), false); (err == nil) != want {
			t.Errorf("%s: %v", ip, err)
		}
	}
	if err := allowed(netip.MustParseAddr("169.254.169.254"), true); err == nil {
		t.Error("link-local is allowed with allow_internal")
	}
	if err := allowed(netip.MustParseAddr("127.0.0.1"), true); err != nil {
		t.Error(err)
	}
}

// TestDialer: a name is checked by what it resolves to.
func TestDialer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if _, err := Dialer(false).DialContext(t.Context(), "tcp", "localhost:"+port); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v", err)
	}
	c, err := Dialer(true).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

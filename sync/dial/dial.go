// Package dial opens the daemon's own connections: to Git hosts, forges and whatever else varan.toml or TOML names.
//
// In: an address. Out: a connection, or ErrRefused. It imports nothing of ours. Start at Dialer.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// ErrRefused marks a connection our own rules forbid.
var ErrRefused = errors.New("refused")

// Dialer refuses link-local addresses and, unless allowed, this machine. What a name resolves to is checked where
// the kernel is about to connect, so a second answer of the DNS cannot slip by.
func Dialer(allowInternal bool) *net.Dialer {
	return &net.Dialer{
		Timeout:   20 * time.Second,
		KeepAlive: 30 * time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: connect to %s: not an address", ErrRefused, address)
			}
			return allowed(ap.Addr().Unmap(), allowInternal)
		},
	}
}

// allowed refuses link-local (metadata services live there), multicast and, unless allowed, this machine.
func allowed(ip netip.Addr, allowInternal bool) error {
	if v4, ok := translated(ip); ok {
		return allowed(v4, allowInternal)
	}
	switch {
	case ip.IsLinkLocalUnicast(), ip.IsMulticast():
		return fmt.Errorf("%w: %s is link-local or multicast", ErrRefused, ip)
	case ip.WithZone("") == netip.MustParseAddr("fd00:ec2::254"):
		return fmt.Errorf("%w: %s is a metadata service", ErrRefused, ip)
	case (ip.IsLoopback() || ip.IsUnspecified()) && !allowInternal:
		return fmt.Errorf("%w: %s is this machine; set allow_internal = true in varan.toml to let the daemon go there", ErrRefused, ip)
	}
	return nil
}

// translated is the IPv4 address that a NAT64 gateway makes of an IPv6 one.
func translated(ip netip.Addr) (netip.Addr, bool) {
	b := ip.As16()
	if !ip.Is6() || !netip.MustParsePrefix("64:ff9b::/96").Contains(ip.WithZone("")) {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(b[12:])), true
}

package gitrepo

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

// dialer opens the daemon's own connections. What a name resolves to is checked where the kernel is about to
// connect, so a second answer of the DNS cannot slip by.
func dialer(allowInternal bool) *net.Dialer {
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
	switch {
	case ip.IsLinkLocalUnicast(), ip.IsMulticast():
		return fmt.Errorf("%w: %s is link-local or multicast", ErrRefused, ip)
	case (ip.IsLoopback() || ip.IsUnspecified()) && !allowInternal:
		return fmt.Errorf("%w: %s is this machine; set allow_internal = true in varan.toml to let the daemon go there", ErrRefused, ip)
	}
	return nil
}

//go:build !linux

package tailnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// dialKernel is not called: kernel mode needs Linux.
func dialKernel(context.Context, string, netip.Addr, netip.AddrPort) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

package tailnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// dialKernel connects through the engine's device, by the routes of the tailnet that the engine has set. The socket is
// bound to the device, so that a packet without such a route does not leave by another.
func dialKernel(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		failed := c.Control(func(fd uintptr) {
			// The deny list drops answers to the ports of the router's listeners, which are below. Before Linux 6.3 this
			// fails, and one port in 28,000 is such a port.
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, 65535<<16|49152)
			err = unix.BindToDevice(int(fd), tunName)
		})
		if failed != nil {
			return failed
		}
		if err != nil {
			return fmt.Errorf("binding to %s: %w", tunName, err)
		}
		return nil
	}}
	local := netip.AddrPortFrom(from, 0)
	d.LocalAddr = net.TCPAddrFromAddrPort(local)
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(local)
	}
	return d.DialContext(ctx, network, to.String())
}

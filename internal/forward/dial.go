package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dialTarget returns the address to dial for a target of the process, with the checks of a flow.
func (r *rules) dialTarget(p Protocol, target netip.AddrPort) (netip.AddrPort, error) {
	to := r.destination(p, target, target)
	to.front = netip.AddrPort{} // it serves flows alone
	if !to.served && r.deny(target) {
		return netip.AddrPort{}, errForbidden
	}
	return r.dialAddr(p, to)
}

// connection opens a connection to target, from a port of the system's choice, with the checks of a
// flow. The network is "tcp" or "udp"; a UDP connection only receives from target.
func (r *rules) connection(ctx context.Context, network string, target netip.AddrPort) (net.Conn, error) {
	protocol := UDP
	if network == TCP.String() {
		protocol = TCP
	}
	to, err := r.dialTarget(protocol, target)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", target, err)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, to.String())
}

// dial opens a TCP connection to target as a flow would, and closes it. It waits for the result
// in Go's poller: it is no flow, and the caller's goroutine waits anyway.
func (r *rules) dial(ctx context.Context, target netip.AddrPort) error {
	to, err := r.dialTarget(TCP, target)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", target, err)
	}
	fd, err := connect(unix.SOCK_STREAM, to)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", target, err)
	}
	socket := os.NewFile(uintptr(fd), "dial") // owns fd
	defer socket.Close()
	if deadline, ok := ctx.Deadline(); ok {
		socket.SetWriteDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { socket.SetWriteDeadline(time.Now()) })
	defer stop()
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", target, err)
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		failure = socketError(int(fd))
		return failure != nil || connected(int(fd))
	})
	switch {
	case failure != nil:
		err = failure
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = unix.ETIMEDOUT
	}
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", target, err)
	}
	return nil
}

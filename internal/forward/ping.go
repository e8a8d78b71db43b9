package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"subnetrouter/internal/packet"

	"golang.org/x/sys/unix"
)

// ErrNoPing is the error of a [Forwarder.Ping] that was not sent, because the system refuses the socket for it.
var ErrNoPing = errors.New("the system allows no ICMP socket")

// Ping sends an echo request to target with the checks of a flow, and returns nil once it is
// answered. It waits for the answer in Go's poller, like [Forwarder.Dial].
func (f *Forwarder) Ping(ctx context.Context, target netip.Addr) error {
	if err := f.rules.ping(ctx, target); err != nil {
		return fmt.Errorf("pinging %s: %w", target, err)
	}
	return nil
}

func (r *rules) ping(ctx context.Context, target netip.Addr) error {
	if r.deny(netip.AddrPortFrom(target, 0)) {
		return errForbidden
	}
	to, err := r.resolve(ICMP.String(), netip.AddrPortFrom(target, 0))
	if err != nil {
		return err
	}
	if r.denyDial(to) {
		return errForbidden
	}
	family := family4
	if to.Addr().Is6() {
		family = family6
	}
	const ident, seq = 1, 1 // the kernel sets the identifier of an unprivileged socket
	fd, raw, err := openEcho(family, ident)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoPing, err)
	}
	// An echo request has no port, but connect needs one that is not 0 on some systems.
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(to.Addr(), 1))); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	socket := os.NewFile(uintptr(fd), "ping") // owns fd
	defer socket.Close()
	if deadline, ok := ctx.Deadline(); ok {
		socket.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { socket.SetDeadline(time.Now()) })
	defer stop()
	message := make([]byte, packet.ICMPHeader+32)
	packet.PutEchoRequest(message, to.Addr().Is6(), ident, seq)
	if _, err := socket.Write(message); err != nil {
		return err
	}
	answer := make([]byte, 2048)
	for {
		n, err := socket.Read(answer)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return unix.ETIMEDOUT
		case err != nil:
			return err
		}
		if got, s, _, ok := packet.ParseEchoReply(answer[:n], to.Addr().Is6()); ok && s == seq && (!raw || got == ident) {
			return nil
		}
	}
}

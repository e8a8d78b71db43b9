//go:build darwin || freebsd

package forward

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// filterEchoes does nothing: these systems cannot filter a raw socket.
func filterEchoes(int, int, uint16) {}

// openSocket opens a non-blocking socket that child processes do not inherit.
func openSocket(family, kind, protocol int) (int, error) {
	fd, err := unix.Socket(family, kind, protocol)
	if err != nil {
		return -1, err
	}
	unix.CloseOnExec(fd)
	return fd, unix.SetNonblock(fd, true)
}

func keepAlive(fd int, _ time.Duration) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// keepUrgent and atMark do nothing: on these systems, urgent data of targets is plain data.
func keepUrgent(int) {}

func atMark(int) bool { return false }

// writePieces writes as much of the first piece as the socket takes.
func writePieces(fd int, pieces [][]byte) (n int, err error) { return unix.Write(fd, pieces[0]) }

// acknowledges knows nothing: these systems end the connection after a timeout of their own.
func acknowledges(int, time.Duration) (waiting, silent bool) { return false, false }

// These do nothing: the systems' own bounds are small.
func boundReceive(int, int) {}
func boundNotSent(int, int) {}
func unsent(int) int        { return 0 }

// receiveMany does nothing: receive returns one datagram a call.
func receiveMany(int) {}

func receive(fd int, buf []byte, target netip.AddrPort) (n, size int, foreign bool, err error) {
	n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	if err == nil && target.IsValid() {
		foreign = addrOf(from) != target.Addr()
	}
	return n, n, foreign, err
}

// maxRun is 1: these systems send one datagram a call.
const maxRun = 1

func sendRun(fd int, run [][]byte) error {
	for _, b := range run {
		if _, err := unix.Write(fd, b); err != nil {
			return err
		}
	}
	return nil
}

// These systems have no such socket option for the path MTU; reading it fails.
const pathMTU4, pathMTU6 = -1, -1

const ioctlReadable = 0x4004667f // FIONREAD: _IOR('f', 127, int)

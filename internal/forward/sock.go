package forward

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// connect opens a non-blocking socket to target. A TCP connection may still be in progress;
// [connected] and [socketError] report its result.
func connect(kind int, target netip.AddrPort) (fd int, err error) {
	fd, _, err = connectFrom(kind, anyPort, target)
	return fd, err
}

// connectBounded is connect for TCP with a receive buffer that [boundReceive] bounds from the start, so
// that the target sends no more before the first read. The window never exceeds 64 KiB then.
func connectBounded(target netip.AddrPort, bound int) (fd int, err error) {
	if fd, err = openSocket(familyDomain(target.Addr()), unix.SOCK_STREAM, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	boundReceive(fd, bound)
	if err := unix.Connect(fd, sockaddr(target)); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// sourcePort is the local port of a new socket.
type sourcePort struct {
	port   uint16 // 0 lets the system choose
	shared bool   // with sockets that have other targets and SO_REUSEADDR
}

var anyPort = sourcePort{}

// connectFrom is connect from a given source port; if the system refuses that port, it chooses
// another, and bound is false. The caller must not use a port twice for the same target, since
// only the targets distinguish sockets that share a port. A socket with a given port may have
// datagrams queued from other sources, which arrived before it was connected: [receive] reports
// them.
func connectFrom(kind int, from sourcePort, target netip.AddrPort) (fd int, bound bool, err error) {
	if fd, err = openSocket(familyDomain(target.Addr()), kind, 0); err != nil {
		return -1, false, os.NewSyscallError("socket", err)
	}
	if from != anyPort {
		bound = bindPort(fd, from, target.Addr().Is6())
	}
	if err := unix.Connect(fd, sockaddr(target)); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return -1, false, os.NewSyscallError("connect", err)
	}
	return fd, bound, nil
}

// bindPort binds fd to a source port, and reports whether it succeeded. The system refuses a
// port that another program uses, and one below 1024 to an unprivileged process.
func bindPort(fd int, from sourcePort, ipv6 bool) bool {
	local := netip.IPv4Unspecified()
	if ipv6 {
		local = netip.IPv6Unspecified()
		// Otherwise the port would be used for IPv4, too.
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if from.shared {
		sharePort(fd, true)
	}
	if unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, from.port))) == nil {
		return true
	}
	if from.shared { // the port that the system chooses must not be another flow's
		sharePort(fd, false)
	}
	return false
}

// sharePort sets whether fd shares its port with other sockets that allow it.
func sharePort(fd int, share bool) {
	value := 0
	if share {
		value = 1
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, value)
}

// familyDomain returns the socket domain for an address's family.
func familyDomain(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// sockaddr converts an address and port, which must be valid.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: as4(a.Addr())}
}

func as4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}

// socketError returns and clears the socket's pending error.
func socketError(fd int) error {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if errno != 0 {
		return os.NewSyscallError("connect", unix.Errno(errno))
	}
	return nil
}

// connected reports whether a TCP connection is established.
func connected(fd int) bool {
	_, err := unix.Getpeername(fd)
	return err == nil
}

// resetOnClose makes close send a reset instead of a FIN.
func resetOnClose(fd int) {
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// wouldBlock reports whether err means that the call can be repeated later.
func wouldBlock(err error) bool {
	return err == unix.EAGAIN || err == unix.EINTR || err == unix.ENOBUFS
}

// readableBytes returns the number of bytes that can be read from a TCP socket at once; 0 if
// unknown.
func readableBytes(fd int) int {
	n, err := unix.IoctlGetInt(fd, ioctlReadable)
	if err != nil {
		return 0
	}
	return n
}

// mtuOf returns the path MTU of a connected socket; 0 if unknown.
func mtuOf(fd int, dst netip.Addr) int {
	level, option := unix.IPPROTO_IP, pathMTU4
	if dst.Is6() {
		level, option = unix.IPPROTO_IPV6, pathMTU6
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return 0
	}
	return mtu
}

// addrOf returns the address of a socket address; invalid for other families.
func addrOf(a unix.Sockaddr) netip.Addr {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr)
	}
	return netip.Addr{}
}

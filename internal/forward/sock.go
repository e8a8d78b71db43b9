package forward

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// connect opens a non-blocking socket to target. For TCP the connection may
// still be under way; [connected] and [socketError] report its result.
func connect(kind int, target netip.AddrPort) (fd int, err error) {
	fd, _, err = connectFrom(kind, anyPort, target)
	return fd, err
}

// sourcePort is the port to connect from.
type sourcePort struct {
	port   uint16 // 0 is one of the system's choice
	shared bool   // with sockets that have other targets, and were told to share it
}

var anyPort = sourcePort{}

// connectFrom is connect from a given source port, if the system lets this process have
// it, and otherwise from one of the system's choice. The caller must not ask for a port
// twice for the same target, since only the target tells sockets that share a port apart.
// A socket with a given port may hold datagrams of strangers, which arrived before it was
// connected: [receive] can tell.
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

// bindPort gives fd a source port, and reports whether it could. The system refuses a port
// that another program has, and to an unprivileged process one below 1024.
func bindPort(fd int, from sourcePort, ipv6 bool) bool {
	local := netip.IPv4Unspecified()
	if ipv6 {
		local = netip.IPv6Unspecified()
		// Otherwise the port would be taken for IPv4 too.
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if from.shared {
		sharePort(fd, true)
	}
	if unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, from.port))) == nil {
		return true
	}
	if from.shared { // a port of the system's choice must not be another flow's
		sharePort(fd, false)
	}
	return false
}

// sharePort sets whether sockets that agree to it may have the port of fd as well.
func sharePort(fd int, share bool) {
	value := 0
	if share {
		value = 1
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, value)
}

func familyDomain(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

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

// socketError takes the error that is pending on the socket.
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

// connected reports whether a TCP connection under way has come about.
func connected(fd int) bool {
	_, err := unix.Getpeername(fd)
	return err == nil
}

// resetOnClose makes close send a reset instead of an end.
func resetOnClose(fd int) {
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// wouldBlock reports an error that only means: not now.
func wouldBlock(err error) bool {
	return err == unix.EAGAIN || err == unix.EINTR || err == unix.ENOBUFS
}

// waiting is how many bytes can be read from a TCP socket at once; 0 if that is not
// known.
func readableBytes(fd int) int {
	n, err := unix.IoctlGetInt(fd, ioctlReadable)
	if err != nil {
		return 0
	}
	return n
}

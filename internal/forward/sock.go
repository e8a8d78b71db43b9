package forward

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// connect opens a non-blocking socket to target. For TCP the connection may
// still be under way; [connectResult] tells once the socket is writable.
func connect(kind int, target netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET
	var to unix.Sockaddr = &unix.SockaddrInet4{Port: int(target.Port()), Addr: as4(target.Addr())}
	if target.Addr().Is6() {
		family = unix.AF_INET6
		to = &unix.SockaddrInet6{Port: int(target.Port()), Addr: target.Addr().As16()}
	}
	if fd, err = openSocket(family, kind); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
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
func waiting(fd int) int {
	n, err := unix.IoctlGetInt(fd, ioctlReadable)
	if err != nil {
		return 0
	}
	return n
}

package forward

import (
	"encoding/binary"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func openSocket(family, kind int) (int, error) {
	return unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// keepAlive finds a target that went away without a word.
func keepAlive(fd int, idle time.Duration) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, max(1, int(idle.Seconds())))
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval.Seconds()))
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout(idle).Milliseconds()))
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// receiveMany asks the kernel to hand over runs of datagrams at once (GRO).
func receiveMany(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) }

// receive reads one datagram, or a run of them of size bytes each (the last may
// be shorter). It is recvmsg without a name: x/sys's own allocates one.
func receive(fd int, buf []byte) (n, size int, err error) {
	var control [64]byte
	vec := unix.Iovec{Base: &buf[0]}
	vec.SetLen(len(buf))
	msg := unix.Msghdr{Iov: &vec, Control: &control[0]}
	msg.SetIovlen(1)
	msg.SetControllen(len(control))
	r, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT)
	if errno != 0 {
		return 0, 0, errno
	}
	n = int(r)
	size = n
	// The one message that is asked for: the size of a segment.
	if h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0])); msg.Controllen >= unix.SizeofCmsghdr &&
		h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO {
		if s := int(binary.NativeEndian.Uint32(control[unix.CmsgLen(0):])); s > 0 {
			size = s
		}
	}
	return n, size, nil
}

// maxRun is how many datagrams one send may hold (UDP_MAX_SEGMENTS).
const maxRun = 64

// sendRun sends datagrams of one size (the last may be shorter) with one call.
func sendRun(fd int, run [][]byte) error {
	if len(run) == 1 {
		_, err := unix.SendmsgN(fd, run[0], nil, nil, unix.MSG_DONTWAIT)
		return err
	}
	var control [24]byte // CMSG_SPACE(2) on 64 bit
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], uint16(len(run[0])))
	_, err := unix.SendmsgBuffers(fd, run, control[:unix.CmsgSpace(2)], nil, unix.MSG_DONTWAIT)
	return err
}

// Socket options that give the path's MTU.
const pathMTU4, pathMTU6 = unix.IP_MTU, unix.IPV6_MTU

const ioctlReadable = unix.TIOCINQ // FIONREAD by another name

package forward

import (
	"encoding/binary"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// openSocket opens a non-blocking socket that child processes do not inherit.
func openSocket(family, kind, protocol int) (int, error) {
	return unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
}

// filterEchoes makes a raw socket receive only replies to ident: each raw socket otherwise gets
// a copy of every ICMP message of the host.
func filterEchoes(fd, family int, ident uint16) {
	const reply4, reply6, keep = 0, 129, 1 << 18
	program := []bpf.Instruction{
		bpf.LoadMemShift{Off: 0}, // X is the length of the IP header
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: reply4, SkipTrue: 3},
		bpf.LoadIndirect{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(ident), SkipTrue: 1},
		bpf.RetConstant{Val: keep},
		bpf.RetConstant{Val: 0},
	}
	if family == family6 { // without an IP header
		program[0], program[1] = bpf.LoadConstant{Dst: bpf.RegX, Val: 0}, bpf.LoadIndirect{Off: 0, Size: 1}
		program[2] = bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: reply6, SkipTrue: 3}
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return // the reader checks every message anyway
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// keepAlive makes the kernel detect a target that disappeared.
func keepAlive(fd int, idle time.Duration) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, max(1, int(idle.Seconds())))
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval.Seconds()))
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// keepUrgent makes urgent data of a TCP socket stay in the stream; [atMark] finds it.
func keepUrgent(fd int) { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }

// atMark reports whether the next byte of a socket is urgent. A read ends before that byte.
func atMark(fd int) bool {
	at, err := unix.IoctlGetInt(fd, unix.SIOCATMARK)
	return err == nil && at != 0
}

// writePieces writes as much of pieces as the socket takes with one call.
func writePieces(fd int, pieces [][]byte) (n int, err error) { return unix.Writev(fd, pieces) }

// lostProbes is the number of unanswered window probes in a row that mean silence. The kernel
// sends them at up to 120 s from one another, so that one may just be on its way.
const lostProbes = 2

// acknowledges reports whether the target has yet to acknowledge data, and whether it has
// acknowledged nothing for at least limit, not even a window probe.
func acknowledges(fd int, limit time.Duration) (waiting, silent bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return false, false
	}
	waiting = info.Unacked > 0 || info.Notsent_bytes > 0
	silent = waiting && time.Duration(info.Last_ack_recv)*time.Millisecond >= limit && (info.Unacked > 0 || info.Probes >= lostProbes)
	return waiting, silent
}

// boundReceive bounds the bytes that the kernel holds for the reader of a TCP socket, at some twice n. It
// ends the kernel's own tuning of that buffer for good. What it holds already stays.
//
// TCP_WINDOW_CLAMP would not do: it bounds each window, and the kernel offers the next while the buffer
// has room.
func boundReceive(fd, n int) { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, n) }

// boundNotSent bounds the bytes that the kernel takes for the peer of a TCP socket before it has sent
// them.
func boundNotSent(fd, n int) { unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, n) }

// unsent returns the bytes that the kernel holds for a TCP socket's peer.
func unsent(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

// receiveMany makes the kernel return runs of datagrams (GRO).
func receiveMany(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) }

// receive reads one datagram, or a run of them of size bytes each (the last may be shorter).
// With a valid target, foreign reports whether the datagram came from another address. It calls
// recvmsg itself because x/sys's wrapper allocates the source address.
func receive(fd int, buf []byte, target netip.AddrPort) (n, size int, foreign bool, err error) {
	var control [64]byte
	var name unix.RawSockaddrInet6 // large enough for both families
	vec := unix.Iovec{Base: &buf[0]}
	vec.SetLen(len(buf))
	msg := unix.Msghdr{Iov: &vec, Control: &control[0]}
	if target.IsValid() {
		msg.Name, msg.Namelen = (*byte)(unsafe.Pointer(&name)), unix.SizeofSockaddrInet6
	}
	msg.SetIovlen(1)
	msg.SetControllen(len(control))
	r, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT)
	if errno != 0 {
		return 0, 0, false, errno
	}
	n = int(r)
	size = n
	// Only one control message was asked for: the size of a segment.
	if h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0])); msg.Controllen >= unix.SizeofCmsghdr &&
		h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO {
		if s := int(binary.NativeEndian.Uint32(control[unix.CmsgLen(0):])); s > 0 {
			size = s
		}
	}
	return n, size, target.IsValid() && !sameAddr(&name, target), nil
}

// sameAddr reports whether a socket address written by the kernel is a.
func sameAddr(raw *unix.RawSockaddrInet6, a netip.AddrPort) bool {
	from := netip.AddrFrom16(raw.Addr)
	if raw.Family == unix.AF_INET {
		from = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(raw)).Addr)
	}
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:])
	return port == a.Port() && from == a.Addr().WithZone("")
}

// maxRun is the number of datagrams that one send may hold (UDP_MAX_SEGMENTS).
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

// Socket options that return the path MTU.
const pathMTU4, pathMTU6 = unix.IP_MTU, unix.IPV6_MTU

const ioctlReadable = unix.TIOCINQ // FIONREAD's other name

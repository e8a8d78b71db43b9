package forward

import (
	"fmt"
	"net/netip"
	"sync"

	"subnetrouter/internal/packet"

	"golang.org/x/sys/unix"
)

// echoSendBuffer is the requested send buffer: twice the usual one, so that a sweep of a
// /24 with ping's default size fits. The kernel grants at most net.core.wmem_max.
const echoSendBuffer = 416 << 10

// echoSocket is an ICMP socket for echo requests, an unprivileged one where the system allows it.
type echoSocket struct {
	task // its step is receive
	core *core
	// ipv6, raw and ident do not change. ident is the identifier of a raw socket's requests;
	// the kernel sets the others'.
	ipv6, raw bool
	ident     uint16
	// reply handles an echo reply. It may wait, and may not keep data.
	reply func(seq uint16, from netip.Addr, data []byte)

	// mu guards fd. It is locked while fd is in use: once fd is closed, the kernel may reuse
	// its number. No call is made under it that waits.
	mu sync.Mutex
	fd int // -1 once closed
}

// openEchoSocket returns a new socket for an address family; a worker reads its replies.
func openEchoSocket(c *core, family int, ident uint16, reply func(uint16, netip.Addr, []byte)) (*echoSocket, error) {
	s := &echoSocket{core: c, ipv6: family == family6, ident: ident, reply: reply}
	s.step = s.receive
	var err error
	if s.fd, s.raw, err = openEcho(family, ident); err != nil {
		return nil, err
	}
	unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, echoSendBuffer)
	s.begin() // events wait until the socket is returned
	if err := c.poll.watch(s.fd, onlyReadable, &s.task); err != nil {
		unix.Close(s.fd)
		return nil, err
	}
	c.sched.done(&s.task)
	return s, nil
}

// openEcho opens a non-blocking ICMP socket. A raw one receives only replies to ident,
// where the system can filter.
func openEcho(family int, ident uint16) (fd int, raw bool, err error) {
	domain, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if family == family6 {
		domain, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	if fd, err = openSocket(domain, unix.SOCK_DGRAM, protocol); err == nil {
		return fd, false, nil
	}
	if fd, err = openSocket(domain, unix.SOCK_RAW, protocol); err != nil {
		return -1, false, fmt.Errorf("opening ICMP socket: %w", err)
	}
	filterEchoes(fd, family, ident)
	return fd, true, nil
}

// CanPing reports, by nil errors, whether this process may open the sockets for ping.
func CanPing() (v4, v6 error) {
	try := func(family int) error {
		fd, _, err := openEcho(family, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	return try(family4), try(family6)
}

// send sends an echo request. It never waits: a request that the socket does not take at once is
// lost.
func (s *echoSocket) send(target netip.Addr, seq uint16, data []byte) error {
	buf := s.core.buffers.get()
	defer s.core.buffers.put(buf)
	message := append((*buf)[:packet.ICMPHeader], data...)
	packet.PutEchoRequest(message, s.ipv6, s.ident, seq)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return ErrClosed
	}
	return unix.Sendto(s.fd, message, unix.MSG_DONTWAIT, sockaddr(netip.AddrPortFrom(target, 0)))
}

// receive passes replies on until the socket is empty.
func (s *echoSocket) receive() {
	buf := s.core.buffers.get()
	defer s.core.buffers.put(buf)
	for range receiveBudget {
		s.mu.Lock()
		if s.fd < 0 {
			s.mu.Unlock()
			return
		}
		n, from, err := unix.Recvfrom(s.fd, *buf, unix.MSG_DONTWAIT)
		s.mu.Unlock()
		if err != nil {
			if wouldBlock(err) {
				return
			}
			continue // an earlier request's error
		}
		ident, seq, data, ok := packet.ParseEchoReply((*buf)[:n], s.ipv6)
		if !ok || s.raw && ident != s.ident { // a reply to another process
			continue
		}
		s.reply(seq, addrOf(from), data)
	}
	s.core.sched.ready(&s.task) // there may be more: queue behind the other tasks
}

// close closes the socket. Closing it again has no effect.
func (s *echoSocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	s.core.poll.forget(s.fd)
	unix.Close(s.fd)
	s.fd = -1
}

package forward

import (
	"container/list"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"subnetrouter/internal/packet"

	"golang.org/x/sys/unix"
)

// echoWait bounds the wait for an echo reply; ping's own timeout is shorter.
const echoWait = 10 * time.Second

// Limits of pending echo requests. A peer that has reached its share, for example by pinging
// a network of silent hosts, evicts its own oldest request.
const (
	maxEchoes        = 4096
	maxEchoesPerPeer = 512
)

// A pinging peer gets its own socket for each address family: requests to hosts that do not
// answer ARP occupy the socket's send buffer for 3 s, and must not block another peer's.
// The descriptors that are not for flows ([ReservedFiles]) include maxEchoSockets of them;
// further peers share one. A socket is kept for echoSocketIdleTimeout after its peer's last
// request.
const (
	maxEchoSockets        = 64
	echoSocketIdleTimeout = 10 * time.Second
)

// echoSendBuffer is the requested send buffer: twice the usual one, so that a sweep of a
// /24 with ping's default size fits. The kernel grants at most net.core.wmem_max.
const echoSendBuffer = 416 << 10

// deliverICMP forwards an echo request. Other messages are dropped: ICMP errors concern
// flows that the router itself terminates.
func (f *Forwarder) deliverICMP(p *packet.Packet) {
	if !p.IsEchoRequest() {
		f.drops.add(dropUnsupported, 1)
		return
	}
	if !p.ICMPChecksumOK() {
		f.drops.add(dropChecksum, 1)
		return
	}
	if verdict := f.check(p.Protocol, flowKey{netip.AddrPortFrom(p.Src, 0), netip.AddrPortFrom(p.Dst, 0)}); verdict != allowed {
		f.failed("icmp", f.routes.lookup(p.Dst), forbidden)
		f.drops.add(dropFlowFailed, 1)
		if verdict == denied {
			f.refuse(p, packet.AdminProhibited)
		}
		return
	}
	e := &pendingEcho{
		client: p.Src, dst: p.Dst, target: targetOf(p.Dst), route: f.routes.lookup(p.Dst),
		idSeq: [4]byte(p.Data[4:8]), at: time.Now(),
	}
	data := p.Data[packet.ICMPHeader:]
	err := f.pinger.send(e, data)
	switch {
	case err == nil:
		f.metrics.opened["icmp"].Inc()
		f.metrics.toVPC["icmp"].Add(float64(len(data)))
		e.route.toVPC.Add(float64(len(data)))
	case errors.Is(err, ErrClosed):
		f.drops.add(dropClosed, 1)
	case wouldBlock(err):
		f.drops.add(dropSocketBuffer, 1)
	default:
		reason := dialFailure(err)
		f.failed("icmp", e.route, reason)
		f.drops.add(dropFlowFailed, 1)
		f.debug("forwarding echo request failed", "target", e.target, "reason", reason, "err", err)
		if reason == unreachable {
			f.refuse(p, packet.HostUnreachable)
		}
	}
}

// pinger sends echo requests with its own sequence numbers, and passes each reply on to the
// client that sent the request.
type pinger struct {
	f       *Forwarder
	openErr error // of the shared socket for IPv4; nil if there is one

	mu      sync.Mutex
	shared  [2]*echoSocket // by family; nil where the system refuses
	peers   map[netip.Addr]*echoPeer
	pending int // of all peers
	sockets int // of all peers, including those being opened
	ident   uint16
	closed  bool
}

// echoPeer is a node of the tailnet that has pending requests or sockets. Its fields are
// guarded by pinger.mu.
type echoPeer struct {
	addrs   []netip.Addr // its keys in pinger.peers
	pending list.List    // of *pendingEcho, oldest first
	own     [2]*echoSocket
	used    time.Time
	users   int // goroutines that are about to add to pending
}

// pendingEcho is a request without a reply yet.
type pendingEcho struct {
	client, dst netip.Addr // dst may be a 4via6 address; target is the IPv4 address in it
	target      netip.Addr
	idSeq       [4]byte // the client's identifier and sequence number
	route       *route
	at          time.Time

	// Guarded by pinger.mu.
	peer    *echoPeer
	element *list.Element // in peer.pending; nil once removed
	socket  *echoSocket
	seq     uint16
}

// echoSocket is an ICMP socket, an unprivileged one where the system allows it.
type echoSocket struct {
	task
	pinger *pinger
	family int
	raw    bool
	ident  uint16 // for a raw socket; the kernel sets the others'

	mu sync.Mutex // locked while fd is in use: once closed, its number may be reused
	fd int        // -1 once closed

	// Guarded by pinger.mu.
	next    uint16
	pending map[uint16]*pendingEcho
}

// Address families, as indexes.
const (
	family4 = 0
	family6 = 1
)

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return family4
	}
	return family6
}

func newPinger(f *Forwarder) *pinger {
	p := &pinger{f: f, peers: map[netip.Addr]*echoPeer{}, ident: uint16(rand.Uint32())}
	var err4, err6 error
	p.shared[family4], err4 = p.open(family4)
	p.shared[family6], err6 = p.open(family6)
	if err4 != nil {
		f.log.Warn("cannot forward ping: no ICMP socket", "err", err4,
			"fix", "grant CAP_NET_RAW, or include the process's group in net.ipv4.ping_group_range")
		p.openErr = err4
	} else if err6 != nil {
		f.debug("cannot forward ping over IPv6: no ICMPv6 socket", "err", err6)
	}
	return p
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

// open returns a new socket; a worker reads its replies.
func (p *pinger) open(family int) (*echoSocket, error) {
	p.mu.Lock()
	p.ident++
	s := &echoSocket{pinger: p, family: family, ident: p.ident, next: uint16(rand.Uint32()), pending: map[uint16]*pendingEcho{}}
	p.mu.Unlock()
	s.step = s.receive
	var err error
	if s.fd, s.raw, err = openEcho(family, s.ident); err != nil {
		return nil, err
	}
	unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, echoSendBuffer)
	if err := p.f.poll.watch(s.fd, readable, &s.task); err != nil {
		unix.Close(s.fd)
		return nil, err
	}
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

// send sends the request e. It never waits: a request that the socket does not take at once
// is lost.
func (p *pinger) send(e *pendingEcho, data []byte) error {
	s, err := p.addPending(e)
	if err != nil {
		return err
	}
	buf := p.f.buffers.Get().(*[]byte)
	defer p.f.buffers.Put(buf)
	message := append((*buf)[:packet.ICMPHeader], data...)
	packet.PutEchoRequest(message, s.family == family6, s.ident, e.seq)
	if err = s.send(message, e.target); err != nil {
		p.mu.Lock()
		p.remove(e)
		p.mu.Unlock()
	}
	return err
}

func (s *echoSocket) send(message []byte, target netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return ErrClosed
	}
	return unix.Sendto(s.fd, message, unix.MSG_DONTWAIT, sockaddr(netip.AddrPortFrom(target, 0)))
}

// addPending makes e pending, evicting an older request if a limit is reached, and returns
// the socket to send it from.
func (p *pinger) addPending(e *pendingEcho) (*echoSocket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	family := familyOf(e.target)
	if p.closed {
		return nil, ErrClosed
	}
	if p.shared[family] == nil {
		if p.openErr != nil {
			return nil, p.openErr
		}
		return nil, fmt.Errorf("no ICMP socket for %v", e.target)
	}
	peer := p.peers[e.client]
	if peer == nil {
		peer = p.addPeer(e.client)
	}
	peer.users++
	if peer.own[family] == nil && p.sockets < maxEchoSockets {
		p.openOwn(peer, family)
	}
	peer.users--
	s := peer.own[family]
	if s == nil {
		s = p.shared[family]
	}
	for s.next++; s.pending[s.next] != nil; s.next++ {
		// maxEchoes is less than the number of sequence numbers.
	}
	e.peer, e.socket, e.seq = peer, s, s.next
	e.element = peer.pending.PushBack(e)
	s.pending[e.seq] = e
	peer.used = e.at
	p.pending++
	if peer.pending.Len() > maxEchoesPerPeer {
		p.evict(peer)
	} else if p.pending > maxEchoes {
		p.evict(p.largest())
	}
	return s, nil
}

// addPeer returns the peer of an address that has none yet. It releases mu while it looks up
// the address's node.
func (p *pinger) addPeer(client netip.Addr) *echoPeer {
	p.mu.Unlock()
	node := p.f.cfg.Peer(client)
	p.mu.Lock()
	peer := p.peers[client] // another goroutine may have added it meanwhile
	if peer == nil {
		peer = p.peers[node]
	}
	if peer == nil {
		peer = &echoPeer{}
	}
	for _, addr := range []netip.Addr{client, node} {
		if p.peers[addr] == nil {
			p.peers[addr] = peer
			peer.addrs = append(peer.addrs, addr)
		}
	}
	return peer
}

// openOwn opens a socket for a peer, or leaves it with the shared one on failure. It releases
// mu meanwhile.
func (p *pinger) openOwn(peer *echoPeer, family int) {
	p.sockets++
	p.mu.Unlock()
	s, err := p.open(family)
	p.mu.Lock()
	switch {
	case err != nil:
		p.sockets--
	case p.closed || peer.own[family] != nil:
		p.sockets--
		s.close()
	default:
		peer.own[family] = s
	}
}

// largest returns the peer with the most pending requests; of several, the one with the oldest
// request. At least one request must be pending.
func (p *pinger) largest() (largest *echoPeer) {
	oldest := func(peer *echoPeer) time.Time { return peer.pending.Front().Value.(*pendingEcho).at }
	for _, peer := range p.peers {
		n := peer.pending.Len()
		if n > 0 && (largest == nil || n > largest.pending.Len() || n == largest.pending.Len() && oldest(peer).Before(oldest(largest))) {
			largest = peer
		}
	}
	return largest
}

func (p *pinger) evict(peer *echoPeer) {
	p.f.drops.add(dropEchoEvicted, 1)
	p.remove(peer.pending.Front().Value.(*pendingEcho))
}

// remove removes e from the pending requests, and reports whether it was one. It also removes a
// peer that has neither requests nor sockets left.
func (p *pinger) remove(e *pendingEcho) (removed bool) {
	if e.element == nil {
		return false
	}
	e.peer.pending.Remove(e.element)
	e.element = nil
	delete(e.socket.pending, e.seq)
	p.pending--
	if e.peer.own == [2]*echoSocket{} {
		p.removeIfUnused(e.peer)
	}
	return true
}

func (p *pinger) removeIfUnused(peer *echoPeer) {
	if peer.pending.Len() > 0 || peer.users > 0 {
		return
	}
	for _, addr := range peer.addrs {
		delete(p.peers, addr)
	}
}

// sweep removes the requests that timed out, and closes the sockets of peers that stopped
// pinging.
func (p *pinger) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, peer := range p.peers {
		for first := peer.pending.Front(); first != nil; first = peer.pending.Front() {
			e := first.Value.(*pendingEcho)
			if now.Sub(e.at) <= echoWait {
				break
			}
			p.remove(e)
		}
		if peer.pending.Len() == 0 && peer.users == 0 && now.Sub(peer.used) > echoSocketIdleTimeout {
			p.closeOwn(peer)
			p.removeIfUnused(peer)
		}
	}
}

func (p *pinger) closeOwn(peer *echoPeer) {
	for family, s := range peer.own {
		if s != nil {
			s.close()
			p.sockets--
			peer.own[family] = nil
		}
	}
}

// close closes every socket. Later requests are counted as dropped.
func (p *pinger) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, peer := range p.peers {
		p.closeOwn(peer)
	}
	for _, s := range p.shared {
		if s != nil {
			s.close()
		}
	}
}

func (s *echoSocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	s.pinger.f.poll.forget(s.fd)
	unix.Close(s.fd)
	s.fd = -1
}

// receive passes replies on until the socket is empty. It is the task's step.
func (s *echoSocket) receive() {
	f := s.pinger.f
	buf := f.buffers.Get().(*[]byte)
	defer f.buffers.Put(buf)
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
		s.answer((*buf)[:n], addrOf(from))
	}
	f.sched.ready(&s.task) // there may be more: queue behind the other tasks
}

// answer passes an echo reply on to the client that sent its request.
func (s *echoSocket) answer(message []byte, from netip.Addr) {
	ident, seq, data, ok := packet.ParseEchoReply(message, s.family == family6)
	if !ok || s.raw && ident != s.ident { // a reply to another process
		return
	}
	p := s.pinger
	p.mu.Lock()
	e := s.pending[seq]
	ok = e != nil && e.target == from && p.remove(e)
	p.mu.Unlock()
	if !ok {
		p.f.drops.add(dropUnmatched, 1)
		return
	}
	p.f.metrics.toTailnet["icmp"].Add(float64(len(data)))
	e.route.toTailnet.Add(float64(len(data)))
	p.f.sendEchoReply(e.client, e.dst, e.idSeq, data)
}

func addrOf(a unix.Sockaddr) netip.Addr {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr)
	}
	return netip.Addr{}
}

package forward

import (
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// echoWait is how long an answer is waited for; ping's own patience is shorter.
const echoWait = 10 * time.Second

// Limits of the echo requests that wait for an answer. A peer that has its share, as
// one does that pings a network of silent hosts, evicts its own oldest request.
const (
	maxEchoes        = 4096
	maxEchoesPerPeer = 512
)

// A peer that pings has a socket of its own for each address family, since requests to
// neighbours that do not answer ARP occupy the socket's send buffer for 3 s: they must
// not stop another peer's. maxEchoSockets of them fit the files that are reserved for
// other than flows; peers beyond that share one. echoSocketIdle is how long a socket
// is kept for its peer's next request.
const (
	maxEchoSockets        = 64
	echoSocketIdleTimeout = 10 * time.Second
)

// echoSendBuffer is the send buffer to ask for: twice the usual one, so that a sweep of
// a /24 with ping's default size fits. The kernel grants what net.core.wmem_max allows.
const echoSendBuffer = 416 << 10

const icmpHeader = 8

// deliverICMP forwards an echo request. Of other messages there is nothing to
// forward: errors are of flows that the router itself terminates.
func (f *Forwarder) deliverICMP(p *inbound) {
	if !p.isEchoRequest() {
		f.drops.add(dropUnsupported, 1)
		return
	}
	sum := uint64(0)
	if p.protocol == protoICMPv6 {
		sum = pseudoSum(p.src, p.dst, protoICMPv6, len(p.payload))
	}
	if checksum(p.payload, sum) != 0 {
		f.drops.add(dropChecksum, 1)
		return
	}
	if verdict := f.check(p.protocol, flowKey{netip.AddrPortFrom(p.src, 0), netip.AddrPortFrom(p.dst, 0)}); verdict != allowed {
		f.failed("icmp", f.routes.lookup(p.dst), forbidden)
		f.drops.add(dropFlowFailed, 1)
		if verdict == denied {
			f.refuse(p, adminProhibited)
		}
		return
	}
	e := &pendingEcho{
		client: p.src, dst: p.dst, target: targetOf(p.dst), route: f.routes.lookup(p.dst),
		idSeq: [4]byte(p.payload[4:8]), at: time.Now(),
	}
	data := p.payload[icmpHeader:]
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
			f.refuse(p, hostUnreachable)
		}
	}
}

// pinger sends echo requests under sequence numbers of its own, and passes each
// answer on to the client that asked.
type pinger struct {
	f       *Forwarder
	openErr error // why there is no socket for IPv4; nil if there is

	mu      sync.Mutex
	shared  [2]*echoSocket // by family; nil where the system gives none
	peers   map[netip.Addr]*echoPeer
	pending int // of all peers
	sockets int // of all peers, or being opened
	ident   uint16
	closed  bool
}

// echoPeer is a node of the tailnet while it has pending requests or sockets. Its
// fields are guarded by pinger.mu.
type echoPeer struct {
	addrs   []netip.Addr // under which it is found
	pending list.List    // of *pendingEcho, oldest first
	own     [2]*echoSocket
	used    time.Time
	users   int // goroutines that are about to add to pending
}

// pendingEcho is a request that waits for its answer.
type pendingEcho struct {
	client, dst netip.Addr // dst with 4via6 not undone, target with it undone
	target      netip.Addr
	idSeq       [4]byte // the client's identifier and sequence number
	route       *route
	at          time.Time

	// Guarded by pinger.mu.
	peer    *echoPeer
	element *list.Element // in peer.pending; nil once it is out
	socket  *echoSocket
	seq     uint16
}

// echoSocket is an ICMP socket, unprivileged where the system allows.
type echoSocket struct {
	task
	pinger *pinger
	family int
	raw    bool
	ident  uint16 // of a raw socket; the kernel sets that of others

	mu sync.Mutex // held while fd is in use: closed, its number may be another's
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
		f.log.Warn("ping through the router will not work: no ICMP socket", "err", err4,
			"fix", "grant CAP_NET_RAW, or let net.ipv4.ping_group_range hold the process's group")
		p.openErr = err4
	} else if err6 != nil {
		f.debug("ping over IPv6 will not work: no ICMPv6 socket", "err", err6)
	}
	return p
}

// CanPing reports whether this process gets the sockets for ping; a nil error is yes.
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

// open makes a socket whose answers a worker reads.
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

// openEcho opens a non-blocking ICMP socket. A raw one gets answers to ident alone,
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

// send sends the request of e, and never waits: what the socket does not take at once
// is lost.
func (p *pinger) send(e *pendingEcho, data []byte) error {
	s, err := p.addPending(e)
	if err != nil {
		return err
	}
	buf := p.f.buffers.Get().(*[]byte)
	defer p.f.buffers.Put(buf)
	message := append((*buf)[:icmpHeader], data...)
	const request4, request6 = 8, 128
	message[0], message[1] = request4, 0
	if s.family == family6 {
		message[0] = request6 // the kernel fills in this checksum
	}
	binary.BigEndian.PutUint16(message[2:], 0)
	binary.BigEndian.PutUint16(message[4:], s.ident)
	binary.BigEndian.PutUint16(message[6:], e.seq)
	if s.family == family4 {
		binary.BigEndian.PutUint16(message[2:], checksum(message, 0))
	}
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

// expect makes e pending, in the place of an older request where there is no room.
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
		// maxEchoes is less than there are sequence numbers.
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

// meet returns the peer of an address that is not known yet. It does not hold mu while
// it asks whose address that is.
func (p *pinger) addPeer(client netip.Addr) *echoPeer {
	p.mu.Unlock()
	node := p.f.cfg.Peer(client)
	p.mu.Lock()
	peer := p.peers[client] // another goroutine may have met it meanwhile
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

// openOwn gives a peer a socket of its own, or leaves it with the shared one. It does
// not hold mu while it opens it.
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

// largest returns the peer with the most pending requests, or of these the one with the
// oldest. There is one.
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

// remove ends the wait of e, if it has not ended yet. A peer without any is forgotten,
// unless it has sockets.
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

// sweep ends the waits that took too long, and closes the sockets of peers that have
// stopped pinging.
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

// close closes every socket. Requests are counted as dropped from now on.
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

// receive passes answers on until there is none. It is the task's step.
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
			continue // the error of some request
		}
		s.answer((*buf)[:n], addrOf(from))
	}
	f.sched.ready(&s.task) // more may be there: behind the others
}

// answer passes an answer on to the client whose request it belongs to.
func (s *echoSocket) answer(message []byte, from netip.Addr) {
	const reply4, reply6 = 0, 129
	reply := byte(reply6)
	if s.family == family4 {
		reply = reply4
		// Raw sockets receive the IP header too, which no echo reply looks like.
		if len(message) >= ipv4Header && message[0]>>4 == 4 {
			message = message[min(len(message), int(message[0]&15)*4):]
		}
	}
	// Type, code, checksum, identifier, sequence number, data.
	if len(message) < icmpHeader || message[0] != reply {
		return
	}
	if s.raw && binary.BigEndian.Uint16(message[4:]) != s.ident {
		return // another process's
	}
	p := s.pinger
	p.mu.Lock()
	e := s.pending[binary.BigEndian.Uint16(message[6:])]
	ok := e != nil && e.target == from && p.remove(e)
	p.mu.Unlock()
	if !ok {
		p.f.drops.add(dropUnmatched, 1)
		return
	}
	data := message[icmpHeader:]
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

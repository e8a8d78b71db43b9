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

// pinger is the flow table of ICMP. It sends echo requests with its own sequence numbers, and
// passes each reply on to the client that sent the request. A request is no open flow: it is
// answered or forgotten within echoWait, and no drain waits for it.
type pinger struct {
	*core
	node    func(client netip.Addr) netip.Addr // [Config.Peer], called without the lock
	openErr error                              // of the shared socket for IPv4; nil if there is one

	// mu guards everything below, and the fields whose comments name it. It is not held while a socket
	// is used.
	mu      sync.Mutex
	shared  [2]*pingSocket // by family; nil where the system refuses
	peers   map[netip.Addr]*echoPeer
	pending int // of all peers
	sockets int // of all peers, including those being opened
	ident   uint16
	closed  bool
}

// echoPeer is a node of the tailnet that has pending requests or sockets. It is in pinger.peers
// exactly as long as it has either, or users. Its fields are guarded by pinger.mu.
type echoPeer struct {
	nodeKeys           // in pinger.peers
	pending  list.List // of *pendingEcho, oldest first
	own      [2]*pingSocket
	used     time.Time
	users    int // goroutines that are about to add to pending
}

// pendingEcho is a request without a reply yet. It is in its peer's list and in its socket's map,
// or in neither; remove takes it out of both, so that a reply counts once.
type pendingEcho struct {
	client, dst netip.Addr // dst may be a 4via6 address; target is the IPv4 address in it
	target      netip.Addr
	idSeq       [4]byte // the client's identifier and sequence number
	route       *route
	at          time.Time

	// Guarded by pinger.mu.
	peer    *echoPeer
	element *list.Element // in peer.pending; nil once removed
	socket  *pingSocket
	seq     uint16
}

// pingSocket is a socket with its pending requests. Its fields are guarded by pinger.mu.
type pingSocket struct {
	*echoSocket
	next    uint16
	pending map[uint16]*pendingEcho // by sequence number
}

// newPinger opens the shared sockets. Without them the router works, and pings fail: a task may
// lack the right to open them.
func newPinger(c *core, node func(netip.Addr) netip.Addr) *pinger {
	p := &pinger{core: c, node: node, peers: map[netip.Addr]*echoPeer{}, ident: uint16(rand.Uint32())}
	var err4, err6 error
	p.shared[family4], err4 = p.open(family4)
	p.shared[family6], err6 = p.open(family6)
	if err4 != nil {
		c.logs.log.Warn("cannot forward ping: no ICMP socket", "err", err4,
			"fix", "grant CAP_NET_RAW, or include the process's group in net.ipv4.ping_group_range")
		p.openErr = err4
	} else if err6 != nil {
		c.logs.debug("cannot forward ping over IPv6: no ICMPv6 socket", "err", err6)
	}
	return p
}

// echoBatch forwards each packet at once.
type echoBatch struct{ p *pinger }

func (p *pinger) newBatch() batch { return echoBatch{p} }

func (b echoBatch) deliver(p *packet.Packet, _ PeerRouters) { b.p.forward(p) }

// deliverRelayed refuses every packet: there are no flows that another router could have.
func (b echoBatch) deliverRelayed(*packet.Packet) Relayed { return RelayedRefused }

func (b echoBatch) flush() {}

// The table has no open flows; see [pinger].
func (p *pinger) active() int     { return 0 }
func (p *pinger) walk(func(flow)) {}
func (p *pinger) cut() int        { return 0 }
func (p *pinger) ending() int     { return 0 }

// forward forwards an echo request. Other messages are dropped: ICMP errors concern flows that
// the router itself terminates.
func (p *pinger) forward(request *packet.Packet) {
	if !request.IsEchoRequest() {
		p.drops.add(dropUnsupported, 1)
		return
	}
	if !request.ICMPChecksumOK() {
		p.drops.add(dropChecksum, 1)
		return
	}
	key := keyOf(request)
	to := p.routes.lookup(request.Dst)
	if _, _, verdict := p.rules.open(request.Protocol, key); verdict != allowed {
		p.account.flowFailed(ICMP, to, forbidden)
		p.drops.add(dropFlowFailed, 1)
		if verdict == denied {
			p.sender.refuse(request, packet.AdminProhibited)
		}
		return
	}
	e := &pendingEcho{
		client: request.Src, dst: request.Dst, target: key.target().Addr(), route: to,
		idSeq: [4]byte(request.Data[4:8]), at: time.Now(),
	}
	data := request.Data[packet.ICMPHeader:]
	err := p.send(e, data)
	switch {
	case err == nil:
		p.account.echoSent(to, len(data))
	case errors.Is(err, ErrClosed):
		p.drops.add(dropClosed, 1)
	case wouldBlock(err):
		p.drops.add(dropSocketBuffer, 1)
	default:
		reason := dialFailure(err)
		p.account.flowFailed(ICMP, to, reason)
		p.drops.add(dropFlowFailed, 1)
		p.logs.debug("forwarding echo request failed", "target", e.target, "reason", reason, "err", err)
		if reason == unreachable {
			p.sender.refuse(request, packet.HostUnreachable)
		}
	}
}

// open returns a new socket; a worker reads its replies.
func (p *pinger) open(family int) (*pingSocket, error) {
	p.mu.Lock()
	p.ident++
	s := &pingSocket{next: uint16(rand.Uint32()), pending: map[uint16]*pendingEcho{}}
	ident := p.ident
	p.mu.Unlock()
	var err error
	s.echoSocket, err = openEchoSocket(p.core, family, ident, func(seq uint16, from netip.Addr, data []byte) {
		p.answer(s, seq, from, data)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// send sends the request e. It never waits: a request that the socket does not take at once
// is lost.
func (p *pinger) send(e *pendingEcho, data []byte) error {
	s, err := p.addPending(e)
	if err != nil {
		return err
	}
	if err = s.send(e.target, e.seq, data); err != nil {
		p.mu.Lock()
		p.remove(e)
		p.mu.Unlock()
	}
	return err
}

// answer passes an echo reply on to the client that sent its request.
func (p *pinger) answer(s *pingSocket, seq uint16, from netip.Addr, data []byte) {
	p.mu.Lock()
	e := s.pending[seq]
	ok := e != nil && e.target == from && p.remove(e)
	p.mu.Unlock()
	if !ok {
		p.drops.add(dropUnmatched, 1)
		return
	}
	p.account.bytesDown(ICMP, e.route, len(data))
	p.sender.echoReply(e.client, e.dst, e.idSeq, data)
}

// addPending makes e pending, as the newest of its peer, evicting an older request if a limit is reached, and returns
// the socket to send it from.
func (p *pinger) addPending(e *pendingEcho) (*pingSocket, error) {
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
		peer = addNode(&p.mu, p.peers, p.node, e.client)
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
// The caller holds mu.
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

// evict removes the oldest request of a peer, which has one. The caller holds mu.
func (p *pinger) evict(peer *echoPeer) {
	p.drops.add(dropEchoEvicted, 1)
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
	if e.peer.own == [2]*pingSocket{} {
		p.removeIfUnused(e.peer)
	}
	return true
}

// removeIfUnused removes a peer that has no requests; its sockets must be closed. The caller holds mu.
func (p *pinger) removeIfUnused(peer *echoPeer) {
	if peer.pending.Len() == 0 && peer.users == 0 {
		removeNode(p.peers, peer)
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

// closeOwn closes the sockets of a peer. The caller holds mu.
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

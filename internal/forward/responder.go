package forward

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"subnetrouter/internal/packet"
)

// maxResponderQueue bounds the datagrams that wait for a responder.
const maxResponderQueue = 256

// Responder answers the clients' packets to one port of an address behind the router, in place of
// that address. Its traffic is no flow: it neither counts nor needs one.
type Responder struct {
	// Addr is the address that clients send to, which may be a 4via6 address.
	Addr netip.AddrPort
	// Datagram handles a datagram, whose payload it may use during the call only. It may call
	// answer once, from any goroutine, during the call or later; answer does not wait, and drops
	// a message that does not fit into one packet of the tailnet. All calls are made by one goroutine:
	// while Datagram blocks, up to maxResponderQueue datagrams wait, and further ones are dropped.
	Datagram func(client netip.AddrPort, payload []byte, answer func([]byte))
	// Stream serves a connection, in a goroutine of its own, and closes it.
	Stream func(client netip.AddrPort, conn net.Conn)
}

// SetResponder lets s answer from now on, instead of the responder that was set before; nil is none.
// The responder before gets no more datagrams, and its connections end. Open flows
// to the responder's address and port get no more packets.
func (f *Forwarder) SetResponder(s *Responder) {
	f.responderMu.Lock()
	defer f.responderMu.Unlock()
	if f.responderClosed {
		return
	}
	var next *responder
	if s != nil {
		next = startResponder(f.core, f.cfg.Congestion, *s)
	}
	if old := f.responder.Swap(next); old != nil {
		old.close()
	}
}

// ResponderAddr returns the address of the responder, without its port; zero if there is none. In kernel
// mode, all packets to it have to be delivered.
func (f *Forwarder) ResponderAddr() netip.Addr {
	if s := f.responder.Load(); s != nil {
		return s.cfg.Addr.Addr()
	}
	return netip.Addr{}
}

// responders holds the responder of a Forwarder.
type responders struct {
	responder atomic.Pointer[responder] // nil is none; replaced with responderMu

	responderMu     sync.Mutex
	responderClosed bool // no more responders
}

// close ends the responder. Packets that are delivered later open flows, or are refused.
func (s *responders) close() {
	s.responderMu.Lock()
	defer s.responderMu.Unlock()
	s.responderClosed = true
	if old := s.responder.Swap(nil); old != nil {
		old.close()
	}
}

// responder is a [Responder] that packets are delivered to.
type responder struct {
	*core
	cfg      Responder
	tcp      *ownTCP
	received chan responderDatagram // whose buffers belong to the reader; never closed
	closed   chan struct{}
}

// responderDatagram is a datagram that waits for the responder.
type responderDatagram struct {
	client  netip.AddrPort
	payload *packetBuffer
}

func startResponder(c *core, control Congestion, cfg Responder) *responder {
	s := &responder{
		core: c, cfg: cfg, tcp: newOwnTCP(c, control, maxOwnConns),
		received: make(chan responderDatagram, maxResponderQueue), closed: make(chan struct{}),
	}
	go s.serveDatagrams()
	if ln, err := s.tcp.listen(cfg.Addr.Port()); err == nil { // it fails for port 0 only
		go s.accept(ln)
	}
	return s
}

// takes reports whether a packet is for the responder.
func (s *responder) takes(p *packet.Packet) bool {
	if s == nil || p.Dst != s.cfg.Addr.Addr() {
		return false
	}
	switch p.Protocol {
	case packet.ProtoUDP:
		return p.DstPort == s.cfg.Addr.Port()
	case packet.ProtoTCP:
		body := p.Payload()
		if len(body) < packet.TCPHeader {
			return false
		}
		_, dst := packet.SegmentPorts(body)
		return dst == s.cfg.Addr.Port()
	}
	return false
}

// deliver takes a packet for the responder, which is valid only during the call. It never waits. A
// segment of no connection here may be one of a peer router's.
func (s *responder) deliver(p *packet.Packet, peers PeerRouters) Relayed {
	if p.Protocol == packet.ProtoUDP {
		return s.deliverUDP(p)
	}
	segment, err := p.Segment()
	if err != nil {
		reason := dropMalformed
		if errors.Is(err, packet.ErrChecksum) {
			reason = dropChecksum
		}
		s.drops.add(reason, 1)
		return RelayedRefused
	}
	key := segmentKey(p, segment)
	// Each packet is checked, so that no change of the rules has to find connections.
	if !s.allows(p, key) {
		return RelayedRefused
	}
	if !packet.OpensConnection(segment) && !s.tcp.has(key) {
		if relayedAway(peers, p.Raw) {
			return RelayedTaken
		}
		s.sender.reset(p, segment)
		return RelayedReset
	}
	s.tcp.deliver(p, segment)
	return RelayedTaken
}

func (s *responder) deliverUDP(p *packet.Packet) Relayed {
	if !p.UDPChecksumOK() {
		s.drops.add(dropChecksum, 1)
		return RelayedRefused
	}
	if !s.allows(p, keyOf(p)) {
		return RelayedRefused
	}
	if len(p.Data) > ownPacketSize { // no query is larger than the tailnet's packets
		s.drops.add(dropTooBig, 1)
		return RelayedTaken
	}
	b := packetBuffers.Get().(*packetBuffer)
	b.n = copy(b.b[:], p.Data)
	select {
	case s.received <- responderDatagram{netip.AddrPortFrom(p.Src, p.SrcPort), b}:
	default:
		packetBuffers.Put(b)
		s.drops.add(dropResponderBusy, 1)
	}
	return RelayedTaken
}

// allows reports whether the deny list and the access rules allow a packet: it may have been relayed, or
// reassembled. It answers a denied one, and counts one that it refuses.
func (s *responder) allows(p *packet.Packet, key flowKey) bool {
	verdict := s.rules.check(p.Protocol, key)
	if verdict == allowed {
		return true
	}
	s.drops.add(dropFlowFailed, 1)
	if verdict == denied {
		s.sender.refuse(p, packet.AdminProhibited)
	}
	return false
}

func (s *responder) serveDatagrams() {
	for {
		select {
		case d := <-s.received:
			client := d.client
			s.cfg.Datagram(client, d.payload.b[:d.payload.n], func(answer []byte) { s.answer(client, answer) })
			packetBuffers.Put(d.payload)
		case <-s.closed:
			for { // a delivery may still add some, which the garbage collector takes
				select {
				case d := <-s.received:
					packetBuffers.Put(d.payload)
					s.drops.add(dropClosed, 1)
				default:
					return
				}
			}
		}
	}
}

// answer sends a datagram from the responder's address. It never waits. An empty one is none.
func (s *responder) answer(client netip.AddrPort, payload []byte) {
	if len(payload) == 0 {
		return
	}
	h := packet.HeaderSize(client.Addr()) + packet.UDPHeader
	if h+len(payload) > s.sender.mtu {
		s.drops.add(dropTooBig, 1)
		return
	}
	p := packetBuffers.Get().(*packetBuffer)
	p.n = h + copy(p.b[h:], payload)
	packet.PutUDP(p.b[:p.n], s.cfg.Addr, client)
	s.link.reply(p)
}

func (s *responder) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go s.cfg.Stream(conn.RemoteAddr().(*net.TCPAddr).AddrPort(), conn)
	}
}

func (s *responder) close() {
	close(s.closed)
	s.tcp.close()
}

package forward

import (
	"net/netip"
	"sync/atomic"

	"subnetrouter/internal/packet"
)

// sender builds packets for clients and queues them on the link. Datagrams and echo replies wait
// for room in it, so that targets are read no faster than clients receive: call udp and echoReply
// from a worker only, and without a lock. ICMP errors never wait, and packet delivery may send
// them.
type sender struct {
	link       *link
	mtu        int // of the tailnet
	buffers    *bufferPool
	drops      *drops
	rejection  func(why Refusal, protocol uint8, client, dst netip.AddrPort) []byte // [Config.Rejection]; may be nil
	fragmentID atomic.Uint32
}

// udp sends a datagram to a client, in fragments if it exceeds the tailnet's MTU. It
// returns false once the forwarder is closed.
func (s *sender) udp(src, dst netip.AddrPort, payload []byte) bool {
	h := packet.HeaderSize(src.Addr())
	if total := h + packet.UDPHeader + len(payload); total > s.mtu {
		big := s.buffers.get()
		defer s.buffers.put(big)
		if total > len(*big) { // larger than any datagram of a socket
			s.drops.add(dropTooBig, 1)
			return true
		}
		copy((*big)[h+packet.UDPHeader:], payload)
		packet.PutUDP((*big)[:total], src, dst)
		return s.fragments((*big)[:total])
	}
	p := packetBuffers.Get().(*packetBuffer)
	p.n = h + packet.UDPHeader + len(payload)
	copy(p.b[h+packet.UDPHeader:], payload)
	packet.PutUDP(p.b[:p.n], src, dst)
	return s.link.send(p)
}

// fragments sends an IP packet without options in fragments that fit the MTU.
func (s *sender) fragments(whole []byte) bool {
	for parts := packet.Split(whole, s.mtu, s.fragmentID.Add(1)); parts.More(); {
		p := packetBuffers.Get().(*packetBuffer)
		p.n = parts.Next(p.b[:])
		if !s.link.send(p) {
			return false
		}
	}
	return true
}

// prohibit answers a peer's IP packet with an ICMP error "administratively prohibited" (RFC
// 1812 section 5.2.7.1, RFC 4443 section 3.1). If the packet is a datagram or opens a TCP
// connection, it reports the denial to the peer's node, too. It sends nothing where RFC 1122 section 3.2.2
// forbids an error: for ICMP messages other than echo requests, for fragments other than the
// first, and for packets whose source or destination is not a single host.
func (s *sender) prohibit(raw []byte) {
	var p packet.Packet
	if !p.Parse(raw) || p.Dst.IsMulticast() || p.Src.IsUnspecified() || p.Src.IsMulticast() {
		return
	}
	if p.Fragment {
		part, ok := packet.ParseFragment(p.Raw)
		if !ok || part.Offset > 0 || len(part.Data) == 0 {
			return
		}
		p.Protocol, p.Data = part.Protocol, part.Data
	}
	if (p.Protocol == packet.ProtoICMP || p.Protocol == packet.ProtoICMPv6) && !p.IsEchoRequest() {
		return
	}
	s.refuse(&p, packet.AdminProhibited)
	switch body := p.Payload(); {
	case p.Fragment: // the ports may be in another fragment
	case p.Protocol == packet.ProtoTCP && len(body) >= packet.TCPHeader && packet.OpensConnection(body):
		src, dst := packet.SegmentPorts(body)
		s.reject(RefusedByDenyList, p.Protocol, netip.AddrPortFrom(p.Src, src), netip.AddrPortFrom(p.Dst, dst))
	case p.Protocol == packet.ProtoUDP:
		s.reject(RefusedByDenyList, p.Protocol, netip.AddrPortFrom(p.Src, p.SrcPort), netip.AddrPortFrom(p.Dst, p.DstPort))
	}
}

// reject reports to a client's node why its flow to dst is refused. It never waits.
func (s *sender) reject(why Refusal, protocol uint8, client, dst netip.AddrPort) {
	if s.rejection == nil {
		return
	}
	raw := s.rejection(why, protocol, client, dst)
	if len(raw) == 0 || len(raw) > ownPacketSize {
		return
	}
	p := packetBuffers.Get().(*packetBuffer)
	p.n = copy(p.b[:], raw)
	s.link.reply(p)
}

// refuse answers a packet with an ICMP error.
func (s *sender) refuse(p *packet.Packet, reason packet.ICMPError) { s.icmpError(p.Raw, reason, 0) }

// udpError sends an ICMP error about an earlier packet of a UDP flow. That packet is no
// longer available; the error quotes rebuilt headers, which are all that the client's system
// looks at.
func (s *sender) udpError(key flowKey, reason packet.ICMPError, mtu int) {
	h := packet.HeaderSize(key.dst.Addr())
	quote := make([]byte, h+packet.UDPHeader)
	packet.PutUDP(quote, key.client, key.dst)
	s.icmpError(quote, reason, mtu)
}

// icmpError sends an ICMP error about the packet offending, from its destination. It never
// waits: an error is dropped if there is no room.
func (s *sender) icmpError(offending []byte, reason packet.ICMPError, mtu int) {
	p := packetBuffers.Get().(*packetBuffer)
	p.n = packet.PutICMPError(p.b[:], offending, reason, mtu)
	s.link.reply(p)
}

// echoReply sends an echo reply from dst with the given identifier and sequence number.
func (s *sender) echoReply(client, dst netip.Addr, idSeq [4]byte, data []byte) {
	h := packet.HeaderSize(dst) + packet.ICMPHeader
	buf := s.buffers.get()
	defer s.buffers.put(buf)
	total := h + len(data)
	if total > len(*buf) { // larger than any datagram of a socket
		s.drops.add(dropTooBig, 1)
		return
	}
	whole := (*buf)[:total]
	copy(whole[h:], data)
	packet.PutEchoReply(whole, dst, client, idSeq)
	if total > s.mtu {
		s.fragments(whole)
		return
	}
	p := packetBuffers.Get().(*packetBuffer)
	p.n = copy(p.b[:], whole)
	s.link.send(p)
}

// ownEchoReply answers an echo request to one of the node's own addresses. It never waits: a reply
// is dropped if there is no room.
func (s *sender) ownEchoReply(request *packet.Packet) {
	h := packet.HeaderSize(request.Dst) + packet.ICMPHeader
	data := request.Data[packet.ICMPHeader:]
	buf := s.buffers.get()
	defer s.buffers.put(buf)
	total := h + len(data)
	if total > len(*buf) {
		s.drops.add(dropTooBig, 1)
		return
	}
	whole := (*buf)[:total]
	copy(whole[h:], data)
	packet.PutEchoReply(whole, request.Dst, request.Src, [4]byte(request.Data[4:8]))
	if total <= s.mtu {
		p := packetBuffers.Get().(*packetBuffer)
		p.n = copy(p.b[:], whole)
		s.link.reply(p)
		return
	}
	for parts := packet.Split(whole, s.mtu, s.fragmentID.Add(1)); parts.More(); {
		p := packetBuffers.Get().(*packetBuffer)
		p.n = parts.Next(p.b[:])
		s.link.reply(p)
	}
}

// reset answers a client's segment that belongs to no connection, unless it is a reset itself. It
// never waits.
func (s *sender) reset(p *packet.Packet, segment []byte) {
	b := packetBuffers.Get().(*packetBuffer)
	if b.n = packet.PutReset(b.b[:], p, segment); b.n == 0 {
		packetBuffers.Put(b)
		return
	}
	s.link.reply(b)
}

package forward

import (
	"net/netip"

	"subnetrouter/internal/packet"

	"golang.org/x/sys/unix"
)

// sendUDP sends a datagram to a client, in fragments if it exceeds the tailnet's MTU. It
// returns false once the forwarder is closed.
func (f *Forwarder) sendUDP(src, dst netip.AddrPort, payload []byte) bool {
	h := packet.HeaderSize(src.Addr())
	if total := h + packet.UDPHeader + len(payload); total > f.mtu {
		big := f.buffers.Get().(*[]byte)
		defer f.buffers.Put(big)
		if total > len(*big) { // larger than any datagram of a socket
			f.drops.add(dropTooBig, 1)
			return true
		}
		copy((*big)[h+packet.UDPHeader:], payload)
		packet.PutUDP((*big)[:total], src, dst)
		return f.sendFragments((*big)[:total])
	}
	p := packetBuffers.Get().(*packetBuffer)
	p.n = h + packet.UDPHeader + len(payload)
	copy(p.b[h+packet.UDPHeader:], payload)
	packet.PutUDP(p.b[:p.n], src, dst)
	return f.link.send(outgoing{own: p})
}

// sendFragments sends an IP packet without options in fragments that fit the MTU.
func (f *Forwarder) sendFragments(whole []byte) bool {
	for parts := packet.Split(whole, f.mtu, f.fragmentID.Add(1)); parts.More(); {
		p := packetBuffers.Get().(*packetBuffer)
		p.n = parts.Next(p.b[:])
		if !f.link.send(outgoing{own: p}) {
			return false
		}
	}
	return true
}

// unreachableFor returns the ICMP error for a failed dial.
func unreachableFor(reason string) packet.ICMPError {
	if reason == unreachable || reason == timedOut {
		return packet.HostUnreachable
	}
	return packet.PortUnreachable
}

// Prohibit answers a peer's IP packet with an ICMP error "administratively prohibited" (RFC
// 1812 section 5.2.7.1, RFC 4443 section 3.1). It sends nothing where RFC 1122 section 3.2.2
// forbids an error: for ICMP messages other than echo requests, for fragments other than the
// first, and for packets whose source or destination is not a single host.
func (f *Forwarder) Prohibit(raw []byte) {
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
	f.refuse(&p, packet.AdminProhibited)
}

// refuse answers a packet with an ICMP error.
func (f *Forwarder) refuse(p *packet.Packet, reason packet.ICMPError) { f.sendError(p.Raw, reason, 0) }

// sendUDPError sends an ICMP error about an earlier packet of a UDP flow. That packet is no
// longer available; the error quotes rebuilt headers, which are all that the client's system
// looks at.
func (f *Forwarder) sendUDPError(key flowKey, reason packet.ICMPError, mtu int) {
	h := packet.HeaderSize(key.dst.Addr())
	quote := make([]byte, h+packet.UDPHeader)
	packet.PutUDP(quote, key.client, key.dst)
	f.sendError(quote, reason, mtu)
}

// mtuOf returns the path MTU of a connected socket; 0 if unknown.
func mtuOf(fd int, dst netip.Addr) int {
	level, option := unix.IPPROTO_IP, pathMTU4
	if dst.Is6() {
		level, option = unix.IPPROTO_IPV6, pathMTU6
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return 0
	}
	return mtu
}

// sendError sends an ICMP error about the packet offending, from its destination. It never
// waits: an error is dropped if there is no room.
func (f *Forwarder) sendError(offending []byte, reason packet.ICMPError, mtu int) {
	p := packetBuffers.Get().(*packetBuffer)
	p.n = packet.PutICMPError(p.b[:], offending, reason, mtu)
	f.link.reply(outgoing{own: p})
}

// sendEchoReply sends an echo reply from dst with the given identifier and sequence number.
func (f *Forwarder) sendEchoReply(client, dst netip.Addr, idSeq [4]byte, data []byte) {
	h := packet.HeaderSize(dst) + packet.ICMPHeader
	buf := f.buffers.Get().(*[]byte)
	defer f.buffers.Put(buf)
	total := h + len(data)
	if total > len(*buf) { // larger than any datagram of a socket
		f.drops.add(dropTooBig, 1)
		return
	}
	whole := (*buf)[:total]
	copy(whole[h:], data)
	packet.PutEchoReply(whole, dst, client, idSeq)
	if total > f.mtu {
		f.sendFragments(whole)
		return
	}
	p := packetBuffers.Get().(*packetBuffer)
	p.n = copy(p.b[:], whole)
	f.link.send(outgoing{own: p})
}

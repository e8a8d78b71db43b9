package packet

import (
	"encoding/binary"
	"net/netip"
)

// Types of ICMP messages.
const (
	echoReply4, echoRequest4 = 0, 8
	echoReply6, echoRequest6 = 129, 128
)

// IsEchoRequest reports whether p is an ICMP echo request. In a fragment whose Protocol and Data
// the caller has set, Data must not be empty.
func (p *Packet) IsEchoRequest() bool {
	return p.Protocol == ProtoICMP && p.Data[0] == echoRequest4 || p.Protocol == ProtoICMPv6 && p.Data[0] == echoRequest6
}

// ICMPChecksumOK verifies the checksum of an ICMP packet.
func (p *Packet) ICMPChecksumOK() bool {
	return Checksum(p.Data, icmpSum(p.Src, p.Dst, len(p.Data))) == 0
}

// icmpSum returns the partial sum of an ICMP message's checksum: only ICMPv6 covers the pseudo
// header.
func icmpSum(src, dst netip.Addr, length int) uint64 {
	if src.Is4() {
		return 0
	}
	return PseudoSum(src, dst, ProtoICMPv6, length)
}

// icmpProtocol returns ICMP's protocol number for an address's family.
func icmpProtocol(addr netip.Addr) uint8 {
	if addr.Is4() {
		return ProtoICMP
	}
	return ProtoICMPv6
}

// ICMPError is the type and code of an ICMP error in both protocol versions.
type ICMPError struct {
	type4, code4, type6, code6 uint8
}

// The errors that a router sends. PacketTooBig is "fragmentation needed" in IPv4.
var (
	PortUnreachable = ICMPError{type4: 3, code4: 3, type6: 1, code6: 4}
	HostUnreachable = ICMPError{type4: 3, code4: 1, type6: 1, code6: 3}
	AdminProhibited = ICMPError{type4: 3, code4: 13, type6: 1, code6: 1}
	PacketTooBig    = ICMPError{type4: 3, code4: 4, type6: 2, code6: 0}
)

// maxQuote is the number of bytes of the offending packet that an error quotes: enough to find
// the client's socket, and within the smallest MTU.
const maxQuote = 128

// MaxICMPError is the size of the largest packet that [PutICMPError] writes.
const MaxICMPError = IPv6Header + ICMPHeader + maxQuote

// PutICMPError writes to b an ICMP error about the packet offending, sent from its destination to
// its source, and returns the error's size, at most [MaxICMPError]. It needs only the first
// bytes of offending, but its whole IP header. mtu is sent with [PacketTooBig]; 0 otherwise.
func PutICMPError(b, offending []byte, e ICMPError, mtu int) (size int) {
	quote := offending[:min(len(offending), maxQuote)]
	var client, dst netip.Addr
	typ, code := e.type6, e.code6
	if quote[0]>>4 == 4 {
		typ, code = e.type4, e.code4
		client, dst = netip.AddrFrom4([4]byte(quote[12:16])), netip.AddrFrom4([4]byte(quote[16:20]))
	} else {
		client, dst = netip.AddrFrom16([16]byte(quote[8:24])), netip.AddrFrom16([16]byte(quote[24:40]))
	}
	h := HeaderSize(dst)
	size = h + ICMPHeader + len(quote)
	message := b[h:size]
	message[0], message[1] = typ, code
	binary.BigEndian.PutUint16(message[2:], 0)
	binary.BigEndian.PutUint32(message[4:], uint32(mtu)) // in IPv4 the MTU is the lower half
	copy(message[ICMPHeader:], quote)
	binary.BigEndian.PutUint16(message[2:], Checksum(message, icmpSum(dst, client, len(message))))
	PutIP(b[:size], dst, client, icmpProtocol(dst))
	return size
}

// Quote describes the packet that an ICMP error quotes.
type Quote struct {
	Protocol uint8
	Src, Dst netip.AddrPort
	Seq      uint32 // of a TCP segment
	Refused  bool   // the port, not the host, cannot be reached
}

// ParseUnreachable reads an ICMP error "destination unreachable", other than "fragmentation needed", about a TCP or UDP
// packet of the error's destination. It reports false for any other packet. It does not verify the checksum.
func (p *Packet) ParseUnreachable() (q Quote, ok bool) {
	switch {
	case p.Protocol == ProtoICMP && p.Data[0] == PortUnreachable.type4 && p.Data[1] != PacketTooBig.code4:
		q.Refused = p.Data[1] == PortUnreachable.code4
	case p.Protocol == ProtoICMPv6 && p.Data[0] == PortUnreachable.type6:
		q.Refused = p.Data[1] == PortUnreachable.code6
	default:
		return q, false
	}
	b := p.Data[ICMPHeader:]
	var src, dst netip.Addr
	var size int
	switch {
	case len(b) >= IPv4Header && b[0]>>4 == 4 && p.Src.Is4():
		size, q.Protocol = int(b[0]&15)*4, b[9]
		if size < IPv4Header || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return q, false
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= IPv6Header && b[0]>>4 == 6 && p.Src.Is6():
		size, q.Protocol = IPv6Header, b[6]
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	default:
		return q, false
	}
	// An error has at least the first 8 bytes of the transport header (RFC 792).
	if q.Protocol != ProtoTCP && q.Protocol != ProtoUDP || src != p.Dst || len(b) < size+8 {
		return q, false
	}
	b = b[size:]
	q.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	q.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	if q.Protocol == ProtoTCP {
		q.Seq = binary.BigEndian.Uint32(b[4:])
	}
	return q, true
}

// PutEchoReply writes the IP and ICMP headers of an echo reply of len(b) bytes, with the
// identifier and sequence number idSeq, whose data is at the end of b already.
func PutEchoReply(b []byte, src, dst netip.Addr, idSeq [4]byte) {
	message := b[HeaderSize(src):]
	message[0] = echoReply6
	if src.Is4() {
		message[0] = echoReply4
	}
	message[1], message[2], message[3] = 0, 0, 0
	copy(message[4:], idSeq[:])
	binary.BigEndian.PutUint16(message[2:], Checksum(message, icmpSum(src, dst, len(message))))
	PutIP(b, src, dst, icmpProtocol(src))
}

// PutEchoRequest writes the ICMP header of an echo request of len(message) bytes, without an IP
// header, whose data is in message already. It leaves ICMPv6's checksum to the kernel, which
// knows the source address.
func PutEchoRequest(message []byte, ipv6 bool, id, seq uint16) {
	message[0], message[1] = echoRequest4, 0
	if ipv6 {
		message[0] = echoRequest6
	}
	binary.BigEndian.PutUint16(message[2:], 0)
	binary.BigEndian.PutUint16(message[4:], id)
	binary.BigEndian.PutUint16(message[6:], seq)
	if !ipv6 {
		binary.BigEndian.PutUint16(message[2:], Checksum(message, 0))
	}
}

// ParseEchoReply reads an echo reply as an ICMP socket of the kernel returns it, and returns its
// identifier, sequence number and data. It does not verify the checksum, which the kernel has
// done. It reports false for any other message.
func ParseEchoReply(message []byte, ipv6 bool) (id, seq uint16, data []byte, ok bool) {
	reply := byte(echoReply6)
	if !ipv6 {
		reply = echoReply4
		// A raw socket's message begins with the IP header, which cannot be mistaken
		// for an echo reply.
		if len(message) >= IPv4Header && message[0]>>4 == 4 {
			message = message[min(len(message), int(message[0]&15)*4):]
		}
	}
	if len(message) < ICMPHeader || message[0] != reply {
		return 0, 0, nil, false
	}
	return binary.BigEndian.Uint16(message[4:]), binary.BigEndian.Uint16(message[6:]), message[ICMPHeader:], true
}

package forward

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// IP protocol numbers.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

const (
	ipv4Header = 20
	ipv6Header = 40
	udpHeader  = 8
)

// inbound is a parsed packet from a peer. Its slices point into the packet.
type inbound struct {
	raw      []byte
	protocol uint8 // of the data after the IP header; 0 in a fragment
	fragment bool  // the packet is a fragment
	src, dst netip.Addr
	// payload is set for UDP and ICMP, and is the data after the UDP or IP header; the
	// ports are set for UDP.
	srcPort, dstPort uint16
	payload          []byte
}

// parse reads an IP packet. It returns false if raw is not one, is truncated, or has
// inconsistent lengths.
func (p *inbound) parse(raw []byte) bool {
	*p = inbound{}
	if len(raw) < ipv4Header {
		return false
	}
	var rest []byte
	switch raw[0] >> 4 {
	case 4:
		header, total := int(raw[0]&15)*4, int(binary.BigEndian.Uint16(raw[2:]))
		if header < ipv4Header || total < header || total > len(raw) {
			return false
		}
		p.raw, rest = raw[:total], raw[header:total]
		p.src, p.dst = netip.AddrFrom4([4]byte(raw[12:16])), netip.AddrFrom4([4]byte(raw[16:20]))
		p.protocol = raw[9]
		// More fragments, or an offset.
		p.fragment = binary.BigEndian.Uint16(raw[6:])&0x3fff != 0
	case 6:
		if len(raw) < ipv6Header {
			return false
		}
		total := ipv6Header + int(binary.BigEndian.Uint16(raw[4:]))
		if total > len(raw) {
			return false
		}
		p.raw, rest = raw[:total], raw[ipv6Header:total]
		p.src, p.dst = netip.AddrFrom16([16]byte(raw[8:24])), netip.AddrFrom16([16]byte(raw[24:40]))
		p.protocol = raw[6]
		// Other extension headers do not get here: the engine drops packets that have
		// them, because its access rules cannot see their ports.
		p.fragment = p.protocol == protoFragment
	default:
		return false
	}
	if p.fragment {
		p.protocol = 0
		return true
	}
	switch p.protocol {
	case protoUDP:
		return p.parseUDP(rest)
	case protoICMP, protoICMPv6:
		p.payload = rest
		return len(rest) >= 8
	}
	return true
}

func (p *inbound) isEchoRequest() bool {
	const request4, request6 = 8, 128
	return p.protocol == protoICMP && p.payload[0] == request4 || p.protocol == protoICMPv6 && p.payload[0] == request6
}

func (p *inbound) parseUDP(rest []byte) bool {
	if len(rest) < udpHeader {
		return false
	}
	length := int(binary.BigEndian.Uint16(rest[4:]))
	if length < udpHeader || length > len(rest) {
		return false
	}
	p.srcPort, p.dstPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	p.payload = rest[udpHeader:length]
	return true
}

// checksumOK verifies the UDP checksum, which is optional with IPv4.
func (p *inbound) checksumOK() bool {
	var datagram []byte
	if p.src.Is4() {
		header := int(p.raw[0]&15) * 4
		datagram = p.raw[header : header+udpHeader+len(p.payload)]
		if binary.BigEndian.Uint16(datagram[6:]) == 0 {
			return true
		}
	} else {
		datagram = p.raw[ipv6Header : ipv6Header+udpHeader+len(p.payload)]
	}
	return checksum(datagram, pseudoSum(p.src, p.dst, protoUDP, len(datagram))) == 0
}

// headerSize returns the length of an IP header without options.
func headerSize(addr netip.Addr) int {
	if addr.Is4() {
		return ipv4Header
	}
	return ipv6Header
}

// hopLimit is the TTL of packets that the router builds; the value of RFC 1700 and of most
// hosts.
const hopLimit = 64

// putIP writes the IP header of a packet of len(b) bytes.
func putIP(b []byte, src, dst netip.Addr, protocol uint8) {
	if src.Is4() {
		b[0], b[1] = 4<<4|ipv4Header/4, 0
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint32(b[4:], 0) // no identification, no flags
		b[8], b[9] = hopLimit, protocol
		binary.BigEndian.PutUint16(b[10:], 0)
		s, d := src.As4(), dst.As4()
		copy(b[12:], s[:])
		copy(b[16:], d[:])
		binary.BigEndian.PutUint16(b[10:], checksum(b[:ipv4Header], 0))
		return
	}
	binary.BigEndian.PutUint32(b, 6<<28)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6Header))
	b[6], b[7] = protocol, hopLimit
	s, d := src.As16(), dst.As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
}

// putUDP writes the IP and UDP headers of a packet whose payload is already at the end of b.
func putUDP(b []byte, src, dst netip.AddrPort) {
	h := headerSize(src.Addr())
	putIP(b, src.Addr(), dst.Addr(), protoUDP)
	u := b[h:]
	binary.BigEndian.PutUint16(u, src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	binary.BigEndian.PutUint16(u[6:], 0)
	sum := checksum(u, pseudoSum(src.Addr(), dst.Addr(), protoUDP, len(u)))
	if sum == 0 {
		sum = 0xffff // zero means "no checksum"
	}
	binary.BigEndian.PutUint16(u[6:], sum)
}

// pseudoSum returns the part of a transport checksum that covers the pseudo header.
func pseudoSum(src, dst netip.Addr, protocol uint8, length int) uint64 {
	sum := uint64(protocol) + uint64(length)
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		return sum + uint64(binary.BigEndian.Uint32(s[:])) + uint64(binary.BigEndian.Uint32(d[:]))
	}
	s, d := src.As16(), dst.As16()
	for i := 0; i < 16; i += 4 {
		sum += uint64(binary.BigEndian.Uint32(s[i:])) + uint64(binary.BigEndian.Uint32(d[i:]))
	}
	return sum
}

// checksum returns the Internet checksum (RFC 1071) of b, added to a partial sum. The sum of
// 16-bit words does not depend on their byte order, and can be taken 64 bits at a time if
// carries are added back.
func checksum(b []byte, sum uint64) uint16 {
	var acc, carry uint64
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[32:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[40:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[48:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[56:]), carry)
		acc, carry = bits.Add64(acc, 0, carry)
		acc += carry
		b = b[64:]
	}
	add := func(v uint64) {
		acc, carry = bits.Add64(acc, v, 0)
		acc += carry
	}
	for len(b) >= 8 {
		add(binary.LittleEndian.Uint64(b))
		b = b[8:]
	}
	if len(b) >= 4 {
		add(uint64(binary.LittleEndian.Uint32(b)))
		b = b[4:]
	}
	if len(b) >= 2 {
		add(uint64(binary.LittleEndian.Uint16(b)))
		b = b[2:]
	}
	if len(b) == 1 {
		add(uint64(b[0]))
	}
	// The folded sum has the byte order in which the words were read.
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16&0xffff + acc>>32 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	sum += uint64(bits.ReverseBytes16(uint16(acc)))
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

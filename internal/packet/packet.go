// Package packet reads, checks, builds, splits and merges IP packets with UDP, TCP and ICMP in
// them. It does no I/O, reads no clock, and imports only the standard library.
//
// A packet is a []byte that begins with its IP header; bytes after the end that the header gives
// are padding. Sizes are in bytes, numbers in host byte order. A parsed value aliases the bytes
// that it was parsed from: it is valid as long as they are, and no function keeps them beyond
// the call unless its comment says so. Functions whose names begin with Put write into a buffer
// of the caller, which must be large enough; they panic otherwise.
package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// IP protocol numbers. ProtoFragment is IPv6's fragment header.
const (
	ProtoICMP     = 1
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoFragment = 44
	ProtoICMPv6   = 58
)

// Sizes of headers without options, in bytes.
const (
	IPv4Header     = 20
	IPv6Header     = 40
	UDPHeader      = 8
	TCPHeader      = 20
	ICMPHeader     = 8
	FragmentHeader = 8
)

// The errors of a packet's transport part.
var (
	ErrMalformed = errors.New("the packet is truncated or has inconsistent lengths")
	ErrChecksum  = errors.New("the packet has a wrong checksum")
)

// Header is the IP header of a packet.
type Header struct {
	// Raw is the packet, without what followed its end.
	Raw      []byte
	Src, Dst netip.Addr
	// Protocol is the number in the header: of the transport, of an IPv6 extension header,
	// or in a fragment of IPv4 that of the whole datagram.
	Protocol uint8
	// Fragment is true for a part of a datagram, and for an atomic fragment of IPv6.
	Fragment bool
	// Size is the size of the header, with IPv4's options but without IPv6's extension
	// headers. It is at least [IPv4Header] or [IPv6Header], and at most len(Raw).
	Size int
}

// ParseHeader reads the header of the packet at the start of b, and returns it and the bytes
// after the packet. It reports false if b does not begin with a whole packet.
func ParseHeader(b []byte) (h Header, rest []byte, ok bool) {
	if !h.parse(b) {
		return Header{}, nil, false
	}
	return h, b[len(h.Raw):], true
}

// parse sets all fields of h. After a failure they are undefined.
func (h *Header) parse(b []byte) bool {
	if len(b) < IPv4Header {
		return false
	}
	switch b[0] >> 4 {
	case 4:
		size, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if size < IPv4Header || total < size || total > len(b) {
			return false
		}
		h.Raw, h.Size = b[:total], size
		h.Src, h.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		h.Protocol = b[9]
		// More fragments, or an offset.
		h.Fragment = binary.BigEndian.Uint16(b[6:])&0x3fff != 0
	case 6:
		if len(b) < IPv6Header {
			return false
		}
		total := IPv6Header + int(binary.BigEndian.Uint16(b[4:]))
		if total > len(b) {
			return false
		}
		h.Raw, h.Size = b[:total], IPv6Header
		h.Src, h.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		h.Protocol = b[6]
		// Other extension headers do not get here: the engine drops packets that have
		// them, because its access rules cannot see their ports.
		h.Fragment = h.Protocol == ProtoFragment
	default:
		return false
	}
	return true
}

// Payload returns the data after the IP header.
func (h *Header) Payload() []byte { return h.Raw[h.Size:] }

// Packet is a parsed packet. The zero value is no packet; a Packet may be parsed into again.
type Packet struct {
	// Header has Protocol 0 in a fragment, whose transport header may be elsewhere.
	Header
	// Ports are set for UDP.
	SrcPort, DstPort uint16
	// Data is set for UDP, where it is the data after the UDP header, and for ICMP, where it
	// is the message: at least [ICMPHeader] bytes.
	Data []byte
}

// Parse reads the packet at the start of raw. It reports false if raw does not begin with a whole
// packet, or if the lengths of its IP, UDP or ICMP header are inconsistent; then p is undefined.
// It neither verifies checksums nor reads TCP headers: see [Packet.Segment].
func (p *Packet) Parse(raw []byte) bool {
	if !p.parse(raw) {
		return false
	}
	p.SrcPort, p.DstPort, p.Data = 0, 0, nil
	if p.Fragment {
		p.Protocol = 0
		return true
	}
	switch p.Protocol {
	case ProtoUDP:
		return p.parseUDP()
	case ProtoICMP, ProtoICMPv6:
		p.Data = p.Payload()
		return len(p.Data) >= ICMPHeader
	}
	return true
}

// HeaderSize returns the size of an IP header without options for an address's family.
func HeaderSize(addr netip.Addr) int {
	if addr.Is4() {
		return IPv4Header
	}
	return IPv6Header
}

// hopLimit is the TTL of packets that the router builds; the value of RFC 1700 and of most
// hosts.
const hopLimit = 64

// PutIP writes the IP header, without options, of a packet of len(b) bytes.
func PutIP(b []byte, src, dst netip.Addr, protocol uint8) {
	if src.Is4() {
		b[0], b[1] = 4<<4|IPv4Header/4, 0
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint32(b[4:], 0) // no identification, no flags
		b[8], b[9] = hopLimit, protocol
		s, d := src.As4(), dst.As4()
		copy(b[12:], s[:])
		copy(b[16:], d[:])
		putHeaderChecksum(b)
		return
	}
	binary.BigEndian.PutUint32(b, 6<<28)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-IPv6Header))
	b[6], b[7] = protocol, hopLimit
	s, d := src.As16(), dst.As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
}

// putHeaderChecksum writes the checksum of the IPv4 header, without options, at the start of b.
func putHeaderChecksum(b []byte) {
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], Checksum(b[:IPv4Header], 0))
}

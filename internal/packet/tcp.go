package packet

import "encoding/binary"

// TCPFlags is byte 13 of a TCP header.
type TCPFlags uint8

// The flags of a TCP segment.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Segment returns the TCP segment of a packet with ProtoTCP, which is no fragment, and verifies
// its checksums and lengths: the segment has a whole header. It returns [ErrMalformed] or
// [ErrChecksum] otherwise.
func (p *Packet) Segment() ([]byte, error) {
	segment := p.Payload()
	if p.Src.Is4() && Checksum(p.Raw[:p.Size], 0) != 0 {
		return nil, ErrChecksum
	}
	if len(segment) < TCPHeader || tcpHeaderSize(segment) < TCPHeader || tcpHeaderSize(segment) > len(segment) {
		return nil, ErrMalformed
	}
	if Checksum(segment, PseudoSum(p.Src, p.Dst, ProtoTCP, len(segment))) != 0 {
		return nil, ErrChecksum
	}
	return segment, nil
}

// SegmentPorts returns the source and destination port of a segment that [Packet.Segment]
// returned.
func SegmentPorts(segment []byte) (src, dst uint16) {
	return binary.BigEndian.Uint16(segment), binary.BigEndian.Uint16(segment[2:])
}

// OpensConnection reports whether a segment that [Packet.Segment] returned is a client's SYN.
func OpensConnection(segment []byte) bool { return TCPFlags(segment[13])&(SYN|ACK) == SYN }

// IsSYNACK reports whether a packet that is no fragment has a TCP header with SYN and ACK. It
// verifies no checksum.
func (h *Header) IsSYNACK() bool {
	return h.Protocol == ProtoTCP && len(h.Payload()) >= TCPHeader && TCPFlags(h.Payload()[13])&(SYN|ACK) == SYN|ACK
}

// tcpHeaderSize returns the size of a segment's header, with its options, as the header gives it.
func tcpHeaderSize(segment []byte) int { return int(segment[12]>>4) * 4 }

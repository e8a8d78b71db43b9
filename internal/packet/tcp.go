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

// PutReset writes to b the reset that answers a segment of no connection (RFC 9293, section
// 3.10.7.1), from the packet's destination to its source, and returns its size, or 0 if the
// segment is itself a reset, which gets no answer. segment is the result of [Packet.Segment] of p.
func PutReset(b []byte, p *Packet, segment []byte) (size int) {
	flags := TCPFlags(segment[13])
	if flags&RST != 0 {
		return 0
	}
	h := HeaderSize(p.Src)
	size = h + TCPHeader
	reset := b[h:size]
	clear(reset)
	copy(reset, segment[2:4])
	copy(reset[2:], segment[:2])
	reset[12] = TCPHeader / 4 << 4
	if flags&ACK != 0 {
		copy(reset[4:], segment[8:12])
		reset[13] = byte(RST)
	} else {
		length := len(segment) - tcpHeaderSize(segment)
		for _, f := range []TCPFlags{SYN, FIN} {
			if flags&f != 0 {
				length++
			}
		}
		binary.BigEndian.PutUint32(reset[8:], binary.BigEndian.Uint32(segment[4:])+uint32(length))
		reset[13] = byte(RST | ACK)
	}
	binary.BigEndian.PutUint16(reset[16:], Checksum(reset, PseudoSum(p.Dst, p.Src, ProtoTCP, len(reset))))
	PutIP(b[:size], p.Dst, p.Src, ProtoTCP)
	return size
}

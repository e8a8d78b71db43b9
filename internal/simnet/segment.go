package simnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Flags are the control bits of a TCP header.
type Flags uint8

// The control bits that matter here.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// String returns one letter for each flag, as in S.
func (f Flags) String() string {
	var b strings.Builder
	for _, x := range []struct {
		flag Flags
		name byte
	}{{SYN, 'S'}, {FIN, 'F'}, {RST, 'R'}, {PSH, 'P'}, {URG, 'U'}, {ACK, '.'}} {
		if f&x.flag != 0 {
			b.WriteByte(x.name)
		}
	}
	return b.String()
}

// Block is a SACK block: the sequence numbers from Left up to, but not including, Right.
type Block struct{ Left, Right uint32 }

// Segment is a TCP segment with the addresses of its IP packet. The simulator has its own
// code for packets, so that it does not share an error with the code that it judges.
type Segment struct {
	Src, Dst netip.AddrPort
	Seq, Ack uint32
	Flags    Flags
	Window   uint16 // as in the header, not scaled

	MSS           uint16 // 0 without the option
	Scale         int    // the window scale, or -1 without the option
	SACKPermitted bool
	SACK          []Block
	Timestamps    bool
	TSVal, TSEcr  uint32

	Data []byte
}

// Len returns the segment's length in sequence numbers.
func (s *Segment) Len() uint32 {
	n := uint32(len(s.Data))
	if s.Flags&SYN != 0 {
		n++
	}
	if s.Flags&FIN != 0 {
		n++
	}
	return n
}

const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20

	protoTCP    = 6
	protoICMP   = 1
	protoICMPv6 = 58
)

// Kinds of TCP options.
const (
	optEnd, optNop, optMSS, optScale, optSACKPermitted, optSACK, optTimestamps = 0, 1, 2, 3, 4, 5, 8
)

// Packet returns the segment as an IP packet with its checksums.
func (s *Segment) Packet() []byte {
	var options []byte
	if s.MSS != 0 {
		options = binary.BigEndian.AppendUint16(append(options, optMSS, 4), s.MSS)
	}
	if s.SACKPermitted {
		options = append(options, optSACKPermitted, 2)
	}
	if s.Timestamps {
		options = append(options, optTimestamps, 10)
		options = binary.BigEndian.AppendUint32(options, s.TSVal)
		options = binary.BigEndian.AppendUint32(options, s.TSEcr)
	}
	if s.Scale >= 0 {
		options = append(options, optScale, 3, byte(s.Scale))
	}
	if len(s.SACK) > 0 {
		options = append(options, optSACK, byte(2+8*len(s.SACK)))
		for _, b := range s.SACK {
			options = binary.BigEndian.AppendUint32(options, b.Left)
			options = binary.BigEndian.AppendUint32(options, b.Right)
		}
	}
	for len(options)%4 != 0 {
		options = append(options, optNop)
	}
	length := tcpHeader + len(options) + len(s.Data)
	p := ipHeader(s.Src.Addr(), s.Dst.Addr(), protoTCP, length)
	ip := len(p)
	p = binary.BigEndian.AppendUint16(p, s.Src.Port())
	p = binary.BigEndian.AppendUint16(p, s.Dst.Port())
	p = binary.BigEndian.AppendUint32(p, s.Seq)
	p = binary.BigEndian.AppendUint32(p, s.Ack)
	p = append(p, byte((tcpHeader+len(options))/4)<<4, byte(s.Flags))
	p = binary.BigEndian.AppendUint16(p, s.Window)
	p = append(p, 0, 0, 0, 0) // checksum, urgent pointer
	p = append(append(p, options...), s.Data...)
	binary.BigEndian.PutUint16(p[ip+16:], ^sum(p[ip:], pseudoSum(s.Src.Addr(), s.Dst.Addr(), protoTCP, length)))
	return p
}

// ipHeader returns an IP header, with room for length more bytes. Its packets must not be
// fragmented.
func ipHeader(src, dst netip.Addr, proto byte, length int) []byte {
	if src.Is4() {
		p := make([]byte, ipv4Header, ipv4Header+length)
		p[0] = 0x45
		binary.BigEndian.PutUint16(p[2:], uint16(ipv4Header+length))
		p[6] = 0x40
		p[8], p[9] = 64, proto
		copy(p[12:], src.AsSlice())
		copy(p[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(p[10:], ^sum(p, 0))
		return p
	}
	p := make([]byte, ipv6Header, ipv6Header+length)
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], uint16(length))
	p[6], p[7] = proto, 64
	copy(p[8:], src.AsSlice())
	copy(p[24:], dst.AsSlice())
	return p
}

// sum returns the ones' complement sum of b, on top of initial.
func sum(b []byte, initial uint32) uint16 {
	s := uint64(initial)
	for ; len(b) >= 8; b = b[8:] {
		v := binary.BigEndian.Uint64(b)
		s += v>>32 + v&0xffffffff
	}
	for ; len(b) >= 2; b = b[2:] {
		s += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// pseudoSum returns the sum of the pseudo-header.
func pseudoSum(src, dst netip.Addr, proto byte, length int) uint32 {
	return uint32(sum(src.AsSlice(), 0)) + uint32(sum(dst.AsSlice(), 0)) + uint32(proto) + uint32(length>>16) + uint32(length&0xffff)
}

// Errors of [Parse].
var (
	ErrChecksum  = errors.New("wrong checksum")
	ErrMalformed = errors.New("malformed packet")
	ErrNotTCP    = errors.New("not a TCP segment")
)

// Parse returns the segment in a packet, whose memory it shares. It verifies all lengths and
// checksums.
func Parse(p []byte) (Segment, error) {
	src, dst, proto, body, err := parseIP(p)
	if err != nil {
		return Segment{}, err
	}
	if proto != protoTCP {
		return Segment{}, ErrNotTCP
	}
	if len(body) < tcpHeader {
		return Segment{}, ErrMalformed
	}
	if sum(body, pseudoSum(src, dst, protoTCP, len(body))) != 0xffff {
		return Segment{}, ErrChecksum
	}
	return parseTCP(src, dst, body)
}

// parseIP verifies the IP header of a packet. Fragments and extension headers are malformed:
// no TCP sends them.
func parseIP(p []byte) (src, dst netip.Addr, proto byte, body []byte, err error) {
	if len(p) < ipv4Header {
		return src, dst, 0, nil, ErrMalformed
	}
	switch p[0] >> 4 {
	case 4:
		header, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
		if header < ipv4Header || header > total || total != len(p) || binary.BigEndian.Uint16(p[6:])&0x3fff != 0 {
			return src, dst, 0, nil, ErrMalformed
		}
		if sum(p[:header], 0) != 0xffff {
			return src, dst, 0, nil, ErrChecksum
		}
		return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), p[9], p[header:], nil
	case 6:
		if len(p) < ipv6Header || int(binary.BigEndian.Uint16(p[4:])) != len(p)-ipv6Header {
			return src, dst, 0, nil, ErrMalformed
		}
		return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), p[6], p[ipv6Header:], nil
	default:
		return src, dst, 0, nil, ErrMalformed
	}
}

// parseTCP parses a TCP header without looking at its checksum.
func parseTCP(src, dst netip.Addr, b []byte) (Segment, error) {
	s := Segment{
		Src: netip.AddrPortFrom(src, binary.BigEndian.Uint16(b)), Dst: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:])),
		Seq: binary.BigEndian.Uint32(b[4:]), Ack: binary.BigEndian.Uint32(b[8:]),
		Flags: Flags(b[13] & 0x3f), Window: binary.BigEndian.Uint16(b[14:]), Scale: -1,
	}
	header := int(b[12]>>4) * 4
	if header < tcpHeader || header > len(b) {
		return Segment{}, ErrMalformed
	}
	s.Data = b[header:]
	for o := b[tcpHeader:header]; len(o) > 0 && o[0] != optEnd; {
		if o[0] == optNop {
			o = o[1:]
			continue
		}
		if len(o) < 2 || int(o[1]) < 2 || int(o[1]) > len(o) {
			return Segment{}, ErrMalformed
		}
		value := o[2:o[1]]
		switch {
		case o[0] == optMSS && len(value) == 2:
			s.MSS = binary.BigEndian.Uint16(value)
		case o[0] == optScale && len(value) == 1:
			s.Scale = int(value[0])
		case o[0] == optSACKPermitted && len(value) == 0:
			s.SACKPermitted = true
		case o[0] == optSACK && len(value)%8 == 0:
			for ; len(value) > 0; value = value[8:] {
				s.SACK = append(s.SACK, Block{binary.BigEndian.Uint32(value), binary.BigEndian.Uint32(value[4:])})
			}
		case o[0] == optTimestamps && len(value) == 8:
			s.Timestamps, s.TSVal, s.TSEcr = true, binary.BigEndian.Uint32(value), binary.BigEndian.Uint32(value[4:])
		}
		o = o[o[1]:]
	}
	return s, nil
}

// ResetFor returns the reset with which a host answers a segment that belongs to no connection
// (RFC 9293, section 3.10.7.1), or nil if the segment is a reset.
func ResetFor(s *Segment) []byte {
	if s.Flags&RST != 0 {
		return nil
	}
	r := Segment{Src: s.Dst, Dst: s.Src, Flags: RST, Scale: -1}
	if s.Flags&ACK != 0 {
		r.Seq = s.Ack
	} else {
		r.Flags |= ACK
		r.Ack = s.Seq + s.Len()
	}
	return r.Packet()
}

// tooBig returns the ICMP error with which a router refuses a packet that is larger than mtu.
// It quotes the headers and a few bytes.
func tooBig(packet []byte, mtu int) []byte {
	src, dst, _, _, err := parseIP(packet)
	if err != nil {
		return nil
	}
	quote := packet[:min(len(packet), 68)]
	body := make([]byte, 8, 8+len(quote))
	if src.Is4() {
		body[0], body[1] = 3, 4 // destination unreachable: fragmentation needed
		binary.BigEndian.PutUint16(body[6:], uint16(mtu))
		body = append(body, quote...)
		binary.BigEndian.PutUint16(body[2:], ^sum(body, 0))
		return append(ipHeader(dst, src, protoICMP, len(body)), body...)
	}
	body[0] = 2 // packet too big
	binary.BigEndian.PutUint32(body[4:], uint32(mtu))
	body = append(body, quote...)
	binary.BigEndian.PutUint16(body[2:], ^sum(body, pseudoSum(dst, src, protoICMPv6, len(body))))
	return append(ipHeader(dst, src, protoICMPv6, len(body)), body...)
}

// TooBig returns the MTU that an ICMP error reports. ok is false for any other packet, and for
// an error with a wrong checksum.
func TooBig(p []byte) (mtu int, ok bool) {
	src, dst, proto, body, err := parseIP(p)
	switch {
	case err != nil || len(body) < 8:
		return 0, false
	case proto == protoICMP && body[0] == 3 && body[1] == 4 && sum(body, 0) == 0xffff:
		return int(binary.BigEndian.Uint16(body[6:])), true
	case proto == protoICMPv6 && body[0] == 2 && sum(body, pseudoSum(src, dst, protoICMPv6, len(body))) == 0xffff:
		return int(binary.BigEndian.Uint32(body[4:])), true
	}
	return 0, false
}

// describe returns the segment on one line, with sequence numbers relative to those of the
// connection's SYN segments.
func (s *Segment) describe(seq0, ack0 uint32) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-4s seq %d", s.Flags, s.Seq-seq0)
	if n := s.Len(); n > 0 {
		fmt.Fprintf(&b, "-%d (%d bytes)", s.Seq-seq0+n, len(s.Data))
	}
	if s.Flags&ACK != 0 {
		fmt.Fprintf(&b, " ack %d", s.Ack-ack0)
	}
	fmt.Fprintf(&b, " win %d", s.Window)
	if s.MSS != 0 {
		fmt.Fprintf(&b, " mss %d", s.MSS)
	}
	if s.Scale >= 0 {
		fmt.Fprintf(&b, " scale %d", s.Scale)
	}
	if s.SACKPermitted {
		b.WriteString(" sack-permitted")
	}
	for _, k := range s.SACK {
		fmt.Fprintf(&b, " sack %d-%d", k.Left-ack0, k.Right-ack0)
	}
	return b.String()
}

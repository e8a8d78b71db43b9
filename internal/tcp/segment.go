package tcp

import (
	"encoding/binary"
	"errors"
)

// Flags are the control bits of a TCP header.
type Flags uint8

// The control bits that the package uses.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

const (
	headerSize    = 20
	maxHeaderSize = 60

	optEnd           = 0
	optNop           = 1
	optMSS           = 2
	optScale         = 3
	optSACKPermitted = 4
	optSACK          = 5
	optTimestamps    = 8

	// timestampsSize is the size of the timestamps option with its padding.
	timestampsSize = 12
	// maxScale is the largest window scale (RFC 7323, section 2.3).
	maxScale = 14
	// maxBlocks is the number of SACK blocks that a header without timestamps has room for.
	maxBlocks = 4
)

// Block is a SACK block: the sequence numbers from Left up to, but not including, Right.
type Block struct{ Left, Right uint32 }

// Segment is a TCP segment, or consecutive segments of one connection that were merged into one.
type Segment struct {
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            Flags
	Window           uint16 // as in the header, not scaled
	Urgent           uint16

	MSS           uint16 // 0 without the option
	Scale         int8   // the window scale, at most 14; -1 without the option
	SACKPermitted bool
	Timestamps    bool // TSVal and TSEcr are set
	TSVal, TSEcr  uint32
	Blocks        int // the number of SACK blocks in SACK
	SACK          [maxBlocks]Block

	Payload []byte
}

// Len returns the segment's length in sequence numbers.
func (s *Segment) Len() uint32 {
	n := uint32(len(s.Payload))
	if s.Flags&SYN != 0 {
		n++
	}
	if s.Flags&FIN != 0 {
		n++
	}
	return n
}

// ErrMalformed is the error of [Parse].
var ErrMalformed = errors.New("the TCP header is truncated")

// Parse returns the segment whose header is at the start of b and whose payload is the rest; the payload aliases b.
// It does not verify the checksum. Options are read up to the first one that is malformed: the rest is ignored, as
// RFC 9293, section 3.1, leaves open and most hosts do.
func Parse(b []byte) (Segment, error) {
	if len(b) < headerSize {
		return Segment{}, ErrMalformed
	}
	size := int(b[12]>>4) * 4
	if size < headerSize || size > len(b) {
		return Segment{}, ErrMalformed
	}
	s := Segment{
		SrcPort: binary.BigEndian.Uint16(b), DstPort: binary.BigEndian.Uint16(b[2:]),
		Seq: binary.BigEndian.Uint32(b[4:]), Ack: binary.BigEndian.Uint32(b[8:]),
		Flags: Flags(b[13]), Window: binary.BigEndian.Uint16(b[14:]), Urgent: binary.BigEndian.Uint16(b[18:]),
		Scale: -1, Payload: b[size:],
	}
	s.parseOptions(b[headerSize:size])
	return s, nil
}

func (s *Segment) parseOptions(o []byte) {
	// The layout of nearly all segments: two no-operations and timestamps.
	if len(o) == timestampsSize && binary.BigEndian.Uint32(o) == optNop<<24|optNop<<16|optTimestamps<<8|10 {
		s.Timestamps, s.TSVal, s.TSEcr = true, binary.BigEndian.Uint32(o[4:]), binary.BigEndian.Uint32(o[8:])
		return
	}
	for len(o) > 0 && o[0] != optEnd {
		if o[0] == optNop {
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return
		}
		s.parseOption(o[0], o[2:o[1]])
		o = o[o[1]:]
	}
}

// parseOption reads an option. One with another length than its kind has is ignored.
func (s *Segment) parseOption(kind byte, value []byte) {
	switch {
	case kind == optMSS && len(value) == 2:
		s.MSS = binary.BigEndian.Uint16(value)
	case kind == optScale && len(value) == 1:
		s.Scale = int8(min(value[0], maxScale))
	case kind == optSACKPermitted && len(value) == 0:
		s.SACKPermitted = true
	case kind == optSACK && len(value)%8 == 0:
		s.Blocks = 0
		for ; len(value) > 0 && s.Blocks < maxBlocks; value = value[8:] {
			s.SACK[s.Blocks] = Block{binary.BigEndian.Uint32(value), binary.BigEndian.Uint32(value[4:])}
			s.Blocks++
		}
	case kind == optTimestamps && len(value) == 8:
		s.Timestamps, s.TSVal, s.TSEcr = true, binary.BigEndian.Uint32(value), binary.BigEndian.Uint32(value[4:])
	}
}

// appendHeader appends the segment's header with its options to b, and returns it. The checksum is zero, and the
// payload is not appended.
func (s *Segment) appendHeader(b []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, s.SrcPort)
	b = binary.BigEndian.AppendUint16(b, s.DstPort)
	b = binary.BigEndian.AppendUint32(b, s.Seq)
	b = binary.BigEndian.AppendUint32(b, s.Ack)
	b = append(b, 0, byte(s.Flags))
	b = binary.BigEndian.AppendUint16(b, s.Window)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, s.Urgent)
	if s.MSS != 0 {
		b = append(b, optMSS, 4)
		b = binary.BigEndian.AppendUint16(b, s.MSS)
	}
	if s.SACKPermitted {
		b = append(b, optNop, optNop, optSACKPermitted, 2)
	}
	if s.Scale >= 0 {
		b = append(b, optNop, optScale, 3, byte(s.Scale))
	}
	if s.Timestamps {
		b = append(b, optNop, optNop, optTimestamps, 10)
		b = binary.BigEndian.AppendUint32(b, s.TSVal)
		b = binary.BigEndian.AppendUint32(b, s.TSEcr)
	}
	if s.Blocks > 0 {
		b = append(b, optNop, optNop, optSACK, byte(2+8*s.Blocks))
		for _, k := range s.SACK[:s.Blocks] {
			b = binary.BigEndian.AppendUint32(b, k.Left)
			b = binary.BigEndian.AppendUint32(b, k.Right)
		}
	}
	b[start+12] = byte((len(b)-start)/4) << 4
	return b
}

// ResetFor returns the header of the reset with which a host answers a segment that belongs to no connection (RFC 9293,
// section 3.10.7.1), with ports, and a checksum of zero. ok is false if the segment is a reset: it has no answer.
func ResetFor(s *Segment) (header []byte, ok bool) {
	if s.Flags&RST != 0 {
		return nil, false
	}
	r := Segment{SrcPort: s.DstPort, DstPort: s.SrcPort, Flags: RST, Scale: -1}
	if s.Flags&ACK != 0 {
		r.Seq = s.Ack
	} else {
		r.Flags |= ACK
		r.Ack = s.Seq + s.Len()
	}
	return r.appendHeader(nil), true
}

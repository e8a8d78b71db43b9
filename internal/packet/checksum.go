package packet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// PseudoSum returns the part of a transport's checksum that covers the pseudo header of RFC 9293
// section 3.1 or RFC 8200 section 8.1, as the partial sum that [Checksum] takes; length is that
// of the transport's header and data. The addresses must be of one family.
func PseudoSum(src, dst netip.Addr, protocol uint8, length int) uint64 {
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

// Checksum returns the Internet checksum (RFC 1071) of b, added to a partial sum. Over data that
// contains its own correct checksum, the result is 0. The sum of 16-bit words does not depend on
// their byte order, and can be taken 64 bits at a time if carries are added back.
func Checksum(b []byte, sum uint64) uint16 {
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

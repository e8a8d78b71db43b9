package packet

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestChecksumMatchesRFC1071(t *testing.T) {
	// The example of RFC 1071 section 3.
	if got := Checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0); got != ^uint16(0xddf2) {
		t.Errorf("checksum %04x, want %04x", got, ^uint16(0xddf2))
	}
	slow := func(b []byte) uint16 {
		var sum uint32
		for i, c := range b {
			sum += uint32(c) << (8 * (1 - i%2))
			sum = sum>>16 + sum&0xffff
		}
		return ^uint16(sum)
	}
	for n := range 200 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		// If all bits are set, every addition carries.
		for _, b := range [][]byte{b, bytes.Repeat([]byte{0xff}, n)} {
			if got, want := Checksum(b, 0), slow(b); got != want {
				t.Fatalf("%d bytes %x: %04x, want %04x", n, b, got, want)
			}
		}
	}
}

func BenchmarkChecksum1200(b *testing.B) {
	data := make([]byte, 1200)
	b.SetBytes(1200)
	for b.Loop() {
		Checksum(data, 0)
	}
}

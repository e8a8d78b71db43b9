package packet

import (
	"bytes"
	"testing"
)

// FuzzSlab: packets keep their content, and the gap before, between and after them stays free,
// for any sequence of sizes.
func FuzzSlab(f *testing.F) {
	f.Add([]byte{0, 1, 20, 255, 7}, uint16(700), uint8(4))
	f.Add([]byte{1}, uint16(2*SlabGap), uint8(1))
	f.Add([]byte{1}, uint16(2*SlabGap+1), uint8(1))
	f.Add([]byte{1, 1}, uint16(4000), uint8(0))
	f.Fuzz(func(t *testing.T, sizes []byte, room uint16, most uint8) {
		const free = 0xEE
		buf := bytes.Repeat([]byte{free}, int(room))
		var s Slab
		if s.Add(1) != nil {
			t.Error("the zero slab has room")
		}
		s.Reset(buf, int(most))
		used, added := SlabGap, []int{}
		for i, size := range sizes {
			fits := len(added) < int(most) && used+int(size)+SlabGap <= len(buf)
			if size > 0 && fits != (s.Room(int(size)) > 0) || s.Room(max(int(size), 1)) > int(most)-len(added) {
				t.Fatalf("packet %d of %d bytes: room for %d", i, size, s.Room(int(size)))
			}
			p := s.Add(int(size))
			if (p != nil) != fits || p != nil && len(p) != int(size) || s.Len() < len(added) {
				t.Fatalf("packet %d of %d bytes: got %d bytes, fits: %t", i, size, len(p), fits)
			}
			if !fits {
				continue
			}
			for k := range p {
				p[k] = byte(i)
			}
			added, used = append(added, i), used+int(size)+SlabGap
		}
		if s.Len() != len(added) || s.Full() != (len(added) == int(most)) {
			t.Fatalf("%d packets, full: %t; added %d of at most %d", s.Len(), s.Full(), len(added), most)
		}
		end := 0
		for n, i := range added {
			p, offset := s.Packet(n)
			if offset != end+SlabGap || !bytes.Equal(p, bytes.Repeat([]byte{byte(i)}, int(sizes[i]))) {
				t.Fatalf("packet %d is %x at %d", n, p, offset)
			}
			if gap := buf[end:offset]; !bytes.Equal(gap, bytes.Repeat([]byte{free}, SlabGap)) {
				t.Fatalf("the gap before packet %d is %x", n, gap)
			}
			end = offset + len(p)
		}
	})
}

package packet

// SlabGap is the number of bytes that a [Slab] leaves free before the first packet, between
// packets, and after the last one. WireGuard puts its header and tag there, so that it encrypts
// packets in place.
const SlabGap = 64

// Slab is a list of packets in one buffer, in the order in which they were added. A batch takes
// the memory of its packets and gaps, not that of the largest packet for each of them. The zero
// value has room for nothing: see [Slab.Reset]. A Slab is not safe for concurrent use.
type Slab struct {
	buf    []byte
	places []place
	most   int // bounds the packets
	end    int // of the last packet in buf
}

// place is where one packet lies in buf.
type place struct{ offset, size int }

// Reset empties the slab, and has it place up to most packets in buf, which it does not own.
func (s *Slab) Reset(buf []byte, most int) {
	s.buf, s.most, s.end, s.places = buf, most, 0, s.places[:0]
}

// Add adds a packet of size bytes, and returns it for the caller to fill in: its content is
// undefined. It returns nil, and adds nothing, if the slab has no room for it.
func (s *Slab) Add(size int) []byte {
	start := s.end + SlabGap
	end := start + size
	if len(s.places) >= s.most || end+SlabGap > len(s.buf) {
		return nil
	}
	s.places, s.end = append(s.places, place{start, size}), end
	return s.buf[start:end:end]
}

// Full reports whether the slab has as many packets as it may have.
func (s *Slab) Full() bool { return len(s.places) >= s.most }

// Room returns how many packets of up to size bytes, which is positive, can be added.
func (s *Slab) Room(size int) int {
	return max(0, min(s.most-len(s.places), (len(s.buf)-s.end-SlabGap)/(SlabGap+size)))
}

// Len returns the number of packets.
func (s *Slab) Len() int { return len(s.places) }

// Packet returns packet i, which begins at offset of the buffer.
func (s *Slab) Packet(i int) (p []byte, offset int) {
	at := s.places[i]
	return s.buf[at.offset : at.offset+at.size : at.offset+at.size], at.offset
}

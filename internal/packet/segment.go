package packet

import (
	"encoding/binary"
	"net/netip"
)

// SegmentRun is a run of TCP segments under one IP header without options and one TCP header, as
// a stack hands it over for segmentation by the device. It aliases the stack's memory.
type SegmentRun struct {
	// IP and TCP are the headers. Lengths and checksums in them are ignored. The sequence
	// number is that of the first segment; FIN and PSH are for the last.
	IP, TCP []byte
	// Pieces are the run's data in order, after Skip bytes of something else, such as headers.
	Pieces [][]byte
	Skip   int
	// Size is the size of the run's data, without the headers.
	Size int
	// MSS is the size of each segment's data, of which the last may have less; positive
	// unless Size is 0.
	MSS int
}

// Split adds the segments of the run to a slab as packets, with segment from first. Copying and
// splitting are one pass over the data. It returns the number of packets added, and whether the
// last segment is among them: a client may ask for segments so small that a run has more of them
// than the slab has room for.
func (r *SegmentRun) Split(from int, to *Slab) (n int, all bool) {
	headers := len(r.IP) + len(r.TCP)
	count := 1
	if r.Size > 0 {
		count = (r.Size + r.MSS - 1) / r.MSS
	}
	source := pieceReader{pieces: r.Pieces, skip: r.Skip + from*r.MSS}
	for i := from; i < count; i++ {
		b := to.Add(headers + min(r.MSS, r.Size-i*r.MSS))
		if b == nil {
			break
		}
		copy(b, r.IP)
		copy(b[len(r.IP):], r.TCP)
		source.read(b[headers:])
		finishTCP(b, len(r.IP), i*r.MSS, i == count-1)
		n++
	}
	return n, from+n == count
}

// finishTCP completes b, a copy of the run's headers followed by one segment's data: it sets
// lengths, sequence number, flags and checksums. before is the size of the run's data in front
// of the segment.
func finishTCP(b []byte, ipLen, before int, last bool) {
	tcp := b[ipLen:]
	var src, dst netip.Addr
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[10:], 0)
		binary.BigEndian.PutUint16(b[10:], Checksum(b[:ipLen], 0))
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-IPv6Header))
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	}
	binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(before))
	if !last {
		tcp[13] &^= byte(FIN | PSH)
	}
	binary.BigEndian.PutUint16(tcp[16:], 0)
	binary.BigEndian.PutUint16(tcp[16:], Checksum(tcp, PseudoSum(src, dst, ProtoTCP, len(tcp))))
}

// pieceReader reads the bytes of pieces in sequence, without the first skip bytes.
type pieceReader struct {
	pieces [][]byte
	skip   int
}

func (r *pieceReader) read(b []byte) {
	for len(b) > 0 && len(r.pieces) > 0 {
		s := r.pieces[0]
		if r.skip >= len(s) {
			r.skip -= len(s)
			r.pieces = r.pieces[1:]
			continue
		}
		n := copy(b, s[r.skip:])
		b = b[n:]
		r.skip += n
	}
}

package forward

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// segment splits a packet of the stack, which for TCP may be a run of segments under one
// header, into packets. Copying and splitting are one pass over the data; checksums, which the
// stack left out, are computed here. It starts with segment number from, and returns the number
// of packets written and whether the last segment is among them: a client may ask for segments
// so small that a run has more of them than bufs.
func segment(pkt *stack.PacketBuffer, from int, bufs [][]byte, sizes []int, offset int) (n int, all bool) {
	ip, transport := pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()
	headers := len(ip) + len(transport)
	data := pkt.Data()
	per := data.Size()
	if pkt.GSOOptions.Type != stack.GSONone {
		per = int(pkt.GSOOptions.MSS)
	}
	count := 1
	if per > 0 {
		count = (data.Size() + per - 1) / per
	}
	count = max(count, 1)
	source := reader{slices: pkt.AsSlices(), skip: headers + from*per}
	for i := from; i < count && n < len(bufs); i++ {
		length := min(per, data.Size()-i*per)
		b := bufs[n][offset : offset+headers+length]
		copy(b, ip)
		copy(b[len(ip):], transport)
		source.read(b[headers:])
		sizes[n] = len(b)
		n++
		if pkt.TransportProtocolNumber == header.TCPProtocolNumber {
			finishTCP(b, len(ip), i*per, i == count-1)
		}
	}
	return n, from+n == count
}

// finishTCP completes b, a copy of the run's headers followed by one segment's data: it sets
// lengths, sequence number, flags and checksums.
func finishTCP(b []byte, ipLen, before int, last bool) {
	tcp := b[ipLen:]
	var src, dst netip.Addr
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[10:], 0)
		binary.BigEndian.PutUint16(b[10:], checksum(b[:ipLen], 0))
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6Header))
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	}
	binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(before))
	if !last {
		tcp[13] &^= byte(header.TCPFlagFin | header.TCPFlagPsh)
	}
	binary.BigEndian.PutUint16(tcp[16:], 0)
	binary.BigEndian.PutUint16(tcp[16:], checksum(tcp, pseudoSum(src, dst, protoTCP, len(tcp))))
}

// reader reads the data of a packet's slices in sequence.
type reader struct {
	slices [][]byte
	skip   int
}

func (r *reader) read(b []byte) {
	for len(b) > 0 && len(r.slices) > 0 {
		s := r.slices[0]
		if r.skip >= len(s) {
			r.skip -= len(s)
			r.slices = r.slices[1:]
			continue
		}
		n := copy(b, s[r.skip:])
		b = b[n:]
		r.skip += n
	}
}

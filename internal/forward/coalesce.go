package forward

import (
	"bytes"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// tcpRun gathers consecutive segments of one connection in a batch, to hand them to the
// stack as one: a packet costs the stack the same whatever its size. The payload is copied
// once, into one buffer of the stack, from which the target's socket is written.
//
// gVisor's own coalescing (package gro) chains the packets instead, and each piece is then
// counted, cloned and copied separately.
type tcpRun struct {
	endpoint *linkEndpoint
	first    inbound  // the run has its headers
	headers  int      // length of the IP and TCP headers
	pieces   [][]byte // the payload of each segment
	bytes    int      // sum of the pieces
	flags    byte     // PSH and FIN, if any segment has them
}

// add takes a segment whose header length and checksums are verified. The segment must stay
// valid until flush.
func (r *tcpRun) add(p *inbound, segment []byte) {
	headers := len(p.raw) - len(segment) + int(segment[12]>>4)*4
	flags := segment[13]
	const plain, ends = header.TCPFlagAck, header.TCPFlagPsh | header.TCPFlagFin
	data := p.raw[headers:]
	if len(data) == 0 || header.TCPFlags(flags)&^ends != plain {
		r.flush()
		r.endpoint.deliver(p)
		return
	}
	if len(r.pieces) > 0 && !r.follows(p, segment, headers, len(data)) {
		r.flush()
	}
	if len(r.pieces) == 0 {
		r.first, r.headers = *p, headers
	}
	r.pieces = append(r.pieces, data)
	r.bytes += len(data)
	r.flags |= flags & byte(ends)
	// A PSH, a FIN or a short segment ends a burst: no more segments follow soon.
	if flags&byte(ends) != 0 || len(data) < len(r.pieces[0]) {
		r.flush()
	}
}

// follows reports whether a segment continues the run: the headers are equal except for
// lengths, checksums, the next sequence number, PSH and FIN.
func (r *tcpRun) follows(p *inbound, segment []byte, headers, data int) bool {
	a, b := r.first.raw[:r.headers], p.raw[:headers]
	if len(a) != len(b) || data > len(r.pieces[0]) || r.headers+r.bytes+data > maxRunBytes || p.src.Is4() != r.first.src.Is4() {
		return false
	}
	ip := len(p.raw) - len(segment)
	if p.src.Is4() {
		// Version and type of service; flags to protocol; addresses and options.
		if !bytes.Equal(a[:2], b[:2]) || !bytes.Equal(a[6:10], b[6:10]) || !bytes.Equal(a[12:ip], b[12:ip]) {
			return false
		}
	} else if !bytes.Equal(a[:4], b[:4]) || !bytes.Equal(a[6:ip], b[6:ip]) {
		return false
	}
	a, b = a[ip:], b[ip:]
	return binary.BigEndian.Uint32(b[4:]) == binary.BigEndian.Uint32(a[4:])+uint32(r.bytes) &&
		bytes.Equal(a[:4], b[:4]) && // ports
		bytes.Equal(a[8:13], b[8:13]) && // acknowledgement, length
		bytes.Equal(a[14:16], b[14:16]) && // window
		bytes.Equal(a[18:], b[18:]) // urgent pointer, options
}

// flush hands the gathered segments to the stack.
func (r *tcpRun) flush() {
	switch len(r.pieces) {
	case 0:
		return
	case 1:
		r.endpoint.deliver(&r.first)
	default:
		view := buffer.NewView(r.headers + r.bytes)
		view.Write(r.first.raw[:r.headers])
		for _, piece := range r.pieces {
			view.Write(piece)
		}
		whole := view.AsSlice()
		if r.first.src.Is4() {
			binary.BigEndian.PutUint16(whole[2:], uint16(len(whole)))
		} else {
			binary.BigEndian.PutUint16(whole[4:], uint16(len(whole)-ipv6Header))
		}
		transportOf(whole)[13] |= r.flags
		r.endpoint.inject(&r.first, buffer.MakeWithView(view))
	}
	clear(r.pieces)
	r.first, r.pieces, r.bytes, r.flags = inbound{}, r.pieces[:0], 0, 0
}

// deliver hands the stack a copy of a packet whose checksums are verified.
func (e *linkEndpoint) deliver(p *inbound) { e.inject(p, buffer.MakeWithData(p.raw)) }

// inject hands packet to the stack; p has its addresses.
func (e *linkEndpoint) inject(p *inbound, packet buffer.Buffer) {
	number := header.IPv6ProtocolNumber
	if p.src.Is4() {
		number = header.IPv4ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: packet})
	pkt.NetworkProtocolNumber = number
	pkt.RXChecksumValidated = true
	e.dispatcher.DeliverNetworkPacket(number, pkt)
	pkt.DecRef()
}

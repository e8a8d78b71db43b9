package packet

import (
	"bytes"
	"encoding/binary"
	"io"
)

// MaxRun bounds the data of a run in bytes: an IPv4 packet's length has 16 bits.
const MaxRun = 65000

// maxTCPHeaders is the largest size of an IP header and a TCP header, both with options.
const maxTCPHeaders = 60 + 60

// Sink takes the packets of a [Coalescer].
type Sink interface {
	// Single takes one packet as it was added. It may use p during the call only.
	Single(p *Packet)
	// Merged takes several segments as one packet, which r writes. It must not add to r.
	Merged(r *Coalescer)
}

// Coalescer gathers consecutive segments of one connection, to pass them on as one packet: a
// packet costs a stack the same whatever its size. Set Sink before the first call. It may not be
// used by several goroutines at once.
//
// The segments reach the sink in the order in which they were added, before Add or Flush
// returns; only those of a run that may continue wait for a later call. A merged packet has
// their data, the first one's headers, and PSH and FIN if any of them has.
type Coalescer struct {
	Sink Sink

	first  Packet // the run has its headers
	size   int    // of first's IP and TCP headers
	pieces [][]byte
	bytes  int      // sum of the pieces
	flags  TCPFlags // PSH and FIN, if any segment has them
	header [maxTCPHeaders]byte
}

// Add takes a packet and the segment in it that [Packet.Segment] returned. The segment must stay
// valid until Flush; p need not.
func (c *Coalescer) Add(p *Packet, segment []byte) {
	headers := p.Size + tcpHeaderSize(segment)
	flags := TCPFlags(segment[13])
	const ends = PSH | FIN
	data := p.Raw[headers:]
	if len(data) == 0 || flags&^ends != ACK {
		c.Flush()
		c.Sink.Single(p)
		return
	}
	if len(c.pieces) > 0 && !c.follows(p, segment, headers, len(data)) {
		c.Flush()
	}
	if len(c.pieces) == 0 {
		c.first, c.size = *p, headers
	}
	c.pieces = append(c.pieces, data)
	c.bytes += len(data)
	c.flags |= flags & ends
	// A PSH, a FIN or a short segment ends a burst: no more segments follow soon.
	if flags&ends != 0 || len(data) < len(c.pieces[0]) {
		c.Flush()
	}
}

// follows reports whether a segment continues the run: the headers are equal except for
// lengths, checksums, the next sequence number, PSH and FIN.
func (c *Coalescer) follows(p *Packet, segment []byte, headers, data int) bool {
	a, b := c.first.Raw[:c.size], p.Raw[:headers]
	if len(a) != len(b) || data > len(c.pieces[0]) || c.size+c.bytes+data > MaxRun || p.Src.Is4() != c.first.Src.Is4() {
		return false
	}
	ip := len(p.Raw) - len(segment)
	if p.Src.Is4() {
		// Version and type of service; flags to protocol; addresses and options.
		if !bytes.Equal(a[:2], b[:2]) || !bytes.Equal(a[6:10], b[6:10]) || !bytes.Equal(a[12:ip], b[12:ip]) {
			return false
		}
	} else if !bytes.Equal(a[:4], b[:4]) || !bytes.Equal(a[6:ip], b[6:ip]) {
		return false
	}
	a, b = a[ip:], b[ip:]
	return binary.BigEndian.Uint32(b[4:]) == binary.BigEndian.Uint32(a[4:])+uint32(c.bytes) &&
		bytes.Equal(a[:4], b[:4]) && // ports
		bytes.Equal(a[8:13], b[8:13]) && // acknowledgement, length
		bytes.Equal(a[14:16], b[14:16]) && // window
		bytes.Equal(a[18:], b[18:]) // urgent pointer, options
}

// Flush passes the gathered segments on. After it the Coalescer refers to no packet.
func (c *Coalescer) Flush() {
	switch len(c.pieces) {
	case 0:
		return
	case 1:
		c.Sink.Single(&c.first)
	default:
		c.Sink.Merged(c)
	}
	clear(c.pieces)
	c.first, c.pieces, c.bytes, c.flags = Packet{}, c.pieces[:0], 0, 0
}

// First returns the first packet of the run that [Sink.Merged] was given, whose addresses and
// protocol are those of all of them. It is valid during that call.
func (c *Coalescer) First() *Packet { return &c.first }

// Len returns the size of the merged packet.
func (c *Coalescer) Len() int { return c.size + c.bytes }

// Write writes the merged packet to w, a piece at a time and each byte once. Its length field is
// set; its checksums are those of the first segment, and wrong. It returns w's first error.
func (c *Coalescer) Write(w io.Writer) error {
	h := c.header[:copy(c.header[:], c.first.Raw[:c.size])]
	if c.first.Src.Is4() {
		binary.BigEndian.PutUint16(h[2:], uint16(c.Len()))
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(c.Len()-IPv6Header))
	}
	h[c.first.Size+13] |= byte(c.flags)
	if _, err := w.Write(h); err != nil {
		return err
	}
	for _, piece := range c.pieces {
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

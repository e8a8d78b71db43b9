package tcp

import (
	"slices"
	"time"
)

const (
	// maxEarly bounds the gapless ranges of bytes that wait for those in front of them.
	maxEarly = 256
	// initialWindow is the receive window before the first measurement: more than any sender's initial window, so that
	// slow start is not held back.
	initialWindow = 128 << 10
	// ownScale is the window scale that this end offers: windows up to 16 MiB, in steps of 256 bytes.
	ownScale = 8
	// delayedACK is the longest time that an acknowledgement waits for a second segment or for data of this end. RFC
	// 9293, section 3.8.6.3, allows 500 ms; Linux begins at 40 ms.
	delayedACK = 40 * time.Millisecond
	// quickACKs is the number of segments, at the start and after an idle period, that are acknowledged at once: the
	// peer's congestion window grows with each.
	quickACKs = 16
)

// span is the positions from its first up to, but not including, its second.
type span struct{ from, to int64 }

// receiver is the state of the peer's stream: consumed ≤ next ≤ edge.
type receiver struct {
	buffer receiveBuffer
	// borrowed are the bytes from position consumed on, in memory of the caller of DeliverDirect. Nothing else is
	// buffered while there are any.
	borrowed []byte
	direct   bool  // during DeliverDirect
	consumed int64 // the application has taken the bytes before
	next     int64 // RCV.NXT: the first position that is missing
	edge     int64 // the end of the offered window; it never moves back
	acked    int64 // the last acknowledgement that was sent
	finAt    int64 // the position of the peer's FIN; -1: unknown
	early    []span
	recent   [maxBlocks]int64 // positions in the ranges of early, the last changed first
	recents  int
	dsack    span // a duplicate range to report; empty: none

	peerMSS  int // the largest payload of a single segment so far
	unacked  int // bytes since the last acknowledgement
	quick    int // segments to acknowledge at once
	lastData time.Duration
	// interactive is set while data of this end comes in time to carry acknowledgements: then they are not sent at once.
	interactive bool

	limit int // of the window
	tuner tuner

	urgent urgentReceiver
}

func (r *receiver) init(limit int) {
	r.finAt, r.quick = -1, quickACKs
	r.limit = limit
	r.tuner.window = initialWindow
	r.urgent.mark = -1
}

func (r *receiver) setLimit(limit int) { r.limit = limit }

// window returns the size of the window: as tuned for the path, within the present limit.
func (r *receiver) window() int { return max(min(r.tuner.window, r.limit), 0) }

func (r *receiver) clear() {
	r.buffer.release(r.next, true)
	r.buffer, r.borrowed = receiveBuffer{}, nil
	r.early, r.recents = nil, 0
	r.dsack = span{}
	r.urgent.mark = -1
	r.consumed = r.dataEnd()
}

// ended reports whether everything up to the peer's FIN has arrived.
func (r *receiver) ended() bool { return r.finAt >= 0 && r.next > r.finAt }

// dataEnd returns the position after the last byte in order.
func (r *receiver) dataEnd() int64 {
	if r.ended() {
		return r.finAt
	}
	return r.next
}

// position returns the position that a sequence number of the peer has near RCV.NXT.
func (c *Conn) peerPosition(seq uint32) int64 {
	return c.in.next + int64(int32(seq-c.peerSeq(c.in.next)))
}

func (c *Conn) peerSeq(pos int64) uint32 { return c.irs + 1 + uint32(pos) }

// Peek returns the next bytes of the peer's stream, which [Conn.Consume] takes: up to 128 KiB, and none at its end. They
// are valid until the next call of a method.
func (c *Conn) Peek() [][]byte {
	if len(c.in.borrowed) > 0 {
		return append(c.peek[:0], c.in.borrowed)
	}
	return c.in.buffer.pieces(c.peek[:0], c.in.consumed, c.in.dataEnd())
}

// Available returns the number of bytes that can be consumed.
func (c *Conn) Available() int { return int(c.in.dataEnd() - c.in.consumed) }

// ReceivedFIN reports whether the peer's stream has ended. Bytes before the end may still wait to be consumed.
func (c *Conn) ReceivedFIN() bool { return c.in.ended() }

// Consume takes n bytes of Peek, and opens the window for as many.
func (c *Conn) Consume(now time.Duration, n int) {
	r := &c.in
	if n <= 0 || n > c.Available() {
		return
	}
	r.consumed += int64(n)
	r.borrowed = r.borrowed[min(n, len(r.borrowed)):]
	r.buffer.release(r.consumed, r.consumed == r.dataEnd() && len(r.early) == 0)
	r.urgent.consumed(r.consumed)
	r.tuner.consumed(now, r, c.receiverRTT())
	if r.ended() || c.state == Closed {
		return
	}
	// An update of its own is due when the peer may be waiting for it: the window at least doubles, and does not grow by
	// crumbs (RFC 9293, section 3.8.6.2.2). Otherwise the next acknowledgement carries it.
	offered, possible := r.edge-r.next, c.desiredEdge()-r.next
	if possible >= 2*offered && possible-offered >= int64(min(2*r.peerMSS, r.window()/2)) {
		c.ackNow = true
	}
}

// desiredEdge returns the end of the window that the buffer has room for, whatever was offered before.
func (c *Conn) desiredEdge() int64 {
	edge := c.in.consumed + int64(c.in.window())
	if !c.scaling {
		return min(edge, c.in.next+65535)
	}
	return min(edge, c.in.next+65535<<ownScale)
}

// offer moves the offered window and returns it as the header has it. Offered bytes are accepted, so a window that is
// not a multiple of the scale is rounded up, but only up to one step above the buffer's size: the peer could otherwise
// move the edge with each tiny segment. Behind that it is rounded down (RFC 7323, section 2.4).
func (c *Conn) offer(syn bool) uint16 {
	r := &c.in
	if r.ended() {
		return uint16(min((r.edge-min(r.edge, r.next))>>ownScale, 65535))
	}
	scale := 0
	if c.scaling && !syn {
		scale = ownScale
	}
	edge, desired := r.edge, c.desiredEdge()
	// A receiver's part of silly-window avoidance: no steps smaller than a segment.
	if desired-edge >= int64(min(r.peerMSS, r.window()/2)) {
		edge = desired
	}
	units := max(edge-r.next, 0) >> scale
	if up := r.next + (units+1)<<scale; r.next+units<<scale < r.edge && up <= desired+1<<scale {
		units++
	}
	units = min(units, 65535)
	r.edge = max(r.edge, r.next+units<<scale)
	return uint16(units)
}

// accept takes the payload and the FIN of an acceptable segment, at positions from up to to.
func (c *Conn) accept(now time.Duration, s *Segment, from, to int64) {
	r := &c.in
	if s.Len() == 0 {
		return
	}
	if !r.interactive && now-r.lastData > c.rtt.rto {
		r.quick = quickACKs
	}
	r.lastData = now
	data := s.Payload
	if n := len(data); n > r.peerMSS && n <= c.options.MSS {
		r.peerMSS = n
	}
	if to <= r.next { // all of it is a duplicate
		if len(data) > 0 {
			r.dsack = span{from, from + int64(len(data))}
		}
		c.ackNow = true
		return
	}
	if s.Flags&FIN != 0 && from+int64(len(data)) <= r.edge && r.finAt < 0 {
		r.finAt = from + int64(len(data))
	}
	end := min(from+int64(len(data)), r.edge)
	if r.finAt >= 0 {
		end = min(end, r.finAt)
	}
	if from < r.next {
		if cut := r.next - from; cut < int64(len(data)) {
			r.dsack = span{from, r.next}
			data = data[cut:]
		} else {
			data = nil
		}
		from = r.next
	}
	switch {
	case end <= from:
		c.ackNow = true // a FIN, or a probe of a closed window
	case from > r.next:
		c.acceptEarly(from, end, data[:end-from])
	default:
		if r.direct && r.consumed == from && len(r.early) == 0 {
			r.borrowed = data[:end-from]
		} else {
			r.buffer.write(r.consumed, from, data[:end-from])
		}
		c.stats.received += end - from
		r.next = end
		c.schedule(now, int(end-from))
		if len(r.early) > 0 {
			c.closeGap()
		}
	}
	if r.next == r.finAt {
		r.next++
		c.ackNow = true
		c.receivedFIN(now)
	}
}

// schedule plans the acknowledgement of n bytes that have arrived in order.
func (c *Conn) schedule(now time.Duration, n int) {
	r := &c.in
	r.unacked += n
	if r.quick > 0 {
		r.quick--
		c.ackNow = true
		return
	}
	// Bytes of two full segments, or of one merged run.
	if r.unacked >= 2*r.peerMSS || n > r.peerMSS {
		c.ackNow = true
		return
	}
	if c.ackAt == 0 {
		c.ackAt = now + delayedACK
	}
}

// acceptEarly stores bytes behind a gap.
func (c *Conn) acceptEarly(from, to int64, data []byte) {
	r := &c.in
	c.ackNow = true
	// The ranges that overlap with or touch the new one: from low up to high.
	low, _ := slices.BinarySearchFunc(r.early, from, func(x span, at int64) int {
		if x.to < at {
			return -1
		}
		return 1
	})
	high := low
	for high < len(r.early) && r.early[high].from <= to {
		high++
	}
	if low == high && len(r.early) >= maxEarly {
		return // the peer sends it again
	}
	merged := span{from, to}
	if low < high {
		first, last := r.early[low], r.early[high-1]
		if first.from <= from && to <= first.to {
			r.dsack = span{from, to}
			r.touch(from)
			return
		}
		merged = span{min(from, first.from), max(to, last.to)}
	}
	r.buffer.write(r.consumed, from, data)
	r.early = slices.Replace(r.early, low, high, merged)
	r.touch(from)
}

// touch notes that the range of a position has changed last.
func (r *receiver) touch(at int64) {
	r.recents = min(r.recents+1, maxBlocks)
	copy(r.recent[1:r.recents], r.recent[:])
	r.recent[0] = at
}

// closeGap moves on over early ranges that are now in order.
func (c *Conn) closeGap() {
	r := &c.in
	n := 0
	for n < len(r.early) && r.early[n].from <= r.next {
		if r.early[n].to > r.next {
			c.stats.received += r.early[n].to - r.next
			r.next = r.early[n].to
		}
		n++
	}
	// Part of a gap, or all of it, is filled: the peer in a recovery needs to know at once.
	c.ackNow = true
	r.early = slices.Delete(r.early, 0, n)
	if len(r.early) == 0 {
		r.early, r.recents = nil, 0
	}
}

// blocks fills in the SACK blocks of an acknowledgement: a duplicate range first (RFC 2883), then the ranges that have
// changed last (RFC 2018, section 4).
func (c *Conn) blocks(s *Segment) {
	r := &c.in
	if !c.sackOK {
		return
	}
	limit := maxBlocks
	if c.timestamps {
		limit--
	}
	add := func(x span) {
		s.SACK[s.Blocks] = Block{c.peerSeq(x.from), c.peerSeq(x.to)}
		s.Blocks++
	}
	if r.dsack.from < r.dsack.to {
		add(r.dsack)
		r.dsack = span{}
	}
	var used [maxBlocks]int64
	n := 0
	for _, at := range r.recent[:r.recents] {
		i, found := slices.BinarySearchFunc(r.early, at, func(x span, at int64) int {
			switch {
			case x.to <= at:
				return -1
			case x.from > at:
				return 1
			}
			return 0
		})
		if !found || s.Blocks >= limit || slices.Contains(used[:n], r.early[i].from) {
			continue
		}
		used[n] = r.early[i].from
		n++
		add(r.early[i])
	}
	// Ranges that have not changed for long, if there is room: the receiver's view may be known only in part.
	for i := len(r.early) - 1; i >= 0 && s.Blocks < limit; i-- {
		if !slices.Contains(used[:n], r.early[i].from) {
			used[n] = r.early[i].from
			n++
			add(r.early[i])
		}
	}
}

// tuner sizes the receive window (dynamic right-sizing): in a round-trip time the application takes as much as the
// path delivers, and a sender in slow start doubles it in the next.
type tuner struct {
	window  int
	started bool
	since   time.Duration
	bytes   int64 // consumed since then
	last    int64 // in the previous interval
	rtt     time.Duration
	echo    uint32 // the last timestamp that the peer echoed
}

// sample takes a round-trip time as the receiver sees it. The least of a while counts: others include the sender's
// pauses.
func (t *tuner) sample(rtt time.Duration) {
	rtt = max(rtt, time.Millisecond)
	switch {
	case t.rtt == 0 || rtt < t.rtt:
		t.rtt = rtt
	default:
		t.rtt += (rtt - t.rtt) / 16
	}
}

// consumed counts bytes that the application has taken, and widens the window at the end of an interval.
func (t *tuner) consumed(now time.Duration, r *receiver, rtt time.Duration) {
	if !t.started {
		t.started, t.since, t.bytes = true, now, r.consumed
		return
	}
	if rtt == 0 || now-t.since < rtt {
		return
	}
	taken := r.consumed - t.bytes
	// Twice as much as arrived, and more while the rate grows.
	want := 2*taken + 16*int64(r.peerMSS)
	if t.last > 0 && taken > t.last {
		want += 2 * taken * min(taken-t.last, t.last) / t.last
	}
	// An application that takes a burst after a pause has not seen a faster path.
	if now-t.since < 4*rtt {
		t.window = max(t.window, int(min(want, int64(r.limit))))
		t.last = taken
	} else {
		t.last = 0
	}
	t.since, t.bytes = now, r.consumed
}

// receiverRTT returns the round-trip time for the tuner: the sender's estimate, if this end has one, else its own.
func (c *Conn) receiverRTT() time.Duration {
	if c.in.tuner.rtt != 0 {
		return c.in.tuner.rtt
	}
	return c.rtt.smoothed
}

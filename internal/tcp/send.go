package tcp

import "time"

// minRoom is the number of bytes that may wait for the path at least, so that small congestion windows do not make
// for small reads.
const minRoom = 64 << 10

// Run is a run of segments to send, as for segmentation by a device: one header, and consecutive bytes.
type Run struct {
	// Header is the TCP header of the first segment, with its options. Ports and checksum are zero. It is valid until
	// the next call of a method of the Conn. PSH and FIN in it are for the last segment only.
	Header []byte
	// Pieces are the payload in order, likewise valid until the next call.
	Pieces [][]byte
	// Size is the payload of the whole run, and MSS that of each segment but the last, which may have less.
	Size, MSS int

	// MaxSegments, set by the caller, bounds the segments of the run; 0: no bound but that of [Run.Size], 64 KiB.
	MaxSegments int
}

// pacer spreads runs over time.
type pacer struct {
	at       time.Duration // when the next run may be sent
	waiting  bool          // Next returned false for this reason alone
	override bool          // send a part of a segment, since the peer's window stays small
	probe    bool          // send one segment without regard to the congestion window
	// gatherUntil is until when a small part of the congestion window waits for more; 0: none waits.
	gatherUntil time.Duration
}

// maxGather is the longest time for which a part of the congestion window waits for more acknowledgements.
const maxGather = time.Millisecond

// due returns when a run that waits may be sent.
func (p *pacer) due() time.Duration { return max(p.at, p.gatherUntil) }

// paceCredit is how late the caller may be without a loss of rate: runs that were due meanwhile follow at once.
const paceCredit = 2 * time.Millisecond

// spend moves the next time by that of n bytes.
func (p *pacer) spend(now time.Duration, n int, rate int64) {
	if rate <= 0 {
		return
	}
	p.at = max(p.at, now-paceCredit) + time.Duration(int64(n)*int64(time.Second)/rate)
}

// Room returns how many bytes [Conn.Buffer] and [Conn.Commit] take now: as many as the path can use soon. Those that
// are not needed yet had better wait where they come from. It is 0 while there is room only for little, so that
// writes are large.
func (c *Conn) Room() int {
	if c.closing || c.una < 0 && c.state != SynSent && c.state != SynReceived && c.state != Received || c.state == Closed {
		return 0
	}
	path := minRoom
	if c.cc != nil {
		path = max(path, 2*c.cc.Window())
	}
	if c.una >= 0 {
		// Bytes far behind the peer's window wait elsewhere.
		window := int(max(c.edge-c.una, 0))
		path = min(path, window+max(minRoom/2, window/4))
	}
	limit := min(path, c.options.SendLimit)
	held := int(c.out.end - c.out.start)
	// Bytes that the peer has reported and not acknowledged occupy memory, but not the path.
	room := min(path-(held-c.board.sacked), c.options.SendLimit-held)
	least := limit / 4
	if int(c.out.end-max(c.nxt, 0)) < least {
		least = min(least, minRoom/4) // before the path runs dry
	}
	if room < least {
		return 0
	}
	return room
}

// Buffer returns memory for up to n bytes of the own stream, of which [Conn.Commit] takes the first. It may return
// less, and is valid until the next call of Buffer, Commit, CloseWrite or Abort.
func (c *Conn) Buffer(n int) []byte {
	if c.closing || c.state == Closed {
		return nil
	}
	return c.out.buffer(min(n, largestBlock))
}

// Commit appends the first m bytes of the last Buffer to the own stream. With 0, it frees the memory.
func (c *Conn) Commit(_ time.Duration, m int) {
	if c.closing || c.state == Closed {
		return
	}
	c.out.commit(m)
}

// timestamp returns the value of the own timestamp option: milliseconds.
func (c *Conn) timestamp(now time.Duration) uint32 {
	return uint32(now/time.Millisecond) + c.options.TimestampOffset
}

// Next fills r with the next run to send now, and reports false if there is none. The caller calls it until then, after
// each call of a method that has a time.
func (c *Conn) Next(now time.Duration, r *Run) bool {
	r.Header, r.Pieces, r.Size, r.MSS = nil, r.Pieces[:0], 0, 0
	c.maxSegments = r.MaxSegments
	if c.resetDue {
		c.resetDue = false
		c.sendReset(r)
		return true
	}
	c.pace.waiting = false
	switch {
	case c.state == Closed || c.state == Received:
		return false
	case c.synDue:
		c.sendSYN(now, r)
		return true
	case c.una < 0:
		if c.ackNow {
			c.sendACK(now, r, c.nxt)
			return true
		}
		return false
	}
	if c.closing && c.state == Established { // closed during the handshake
		c.state = FinWait1
	} else if c.closing && c.state == CloseWait {
		c.state = LastAck
	}
	// Data does not carry SACK blocks, which would make its segments smaller.
	if c.ackNow && (len(c.in.early) > 0 || c.in.dsack.from < c.in.dsack.to) {
		c.sendACK(now, r, c.nxt)
		return true
	}
	if c.sendData(now, r) {
		return true
	}
	switch {
	case c.probeDue:
		c.probeDue = false
		c.sendACK(now, r, c.una-1)
	case c.ackNow:
		c.sendACK(now, r, c.nxt)
	default:
		return false
	}
	return true
}

// build starts a segment at a position with the fields that all have.
func (c *Conn) build(now time.Duration, flags Flags, pos int64) *Segment {
	s := &c.scratch
	*s = Segment{Seq: c.seq(pos), Flags: flags, Scale: -1}
	if c.state != SynSent {
		s.Flags |= ACK
		s.Ack = c.peerSeq(c.in.next)
		s.Window = c.offer(flags&SYN != 0)
		c.in.acked, c.in.unacked = c.in.next, 0
		c.ackNow, c.ackAt = false, 0
	}
	if c.timestamps || c.state == SynSent {
		s.Timestamps, s.TSVal = true, c.timestamp(now)
		if c.state != SynSent {
			s.TSEcr = c.tsRecent
		}
	}
	return s
}

func (c *Conn) put(s *Segment, r *Run) {
	r.Header = s.appendHeader(c.header[:0])
	c.stats.segments++
}

func (c *Conn) sendReset(r *Run) {
	s := &c.scratch
	*s = Segment{Seq: c.seq(c.resetPos), Flags: RST, Scale: -1}
	if c.state == Closed && c.resetPos >= -1 && c.cc != nil {
		s.Flags |= ACK
		s.Ack = c.peerSeq(c.in.next)
	}
	c.put(s, r)
}

func (c *Conn) sendSYN(now time.Duration, r *Run) {
	c.synDue = false
	s := c.build(now, SYN, -1)
	s.MSS = uint16(min(c.options.MSS, 65535))
	s.SACKPermitted = c.sackOK || c.state == SynSent
	if c.scaling || c.state == SynSent {
		s.Scale = ownScale
	}
	if c.state == SynSent {
		c.in.edge = max(c.in.edge, min(int64(c.in.window()), 65535))
		s.Window = uint16(c.in.edge)
	}
	if c.nxt < 0 {
		c.handshakeRTT = now
	} else {
		c.stats.retransmissions++
		c.handshakeRTT = 0
	}
	c.nxt = 0
	if c.retransmitAt == 0 {
		c.retransmitAt = now + c.backedOff()
	}
	c.put(s, r)
}

// sendACK sends a segment without payload.
func (c *Conn) sendACK(now time.Duration, r *Run, pos int64) {
	s := c.build(now, 0, pos)
	c.blocks(s)
	c.putUrgent(s, pos)
	c.put(s, r)
}

// sendData sends a run of lost records or of new data, if window, congestion window and pacing allow it.
func (c *Conn) sendData(now time.Duration, r *Run) bool {
	if c.una == c.streamEnd() {
		c.idle()
		return false
	}
	if i := c.board.firstLost(); i >= 0 {
		// A record behind a window that has shrunk waits, except for the first one, which serves as a probe.
		if rec := c.board.at(i); rec.start < c.edge || rec.start == c.una {
			return c.sendLost(now, r, i)
		}
		return false
	}
	if c.nxt < c.streamEnd() && c.sendNew(now, r) {
		return true
	}
	if c.pace.probe {
		return c.sendTail(now, r)
	}
	if c.nxt == c.streamEnd() {
		c.idle()
	}
	return false
}

// idle reports to the congestion control that the application has given nothing to send.
func (c *Conn) idle() {
	if c.board.inFlight < c.cc.Window() {
		c.cc.AppLimited(c.board.inFlight)
	}
}

// allowed returns how many of n bytes the congestion window allows now, in whole segments; 0: none.
func (c *Conn) allowed(now time.Duration, n int) int {
	size := c.segmentSize()
	if c.pace.probe {
		return min(n, size)
	}
	window, flight := c.cc.Window(), c.board.inFlight
	free := window - flight
	if free >= n {
		return n
	}
	c.limitedTo = c.nxt
	// A run for each acknowledgement costs more than a larger one for several, so a part of a quantum waits for the
	// acknowledgements of the next moment.
	if free >= size && free < c.cc.Quantum() && flight > window/2 {
		if c.pace.gatherUntil == 0 {
			c.pace.gatherUntil = now + min(maxGather, c.rtt.smoothed/16)
		}
		if now < c.pace.gatherUntil {
			c.pace.waiting = true
			return 0
		}
	}
	if free < size {
		if flight > 0 {
			return 0
		}
		return min(n, size) // at least one segment may always be in flight
	}
	return free - free%size
}

// runLimit returns the largest payload of a run, in whole segments.
func (c *Conn) runLimit() int {
	size := c.segmentSize()
	if c.urgentOut.set {
		return size // the urgent pointer is relative to each segment
	}
	limit := min(c.cc.Quantum(), maxRunSize)
	if c.maxSegments > 0 {
		limit = min(limit, c.maxSegments*size)
	}
	return max(limit-limit%size, size)
}

// paced reports whether a run may be sent now. A probe does not wait.
func (c *Conn) paced(now time.Duration) bool {
	if c.pace.probe || now >= c.pace.at {
		return true
	}
	c.pace.waiting = true
	return false
}

func (c *Conn) sendLost(now time.Duration, run *Run, i int) bool {
	b := &c.board
	r := b.at(i)
	limit := c.allowed(now, min(c.runLimit(), b.lost))
	if r.start >= c.edge {
		limit = min(limit, c.segmentSize())
	}
	if limit == 0 || !c.paced(now) {
		return false
	}
	if r.size() > limit {
		b.split(i, r.start+int64(limit), 2*maxRecordsSent)
	}
	// The next lost records, if the run has room.
	for i+1 < b.len() {
		next := b.at(i + 1)
		if next.state != lost || r.size()+next.size() > limit {
			break
		}
		r.end = next.end
		b.remove(i + 1)
	}
	c.stats.retransmissions++
	c.stats.retransmitted += int64(r.size())
	c.transmit(now, run, r, false)
	return true
}

func (c *Conn) sendNew(now time.Duration, run *Run) bool {
	if c.board.len() >= c.recordLimit(maxRecordsSent) {
		return false
	}
	size := c.segmentSize()
	data := int(c.out.end - c.nxt)
	window := int(max(c.edge-c.nxt, 0))
	n := min(data, window)
	// The sender's part of silly-window avoidance (RFC 9293, section 3.8.6.2.1): not less than a segment because of the
	// peer's window, unless that is half of all it has ever offered, or stays so small.
	if n < data && n < size && (n == 0 || int64(n) < c.maxWindow/2) && !(c.pace.override && n > 0) {
		if c.una == c.nxt {
			c.persist(now)
		}
		return false
	}
	if data > 0 {
		limit := c.allowed(now, n)
		if limit == 0 {
			return false
		}
		if limit = min(limit, c.runLimit()); n > limit {
			n = limit
		} else if n < data && n > size {
			n -= n % size
		}
	}
	if !c.paced(now) {
		return false
	}
	c.pace.override = false
	end := c.nxt + int64(n)
	if c.closing && end == c.out.end {
		end++
	}
	if c.una == c.nxt {
		c.progressAt = now
		c.persistAt, c.persistCount = 0, 0
	}
	r := newRecord()
	r.start, r.end = c.nxt, end
	c.stats.sent += int64(n)
	c.transmit(now, run, r, true)
	return true
}

// transmit fills run with a record's bytes.
func (c *Conn) transmit(now time.Duration, run *Run, r *record, fresh bool) {
	b := &c.board
	dataEnd := min(r.end, c.out.end)
	flags := Flags(0)
	if r.end > c.out.end {
		flags |= FIN
	}
	if dataEnd == c.out.end && dataEnd > r.start {
		flags |= PSH
	}
	if c.ackAt != 0 && fresh {
		c.in.interactive = true // data of this end came in time to carry the acknowledgement
	}
	s := c.build(now, flags, r.start)
	c.putUrgent(s, r.start)
	c.put(s, run)
	run.Pieces = c.out.pieces(run.Pieces, r.start, dataEnd)
	run.Size, run.MSS = int(dataEnd-r.start), c.segmentSize()

	c.cc.Send(now, &r.packet, r.size(), b.inFlight)
	r.sent, r.stamp = now, s.TSVal
	if fresh {
		c.nxt = r.end
		b.push(r)
		if c.retransmitAt == 0 || c.tailProbe {
			c.armRetransmission(now)
		}
	} else {
		r.repeated = true
		b.setState(r, inFlight)
		v := &c.recovery
		v.repeated += r.size()
		if !v.stamped {
			v.stamped, v.first, v.stamp = c.timestamps, r.start, s.TSVal
		}
		if c.retransmitAt == 0 {
			c.armRetransmission(now)
		}
	}
	c.pace.probe, c.pace.gatherUntil = false, 0
	c.pace.spend(now, r.size(), c.cc.PacingRate())
}

// tailLoss sends a tail loss probe (RFC 8985, section 7.3): new data, or the last segment again.
func (c *Conn) tailLoss(now time.Duration) {
	c.stats.tailProbes++
	k := &c.rack
	k.probing, k.probeEnd, k.probeRepeat = true, c.nxt, false
	c.pace.probe = true
	c.retransmitAt, c.tailProbe = now+c.backedOff(), false
}

// sendTail sends the last segment again, as a probe.
func (c *Conn) sendTail(now time.Duration, run *Run) bool {
	b := &c.board
	c.pace.probe = false
	last := b.len() - 1
	if last < 0 || b.at(last).state != inFlight {
		return false
	}
	r := b.at(last)
	if size := int64(c.segmentSize()); r.end-r.start > size {
		if !b.split(last, r.end-size, 2*maxRecordsSent) {
			return false
		}
		r = b.at(last + 1)
	}
	c.rack.probeRepeat = true
	c.stats.retransmissions++
	c.stats.retransmitted += int64(r.size())
	before := c.recovery // a probe is no evidence about an episode
	b.setState(r, lost)
	c.transmit(now, run, r, false)
	c.recovery = before
	return true
}

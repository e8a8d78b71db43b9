package tcp

import (
	"time"

	"subnetrouter/internal/tcp/congestion"
)

// ackState collects the effects of one acknowledgement.
type ackState struct {
	delivered int           // bytes, by cumulative or selective acknowledgement
	rtt       time.Duration // of the newest record that was sent once; 0: none
	echo      bool          // tsEcho is valid
	tsEcho    uint32
	dsack     bool
	original  bool // a retransmission was not needed; see recovery.original
}

// acknowledge processes the acknowledgement, SACK blocks and window of an acceptable segment at a position.
func (c *Conn) acknowledge(now time.Duration, s *Segment, from, ack int64) {
	a := ackState{echo: c.timestamps && s.Timestamps && s.TSEcr != 0, tsEcho: s.TSEcr}
	before := c.una
	moved := c.updateWindow(s, from, ack)
	if ack >= c.una && c.sackOK && s.Blocks > 0 {
		c.selective(now, &a, s, ack)
	}
	advanced := ack > c.una
	if advanced {
		c.advance(now, &a, ack)
		if c.state == Closed {
			return
		}
	}
	if c.una == c.nxt && !advanced && a.delivered == 0 {
		c.answered(now, moved)
		return
	}
	if a.rtt > 0 {
		c.rtt.sample(now, a.rtt)
	}
	if advanced || a.delivered > 0 {
		c.progressAt = now
		c.backoff = 0
	}
	c.resolveProbe(now, ack, advanced, a.dsack)
	if a.original {
		c.undo(now)
	}
	if c.sackOK {
		c.detectLosses(now)
	} else {
		c.withoutSACK(now, s, ack, advanced, moved)
	}
	if c.recovery.active && c.una >= c.recovery.end {
		c.exitRecovery(now)
	}
	if a.delivered > 0 {
		c.cc.Ack(now, congestion.Ack{
			InFlight: c.board.inFlight, RTT: a.rtt,
			WindowLimited: before < c.limitedTo, InRecovery: c.recovery.active && !c.recovery.timeout,
		})
	}
	c.answered(now, moved)
	switch {
	case c.una == c.nxt:
		c.retransmitAt, c.tailProbe = 0, false
	case advanced || a.delivered > 0:
		c.armRetransmission(now)
	}
}

// answered notes an answer that explains why data does not move: a closed window. Such a peer is alive (RFC 9293,
// section 3.8.6.1), for however long its application pauses.
func (c *Conn) answered(now time.Duration, moved bool) {
	if c.edge-c.una < int64(c.segmentSize()) {
		c.progressAt = now
	}
	if moved && c.persistAt != 0 {
		c.persistAt, c.persistCount = 0, 0 // Next starts it again if the window is still too small
	}
}

// setWindow sets the peer's window from a segment.
func (c *Conn) setWindow(s *Segment, from, ack int64) (moved bool) {
	window := int64(s.Window)
	if c.scaling && s.Flags&SYN == 0 {
		window <<= c.peerScale
	}
	edge := ack + window
	moved = edge != c.edge
	c.wl1, c.wl2, c.edge = from, ack, edge
	c.maxWindow = max(c.maxWindow, window)
	return moved
}

// updateWindow sets the peer's window, unless the segment is older than the one that set it last. It reports whether the
// window's end has moved.
func (c *Conn) updateWindow(s *Segment, from, ack int64) bool {
	if ack < c.una || from < c.wl1 || from == c.wl1 && ack < c.wl2 {
		return false
	}
	return c.setWindow(s, from, ack)
}

// advance frees everything before a position, which the peer has acknowledged.
func (c *Conn) advance(now time.Duration, a *ackState, ack int64) {
	b := &c.board
	for b.len() > 0 {
		r := b.at(0)
		end := min(r.end, ack)
		if end <= r.start {
			break
		}
		if r.state != sacked {
			a.original = a.original || c.recovery.original(a, r, end)
			c.delivered(now, a, r, end)
		}
		if end < r.end {
			b.trimFirst(end)
			break
		}
		b.popFirst()
	}
	c.una = ack
	c.out.release(min(ack, c.out.end))
	if c.closing && ack == c.out.end+1 {
		c.acknowledgedFIN(now)
	}
}

// selective processes the SACK blocks of a segment.
func (c *Conn) selective(now time.Duration, a *ackState, s *Segment, ack int64) {
	blocks := s.SACK[:s.Blocks]
	left, right := c.position(blocks[0].Left), c.position(blocks[0].Right)
	if left < right && c.isDuplicate(blocks, left, right, ack) {
		blocks = blocks[1:]
		a.dsack = true
		if !c.rack.probing || left < c.rack.probeEnd-int64(c.segmentSize()) {
			c.widen()
			c.duplicateReported(now, left, int(right-left))
		}
	}
	for _, k := range blocks {
		left, right := max(c.position(k.Left), ack, c.una), c.position(k.Right)
		if left < right && right <= c.nxt {
			c.markSacked(now, a, left, right)
		}
	}
}

// isDuplicate reports whether the first block is a D-SACK: it is acknowledged as well, or inside of the second (RFC
// 2883, section 4).
func (c *Conn) isDuplicate(blocks []Block, left, right, ack int64) bool {
	if right <= ack {
		return true
	}
	return len(blocks) > 1 && c.position(blocks[1].Left) <= left && right <= c.position(blocks[1].Right)
}

// markSacked marks the records from position left up to right, all of them sent, as delivered.
func (c *Conn) markSacked(now time.Duration, a *ackState, left, right int64) {
	b := &c.board
	for i := b.find(left); i < b.len() && b.at(i).start < right; i++ {
		r := b.at(i)
		if r.state == sacked {
			continue
		}
		if r.start < left {
			b.split(i, left, c.recordLimit(maxRecords))
			continue // with the second part, unless the records are at their limit
		}
		if r.end > right && !b.split(i, right, c.recordLimit(maxRecords)) {
			return
		}
		c.delivered(now, a, r, r.end)
		b.setState(r, sacked)
		i = b.mergeSacked(i)
	}
}

// withoutSACK finds losses by duplicate acknowledgements (RFC 5681 and 6582), for the rare peer without SACK.
func (c *Conn) withoutSACK(now time.Duration, s *Segment, ack int64, advanced, moved bool) {
	v := &c.recovery
	switch {
	case advanced:
		v.duplicates = 0
		if v.active && !v.timeout && c.una < v.end && c.board.len() > 0 {
			c.loseFirst(now) // a partial acknowledgement: the next segment is lost, too
		}
	case ack == c.una && c.una < c.nxt && s.Len() == 0 && !moved:
		if v.duplicates++; v.duplicates == duplicateACKs && !v.active {
			c.loseFirst(now)
			c.enterRecovery(now)
		}
	}
}

// loseFirst takes the first segment for lost.
func (c *Conn) loseFirst(now time.Duration) {
	b := &c.board
	r := b.at(0)
	if r.state != inFlight {
		return
	}
	if size := int64(c.segmentSize()); r.end-r.start > size {
		b.split(0, r.start+size, maxRecordsSent)
	}
	c.markLost(now, r)
}

package tcp

import "time"

// Loss detection by time (RACK-TLP, RFC 8985): a record is lost if one that was sent later has been delivered, and
// enough time has passed for reordering.

const (
	// persistRecoveries is the number of recoveries for which a wider reordering window stays.
	persistRecoveries = 16
	maxReorderFactor  = 64
	// delayedACKPeer is the longest delay of the acknowledgement of a single segment to expect.
	delayedACKPeer = 200 * time.Millisecond
	// probeMargin is added to the timer of a tail loss probe, which would otherwise fire ahead of acknowledgements on
	// paths of well below a millisecond.
	probeMargin = 2 * time.Millisecond
	// duplicateACKs is the number of segments delivered behind a gap that make it a loss without more waiting.
	duplicateACKs = 3
)

type rack struct {
	known bool
	// The newest transmission that was delivered: its time, its end, and its round-trip time.
	sent time.Duration
	end  int64
	rtt  time.Duration

	fack       int64 // the highest position delivered
	reordering bool  // the path has been seen to reorder
	factor     int64 // of the reordering window, in quarters of the least round-trip time
	persist    int   // recoveries until factor is 1 again
	dsackRound int64 // factor grows again with a D-SACK after this position is acknowledged

	reorderAt time.Duration // when the next record is lost unless it is delivered; 0: off

	// A tail loss probe that is not resolved.
	probing     bool
	probeEnd    int64
	probeRepeat bool // it was a retransmission
}

func (k *rack) init() { k.factor = 1 }

// sentAfter reports whether a transmission is newer than another.
func sentAfter(t1 time.Duration, end1 int64, t2 time.Duration, end2 int64) bool {
	return t1 > t2 || t1 == t2 && end1 > end2
}

// delivered notes that the positions of a record up to end have been delivered.
func (c *Conn) delivered(now time.Duration, a *ackState, r *record, end int64) {
	c.cc.Acked(now, &r.packet, int(end-r.start))
	a.delivered += int(end - r.start)
	k := &c.rack
	rtt := now - r.sent
	if !r.repeated {
		if end < k.fack {
			k.reordering = true
		}
		if a.rtt == 0 || rtt < a.rtt {
			a.rtt = rtt
		}
	} else if rtt < c.rtt.min() || a.echo && int32(a.tsEcho-r.stamp) < 0 {
		k.fack = max(k.fack, end)
		return // most likely an earlier transmission was delivered
	}
	k.fack = max(k.fack, end)
	if !k.known || sentAfter(r.sent, end, k.sent, k.end) {
		k.known, k.sent, k.end, k.rtt = true, r.sent, end, rtt
	}
}

// reorderWindow returns how much later than the newest delivered transmission an older one may arrive.
func (c *Conn) reorderWindow() time.Duration {
	k := &c.rack
	if !k.reordering && (c.recovery.active || c.board.sacked >= duplicateACKs*c.segmentSize()) {
		return 0
	}
	return min(time.Duration(k.factor)*c.rtt.min()/4, c.rtt.smoothed)
}

// widen adapts the reordering window to a D-SACK: a retransmission was not needed.
func (c *Conn) widen() {
	k := &c.rack
	k.reordering = true
	k.persist = persistRecoveries
	if c.una >= k.dsackRound {
		k.dsackRound = c.nxt
		k.factor = min(k.factor+1, maxReorderFactor)
	}
}

// detectLosses marks the records that are lost by now, and sets the timer for the next.
func (c *Conn) detectLosses(now time.Duration) {
	k := &c.rack
	k.reorderAt = 0
	if !k.known {
		return
	}
	window := c.reorderWindow()
	found := false
	for r := c.board.first; r != nil && sentAfter(k.sent, k.end, r.sent, r.end); {
		if due := r.sent + k.rtt + window; due > now {
			k.reorderAt = due
			break
		}
		next := r.next
		c.markLost(now, r)
		found = true
		r = next
	}
	if found {
		c.enterRecovery(now)
	}
}

func (c *Conn) markLost(now time.Duration, r *record) {
	c.board.setState(r, lost)
	c.cc.Lost(now, &r.packet, r.size())
}

// canProbe reports whether the timer is that of a tail loss probe.
func (c *Conn) canProbe() bool {
	return c.sackOK && !c.recovery.active && !c.rack.probing && c.board.lost == 0 && c.board.sacked == 0 && c.board.inFlight > 0 && c.rtt.smoothed > 0
}

// probeTimeout returns the time after which a tail loss probe is due.
func (c *Conn) probeTimeout() time.Duration {
	t := 2*c.rtt.smoothed + probeMargin
	if c.board.inFlight <= c.segmentSize() {
		t += delayedACKPeer
	}
	return t
}

// resolveProbe processes an acknowledgement while a tail loss probe is outstanding (RFC 8985, section 7.4.2).
func (c *Conn) resolveProbe(now time.Duration, ack int64, advanced, dsack bool) {
	k := &c.rack
	if !k.probing || ack < k.probeEnd {
		return
	}
	switch {
	case !k.probeRepeat || dsack:
		k.probing = false // nothing was lost
	case ack > k.probeEnd:
		// The probe has repaired the only loss, which no other sign of it shows.
		k.probing = false
		if !c.recovery.active {
			c.cc.EnterRecovery(now, c.board.inFlight)
			c.cc.ExitRecovery(now)
		}
	case !advanced:
		k.probing = false // both copies have arrived
	}
}

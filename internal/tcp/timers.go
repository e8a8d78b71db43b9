package tcp

import "time"

// Deadline returns when [Conn.Wake] has to be called, unless something happens before. ok is false if no timer runs.
func (c *Conn) Deadline() (at time.Duration, ok bool) {
	if c.state == Closed {
		return 0, false
	}
	earliest := func(t time.Duration) {
		if t != 0 && (!ok || t < at) {
			at, ok = t, true
		}
	}
	earliest(c.retransmitAt)
	earliest(c.rack.reorderAt)
	earliest(c.persistAt)
	earliest(c.ackAt)
	earliest(c.stateAt)
	earliest(c.keepaliveAt())
	earliest(c.giveUpAt())
	if c.pace.waiting {
		earliest(c.pace.due())
	}
	return at, ok
}

// keepaliveAt returns when the next keepalive probe, or the end after the last, is due; 0: never. Data in flight and a
// closed window have timers of their own.
func (c *Conn) keepaliveAt() time.Duration {
	k := &c.options.Keepalive
	if k.Idle == 0 || c.una < 0 || c.state == TimeWait || c.una < c.nxt || c.persistAt != 0 {
		return 0
	}
	if c.probes == 0 {
		return c.heardAt + k.Idle
	}
	return c.probedAt + k.Interval
}

// giveUpAt returns when the connection ends without an answer to data that is due; 0: never.
func (c *Conn) giveUpAt() time.Duration {
	if c.una < 0 || c.una == c.nxt && c.persistAt == 0 {
		return 0
	}
	return c.progressAt + c.options.GiveUp
}

// Wake runs the timers that are due. Calls that are too early or not needed have no effect.
func (c *Conn) Wake(now time.Duration) {
	if c.state == Closed {
		return
	}
	if c.stateAt != 0 && now >= c.stateAt {
		if c.state == TimeWait {
			c.end(nil)
		} else {
			c.Abort(now)
			c.err = ErrTimeout
		}
		return
	}
	if at := c.giveUpAt(); at != 0 && now >= at {
		c.end(ErrTimeout)
		return
	}
	if at := c.keepaliveAt(); at != 0 && now >= at {
		if c.probes >= c.options.Keepalive.Count {
			c.Abort(now)
			c.err = ErrKeepalive
			return
		}
		c.probes++
		c.probedAt, c.probeDue = now, true
	}
	if c.ackAt != 0 && now >= c.ackAt {
		c.ackAt, c.ackNow = 0, true
		c.in.interactive = false
	}
	if at := c.rack.reorderAt; at != 0 && now >= at {
		c.detectLosses(now)
		c.armRetransmission(now)
	}
	if at := c.retransmitAt; at != 0 && now >= at {
		c.retransmitAt = 0
		switch {
		case c.una < 0:
			c.synDue = true
			c.backoff++
		case c.tailProbe:
			c.tailLoss(now)
		case c.board.len() > 0:
			c.retransmissionTimeout(now)
		}
	}
	if at := c.persistAt; at != 0 && now >= at {
		c.persistAt = 0
		c.probeWindow(now)
	}
	if now >= c.pace.at {
		c.pace.waiting = false // Next is the one to go on: no more calls are needed
	}
}

// armRetransmission starts the timer again from now: for a tail loss probe if one may be sent, otherwise for a
// retransmission.
func (c *Conn) armRetransmission(now time.Duration) {
	if c.una == c.nxt {
		c.retransmitAt, c.tailProbe = 0, false
		return
	}
	timeout := c.backedOff()
	c.tailProbe = c.canProbe()
	if c.tailProbe {
		// The last run may leave later than now, when pacing allows it.
		timeout = min(timeout, c.probeTimeout()+max(c.pace.at-now, 0))
	}
	c.retransmitAt = now + timeout
}

// persist starts the timer for a window that is closed, or too small for the next segment.
func (c *Conn) persist(now time.Duration) {
	if c.persistAt != 0 {
		return
	}
	if c.persistCount == 0 {
		c.progressAt = now
	}
	c.persistAt = now + min(c.rtt.rto<<min(c.persistCount, 16), maxRTO)
}

// probeWindow fills a small window, or probes a closed one.
func (c *Conn) probeWindow(now time.Duration) {
	if c.una != c.nxt || c.out.end == c.nxt {
		c.persistCount = 0
		return
	}
	c.persistCount++
	if c.edge > c.nxt {
		c.pace.override = true
		return
	}
	c.probeDue = true
	c.persist(now)
}

package tcp

import (
	"time"

	"subnetrouter/internal/tcp/congestion"
)

const (
	// maxChallenges bounds the answers to unacceptable segments in each challengeInterval (RFC 5961, section 7), which
	// also ends a loop of two ends that answer each other's.
	maxChallenges     = 10
	challengeInterval = time.Second
	// pawsAge is the time after which an idle connection forgets the peer's timestamp (RFC 7323, section 5.5).
	pawsAge = 24 * 24 * time.Hour
	// pawsTolerance is how much older than the last one a timestamp may be. Without it, the arrival of a retransmission
	// makes all segments unacceptable that were sent before it and arrive after it, and each is sent again. A sequence
	// number repeats no sooner than after 3 s at 10 Gbit/s; peers count milliseconds, or less.
	pawsTolerance = 1000
)

// DeliverDirect is Deliver without a copy of payload that the application takes at once: [Conn.Peek] returns the payload
// itself if it is next. The caller consumes as much as it can, then calls [Conn.Keep], before the payload's memory has
// another use.
func (c *Conn) DeliverDirect(now time.Duration, s *Segment) {
	c.in.direct = true
	c.Deliver(now, s)
	c.in.direct = false
}

// Keep copies the rest of the payload of [Conn.DeliverDirect].
func (c *Conn) Keep() {
	r := &c.in
	if len(r.borrowed) > 0 {
		r.buffer.write(r.consumed, r.consumed, r.borrowed)
	}
	r.borrowed = nil
}

// Deliver processes a segment of the peer. s and its payload are not kept.
func (c *Conn) Deliver(now time.Duration, s *Segment) {
	c.Keep()
	switch c.state {
	case Closed:
	case Received:
		c.beforeAnswer(now, s)
	case SynSent:
		c.answerToSYN(now, s)
	default:
		c.synchronized(now, s)
	}
}

// beforeAnswer processes a segment before this end has sent anything. A SYN with another sequence number is that of a
// newer connection of the same ports, and takes the place of the first.
func (c *Conn) beforeAnswer(now time.Duration, s *Segment) {
	switch {
	case s.Flags&RST != 0:
		if s.Seq == c.peerSeq(0) {
			c.end(ErrReset)
		}
	case s.Flags&(SYN|ACK) == SYN && s.Seq != c.irs:
		c.takeSYN(now, s)
	}
}

// answerToSYN processes a segment in SYN-SENT (RFC 9293, section 3.10.7.3).
func (c *Conn) answerToSYN(now time.Duration, s *Segment) {
	acks := s.Flags&ACK != 0
	if acks && (s.Ack != c.seq(0) || c.nxt < 0) {
		if s.Flags&RST == 0 {
			c.strayReset(s.Ack)
		}
		return
	}
	if s.Flags&RST != 0 {
		if acks {
			c.end(ErrRefused)
		}
		return
	}
	if s.Flags&SYN == 0 {
		return
	}
	c.takeSYN(now, s)
	if !acks { // simultaneous open
		c.state, c.synDue = SynReceived, true
		return
	}
	c.established(now)
	c.ackNow = true
}

// strayReset answers an acknowledgement of something that this end has not sent, during the handshake: the segment is
// of an old connection, whose end the reset reaches. This connection continues.
func (c *Conn) strayReset(ack uint32) {
	c.resetDue, c.resetPos = true, c.position(ack)
}

// established completes the handshake: the peer has acknowledged the SYN.
func (c *Conn) established(now time.Duration) {
	c.state, c.stateAt, c.synDue = Established, 0, false
	c.una = 0
	if c.handshakeRTT > 0 && c.backoff == 0 {
		c.rtt.sample(now, now-c.handshakeRTT)
		c.cc.Ack(now, congestion.Ack{RTT: now - c.handshakeRTT}) // it paces the first window
	} else if c.backoff > 0 {
		c.rtt.afterLostSYN()
	}
	c.backoff, c.retransmitAt, c.tailProbe = 0, 0, false
	c.progressAt = now
}

// synchronized processes a segment in SYN-RECEIVED and all later states (RFC 9293, section 3.10.7.4).
func (c *Conn) synchronized(now time.Duration, s *Segment) {
	from := c.peerPosition(s.Seq)
	to := from + int64(s.Len())

	// A SYN-ACK of a simultaneous open has the sequence number of the SYN.
	if c.state == SynReceived && s.Flags&(SYN|ACK) == SYN|ACK && s.Seq == c.irs {
		from++
		if s.Flags&RST == 0 && c.position(s.Ack) == 0 && c.nxt == 0 {
			c.established(now)
			c.setWindow(s, from, 0)
			c.ackNow = true
		}
		return
	}
	if c.timestamps && s.Timestamps && s.Flags&(RST|SYN) == 0 &&
		int32(s.TSVal-c.tsRecent) < -pawsTolerance && now-c.tsRecentAt < pawsAge { // PAWS
		c.unacceptable(now, s)
		return
	}
	if s.Flags&RST != 0 {
		c.reset(now, from)
		return
	}
	if s.Flags&SYN != 0 {
		switch {
		case c.state == SynReceived && s.Seq == c.irs:
			c.synDue = true // the SYN-ACK was lost
		case c.state == TimeWait:
			// The caller replaces the connection; see Replaceable.
		default:
			c.challenge(now)
		}
		return
	}
	if to < c.in.next || from > max(c.in.edge, c.in.next) {
		if s.Flags&FIN != 0 && c.state == TimeWait {
			c.stateAt = now + timeWait
		}
		c.unacceptable(now, s)
		return
	}
	if s.Flags&ACK == 0 {
		return
	}
	ack := c.position(s.Ack)
	if c.state == SynReceived {
		if ack < 0 || ack > c.nxt || c.nxt < 0 {
			c.strayReset(s.Ack)
			return
		}
		c.established(now)
		c.setWindow(s, from, ack)
	}
	if ack > c.nxt || ack < c.una-c.maxWindow {
		// Not sent yet, or too old to be true (RFC 5961, section 5.2).
		c.challenge(now)
		return
	}
	c.noteAlive(now, s, from)
	c.acknowledge(now, s, from, ack)
	if c.state == Closed {
		return
	}
	if c.state == TimeWait {
		if to > from {
			c.ackNow = true
			if s.Flags&FIN != 0 {
				c.stateAt = now + timeWait
			}
		}
		return
	}
	c.takeUrgent(s, from)
	c.accept(now, s, from, to)
}

// noteAlive notes an acceptable segment: the peer lives, and its timestamp is the one to echo if the segment is the next
// one (RFC 7323, section 4.3).
func (c *Conn) noteAlive(now time.Duration, s *Segment, from int64) {
	if len(s.Payload) > 0 && c.timestamps && s.Timestamps {
		c.sampleReceiver(now, s)
	}
	c.heardAt, c.probes, c.probedAt = now, 0, 0
	if c.timestamps && s.Timestamps && from <= c.in.acked && int32(s.TSVal-c.tsRecent) >= 0 {
		c.tsRecent, c.tsRecentAt = s.TSVal, now
	}
}

// sampleReceiver measures the round-trip time from an own acknowledgement to the data that it let the peer send.
// The echo in the first data after a pause is old, and is no measurement.
func (c *Conn) sampleReceiver(now time.Duration, s *Segment) {
	t := &c.in.tuner
	if s.TSEcr == t.echo || c.in.lastData == 0 {
		t.echo = s.TSEcr
		return
	}
	t.echo = s.TSEcr
	rtt := time.Duration(c.timestamp(now)-s.TSEcr) * time.Millisecond
	known := c.receiverRTT()
	if known == 0 || rtt > 0 && now-c.in.lastData < 2*known && rtt < 8*known {
		t.sample(rtt)
	}
}

// reset processes a reset at a position. Only one at RCV.NXT ends the connection (RFC 5961, section 3.2); others in the
// window are answered, so that a peer that means it repeats it there.
func (c *Conn) reset(now time.Duration, from int64) {
	switch {
	case from == c.in.next:
		if c.in.ended() && c.una >= c.out.end && c.closing {
			c.end(nil) // both streams have arrived
		} else {
			c.end(ErrReset)
		}
	case from > c.in.next && from <= c.in.edge:
		c.challenge(now)
	}
}

// unacceptable answers a segment outside of the window, or with an old timestamp, with the current state. The peer may
// need the answer to a repeated segment; those without payload are bounded.
func (c *Conn) unacceptable(now time.Duration, s *Segment) {
	if len(s.Payload) == 0 && s.Flags&FIN == 0 {
		c.challenge(now)
		return
	}
	if from := c.peerPosition(s.Seq); from+int64(len(s.Payload)) <= c.in.next && from >= -1 && len(s.Payload) > 0 {
		c.in.dsack = span{from, from + int64(len(s.Payload))}
	}
	c.ackNow = true
}

// challenge sends a challenge ACK (RFC 5961), of which there is a bounded number in each interval.
func (c *Conn) challenge(now time.Duration) {
	if now-c.challengeAt >= challengeInterval || c.challengeAt == 0 {
		c.challengeAt, c.challenges = now, 0
	}
	if c.challenges < maxChallenges {
		c.challenges++
		c.ackNow = true
	}
}

// receivedFIN changes the state after the peer's stream has ended.
func (c *Conn) receivedFIN(now time.Duration) {
	switch c.state {
	case Established:
		c.state = CloseWait
	case FinWait1:
		c.state = Closing
	case FinWait2:
		c.enterTimeWait(now)
	default: // no other state gets here: the FIN counts once
	}
}

// acknowledgedFIN changes the state after the peer has acknowledged the end of the own stream.
func (c *Conn) acknowledgedFIN(now time.Duration) {
	switch c.state {
	case FinWait1:
		c.state = FinWait2
	case Closing:
		c.enterTimeWait(now)
	case LastAck:
		c.end(nil)
	default: // no other state has sent a FIN that is not acknowledged
	}
}

func (c *Conn) enterTimeWait(now time.Duration) {
	c.state, c.stateAt = TimeWait, now+timeWait
	c.retransmitAt, c.persistAt = 0, 0
}

// CloseWrite ends the own stream after the bytes that are committed.
func (c *Conn) CloseWrite(time.Duration) {
	if c.closing {
		return
	}
	switch c.state {
	case Established:
		c.state = FinWait1
	case CloseWait:
		c.state = LastAck
	case Received, SynSent, SynReceived: // the state changes when the handshake is complete
	default:
		return
	}
	c.closing = true
	c.out.drop()
}

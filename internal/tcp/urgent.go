package tcp

// Urgent data has one mark at a time in each direction. As in Linux and RFC 6093, the urgent pointer on the wire points
// to the byte after the last urgent one, and the urgent byte stays in the stream.

// urgentSender is the mark of the own stream.
type urgentSender struct {
	set bool
	end int64 // the position after the urgent byte
}

// urgentReceiver is the mark of the peer's stream.
type urgentReceiver struct {
	mark int64 // the position of the urgent byte; -1: none
}

// consumed forgets the mark once the application has taken the byte.
func (u *urgentReceiver) consumed(to int64) {
	if u.mark < to {
		u.mark = -1
	}
}

// MarkUrgent makes the last byte of the last Commit urgent. The peer learns of it with the next segment, also if its
// window is closed.
func (c *Conn) MarkUrgent() {
	if c.state == Closed || c.closing || c.out.end == 0 {
		return
	}
	c.urgentOut = urgentSender{true, c.out.end}
	c.ackNow = c.ackNow || c.una >= 0
}

// UrgentMark returns the position of the peer's urgent byte among the bytes of [Conn.Peek], counted from 0. It may be
// behind the last byte that has arrived. ok is false if there is none, or if the byte is consumed.
func (c *Conn) UrgentMark() (offset int, ok bool) {
	if c.in.urgent.mark < 0 {
		return 0, false
	}
	return int(c.in.urgent.mark - c.in.consumed), true
}

// takeUrgent takes the urgent pointer of an acceptable segment whose first byte has a position.
func (c *Conn) takeUrgent(s *Segment, from int64) {
	if s.Flags&URG == 0 || s.Urgent == 0 || c.in.ended() {
		return
	}
	mark := from + int64(s.Urgent) - 1
	if mark > c.in.urgent.mark && mark >= c.in.consumed && mark >= c.in.next-1 {
		c.in.urgent.mark = mark
	}
}

// putUrgent sets the urgent pointer of a segment that begins at a position.
func (c *Conn) putUrgent(s *Segment, from int64) {
	if !c.urgentOut.set {
		return
	}
	if c.una >= c.urgentOut.end {
		c.urgentOut.set = false
		return
	}
	if d := c.urgentOut.end - from; d > 0 && d <= 65535 {
		s.Flags |= URG
		s.Urgent = uint16(d)
	}
}

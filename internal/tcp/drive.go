package tcp

// Pending reports whether the connection has something to send that may be due: if so, [Conn.Next] decides. After
// Next has returned false, nothing is due before the next call of another method.
func (c *Conn) Pending() bool {
	switch {
	case c.resetDue:
		return true
	case c.state == Closed || c.state == Received:
		return false
	}
	return c.synDue || c.probeDue || c.ackNow || c.pace.probe || c.board.lost > 0 || c.una >= 0 && c.nxt < c.streamEnd()
}

// Repeats reports whether a SYN is the peer's SYN of this connection once more.
func (c *Conn) Repeats(syn *Segment) bool { return c.state != SynSent && syn.Seq == c.irs }

// Release frees all memory of a connection that the caller no longer uses, and sends nothing. Later calls have no
// effect.
func (c *Conn) Release() {
	err := c.err
	if c.state != Closed && err == nil {
		err = ErrAborted
	}
	c.end(err)
	c.in.clear()
	c.resetDue = false
}

package tcp

import (
	"cmp"
	"slices"
	"time"
)

// recovery is the state of a loss episode: from the first loss until all that was sent before it is acknowledged.
type recovery struct {
	active  bool
	timeout bool  // it began with a retransmission timeout
	end     int64 // the episode ends when this is acknowledged

	// Evidence that the episode was not justified, which stays valid until the next one.
	undoable bool
	begin    int64  // SND.UNA at its start
	repeated int    // bytes that were sent again, less those that D-SACKs report as duplicates
	stamped  bool   // first and stamp are set
	first    int64  // the position of its first retransmission
	stamp    uint32 // and the timestamp

	duplicates int // acknowledgements that repeat SND.UNA; only of a peer without SACK
}

// begin starts an episode.
func (c *Conn) beginEpisode(timeout bool) {
	v := &c.recovery
	v.active, v.timeout, v.end = true, timeout, c.nxt
	v.undoable, v.begin, v.repeated, v.stamped = true, c.una, 0, false
}

// enterRecovery begins an episode for losses that were found.
func (c *Conn) enterRecovery(now time.Duration) {
	if c.recovery.active {
		return
	}
	c.rack.probing = false
	c.beginEpisode(false)
	c.cc.EnterRecovery(now, c.board.inFlight)
}

// exitRecovery ends an episode.
func (c *Conn) exitRecovery(now time.Duration) {
	v := &c.recovery
	v.active, v.duplicates = false, 0
	c.cc.ExitRecovery(now)
	k := &c.rack
	if k.persist > 0 {
		if k.persist--; k.persist == 0 {
			k.factor = 1
		}
	}
}

// undo reverses an episode that was not justified: nothing was lost.
func (c *Conn) undo(now time.Duration) {
	v := &c.recovery
	if v.active {
		c.board.restoreLost()
		c.exitRecovery(now)
	}
	v.undoable = false
	c.backoff = 0
	c.stats.undone++
	c.cc.Spurious(now)
}

// original reports whether an acknowledgement of a record, which was not reported by SACK before, shows that its first
// transmission has arrived (Eifel detection, RFC 3522): the record was the first to be sent again in this episode, and the
// acknowledgement answers a segment from before that.
func (v *recovery) original(a *ackState, r *record, end int64) bool {
	return v.active && v.undoable && v.stamped && r.repeated && r.start <= v.first && v.first < end &&
		a.echo && int32(a.tsEcho-v.stamp) < 0
}

// duplicateReported takes a D-SACK for n bytes: all that was sent again had arrived before, if it is for the last of it.
func (c *Conn) duplicateReported(now time.Duration, from int64, n int) {
	v := &c.recovery
	if !v.undoable || v.repeated == 0 || from < v.begin {
		return
	}
	if v.repeated -= n; v.repeated <= 0 {
		v.repeated = 0
		if c.board.lost == 0 {
			c.undo(now)
		}
	}
}

// restoreLost takes all lost records for in flight again, with the times at which they were sent.
func (b *scoreboard) restoreLost() {
	if b.lost == 0 {
		return
	}
	var list []*record
	for _, r := range b.records[b.head:] {
		switch r.state {
		case lost:
			b.setState(r, inFlight)
			list = append(list, r)
		case inFlight:
			list = append(list, r)
		case sacked:
		}
	}
	slices.SortFunc(list, func(x, y *record) int {
		return cmp.Or(cmp.Compare(x.sent, y.sent), cmp.Compare(x.start, y.start))
	})
	b.first, b.last = nil, nil
	for _, r := range list {
		b.link(r, b.last)
	}
}

// retransmissionTimeout takes everything in flight for lost (RFC 6298, section 5; RFC 8985, section 6.3).
func (c *Conn) retransmissionTimeout(now time.Duration) {
	c.stats.timeouts++
	b := &c.board
	flight := b.inFlight
	// A first record that the peer has reported and not acknowledged since was dropped by it (RFC 2018, section 8).
	reneged := b.at(0).state == sacked
	for i := range b.len() {
		if r := b.at(i); r.state == inFlight || reneged && r.state == sacked {
			b.setState(r, lost)
		}
	}
	c.rack.reorderAt, c.rack.probing = 0, false
	if !c.recovery.active || c.backoff == 0 {
		c.beginEpisode(true)
	}
	c.recovery.timeout = true
	c.cc.Timeout(now, flight)
	c.backoff++
	c.pace.at = 0
	c.retransmitAt, c.tailProbe = now+c.backedOff(), false
}

// backedOff returns the retransmission timer with its back-off.
func (c *Conn) backedOff() time.Duration { return min(c.rtt.rto<<min(c.backoff, 16), maxRTO) }

// tooBig sends the records again that are larger than the path takes. They were not lost to congestion.
func (c *Conn) tooBig(now time.Duration) {
	size := c.segmentSize()
	for i := range c.board.len() {
		if r := c.board.at(i); r.state == inFlight && r.size() > size {
			c.board.setState(r, lost)
		}
	}
	c.rack.probing = false
	if c.board.inFlight == 0 && c.una < c.nxt {
		c.retransmitAt, c.tailProbe = now+c.backedOff(), false
	}
}

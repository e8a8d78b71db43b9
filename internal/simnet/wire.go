package simnet

import (
	"bytes"
	"fmt"
)

// wire is the knowledge of an observer of a connection's packets. Positions are offsets into the
// stream of the end that sends the bytes: its first byte is 0, its SYN is at -1, and its FIN
// follows its last byte.
type wire struct {
	ends [2]wireEnd
}

type wireEnd struct {
	synSeen       bool // the end has sent a SYN
	opened        bool // and one without ACK
	iss           uint32
	scale         int // that its SYN offers, or -1
	sackPermitted bool
	finSent       bool
	max           int64  // one past the last byte that it has sent
	arrived       ranges // the ranges that have reached the peer intact
	acked         int64  // the highest acknowledgement that it has sent, a position of the peer
	edge          int64  // the end of the window that it has offered, in packets that have reached the peer
	heard         int64  // the highest acknowledgement of it that has reached the peer
	staleWindow   bool   // the peer has Subject.StaleWindow
	reset         bool   // a reset of the peer has reached the end
}

// position returns the position of a sequence number of this end.
func (e *wireEnd) position(seq uint32) int64 {
	return e.max + int64(int32(seq-(e.iss+1+uint32(e.max))))
}

// window returns the size of the window in a segment from end i.
func (w *wire) window(i int, s *Segment) int64 {
	if s.Flags&SYN == 0 && w.ends[0].scale >= 0 && w.ends[1].scale >= 0 {
		return int64(s.Window) << w.ends[i].scale
	}
	return int64(s.Window)
}

// sent checks a packet that an end sends. Its error completes "sends a packet that".
func (w *wire) sent(e *end, packet []byte) error {
	if len(packet) > e.config.MTU {
		return fmt.Errorf("has %d bytes, more than the MTU of its interface, %d", len(packet), e.config.MTU)
	}
	_, _, proto, _, err := parseIP(packet)
	if err == nil && proto != protoTCP {
		return nil // an ICMP error about a corrupt packet
	}
	s, err := Parse(packet)
	if err != nil {
		return fmt.Errorf("is not valid: %w", err)
	}
	if s.Src != e.config.Local || s.Dst != e.config.Remote {
		return fmt.Errorf("goes from %v to %v", s.Src, s.Dst)
	}
	if s.Flags&RST != 0 {
		return nil
	}
	me, peer := &w.ends[e.side], &w.ends[1-e.side]
	if s.Flags&SYN != 0 {
		if me.synSeen && me.iss != s.Seq && !e.config.Active && !e.up && me.reset {
			// A reset during the handshake returns a passive end to LISTEN, and a late copy of the
			// SYN opens the connection again.
			me.max, me.arrived, me.reset = 0, nil, false
		} else if me.synSeen && me.iss != s.Seq {
			return fmt.Errorf("begins another connection, with sequence number %d instead of %d", s.Seq, me.iss)
		}
		me.synSeen, me.iss, me.scale, me.sackPermitted = true, s.Seq, s.Scale, s.SACKPermitted
		me.opened = me.opened || s.Flags&ACK == 0
	} else if !me.synSeen {
		return fmt.Errorf("is not a SYN")
	}
	if err := w.checkData(e, &s); err != nil {
		return err
	}
	if s.Flags&ACK == 0 {
		return nil
	}
	ack := peer.position(s.Ack)
	if limit := peer.arrived.contiguous(); ack > limit || !peer.synSeen {
		return fmt.Errorf("acknowledges up to %d; only %d have arrived in order", ack, limit)
	}
	if ack < me.acked {
		return fmt.Errorf("acknowledges up to %d, after %d", ack, me.acked)
	}
	me.acked = ack
	for _, b := range s.SACK {
		left, right := peer.position(b.Left), peer.position(b.Right)
		if !me.sackPermitted || !peer.sackPermitted {
			return fmt.Errorf("has SACK blocks, which the ends have not agreed on")
		}
		if left >= right || !peer.arrived.contain(left, right) {
			return fmt.Errorf("has a SACK block for %d-%d; arrived have %v", left, right, peer.arrived)
		}
	}
	return nil
}

// checkData checks the bytes and the FIN of a segment.
func (w *wire) checkData(e *end, s *Segment) error {
	me, peer := &w.ends[e.side], &w.ends[1-e.side]
	from := me.position(s.Seq)
	if s.Flags&SYN != 0 {
		from = 0
	}
	to := from + int64(len(s.Data))
	if len(s.Data) > 0 {
		if to > e.written {
			return fmt.Errorf("has bytes %d-%d; the application wrote only %d", from, to, e.written)
		}
		if from < 0 {
			return fmt.Errorf("has bytes at %d, before the first", from)
		}
		// A probe of a closed window may have one byte (RFC 9293, section 3.8.6.1).
		probe := len(s.Data) == 1 && from <= peer.edge
		if to > peer.edge && !probe {
			return fmt.Errorf("has bytes %d-%d, outside of the window, which ends at %d", from, to, peer.edge)
		}
		// A keep-alive probe may repeat an old byte with any value (section 3.8.4).
		keepAlive := len(s.Data) == 1 && to <= peer.acked
		want := make([]byte, len(s.Data))
		fill(want, e.stream, from)
		if !bytes.Equal(want, s.Data) && !keepAlive {
			return fmt.Errorf("has other bytes at %d-%d than the application wrote there", from, to)
		}
	}
	if s.Flags&FIN != 0 && (!e.closed && !e.done || to != e.written) {
		return fmt.Errorf("ends the stream at %d; the application wrote %d (closed: %v)", to, e.written, e.closed)
	}
	me.finSent = me.finSent || s.Flags&FIN != 0
	if len(s.Data) > 0 {
		me.max = max(me.max, to)
	}
	return nil
}

// delivered notes that an intact packet of an end reaches the peer, and situations in which
// it does.
func (w *wire) delivered(from int, packet []byte, seen Seen) {
	s, err := Parse(packet)
	if err != nil {
		return
	}
	me, peer := &w.ends[from], &w.ends[1-from]
	if s.Flags&RST != 0 {
		peer.reset = true
		return
	}
	first := me.position(s.Seq)
	if s.Flags&SYN != 0 {
		first = -1
	}
	me.arrived.add(first, first+int64(s.Len()))
	if s.Flags&(SYN|ACK) == SYN && peer.opened {
		seen[SeenCrossedSYN]++
	}
	if s.Flags&FIN != 0 && peer.finSent && peer.position(s.Ack) <= peer.max {
		seen[SeenCrossedFIN]++
	}
	if s.Flags&(SYN|ACK) == ACK && s.Window == 0 {
		seen[SeenZeroWindow]++
	}
	if s.Flags&ACK != 0 && peer.synSeen {
		ack := peer.position(s.Ack)
		me.heard = max(me.heard, ack)
		if me.staleWindow {
			ack = me.heard
		}
		me.edge = max(me.edge, ack+w.window(from, &s))
	}
}

// ranges is a sorted list of disjoint ranges of positions, each from its first to one past its
// last.
type ranges [][2]int64

// contiguous returns one past the last position before the first gap.
func (r ranges) contiguous() int64 {
	if len(r) == 0 {
		return -1
	}
	return r[0][1]
}

func (r ranges) contain(from, to int64) bool {
	for _, x := range r {
		if x[0] <= from && to <= x[1] {
			return true
		}
	}
	return false
}

func (r *ranges) add(from, to int64) {
	if from >= to {
		return
	}
	if n := len(*r); n > 0 { // nearly always in order
		if last := &(*r)[n-1]; last[0] <= from && from <= last[1] {
			last[1] = max(last[1], to)
			return
		}
	}
	var out ranges
	for i, x := range *r {
		if x[1] < from {
			out = append(out, x)
			continue
		}
		if x[0] > to {
			*r = append(append(out, [2]int64{from, to}), (*r)[i:]...)
			return
		}
		from, to = min(from, x[0]), max(to, x[1])
	}
	*r = append(out, [2]int64{from, to})
}

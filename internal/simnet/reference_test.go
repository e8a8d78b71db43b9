package simnet_test

import (
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"subnetrouter/internal/simnet"
)

// bug is an error planted in the reference TCP.
type bug string

const (
	noBug bug = ""
	// A timeout retransmits a segment once; if that is lost, too, never again.
	lostRetransmission bug = "lost retransmission"
	// The right edge of a SACK block is one byte too far.
	wrongSACKEdge bug = "wrong SACK edge"
	// The sender forgets to subtract the bytes in flight from the window.
	windowOverflow bug = "window overflow"
	// The application is not notified of a FIN that arrived before the bytes in front of it.
	missedWakeUp bug = "missed wake-up"
	// A reset does not free the segments that wait for those in front of them.
	leak bug = "leak"
)

// reference returns a small TCP for tests of the simulator, with a bug or without: handshake,
// SACK, NewReno, retransmission and persist timers, orderly release, resets. It acknowledges
// each segment at once, and has neither timestamps nor keep-alives.
func reference(b bug) simnet.Subject {
	name := "reference"
	if b != noBug {
		name += " with " + string(b)
	}
	return simnet.Subject{Name: name, New: func(c simnet.Config) simnet.Endpoint { return newReference(c, b) }}
}

const (
	minRTO        = 200 * time.Millisecond
	maxRTO        = 60 * time.Second
	timeWait      = 60 * time.Second
	duplicateACKs = 3
)

// referenceTCP is one end. Positions are offsets into a stream: the first byte is 0, the SYN
// is at -1, and the FIN follows the last byte.
type referenceTCP struct {
	simnet.Config
	bug     bug
	packets [][]byte
	events  simnet.Events
	timer   time.Duration // retransmission, persist, or TIME-WAIT; 0: off
	err     error         // of a reset

	opened  bool // this end has a SYN to send
	synced  bool // the peer's SYN has arrived
	dead    bool // the connection is gone
	waiting bool // in TIME-WAIT
	ackDue  bool

	// As a sender: una ≤ nxt ≤ max ≤ end.
	iss           uint32
	una, nxt, max int64
	out           []byte // the bytes from una to total
	total         int64  // bytes written
	fin           bool   // the stream ends at total
	edge          int64  // the end of the peer's window
	wl1, wl2      int64  // position and acknowledgement of the segment that set it
	mss           int
	peerScale     int // -1: none
	sackOK        bool
	sacked        [][2]int64
	cwnd          int
	ssthresh      int
	duplicates    int
	recovering    bool
	recoverTo     int64 // recovery ends when this is acknowledged
	repair        int64 // in a recovery, the next byte to look at for retransmission
	repaired      int64 // up to where timeouts have retransmitted; for a bug
	rto           time.Duration
	srtt, rttvar  time.Duration
	timed         int64 // the position whose acknowledgement is timed; -2: none
	timedAt       time.Duration

	// As a receiver.
	irs     uint32
	rcvNxt  int64
	in      []byte // to read
	early   []earlySegment
	finAt   int64 // the position of the peer's FIN; -2: unknown
	scale   int
	offered int64 // the end of the window as this end has offered it
}

// earlySegment arrived before those in front of it.
type earlySegment struct {
	at   int64
	data []byte
}

func newReference(c simnet.Config, b bug) simnet.Endpoint {
	rng := rand.New(rand.NewPCG(c.Seed, 2))
	e := &referenceTCP{
		Config: c, bug: b, iss: rng.Uint32(), una: -1, nxt: -1, max: -1, timed: -2, finAt: -2, repaired: -2,
		rto: time.Second, ssthresh: 1 << 30, rcvNxt: -1, peerScale: -1, opened: c.Active,
	}
	if rng.IntN(4) == 0 { // sequence numbers that wrap early
		e.iss = -uint32(rng.IntN(1 << 14))
	}
	for c.ReceiveBuffer>>e.scale > 65535 {
		e.scale++
	}
	e.mss = e.segmentSize(c.MTU)
	e.cwnd = 10 * e.mss
	if c.Active {
		e.output(0)
	}
	return e
}

func (e *referenceTCP) segmentSize(mtu int) int {
	if e.Local.Addr().Is4() {
		return mtu - 40
	}
	return mtu - 60
}

func (e *referenceTCP) seq(at int64) uint32 { return e.iss + 1 + uint32(at) }
func (e *referenceTCP) established() bool   { return e.synced && e.una >= 0 }
func (e *referenceTCP) end() int64 {
	if e.fin {
		return e.total + 1
	}
	return e.total
}

// window returns the room of the receive buffer. Early segments are within it.
func (e *referenceTCP) window() int { return max(0, e.ReceiveBuffer-len(e.in)) }

func (e *referenceTCP) Packets() [][]byte {
	p := e.packets
	e.packets = nil
	return p
}

func (e *referenceTCP) Events() simnet.Events {
	events := e.events
	e.events = 0
	return events
}

func (e *referenceTCP) Deadline() (time.Duration, bool) { return e.timer, e.timer != 0 }

func (e *referenceTCP) Usage() simnet.Usage {
	u := simnet.Usage{Buffered: len(e.out) + len(e.in)}
	for _, s := range e.early {
		u.Buffered += len(s.data)
	}
	if !e.dead {
		u.Connections = 1
	}
	return u
}

// --- the application's side

func (e *referenceTCP) Read(now time.Duration, b []byte) (int, error) {
	switch {
	case e.err != nil:
		return 0, e.err
	case len(e.in) == 0 && e.finAt >= 0 && e.rcvNxt > e.finAt:
		return 0, io.EOF
	case len(e.in) == 0:
		return 0, simnet.ErrWouldBlock
	}
	n := copy(b, e.in)
	e.in = e.in[n:]
	// A window update, if the peer may be waiting for it.
	if gain := e.rcvNxt + int64(e.window()) - e.offered; !e.dead && gain >= int64(min(2*e.mss, e.ReceiveBuffer/2)) {
		e.ackDue = true
		e.output(now)
	}
	return n, nil
}

func (e *referenceTCP) Write(now time.Duration, b []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	if e.dead || e.fin {
		return 0, simnet.ErrReset
	}
	n := min(len(b), e.SendBuffer-len(e.out))
	e.out = append(e.out, b[:n]...)
	e.total += int64(n)
	e.output(now)
	if n < len(b) {
		return n, simnet.ErrWouldBlock
	}
	return n, nil
}

func (e *referenceTCP) CloseWrite(now time.Duration) {
	e.fin = true
	e.output(now)
}

func (e *referenceTCP) Abort(now time.Duration) {
	if e.established() && !e.dead && !e.waiting {
		e.send(simnet.Segment{Seq: e.seq(e.max), Ack: e.irs + 1 + uint32(e.rcvNxt), Flags: simnet.RST | simnet.ACK})
	}
	e.die(simnet.ErrReset)
	e.events = 0
}

func (e *referenceTCP) Close(time.Duration) { e.in = nil }

// die ends the connection, with an error or after an orderly release.
func (e *referenceTCP) die(err error) {
	e.dead, e.timer, e.out, e.sacked = true, 0, nil, nil
	if err != nil {
		e.err, e.in = err, nil
		e.events |= simnet.Readable | simnet.Writable
	}
	if e.bug != leak {
		e.early = nil
	}
}

// --- timers

func (e *referenceTCP) Wake(now time.Duration) {
	if e.timer == 0 || now < e.timer {
		return
	}
	e.timer = 0
	switch {
	case e.waiting:
		e.die(nil)
		return
	case e.established() && e.una < e.total && e.edge <= e.una:
		e.transmit(now, e.una, e.una+1) // probe the closed window
	case e.una == e.max && e.established():
	default:
		if e.bug == lostRetransmission && e.una <= e.repaired && e.established() {
			break // it is in flight
		}
		e.ssthresh = max((e.cwnd)/2, 2*e.mss)
		e.cwnd, e.nxt, e.sacked, e.recovering, e.duplicates, e.timed = e.mss, e.una, nil, false, 0, -2
		e.repaired = e.una
	}
	e.rto = min(2*e.rto, maxRTO)
	e.output(now)
	e.arm(now)
}

// arm starts the timer if something has to happen without the peer, and it is not running.
func (e *referenceTCP) arm(now time.Duration) {
	if e.dead || e.waiting || e.timer != 0 {
		return
	}
	if e.una < e.max || e.established() && e.una < e.end() {
		e.timer = now + e.rto
	}
}

func (e *referenceTCP) measure(rtt time.Duration) {
	if e.srtt == 0 {
		e.srtt, e.rttvar = rtt, rtt/2
	} else {
		e.rttvar += ((e.srtt - rtt).Abs() - e.rttvar) / 4
		e.srtt += (rtt - e.srtt) / 8
	}
	e.rto = min(max(e.srtt+4*e.rttvar, minRTO), maxRTO)
}

// --- sending

func (e *referenceTCP) send(s simnet.Segment) {
	s.Src, s.Dst, s.Scale = e.Local, e.Remote, max(s.Scale, -1)
	if s.Flags&simnet.SYN == 0 {
		s.Scale = -1
	}
	e.packets = append(e.packets, s.Packet())
}

// header returns a segment with the acknowledgement and window.
func (e *referenceTCP) header(at int64) simnet.Segment {
	s := simnet.Segment{Seq: e.seq(at)}
	if !e.synced {
		return s
	}
	e.ackDue = false
	e.offered = max(e.offered, e.rcvNxt+int64(e.window()))
	s.Flags, s.Ack = simnet.ACK, e.irs+1+uint32(e.rcvNxt)
	window := e.offered - e.rcvNxt
	if e.peerScale >= 0 {
		window >>= e.scale
	}
	s.Window = uint16(min(window, 65535))
	if e.sackOK {
		for _, b := range e.blocks() {
			if len(s.SACK) < 4 {
				right := b[1]
				if e.bug == wrongSACKEdge {
					right++
				}
				s.SACK = append(s.SACK, simnet.Block{Left: e.irs + 1 + uint32(b[0]), Right: e.irs + 1 + uint32(right)})
			}
		}
	}
	return s
}

// blocks returns the ranges of the early segments.
func (e *referenceTCP) blocks() (blocks [][2]int64) {
	for _, s := range e.early {
		blocks = addRange(blocks, s.at, s.at+int64(len(s.data)))
	}
	return blocks
}

// transmit sends the positions from from up to to, at most one segment.
func (e *referenceTCP) transmit(now time.Duration, from, to int64) int64 {
	var s simnet.Segment
	if from < 0 {
		to = 0
		s = e.header(from)
		s.Flags |= simnet.SYN
		s.MSS, s.Scale, s.SACKPermitted = uint16(e.segmentSize(e.MTU)), e.scale, true
		s.Window = uint16(min(e.ReceiveBuffer, 65535)) // not scaled
		e.offered = max(e.offered, int64(s.Window))
		if e.synced && e.peerScale < 0 {
			s.Scale = -1
		}
	} else {
		s = e.header(from)
		size := e.mss
		if n := len(s.SACK); n > 0 {
			size -= 8*n + 4
		}
		to = min(to, from+int64(size))
		if bytesTo := min(to, e.total); bytesTo > from {
			s.Data = e.out[from-e.una : bytesTo-e.una]
			s.Flags |= simnet.PSH
		}
		if e.fin && to > e.total {
			s.Flags |= simnet.FIN
		}
	}
	e.send(s)
	if e.timed == -2 && to > e.max { // only new bytes are timed (Karn)
		e.timed, e.timedAt = from, now
	}
	e.nxt = max(e.nxt, to)
	e.max = max(e.max, to)
	return to
}

// output sends everything that may be sent now.
func (e *referenceTCP) output(now time.Duration) {
	if e.dead || !e.opened {
		return
	}
	if e.una < 0 {
		if e.nxt < 0 {
			e.transmit(now, -1, 0)
		}
		e.arm(now)
		return
	}
	if e.recovering {
		e.retransmitHoles(now)
	}
	for e.nxt < e.end() {
		limit := min(e.una+int64(e.cwnd+e.duplicates*e.mss), e.edge)
		if e.bug == windowOverflow {
			limit = min(e.una+int64(e.cwnd), e.nxt+e.edge-e.una)
		}
		if e.nxt >= e.total {
			limit = max(limit, e.end()) // a FIN needs no window
		}
		to := min(limit, e.end())
		// A small segment only if it is the last, or if nothing is in flight.
		if to <= e.nxt || to < e.end() && to-e.nxt < int64(e.mss) && e.nxt > e.una {
			break
		}
		e.nxt = e.transmit(now, e.nxt, to)
	}
	if e.ackDue {
		e.send(e.header(e.max))
	}
	e.arm(now)
}

// retransmitHoles sends the next missing range below the highest SACK block: one segment for
// each acknowledgement.
func (e *referenceTCP) retransmitHoles(now time.Duration) {
	at := max(e.repair, e.una)
	for _, b := range e.sacked {
		if at >= b[0] {
			at = max(at, b[1])
			continue
		}
		e.repair = e.transmit(now, at, b[0])
		return
	}
	if at == e.una && e.repair <= e.una && e.una < e.max { // no SACK: the first segment
		e.repair = e.transmit(now, at, e.max)
	}
}

// --- receiving

func (e *referenceTCP) Deliver(now time.Duration, packet []byte) {
	if mtu, ok := simnet.TooBig(packet); ok {
		if mss := e.segmentSize(mtu); mss < e.mss && mss > 500 && !e.dead {
			e.mss, e.nxt = mss, max(e.una, 0)
			e.output(now)
		}
		return
	}
	s, err := simnet.Parse(packet)
	if err != nil || s.Src != e.Remote || s.Dst != e.Local {
		return
	}
	switch {
	case e.dead || !e.opened && s.Flags&(simnet.SYN|simnet.ACK|simnet.RST) != simnet.SYN:
		if r := simnet.ResetFor(&s); r != nil {
			e.packets = append(e.packets, r)
		}
	case !e.synced:
		e.handshake(now, &s)
	default:
		e.segment(now, &s)
	}
	e.output(now)
}

// handshake waits for the peer's SYN.
func (e *referenceTCP) handshake(now time.Duration, s *simnet.Segment) {
	acks := s.Flags&simnet.ACK != 0
	if acks && s.Ack != e.seq(0) {
		if r := simnet.ResetFor(s); r != nil {
			e.packets = append(e.packets, r)
		}
		return
	}
	if s.Flags&simnet.RST != 0 {
		if acks {
			e.die(simnet.ErrReset)
		}
		return
	}
	if s.Flags&simnet.SYN == 0 {
		return
	}
	e.opened, e.synced, e.irs, e.rcvNxt = true, true, s.Seq, 0
	e.peerScale, e.sackOK = s.Scale, s.SACKPermitted
	if s.MSS != 0 {
		e.mss = min(e.mss, int(s.MSS))
	}
	e.offered = int64(min(e.ReceiveBuffer, 65535))
	e.edge, e.wl1, e.wl2 = int64(s.Window), -1, -1
	if acks {
		e.acknowledged(now, s, 0)
	}
	e.ackDue = e.established()
}

// segment processes a segment after the peer's SYN.
func (e *referenceTCP) segment(now time.Duration, s *simnet.Segment) {
	at := e.rcvNxt + int64(int32(s.Seq-(e.irs+1+uint32(e.rcvNxt))))
	if s.Flags&simnet.SYN != 0 { // a duplicate, or forged
		if e.una < 0 {
			e.nxt = -1 // repeat the SYN
		}
		e.ackDue = e.established()
		return
	}
	to := at + int64(len(s.Data))
	if s.Flags&simnet.RST != 0 {
		switch {
		case at == e.rcvNxt && e.waiting:
			e.die(nil)
		case at == e.rcvNxt && e.rcvNxt == e.finAt+1 && e.finAcked():
			e.die(nil)
		case at == e.rcvNxt:
			e.die(simnet.ErrReset)
		case at > e.rcvNxt && at < e.rcvNxt+int64(e.window()):
			e.ackDue = true
		}
		return
	}
	if s.Flags&simnet.ACK == 0 {
		return
	}
	ack := e.una + int64(int32(s.Ack-e.seq(e.una)))
	if e.una < 0 && (ack < 0 || ack > e.max) {
		if r := simnet.ResetFor(s); r != nil {
			e.packets = append(e.packets, r)
		}
		return
	}
	if to < e.rcvNxt || at > e.offered || at < e.rcvNxt && to == e.rcvNxt && s.Len() > 0 {
		e.ackDue = true // outside of the window
		if s.Flags&simnet.FIN != 0 && e.waiting {
			e.timer = now + timeWait
		}
	}
	if ack > e.max || at > e.offered {
		e.ackDue = true
		return
	}
	e.updateWindow(s, at, ack)
	e.acknowledged(now, s, ack)
	if !e.dead {
		e.accept(s, at, to)
		e.release(now)
	}
}

func (e *referenceTCP) updateWindow(s *simnet.Segment, at, ack int64) {
	if ack < e.una || at < e.wl1 || at == e.wl1 && ack < e.wl2 {
		return
	}
	window := int64(s.Window)
	if e.peerScale >= 0 {
		window <<= e.peerScale
	}
	closed := e.edge <= e.una
	e.wl1, e.wl2 = at, ack
	if ack == e.una && ack+window == e.edge && len(s.Data) == 0 && s.Flags&simnet.FIN == 0 && e.una < e.max && window > 0 {
		e.duplicates++
	}
	e.edge = max(e.edge, ack+window)
	if closed && e.edge > e.una && e.una == e.max {
		e.timer = 0 // no more probes
	}
}

// acknowledged processes the acknowledgement and SACK blocks of a segment.
func (e *referenceTCP) acknowledged(now time.Duration, s *simnet.Segment, ack int64) {
	if e.sackOK {
		for _, b := range s.SACK {
			left, right := e.una+int64(int32(b.Left-e.seq(e.una))), e.una+int64(int32(b.Right-e.seq(e.una)))
			if left > ack && left < right && right <= e.max {
				e.sacked = addRange(e.sacked, left, right)
			}
		}
	}
	if ack > e.una {
		e.advance(now, ack)
	}
	if !e.recovering && e.duplicates >= duplicateACKs && e.una < e.max && e.established() {
		e.ssthresh = max(int(e.max-e.una)/2, 2*e.mss)
		e.recovering, e.recoverTo, e.repair = true, e.max, e.una
		e.cwnd, e.timed = e.ssthresh, -2
	}
}

// advance frees acknowledged bytes.
func (e *referenceTCP) advance(now time.Duration, ack int64) {
	wasFull := len(e.out) >= e.SendBuffer
	wasUp := e.una >= 0
	free := min(ack, e.total) - min(max(e.una, 0), e.total)
	e.out = e.out[free:]
	if len(e.out) == 0 {
		e.out = nil
	}
	if e.timed > -2 && ack > e.timed {
		e.measure(now - e.timedAt)
		e.timed = -2
	} else if e.srtt > 0 {
		e.rto = min(max(e.srtt+4*e.rttvar, minRTO), maxRTO)
	}
	e.una, e.nxt, e.duplicates, e.timer = ack, max(e.nxt, ack), 0, 0
	for len(e.sacked) > 0 && e.sacked[0][1] <= ack {
		e.sacked = e.sacked[1:]
	}
	if e.recovering && ack >= e.recoverTo {
		e.recovering = false
	}
	switch {
	case e.recovering:
		e.repair = max(e.repair, ack)
		if len(e.sacked) == 0 {
			e.repair = ack // the next hole, without SACK
		}
	case e.cwnd < e.ssthresh:
		e.cwnd += e.mss
	default:
		e.cwnd += max(1, e.mss*e.mss/e.cwnd)
	}
	if !wasUp || wasFull && free > 0 {
		e.events |= simnet.Writable
	}
}

// accept takes the bytes and the FIN of a segment.
func (e *referenceTCP) accept(s *simnet.Segment, at, to int64) {
	if s.Len() > 0 {
		e.ackDue = true
	}
	if s.Flags&simnet.FIN != 0 && to <= e.offered {
		e.finAt = to
	}
	limit := e.offered
	if e.finAt >= 0 {
		limit = min(limit, e.finAt)
	}
	data, wasEarly := s.Data, at > e.rcvNxt
	if to > limit {
		data, to = data[:max(0, limit-at)], max(at, limit)
	}
	if to > e.rcvNxt && len(data) > 0 {
		if at < e.rcvNxt {
			data, at = data[e.rcvNxt-at:], e.rcvNxt
		}
		e.early = append(e.early, earlySegment{at, data})
		slices.SortStableFunc(e.early, func(a, b earlySegment) int { return int(a.at - b.at) })
		e.trimEarly()
	}
	before := len(e.in)
	for len(e.early) > 0 && e.early[0].at <= e.rcvNxt {
		first := e.early[0]
		e.early = e.early[1:]
		e.in = append(e.in, first.data[e.rcvNxt-first.at:]...)
		e.rcvNxt = first.at + int64(len(first.data))
	}
	if len(e.early) == 0 {
		e.early = nil
	}
	if len(e.in) > before {
		e.events |= simnet.Readable
	}
	if e.finAt >= 0 && e.rcvNxt == e.finAt {
		e.rcvNxt++
		if e.bug != missedWakeUp || s.Flags&simnet.FIN != 0 && !wasEarly {
			e.events |= simnet.Readable
		} else {
			e.events &^= simnet.Readable
		}
	}
}

// trimEarly makes early segments disjoint, so that they hold no byte twice.
func (e *referenceTCP) trimEarly() {
	kept := e.early[:0]
	end := e.rcvNxt
	for _, s := range e.early {
		to := s.at + int64(len(s.data))
		if to <= end {
			continue
		}
		if s.at < end {
			s.data, s.at = s.data[end-s.at:], end
		}
		kept = append(kept, s)
		end = to
	}
	e.early = kept
}

func (e *referenceTCP) finAcked() bool { return e.fin && e.una == e.total+1 }

// release ends the connection when both streams have ended: in TIME-WAIT if this end's FIN
// came first.
func (e *referenceTCP) release(now time.Duration) {
	if e.waiting || !e.finAcked() || e.finAt < 0 || e.rcvNxt != e.finAt+1 {
		return
	}
	// Without a state for LAST-ACK, TIME-WAIT does no harm on the other end.
	e.waiting, e.timer = true, now+timeWait
}

func addRange(r [][2]int64, from, to int64) [][2]int64 {
	var out [][2]int64
	for i, x := range r {
		if x[1] < from {
			out = append(out, x)
			continue
		}
		if x[0] > to {
			return append(append(out, [2]int64{from, to}), r[i:]...)
		}
		from, to = min(from, x[0]), max(to, x[1])
	}
	return append(out, [2]int64{from, to})
}

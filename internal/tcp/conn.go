// Package tcp is one end of a TCP connection as a pure state machine: segments, bytes and time in; segments and bytes
// out. It has no goroutines, clock, locks or random numbers of its own, and imports only the standard library.
//
// Time is the time since an arbitrary fixed instant, and never decreases. Sizes are in bytes. One goroutine at a time
// may use a [Conn].
//
//	network                                Conn                                  application
//	         ┌──────────────────────────────────────────────────────────────┐
//	Deliver ─┼▶ checks ─▶ acknowledgement ─▶ scoreboard, RACK, RTT, window  │
//	         │     └────▶ payload ─▶ receive buffer ────────────────────────┼─▶ Peek, Consume
//	Next   ◀─┼─ runs ◀─ lost records, new data ◀─ send buffer ◀─────────────┼── Buffer, Commit
//	         └──────▲───────────────▲───────────────────────────────────────┘
//	             pacing, window   timers: Deadline, Wake
//
// After each call of a method that has a time, the caller takes the segments to send with [Conn.Next] until it returns
// false, and then asks [Conn.Deadline] when to call [Conn.Wake].
//
// Inside of the package, bytes have positions in their stream instead of sequence numbers: the first byte is at 0, the
// SYN at -1, and the FIN after the last byte. Positions have 64 bits and do not wrap.
//
// docs/tcp.md lists the rules of the standards with the tests that show them, and the deliberate differences.
package tcp

import (
	"errors"
	"time"

	"subnetrouter/internal/tcp/congestion"
)

// Options configure a connection. MSS, ISS, Congestion and the limits are required.
type Options struct {
	// MSS is the largest payload that the local link takes in one segment without TCP options.
	MSS int
	// ISS is the initial sequence number. It must be unpredictable (RFC 6528).
	ISS uint32
	// TimestampOffset is added to all timestamps. It must be unpredictable (RFC 7323, section 5.4).
	TimestampOffset uint32
	// Congestion makes the congestion control for segments of mss bytes of payload.
	Congestion func(mss int) congestion.Controller
	// Handshake is the time after which a handshake that is not complete fails; 0: a minute. It begins with Dial or
	// Answer.
	Handshake time.Duration
	Keepalive Keepalive
	// GiveUp is the time after which the connection ends if data is due and the peer does not answer; 0: 15 minutes.
	GiveUp time.Duration
	// SendLimit and ReceiveLimit are the bytes that may be buffered in each direction. The memory for them may be larger
	// by the unused parts of blocks: up to three of 64 KiB for sending, and two of 16 KiB for receiving.
	SendLimit, ReceiveLimit int
}

// Keepalive configures probes of an idle peer. The zero value sends none.
type Keepalive struct {
	Idle     time.Duration // without a segment from the peer until the first probe; 0: no probes
	Interval time.Duration // from a probe that is not answered to the next
	Count    int           // of probes without an answer after which the connection ends
}

// State is a state of RFC 9293, section 3.3.2.
type State uint8

// The states of a connection. Received is the one of a [Conn] from [Accept] until [Conn.Answer]: it has the peer's SYN
// and has sent nothing.
const (
	Closed State = iota
	Received
	SynSent
	SynReceived
	Established
	FinWait1
	FinWait2
	CloseWait
	Closing
	LastAck
	TimeWait
)

// String returns the name of RFC 9293.
func (s State) String() string {
	return [...]string{"CLOSED", "RECEIVED", "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT"}[s]
}

// The causes for which a connection ends before both streams have.
var (
	ErrReset   = errors.New("the peer reset the connection")
	ErrRefused = errors.New("the peer refused the connection")
	// ErrUnreachable is the cause of [Conn.Unreachable].
	ErrUnreachable = errors.New("the peer cannot be reached")
	ErrTimeout     = errors.New("the peer does not answer")
	ErrKeepalive   = errors.New("the peer does not answer keepalive probes")
	ErrAborted     = errors.New("the connection was aborted")
)

const (
	defaultHandshake = time.Minute
	defaultGiveUp    = 15 * time.Minute
	// timeWait is twice the maximum segment lifetime, as Linux has it.
	timeWait = time.Minute
	// defaultMSS is that of a peer that announces none (RFC 9293, section 3.7.1).
	defaultMSS = 536
	// minMSS bounds the work that a peer can cause with tiny segments; Linux has the same bound.
	minMSS = 48
	// maxRunSize leaves room for the headers in the 16-bit length of an IP packet.
	maxRunSize = 65535 - maxHeaderSize - 40
)

// Conn is one end of a connection.
type Conn struct {
	options Options
	state   State
	err     error
	cc      congestion.Controller // nil until the peer's SYN

	// Set with the peer's SYN.
	irs          uint32 // the sequence number of its SYN
	scaling      bool   // both ends offered window scaling
	peerScale    uint8
	sackOK       bool
	timestamps   bool
	tsRecent     uint32        // the timestamp to echo
	tsRecentAt   time.Duration // when it was set
	mss          int           // payload of a full segment, without options
	headerExtra  int           // bytes of options in each segment
	pathMSS      int           // the payload that the path takes, without options
	handshakeRTT time.Duration // when the SYN was sent, if once

	// Sending: una ≤ nxt ≤ out.end, plus one position for the FIN.
	una, nxt  int64
	out       sendBuffer
	closing   bool  // the application has closed its stream: it ends at out.end
	edge      int64 // the end of the peer's window
	wl1, wl2  int64 // the position and acknowledgement of the segment that set it
	maxWindow int64 // the largest window of the peer
	board     scoreboard
	recovery  recovery
	rack      rack
	rtt       rttEstimator
	pace      pacer
	limitedTo int64 // the end of the data that was sent while the congestion window held more back
	urgentOut urgentSender

	// Segments that Next has to send.
	synDue, resetDue, probeDue, ackNow bool
	resetPos                           int64

	in receiver

	// Timers; 0 is off.
	retransmitAt time.Duration
	tailProbe    bool // retransmitAt is for a tail loss probe
	persistAt    time.Duration
	ackAt        time.Duration
	stateAt      time.Duration // the end of the handshake or of TIME-WAIT
	backoff      int           // of the retransmission timer
	persistCount int           // probes of the closed window
	probes       int           // keepalive probes without an answer
	probedAt     time.Duration
	heardAt      time.Duration // the last acceptable segment of the peer
	progressAt   time.Duration // the last answer to data that is due, or when data became due

	challenges  int           // challenge ACKs since challengeAt
	challengeAt time.Duration // the start of their current interval

	stats       counters
	maxSegments int     // of the run that Next builds; 0: no bound
	scratch     Segment // that Next builds
	header      [maxHeaderSize]byte
	peek        [8][]byte
}

type counters struct {
	sent, received, retransmitted int64 // bytes
	segments, retransmissions     int64
	timeouts, tailProbes, undone  int64
}

func newConn(o Options) *Conn {
	if o.Handshake == 0 {
		o.Handshake = defaultHandshake
	}
	if o.GiveUp == 0 {
		o.GiveUp = defaultGiveUp
	}
	c := &Conn{options: o, una: -1, nxt: -1, wl1: -1, wl2: -1, pathMSS: max(o.MSS, minMSS)}
	c.rtt.init()
	c.rack.init()
	c.in.init(o.ReceiveLimit)
	return c
}

// Accept returns the passive end of a connection whose SYN has arrived. Nothing is sent before [Conn.Answer], and the
// payload of the SYN, if any, is left to its retransmission.
func Accept(now time.Duration, o Options, syn *Segment) *Conn {
	c := newConn(o)
	c.state = Received
	c.takeSYN(now, syn)
	return c
}

// Answer sends the SYN-ACK of a connection from [Accept].
func (c *Conn) Answer(now time.Duration) {
	if c.state != Received {
		return
	}
	c.state, c.synDue = SynReceived, true
	c.stateAt = now + c.options.Handshake
}

// Dial returns the active end of a connection; it sends a SYN.
func Dial(now time.Duration, o Options) *Conn {
	c := newConn(o)
	c.state, c.synDue = SynSent, true
	c.stateAt = now + c.options.Handshake
	return c
}

// Unreachable processes an ICMP error that reports that the peer cannot be reached, and quotes a segment with sequence
// number seq. It ends an attempt of [Dial] whose SYN is quoted. Later, such an error may be forged or temporary, and has no
// effect (RFC 5461, section 4): the connection ends when data has no answer.
func (c *Conn) Unreachable(seq uint32) {
	if c.state == SynSent && c.nxt == 0 && seq == c.seq(-1) {
		c.end(ErrUnreachable)
	}
}

// takeSYN takes the parameters of the peer's SYN.
func (c *Conn) takeSYN(now time.Duration, s *Segment) {
	c.irs, c.heardAt = s.Seq, now
	c.scaling, c.peerScale = s.Scale >= 0, uint8(max(s.Scale, 0))
	c.sackOK, c.timestamps = s.SACKPermitted, s.Timestamps
	c.tsRecent, c.tsRecentAt = s.TSVal, now
	c.headerExtra = 0
	if c.timestamps {
		c.headerExtra = timestampsSize
	}
	c.mss = defaultMSS
	if s.MSS != 0 {
		c.mss = int(s.MSS)
	}
	c.mss = max(min(c.mss, c.pathMSS), minMSS)
	c.edge, c.maxWindow = int64(s.Window), int64(s.Window)
	c.in.peerMSS = min(defaultMSS, c.pathMSS)
	if c.cc == nil || c.state == Received {
		c.cc = c.options.Congestion(c.segmentSize())
	}
}

// segmentSize returns the payload of a full segment with its options.
func (c *Conn) segmentSize() int { return max(c.mss-c.headerExtra, minMSS-timestampsSize) }

// SetMSS sets the payload that the path takes in one segment without TCP options, as [Options.MSS], after an ICMP error
// or a change of the link's MTU. Segments in flight that are larger are sent again at once. The caller verifies with
// [Conn.InFlight] that an ICMP error answers a segment of this connection.
func (c *Conn) SetMSS(now time.Duration, mss int) {
	mss = max(mss, minMSS)
	c.pathMSS = mss
	if c.mss == 0 || mss >= c.mss {
		return // before the peer's SYN, or no smaller than both ends take
	}
	c.mss = mss
	if c.una < 0 {
		return
	}
	c.tooBig(now)
}

// InFlight reports whether a sequence number is of a byte that was sent and is not acknowledged.
func (c *Conn) InFlight(seq uint32) bool {
	pos := c.position(seq)
	return c.una <= pos && pos < c.nxt
}

// seq returns the sequence number of a position of the own stream.
func (c *Conn) seq(pos int64) uint32 { return c.options.ISS + 1 + uint32(pos) }

// position returns the position that a sequence number of the own stream has near SND.UNA.
func (c *Conn) position(seq uint32) int64 { return c.una + int64(int32(seq-c.seq(c.una))) }

// State returns the connection's state.
func (c *Conn) State() State { return c.state }

// Established reports whether the handshake is complete, also if the connection has ended since.
func (c *Conn) Established() bool { return c.una >= 0 }

// Closed reports whether the connection has ended, and needs neither time nor segments any more. The last segment, a
// reset, may still be due; see [Conn.Next].
func (c *Conn) Closed() bool { return c.state == Closed }

// Err returns why the connection has ended, or nil if it has not, or if both streams have.
func (c *Conn) Err() error { return c.err }

// Replaceable reports whether a new connection may take the place of this one, which has nothing to do but to wait for
// late segments: a SYN of the same addresses and ports begins one.
func (c *Conn) Replaceable() bool { return c.state == TimeWait || c.state == Closed }

// Unacked reports whether the peer has anything to acknowledge: bytes, sent or not, or the end of the stream.
func (c *Conn) Unacked() bool { return c.state != Closed && c.una < c.streamEnd() }

// Acknowledged returns the position up to which the peer has acknowledged the stream; negative before the handshake
// is complete.
func (c *Conn) Acknowledged() int64 { return c.una }

// streamEnd returns the position after the last that the application has given so far.
func (c *Conn) streamEnd() int64 {
	if c.closing {
		return c.out.end + 1
	}
	return c.out.end
}

// SetLimits changes the bytes that may be buffered in each direction. Buffered bytes and the window that the
// peer has been offered stay.
func (c *Conn) SetLimits(send, receive int) {
	c.options.SendLimit, c.options.ReceiveLimit = send, receive
	c.in.setLimit(receive)
}

// Buffered returns the memory that the connection holds for bytes of each direction.
func (c *Conn) Buffered() (send, receive int) { return c.out.held, c.in.buffer.held }

// Stats describe a connection.
type Stats struct {
	State         State
	RTT, MinRTT   time.Duration // smoothed, and the least of the last minutes; 0 before the first measurement
	RTO           time.Duration
	MSS           int // payload of a full segment
	Window        int // congestion window, bytes
	InFlight      int
	PacingRate    int64 // bytes per second
	DeliveryRate  int64 // bytes per second; 0: unknown
	ReceiveWindow int   // bytes, as tuned for the path

	Congestion, CongestionState string

	Sent, Received, Retransmitted int64 // bytes of payload; Sent is without retransmissions
	Segments, Retransmissions     int64 // sent, with and without payload; of these, sent again
	Timeouts, TailProbes, Undone  int64 // retransmission timeouts; tail loss probes; reductions that were undone
}

// Stats returns the current figures.
func (c *Conn) Stats() Stats {
	s := Stats{
		State: c.state, RTT: c.rtt.smoothed, MinRTT: c.rtt.min(), RTO: c.rtt.rto,
		InFlight: c.board.inFlight, ReceiveWindow: c.in.window(),
		Sent: c.stats.sent, Received: c.stats.received, Retransmitted: c.stats.retransmitted,
		Segments: c.stats.segments, Retransmissions: c.stats.retransmissions,
		Timeouts: c.stats.timeouts, TailProbes: c.stats.tailProbes, Undone: c.stats.undone,
	}
	if c.cc != nil {
		s.MSS, s.Window, s.PacingRate, s.DeliveryRate = c.segmentSize(), c.cc.Window(), c.cc.PacingRate(), c.cc.DeliveryRate()
		s.Congestion, s.CongestionState = c.cc.Name(), c.cc.State()
	}
	return s
}

// Abort ends the connection: the next segment is a reset, unless the peer knows of no connection, or has nothing left
// to do on it. All memory is free.
func (c *Conn) Abort(time.Duration) {
	switch c.state {
	case Closed:
		if c.err != nil {
			return
		}
	case Received, SynReceived, Established, FinWait1, FinWait2, CloseWait, Closing, LastAck:
		// If nothing was sent yet, nxt is -1, and the peer's SYN is refused.
		c.resetDue, c.resetPos = true, c.nxt
	default: // the peer has nothing to reset
	}
	c.end(ErrAborted)
}

// end ends the connection and frees its memory. Only after an orderly release, without an error, the application may
// still consume the bytes that have arrived.
func (c *Conn) end(err error) {
	c.state, c.err = Closed, err
	c.out.clear()
	c.board.clear()
	if err != nil {
		c.in.clear()
	}
	c.retransmitAt, c.persistAt, c.ackAt, c.stateAt = 0, 0, 0, 0
	c.rack.reorderAt = 0
	c.synDue, c.probeDue, c.ackNow = false, false, false
	c.pace.waiting = false
	clear(c.peek[:])
}

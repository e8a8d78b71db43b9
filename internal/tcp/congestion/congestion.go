// Package congestion decides how much a TCP sender may have in flight, and how fast it may send.
//
// A Controller is a pure state machine: it has no clock, starts no goroutine and draws random numbers only from the
// seed that its maker was given, so a run that is fed the same calls gives the same answers. Time is the time since an
// arbitrary fixed instant and never decreases. Sizes are bytes of payload, rates bytes per second.
package congestion

import "time"

// Controller is one connection's congestion control. It is not safe for concurrent use.
//
// The sender calls Send for each transmission. For each ACK it calls Acked for each newly delivered record and Lost for
// each newly lost one, then Ack once. Window, PacingRate and Quantum may have new values after any call.
type Controller interface {
	// Send records a transmission, new or repeated, of size bytes, and fills p. inFlight is the number of bytes in
	// flight before this transmission; bytes taken for lost and not yet sent again are not in flight.
	Send(now time.Duration, p *Packet, size, inFlight int)

	// Acked reports that size bytes, last sent with p, were delivered (by a cumulative or a selective acknowledgment).
	// Each byte is reported once, even if it was taken for lost before.
	Acked(now time.Duration, p *Packet, size int)

	// Lost reports that size bytes, last sent with p, are taken for lost. A timer that finds losses between two ACKs
	// calls it as well; the next Ack then covers them. The losses of a retransmission timeout are reported by Timeout.
	Lost(now time.Duration, p *Packet, size int)

	// Ack ends the report of one ACK. The sender may also call it once, with nothing delivered, for the round-trip time
	// of the handshake: the first window is then paced by it.
	Ack(now time.Duration, a Ack)

	// Timeout reports that the retransmission timer fired: everything in flight is taken for lost, and Lost is not
	// called for it. inFlight is the number of bytes in flight before that. It begins a recovery, as EnterRecovery does.
	Timeout(now time.Duration, inFlight int)

	// Spurious reports that no byte was lost in the last recovery or timeout (D-SACK, or Eifel detection by
	// timestamps). The reduction is undone.
	Spurious(now time.Duration)

	// EnterRecovery reports that loss was found outside of a recovery, after Lost was called for it. inFlight is the
	// number of bytes in flight without what is lost. ExitRecovery ends the recovery, when all that was sent before it
	// began is acknowledged; a Timeout replaces it by another.
	EnterRecovery(now time.Duration, inFlight int)
	ExitRecovery(now time.Duration)

	// AppLimited reports that nothing is left to send although the window allows more: the rate of delivery in the next
	// round trip is not the path's. inFlight is the number of bytes in flight.
	AppLimited(inFlight int)

	// Window is the number of bytes that may be in flight; at least one segment.
	Window() int

	// PacingRate is the rate at which data may be sent, in bytes per second; always positive.
	PacingRate() int64

	// Quantum is the number of bytes that pacing releases at once: at least 2 segments, at most 64 KiB.
	Quantum() int

	// DeliveryRate is the estimate of the rate at which the path delivers, in bytes per second; 0 before the first.
	DeliveryRate() int64

	// Name and State are for status and debugging, in words without spaces.
	Name() string
	State() string
}

// Ack describes one ACK after all that it delivered and all that it found lost.
type Ack struct {
	InFlight      int           // bytes in flight after this ACK
	RTT           time.Duration // of the newest record that this ACK delivered and that was sent once; 0 if there is none
	WindowLimited bool          // the congestion window held data back since the last ACK
	InRecovery    bool          // between EnterRecovery and ExitRecovery
}

// Bounds of all arithmetic: no path has more in flight or is faster.
const (
	maxVolume = 1 << 30 // bytes; the largest window of TCP (RFC 7323)
	maxRate   = 1e12    // bytes per second
	minRate   = 100     // bytes per second
)

// initialWindow is the window of a new connection in bytes (RFC 6928).
func initialWindow(mss int) int64 {
	return int64(min(10*mss, max(2*mss, 14600)))
}

// Packet is the part of a record in flight that its sender keeps on behalf of its Controller. A sender that splits a
// record copies it to both parts. The zero value is that of a record that was never sent.
type Packet struct {
	sentAt      time.Duration // of this transmission
	firstSentAt time.Duration // of the record that began this record's send interval
	deliveredAt time.Duration // of the newest delivery when this record was sent
	delivered   int64         // bytes delivered when this record was sent
	lost        int64         // bytes lost when this record was sent
	inFlight    int64         // bytes in flight, this record included, when it was sent
	appLimited  bool          // the application, not the window, limited the volume in flight
	sent        bool

	takenForLost bool // Lost was called since it was last sent
}

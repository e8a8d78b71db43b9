package congestion

import "time"

// Constants of RFC 9406. As the sender paces, slow start grows by all that is acknowledged (L is infinite).
const (
	hystartMinThreshold  = 4 * time.Millisecond
	hystartMaxThreshold  = 16 * time.Millisecond
	hystartDivisorOfRTT  = 8
	hystartSamples       = 8 // round-trip times of a round trip before which it is not judged
	hystartDivisor       = 4 // growth of conservative slow start
	hystartConservatives = 5 // round trips of conservative slow start, after which slow start ends
)

// hystart ends slow start when round-trip times begin to grow, before the queue overflows (HyStart++, RFC 9406). It
// slows the growth first, and goes back to full speed if the round-trip times fall again.
type hystart struct {
	last, current time.Duration // minima of the last and the present round trip; 0: none
	samples       int
	conservative  bool
	baseline      time.Duration // minimum of the round trip in which conservative began
	rounds        int           // of conservative slow start
}

// ack takes in the round-trip time of an ACK, 0 if there is none, and reports whether slow start ends.
func (h *hystart) ack(rtt time.Duration, roundStart bool) bool {
	if roundStart {
		h.last, h.current, h.samples = h.current, 0, 0
		if h.conservative {
			if h.rounds++; h.rounds >= hystartConservatives {
				return true
			}
		}
	}
	if rtt > 0 {
		h.samples++
		if h.current == 0 || rtt < h.current {
			h.current = rtt
		}
	}
	if h.samples < hystartSamples || h.last == 0 {
		return false
	}
	if h.conservative {
		if h.current < h.baseline {
			h.conservative = false
		}
	} else if h.current >= h.last+min(max(h.last/hystartDivisorOfRTT, hystartMinThreshold), hystartMaxThreshold) {
		h.conservative, h.baseline, h.rounds = true, h.current, 0
	}
	return false
}

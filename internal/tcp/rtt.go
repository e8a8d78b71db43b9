package tcp

import "time"

const (
	initialRTO = time.Second
	// minRTO is the least margin of the retransmission timer over the smoothed round-trip time. RFC 6298 has a minimum of
	// 1 s for the whole timer; Linux has this one.
	minRTO = 200 * time.Millisecond
	// maxRTO bounds the timer and its back-off: how long a peer that returns may wait.
	maxRTO = time.Minute
	// minRTTWindow is half of the time for which the least round-trip time counts.
	minRTTWindow = 2 * time.Minute
)

// rttEstimator estimates the round-trip time (RFC 6298).
type rttEstimator struct {
	smoothed, variation, rto time.Duration

	// The least of the current and of the previous minRTTWindow.
	least, previous time.Duration
	leastSince      time.Duration
}

func (e *rttEstimator) init() { e.rto = initialRTO }

// afterLostSYN starts with a larger timer if there is no measurement because the SYN was sent again (RFC 6298, 5.7).
func (e *rttEstimator) afterLostSYN() { e.rto = 3 * time.Second }

func (e *rttEstimator) sample(now, rtt time.Duration) {
	rtt = max(rtt, time.Microsecond)
	if e.smoothed == 0 {
		e.smoothed, e.variation = rtt, rtt/2
	} else {
		e.variation += ((e.smoothed - rtt).Abs() - e.variation) / 4
		e.smoothed += (rtt - e.smoothed) / 8
	}
	e.rto = min(e.smoothed+max(4*e.variation, minRTO), maxRTO)
	if e.least == 0 || now-e.leastSince > minRTTWindow {
		e.previous, e.least, e.leastSince = e.least, rtt, now
	}
	e.least = min(e.least, rtt)
}

// min returns the least round-trip time of the last minutes, or 0.
func (e *rttEstimator) min() time.Duration {
	if e.previous != 0 {
		return min(e.least, e.previous)
	}
	return e.least
}

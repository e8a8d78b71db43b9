package congestion

import "time"

// bbrProbe is the cycle of bandwidth probes.
type bbrProbe struct {
	ackPhase ackPhase

	probeSample       bool // the ACKs are of data that a probe sent, and no loss was answered yet
	probeTooHigh      bool // the last probe lost too much
	probePrecaution   bool // the last probe ended early, where the one before had lost too much
	cycleAt           time.Duration
	wait              time.Duration // longest time from cycleAt to the next probe
	roundsSinceProbe  int64
	upRounds          uint  // round trips in which this probe raised inflightLong
	upAcked           int64 // bytes acknowledged since inflightLong was raised
	probeUpPerSegment int64 // bytes to be acknowledged for each segment by which inflightLong is raised
}

// startDown leaves the queue that a probe built to drain, and draws the time of the next probe, so that flows which share
// a path do not probe together.
func (b *bbr) startDown(now time.Duration) {
	b.resetCongestionSignals()
	b.probeUpPerSegment = unlimited
	b.roundsSinceProbe = b.rand.Int64N(2)
	b.wait = b.tuning.probeWait + time.Duration(b.rand.Float64()*float64(b.tuning.probeWaitSpread))
	b.cycleAt = now
	b.ackPhase = acksStopping
	b.startRound()
	b.setProbeState(probeDown, b.tuning.downGain, b.tuning.cwndGain)
}

func (b *bbr) startCruise() { b.setProbeState(probeCruise, 1, b.tuning.cwndGain) }

// startRefill forgets the short-term model: the probe finds out whether its losses were due to others that have left.
func (b *bbr) startRefill() {
	b.resetShortTerm()
	b.upRounds, b.upAcked = 0, 0
	b.probePrecaution = false
	b.ackPhase = acksRefill
	b.startRound()
	b.setProbeState(probeRefill, 1, b.tuning.cwndGain)
}

// startUp begins the probe itself. From here on, losses count against the volume in flight.
func (b *bbr) startUp(s *sample) {
	b.probeSample = true
	b.ackPhase = acksStarting
	b.startRound()
	b.resetFullBW(s.rate)
	b.setProbeState(probeUp, b.tuning.upGain, b.tuning.upCwndGain)
	b.raiseSlope()
}

func (b *bbr) setProbeState(s bbrState, pacingGain, cwndGain float64) {
	b.state, b.pacingGain, b.cwndGain = s, pacingGain, cwndGain
}

// updateProbe moves on in the cycle of bandwidth probes.
func (b *bbr) updateProbe(now time.Duration, s *sample, inFlight int64) {
	if !b.fullBWReached || b.adaptLongTerm(s) {
		return
	}
	switch b.state {
	case probeDown:
		if b.timeToProbe(now) {
			b.startRefill()
		} else if inFlight <= b.withHeadroom() && inFlight <= b.inflightOfMaxBW() {
			b.startCruise()
		}
	case probeCruise:
		if b.timeToProbe(now) {
			b.startRefill()
		}
	case probeRefill:
		if b.roundStart {
			b.startUp(s)
		}
	case probeUp:
		if b.timeToGoDown(s, inFlight) {
			b.probeTooHigh = false
			b.startDown(now)
		}
	default: // no part of the cycle
	}
}

// timeToProbe: as often as a flow with Reno of the same rate fills the path, but at least every 2 to 3 s.
func (b *bbr) timeToProbe(now time.Duration) bool {
	return now > b.cycleAt+b.wait || b.roundsSinceProbe >= min(b.targetInflight()/b.mss, b.tuning.probeRounds)
}

// inflightOfMaxBW is the volume in flight that fills the path. Unlike inflight(1), losses do not shrink it.
func (b *bbr) inflightOfMaxBW() int64 {
	if b.minRTT == 0 {
		return b.quantize(initialWindow(int(b.mss)))
	}
	return b.quantize(clampVolume(b.maxBW() * b.minRTT.Seconds()))
}

// timeToGoDown ends a probe before it causes losses, which tooLossy looks for: at the volume that was too much last
// time, or when the rate no longer grows.
func (b *bbr) timeToGoDown(s *sample, inFlight int64) bool {
	if b.probeTooHigh && inFlight >= b.inflightLong {
		b.probePrecaution = true // the last probe lost too much here: a round trip more would do it again
		return true
	}
	if b.limitedByLongTerm() && b.inflightLong < clampVolume(b.tuning.upEnough*b.maxBW()*b.minRTT.Seconds()) {
		b.resetFullBW(s.rate) // the rate cannot grow, which says nothing about the path
		return false
	}
	return b.fullBWNow
}

// limitedByLongTerm reports that inflightLong holds the sender back.
func (b *bbr) limitedByLongTerm() bool {
	return (b.windowLimited || b.windowLimitedBefore) && b.cwnd >= b.inflightLong
}

// raiseSlope doubles the rate at which inflightLong grows, from one segment per round trip.
func (b *bbr) raiseSlope() {
	growth := int64(1) << b.upRounds
	b.upRounds = min(b.upRounds+1, 30)
	b.probeUpPerSegment = max(b.cwnd/growth, b.mss)
}

// adaptLongTerm follows the ACKs of a bandwidth probe, and raises inflightLong while nothing shows that it is too high.
// It reports whether it began another state.
func (b *bbr) adaptLongTerm(s *sample) bool {
	if b.ackPhase == acksStarting && b.roundStart {
		b.ackPhase = acksFeedback
	}
	if b.ackPhase == acksStopping && b.roundStart {
		b.probeSample = false
		b.ackPhase = acksInit
		if b.state.probesBandwidth() && !s.appLimited {
			b.advanceMaxBW()
		}
		if b.state.probesBandwidth() && b.probePrecaution && !b.probeTooHigh {
			b.startRefill()
			return true
		}
	}
	if b.tooLossy(s.lostSince, s.inFlight) || b.inflightLong == unlimited {
		return false
	}
	b.inflightLong = max(b.inflightLong, s.inFlight)
	if b.state == probeUp && b.limitedByLongTerm() {
		b.upAcked += s.acked
		if n := b.upAcked / b.probeUpPerSegment; n > 0 {
			b.upAcked -= n * b.probeUpPerSegment
			b.inflightLong = min(b.inflightLong+n*b.mss, maxVolume)
		}
		if b.roundStart {
			b.raiseSlope()
		}
	}
	return false
}

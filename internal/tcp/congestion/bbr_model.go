package congestion

import (
	"math"
	"time"
)

// bbrModel is BBR's model of the path.
type bbrModel struct {
	// Rate: the maxima of the samples since the last bandwidth probe and the one before, and a lower limit by the losses
	// since the last probe.
	maxBWs  [2]float64
	bwShort float64 // +Inf: no limit

	// Volume in flight: the most that a probe found to be safe, and a lower limit by the losses since then.
	inflightLong  int64
	inflightShort int64

	// Round-trip time: the minimum of minRTTWindow, and of probeRTTInterval. The shorter one decides when the queue has
	// to be drained for a measurement, so that the longer one contains at least one.
	minRTT          time.Duration // 0: none yet
	minRTTAt        time.Duration
	recentRTT       time.Duration
	recentRTTAt     time.Duration
	probeRTTExpired bool
	lastRTT         time.Duration

	// Aggregation: data that is acknowledged in bunches, beyond the data that the path delivers in the same time.
	ackedSince   int64
	ackedSinceAt time.Duration
	extraAcked   [2]int64 // maxima of this window of extraAckedRounds and of the one before
	extraRound   int64    // value of rounds when this window began
}

// bbrLoss has the measurements of the present round trip that decide on the answer to its losses.
type bbrLoss struct {
	bwLatest       float64 // maximum of the samples
	inflightLatest int64   // maximum delivered in the time of a sample

	lossInRound    bool
	lossEvents     int   // ACKs with new losses
	lossRoundEnd   int64 // sampler.delivered at the transmission that ends the round trip
	lossRoundStart bool  // this ACK began one
	roundDelivered int64 // sampler.delivered when the round trip began
	roundLost      int64 // sampler.lost when it began
	roundLossRate  float64
	roundTooLossy  bool // more than shortTermThreshold and the ambient loss
	roundEvents    int  // lossEvents of the round trip that ended

	// Ambient loss: the losses while the sender does not probe, in groups of round trips.
	ambientRounds    int
	ambientDelivered int64
	ambientLost      int64
	ambientMin       [2]float64 // minima of this cycle of probes and of the one before; +Inf: none
}

func (b *bbr) maxBW() float64 { return max(b.maxBWs[0], b.maxBWs[1]) }
func (b *bbr) bw() float64    { return min(b.maxBW(), b.bwShort) }

func (b *bbr) updateMaxBW(s *sample) {
	if s.rate > 0 && (s.rate >= b.maxBW() || !s.appLimited) {
		b.maxBWs[0] = max(b.maxBWs[0], s.rate)
	}
}

// advanceMaxBW forgets the samples of the last probe but one.
func (b *bbr) advanceMaxBW() {
	if b.maxBWs[0] > 0 {
		b.maxBWs[1], b.maxBWs[0] = b.maxBWs[0], 0
	}
	if !math.IsInf(b.ambientMin[0], 1) {
		b.ambientMin[1], b.ambientMin[0] = b.ambientMin[0], inf
	}
}

func (b *bbr) updateMinRTT(now, rtt time.Duration) {
	if rtt > 0 {
		b.lastRTT = rtt
	}
	b.probeRTTExpired = b.recentRTT > 0 && now > b.recentRTTAt+b.tuning.probeRTTInterval
	if rtt > 0 && (b.recentRTT == 0 || rtt < b.recentRTT || b.probeRTTExpired) {
		b.recentRTT, b.recentRTTAt = rtt, now
	}
	if b.recentRTT > 0 && (b.minRTT == 0 || b.recentRTT < b.minRTT || now > b.minRTTAt+b.tuning.minRTTWindow) {
		b.minRTT, b.minRTTAt = b.recentRTT, b.recentRTTAt
	}
}

func (b *bbr) updateAggregation(now time.Duration, s *sample) {
	expected := b.bw() * (now - b.ackedSinceAt).Seconds()
	if float64(b.ackedSince) <= expected {
		b.ackedSince, b.ackedSinceAt, expected = 0, now, 0
	}
	b.ackedSince += s.acked
	extra := min(int64(max(float64(b.ackedSince)-expected, 0)), b.cwnd)
	window := int64(1)
	if b.fullBWReached {
		window = extraAckedRounds
	}
	if b.roundStart && b.rounds >= b.extraRound+window {
		b.extraAcked[1], b.extraAcked[0], b.extraRound = b.extraAcked[0], 0, b.rounds
	}
	b.extraAcked[0] = max(b.extraAcked[0], extra)
}

// bdp returns gain times the bandwidth-delay product.
func (b *bbr) bdp(gain float64) int64 {
	if b.minRTT == 0 {
		return initialWindow(int(b.mss))
	}
	return clampVolume(gain * b.bw() * b.minRTT.Seconds())
}

// inflight is the volume in flight that uses gain times the path.
func (b *bbr) inflight(gain float64) int64 { return b.quantize(b.bdp(gain)) }

// maxInflight is the largest useful window.
func (b *bbr) maxInflight() int64 {
	return b.quantize(b.bdp(b.cwndGain) + max(b.extraAcked[0], b.extraAcked[1]))
}

// quantize leaves room for a quantum in each of three places: the sender's queue, its segmentation, and a receiver that
// merges segments or delays ACKs.
func (b *bbr) quantize(volume int64) int64 {
	volume = max(volume, 3*b.quantum, b.minCwnd())
	if b.state == probeUp {
		volume += 2 * b.mss
	}
	return volume
}

// targetInflight is the volume that is meant to be in flight: the path's, unless congestion cut the window.
func (b *bbr) targetInflight() int64 { return min(b.bdp(1), b.cwnd) }

// withHeadroom is inflightLong less a share for others.
func (b *bbr) withHeadroom() int64 {
	if b.inflightLong == unlimited {
		return unlimited
	}
	room := max(b.mss, int64(b.tuning.headroom*float64(b.inflightLong)))
	return max(b.inflightLong-room, b.minCwnd())
}

func (b *bbr) updateDeliverySignals(s *sample) {
	b.lossRoundStart = false
	b.bwLatest = max(b.bwLatest, s.rate)
	b.inflightLatest = max(b.inflightLatest, s.delivered)
	if s.lost > 0 {
		b.lossEvents++
	}
	if s.priorDelivered >= b.lossRoundEnd {
		b.lossRoundStart = true
		b.lossRoundEnd = b.sampler.delivered
		delivered, lost := b.sampler.delivered-b.roundDelivered, max(b.sampler.lost-b.roundLost, 0)
		b.roundDelivered, b.roundLost = b.sampler.delivered, b.sampler.lost
		volume := delivered + lost
		b.roundLossRate = float64(lost) / float64(max(volume, 1))
		b.roundTooLossy = float64(lost) > float64(volume)*b.tuning.shortTermThreshold+b.allowance(volume)
		b.roundEvents, b.lossEvents = b.lossEvents, 0
		b.updateAmbientLoss(delivered, lost)
	}
}

// updateAmbientLoss measures the share of packets that is lost for reasons other than this sender. It counts only round
// trips in which nothing of a bandwidth probe is in flight, and takes the minimum, since a sender that is too fast for
// the path, which slows down while it loses too much, or other senders, which fill the queue now and then, cause losses
// that end.
func (b *bbr) updateAmbientLoss(delivered, lost int64) {
	if b.ackPhase != acksInit || b.state != probeDown && b.state != probeCruise {
		b.ambientRounds, b.ambientDelivered, b.ambientLost = 0, 0, 0
		return
	}
	b.ambientRounds++
	b.ambientDelivered += delivered
	b.ambientLost += lost
	if b.ambientRounds >= ambientRounds && b.ambientDelivered >= ambientSegments*b.mss {
		rate := float64(b.ambientLost) / float64(b.ambientDelivered+b.ambientLost)
		b.ambientMin[0] = min(b.ambientMin[0], rate)
		b.ambientRounds, b.ambientDelivered, b.ambientLost = 0, 0, 0
	}
}

// allowance returns the ambient loss to expect of a volume, which varies all the more, the fewer packets there are.
func (b *bbr) allowance(volume int64) float64 {
	least := min(b.ambientMin[0], b.ambientMin[1])
	if math.IsInf(least, 1) {
		return 0
	}
	expected := min(b.tuning.ambientGain*least, b.tuning.ambientMax) * float64(volume)
	return expected + 2*math.Sqrt(expected*float64(b.mss))
}

// tooLossy reports that a probe which lost so much of the volume in flight went too far.
func (b *bbr) tooLossy(lost, inFlight int64) bool {
	return float64(lost) > float64(inFlight)*b.tuning.lossThreshold+b.allowance(inFlight)
}

// advanceDeliverySignals begins the maxima of the next round trip with the newest sample.
func (b *bbr) advanceDeliverySignals(s *sample) {
	if b.lossRoundStart {
		b.bwLatest, b.inflightLatest = s.rate, s.delivered
	}
}

func (b *bbr) resetCongestionSignals() {
	b.lossInRound, b.lossEvents = false, 0
	b.bwLatest, b.inflightLatest = 0, 0
}

// updateCongestionSignals shrinks the short-term model towards the rate and volume that were delivered, once per round
// trip with losses, unless the sender caused them by probing.
func (b *bbr) updateCongestionSignals() {
	if !b.lossRoundStart {
		return
	}
	if b.lossInRound && !b.state.accelerates() && b.roundTooLossy {
		b.bwShort = max(b.bwLatest, b.tuning.beta*min(b.bwShort, b.maxBW()))
		if b.inflightShort == unlimited {
			b.inflightShort = b.cwnd
		}
		b.inflightShort = max(b.inflightLatest, int64(b.tuning.beta*float64(b.inflightShort)))
	}
	b.lossInRound = false
}

func (b *bbr) resetShortTerm() { b.bwShort, b.inflightShort = inf, unlimited }

// checkStartupLoss ends startup if the path was full for a whole round trip, as its losses show: more than the
// threshold, and spread, so that one burst is no reason. Without a queue, which the round-trip time would show, losses
// may be ambient; then only a rate that has stopped growing shows that the path is full.
func (b *bbr) checkStartupLoss() {
	if !b.lossRoundStart || b.roundLossRate <= b.tuning.lossThreshold || b.roundEvents < startupLossEvents {
		return
	}
	if b.lastRTT-b.minRTT < min(b.minRTT/4, b.tuning.queueRTT) && b.stalled < startupStalled {
		return
	}
	b.undoBack, b.undoState = true, startup
	b.fullBWReached = true
	b.inflightLong = max(b.bdp(1), b.inflightLatest)
}

// inflightAtLoss estimates the volume in flight at which losses crossed the threshold. It may be in the middle of a
// record, which can have many segments.
func (b *bbr) inflightAtLoss(p *Packet, size, lost int64) int64 {
	before, lostBefore := float64(p.inFlight-size), float64(lost-size)
	threshold := min(b.tuning.lossThreshold+b.allowance(p.inFlight)/float64(max(p.inFlight, 1)), 0.5)
	prefix := (threshold*before - lostBefore) / (1 - threshold)
	return clampVolume(before + prefix)
}

// inflightTooHigh is the answer to a bandwidth probe that lost too much: inFlight was more than the path takes.
func (b *bbr) inflightTooHigh(now time.Duration, inFlight int64, appLimited bool) {
	b.probeTooHigh = true
	b.probeSample = false // one answer to each probe
	if !appLimited {
		b.inflightLong = max(inFlight, int64(b.tuning.beta*float64(b.targetInflight())))
	}
	if b.state == probeUp {
		b.undoBack, b.undoState = true, probeUp
		b.startDown(now)
	}
}

func clampVolume(v float64) int64 { return int64(min(max(v, 0), maxVolume)) }

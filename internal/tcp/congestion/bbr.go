package congestion

import (
	"math"
	"math/rand/v2"
	"time"
)

// bbrTuning has the parameters of BBR: the draft's, and those in which this implementation may differ from it.
// docs/decisions/0011-congestion-control.md has the reasons.
type bbrTuning struct {
	lossThreshold float64 // loss rate of a round trip above which a probe went too far

	// shortTermThreshold is the loss rate of a round trip above which the short-term model backs off while not probing.
	// The draft has 0: it backs off at any loss.
	shortTermThreshold float64

	// Both thresholds are raised by ambientGain times the loss that the sender did not cause, at most by ambientMax.
	ambientGain, ambientMax float64

	// upEnough is the multiple of the bandwidth-delay product that inflightLong may hold back without excusing a plateau
	// of the rate while probing up. The draft has +Inf: a probe that inflightLong limits ends only with losses.
	upEnough float64

	// queueRTT is a round-trip time beyond the least that shows a queue; a quarter of the least does so as well. Losses
	// without a queue end startup only once the rate has stopped growing. The draft has 0: they always do.
	queueRTT time.Duration

	beta     float64 // least factor of a reaction to loss, per round trip
	headroom float64 // share of inflightLong that is left to others while cruising

	startupGain, drainGain, downGain, upGain float64 // of pacing
	cwndGain, upCwndGain, probeRTTCwndGain   float64 // of the window

	margin float64 // factor of the pacing rate that keeps it slightly below the path's rate

	probeWait, probeWaitSpread time.Duration // a bandwidth probe begins after the first plus up to the second
	probeRounds                int64         // but no later than after this many round trips

	minRTTWindow     time.Duration
	probeRTTInterval time.Duration
	probeRTTDuration time.Duration

	quantumTime time.Duration // a quantum is the data of this time at the pacing rate
}

var defaultBBR = bbrTuning{
	lossThreshold:      0.02,
	shortTermThreshold: 0.02,
	ambientGain:        1.5,
	ambientMax:         0.13,
	queueRTT:           20 * time.Millisecond,
	upEnough:           1.35,
	beta:               0.7,
	headroom:           0.15,
	startupGain:        2.77,
	drainGain:          0.5,
	downGain:           0.9,
	upGain:             1.25,
	cwndGain:           2,
	upCwndGain:         2.25,
	probeRTTCwndGain:   0.5,
	margin:             0.99,
	probeWait:          2 * time.Second,
	probeWaitSpread:    time.Second,
	probeRounds:        63,
	minRTTWindow:       10 * time.Second,
	probeRTTInterval:   5 * time.Second,
	probeRTTDuration:   200 * time.Millisecond,
	quantumTime:        2 * time.Millisecond,
}

const (
	startupStalled    = 2 // round trips without growth after which losses alone end startup
	startupLossEvents = 6 // ACKs with losses in a round trip, fewer than which are no reason to leave startup
	plateauRounds     = 3 // round trips without growth that show that the path is full
	plateauGrowth     = 1.25
	fullInFlight      = 1.5 // bandwidth-delay products in flight with which no sample is app-limited
	extraAckedRounds  = 10  // window of the aggregation estimate, in round trips
	ambientRounds     = 4   // least group of round trips in which the ambient loss is measured
	ambientSegments   = 200
	maxQuantum        = 64 << 10
	unlimited         = math.MaxInt64 // a volume
)

var inf = math.Inf(1) // a rate

// bbrState is a state of BBR's state machine.
type bbrState uint8

const (
	startup     bbrState = iota // doubles the rate each round trip until the path is full
	drain                       // empties the queue that startup filled
	probeDown                   // sends slower than the path delivers, to leave room to others
	probeCruise                 // sends as fast as the path delivers
	probeRefill                 // fills the path for a round trip, so that the next state measures it
	probeUp                     // sends faster, to find bandwidth
	probeRTT                    // halves the data in flight, to measure the path without a queue
)

func (s bbrState) String() string {
	return [...]string{"startup", "drain", "down", "cruise", "refill", "up", "probe-rtt"}[s]
}

func (s bbrState) probesBandwidth() bool { return s >= probeDown && s <= probeUp }

// accelerates reports that the state risks losses on purpose, so that they do not shrink the short-term model.
func (s bbrState) accelerates() bool { return s == startup || s == probeRefill || s == probeUp }

// ackPhase relates the ACKs that arrive to the bandwidth probe whose data they cover.
type ackPhase uint8

const (
	acksInit     ackPhase = iota // of no probe
	acksRefill                   // of data that fills the path
	acksStarting                 // the probe has begun; its first ACKs are due in a round trip
	acksFeedback                 // of the probe
	acksStopping                 // the probe has ended; its last ACKs are due within a round trip
)

// bbr is BBR version 3 (draft-ietf-ccwg-bbr). The comments name the draft's terms where they differ.
type bbr struct {
	tuning  bbrTuning
	mss     int64
	rand    *rand.Rand
	sampler sampler

	cwnd       int64
	priorCwnd  int64   // last window that neither a recovery nor probeRTT had cut
	pacingRate float64 // bytes per second
	quantum    int64

	state      bbrState
	pacingGain float64
	cwndGain   float64

	// Round trips, counted by data: one ends when data is acknowledged that was sent after the last one ended.
	rounds     int64
	roundStart bool  // this ACK began one
	roundEnd   int64 // sampler.delivered at the transmission that ends the present one

	windowLimited, windowLimitedBefore bool // in this round trip and in the last

	bbrModel
	bbrLoss
	bbrProbe
	bbrUndo

	growth  float64 // as fullBW and fullBWCount, but of all samples
	stalled int

	fullBW        float64 // rate that has to grow by plateauGrowth, or the path is full
	fullBWCount   int     // round trips without that growth
	fullBWNow     bool    // the path is full
	fullBWReached bool    // it was once

	drainRound  int64 // value of rounds when drain began
	idleRestart bool

	probeRTTDoneAt    time.Duration // earliest end of probeRTT
	probeRTTTimed     bool          // probeRTTDoneAt is set
	probeRTTRoundDone bool
}

// bbrUndo is the state before a recovery, to restore if nothing was lost after all.
type bbrUndo struct {
	inRecovery bool
	saved      bool     // the values below are those before the recovery that runs, or is about to
	undoable   bool     // they may be restored
	undoState  bbrState // to go back to, if undoBack
	undoBack   bool
	undoBW     float64 // bwShort
	undoShort  int64   // inflightShort
	undoLong   int64   // inflightLong
}

// NewBBR returns BBR version 3 for segments of mss bytes. The seed decides the times at which it probes, which should
// differ between connections that share a path.
func NewBBR(mss int, seed uint64) Controller { return newBBR(mss, seed, defaultBBR) }

func newBBR(mss int, seed uint64, t bbrTuning) *bbr {
	mss = min(max(mss, 1), maxQuantum/2)
	b := &bbr{tuning: t, mss: int64(mss), rand: rand.New(rand.NewPCG(seed, 0))}
	b.cwnd = initialWindow(mss)
	b.bwShort = inf
	b.inflightShort = unlimited
	b.inflightLong = unlimited
	b.probeUpPerSegment = unlimited
	b.ambientMin = [2]float64{inf, inf}
	b.enterStartup()
	// Until the first round-trip time is known, the first window may leave as fast as over a path of 1 ms.
	b.pacingRate = b.pacingGain * float64(b.cwnd) / time.Millisecond.Seconds()
	b.setQuantum()
	return b
}

func (b *bbr) Name() string        { return "bbr" }
func (b *bbr) State() string       { return b.state.String() }
func (b *bbr) Window() int         { return int(b.cwnd) }
func (b *bbr) PacingRate() int64   { return int64(b.pacingRate) }
func (b *bbr) Quantum() int        { return int(b.quantum) }
func (b *bbr) DeliveryRate() int64 { return int64(b.bw()) }

func (b *bbr) AppLimited(inFlight int) { b.sampler.limit(inFlight) }

func (b *bbr) Send(now time.Duration, p *Packet, size, inFlight int) {
	if inFlight <= 0 && b.sampler.appLimited != 0 { // restart from idle
		b.idleRestart = true
		b.ackedSince, b.ackedSinceAt = 0, now
		if b.state.probesBandwidth() {
			b.setPacingRate(1) // the queue has drained, so no phase has a reason to be faster or slower
		} else if b.state == probeRTT {
			b.checkProbeRTTDone(now)
		}
	}
	b.sampler.send(now, p, size, inFlight)
}

func (b *bbr) Acked(now time.Duration, p *Packet, size int) { b.sampler.ack(now, p, size) }

func (b *bbr) Ack(now time.Duration, a Ack) {
	b.updateFirstRTT(a.RTT)
	s := b.sampler.finish(b.minRTT)
	if s.acked == 0 {
		b.updateMinRTT(now, a.RTT)
		return
	}
	b.windowLimited = b.windowLimited || a.WindowLimited
	b.updateRound(&s)
	b.updateDeliverySignals(&s)
	b.updateMaxBW(&s)
	b.updateCongestionSignals()
	b.updateAggregation(now, &s)
	b.checkFullBW(&s)
	if b.state == startup {
		b.checkStartupLoss()
		if b.fullBWReached {
			b.enterDrain()
		}
	}
	if b.state == drain && (int64(a.InFlight) <= b.inflight(1) || b.rounds > b.drainRound+3) {
		b.cwndGain = b.tuning.cwndGain
		b.startDown(now)
	}
	b.updateProbe(now, &s, int64(a.InFlight))
	b.updateMinRTT(now, a.RTT)
	b.checkProbeRTT(now, &s, int64(a.InFlight))
	b.advanceDeliverySignals(&s)
	b.setPacingRate(b.pacingGain)
	b.setQuantum()
	b.setCwnd(s.acked)
}

func (b *bbr) Lost(now time.Duration, p *Packet, size int) {
	b.sampler.lose(p, size)
	b.noteLoss()
	if !b.probeSample || !p.sent {
		return
	}
	lost := b.sampler.lost - p.lost
	if b.tooLossy(lost, p.inFlight) {
		b.inflightTooHigh(now, b.inflightAtLoss(p, int64(size), lost), p.appLimited)
	}
}

func (b *bbr) Timeout(now time.Duration, inFlight int) {
	lost := int64(max(inFlight, 0))
	b.sampler.lost += lost
	b.sampler.newlyLost += lost
	b.noteLoss()
	b.saveCwnd()
	b.inRecovery = true
	b.cwnd = b.mss
}

func (b *bbr) EnterRecovery(now time.Duration, inFlight int) {
	b.save()
	b.saveCwnd()
	b.inRecovery = true
}

func (b *bbr) ExitRecovery(now time.Duration) {
	b.inRecovery, b.saved = false, false
	b.restoreCwnd()
	b.boundCwnd()
}

func (b *bbr) Spurious(now time.Duration) {
	if !b.undoable {
		return
	}
	b.undoable = false
	b.lossInRound = false
	b.resetFullBW(0)
	b.bwShort = max(b.bwShort, b.undoBW)
	b.inflightShort = max(b.inflightShort, b.undoShort)
	b.inflightLong = max(b.inflightLong, b.undoLong)
	if b.undoBack && b.undoState == startup {
		b.fullBWReached = false
		if b.state != probeRTT && b.state != startup {
			b.enterStartup()
		}
	} else if b.undoBack && b.undoState == probeUp && b.state.probesBandwidth() && b.state != probeUp {
		b.startRefill()
	}
	b.undoBack = false
	b.restoreCwnd()
	b.boundCwnd()
}

// noteLoss saves the state at the first loss of a recovery, and marks the round trip.
func (b *bbr) noteLoss() {
	b.save()
	if !b.lossInRound {
		b.lossRoundEnd = b.sampler.delivered
		b.lossInRound = true
	}
}

// save keeps the state before a recovery. A recovery of several round trips keeps that before the first.
func (b *bbr) save() {
	if b.saved {
		return
	}
	b.saveCwnd()
	b.saved, b.undoable, b.undoBack = true, true, false
	b.undoBW, b.undoShort, b.undoLong = b.bwShort, b.inflightShort, b.inflightLong
}

func (b *bbr) saveCwnd() {
	if !b.inRecovery && b.state != probeRTT {
		b.priorCwnd = b.cwnd
	} else {
		b.priorCwnd = max(b.priorCwnd, b.cwnd)
	}
}

func (b *bbr) restoreCwnd() { b.cwnd = max(b.cwnd, b.priorCwnd) }

// updateFirstRTT replaces the first pacing rate, which assumes 1 ms, once a round-trip time is known.
func (b *bbr) updateFirstRTT(rtt time.Duration) {
	if rtt > 0 && b.minRTT == 0 && b.maxBW() == 0 {
		b.pacingRate = clampRate(b.tuning.startupGain * float64(b.cwnd) / rtt.Seconds())
		b.setQuantum()
	}
}

func (b *bbr) updateRound(s *sample) {
	b.roundStart = s.priorDelivered >= b.roundEnd
	if b.roundStart {
		b.startRound()
		b.rounds++
		b.roundsSinceProbe++
		b.windowLimitedBefore, b.windowLimited = b.windowLimited, false
	}
}

func (b *bbr) startRound() { b.roundEnd = b.sampler.delivered }

// checkFullBW looks for a plateau of the delivery rate, which shows that the path is full. App-limited round trips show
// nothing, unless they had more in flight than the path takes all the same: the limit is a buffer then.
func (b *bbr) checkFullBW(s *sample) {
	if b.roundStart {
		b.stalled++
		if s.rate >= b.growth*plateauGrowth {
			b.growth, b.stalled = s.rate, 0
		}
	}
	if b.fullBWNow || !b.roundStart || s.rate == 0 || s.appLimited && float64(s.inFlight) < fullInFlight*float64(b.bdp(1)) {
		return
	}
	if s.rate >= b.fullBW*plateauGrowth {
		b.resetFullBW(s.rate)
		return
	}
	b.fullBWCount++
	if b.fullBWCount >= plateauRounds {
		b.fullBWNow, b.fullBWReached = true, true
	}
}

func (b *bbr) resetFullBW(rate float64) {
	b.fullBW, b.fullBWCount, b.fullBWNow = rate, 0, false
}

func (b *bbr) enterStartup() {
	b.state = startup
	b.pacingGain, b.cwndGain = b.tuning.startupGain, b.tuning.cwndGain
}

func (b *bbr) enterDrain() {
	b.state = drain
	b.pacingGain, b.cwndGain = b.tuning.drainGain, b.tuning.cwndGain
	b.drainRound = b.rounds
}

func (b *bbr) checkProbeRTT(now time.Duration, s *sample, inFlight int64) {
	if b.state != probeRTT && b.probeRTTExpired && !b.idleRestart {
		b.saveCwnd()
		b.state = probeRTT
		b.pacingGain, b.cwndGain = 1, b.tuning.probeRTTCwndGain
		b.probeRTTTimed = false
		b.ackPhase = acksStopping
		b.startRound()
	}
	if b.state == probeRTT {
		b.sampler.limit(int(inFlight)) // the low samples are no reason to lower the estimate
		switch {
		case !b.probeRTTTimed && inFlight <= b.probeRTTCwnd():
			b.probeRTTTimed, b.probeRTTDoneAt = true, now+b.tuning.probeRTTDuration
			b.probeRTTRoundDone = false
			b.startRound()
		case b.probeRTTTimed:
			b.probeRTTRoundDone = b.probeRTTRoundDone || b.roundStart
			if b.probeRTTRoundDone {
				b.checkProbeRTTDone(now)
			}
		}
	}
	if s.delivered > 0 {
		b.idleRestart = false
	}
}

func (b *bbr) checkProbeRTTDone(now time.Duration) {
	if !b.probeRTTTimed || now <= b.probeRTTDoneAt {
		return
	}
	b.recentRTTAt = now // the next probeRTT is an interval away
	b.restoreCwnd()
	b.resetShortTerm()
	if b.fullBWReached {
		b.startDown(now)
		b.startCruise()
	} else {
		b.enterStartup()
	}
}

// setPacingRate follows the estimate of the path's rate. Until the path was full once, it never slows down: the
// samples of a sender with little to send are low.
func (b *bbr) setPacingRate(gain float64) {
	rate := clampRate(gain * b.bw() * b.tuning.margin)
	if b.maxBW() > 0 && (b.fullBWReached || rate > b.pacingRate) {
		b.pacingRate = rate
	}
}

func (b *bbr) setQuantum() {
	q := int64(b.pacingRate * b.tuning.quantumTime.Seconds())
	b.quantum = min(max(q, 2*b.mss), maxQuantum)
}

func (b *bbr) setCwnd(acked int64) {
	target := b.maxInflight()
	if b.fullBWReached {
		b.cwnd = min(b.cwnd+acked, target)
	} else if b.cwnd < target || b.sampler.delivered < initialWindow(int(b.mss)) {
		b.cwnd += acked
	}
	b.boundCwnd()
}

// boundCwnd applies the bounds of the state and of the model to the window.
func (b *bbr) boundCwnd() {
	b.cwnd = min(max(b.cwnd, b.minCwnd()), maxVolume)
	if b.state == probeRTT {
		b.cwnd = min(b.cwnd, b.probeRTTCwnd())
	}
	limit := int64(unlimited)
	switch b.state {
	case probeDown, probeRefill, probeUp:
		limit = b.inflightLong
	case probeCruise, probeRTT:
		limit = b.withHeadroom()
	default: // startup and drain have no limit
	}
	limit = max(min(limit, b.inflightShort), b.minCwnd())
	b.cwnd = min(b.cwnd, limit)
}

// minCwnd keeps data flowing to a receiver that acknowledges every other segment.
func (b *bbr) minCwnd() int64 { return 4 * b.mss }

func (b *bbr) probeRTTCwnd() int64 { return max(b.bdp(b.tuning.probeRTTCwndGain), b.minCwnd()) }

func clampRate(r float64) float64 { return min(max(r, minRate), maxRate) }

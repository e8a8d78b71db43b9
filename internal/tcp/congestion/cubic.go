package congestion

import (
	"math"
	"time"
)

// Constants of RFC 9438 (CUBIC), which counts the window in segments.
const (
	cubicC    = 0.4 // segments per second cubed
	cubicBeta = 0.7
	renoAlpha = 3 * (1 - cubicBeta) / (1 + cubicBeta) // growth per round trip that with cubicBeta is as fast as Reno
)

// The pacing rate is above that of a window in each round trip, so that the window, not pacing, is the limit.
const (
	slowStartPacing = 2
	avoidancePacing = 1.2
)

// cubic is CUBIC (RFC 9438) with HyStart++ (RFC 9406), proportional rate reduction (RFC 6937 and its revision), undo of
// spurious reductions, and validation of the window in a simple form of RFC 7661: it grows only while it limits the
// sender, it shrinks while the sender is idle, and if it did not limit, a loss reduces the volume in flight instead.
type cubic struct {
	mss     int64
	sampler sampler
	hystart hystart
	prr     prr

	growth
	inRecovery bool
	reduced    growth // before the last reduction
	undoable   bool   // reduced may be restored

	srtt, rttVar time.Duration
	minRTT       time.Duration
	sentAt       time.Duration // of the newest transmission
	roundEnd     int64         // sampler.delivered at the transmission that ends the present round trip
	rate         float64       // newest sample of the delivery rate
	pacingRate   float64
	quantum      int64

	windowLimited, windowLimitedBefore bool // in this round trip and in the last
}

// growth is the window and the state of its growth, in bytes.
type growth struct {
	cwnd     float64
	ssthresh float64 // slow start ends here; +Inf: not known
	wMax     float64 // window before the last reduction, less the share that fast convergence gives up

	// The present growth along the cubic curve.
	running bool
	start   time.Duration
	k       float64 // seconds from start until the curve is at wMax
	reno    float64 // window of a Reno flow that began at the same time (W_est)
	prior   float64 // window before the last reduction (cwnd_prior)
}

// NewCUBIC returns CUBIC for segments of mss bytes.
func NewCUBIC(mss int) Controller {
	mss = min(max(mss, 1), maxQuantum/2)
	c := &cubic{mss: int64(mss)}
	c.cwnd = float64(initialWindow(mss))
	c.ssthresh = inf
	c.updatePacing()
	return c
}

func (c *cubic) Name() string        { return "cubic" }
func (c *cubic) PacingRate() int64   { return int64(c.pacingRate) }
func (c *cubic) Quantum() int        { return int(c.quantum) }
func (c *cubic) DeliveryRate() int64 { return int64(c.rate) }

func (c *cubic) State() string {
	switch {
	case c.inRecovery:
		return "recovery"
	case c.cwnd >= c.ssthresh:
		return "avoidance"
	case c.hystart.conservative:
		return "conservative-slow-start"
	}
	return "slow-start"
}

func (c *cubic) Window() int {
	if c.prr.active {
		return int(max(c.prr.window, c.mss))
	}
	return int(c.cwnd)
}

func (c *cubic) AppLimited(inFlight int) { c.sampler.limit(inFlight) }

func (c *cubic) Send(now time.Duration, p *Packet, size, inFlight int) {
	if inFlight <= 0 && c.sampler.delivered > 0 {
		c.restart(now - c.sentAt)
	}
	c.sentAt = now
	c.prr.out += int64(size)
	c.sampler.send(now, p, size, inFlight)
}

// restart halves the window for each retransmission timeout of idle time, down to the initial window (RFC 7661, and
// RFC 2861 before it), and keeps three quarters of it in mind as the threshold up to which slow start is safe.
func (c *cubic) restart(idle time.Duration) {
	timeout := max(c.srtt+4*c.rttVar, 200*time.Millisecond)
	if idle <= timeout || c.inRecovery {
		return
	}
	c.start += idle // the curve does not rise while nothing is sent
	c.ssthresh = max(c.ssthresh, c.cwnd*3/4)
	floor := min(c.cwnd, float64(initialWindow(int(c.mss))))
	c.cwnd = max(c.cwnd*math.Exp2(-float64(idle/timeout)), floor)
}

func (c *cubic) Acked(now time.Duration, p *Packet, size int) { c.sampler.ack(now, p, size) }

func (c *cubic) Lost(now time.Duration, p *Packet, size int) { c.sampler.lose(p, size) }

func (c *cubic) Ack(now time.Duration, a Ack) {
	c.updateRTT(a.RTT)
	s := c.sampler.finish(c.minRTT)
	if s.rate > 0 {
		c.rate = s.rate
	}
	if s.acked > 0 {
		c.windowLimited = c.windowLimited || a.WindowLimited
		roundStart := s.priorDelivered >= c.roundEnd
		if roundStart {
			c.roundEnd = c.sampler.delivered
			c.windowLimitedBefore, c.windowLimited = c.windowLimited, false
		}
		limited := c.windowLimited || c.windowLimitedBefore
		switch {
		case c.prr.active:
			c.prr.ack(&s, int64(a.InFlight), int64(c.ssthresh), c.mss)
		case c.cwnd < c.ssthresh:
			c.slowStart(&s, a.RTT, roundStart, limited)
		case limited:
			c.avoid(now, float64(s.acked))
		}
	}
	c.cwnd = min(max(c.cwnd, float64(c.mss)), maxVolume)
	c.updatePacing()
}

func (c *cubic) updateRTT(rtt time.Duration) {
	if rtt <= 0 {
		return
	}
	if c.srtt == 0 {
		c.srtt, c.rttVar = rtt, rtt/2
	}
	c.rttVar += ((c.srtt - rtt).Abs() - c.rttVar) / 4
	c.srtt += (rtt - c.srtt) / 8
	if c.minRTT == 0 || rtt < c.minRTT {
		c.minRTT = rtt
	}
}

// updatePacing sets the pacing rate. Until the first round-trip time is known, the first window may leave as fast as
// over a path of 1 ms.
func (c *cubic) updatePacing() {
	gain := float64(avoidancePacing)
	if c.cwnd < c.ssthresh {
		gain = slowStartPacing
	}
	rtt := c.srtt
	if rtt == 0 {
		rtt = time.Millisecond
	}
	c.pacingRate = clampRate(gain * float64(c.Window()) / rtt.Seconds())
	c.quantum = min(max(int64(c.pacingRate*defaultBBR.quantumTime.Seconds()), 2*c.mss), maxQuantum)
}

func (c *cubic) slowStart(s *sample, rtt time.Duration, roundStart, limited bool) {
	grow := float64(s.acked)
	if math.IsInf(c.ssthresh, 1) { // HyStart++ guards the first slow start, whose end is not known
		if c.hystart.ack(rtt, roundStart) {
			c.ssthresh = c.cwnd
			return
		}
		if c.hystart.conservative {
			grow /= hystartDivisor
		}
	}
	if limited {
		c.cwnd = min(c.cwnd+grow, max(c.ssthresh, c.cwnd))
	}
}

// avoid grows the window along the cubic curve, or as Reno would if that is faster.
func (c *cubic) avoid(now time.Duration, acked float64) {
	mss := float64(c.mss)
	if !c.running {
		c.running, c.start = true, now
		c.reno = c.cwnd
		c.k = 0
		if c.cwnd < c.wMax {
			c.k = math.Cbrt((c.wMax - c.cwnd) / mss / cubicC)
		} else {
			c.wMax = c.cwnd
		}
	}
	curve := func(t time.Duration) float64 {
		d := t.Seconds() - c.k
		return c.wMax + mss*cubicC*d*d*d
	}
	alpha := 1.0
	if c.reno < c.prior {
		alpha = renoAlpha
	}
	c.reno = min(c.reno+alpha*mss*acked/c.cwnd, maxVolume)
	t := now - c.start
	if curve(t) < c.reno {
		c.cwnd = max(c.cwnd, c.reno)
		return
	}
	target := min(max(curve(t+c.srtt), c.cwnd), 1.5*c.cwnd)
	c.cwnd += (target - c.cwnd) * min(acked/c.cwnd, 1)
}

func (c *cubic) EnterRecovery(now time.Duration, inFlight int) {
	flight := float64(inFlight) + float64(c.sampler.newlyLost) // before the loss
	c.reduce(flight)
	c.inRecovery = true
	c.prr.begin(int64(flight), int64(inFlight), c.mss)
	c.cwnd = c.ssthresh
}

func (c *cubic) Timeout(now time.Duration, inFlight int) {
	if !c.inRecovery {
		c.reduce(float64(inFlight))
	}
	c.sampler.lost += int64(max(inFlight, 0))
	c.inRecovery = true
	c.prr.active = false // slow start, as far as ssthresh
	c.cwnd = float64(c.mss)
	c.updatePacing()
}

func (c *cubic) ExitRecovery(now time.Duration) {
	c.inRecovery = false
	c.prr.active = false
	c.updatePacing()
}

// reduce lowers the threshold after a loss.
func (c *cubic) reduce(flight float64) {
	c.reduced, c.undoable = c.growth, true
	from := c.cwnd
	if !c.windowLimited && !c.windowLimitedBefore {
		from = min(from, flight) // more was never tried
	}
	c.prior = from
	if from < c.wMax {
		c.wMax = from * (1 + cubicBeta) / 2 // fast convergence: leave room to a new flow
	} else {
		c.wMax = from
	}
	c.ssthresh = max(from*cubicBeta, 2*float64(c.mss))
	c.running = false
}

func (c *cubic) Spurious(now time.Duration) {
	if !c.undoable {
		return
	}
	c.undoable = false
	cwnd := max(c.cwnd, c.reduced.cwnd)
	c.growth = c.reduced
	c.cwnd = cwnd
	c.prr.active = false
	c.updatePacing()
}

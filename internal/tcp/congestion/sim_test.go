package congestion

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A simulated path, packet by packet: senders share a bottleneck with a drop-tail queue, and a wire of constant delay
// behind it. Virtual time, so a run of a second takes some 50 ms, and a seed gives the same run every time.
//
//	sender -> policer -> queue -> bottleneck -> losses, reordering -> receiver -> sender
type simPath struct {
	rate  float64       // bytes per second
	rtt   time.Duration // without a queue
	queue time.Duration // of data at rate

	loss      float64       // share of packets lost at random
	late      float64       // share of packets that arrive lateBy later than they should
	lateBy    time.Duration //
	burstAt   time.Duration // burst packets are lost from then on; 0: none
	burst     int           //
	police    float64       // bytes per second; 0: no policer
	bucket    float64       // of the policer, in bytes
	ackEvery  int           // packets for each ACK (as GRO and delayed ACKs have it); 0: 2
	timerLate time.Duration // a sender's timer fires up to so much late, at random
	seed      uint64
}

const simMSS = 1228

type sim struct {
	simPath
	now    time.Duration
	rand   *rand.Rand
	events simHeap    // all others
	wire   []simEvent // packets on the wire, in the order in which they arrive
	order  uint64
	flows  []*simFlow

	busyUntil  time.Duration // the bottleneck has sent all that is queued by then
	bursting   int           // packets still to be lost
	tokens     float64
	tokensAt   time.Duration
	queueDelay []time.Duration // sampled each millisecond
}

type simEvent struct {
	at    time.Duration
	order uint64
	flow  *simFlow
	what  func()
	// An ACK, if what is nil.
	seq  int64
	sent time.Duration // time of the transmission that arrived
}

// simHeap orders events by time, then by the order in which they were made.
type simHeap []simEvent

func (h simHeap) less(i, j int) bool { return h[i].before(&h[j]) }

func (e *simEvent) before(f *simEvent) bool {
	return e.at < f.at || e.at == f.at && e.order < f.order
}

func (h *simHeap) push(e simEvent) {
	*h = append(*h, e)
	for i := len(*h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.less(i, up) {
			break
		}
		(*h)[i], (*h)[up] = (*h)[up], (*h)[i]
		i = up
	}
}

func (h *simHeap) pop() {
	last := len(*h) - 1
	(*h)[0] = (*h)[last]
	(*h)[last] = simEvent{}
	*h = (*h)[:last]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < last; c++ {
			if h.less(c, least) {
				least = c
			}
		}
		if least == i {
			return
		}
		(*h)[i], (*h)[least] = (*h)[least], (*h)[i]
		i = least
	}
}

func newSim(p simPath) *sim {
	if p.ackEvery == 0 {
		p.ackEvery = 2
	}
	return &sim{simPath: p, rand: rand.New(rand.NewPCG(p.seed, 1)), tokens: p.bucket, bursting: -1}
}

func (s *sim) at(t time.Duration, what func()) {
	s.order++
	s.events.push(simEvent{at: t, order: s.order, what: what})
}

// run runs the simulation until end.
func (s *sim) run(end time.Duration) {
	if len(s.queueDelay) == 0 {
		s.sampleQueue()
	}
	for {
		wire := len(s.wire) > 0 && s.wire[0].before(&s.events[0]) // sampleQueue is always in events
		next := &s.events[0]
		if wire {
			next = &s.wire[0]
		}
		if next.at > end {
			break
		}
		e := *next
		if wire {
			s.wire = s.wire[1:]
		} else {
			s.events.pop()
		}
		s.now = e.at
		if e.what != nil {
			e.what()
		} else {
			e.flow.arrive(e.seq, e.sent)
		}
	}
	s.now = end
}

func (s *sim) sampleQueue() {
	s.queueDelay = append(s.queueDelay, max(s.busyUntil-s.now, 0))
	s.at(s.now+time.Millisecond, s.sampleQueue)
}

// transmit carries one packet to the receiver and its ACK back, unless it is lost.
func (s *sim) transmit(f *simFlow, seq int64) {
	if s.police > 0 {
		s.tokens = min(s.tokens+s.police*(s.now-s.tokensAt).Seconds(), s.bucket)
		s.tokensAt = s.now
		if s.tokens < simMSS {
			f.drops++
			return
		}
		s.tokens -= simMSS
	}
	start := max(s.busyUntil, s.now)
	if start-s.now > s.queue {
		f.drops++
		return
	}
	s.busyUntil = start + time.Duration(simMSS/s.rate*1e9)
	if s.burst > 0 && s.now >= s.burstAt {
		if s.bursting < 0 {
			s.bursting = s.burst
		}
		if s.bursting > 0 {
			s.bursting--
			return
		}
	}
	if s.loss > 0 && s.rand.Float64() < s.loss {
		return
	}
	s.order++
	e := simEvent{at: s.busyUntil + s.rtt, order: s.order, flow: f, seq: seq, sent: s.now}
	if s.late > 0 && s.rand.Float64() < s.late {
		e.at += s.lateBy
		s.events.push(e)
	} else {
		s.wire = append(s.wire, e)
	}
}

// simFlow is a sender and its receiver: RACK with the classic threshold of 3 until reordering is seen, a retransmission
// timer, and detection of spurious recoveries by timestamps. Loss of ACKs is not simulated.
type simFlow struct {
	*sim
	ctl   Controller
	limit int64 // segments to send so far
	begin time.Duration
	done  time.Duration // time when all of limit was acknowledged; 0: not yet

	next  int64 // first segment not yet sent
	una   int64 // first segment not yet acknowledged
	segs  []simSegment
	base  int64 // segment of segs[0]
	order []simSent
	sent  int64 // transmissions; order[0] is number sent-len(order)
	lost  []int64

	inFlight      int
	nextSend      time.Duration
	timer         time.Duration // of pacing
	windowLimited bool
	inRecovery    bool
	recoverUntil  int64
	undo          int // segments taken for lost in this recovery whose originals have not arrived

	rackSent   time.Duration // send time of the newest delivered transmission
	rackNumber int64
	rackRTT    time.Duration
	reordered  bool
	rackTimer  time.Duration
	minRTT     time.Duration
	srtt       time.Duration
	rttVar     time.Duration
	rto        time.Duration // deadline; 0: none
	rtoTimer   bool
	backoff    int

	pending      []simArrival // arrived, not yet acknowledged
	pendingSince time.Duration
	delaying     bool
	holes        int // segments that arrived beyond a missing one

	retransmissions, drops, timeouts, spurious int
	delivered                                  []int64 // bytes, for each 10 ms
	deliveredBytes                             int64
}

type simSegment struct {
	packet Packet
	sentAt time.Duration
	number int64
	times  int
	flying bool
	lost   bool
	acked  bool
}

type simSent struct{ seq, number int64 }

type simArrival struct {
	seq  int64
	sent time.Duration
}

// add starts a flow with limit bytes (0: without end) at the time begin, after its handshake.
func (s *sim) add(ctl Controller, begin time.Duration, limit int64) *simFlow {
	f := &simFlow{sim: s, ctl: ctl, begin: begin, limit: (limit + simMSS - 1) / simMSS}
	if limit == 0 {
		f.limit = 1 << 40
	}
	s.flows = append(s.flows, f)
	s.at(begin, func() {
		ctl.Ack(s.now, Ack{RTT: s.rtt}) // of the handshake
		f.send()
	})
	return f
}

func (f *simFlow) seg(seq int64) *simSegment { return &f.segs[seq-f.base] }

// send sends what window and pacing allow: a quantum at once, then nothing for as long as that takes at the pacing rate.
// A timer that fired late is made up for.
func (f *simFlow) send() {
	if f.nextSend > f.now {
		f.wakeAt(f.nextSend)
		return
	}
	rate := float64(f.ctl.PacingRate())
	burstEnd := f.now + seconds(float64(f.ctl.Quantum())/rate)
	for {
		seq := f.nextLost()
		switch {
		case seq < 0 && f.next >= f.limit:
			if f.inFlight+simMSS <= f.ctl.Window() {
				f.ctl.AppLimited(f.inFlight)
			}
			return
		case f.inFlight+simMSS > f.ctl.Window() && f.inFlight > 0:
			f.windowLimited = true
			return
		case f.nextSend >= burstEnd:
			f.wakeAt(f.nextSend)
			return
		}
		if seq < 0 {
			seq = f.next
			f.next++
			f.segs = append(f.segs, simSegment{})
		} else {
			f.lost = f.lost[1:]
		}
		g := f.seg(seq)
		f.ctl.Send(f.now, &g.packet, simMSS, f.inFlight)
		if g.times++; g.times > 1 {
			f.retransmissions++
		}
		f.sent++
		g.sentAt, g.number, g.flying, g.lost = f.now, f.sent, true, false
		f.order = append(f.order, simSent{seq, f.sent})
		f.inFlight += simMSS
		if f.rto == 0 {
			f.armRTO(1)
		}
		f.transmit(f, seq)
		f.nextSend = max(f.nextSend, f.now-f.timerLate) + seconds(simMSS/rate)
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * 1e9) }

// nextLost returns the segment to be sent again first, -1 if there is none.
func (f *simFlow) nextLost() int64 {
	for ; len(f.lost) > 0; f.lost = f.lost[1:] {
		if s := f.lost[0]; s >= f.base && f.seg(s).lost && !f.seg(s).acked {
			return s
		}
	}
	return -1
}

func (f *simFlow) wakeAt(t time.Duration) {
	if f.timer > f.now {
		return
	}
	if f.timerLate > 0 {
		t += time.Duration(f.rand.Float64() * float64(f.timerLate))
	}
	f.timer = t
	f.at(t, func() {
		f.timer = 0
		f.send()
	})
}

// arrive delivers a packet to the receiver, which acknowledges each ackEvery-th, and each while one is missing. As
// nothing happens to ACKs, the receiver acts at the time when its ACK arrives.
func (f *simFlow) arrive(seq int64, sent time.Duration) {
	f.pending = append(f.pending, simArrival{seq, sent})
	if len(f.pending) >= f.ackEvery || f.holes > 0 || seq != f.una+int64(len(f.pending))-1 || seq+1 == f.limit {
		f.acknowledge()
	} else if len(f.pending) == 1 {
		f.pendingSince = f.now
		f.delayACK(40 * time.Millisecond)
	}
}

// delayACK acknowledges what has been pending for the time of a delayed ACK.
func (f *simFlow) delayACK(wait time.Duration) {
	if f.delaying {
		return
	}
	f.delaying = true
	f.at(f.now+wait, func() {
		f.delaying = false
		if len(f.pending) == 0 {
			return
		}
		if left := f.pendingSince + 40*time.Millisecond - f.now; left > 0 {
			f.delayACK(left)
		} else {
			f.acknowledge()
		}
	})
}

func (f *simFlow) acknowledge() {
	var rtt time.Duration
	for _, a := range f.pending {
		if a.seq < f.base || f.seg(a.seq).acked {
			continue // arrived twice
		}
		g := f.seg(a.seq)
		g.acked = true
		if g.times == 1 {
			rtt = f.now - g.sentAt
			f.updateRTT(rtt)
		}
		if g.lost || a.sent < g.sentAt { // the original arrived after all
			f.reordered = true
			if f.undo--; f.undo == 0 {
				f.ctl.Spurious(f.now)
				f.spurious++
			}
		}
		if g.flying {
			f.inFlight -= simMSS
		}
		g.flying, g.lost = false, false
		if g.times == 1 || a.sent == g.sentAt {
			if g.number > f.rackNumber {
				f.rackNumber, f.rackSent, f.rackRTT = g.number, g.sentAt, f.now-g.sentAt
			}
		}
		f.holes++
		f.ctl.Acked(f.now, &g.packet, simMSS)
		f.deliveredBytes += simMSS
		bucket := int(f.now / (10 * time.Millisecond))
		for len(f.delivered) <= bucket {
			f.delivered = append(f.delivered, 0)
		}
		f.delivered[bucket] += simMSS
	}
	f.pending = f.pending[:0]
	for f.una < f.next && f.seg(f.una).acked {
		f.una++
		f.holes--
	}
	if drop := f.una - f.base; drop > 4096 {
		f.segs = slices.Delete(f.segs, 0, int(drop))
		f.base = f.una
	}
	f.detectLoss()
	if f.inRecovery && f.una >= f.recoverUntil {
		f.inRecovery = false
		f.ctl.ExitRecovery(f.now)
	}
	f.ctl.Ack(f.now, Ack{InFlight: f.inFlight, RTT: rtt, WindowLimited: f.windowLimited, InRecovery: f.inRecovery})
	f.windowLimited = false
	f.rto = 0
	if f.una < f.next {
		f.armRTO(1)
	} else if f.una >= f.limit && f.done == 0 {
		f.done = f.now
	}
	f.send()
}

func (f *simFlow) updateRTT(rtt time.Duration) {
	if f.minRTT == 0 || rtt < f.minRTT {
		f.minRTT = rtt
	}
	if f.srtt == 0 {
		f.srtt, f.rttVar = rtt, rtt/2
	}
	f.rttVar += ((f.srtt - rtt).Abs() - f.rttVar) / 4
	f.srtt += (rtt - f.srtt) / 8
}

// detectLoss is RACK (RFC 8985) in short.
func (f *simFlow) detectLoss() {
	found := false
	window := f.minRTT / 4
	for ; len(f.order) > 0; f.order = f.order[1:] {
		o := f.order[0]
		if o.seq < f.base {
			continue
		}
		g := f.seg(o.seq)
		if g.acked || g.number != o.number || !g.flying {
			continue
		}
		if o.number >= f.rackNumber {
			break
		}
		if !f.reordered && o.number+3 <= f.rackNumber {
			// lost at once
		} else if at := g.sentAt + f.rackRTT + window; at > f.now {
			if f.rackTimer <= f.now {
				f.rackTimer = at
				f.at(at, func() { f.detectLoss(); f.send() })
			}
			break
		}
		g.flying, g.lost = false, true
		f.inFlight -= simMSS
		f.lost = append(f.lost, o.seq)
		f.ctl.Lost(f.now, &g.packet, simMSS)
		if !f.inRecovery && !found {
			f.undo = 0
		}
		f.undo++
		found = true
	}
	if found && !f.inRecovery {
		f.inRecovery, f.recoverUntil = true, f.next
		f.ctl.EnterRecovery(f.now, f.inFlight)
	}
}

// armRTO sets the retransmission timer.
func (f *simFlow) armRTO(backoff int) {
	wait := time.Duration(backoff) * (f.srtt + max(4*f.rttVar, 200*time.Millisecond))
	if f.srtt == 0 {
		wait = time.Second
	}
	f.rto, f.backoff = f.now+wait, backoff
	if !f.rtoTimer {
		f.rtoTimer = true
		f.at(f.rto, f.checkRTO)
	}
}

func (f *simFlow) checkRTO() {
	f.rtoTimer = false
	switch {
	case f.rto == 0:
	case f.now < f.rto:
		f.rtoTimer = true
		f.at(f.rto, f.checkRTO)
	default:
		f.timeout()
	}
}

func (f *simFlow) timeout() {
	f.timeouts++
	f.ctl.Timeout(f.now, f.inFlight)
	f.lost = f.lost[:0]
	for s := f.una; s < f.next; s++ {
		if g := f.seg(s); !g.acked {
			g.flying, g.lost = false, true
			f.lost = append(f.lost, s)
		}
	}
	f.inFlight, f.order = 0, nil
	f.inRecovery, f.recoverUntil = true, f.next
	f.undo = len(f.lost)
	f.armRTO(min(2*f.backoff, 64))
	f.nextSend = f.now
	f.send()
}

// goodput is the rate of deliveries between two times, as a share of the bottleneck's rate.
func (f *simFlow) goodput(from, to time.Duration) float64 {
	var sum int64
	for i := int(from / (10 * time.Millisecond)); i < int(to/(10*time.Millisecond)) && i < len(f.delivered); i++ {
		sum += f.delivered[i]
	}
	return float64(sum) / (to - from).Seconds() / f.rate
}

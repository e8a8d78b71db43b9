package congestion

import (
	"math"
	"testing"
	"time"
)

// TestCUBICLoss: a loss reduces the window to 0.7, gradually, and the curve brings it back after K.
func TestCUBICLoss(t *testing.T) {
	p := path(60 * ms)
	p.rate /= 10
	p.queue = time.Second
	s := newSim(p)
	c := NewCUBIC(simMSS).(*cubic)
	f := s.add(c, 0, 0)
	s.run(3 * time.Second)
	before := c.cwnd
	f.burstAt, f.burst = s.now, 1
	for c.State() != "recovery" {
		s.run(s.now + ms)
	}
	if w := c.cwnd / before; math.Abs(w-cubicBeta) > 0.05 {
		t.Fatalf("a loss left %.2f of the window", w)
	}
	for c.State() == "recovery" {
		if w := c.Window(); float64(w) < c.ssthresh-simMSS {
			t.Fatalf("window %d in recovery, below the threshold %.0f", w, c.ssthresh)
		}
		s.run(s.now + ms)
	}
	if w := float64(c.Window()); w > before*0.75 {
		t.Errorf("window %.0f after the recovery, before %.0f", w, before)
	}
	for !c.running {
		s.run(s.now + ms)
	}
	want := math.Cbrt(before * (1 - cubicBeta) / simMSS / cubicC)
	if math.Abs(c.k-want) > 0.3 {
		t.Errorf("K of %.2f s, want %.2f", c.k, want)
	}
	start := s.now
	for c.cwnd < c.wMax && s.now < start+20*time.Second {
		s.run(s.now + 10*ms)
	}
	if took := (s.now - start).Seconds(); math.Abs(took-c.k) > 1 {
		t.Errorf("the window was back after %.2f s, want %.2f", took, c.k)
	}
}

// TestCUBICReduce: fast convergence, undo and timeout.
func TestCUBICReduce(t *testing.T) {
	const mss = 1000
	c := NewCUBIC(mss).(*cubic)
	c.cwnd, c.ssthresh, c.windowLimited = 100*mss, 50*mss, true
	before := c.growth
	c.EnterRecovery(0, 99*mss)
	if c.ssthresh != 70*mss || c.wMax != 100*mss {
		t.Errorf("threshold %.0f, maximum %.0f, want 70000, 100000", c.ssthresh, c.wMax)
	}
	c.Spurious(0)
	if c.growth != before || c.Window() != 100*mss {
		t.Errorf("undo left %+v, want %+v", c.growth, before)
	}
	c.wMax = 200 * mss
	c.EnterRecovery(0, 99*mss)
	c.ExitRecovery(0)
	if c.wMax != 85*mss {
		t.Errorf("maximum %.0f after a second loss, want 85000", c.wMax)
	}
	c.Timeout(0, 70*mss)
	if w := c.Window(); w != mss {
		t.Errorf("window %d after a timeout, want a segment", w)
	}
	threshold := c.ssthresh
	c.Timeout(0, mss)
	if c.ssthresh != threshold {
		t.Errorf("a second timeout of the same data moved the threshold from %.0f to %.0f", threshold, c.ssthresh)
	}
}

// TestCUBICValidation: a window that was not used does not grow, and shrinks when idle; a loss then starts from what was
// in flight.
func TestCUBICValidation(t *testing.T) {
	const mss = 1000
	c := NewCUBIC(mss).(*cubic)
	ack := func(now time.Duration, limited bool) {
		var p Packet
		c.Send(now, &p, mss, mss)
		c.Acked(now+50*ms, &p, mss)
		c.Ack(now+50*ms, Ack{InFlight: mss, RTT: 50 * ms, WindowLimited: limited})
	}
	now := time.Duration(0)
	for range 5 {
		ack(now, false)
		now += 100 * ms
	}
	if w := c.Window(); w != 10*mss {
		t.Errorf("window %d, grew without need", w)
	}
	for range 20 {
		ack(now, true)
		now += 100 * ms
	}
	grown := c.Window()
	if grown <= 20*mss {
		t.Errorf("window %d, did not grow", grown)
	}
	var p Packet
	c.Send(now+10*time.Second, &p, mss, 0)
	if w := c.Window(); w != 10*mss {
		t.Errorf("window %d after 10 s of silence, want the initial one", w)
	}
	c.cwnd, c.ssthresh = 100*mss, 50*mss
	for range 3 {
		ack(now, false)
		now += 100 * ms
	}
	c.EnterRecovery(now, 9*mss)
	if c.ssthresh > 10*mss {
		t.Errorf("threshold %.0f, though only 10 segments were in flight", c.ssthresh)
	}
}

// TestHyStart: growth slows before the queue of a path overflows, if it has the volume of the path, and not before the
// path is full.
func TestHyStart(t *testing.T) {
	p := path(60 * ms)
	p.queue = 120 * ms
	s := newSim(p)
	c := NewCUBIC(simMSS).(*cubic)
	f := s.add(c, 0, 0)
	for c.State() == "slow-start" && s.now < 5*time.Second {
		s.run(s.now + ms)
	}
	if f.drops > 0 || c.State() != "conservative-slow-start" {
		t.Errorf("%d packets dropped, %s at %v", f.drops, c.State(), s.now)
	}
	if got := c.cwnd / (p.rate * p.rtt.Seconds()); got < 0.8 {
		t.Errorf("growth slowed at %.2f of the path's volume", got)
	}
}

// TestHyStartRounds: round-trip times that fall again bring slow start back; else it ends after 5 round trips.
func TestHyStartRounds(t *testing.T) {
	var h hystart
	round := func(rtt time.Duration) bool {
		end := h.ack(rtt, true)
		for range hystartSamples {
			end = h.ack(rtt, false) || end
		}
		return end
	}
	round(50 * ms)
	round(50 * ms)
	if round(60 * ms); !h.conservative {
		t.Fatal("10 ms more made no difference")
	}
	if round(50 * ms); h.conservative {
		t.Fatal("10 ms less made no difference")
	}
	round(60 * ms)
	for i := range hystartConservatives {
		if end := round(60 * ms); end != (i == hystartConservatives-1) {
			t.Fatalf("round %d: end %t", i, end)
		}
	}
}

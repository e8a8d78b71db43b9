package congestion

import (
	"testing"
	"time"
)

// statesOf runs a flow and returns the times at which it entered each state.
func statesOf(s *sim, c Controller, end time.Duration) map[string][]time.Duration {
	entered := map[string][]time.Duration{}
	last := ""
	for s.now < end {
		s.run(s.now + ms)
		if state := c.State(); state != last {
			entered[state] = append(entered[state], s.now)
			last = state
		}
	}
	return entered
}

// TestBBRCycle: a flow alone starts, drains, probes for bandwidth every 2 to 3 s, and measures the round-trip time
// every 5 s.
func TestBBRCycle(t *testing.T) {
	p := path(60 * ms)
	p.rate /= 10
	s := newSim(p)
	b := newBBR(simMSS, 1, defaultBBR)
	s.add(b, 0, 0)
	got := statesOf(s, b, 30*time.Second)
	for _, c := range []struct {
		state       string
		least, most int
	}{{"startup", 1, 1}, {"drain", 1, 1}, {"down", 7, 14}, {"cruise", 7, 20}, {"refill", 7, 14}, {"up", 7, 14}, {"probe-rtt", 4, 6}} {
		if n := len(got[c.state]); n < c.least || n > c.most {
			t.Errorf("%d times in %s, want %d to %d", n, c.state, c.least, c.most)
		}
	}
	if b.minRTT < p.rtt || b.minRTT > p.rtt+2*ms {
		t.Errorf("round-trip time %v, want %v", b.minRTT, p.rtt)
	}
	if r := b.maxBW() / p.rate; r < 0.98 || r > 1.05 {
		t.Errorf("estimate of %.3f of the rate", r)
	}
}

// TestBBRIdle: an application that pauses for longer than the interval of probe-rtt goes on at full rate at once: the
// estimates hold, and the pause has drained the queue already.
func TestBBRIdle(t *testing.T) {
	s := newSim(path(60 * ms))
	b := newBBR(simMSS, 1, defaultBBR)
	f := s.add(b, 0, 60e6)
	s.run(15 * time.Second)
	if f.done == 0 {
		t.Fatal("the first part is not done")
	}
	f.limit += 24000
	f.send()
	got := statesOf(s, b, 16*time.Second)
	if n := len(got["probe-rtt"]); n > 0 {
		t.Errorf("probe-rtt after a pause, at %v", got["probe-rtt"])
	}
	if r := f.goodput(15100*ms, 15700*ms); r < 0.9 {
		t.Errorf("%.2f of the rate after a pause", r)
	}
}

// TestBBRAppLimited: samples of an application that sends little do not lower the estimate, and do not count as a
// plateau.
func TestBBRAppLimited(t *testing.T) {
	s := newSim(path(60 * ms))
	b := newBBR(simMSS, 1, defaultBBR)
	f := s.add(b, 0, 10*simMSS)
	for i := range time.Duration(50) {
		s.at(i*200*ms, func() {
			f.limit += 10
			f.send()
		})
	}
	s.run(10 * time.Second)
	if b.fullBWReached {
		t.Error("the path counts as full")
	}
	f.limit += 1 << 30
	f.send()
	s.run(12 * time.Second)
	high := b.maxBW()
	f.limit = f.next
	for i := range time.Duration(100) {
		s.at(s.now+i*100*ms, func() {
			f.limit += 20
			f.send()
		})
	}
	s.run(22 * time.Second)
	if low := b.maxBW(); low < 0.9*high {
		t.Errorf("estimate fell from %.0f to %.0f", high, low)
	}
}

// TestBBRSpurious: a recovery that was not justified leaves no trace.
func TestBBRSpurious(t *testing.T) {
	for _, timeout := range []bool{false, true} {
		s := newSim(path(60 * ms))
		b := newBBR(simMSS, 1, defaultBBR)
		f := s.add(b, 0, 0)
		s.run(2 * time.Second)
		window, state := b.Window(), b.State()
		if timeout {
			b.Timeout(s.now, f.inFlight)
			if w := b.Window(); w != simMSS {
				t.Errorf("window of %d after a timeout, want a segment", w)
			}
		} else {
			for i := range f.segs {
				if g := &f.segs[i]; g.flying && i%2 == 0 {
					b.Lost(s.now, &g.packet, simMSS)
				}
			}
			b.EnterRecovery(s.now, f.inFlight/2)
		}
		b.Spurious(s.now)
		b.ExitRecovery(s.now)
		if w := b.Window(); w != window || b.State() != state {
			t.Errorf("timeout %t: window %d in %s, before %d in %s", timeout, w, b.State(), window, state)
		}
	}
}

// TestBBRTimeout: after a timeout the window grows with what is delivered, and is back when the recovery ends.
func TestBBRTimeout(t *testing.T) {
	s := newSim(path(60 * ms))
	b := newBBR(simMSS, 1, defaultBBR)
	f := s.add(b, 0, 0)
	s.run(2 * time.Second)
	window := b.Window()
	f.timeout()
	s.run(s.now + 300*ms)
	if w := b.Window(); w < window*9/10 {
		t.Errorf("window %d after the recovery, before %d", w, window)
	}
	if b.inRecovery {
		t.Error("the recovery has not ended")
	}
}

// TestBBRAmbientLoss: the measured loss is that of the path, not that of probes and queues.
func TestBBRAmbientLoss(t *testing.T) {
	for _, c := range []struct {
		loss, police, least, most float64
	}{
		{0, 0, 0, 0},
		{0.03, 0, 0.03, 0.06},
		{0, simRate / 30, 0, 0.06},
	} {
		p := path(60 * ms)
		p.rate /= 10
		p.loss, p.police, p.bucket, p.seed = c.loss, c.police, 64<<10, 3
		s := newSim(p)
		b := newBBR(simMSS, 1, defaultBBR)
		s.add(b, 0, 0)
		s.run(20 * time.Second)
		if a := b.allowance(1000*simMSS) / (1000 * simMSS); a < c.least || a > c.most {
			t.Errorf("loss %.2f, policer %.0f: allowance of %.3f, want %.3f to %.3f", c.loss, c.police, a, c.least, c.most)
		}
	}
}

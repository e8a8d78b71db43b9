package congestion

import (
	"testing"
	"time"
)

// TestSampler: a sample is what was delivered between a record's transmission and its delivery, over the longer of the
// times in which it was sent and acknowledged.
func TestSampler(t *testing.T) {
	const size = 1000
	for _, c := range []struct {
		name        string
		sent, acked func(i int) int // times in ms of 20 records
		want        float64         // bytes per second, of the last record
	}{
		{"both even", func(i int) int { return 10 * i }, func(i int) int { return 10*i + 100 }, 100e3},
		{"acknowledged in bunches", func(i int) int { return 10 * i }, func(i int) int { return 189 + i/10*6 }, 10e3 / 0.1},
		{"sent in bunches", func(i int) int { return i / 10 * 200 }, func(i int) int { return 100 + 10*i + i/10*100 }, 10e3 / 0.19},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s sampler
			var packets [20]Packet
			var last sample
			sent, acked := 0, 0
			for now := 0; acked < len(packets); now++ {
				at := time.Duration(now) * ms
				for ; acked < sent && c.acked(acked) == now; acked++ {
					s.ack(at, &packets[acked], size)
				}
				if r := s.finish(0); r.acked > 0 {
					last = r
				}
				for ; sent < len(packets) && c.sent(sent) == now; sent++ {
					s.send(at, &packets[sent], size, (sent-acked)*size)
				}
			}
			if last.rate < 0.99*c.want || last.rate > 1.01*c.want {
				t.Errorf("%.0f bytes per second, want %.0f", last.rate, c.want)
			}
		})
	}
}

// TestSamplerRetransmission: a record whose original arrived just after it was sent again gives no sample, which would
// be too high, and what arrives late after all is not lost.
func TestSamplerRetransmission(t *testing.T) {
	var s sampler
	var p, q Packet
	s.send(0, &p, 1000, 0)
	s.send(0, &q, 1000, 1000)
	s.lose(&p, 1000)
	s.send(99*ms, &p, 1000, 1000)
	s.ack(100*ms, &p, 1000)
	if r := s.finish(50 * ms); r.rate != 0 && r.rate > 20e3 {
		t.Errorf("rate %.0f", r.rate)
	}
	s.lose(&q, 1000)
	if s.lost != 2000 {
		t.Fatalf("lost %d, want 2000", s.lost)
	}
	s.ack(120*ms, &q, 1000)
	if s.lost != 1000 {
		t.Errorf("lost %d after a late arrival, want 1000", s.lost)
	}
}

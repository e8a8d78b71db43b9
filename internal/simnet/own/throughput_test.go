package own_test

import (
	"fmt"
	"testing"
	"time"

	"subnetrouter/internal/simnet"
	"subnetrouter/internal/simnet/gvisor"
	"subnetrouter/internal/simnet/own"
	"subnetrouter/internal/tcp/congestion"
)

func bbr() simnet.Subject {
	return own.Subject(own.Options{Name: "BBR", Congestion: func(mss int, seed uint64) congestion.Controller { return congestion.NewBBR(mss, seed) }})
}

func cubic() simnet.Subject {
	return own.Subject(own.Options{Name: "CUBIC", Congestion: func(mss int, _ uint64) congestion.Controller { return congestion.NewCUBIC(mss) }})
}

// clock notes when bytes are read for the last time.
type clock struct {
	simnet.Endpoint
	last *time.Duration
}

func (c *clock) Read(now time.Duration, b []byte) (int, error) {
	n, err := c.Endpoint.Read(now, b)
	if n > 0 {
		*c.last = now
	}
	return n, err
}

// line is a path of 300 Mbit/s with a queue of 60 ms.
func line(rtt time.Duration, loss float64) simnet.Path {
	const rate = 300e6 / 8
	return simnet.Path{Delay: rtt / 2, Rate: rate, Queue: rate * 60 / 1000, Loss: loss}
}

// transfer returns the time and the rate at which size bytes go from b, the passive end, to a, and an end's state at
// the end.
func transfer(t testing.TB, a, b simnet.Subject, size int, down, up simnet.Path) (time.Duration, float64) {
	t.Helper()
	var last time.Duration
	inner := a.New
	a.New = func(c simnet.Config) simnet.Endpoint { return &clock{inner(c), &last} }
	s := simnet.Scenario{
		Seed: 1, A: a, B: b, MTU: [2]int{1280, 1280}, Heal: time.Hour,
		Paths: [2][]simnet.Change{{{Path: up}}, {{Path: down}}},
		Conns: []simnet.Script{{
			A:       simnet.Plan{ReadSize: 64 << 10, CloseLast: true},
			B:       simnet.Plan{Writes: []simnet.Write{{Size: size}}},
			Buffers: [2]simnet.Buffers{{Send: 16 << 20, Receive: 16 << 20}, {Send: 16 << 20, Receive: 16 << 20}},
		}},
	}
	r := s.Run()
	if r.Failure != nil {
		t.Fatal(simnet.Report(t.Name(), 1, s, r.Failure, false))
	}
	return last, float64(size) * 8 / last.Seconds() / 1e6
}

// TestThroughput: a download of 100 MiB through 300 Mbit/s, with start and end. Longer ones reach more.
func TestThroughput(t *testing.T) {
	if race {
		t.Skip("takes minutes under the race detector, and shows nothing about races: a run is one goroutine")
	}
	const capacity = 300 * 1228.0 / 1280
	google := gvisor.Subject(gvisor.Options{})
	for _, c := range []struct {
		sender, receiver simnet.Subject
		rtt              time.Duration
		loss             float64
		least            float64 // share of the capacity
	}{
		{bbr(), cubic(), 20 * time.Millisecond, 0, 0.85},
		{bbr(), cubic(), 60 * time.Millisecond, 0, 0.8},
		{bbr(), cubic(), 60 * time.Millisecond, 0.001, 0.6},
		{bbr(), cubic(), 60 * time.Millisecond, 0.01, 0.6},
		{bbr(), google, 60 * time.Millisecond, 0.01, 0.6},
		{bbr(), cubic(), 150 * time.Millisecond, 0.001, 0.4},
		{cubic(), cubic(), 60 * time.Millisecond, 0, 0.7},
	} {
		t.Run(fmt.Sprintf("%s to %s, %v, %g %%", c.sender.Name, c.receiver.Name, c.rtt, c.loss*100), func(t *testing.T) {
			took, rate := transfer(t, c.receiver, c.sender, 100<<20, line(c.rtt, c.loss), line(c.rtt, 0))
			t.Logf("%.1f Mbit/s, %.2f of the capacity, %v", rate, rate/capacity, took)
			if rate < c.least*capacity {
				t.Errorf("%.1f Mbit/s, want %.1f", rate, c.least*capacity)
			}
		})
	}
}

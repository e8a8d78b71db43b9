package own_test

import (
	"testing"
	"time"

	"subnetrouter/internal/simnet"
)

// meter counts the bytes that an end reads between two times.
type meter struct {
	simnet.Endpoint
	from, to time.Duration
	bytes    int
	last     time.Duration // of the last byte
}

func (m *meter) Read(now time.Duration, b []byte) (int, error) {
	n, err := m.Endpoint.Read(now, b)
	if n > 0 {
		m.last = now
		if now >= m.from && now < m.to {
			m.bytes += n
		}
	}
	return n, err
}

// download runs a download for each of the senders, all at once. It returns the share of the path's capacity that each
// had between two times; with to 0, the transfers of size bytes run to their end, and it returns seconds.
func download(b *testing.B, senders []simnet.Subject, down []simnet.Change, size int, from, to time.Duration) []float64 {
	b.Helper()
	var meters []*meter
	receiver := cubic()
	inner := receiver.New
	receiver.New = func(c simnet.Config) simnet.Endpoint {
		meters = append(meters, &meter{Endpoint: inner(c), from: from, to: to})
		return meters[len(meters)-1]
	}
	made := 0
	sender := simnet.Subject{Name: "mixed", New: func(c simnet.Config) simnet.Endpoint {
		made++
		return senders[made-1].New(c)
	}}
	s := simnet.Scenario{
		Seed: 1, A: receiver, B: sender, MTU: [2]int{1280, 1280}, Heal: time.Hour,
		Paths: [2][]simnet.Change{{{Path: line(2*down[0].Path.Delay, 0)}}, down},
	}
	for i := range senders {
		s.Conns = append(s.Conns, simnet.Script{
			Start:   time.Duration(i) * 3 * time.Millisecond,
			A:       simnet.Plan{ReadSize: 64 << 10, CloseLast: to == 0, AbortAt: to},
			B:       simnet.Plan{Writes: []simnet.Write{{Size: size}}},
			Buffers: [2]simnet.Buffers{{Send: 16 << 20, Receive: 16 << 20}, {Send: 16 << 20, Receive: 16 << 20}},
		})
	}
	if r := s.Run(); r.Failure != nil {
		b.Fatal(r.Failure)
	}
	var figures []float64
	for _, m := range meters {
		if to == 0 {
			figures = append(figures, m.last.Seconds())
		} else {
			figures = append(figures, float64(m.bytes)/(to-from).Seconds()/(float64(down[0].Path.Rate)*1228/1280))
		}
	}
	return figures
}

// BenchmarkCongestion repeats the rows of package congestion's simulation with whole connections. The figure is that of
// the first flow: a share of the capacity, or seconds for a file. Flows beside another are at 100 Mbit/s.
func BenchmarkCongestion(b *testing.B) {
	const ms, endless = time.Millisecond, 4 << 30
	late := func(rtt time.Duration) simnet.Path {
		p := line(rtt, 0)
		p.Reorder, p.ReorderDelay = 0.01, 5*ms
		return p
	}
	slow := func(rtt time.Duration) simnet.Path {
		p := line(rtt, 0)
		p.Rate /= 3
		p.Queue /= 3
		return p
	}
	gone := line(60*ms, 0)
	gone.Down = true
	type subjects = []simnet.Subject
	for _, r := range []struct {
		name     string
		senders  subjects
		down     []simnet.Change
		size     int
		from, to time.Duration
	}{
		{"clean-20ms", subjects{bbr()}, []simnet.Change{{Path: line(20*ms, 0)}}, endless, 0, 10 * time.Second},
		{"clean-60ms", subjects{bbr()}, []simnet.Change{{Path: line(60*ms, 0)}}, endless, 0, 10 * time.Second},
		{"clean-60ms-cubic", subjects{cubic()}, []simnet.Change{{Path: line(60*ms, 0)}}, endless, 0, 10 * time.Second},
		{"clean-150ms", subjects{bbr()}, []simnet.Change{{Path: line(150*ms, 0)}}, endless, 0, 10 * time.Second},
		{"loss-0.1%-60ms", subjects{bbr()}, []simnet.Change{{Path: line(60*ms, 0.001)}}, endless, 0, 10 * time.Second},
		{"loss-0.1%-150ms", subjects{bbr()}, []simnet.Change{{Path: line(150*ms, 0.001)}}, endless, 0, 10 * time.Second},
		{"loss-1%-20ms", subjects{bbr()}, []simnet.Change{{Path: line(20*ms, 0.01)}}, endless, 0, 10 * time.Second},
		{"loss-1%-60ms", subjects{bbr()}, []simnet.Change{{Path: line(60*ms, 0.01)}}, endless, 0, 10 * time.Second},
		{"loss-5%-60ms", subjects{bbr()}, []simnet.Change{{Path: line(60*ms, 0.05)}}, endless, 0, 10 * time.Second},
		{"late-20ms", subjects{bbr()}, []simnet.Change{{Path: late(20 * ms)}}, endless, 0, 10 * time.Second},
		{"late-60ms", subjects{bbr()}, []simnet.Change{{Path: late(60 * ms)}}, endless, 0, 10 * time.Second},
		// A burst of losses as long as 50 packets at the path's rate; from two round trips after it is known.
		{"burst-60ms", subjects{bbr()}, []simnet.Change{
			{Path: line(60*ms, 0)}, {At: 3000 * ms, Path: gone}, {At: 3002 * ms, Path: line(60*ms, 0)},
		}, endless, 3180 * ms, 4180 * ms},
		{"8-flows", subjects{bbr(), bbr(), bbr(), bbr(), bbr(), bbr(), bbr(), bbr()}, []simnet.Change{{Path: line(60*ms, 0)}}, endless, 0, 10 * time.Second},
		{"beside-cubic-20ms", subjects{bbr(), cubic()}, []simnet.Change{{Path: slow(20 * ms)}}, endless, 10 * time.Second, 50 * time.Second},
		{"beside-cubic-60ms", subjects{bbr(), cubic()}, []simnet.Change{{Path: slow(60 * ms)}}, endless, 10 * time.Second, 50 * time.Second},
		{"file-2MB-s", subjects{bbr()}, []simnet.Change{{Path: line(60*ms, 0)}}, 2e6, 0, 0},
		{"file-2MB-cubic-s", subjects{cubic()}, []simnet.Change{{Path: line(60*ms, 0)}}, 2e6, 0, 0},
		{"file-20MB-s", subjects{bbr()}, []simnet.Change{{Path: line(60*ms, 0)}}, 20e6, 0, 0},
		{"file-20MB-cubic-s", subjects{cubic()}, []simnet.Change{{Path: line(60*ms, 0)}}, 20e6, 0, 0},
		{"file-20MB-0.1%-s", subjects{bbr()}, []simnet.Change{{Path: line(60*ms, 0.001)}}, 20e6, 0, 0},
	} {
		b.Run(r.name, func(b *testing.B) {
			var figures []float64
			for range b.N {
				figures = download(b, r.senders, r.down, r.size, r.from, r.to)
			}
			var sum, squares float64
			for _, f := range figures {
				sum += f
				squares += f * f
			}
			b.ReportMetric(figures[0], "figure")
			b.ReportMetric(sum, "sum")
			b.ReportMetric(sum*sum/squares/float64(len(figures)), "jain")
			b.ReportMetric(0, "ns/op")
		})
	}
}

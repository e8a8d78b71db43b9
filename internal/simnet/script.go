package simnet

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Script is the workload of a connection.
type Script struct {
	Start   time.Duration // when A, the active end, connects
	A, B    Plan
	Buffers [2]Buffers // of A and B
	V6      bool
	// BothOpen makes B connect to A at the same time: a simultaneous open, if the network lets
	// the SYN segments cross.
	BothOpen bool
}

// Buffers are the sizes of an endpoint's buffers, in bytes.
type Buffers struct{ Send, Receive int }

// Plan is the behaviour of the application at one end.
type Plan struct {
	Writes   []Write
	ReadSize int // bytes of one read; 0: 32 KiB
	Pauses   []Pause
	// CloseAt is the time after Start before which the application does not close its stream.
	// It closes after its last write, unless it aborts.
	CloseAt time.Duration
	// CloseLast makes it wait for the peer's end of stream first.
	CloseLast bool
	// AbortAt is the time after Start at which the application aborts; 0: never.
	AbortAt time.Duration
}

// Write is a write of Size bytes, due a time after the previous one is complete.
type Write struct {
	After time.Duration
	Size  int
}

// Pause is a time in which the application does not read, from the moment when it has read At
// bytes.
type Pause struct {
	At  int64
	For time.Duration
}

// Scenario is everything that a run depends on.
type Scenario struct {
	Seed  uint64
	A, B  Subject
	MTU   [2]int      // of the interfaces of A and B; 0: 1500
	Paths [2][]Change // from A to B and back
	Conns []Script
	// Heal is when the last fault of the network ends: from then on, paths lose packets only
	// when their queue is full.
	Heal time.Duration
	// MaxStall is the longest time without progress after Heal, for a connection with work to
	// do; 0: 4 minutes, since TCPs double their timeouts up to 2 minutes.
	MaxStall time.Duration
	// Linger is the longest time after which a connection that has ended still holds
	// resources; 0: 10 minutes. It covers TIME-WAIT and the last retransmissions.
	Linger time.Duration
	// Ignore reports whether a failure is a known defect of a subject; the run then continues,
	// with a stuck connection left as it is.
	Ignore func(*Failure) bool
}

func (s *Scenario) defaults() {
	for i := range s.MTU {
		if s.MTU[i] == 0 {
			s.MTU[i] = 1500
		}
	}
	if s.MaxStall == 0 {
		s.MaxStall = 4 * time.Minute
	}
	if s.Linger == 0 {
		s.Linger = 10 * time.Minute
	}
}

// Random returns the scenario of a seed, with one to four connections at once. Networks are
// rarely bad in every respect, so each fault is chosen on its own, and a quarter of the
// networks have none.
func Random(seed uint64, a, b Subject) Scenario {
	r := rand.New(rand.NewPCG(seed, 0x5ce7a110))
	s := Scenario{Seed: seed, A: a, B: b, Heal: upTo(r, time.Second, 60*time.Second)}
	for i := range s.MTU {
		s.MTU[i] = []int{1280, 1500, 1500, 9000}[r.IntN(4)]
	}
	faulty := r.IntN(4) > 0
	for i := range s.Paths {
		s.Paths[i] = []Change{{Path: randomPath(r, faulty)}}
	}
	if faulty && r.IntN(3) == 0 { // changes of path in mid-flow
		for range 1 + r.IntN(3) {
			at := upTo(r, 0, s.Heal)
			for i := range s.Paths {
				s.Paths[i] = append(s.Paths[i], Change{At: at, Path: randomPath(r, true)})
			}
		}
	}
	if faulty && r.IntN(4) == 0 { // an outage
		at := upTo(r, 0, s.Heal)
		for i := range s.Paths {
			up := s.Paths[i][len(s.Paths[i])-1].Path
			down := up
			down.Down = true
			s.Paths[i] = append(s.Paths[i], Change{At: at, Path: down}, Change{At: at + upTo(r, 0, 10*time.Second), Path: up})
		}
	}
	n := 1
	if r.IntN(4) == 0 {
		n = 2 + r.IntN(3)
	}
	for range n {
		s.Conns = append(s.Conns, randomScript(r))
	}
	return s
}

func randomPath(r *rand.Rand, faulty bool) Path {
	p := Path{Delay: exponential(r, 100*time.Microsecond, 200*time.Millisecond)}
	if r.IntN(3) == 0 {
		p.Rate = exponential(r, 20_000, 20_000_000)
		p.Queue = max(3000, int(float64(p.Rate)*r.Float64()))
	}
	if r.IntN(8) == 0 {
		p.MTU = 1280
	}
	if !faulty {
		return p
	}
	often := func() bool { return r.IntN(3) == 0 }
	if often() {
		p.Jitter = upTo(r, 0, p.Delay/2)
	}
	if often() {
		p.Loss = float64(exponential(r, 1, 200)) / 1000
	}
	if often() {
		p.BurstStart, p.BurstEnd, p.BurstLoss = 0.02*r.Float64(), 0.05+0.4*r.Float64(), 0.5+0.5*r.Float64()
	}
	if often() {
		p.Reorder, p.ReorderDelay = 0.2*r.Float64(), upTo(r, 0, 2*p.Delay)
	}
	if often() {
		p.Duplicate = 0.1 * r.Float64()
	}
	if often() {
		p.Corrupt = 0.1 * r.Float64()
	}
	return p
}

func randomScript(r *rand.Rand) Script {
	s := Script{Start: upTo(r, 0, 2*time.Second), V6: r.IntN(2) == 0}
	for i := range s.Buffers {
		s.Buffers[i] = Buffers{Send: exponential(r, 8<<10, 512<<10), Receive: exponential(r, 8<<10, 512<<10)}
	}
	s.A, s.B = randomPlan(r), randomPlan(r)
	switch r.IntN(8) {
	case 0, 1:
		s.A.CloseLast = true
	case 2, 3:
		s.B.CloseLast = true
	case 4: // at once, as nearly as the ends can
		s.A.CloseAt = upTo(r, 0, 10*time.Second)
		s.B.CloseAt = s.A.CloseAt
	case 5:
		plan := []*Plan{&s.A, &s.B}[r.IntN(2)]
		plan.AbortAt = exponential(r, time.Millisecond, 20*time.Second)
	}
	return s
}

func randomPlan(r *rand.Rand) Plan {
	p := Plan{ReadSize: exponential(r, 1<<10, 64<<10)}
	total := 0
	switch r.IntN(8) {
	case 0: // none
	case 1:
		total = exponential(r, 1<<10, 1<<20)
	default:
		total = exponential(r, 1, 128<<10)
	}
	for left := total; left > 0; {
		w := Write{Size: min(left, exponential(r, 1+total/64, 1+total))}
		if r.IntN(3) == 0 {
			w.After = exponential(r, time.Microsecond, 2*time.Second)
			if r.IntN(20) == 0 { // an idle period
				w.After = upTo(r, time.Minute, 3*time.Hour)
			}
		}
		left -= w.Size
		p.Writes = append(p.Writes, w)
	}
	if r.IntN(3) == 0 {
		for range 1 + r.IntN(3) {
			p.Pauses = append(p.Pauses, Pause{At: r.Int64N(64 << 10), For: exponential(r, time.Millisecond, 5*time.Minute)})
		}
	}
	return p
}

// upTo returns a number from low to high.
func upTo[T ~int64](r *rand.Rand, low, high T) T {
	return low + T(r.Int64N(int64(max(high-low, 0))+1))
}

// exponential returns a number from low to high, each order of magnitude being equally likely.
func exponential[T ~int | ~int64](r *rand.Rand, low, high T) T {
	if high <= low {
		return low
	}
	return T(float64(low) * math.Pow(float64(high)/float64(low), r.Float64()))
}

// address returns the address of an end of connection number i.
func address(i int, side int, v6 bool) netip.AddrPort {
	port := uint16(443)
	if side == 0 {
		port = uint16(10_000 + i%50_000)
	}
	if v6 {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(1 + side)}), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + side)}), port)
}

package simnet_test

import (
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/simnet"
)

// bulk is a scenario without faults: A sends size bytes to B over a path.
func bulk(subject simnet.Subject, size int, path simnet.Path) simnet.Scenario {
	change := []simnet.Change{{Path: path}}
	return simnet.Scenario{
		Seed: 1, A: subject, B: subject, Paths: [2][]simnet.Change{change, change}, Heal: time.Hour,
		Conns: []simnet.Script{{
			A:       simnet.Plan{Writes: []simnet.Write{{Size: size}}},
			Buffers: [2]simnet.Buffers{{Send: 1 << 20, Receive: 1 << 20}, {Send: 1 << 20, Receive: 1 << 20}},
		}},
	}
}

// TestPath: each setting of a path has its effect on a transfer.
func TestPath(t *testing.T) {
	const size = 2 << 20
	const packets = size / 1460
	for _, c := range []struct {
		name string
		path simnet.Path
		seen string // in the result
		low  int    // how often
		high int
	}{
		{"loss", simnet.Path{Loss: 0.01}, "LOST", packets / 200, packets / 25},
		{"bursts", simnet.Path{BurstStart: 0.001, BurstEnd: 0.1, BurstLoss: 1}, "LOST IN A BURST", packets / 400, packets / 20},
		{"reordering", simnet.Path{Reorder: 0.01, ReorderDelay: time.Millisecond}, "DELAYED FOR REORDERING", packets / 200, packets / 25},
		{"duplication", simnet.Path{Duplicate: 0.01}, "DUPLICATED", packets / 200, packets / 25},
		{"corruption", simnet.Path{Corrupt: 0.01}, "CORRUPTED", packets / 200, packets / 25},
		{"MTU", simnet.Path{MTU: 1280}, "DROPPED: LARGER THAN THE PATH'S MTU", 1, 100},
		{"queue", simnet.Path{Delay: 10 * time.Millisecond, Rate: 1 << 20, Queue: 20_000}, "DROPPED: QUEUE FULL", 10, packets},
		{"down", simnet.Path{Down: true}, "LOST: PATH DOWN", 2, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := bulk(reference(noBug), size, c.path)
			if c.path.Down {
				s.Heal = time.Minute
			}
			r := s.Run()
			if r.Failure != nil || r.Bytes != size {
				t.Fatalf("%v; %d bytes read", r.Failure, r.Bytes)
			}
			for name, n := range r.Seen {
				if name == c.seen && (n < c.low || n > c.high) {
					t.Errorf("%s: %d times, want %d to %d", name, n, c.low, c.high)
				}
				if name != c.seen && strings.ToUpper(name) == name {
					t.Errorf("%s: %d times; the path does not do this", name, n)
				}
			}
			if r.Seen[c.seen] == 0 {
				t.Errorf("no packet was %s", c.seen)
			}
		})
	}
}

// lastByte returns when B has read everything.
func lastByte(t *testing.T, s simnet.Scenario) (at float64) {
	t.Helper()
	r, trace := s.Trace(0)
	if r.Failure != nil {
		t.Fatal(r.Failure)
	}
	for _, line := range trace {
		if strings.Contains(line, "B reads the end") {
			d, err := time.ParseDuration(strings.Fields(line)[0] + "s")
			if err != nil {
				t.Fatal(err)
			}
			return d.Seconds()
		}
	}
	t.Fatal("the end was not read")
	return 0
}

// TestTimes: a transfer takes as long as the delay and the rate of the path require.
func TestTimes(t *testing.T) {
	const second = float64(1)
	for _, c := range []struct {
		name      string
		size      int
		path      simnet.Path
		low, high float64
	}{
		// The SYN, its acknowledgement, and the bytes.
		{"delay", 1000, simnet.Path{Delay: 100 * time.Millisecond}, 0.3 * second, 0.301 * second},
		{"jitter", 1000, simnet.Path{Delay: 100 * time.Millisecond, Jitter: 50 * time.Millisecond}, 0.301 * second, 0.45 * second},
		{"rate", 2 << 20, simnet.Path{Delay: 10 * time.Millisecond, Rate: 1 << 20}, 2 * second, 2.2 * second},
	} {
		t.Run(c.name, func(t *testing.T) {
			if at := lastByte(t, bulk(reference(noBug), c.size, c.path)); at < c.low || at > c.high {
				t.Errorf("%v s, want %v to %v", at, c.low, c.high)
			}
		})
	}
}

// TestPathChange: packets take the path of their time, so those on a shorter one overtake.
func TestPathChange(t *testing.T) {
	s := bulk(reference(noBug), 1<<20, simnet.Path{Delay: 500 * time.Millisecond, Rate: 1 << 20})
	for i := range s.Paths {
		s.Paths[i] = append(s.Paths[i], simnet.Change{At: 3020 * time.Millisecond, Path: simnet.Path{Delay: time.Millisecond}})
	}
	slow, fast := lastByte(t, bulk(reference(noBug), 1<<20, s.Paths[0][0].Path)), lastByte(t, s)
	if fast >= slow {
		t.Errorf("%v s with the change of path, %v s without", fast, slow)
	}
	_, trace := s.Trace(0)
	if !strings.Contains(strings.Join(trace, "\n"), " sack ") {
		t.Error("no packet has overtaken another")
	}
}

// TestSharedPath: connections share the rate of a path.
func TestSharedPath(t *testing.T) {
	s := bulk(reference(noBug), 1<<20, simnet.Path{Delay: 10 * time.Millisecond, Rate: 1 << 20})
	alone := lastByte(t, s)
	s.Conns = append(s.Conns, s.Conns[0], s.Conns[0], s.Conns[0])
	if together := lastByte(t, s); together < 2*alone {
		t.Errorf("one of four connections takes %v s, one alone %v s", together, alone)
	}
}

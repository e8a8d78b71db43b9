package simnet_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"subnetrouter/internal/simnet"
	"subnetrouter/internal/simnet/gvisor"
	"subnetrouter/internal/testwait"
)

// TestManyAtOnce: thousands of connections share one path with losses, and leave neither
// memory nor goroutines.
func TestManyAtOnce(t *testing.T) {
	google := gvisor.Subject(gvisor.Options{})
	for _, c := range []struct {
		name    string
		subject simnet.Subject
		n       int
	}{
		{"reference", reference(noBug), 2000},
		{"gVisor", google, 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			goroutines, heap := runtime.NumGoroutine(), heapInUse()
			total := simnet.Check(t, 0, 1, func(seed uint64) simnet.Scenario {
				s := simnet.Random(seed, c.subject, c.subject)
				path := []simnet.Change{{Path: simnet.Path{
					Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Rate: 100 << 20, Queue: 1 << 20,
					Loss: 0.01, Reorder: 0.01, ReorderDelay: 10 * time.Millisecond, Duplicate: 0.01, Corrupt: 0.01,
				}}}
				s.Paths, s.Heal, s.Ignore = [2][]simnet.Change{path, path}, time.Minute, stuckInClosing
				s.Conns = nil
				for i := 0; len(s.Conns) < scaled(c.n); i++ {
					s.Conns = append(s.Conns, simnet.Random(seed+uint64(i), c.subject, c.subject).Conns...)
				}
				return s
			})
			t.Log(total)
			testwait.Until(t, "goroutines to end", func() error {
				if n := runtime.NumGoroutine(); n > goroutines {
					return fmt.Errorf("%d goroutines, %d before", n, goroutines)
				}
				return nil
			})
			if after := heapInUse(); after > heap+4<<20 {
				t.Errorf("%d KiB of heap in use, %d before", after>>10, heap>>10)
			}
		})
	}
}

// heapInUse returns the bytes of reachable objects.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // the first only marks objects that finalizers and pools release
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSoak runs random scenarios with new seeds for as long as SOAK sets (make soak), or
// without SOAK a few with seeds that no other test has.
func TestSoak(t *testing.T) {
	google, own := gvisor.Subject(gvisor.Options{}), reference(noBug)
	pairs := [][2]simnet.Subject{{own, own}, {google, google}, {own, google}, {google, own}}
	scenario := func(seed uint64) simnet.Scenario {
		pair := pairs[seed%uint64(len(pairs))]
		return random(seed, pair[0], pair[1])
	}
	soak := os.Getenv("SOAK")
	if soak == "" {
		t.Log(simnet.Check(t, 1<<32, scaled(100), scenario))
		return
	}
	length, err := time.ParseDuration(soak)
	if err != nil || length <= 0 {
		t.Fatalf("SOAK=%s: use a duration such as 10m", soak)
	}
	t.Log(simnet.Soak(t, length, scenario))
}

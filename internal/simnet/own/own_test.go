package own_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/simnet"
	"subnetrouter/internal/simnet/gvisor"
	"subnetrouter/internal/simnet/own"
)

// random is simnet.Random, without the known defects of gVisor: see simnet's TestKnownDefects.
func random(seed uint64, a, b simnet.Subject) simnet.Scenario {
	s := simnet.Random(seed, a, b)
	google := [2]bool{strings.HasPrefix(a.Name, "gVisor"), strings.HasPrefix(b.Name, "gVisor")}
	s.Ignore = func(f *simnet.Failure) bool {
		for side, is := range google {
			name := "AB"[side : side+1]
			if is && f.Check == simnet.CheckStuck && strings.Contains(f.Message, "; "+name+" has no timer") {
				return true
			}
			if is && f.Check == simnet.CheckMemory && strings.HasPrefix(f.Message, name+" still has 1 connections, 0 bytes and no timer") && strings.HasSuffix(f.Message, "is in CLOSING") {
				return true
			}
		}
		return false
	}
	for i := range s.Conns {
		for side, b := range s.Conns[i].Buffers {
			if google[side] {
				s.Conns[i].Buffers[side].Receive = max(b.Receive, 64<<10)
			}
		}
	}
	return s
}

// scaled returns the number of seeds of a test: a twentieth of n under the race detector, with which a run takes ten to
// twenty times as long.
func scaled(n int) int {
	if race {
		return n / 20
	}
	return n
}

// TestPairs runs random scenarios between the router's TCP and itself, and gVisor's in both roles.
func TestPairs(t *testing.T) {
	ours, google := own.Subject(own.Options{}), gvisor.Subject(gvisor.Options{})
	googleCUBIC := gvisor.Subject(gvisor.Options{CUBIC: true})
	for _, pair := range []struct {
		name string
		a, b simnet.Subject
		n    int
	}{
		{"fixed window", ours, ours, 4000},
		{"BBR", bbr(), bbr(), 4000},
		{"CUBIC", cubic(), cubic(), 4000},
		{"BBR to CUBIC", bbr(), cubic(), 4000},
		{"BBR to gVisor", bbr(), google, 200},
		{"gVisor to BBR", google, bbr(), 200},
		{"CUBIC to gVisor", cubic(), googleCUBIC, 200},
		{"gVisor to CUBIC", googleCUBIC, cubic(), 200},
	} {
		t.Run(pair.name, func(t *testing.T) {
			total := simnet.Check(t, 0, scaled(pair.n), func(seed uint64) simnet.Scenario { return random(seed, pair.a, pair.b) })
			t.Log(total)
		})
	}
}

// TestCrossedOpen runs random scenarios in which both ends connect at the same time.
func TestCrossedOpen(t *testing.T) {
	google := gvisor.Subject(gvisor.Options{})
	for _, pair := range []struct {
		name string
		a, b simnet.Subject
		n    int
	}{
		{"BBR", bbr(), bbr(), 2000},
		{"CUBIC", cubic(), cubic(), 2000},
		{"BBR and gVisor", bbr(), google, 200},
		{"gVisor and BBR", google, bbr(), 200},
	} {
		t.Run(pair.name, func(t *testing.T) {
			total := simnet.Check(t, 0, scaled(pair.n), func(seed uint64) simnet.Scenario {
				s := random(seed, pair.a, pair.b)
				for i := range s.Conns {
					s.Conns[i].BothOpen = true
				}
				return s
			})
			t.Log(total)
			if total.Seen[simnet.SeenCrossedSYN] == 0 {
				t.Error("no SYNs crossed")
			}
		})
	}
}

// TestSoak runs random scenarios with new seeds for as long as SOAK sets (make soak), or without SOAK a few with seeds
// that no other test has.
func TestSoak(t *testing.T) {
	google := gvisor.Subject(gvisor.Options{})
	pairs := [][2]simnet.Subject{{bbr(), bbr()}, {bbr(), cubic()}, {cubic(), cubic()}, {bbr(), google}, {google, bbr()}}
	scenario := func(seed uint64) simnet.Scenario {
		pair := pairs[seed%uint64(len(pairs))]
		return random(seed, pair[0], pair[1])
	}
	soak := os.Getenv("SOAK")
	if soak == "" {
		t.Log(simnet.Check(t, 1<<32, scaled(200), scenario))
		return
	}
	length, err := time.ParseDuration(soak)
	if err != nil || length <= 0 {
		t.Fatalf("SOAK=%s: use a duration such as 10m", soak)
	}
	t.Log(simnet.Soak(t, length, scenario))
}

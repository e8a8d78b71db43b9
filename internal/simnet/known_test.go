package simnet_test

import (
	"strings"
	"testing"

	"subnetrouter/internal/simnet"
	"subnetrouter/internal/simnet/gvisor"
)

// TestKnownDefects: the simulator finds the defects of gVisor that the other tests exclude. If
// a new version of gVisor no longer has one, remove the exception with the case.
func TestKnownDefects(t *testing.T) {
	google := gvisor.Subject(gvisor.Options{})
	strict := google
	strict.StaleWindow = false
	rack := gvisor.Subject(gvisor.Options{RACK: true})
	for _, c := range []struct {
		name    string
		a, b    simnet.Subject
		first   uint64 // seed
		check   string
		message string
	}{
		// See stuckInClosing.
		{"leak in CLOSING", google, google, 210, simnet.CheckMemory, "is in CLOSING"},
		// gVisor takes the window from each acceptable segment, also from one that is older than
		// the last. After reordering it may send more than the peer has room for.
		{"stale window", strict, strict, 40, simnet.CheckWire, "outside of the window"},
		// After a tail loss probe gVisor does not retransmit a lost FIN.
		{"lost FIN with RACK", rack, rack, 1330, simnet.CheckStuck, "is in FIN-WAIT1"},
		// See random and withoutTimer.
		{"buffer full of early segments", google, google, 6732793031472613137, simnet.CheckStuck, "no progress from A to B"},
		{"window that stays closed", reference(noBug), google, 5392224021774575030, simnet.CheckStuck, "no progress from A to B"},
		{"stuck without a timer", google, google, 6531183583011584900, simnet.CheckStuck, "A has no timer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			total := simnet.Seeds(c.first, simnet.Count(50), func(seed uint64) simnet.Scenario {
				s := simnet.Random(seed, c.a, c.b)
				s.Ignore = func(f *simnet.Failure) bool { return f.Check != c.check || !strings.Contains(f.Message, c.message) }
				return s
			})
			if !total.Failed {
				t.Fatalf("not found: %v", total)
			}
			t.Logf("seed %d: %v", total.Seed, total.Failure)
		})
	}
}

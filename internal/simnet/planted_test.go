package simnet_test

import (
	"testing"

	"subnetrouter/internal/simnet"
	"subnetrouter/internal/simnet/gvisor"
)

// TestPlantedBugs: the simulator finds each of five planted bugs within a number of seeds, by
// the check that is made for it, in the code of the reference TCP and at the boundary of
// gVisor's. Both pass the same seeds without.
func TestPlantedBugs(t *testing.T) {
	bugs := []struct {
		bug   bug
		check string
	}{
		{lostRetransmission, simnet.CheckStuck},
		{wrongSACKEdge, simnet.CheckWire},
		{windowOverflow, simnet.CheckWire},
		{missedWakeUp, simnet.CheckStuck},
		{leak, simnet.CheckMemory},
	}
	const within = 200
	google := gvisor.Subject(gvisor.Options{})
	for _, subject := range []struct {
		name  string
		sound simnet.Subject
		plant func(bug) simnet.Subject
	}{
		{"reference", reference(noBug), reference},
		{"gVisor", google, func(b bug) simnet.Subject { return flawed(google, b) }},
	} {
		t.Run(subject.name, func(t *testing.T) {
			last := uint64(0)
			for _, b := range bugs {
				planted := subject.plant(b.bug)
				total := simnet.Seeds(0, simnet.Count(within), func(seed uint64) simnet.Scenario {
					return random(seed, planted, subject.sound)
				})
				if !total.Failed {
					t.Errorf("%s is not found within %d seeds: %v", planted.Name, within, total)
					continue
				}
				if total.Failure.Check != b.check {
					t.Errorf("%s: found by the check %q, want %q: %v", planted.Name, total.Failure.Check, b.check, total.Failure)
				}
				last = max(last, total.Seed)
				t.Logf("%s: found by seed %d: %v", planted.Name, total.Seed, total.Failure)
			}
			simnet.Check(t, 0, int(last)+1, func(seed uint64) simnet.Scenario {
				return random(seed, subject.sound, subject.sound)
			})
		})
	}
}

package simnet_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"subnetrouter/internal/simnet"
	"subnetrouter/internal/simnet/gvisor"
)

// hashes runs some seeds of each pair of subjects and returns their combined hashes.
func hashes() string {
	google, own := gvisor.Subject(gvisor.Options{RACK: true, CUBIC: true}), reference(noBug)
	var b strings.Builder
	for _, pair := range [][2]simnet.Subject{{own, own}, {google, google}, {own, google}} {
		total := simnet.Seeds(0, simnet.Count(scaled(80)), func(seed uint64) simnet.Scenario { return random(seed, pair[0], pair[1]) })
		fmt.Fprintf(&b, "%s to %s: %016x, %d packets\n", pair[0].Name, pair[1].Name, total.Hash, total.Packets)
	}
	return b.String()
}

// TestDeterminism: a seed leads to the same packets at the same times in each run, in this
// process and in another, whose maps and goroutines have another order.
func TestDeterminism(t *testing.T) {
	const child = "SIMNET_TEST_HASHES"
	first := hashes()
	if os.Getenv(child) != "" {
		fmt.Print(first)
		return
	}
	if second := hashes(); second != first {
		t.Errorf("two runs differ:\n%s\n%s", first, second)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeterminism$")
	cmd.Env = append(os.Environ(), child+"=1", "GOMAXPROCS=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.HasPrefix(string(out), first) {
		t.Errorf("another process differs:\n%s\n%s", first, out)
	}
}

// TestSeedsDiffer: the hash depends on the seed and on the subjects.
func TestSeedsDiffer(t *testing.T) {
	google, own := gvisor.Subject(gvisor.Options{}), reference(noBug)
	seen := map[uint64]bool{}
	for seed := range uint64(10) {
		for _, subject := range []simnet.Subject{google, own} {
			seen[simnet.Random(seed, subject, own).Run().Hash] = true
		}
	}
	if len(seen) != 20 {
		t.Errorf("%d different hashes of 20 runs", len(seen))
	}
}

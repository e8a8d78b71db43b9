package simnet_test

import (
	"fmt"
	"strings"
	"testing"

	"subnetrouter/internal/simnet"
)

// recorder is a test whose errors are not errors.
type recorder struct {
	testing.TB
	errors string
}

func (r *recorder) Helper()           {}
func (r *recorder) Error(args ...any) { r.errors += fmt.Sprintln(args...) }
func (r *recorder) Name() string      { return "TestBroken/some_case" }

// TestReport: a failing seed is printed with the command that replays it and with the packets;
// the replay runs only that seed, fails in the same way, and prints all packets.
func TestReport(t *testing.T) {
	t.Setenv(simnet.SeedVariable, "")
	broken := reference(lostRetransmission)
	check := func() (string, simnet.Totals) {
		r := &recorder{TB: t}
		total := simnet.Check(r, 0, 100, func(seed uint64) simnet.Scenario { return random(seed, broken, broken) })
		return r.errors, total
	}
	report, total := check()
	for _, part := range []string{
		fmt.Sprintf("seed %d, reference with lost retransmission to reference with lost retransmission: stuck: connection ", total.Seed),
		fmt.Sprintf("replay with SIMNET_SEED=%d go test -count=1 -run '^TestBroken$/^some_case$' ./internal/simnet\n", total.Seed),
		"A sends S    seq 0-1 (0 bytes) win ",
		"arrives at B: S ",
		"FAILURE: stuck",
	} {
		if !strings.Contains(report, part) {
			t.Errorf("the report lacks %q:\n%s", part, report)
		}
	}
	if lines := strings.Count(report, "\n"); lines > 100 {
		t.Errorf("the report has %d lines", lines)
	}
	t.Setenv(simnet.SeedVariable, fmt.Sprint(total.Seed))
	replay, again := check()
	if again.Seeds != 1 || again.Seed != total.Seed || *again.Failure != *total.Failure {
		t.Errorf("the replay ran %d seeds and failed with %v; before: %v", again.Seeds, again.Failure, total.Failure)
	}
	if strings.Contains(replay, "second run") || strings.Contains(replay, "lines, which") {
		t.Errorf("the replay is not complete:\n%s", replay)
	}
}

// TestNotDeterministic: the report mentions that a failure does not repeat.
func TestNotDeterministic(t *testing.T) {
	runs := 0
	unstable := simnet.Subject{Name: "unstable", New: func(c simnet.Config) simnet.Endpoint {
		runs++
		c.Seed += uint64(runs)
		return reference(wrongSACKEdge).New(c)
	}}
	s := random(3, unstable, unstable)
	r := s.Run()
	if r.Failure == nil {
		t.Fatal("the bug was not found")
	}
	r.Failure.Message += " but differently"
	if report := simnet.Report(t.Name(), 3, s, r.Failure, false); !strings.Contains(report, "not deterministic") {
		t.Error(report)
	}
}

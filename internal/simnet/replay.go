package simnet

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// SeedVariable is the environment variable with the one seed that [Check] and [Soak] run.
const SeedVariable = "SIMNET_SEED"

// Totals sums up the runs of several seeds.
type Totals struct {
	Result     // sums; of Peak, the maximum
	Seeds  int // that have been run
	Conns  int // their connections
	First  uint64
	Failed bool
	Seed   uint64 // the lowest that failed
}

// String returns the totals on one line.
func (t Totals) String() string {
	return fmt.Sprintf("%d seeds from %d, %d connections, %d packets (%d lost), %d MB read, %d resets, peak %d KiB buffered, %v of virtual time, %d known defects",
		t.Seeds, t.First, t.Conns, t.Packets, t.Lost, t.Bytes/1_000_000, t.Resets, t.Peak>>10, t.Virtual.Round(time.Second), t.Ignored)
}

// Seeds runs the scenarios of seeds from first on, some at once, until more returns false or
// one has failed. Which seed is reported does not depend on how many run at once.
func Seeds(first uint64, more func(done int) bool, scenario func(seed uint64) Scenario) Totals {
	var (
		mu    sync.Mutex
		total = Totals{First: first, Seen: Seen{}}
		next  = 0
		all   sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for {
				mu.Lock()
				if total.Failed || !more(next) {
					mu.Unlock()
					return
				}
				seed := first + uint64(next)
				next++
				mu.Unlock()
				s := scenario(seed)
				r := s.Run()
				mu.Lock()
				total.add(seed, &s, &r)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return total
}

func (t *Totals) add(seed uint64, s *Scenario, r *Result) {
	t.Seeds++
	t.Conns += len(s.Conns)
	t.Hash ^= mix(seed ^ r.Hash) // in any order
	t.Packets += r.Packets
	t.Lost += r.Lost
	t.Bytes += r.Bytes
	t.Resets += r.Resets
	t.Ignored += r.Ignored
	t.Peak = max(t.Peak, r.Peak)
	t.Virtual += r.Virtual
	for name, n := range r.Seen {
		t.Seen[name] += n
	}
	if r.Failure != nil && (!t.Failed || seed < t.Seed) {
		t.Failed, t.Seed, t.Failure = true, seed, r.Failure
	}
}

// Count returns a function for [Seeds] that allows n runs.
func Count(n int) func(int) bool { return func(done int) bool { return done < n } }

// Check runs the scenarios of n seeds from first on. It fails the test with a report if one of
// them fails. With SIMNET_SEED it runs only that seed.
func Check(t testing.TB, first uint64, n int, scenario func(seed uint64) Scenario) Totals {
	t.Helper()
	return check(t, first, Count(n), scenario)
}

// Soak runs the scenarios of new seeds for a time, and fails the test as [Check] does. With SIMNET_SEED it runs only that seed.
func Soak(t testing.TB, d time.Duration, scenario func(seed uint64) Scenario) Totals {
	t.Helper()
	start := time.Now()
	return check(t, rand.Uint64()>>1, func(int) bool { return time.Since(start) < d }, scenario)
}

func check(t testing.TB, first uint64, more func(int) bool, scenario func(seed uint64) Scenario) Totals {
	t.Helper()
	replay := os.Getenv(SeedVariable)
	if replay != "" {
		seed, err := strconv.ParseUint(replay, 10, 64)
		if err != nil {
			t.Fatalf("%s=%s: use a number that an earlier run has printed", SeedVariable, replay)
		}
		first, more = seed, Count(1)
	}
	total := Seeds(first, more, scenario)
	if total.Failed {
		t.Error(Report(t.Name(), total.Seed, scenario(total.Seed), total.Failure, replay != ""))
	}
	return total
}

// Report describes the failure of a seed: the command that replays it, and the packets of the
// connection, all of them or the first and last.
func Report(test string, seed uint64, s Scenario, f *Failure, all bool) string {
	const head, tail = 12, 60
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %s to %s: %v\n", seed, s.A.Name, s.B.Name, f)
	fmt.Fprintf(&b, "replay with %s=%d go test -count=1 -run '%s' %s\n", SeedVariable, seed, pattern(test), folder())
	r, trace := s.Trace(f.Conn)
	if r.Failure == nil || *r.Failure != *f {
		fmt.Fprintf(&b, "a second run ended differently, so a subject is not deterministic: %v\n", r.Failure)
	}
	fmt.Fprintf(&b, "packets of connection %d; times in seconds, sequence numbers relative to the SYN, windows not scaled:\n", f.Conn)
	for i, line := range trace {
		if !all && i == head && len(trace) > head+tail {
			fmt.Fprintf(&b, "  … %d lines, which a replay prints\n", len(trace)-head-tail)
		}
		if all || i < head || i >= len(trace)-tail {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// pattern returns the argument of -run for a test.
func pattern(test string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// folder returns the test's package relative to its module, where go test runs it.
func folder() string {
	dir, err := os.Getwd()
	for top := dir; err == nil; top = filepath.Dir(top) {
		if _, err := os.Stat(filepath.Join(top, "go.mod")); err == nil {
			rel, _ := filepath.Rel(top, dir)
			return "./" + filepath.ToSlash(rel)
		}
		if top == filepath.Dir(top) {
			break
		}
	}
	return "."
}

// Package processors adjusts the Go runtime's number of processors (GOMAXPROCS) to the load; by
// default it is the machine's.
//
// A packet passes through half a dozen goroutines. While a processor is idle, the runtime wakes
// a thread for it at each of these steps, and the thread then searches for work that is nearly
// done: a fifth to a quarter of a router's CPU time. On one processor a step is a function
// call, and bulk transfers lose nothing until that processor is saturated. Measured:
// docs/decisions/0010-processors.md.
package processors

import (
	"context"
	"math"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// sampleEvery is the interval at which the CPU time is read, which is a system call.
	sampleEvery = 250 * time.Millisecond
	// A processor is added when usage reaches growAt × n of n processors; above it,
	// goroutines wait long for a processor.
	growAt = 0.95
	// A processor is released when usage stays below releaseBelow × (n−1) for releaseAfter.
	releaseBelow = 0.7
	releaseAfter = 2 * time.Second
)

// Scaler adjusts GOMAXPROCS to the load of this process.
type Scaler struct {
	max     atomic.Int32
	cpuTime func() time.Duration // CPU time of the process so far
}

// New sets GOMAXPROCS to one, and returns a Scaler whose maximum is the value that it had: the
// CPUs of the machine or the limit of the control group if that is less, but at least two.
func New() *Scaler {
	s := &Scaler{cpuTime: cpuTime}
	s.max.Store(int32(runtime.GOMAXPROCS(1)))
	return s
}

// Limit bounds the processors to the task's vCPUs. More would only exhaust the CFS quota sooner
// and be throttled.
func (s *Scaler) Limit(vCPU float64) {
	if n := int32(math.Ceil(vCPU)); n > 0 && n < s.max.Load() {
		s.max.Store(n)
	}
}

// Run adjusts GOMAXPROCS until ctx ends.
func (s *Scaler) Run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	n, unneeded := runtime.GOMAXPROCS(0), time.Duration(0)
	usedBefore, before := s.cpuTime(), time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		used, at := s.cpuTime(), time.Now()
		passed := at.Sub(before)
		next, u := follow(n, int(s.max.Load()), float64(used-usedBefore)/float64(passed), unneeded, passed)
		if next != n {
			runtime.GOMAXPROCS(next)
		}
		n, unneeded = next, u
		usedBefore, before = used, at
	}
}

// follow returns the number of processors to have next, given the current number n, the
// maximum, the number in use on average over the time that passed, and how long one of them has
// been unneeded.
func follow(n, maximum int, used float64, unneeded, passed time.Duration) (next int, stillUnneeded time.Duration) {
	switch {
	case n > maximum:
		return maximum, 0
	case used >= growAt*float64(n):
		return min(n+1, maximum), 0
	case n == 1 || used >= releaseBelow*float64(n-1):
		return n, 0
	case unneeded+passed < releaseAfter:
		return n, unneeded + passed
	}
	return n - 1, 0
}

// cpuTime returns the CPU time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

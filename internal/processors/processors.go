// Package processors gives the Go runtime as many processors (GOMAXPROCS) as the load
// needs, instead of as many as the machine has.
//
// A packet passes through half a dozen goroutines. While a processor is idle, the
// runtime wakes a thread for it at each of these steps, which then searches for work
// that is nearly done: a fifth to a quarter of the CPU time of a router. On one
// processor a step is a function call, and bulk transfers lose nothing until that
// processor is full. Measured: docs/decisions/0010-processors.md.
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
	// every is how often the use is read. Each time costs a system call.
	every = 250 * time.Millisecond
	// full is the share of the processors in use at which there is one more: beyond
	// it, what waits for a processor waits long.
	full = 0.95
	// spare is the share of one processor less at which there is one less, once the
	// use has been below it for calm.
	spare = 0.7
	calm  = 2 * time.Second
)

// Scaler follows the load of this process.
type Scaler struct {
	most atomic.Int32
	used func() time.Duration // processor time so far
}

// New begins with one processor. The most that there will be is what the runtime found
// by itself: the CPUs of the machine, or the limit of the control group if that is less,
// which Go takes for two at least.
func New() *Scaler {
	s := &Scaler{used: cpuTime}
	s.most.Store(int32(runtime.GOMAXPROCS(1)))
	return s
}

// Limit bounds the processors to what the task may use, in vCPUs, where that is less
// than what is there. More could only spend it sooner, and then stand still.
func (s *Scaler) Limit(vCPU float64) {
	if n := int32(math.Ceil(vCPU)); n > 0 && n < s.most.Load() {
		s.most.Store(n)
	}
}

// Run follows the load until ctx ends.
func (s *Scaler) Run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	now, quiet := runtime.GOMAXPROCS(0), time.Duration(0)
	usedBefore, before := s.used(), time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		used, at := s.used(), time.Now()
		passed := at.Sub(before)
		next, q := follow(now, int(s.most.Load()), float64(used-usedBefore)/float64(passed), quiet, passed)
		if next != now {
			runtime.GOMAXPROCS(next)
		}
		now, quiet = next, q
		usedBefore, before = used, at
	}
}

// follow says how many processors there are to be, given how many there are and were in
// use for the time that passed, and for how long one of them was to spare.
func follow(now, most int, used float64, quiet, passed time.Duration) (next int, stillQuiet time.Duration) {
	switch {
	case now > most:
		return most, 0
	case used >= full*float64(now):
		return min(now+1, most), 0
	case now == 1 || used >= spare*float64(now-1):
		return now, 0
	case quiet+passed < calm:
		return now, quiet + passed
	}
	return now - 1, 0
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

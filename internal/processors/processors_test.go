package processors

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/testwait"
)

func TestFollow(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name     string
		n, max   int
		used     float64
		unneeded time.Duration
		next     int
		still    time.Duration
	}{
		{"idle", 1, 4, 0, 0, 1, 0},
		{"not yet full", 1, 4, 0.94, 0, 1, 0},
		{"full", 1, 4, 0.95, 0, 2, 0},
		{"full, at the maximum", 2, 2, 2.1, 0, 2, 0},
		{"threads in system calls beyond the processors", 1, 4, 1.7, 0, 2, 0},
		{"two needed", 2, 4, 0.7, 1900 * ms, 2, 0},
		{"one unneeded, just now", 2, 4, 0.69, 0, 2, 50 * ms},
		{"one unneeded, a while", 2, 4, 0.69, 1900 * ms, 2, 1950 * ms},
		{"one unneeded, long enough", 2, 4, 0.69, 1950 * ms, 1, 0},
		{"released one at a time", 4, 4, 0, 1950 * ms, 3, 0},
		{"maximum lowered below the current number", 4, 1, 3.9, 0, 1, 0},
	} {
		next, still := follow(c.n, c.max, c.used, c.unneeded, 50*ms)
		if next != c.next || still != c.still {
			t.Errorf("%s: follow(%d, %d, %v, %v) = %d, %v; want %d, %v", c.name, c.n, c.max, c.used, c.unneeded, next, still, c.next, c.still)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		found int32
		vCPU  float64
		max   int32
	}{
		{4, 0, 4}, // unknown
		{4, 0.25, 1},
		{4, 1, 1},
		{4, 1.5, 2},
		{4, 8, 4},
	} {
		s := &Scaler{}
		s.max.Store(c.found)
		if s.Limit(c.vCPU); s.max.Load() != c.max {
			t.Errorf("of %d processors, a task of %v vCPU: at most %d, want %d", c.found, c.vCPU, s.max.Load(), c.max)
		}
	}
}

// TestScaler runs a process that uses one and a half processors, then hardly any. The process
// is simulated: on a busy machine a real one gets less than it needs.
func TestScaler(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	runtime.GOMAXPROCS(2)
	synctest.Test(t, func(t *testing.T) {
		p := &process{at: time.Now()}
		s := New()
		s.cpuTime = p.time
		if n := runtime.GOMAXPROCS(0); n != 1 {
			t.Fatalf("New set %d processors, want 1", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		defer func() { cancel(); <-ended }()

		for _, step := range []struct {
			needs float64
			after time.Duration
			want  int
		}{
			{needs: 0.9, after: time.Minute, want: 1},
			{needs: 1.5, after: 2 * sampleEvery, want: 2},
			{needs: 1.5, after: time.Minute, want: 2},
			{needs: 0.1, after: releaseAfter - sampleEvery, want: 2},
			{needs: 0.1, after: 3 * sampleEvery, want: 1},
		} {
			p.run(step.needs)
			time.Sleep(step.after)
			synctest.Wait()
			if n := runtime.GOMAXPROCS(0); n != step.want {
				t.Errorf("%d processors after %v of a process that needs %v, want %d", n, step.after, step.needs, step.want)
			}
		}
	})
}

// process is a simulated process that needs a number of processors and gets at most GOMAXPROCS.
type process struct {
	mu    sync.Mutex
	needs float64
	used  time.Duration
	at    time.Time // time up to which used counts
}

func (p *process) time() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.used += time.Duration(float64(now.Sub(p.at)) * min(p.needs, float64(runtime.GOMAXPROCS(0))))
	p.at = now
	return p.used
}

func (p *process) run(needs float64) {
	p.time()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.needs = needs
}

// TestCPUTime uses some CPU time, on a machine that may be slow to provide it.
func TestCPUTime(t *testing.T) {
	before := cpuTime()
	testwait.Until(t, "50 ms of CPU time", func() error {
		for range 1_000_000 { //nolint:revive // burns CPU time
		}
		if used := cpuTime() - before; used < 50*time.Millisecond {
			return fmt.Errorf("used %v", used)
		}
		return nil
	})
}

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
		what      string
		now, most int
		used      float64
		quiet     time.Duration
		next      int
		still     time.Duration
	}{
		{"idle", 1, 4, 0, 0, 1, 0},
		{"not yet full", 1, 4, 0.94, 0, 1, 0},
		{"full", 1, 4, 0.95, 0, 2, 0},
		{"full, and no more to be had", 2, 2, 2.1, 0, 2, 0},
		{"threads in system calls beyond the processors", 1, 4, 1.7, 0, 2, 0},
		{"two are needed", 2, 4, 0.7, 1900 * ms, 2, 0},
		{"one to spare, for now", 2, 4, 0.69, 0, 2, 50 * ms},
		{"one to spare, still", 2, 4, 0.69, 1900 * ms, 2, 1950 * ms},
		{"one to spare, for long", 2, 4, 0.69, 1950 * ms, 1, 0},
		{"one less at a time", 4, 4, 0, 1950 * ms, 3, 0},
		{"the task may use less than was thought", 4, 1, 3.9, 0, 1, 0},
	} {
		next, still := follow(c.now, c.most, c.used, c.quiet, 50*ms)
		if next != c.next || still != c.still {
			t.Errorf("%s: follow(%d, %d, %v, %v) = %d, %v; want %d, %v", c.what, c.now, c.most, c.used, c.quiet, next, still, c.next, c.still)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		found int32
		vCPU  float64
		most  int32
	}{
		{4, 0, 4}, // not known
		{4, 0.25, 1},
		{4, 1, 1},
		{4, 1.5, 2},
		{4, 8, 4},
	} {
		s := &Scaler{}
		s.most.Store(c.found)
		if s.Limit(c.vCPU); s.most.Load() != c.most {
			t.Errorf("%d found, a task of %v vCPU: at most %d, want %d", c.found, c.vCPU, s.most.Load(), c.most)
		}
	}
}

// TestScaler gives the scaler a process that uses one and a half processors, and then
// rests. The process is simulated: on a busy machine a real one gets less than it wants.
func TestScaler(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	runtime.GOMAXPROCS(2)
	synctest.Test(t, func(t *testing.T) {
		p := &process{at: time.Now()}
		s := New()
		s.used = p.time
		if n := runtime.GOMAXPROCS(0); n != 1 {
			t.Fatalf("begins with %d processors, want 1", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		defer func() { cancel(); <-ended }()

		for _, step := range []struct {
			wants float64
			after time.Duration
			want  int
		}{
			{wants: 0.9, after: time.Minute, want: 1},
			{wants: 1.5, after: 2 * every, want: 2},
			{wants: 1.5, after: time.Minute, want: 2},
			{wants: 0.1, after: calm - every, want: 2},
			{wants: 0.1, after: 3 * every, want: 1},
		} {
			p.run(step.wants)
			time.Sleep(step.after)
			synctest.Wait()
			if n := runtime.GOMAXPROCS(0); n != step.want {
				t.Errorf("%d processors after %v of a process that wants %v, want %d", n, step.after, step.wants, step.want)
			}
		}
	})
}

// process is a simulated one that wants some processors and gets those there are.
type process struct {
	mu    sync.Mutex
	wants float64
	used  time.Duration
	at    time.Time // up to which used counts
}

func (p *process) time() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.used += time.Duration(float64(now.Sub(p.at)) * min(p.wants, float64(runtime.GOMAXPROCS(0))))
	p.at = now
	return p.used
}

func (p *process) run(wants float64) {
	p.time()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wants = wants
}

// TestProcessorTime burns some, however long the machine takes to give it.
func TestProcessorTime(t *testing.T) {
	before := cpuTime()
	testwait.Until(t, "50 ms of processor time", func() error {
		for range 1_000_000 { //nolint:revive // the point of it
		}
		if used := cpuTime() - before; used < 50*time.Millisecond {
			return fmt.Errorf("used %v", used)
		}
		return nil
	})
}

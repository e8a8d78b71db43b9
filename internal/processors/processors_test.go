package processors

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
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

func TestCalm(t *testing.T) {
	for _, c := range []struct{ godebug, want string }{
		{"", "schedtrace=2147483647"},
		{"netdns=go,madvdontneed=1", "netdns=go,madvdontneed=1,schedtrace=2147483647"},
		{"netdns=go,", "netdns=go,schedtrace=2147483647"},
		{"netdns=go,schedtrace=0", "netdns=go,schedtrace=0"},
	} {
		got := Calm(c.godebug)
		if got != c.want {
			t.Errorf("Calm(%q) = %q, want %q", c.godebug, got, c.want)
		}
		if again := Calm(got); again != got {
			t.Errorf("a second time, Calm(%q) = %q", got, again)
		}
	}
}

// TestScaler burns processor time, and then does not.
func TestScaler(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("one CPU: there is nothing to scale to")
	}
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	runtime.GOMAXPROCS(2)
	s := New()
	if n := runtime.GOMAXPROCS(0); n != 1 {
		t.Fatalf("begins with %d processors, want 1", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	defer func() { cancel(); <-ended }()

	var burning atomic.Bool
	burning.Store(true)
	go func() {
		for burning.Load() { //nolint:revive // the point of it
		}
	}()
	await(t, 2, "while a goroutine burns all that one processor has")
	burning.Store(false)
	await(t, 1, "when all is quiet again")
}

func await(t *testing.T, n int, when string) {
	t.Helper()
	// The machine may have little to give for a while.
	for deadline := time.Now().Add(time.Minute); runtime.GOMAXPROCS(0) != n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d processors %s, want %d", runtime.GOMAXPROCS(0), when, n)
		}
	}
}

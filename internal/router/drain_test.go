package router

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// timeline is traffic that depends on the time since its start.
type timeline struct {
	flows, busy, requests func(at time.Duration) bool
	succeeded             func(at time.Duration) bool
}

func until(end time.Duration) func(time.Duration) bool {
	return func(at time.Duration) bool { return at < end }
}

func between(begin, end time.Duration) func(time.Duration) bool {
	return func(at time.Duration) bool { return begin <= at && at < end }
}

func never(time.Duration) bool { return false }

func (l timeline) traffic() traffic {
	start := time.Now()
	count := func(f func(time.Duration) bool) func() int {
		return func() int {
			if f(time.Since(start)) {
				return 1
			}
			return 0
		}
	}
	busy := count(l.busy)
	return traffic{flows: count(l.flows), busy: busy, requests: count(l.requests), idle: func(ctx context.Context) bool {
		for busy() > 0 {
			select {
			case <-ctx.Done():
				return false
			case <-time.After(time.Millisecond):
			}
		}
		return true
	}}
}

// TestDrainAwaitsRequests: a drain without another router waits for requests, also for those that begin while it waits for idle
// flows and that think for longer than a flow without traffic is busy.
func TestDrainAwaitsRequests(t *testing.T) {
	const limit = 15 * time.Second
	for _, c := range []struct {
		name     string
		busy     func(time.Duration) bool
		requests func(time.Duration) bool
		want     bool
		after    time.Duration
	}{
		{"nothing is open", never, never, true, 0},
		{"flows only", until(2 * time.Second), never, true, 2 * time.Second},
		{"a request that thinks", until(2 * time.Second), until(8 * time.Second), true, 8 * time.Second},
		{"a request that begins during the wait", until(3 * time.Second), between(time.Second, 9*time.Second), true, 9 * time.Second},
		{"an answer that takes time", func(at time.Duration) bool { return at < time.Second || 4*time.Second <= at && at < 6*time.Second }, until(5 * time.Second), true, 6 * time.Second},
		{"a request without end", until(time.Second), until(time.Hour), false, limit},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			start := time.Now()
			got := timeline{flows: until(time.Hour), busy: c.busy, requests: c.requests}.traffic().awaitQuiet(ctx)
			if after := time.Since(start); got != c.want || after < c.after || after > c.after+100*time.Millisecond {
				t.Errorf("%s: %t after %v, want %t after %v", c.name, got, after, c.want, c.after)
			}
		})
	}
}

// TestHandOverAwaitsRequests: if no other router receives the routes, open requests are cut after half of the drain timeout at the
// earliest. Otherwise all flows have until the drain's end.
func TestHandOverAwaitsRequests(t *testing.T) {
	const limit, end = 15 * time.Second, 25 * time.Second
	for _, c := range []struct {
		name  string
		line  timeline
		want  bool
		after time.Duration
	}{
		{"no flows", timeline{never, never, never, never}, false, propagation},
		{"flows that end", timeline{until(3 * time.Second), never, never, never}, false, 3 * time.Second},
		{"no successor", timeline{until(time.Hour), never, never, never}, true, successionWait},
		{"no successor, and a request", timeline{until(time.Hour), never, until(9 * time.Second), never}, true, 9 * time.Second},
		{"no successor, and a request without end", timeline{until(time.Hour), never, until(time.Hour), never}, true, limit},
		{"no successor, and an answer on its way", timeline{until(time.Hour), until(7 * time.Second), until(6 * time.Second), never}, true, 7 * time.Second},
		{"a successor", timeline{until(20 * time.Second), never, until(20 * time.Second), until(time.Second)}, false, 20 * time.Second},
		{"a late successor", timeline{until(time.Hour), never, until(9 * time.Second), between(8*time.Second, time.Hour)}, false, end},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), end)
			defer cancel()
			start := time.Now()
			got, _ := c.line.traffic().awaitEnd(ctx, func() bool { return c.line.succeeded(time.Since(start)) }, limit)
			if after := time.Since(start); got != c.want || after < c.after || after > c.after+100*time.Millisecond {
				t.Errorf("%s: orphaned %t after %v, want %t after %v", c.name, got, after, c.want, c.after)
			}
		})
	}
}

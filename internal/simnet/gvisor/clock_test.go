package gvisor

import (
	"slices"
	"testing"
	"time"
)

// TestClock: timers run in the order of their times, then in the order in which they were set,
// and only when the simulator asks for them.
func TestClock(t *testing.T) {
	var c clock
	var ran []string
	timer := func(name string, d time.Duration) interface {
		Stop() bool
		Reset(time.Duration)
	} {
		return c.AfterFunc(d, func() { ran = append(ran, name) })
	}
	timer("later", 3*time.Second)
	timer("first", time.Second)
	stopped := timer("stopped", time.Second)
	moved := timer("moved", time.Second)
	timer("second", time.Second)
	timer("at once", 0)
	moved.Reset(time.Second) // behind "second"
	if !stopped.Stop() || stopped.Stop() {
		t.Error("a set timer was not stopped, or a stopped one was")
	}
	if at, ok := c.deadline(); !ok || at != 0 {
		t.Errorf("deadline %v, %v; want 0s", at, ok)
	}
	for _, step := range []struct {
		now  time.Duration
		want []string
	}{
		{0, []string{"at once"}},
		{2 * time.Second, []string{"first", "second", "moved"}},
		{3*time.Second - 1, nil},
		{3 * time.Second, []string{"later"}},
	} {
		ran = nil
		for f := c.next(step.now); f != nil; f = c.next(step.now) {
			f()
		}
		if !slices.Equal(ran, step.want) {
			t.Errorf("at %v: %q ran, want %q", step.now, ran, step.want)
		}
	}
	if _, ok := c.deadline(); ok {
		t.Error("a timer is left")
	}
	c.set(5 * time.Second)
	if got := c.Now().Sub(start); got != 5*time.Second {
		t.Errorf("the time of day is %v after the start", got)
	}
	c.set(4 * time.Second)
	if got := c.Now().Sub(start); got != 5*time.Second {
		t.Errorf("the clock went back to %v", got)
	}
}

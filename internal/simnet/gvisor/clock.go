package gvisor

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// clock is a [tcpip.Clock] whose time is set by the simulator. A timer that is due waits until
// the simulator takes its function with next: gVisor sets timers with a delay of zero while it
// holds locks that their functions need.
type clock struct {
	mu     sync.Mutex // gVisor's goroutines set timers
	now    time.Duration
	seq    uint64
	timers []*timer // that are set; a few
}

// start is the time of day at which simulations begin.
var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

type timer struct {
	clock *clock
	f     func()
	at    time.Duration
	seq   uint64 // order among timers that are due at one time
	set   bool
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return start.Add(c.now)
}

func (c *clock) NowMonotonic() tcpip.MonotonicTime {
	c.mu.Lock()
	defer c.mu.Unlock()
	return tcpip.MonotonicTime{}.Add(c.now)
}

func (c *clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	t := &timer{clock: c, f: f}
	t.Reset(d)
	return t
}

func (t *timer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	return t.clock.remove(t)
}

func (t *timer) Reset(d time.Duration) {
	c := t.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(t)
	c.seq++
	t.at, t.seq, t.set = c.now+max(d, 0), c.seq, true
	c.timers = append(c.timers, t)
}

// remove needs mu.
func (c *clock) remove(t *timer) bool {
	if !t.set {
		return false
	}
	t.set = false
	for i, other := range c.timers {
		if other == t {
			last := len(c.timers) - 1
			c.timers[i] = c.timers[last]
			c.timers = c.timers[:last]
			break
		}
	}
	return true
}

// first needs mu.
func (c *clock) first() *timer {
	var first *timer
	for _, t := range c.timers {
		if first == nil || t.at < first.at || t.at == first.at && t.seq < first.seq {
			first = t
		}
	}
	return first
}

func (c *clock) deadline() (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.first(); t != nil {
		return t.at, true
	}
	return 0, false
}

// set moves the clock, but starts no timer.
func (c *clock) set(now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = max(c.now, now)
}

// next removes the first timer that is due at now, sets the clock to its time, and returns its
// function, or nil if there is none.
func (c *clock) next(now time.Duration) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.first()
	if t == nil || t.at > now {
		return nil
	}
	c.remove(t)
	c.now = max(c.now, t.at)
	return t.f
}

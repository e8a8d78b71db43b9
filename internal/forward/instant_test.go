package forward

import (
	"testing"
	"time"
	"unsafe"
)

// stepped is t as it would have been read with the wall clock set by d: its monotonic
// reading stays. The layout is that of package time: 33 bits of seconds above 30 bits of
// nanoseconds, below the mark of a monotonic reading.
func stepped(t *testing.T, at time.Time, d time.Duration) time.Time {
	t.Helper()
	wall := (*uint64)(unsafe.Pointer(&at))
	before := at
	*wall += uint64(int64(d/time.Second)) << 30
	if got := at.Round(0).Sub(before.Round(0)); got != d || at.Sub(before) != 0 {
		t.Fatalf("this Go keeps time differently: %v and %v", got, at.Sub(before))
	}
	return at
}

// TestClockSteps: a wall clock that is set an hour on or back ends no flow, and keeps none.
func TestClockSteps(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		var u activity
		u.fromClient()
		if now := stepped(t, time.Now(), step); !u.busy(now) {
			t.Errorf("after a step of %v a client that waits for its answer is said to rest", step)
		}
		if later := stepped(t, time.Now().Add(2*busyAfterRequest), step); u.busy(later) {
			t.Errorf("after a step of %v a client that waits for nothing is said to be busy", step)
		}
		u.fromTarget()
		if later := stepped(t, time.Now().Add(2*busyAfterAnswer), step); u.busy(later) {
			t.Errorf("after a step of %v a flow that was answered is said to be busy", step)
		}
		if idle := instant(stepped(t, time.Now(), step)) - u.at(); idle < 0 || idle > int64(time.Minute) {
			t.Errorf("after a step of %v a flow is idle for %v", step, time.Duration(idle))
		}
	}
}

package forward

import (
	"testing"
	"time"
	"unsafe"
)

// stepped returns at as it would be read with the wall clock set by d; its monotonic reading is
// unchanged. The layout is that of package time: 33 bits of seconds above 30 bits of
// nanoseconds, below the flag of a monotonic reading.
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

// TestClockSteps: setting the wall clock by an hour in either direction neither ends flows nor
// keeps them open.
func TestClockSteps(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		var u activity
		u.fromClient()
		if now := stepped(t, time.Now(), step); !u.busy(now) {
			t.Errorf("after a step of %v: not busy although a reply is due", step)
		}
		if later := stepped(t, time.Now().Add(2*busyAfterRequest), step); u.busy(later) {
			t.Errorf("after a step of %v: busy although no reply is due", step)
		}
		u.fromTarget()
		if later := stepped(t, time.Now().Add(2*busyAfterAnswer), step); u.busy(later) {
			t.Errorf("after a step of %v: busy although the flow was answered", step)
		}
		if idle := instant(stepped(t, time.Now(), step)) - u.at(); idle < 0 || idle > int64(time.Minute) {
			t.Errorf("after a step of %v: idle for %v", step, time.Duration(idle))
		}
	}
}

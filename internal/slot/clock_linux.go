package slot

import (
	"context"
	"time"

	"subnetrouter/internal/backoff"

	"golang.org/x/sys/unix"
)

// SystemClock is the clock of the machine.
type SystemClock struct{}

// Now implements [Clock]. The monotonic clock of package time stops while the machine is
// suspended; this one does not.
func (SystemClock) Now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("reading CLOCK_BOOTTIME: " + err.Error()) // Linux has had it since 2.6.39
	}
	return time.Duration(t.Nano())
}

// Wall implements [Clock].
func (SystemClock) Wall() time.Time { return time.Now().Round(0) }

// Sleep implements [Clock].
func (SystemClock) Sleep(ctx context.Context, d time.Duration) bool { return backoff.Sleep(ctx, d) }

//go:build !linux

package slot

import (
	"context"
	"time"

	"subnetrouter/internal/backoff"
)

// SystemClock is the clock of the machine. Outside Linux, where the router only runs in
// development, Now stops while the machine is suspended, so that only Wall detects the end of a
// lease then.
type SystemClock struct{}

var start = time.Now()

// Now implements [Clock].
func (SystemClock) Now() time.Duration { return time.Since(start) }

// Wall implements [Clock].
func (SystemClock) Wall() time.Time { return time.Now().Round(0) }

// Sleep implements [Clock].
func (SystemClock) Sleep(ctx context.Context, d time.Duration) bool { return backoff.Sleep(ctx, d) }

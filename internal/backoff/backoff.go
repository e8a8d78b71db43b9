// Package backoff computes the pauses between attempts, with jitter so that routers that
// were started together do not call at the same time.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// The jitter of a pause as a share of it: a tenth for calls at a regular interval, a
// quarter for retries.
const (
	Interval = 0.10
	Retry    = 0.25
)

// Jitter returns d, more or less by at most the given share of it.
func Jitter(d time.Duration, share float64) time.Duration {
	spread := time.Duration(share * float64(d))
	if spread <= 0 {
		return d
	}
	return d - spread + rand.N(2*spread)
}

// Backoff computes pauses that double from First up to Max.
type Backoff struct {
	First, Max time.Duration
	Share      float64       // of jitter in each pause: see [Jitter]
	next       time.Duration // before jitter; 0 means First
}

// Next returns the pause before the next attempt.
func (b *Backoff) Next() time.Duration {
	d := min(max(b.next, b.First), b.Max)
	b.next = min(2*d, b.Max)
	return Jitter(d, b.Share)
}

// Reset makes the next pause start from First again, after a success.
func (b *Backoff) Reset() { b.next = 0 }

// Sleep waits for d. It returns false if ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

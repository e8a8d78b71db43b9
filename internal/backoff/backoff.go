// Package backoff gives the pauses between tries, spread so that routers that were
// started together do not call together.
package backoff

import (
	"math/rand/v2"
	"time"
)

// The shares by which pauses are spread: a tenth for what repeats at a regular
// interval, a quarter for retries.
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

// Backoff gives pauses that double from First up to Most.
type Backoff struct {
	First, Most time.Duration
	Share       float64       // the jitter of each pause, as of [Jitter]
	next        time.Duration // 0 means First
}

// Next returns the pause before the next try.
func (b *Backoff) Next() time.Duration {
	d := min(max(b.next, b.First), b.Most)
	b.next = min(2*d, b.Most)
	return Jitter(d, b.Share)
}

// Reset makes the next pause the first one again, after a success.
func (b *Backoff) Reset() { b.next = 0 }

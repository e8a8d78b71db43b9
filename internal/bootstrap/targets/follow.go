package targets

import (
	"context"
	"sync"
	"time"

	"subnetrouter/internal/access"
	"subnetrouter/internal/backoff"
)

// Follow configures a [Follower].
type Follow struct {
	// Every is the time between two look-ups, with a jitter of 10 %.
	Every time.Duration
	// Apply is called after each successful look-up, once Now returns its result.
	Apply func()
	// Around wraps each look-up, to count and time it.
	Around func(look func() error) error
}

// After a failure the pause starts with firstPause and doubles, up to the shorter of maxPause and the
// usual interval.
const (
	firstPause = time.Second
	maxPause   = time.Minute
)

// Follower looks up targets repeatedly. A failed look-up takes nothing away.
type Follower struct {
	finder *Finder
	follow Follow

	mu  sync.Mutex // covers now; not held during a look-up
	now Following
}

// Following is the state of a [Follower].
type Following struct {
	Inventory *access.Inventory // of the last successful look-up; nil before
	Found     time.Time         // of that look-up; zero means none
	Err       error             // of the newest look-up; nil if it succeeded
}

// Follow returns a Follower; the caller runs it.
func (f *Finder) Follow(how Follow) *Follower { return &Follower{finder: f, follow: how} }

// Now returns the current state.
func (w *Follower) Now() Following {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// Run looks up targets until ctx ends. It must be called once only.
func (w *Follower) Run(ctx context.Context) {
	retries := backoff.Backoff{First: firstPause, Max: maxPause}
	for {
		err := w.follow.Around(func() error { return w.look(ctx) })
		if ctx.Err() != nil {
			return
		}
		wait := w.follow.Every
		if err != nil {
			wait = min(retries.Next(), wait)
		} else {
			retries.Reset()
			w.follow.Apply()
		}
		if !backoff.Sleep(ctx, backoff.Jitter(wait, backoff.Interval)) {
			return
		}
	}
}

func (w *Follower) look(ctx context.Context) error {
	inv, err := w.finder.Find(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now.Err = err; err == nil {
		w.now.Inventory, w.now.Found = inv, time.Now()
	}
	return err
}

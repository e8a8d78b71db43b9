package routesource

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/routes"
)

// Follow says how to keep routes up to date.
type Follow struct {
	// Every is the time between two look-ups, give or take 10 %: routers that
	// were started together drift apart.
	Every time.Duration
	// Apply gets the routes after each successful look-up, changed or not.
	Apply func([]netip.Prefix)
	// Found gets the same before Apply does; nil drops it.
	Found func(Routes)
	// Around runs one look-up, so that it can be counted and timed; nil just runs it.
	Around func(look func() error) error
}

// After a failure the pause starts with firstPause and doubles, up to the shorter
// of mostPause and the usual interval: EC2 grants an account tens of calls a
// second, and one look-up makes a handful.
const (
	firstPause = time.Second
	maxPause   = time.Minute
)

// Follower looks routes up repeatedly. A route that a look-up misses stays until
// the next one misses it, too, and a failed look-up takes nothing away.
type Follower struct {
	finder *Finder
	follow Follow

	mu   sync.Mutex
	now  Following
	last []Route // kept by the last success, missing ones included
}

// Following is the state of a [Follower].
type Following struct {
	Routes Routes    // the last good ones
	Found  time.Time // when they were found; zero is never
	Err    error     // of the last look-up; nil if it was a success
	Since  time.Time // of the first failure in a row
}

// Follow returns a Follower that does not run yet.
func (f *Finder) Follow(how Follow) *Follower {
	if how.Around == nil {
		how.Around = func(look func() error) error { return look() }
	}
	return &Follower{finder: f, follow: how}
}

// Now returns the current state.
func (w *Follower) Now() Following {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// Run looks routes up until ctx ends.
func (w *Follower) Run(ctx context.Context) {
	retries := backoff.Backoff{First: firstPause, Max: maxPause}
	for {
		err := w.follow.Around(func() error { return w.look(ctx) })
		if ctx.Err() != nil {
			return
		}
		wait := w.follow.Every
		if err == nil {
			retries.Reset()
		} else {
			wait = min(retries.Next(), w.follow.Every)
		}
		select {
		case <-time.After(backoff.Jitter(wait, backoff.Interval)):
		case <-ctx.Done():
			return
		}
	}
}

// look makes one look-up and applies it.
func (w *Follower) look(ctx context.Context) error {
	f, err := w.finder.find(ctx)
	var found Routes
	if err == nil {
		f.routes = w.withMissing(f.routes)
		found, err = w.finder.choose(ctx, f)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.mu.Lock()
	before := w.now
	w.now.Err = err
	switch {
	case err == nil:
		w.now = Following{Routes: found, Found: time.Now()}
		w.last = found.Explain
	case before.Err == nil:
		w.now.Since = time.Now()
	}
	after := w.now
	w.mu.Unlock()

	logChange(w.finder.config.Logger, before, after)
	if err != nil {
		return err
	}
	if w.follow.Found != nil {
		w.follow.Found(found)
	}
	w.follow.Apply(found.Advertise)
	return nil
}

// withMissing adds the routes that this look-up is the first to miss.
func (w *Follower) withMissing(found []Route) []Route {
	there := map[netip.Prefix]bool{}
	for _, r := range found {
		there[r.Prefix] = true
	}
	for _, r := range w.last {
		if there[r.Prefix] || r.missing {
			continue
		}
		w.finder.config.Logger.Warn("route missing; kept until the next look-up misses it, too", "prefix", r.Prefix.String(), "source", r.Source)
		r.missing = true
		found = append(found, r)
	}
	return found
}

// logChange logs what changed; of many routes only the first, as a prefix list may
// bring a thousand.
func logChange(l *slog.Logger, before, after Following) {
	const most = 50
	switch {
	case after.Err != nil && (before.Err == nil || before.Err.Error() != after.Err.Error()):
		l.Error("looking up routes failed; keeping what is advertised", "err", after.Err)
	case before.Err != nil && after.Err == nil:
		l.Info("looking up routes works again", "failed_for", time.Since(before.Since).Round(time.Second).String())
	}
	if after.Err != nil {
		return
	}
	added, removed := routes.Diff(before.Routes.Advertise, after.Routes.Advertise)
	for _, p := range added[:min(most, len(added))] {
		l.Info("route added", "prefix", p.String(), "source", after.Routes.SourceOf(p))
	}
	for _, p := range removed[:min(most, len(removed))] {
		l.Info("route removed", "prefix", p.String(), "source", before.Routes.SourceOf(p))
	}
	if len(added) > most || len(removed) > most {
		l.Info("routes changed", "added", len(added), "removed", len(removed))
	}
	for _, r := range after.Routes.Refused {
		if !slices.Contains(before.Routes.Refused, r) {
			l.Warn("route refused", "prefix", r.Prefix.String(), "source", r.Source, "reason", r.Reason)
		}
	}
	for _, note := range after.Routes.Notes {
		if !slices.Contains(before.Routes.Notes, note) {
			l.Warn("route with a catch", "note", note)
		}
	}
}

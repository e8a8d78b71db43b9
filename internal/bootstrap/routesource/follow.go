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

// Follow configures a [Follower].
type Follow struct {
	// Every is the time between two look-ups, with a jitter of 10 % so that routers
	// that were started together drift apart.
	Every time.Duration
	// Apply is called with the routes after each successful look-up, changed or not.
	Apply func([]netip.Prefix)
	// Found is called before Apply, with the whole result; it may be nil.
	Found func(Routes)
	// Around wraps each look-up, to count and time it; nil means no wrapper.
	Around func(look func() error) error
}

// After a failure the pause starts with firstPause and doubles, up to the shorter
// of maxPause and the usual interval: EC2 allows an account tens of calls per second, and
// one look-up makes about five.
const (
	firstPause = time.Second
	maxPause   = time.Minute
)

// Follower looks up routes repeatedly. It keeps a route that a look-up misses until the next
// one misses it, too. A failed look-up withdraws nothing.
type Follower struct {
	finder *Finder
	follow Follow

	mu   sync.Mutex // covers now; not held during a look-up
	now  Following
	last []Route // chosen by the last success, missing ones included; only Run uses it
}

// Following is the state of a [Follower].
type Following struct {
	Routes Routes    // of the last successful look-up
	Found  time.Time // of that look-up; zero means none
	Err    error     // of the newest look-up; nil if it succeeded
	Since  time.Time // of the first in the current row of failures
}

// Follow returns a Follower; the caller runs it.
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

// Run looks up routes until ctx ends. It must be called once only.
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
		if !backoff.Sleep(ctx, backoff.Jitter(wait, backoff.Interval)) {
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

// withMissing adds the routes that the last look-up found and this one does not.
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

// logChange logs the changes; of many routes only the first, as a prefix list may add a
// thousand.
func logChange(l *slog.Logger, before, after Following) {
	const maxLogged = 50
	switch {
	case after.Err != nil && (before.Err == nil || before.Err.Error() != after.Err.Error()):
		l.Error("looking up routes failed; keeping the advertised routes", "err", after.Err)
	case before.Err != nil && after.Err == nil:
		l.Info("looking up routes works again", "failed_for", time.Since(before.Since).Round(time.Second).String())
	}
	if after.Err != nil {
		return
	}
	added, removed := routes.Diff(before.Routes.Advertise, after.Routes.Advertise)
	for _, p := range added[:min(maxLogged, len(added))] {
		l.Info("route added", "prefix", p.String(), "source", after.Routes.SourceOf(p))
	}
	for _, p := range removed[:min(maxLogged, len(removed))] {
		l.Info("route removed", "prefix", p.String(), "source", before.Routes.SourceOf(p))
	}
	if len(added) > maxLogged || len(removed) > maxLogged {
		l.Info("routes changed", "added", len(added), "removed", len(removed))
	}
	for _, r := range after.Routes.Refused {
		if !slices.Contains(before.Routes.Refused, r) {
			l.Warn("route refused", "prefix", r.Prefix.String(), "source", r.Source, "reason", r.Reason)
		}
	}
	for _, note := range after.Routes.Notes {
		if !slices.Contains(before.Routes.Notes, note) {
			l.Warn("advertised route has a caveat", "note", note)
		}
	}
}

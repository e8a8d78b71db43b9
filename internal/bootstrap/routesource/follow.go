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
	// that were started together drift apart. Names are looked up more often if their TTLs
	// are shorter, down to minNameInterval.
	Every time.Duration
	// Apply is called with the routes after each successful look-up, changed or not.
	Apply func([]netip.Prefix)
	// Found is called before Apply, with the whole result; it may be nil.
	Found func(Routes)
	// Around wraps each look-up, to count and time it; nil means no wrapper.
	Around func(look func() error) error
	// InUse reports whether a flow goes to an address, whose route is then kept although
	// its name no longer has it; nil means that none does.
	InUse func(netip.Addr) bool
}

// After a failure the pause starts with firstPause and doubles, up to the shorter
// of maxPause and the usual interval: EC2 allows an account tens of calls per second, and
// one look-up makes about five.
const (
	firstPause = time.Second
	maxPause   = time.Minute
)

// Follower looks up routes repeatedly. It keeps a route that a look-up misses until the next
// one misses it, too, and that of a name until no flow uses it, either. A failed look-up
// withdraws nothing.
type Follower struct {
	finder *Finder
	follow Follow

	mu  sync.Mutex // covers now; not held during a look-up
	now Following

	// Only Run uses the fields below.
	last    []Route       // chosen by the last success, missing ones included
	sources finding       // of the last successful look-up of the sources
	looked  time.Time     // after that look-up; zero means none
	every   time.Duration // from then to the next one; before it, only names are looked up
	again   time.Duration // at which the names want to be looked up; 0 means with the sources
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
	if how.InUse == nil {
		how.InUse = func(netip.Addr) bool { return false }
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
		whole := w.looked.IsZero() || time.Since(w.looked) >= w.every
		err := w.follow.Around(func() error { return w.look(ctx, whole) })
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		if err == nil {
			retries.Reset()
			wait = w.wait(whole)
		} else {
			wait = backoff.Jitter(min(retries.Next(), w.follow.Every), backoff.Interval)
		}
		if !backoff.Sleep(ctx, wait) {
			return
		}
	}
}

// wait returns the time until the next look-up, after a successful one of the whole or of the
// names only.
func (w *Follower) wait(whole bool) time.Duration {
	if whole {
		w.looked, w.every = time.Now(), backoff.Jitter(w.follow.Every, backoff.Interval)
	}
	wait := w.every - time.Since(w.looked)
	if w.again > 0 {
		wait = min(wait, backoff.Jitter(w.again, backoff.Interval))
	}
	return wait
}

// look makes one look-up, of the whole or of the names that the sources have led to, and
// applies it. If the sources fail, it follows their last names all the same, and returns the
// error.
func (w *Follower) look(ctx context.Context, whole bool) error {
	var sourcesErr error
	if whole {
		var f finding
		if f, sourcesErr = w.finder.find(ctx); sourcesErr == nil {
			w.sources = f
		} else if len(w.sources.names) == 0 {
			return w.failed(ctx, sourcesErr)
		}
	}
	f, again, err := w.finder.names.resolve(ctx, w.sources)
	w.again = again
	var found Routes
	if err == nil {
		f.routes = w.knownFirst(w.withMissing(f.routes, whole && sourcesErr == nil))
		found, err = w.finder.choose(ctx, f)
	}
	if err != nil {
		return w.failed(ctx, err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if sourcesErr != nil {
		w.failed(ctx, sourcesErr)
	}
	w.mu.Lock()
	before := w.now
	if w.now.Routes = found; sourcesErr == nil {
		w.now = Following{Routes: found, Found: time.Now()}
	}
	w.last = found.Explain
	after := w.now
	w.mu.Unlock()

	logChange(w.finder.config.Logger, before, after)
	if w.follow.Found != nil {
		w.follow.Found(found)
	}
	w.follow.Apply(found.Advertise)
	return sourcesErr
}

// failed stores and logs the error of a look-up, and returns it.
func (w *Follower) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.mu.Lock()
	before := w.now
	if w.now.Err = err; before.Err == nil {
		w.now.Since = time.Now()
	}
	after := w.now
	w.mu.Unlock()
	logChange(w.finder.config.Logger, before, after)
	return err
}

// withMissing adds the routes that the last look-up found and this one does not. A look-up of
// names only says nothing about the other routes.
func (w *Follower) withMissing(found []Route, whole bool) []Route {
	there := map[netip.Prefix]bool{}
	for _, r := range found {
		there[r.Prefix] = true
	}
	for _, r := range w.last {
		switch named := r.Origin == FromName; {
		case there[r.Prefix]:
			continue
		case r.missing && named && !w.follow.InUse(r.Prefix.Addr()), r.missing && !named && whole:
			continue
		case !r.missing && (named || whole):
			w.finder.config.Logger.Warn("route missing; kept until the next look-up misses it, too", "prefix", r.Prefix.String(), "source", r.Source)
			r.missing = true
		}
		found = append(found, r)
	}
	return found
}

// knownFirst moves the routes of names that the last look-up chose before the others, so that
// a new address does not take the place of an old one if there are too many.
func (w *Follower) knownFirst(found []Route) []Route {
	known := map[netip.Prefix]bool{}
	for _, r := range w.last {
		known[r.Prefix] = known[r.Prefix] || r.Origin == FromName
	}
	slices.SortStableFunc(found, func(a, b Route) int {
		return order(b, known) - order(a, known)
	})
	return found
}

func order(r Route, known map[netip.Prefix]bool) int {
	if r.Origin != FromName {
		return 2
	}
	if known[r.Prefix] {
		return 1
	}
	return 0
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

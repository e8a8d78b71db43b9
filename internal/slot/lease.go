package slot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Lease is the right of this process to use a slot, until [Lease.Lost] is closed or Release
// is called. Its methods may be called from any goroutine.
type Lease struct {
	pool   *Pool
	number int
	lease  int64
	lost   chan struct{} // closed with mu held

	mu       sync.Mutex // covers the fields below
	end      end
	beat     int64 // of the last renewal that was sent
	version  int64 // of the last state that was sent
	state    []byte
	released bool
	why      error // of the loss; nil before it
}

// end is the end of a lease by both clocks of the process. The earlier one counts: a machine
// that was suspended may continue with either of them wrong.
type end struct {
	now  time.Duration
	wall time.Time
}

func (e end) passed(c Clock) bool { return c.Now() >= e.now || !c.Wall().Before(e.wall) }

// ErrLost is the error of a lease that has ended.
var ErrLost = errors.New("the lease of the slot has ended")

// Number returns the number of the slot.
func (l *Lease) Number() int { return l.number }

// State returns the state that was stored when the lease was taken; nil if there was none.
func (l *Lease) State() []byte { return l.state }

// Lost is closed when the process must no longer use the slot. It is closed within
// fenceEvery of running time after the end of the lease.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Why returns the reason of the loss; nil before it.
func (l *Lease) Why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// End returns the end of the lease by the wall clock.
func (l *Lease) End() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end.wall
}

// lose ends the lease for this process.
func (l *Lease) lose(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil || l.released {
		return
	}
	l.why = why
	close(l.lost)
}

// Run renews the lease until ctx ends, or the lease is lost or released.
func (l *Lease) Run(ctx context.Context) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.fence(ctx) })
	group.Go(func() error { return l.renewals(ctx) })
	group.Go(func() error { return l.tidy(ctx) })
	group.Wait() //nolint:errcheck // the error only ends the other functions
}

// fence watches for the end of the lease. It must not wait for anything but its clock.
func (l *Lease) fence(ctx context.Context) error {
	for l.pool.cfg.Clock.Sleep(ctx, fenceEvery) {
		l.mu.Lock()
		passed, over := l.end.passed(l.pool.cfg.Clock), l.why != nil || l.released
		l.mu.Unlock()
		if passed {
			l.lose(fmt.Errorf("%w: it was not renewed for %v", ErrLost, Term))
		}
		if passed || over {
			return ErrLost
		}
	}
	return nil
}

// renewals renews the lease periodically, and more often while that fails.
func (l *Lease) renewals(ctx context.Context) error {
	const retryEvery = 5 * time.Second
	var before error
	for wait := renewEvery; l.pool.cfg.Clock.Sleep(ctx, wait); {
		err := l.renew(ctx)
		if errors.Is(err, ErrLost) || ctx.Err() != nil {
			return ErrLost
		}
		wait = renewEvery
		switch {
		case err != nil && before == nil:
			l.pool.log.Warn("renewing the lease of the slot failed; retrying", "slot", l.number, "until", l.End().UTC().Format(time.RFC3339), "err", err)
		case err == nil && before != nil:
			l.pool.log.Info("lease of the slot renewed again", "slot", l.number)
		}
		if before = err; err != nil {
			wait = retryEvery
		}
	}
	return nil
}

// renew extends the lease once.
func (l *Lease) renew(ctx context.Context) error {
	l.mu.Lock()
	l.beat++
	c := Change{
		Set:    Attributes{beat: l.beat},
		Expect: append(l.holds(), Expect{beat, Less, l.beat}),
	}
	l.mu.Unlock()
	end := l.pool.nextEnd(&c)
	if err := l.update(ctx, c); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = end
	return nil
}

// Save stores the state of the slot. It fails if the lease was lost or released.
func (l *Lease) Save(ctx context.Context, text []byte) error {
	l.mu.Lock()
	l.version++
	c := Change{
		Set:    Attributes{state: text, version: l.version},
		Expect: append(l.holds(), Expect{version, Less, l.version}),
	}
	l.mu.Unlock()
	return l.update(ctx, c)
}

// Describe stores the name of the node, for people, and its ID at control. The node is a
// member of the tailnet now.
func (l *Lease) Describe(ctx context.Context, name, id string) error {
	return l.update(ctx, Change{Set: Attributes{node: name, nodeID: id}, Remove: []string{departed}, Expect: l.holds()})
}

// Expired reports whether the lease has ended by the clocks of this process.
func (l *Lease) Expired() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end.passed(l.pool.cfg.Clock)
}

// released ends a lease. Users add the conditions.
var released = Change{Remove: []string{holder, task, container, until}}

// Departure is how the node of a released slot ends.
type Departure int

// The departures. The state of a removed node is deleted, since control no longer knows it.
const (
	Stays     Departure = iota // the next holder continues it
	LoggedOut                  // control still lists it
	Removed                    // control no longer lists it
)

// Release ends the lease, so that another process can take the slot at once. The caller has
// stopped using it. Release retries until ctx ends.
func (l *Lease) Release(ctx context.Context, d Departure) error {
	l.mu.Lock()
	done := l.why != nil || l.released
	l.released = true
	c := released
	c.Expect = l.holds()
	l.mu.Unlock()
	if done {
		return nil
	}
	switch d {
	case Stays:
	case LoggedOut:
		c.Set = Attributes{departed: int64(1)}
	case Removed:
		c.Remove = append(slices.Clone(c.Remove), state, node, nodeID, departed)
	}
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := l.pool.cfg.Table.Update(call, l.number, c)
		cancel()
		if _, changed := errors.AsType[*Changed](err); changed || err == nil {
			return nil // by an earlier attempt
		}
		if !l.pool.cfg.Clock.Sleep(ctx, time.Second) {
			return err
		}
	}
}

// holds returns the conditions under which this lease is in force.
func (l *Lease) holds() []Expect {
	return []Expect{{holder, Equal, l.pool.cfg.Holder}, {lease, Equal, l.lease}}
}

// mine reports whether an item is held by this lease.
func (l *Lease) mine(a Attributes) bool {
	it, err := decode(a)
	return err == nil && it.holder == l.pool.cfg.Holder && it.lease == l.lease
}

// update changes the item of the slot under conditions that include those of holds. The lease
// is lost if it is no longer in force. An update that an earlier attempt of the same call
// made succeeds.
func (l *Lease) update(ctx context.Context, c Change) error {
	l.mu.Lock()
	over := l.why != nil || l.released
	l.mu.Unlock()
	if over {
		return ErrLost
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := l.pool.cfg.Table.Update(ctx, l.number, c)
	if changed, ok := errors.AsType[*Changed](err); ok {
		if l.mine(changed.Stored) {
			return nil
		}
		l.lose(fmt.Errorf("%w: another process took the slot", ErrLost))
		return ErrLost
	}
	return err
}

// tidy reads the slots periodically, and releases a second one that this process, or an
// earlier one of its container, took by a request that arrived after it had given up waiting
// for the answer.
func (l *Lease) tidy(ctx context.Context) error {
	// Such a request is most likely to have arrived by then.
	const first = 30 * time.Second
	for wait := first; l.pool.cfg.Clock.Sleep(ctx, wait); wait = tidyEvery {
		items, err := l.pool.list(ctx)
		if err != nil {
			continue // renewals reports the same failure
		}
		for _, it := range items {
			if !l.pool.formerly(it) || it.number == l.number {
				continue
			}
			c := released
			c.Expect = []Expect{{holder, Equal, it.holder}, {lease, Equal, it.lease}}
			call, cancel := context.WithTimeout(ctx, callTimeout)
			if _, err := l.pool.cfg.Table.Update(call, it.number, c); err == nil {
				l.pool.log.Info("released a second slot, taken by a late request", "slot", it.number)
			}
			cancel()
		}
	}
	return nil
}

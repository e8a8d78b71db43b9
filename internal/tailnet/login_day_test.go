package tailnet

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/secret"

	"tailscale.com/ipn"
)

// day is a control server and a credential in simulated time, with a real login
// between them.
type day struct {
	n *Node

	mu sync.Mutex
	events
	fetch  error  // why there is no credential
	said   string // how control refuses; "" is that it takes the node
	silent bool   // control does not answer
}

// events is what has happened so far.
type events struct {
	asked      int // for a credential
	registered int // registrations that were begun
	stopped    int // engines that were told to try no more
	joins      int
	joined     time.Time // the last time
}

func (d *day) credential(context.Context) (secret.String, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	return testKey, d.fetch
}

func (d *day) register(context.Context, secret.String) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.registered++
	switch {
	case d.silent:
	case d.said != "":
		said := d.said
		d.n.state.set(func(s *Status) { s.refusal = said })
	default:
		d.joins, d.joined = d.joins+1, time.Now()
		d.n.state.set(func(s *Status) { s.Backend = ipn.Running.String(); s.selfUpdates++ })
	}
	return nil
}

func (d *day) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped++
}

func (d *day) lastError() string { return "" }

// now is what has happened, after change.
func (d *day) now(change func(*day)) events {
	d.mu.Lock()
	defer d.mu.Unlock()
	if change != nil {
		change(d)
	}
	return d.events
}

// count returns what happened during long of simulated time.
func (d *day) count(long time.Duration) (asked, registered int) {
	before := d.now(nil)
	time.Sleep(long)
	synctest.Wait()
	after := d.now(nil)
	return after.asked - before.asked, after.registered - before.registered
}

// TestADayOfLogins goes through 24 hours of trouble: each kind of it may cost
// so many calls and no more, and ends within 75 s of being mended, which is the
// longest pause.
func TestADayOfLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &day{}
		n := &Node{log: slog.New(slog.DiscardHandler), registrar: d}
		n.cfg = Config{
			Credential: d.credential, CredentialRefused: func() {}, LoginAttempted: func(error) {},
		}
		n.state.init()
		n.ctx, n.cancel = context.WithCancel(t.Context())
		d.n = n
		start := time.Now()
		done := make(chan struct{})
		go func() { defer close(done); n.login() }()

		within := func(what string, asked, registered, mostAsked, mostRegistered int) {
			t.Helper()
			t.Logf("%s: %d credentials, %d registrations", what, asked, registered)
			if asked > mostAsked || registered > mostRegistered {
				t.Errorf("%s: at most %d and %d", what, mostAsked, mostRegistered)
			}
		}
		needsLogin := func() { n.state.set(func(s *Status) { s.Backend = ipn.NeedsLogin.String() }) }
		joinsAfter := func(what string, limit time.Duration) {
			t.Helper()
			mended, before := time.Now(), d.now(nil)
			time.Sleep(limit + time.Millisecond)
			synctest.Wait()
			after := d.now(nil)
			if after.joins != before.joins+1 {
				t.Fatalf("%s: %d joins within %v of being mended", what, after.joins-before.joins, limit)
			}
			t.Logf("%s: joined after %v", what, after.joined.Sub(mended))
			s, _ := n.state.get()
			if s.LoginError != nil || s.Removed {
				t.Errorf("%s: joined, with %v", what, s.LoginError)
			}
		}

		// Nobody asks: state is valid.
		n.state.set(func(s *Status) { s.Backend = ipn.Running.String() })
		asked, registered := d.count(5 * time.Hour)
		within("5 h with valid state", asked, registered, 0, 0)

		// No credential can be had. One try a minute, a quarter less with jitter.
		d.now(func(d *day) { d.fetch = errors.New("reading it: denied") })
		needsLogin()
		asked, registered = d.count(4 * time.Hour)
		within("4 h without a credential", asked, registered, 4*80+6, 0)
		d.now(func(d *day) { d.fetch = nil })
		joinsAfter("no credential", 75*time.Second)

		// Control is away: one key for five minutes.
		d.now(func(d *day) { d.silent = true })
		needsLogin()
		asked, registered = d.count(4 * time.Hour)
		within("4 h without control", asked, registered, 4*12+2, 4*50)
		d.now(func(d *day) { d.silent = false })
		// The wait for an answer comes on top; the real engine tries on meanwhile.
		joinsAfter("no control", answerWait+75*time.Second)

		// Control comes back between two tries, and the engine joins by itself.
		d.now(func(d *day) { d.silent = true })
		needsLogin()
		d.count(time.Hour)
		d.now(func(d *day) { d.silent = false })
		n.state.set(func(s *Status) { s.Backend = ipn.Running.String(); s.selfUpdates++ })
		synctest.Wait()
		if s, _ := n.state.get(); s.LoginError != nil {
			t.Errorf("the engine joined by itself, with %v", s.LoginError)
		}
		asked, registered = d.count(time.Hour)
		within("1 h after it joined by itself", asked, registered, 0, 0)

		// The key is refused, for as long as it takes to rotate it.
		d.now(func(d *day) { d.said = "invalid key: API key does not exist" })
		needsLogin()
		asked, registered = d.count(4 * time.Hour)
		within("4 h with a bad key", asked, registered, 4*80+6, 4*80+6)
		if stopped := d.now(nil).stopped; stopped < registered {
			t.Errorf("the engine goes on with a refused key: stopped %d times of %d", stopped, registered)
		}
		d.now(func(d *day) { d.said = "" })
		joinsAfter("a bad key", 75*time.Second)

		// Control asks for quiet: ten minutes each time.
		d.now(func(d *day) { d.said = "node registration rate limited; will retry after 10m0s" })
		needsLogin()
		asked, registered = d.count(2 * time.Hour)
		within("2 h of being throttled", asked, registered, 13, 13)
		d.now(func(d *day) { d.said = "" })
		d.count(10 * time.Minute)

		// Somebody removes the node every hour; it joins anew at once.
		before := d.now(nil).joins
		for range 3 {
			n.state.set(func(s *Status) { s.Removed = true })
			d.count(time.Hour)
		}
		if got := d.now(nil).joins - before; got != 3 {
			t.Errorf("joined %d times after 3 removals", got)
		}
		if passed := time.Since(start); passed < 24*time.Hour {
			t.Errorf("only %v have passed", passed)
		}
		n.cancel()
		<-done // and the bubble finds any other goroutine
	})
}

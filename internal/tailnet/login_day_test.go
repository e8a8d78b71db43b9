package tailnet

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/reach"
	"subnetrouter/internal/secret"

	"tailscale.com/ipn"
)

// day fakes a control server and a credential source in simulated time for the real login.
type day struct {
	n *Node

	mu sync.Mutex
	events
	fetchErr error  // the error of the credential source
	refusal  string // control's text; "" if it accepts the node
	silent   bool   // control does not answer
}

// events counts events since the start.
type events struct {
	asked      int // credentials fetched
	registered int // registrations begun
	stopped    int // calls of stop
	joins      int
	joined     time.Time // the time of the last join
}

func (d *day) credential(context.Context) (secret.String, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	return testKey, d.fetchErr
}

func (d *day) register(context.Context, secret.String) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.registered++
	switch {
	case d.silent:
	case d.refusal != "":
		refusal := d.refusal
		d.n.state.set(func(s *Status) { s.refusal = refusal })
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

func (d *day) unreachable(context.Context) *reach.Failure { return nil }

// now applies change, and returns the events so far.
func (d *day) now(change func(*day)) events {
	d.mu.Lock()
	defer d.mu.Unlock()
	if change != nil {
		change(d)
	}
	return d.events
}

// count lets simulated time pass, and returns the credentials fetched and the registrations
// begun during it.
func (d *day) count(period time.Duration) (asked, registered int) {
	before := d.now(nil)
	time.Sleep(period)
	synctest.Wait()
	after := d.now(nil)
	return after.asked - before.asked, after.registered - before.registered
}

// TestADayOfLogins simulates 24 hours of failures. Each kind may cost a limited number of
// calls, and the node joins within 75 s of its end, which is the longest pause.
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
			fixed, before := time.Now(), d.now(nil)
			time.Sleep(limit + time.Millisecond)
			synctest.Wait()
			after := d.now(nil)
			if after.joins != before.joins+1 {
				t.Fatalf("%s: %d joins within %v after the fix, want 1", what, after.joins-before.joins, limit)
			}
			t.Logf("%s: joined after %v", what, after.joined.Sub(fixed))
			s, _ := n.state.get()
			if s.LoginError != nil || s.Removed {
				t.Errorf("%s: joined, but LoginError is %v, Removed %v", what, s.LoginError, s.Removed)
			}
		}

		// The state is valid: control asks for no credential.
		n.state.set(func(s *Status) { s.Backend = ipn.Running.String() })
		asked, registered := d.count(5 * time.Hour)
		within("5 h with valid state", asked, registered, 0, 0)

		// Fetching a credential fails: one attempt a minute, 45 s with jitter.
		d.now(func(d *day) { d.fetchErr = errors.New("reading it: denied") })
		needsLogin()
		asked, registered = d.count(4 * time.Hour)
		within("4 h without a credential", asked, registered, 4*80+6, 0)
		d.now(func(d *day) { d.fetchErr = nil })
		joinsAfter("no credential", 75*time.Second)

		// Control does not answer: one key in five minutes.
		d.now(func(d *day) { d.silent = true })
		needsLogin()
		asked, registered = d.count(4 * time.Hour)
		within("4 h without control", asked, registered, 4*12+2, 4*50)
		d.now(func(d *day) { d.silent = false })
		// answerWait comes on top of the pause. (The real engine keeps trying in that time.)
		joinsAfter("no control", answerWait+75*time.Second)

		// Control is back between two attempts, and the engine joins.
		d.now(func(d *day) { d.silent = true })
		needsLogin()
		d.count(time.Hour)
		d.now(func(d *day) { d.silent = false })
		n.state.set(func(s *Status) { s.Backend = ipn.Running.String(); s.selfUpdates++ })
		synctest.Wait()
		if s, _ := n.state.get(); s.LoginError != nil {
			t.Errorf("the engine joined, but LoginError is %v", s.LoginError)
		}
		asked, registered = d.count(time.Hour)
		within("1 h after the engine joined", asked, registered, 0, 0)

		// The key is refused, until it is rotated.
		d.now(func(d *day) { d.refusal = "invalid key: API key does not exist" })
		needsLogin()
		asked, registered = d.count(4 * time.Hour)
		within("4 h with a bad key", asked, registered, 4*80+6, 4*80+6)
		if stopped := d.now(nil).stopped; stopped < registered {
			t.Errorf("the engine was stopped %d times after %d refused keys", stopped, registered)
		}
		d.now(func(d *day) { d.refusal = "" })
		joinsAfter("a bad key", 75*time.Second)

		// Control throttles: a pause of ten minutes each time.
		d.now(func(d *day) { d.refusal = "node registration rate limited; will retry after 10m0s" })
		needsLogin()
		asked, registered = d.count(2 * time.Hour)
		within("2 h of being throttled", asked, registered, 13, 13)
		d.now(func(d *day) { d.refusal = "" })
		d.count(10 * time.Minute)

		// The node is removed every hour, and joins again at once.
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
		<-done // synctest finds any other goroutine that is left
	})
}

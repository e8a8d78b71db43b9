package tailnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/reach"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"

	"tailscale.com/health"
	"tailscale.com/health/healthmsg"
	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
)

// attempts records a node's attempts to join.
type attempts struct {
	mu      sync.Mutex
	errs    []error
	refused int
}

func (a *attempts) watch(c *Config) {
	c.LoginAttempted = func(err error) { a.mu.Lock(); a.errs = append(a.errs, err); a.mu.Unlock() }
	c.CredentialRefused = func() { a.mu.Lock(); a.refused++; a.mu.Unlock() }
}

func (a *attempts) recorded() (errs []error, refused int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.errs), a.refused
}

func serving(s *Status) bool { return s.Running() && !s.Removed && len(s.Primary) == len(testRoutes) }

// TestJoinsAfterRemoval removes the node at control. tailscaled would poll forever and stay
// in the state "Running".
func TestJoinsAfterRemoval(t *testing.T) {
	control := startTailnet(t, nil)
	var asked atomic.Int32
	var tried attempts
	n := startNode(t, control, func(context.Context) (secret.String, error) { asked.Add(1); return testKey, nil }, tried.watch)
	n.Advertise(testRoutes)
	before := awaitStatus(t, n, "the routes", serving)
	if err := control.DeleteNode(t.Context(), "edge"); err != nil {
		t.Fatal(err)
	}
	after := awaitStatus(t, n, "the routes under a new address", func(s *Status) bool {
		return serving(s) && !slices.Equal(s.IPs, before.IPs)
	})
	if asked.Load() != 2 || after.LoginError != nil {
		t.Errorf("asked for %d credentials, want 2; %v", asked.Load(), after.LoginError)
	}
	nodes, _ := control.Nodes(t.Context())
	if len(nodes) != 1 || !nodes[0].Online || !slices.Equal(nodes[0].Primary, before.Primary) {
		t.Errorf("control knows %v", nodes)
	}
}

// TestNoticesRemovalByUpdates has a control server that keeps the poll of a removed
// node open, as Headscale does.
func TestNoticesRemovalByUpdates(t *testing.T) {
	control := startTailnet(t, func(c *tailnettest.Config) { c.OwnNode = tailnettest.AfterUpdates })
	n := startNode(t, control, give(testKey), nil)
	n.Advertise(testRoutes)
	before := awaitStatus(t, n, "the routes", serving)
	if err := control.DeleteNode(t.Context(), "edge"); err != nil {
		t.Fatal(err)
	}
	n.askForSelf(false)
	awaitStatus(t, n, "the routes under a new address", func(s *Status) bool {
		return serving(s) && !slices.Equal(s.IPs, before.IPs)
	})
}

// TestRemovalWithoutCredential removes the node while there is no credential: the node keeps
// its last state until there is one.
func TestRemovalWithoutCredential(t *testing.T) {
	control := startTailnet(t, nil)
	var locked atomic.Bool
	n := startNode(t, control, func(context.Context) (secret.String, error) {
		if locked.Load() {
			return "", errors.New("reading it: denied")
		}
		return testKey, nil
	}, nil)
	n.Advertise(testRoutes)
	awaitStatus(t, n, "the routes", serving)
	locked.Store(true)
	if err := control.DeleteNode(t.Context(), "edge"); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, n, "the reason", func(s *Status) bool {
		return s.Removed && s.LoginError != nil && strings.Contains(s.LoginError.Error(), "reading it: denied")
	})
	locked.Store(false)
	awaitStatus(t, n, "the routes again", func(s *Status) bool { return serving(s) && s.LoginError == nil })
}

// TestJoinsAfterExpiry expires the node key: the node joins with a new key and keeps its
// address.
func TestJoinsAfterExpiry(t *testing.T) {
	control := startTailnet(t, func(c *tailnettest.Config) { c.Keys[0].Ephemeral = false })
	dir := t.TempDir()
	var asked atomic.Int32
	n := startNodeIn(t, dir, control, func(context.Context) (secret.String, error) { asked.Add(1); return testKey, nil }, nil)
	n.Advertise(testRoutes)
	before := awaitStatus(t, n, "the routes", serving)
	if err := control.ExpireNode(t.Context(), "edge"); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, n, "the expiry", func(s *Status) bool { return s.KeyExpired() || asked.Load() == 2 })
	after := awaitStatus(t, n, "the routes again", func(s *Status) bool {
		return asked.Load() == 2 && serving(s) && !s.KeyExpired()
	})
	if !slices.Equal(before.IPs, after.IPs) {
		t.Errorf("addresses %v became %v", before.IPs, after.IPs)
	}
}

// TestLeavesForGood sets the states that follow a logout: the node does not join again.
func TestLeavesForGood(t *testing.T) {
	control := startTailnet(t, nil)
	var asked atomic.Int32
	n := startNode(t, control, func(context.Context) (secret.String, error) { asked.Add(1); return testKey, nil }, nil)
	awaitStatus(t, n, "membership", func(s *Status) bool { return s.Running() })
	n.state.set(func(s *Status) { s.leaving = true })
	n.state.set(func(s *Status) { s.Removed = true })
	n.state.set(func(s *Status) { s.Removed, s.Backend = false, ipn.NeedsLogin.String() })
	closeNode(t, n)
	if nodes, _ := control.Nodes(t.Context()); asked.Load() != 1 || len(nodes) != 0 {
		t.Errorf("asked for %d credentials; control knows %v", asked.Load(), nodes)
	}
}

// TestOutageIsNoRemoval has control refuse polls as an overloaded server does.
func TestOutageIsNoRemoval(t *testing.T) {
	control := startTailnet(t, nil)
	n := startNode(t, control, give(testKey), nil)
	awaitStatus(t, n, "membership", func(s *Status) bool { return s.Running() })
	for _, text := range []string{"initial fetch failed 500: x", "initial fetch failed 404: node not found", "EOF", "initial fetch failed 404: node not found"} {
		n.watchLog("Received error: %v", []any{errors.New("PollNetMap: " + text)})
	}
	if s, _ := n.Status(); s.Removed {
		t.Error("an outage was taken for a removal")
	}
	n.watchLog("Received error: %v", []any{errors.New("PollNetMap: initial fetch failed 404: node not found")})
	if s, _ := n.Status(); !s.Removed {
		t.Error("a removal was not noticed")
	}
	awaitStatus(t, n, "membership again", func(s *Status) bool { return s.Running() && !s.Removed })
}

// TestRefusalsAreClassified has control refuse registrations with different texts.
func TestRefusalsAreClassified(t *testing.T) {
	var answers atomic.Int32
	said := []string{"invalid key: API key does not exist", "requested tags [tag:x] are invalid or not permitted", "no more nodes"}
	control := startTailnet(t, func(c *tailnettest.Config) {
		c.OnRegister = func(*tailcfg.RegisterRequest) *tailcfg.RegisterResponse {
			if i := int(answers.Add(1)) - 1; i < len(said) {
				return &tailcfg.RegisterResponse{Error: said[i]}
			}
			return nil
		}
	})
	var tried attempts
	n := startNode(t, control, give(testKey), tried.watch)
	awaitStatus(t, n, "membership", func(s *Status) bool { return s.Running() })
	// The status changes before the last attempt is reported.
	testwait.Until(t, "the attempt that succeeds", func() error {
		if errs, _ := tried.recorded(); len(errs) == 0 || errs[len(errs)-1] != nil {
			return fmt.Errorf("the attempts are %v", errs)
		}
		return nil
	})
	errs, refused := tried.recorded()
	want := []problem.Code{problem.KeyRefused, problem.TagsRefused, problem.JoinFailed}
	for i, code := range want {
		if i >= len(errs) || problem.CodeOf(errs[i], "") != code || !strings.Contains(errs[i].Error(), said[i]) {
			t.Errorf("attempt %d of %v: want code %v", i, errs, code)
		}
	}
	if refused != 2 {
		t.Errorf("attempts %v, %d keys refused", errs, refused)
	}
}

func TestThrottledByControl(t *testing.T) {
	e := refusedBy("node registration rate limited; will retry after 42s")
	if e.Code != problem.ControlThrottled || e.RetryAfter != 42*time.Second {
		t.Errorf("code %v, after %v", e.Code, e.RetryAfter)
	}
	if retryAfter(errors.Join(errors.New("x"), e)) != 42*time.Second {
		t.Error("retryAfter does not find the pause in a chain of errors")
	}
}

// TestKeyIsKept checks that an outage of control uses up one key per keyWait.
func TestKeyIsKept(t *testing.T) {
	var asked int
	n := &Node{cfg: Config{Credential: func(context.Context) (secret.String, error) { asked++; return testKey, nil }}}
	for range 3 {
		if key, err := n.credential(t.Context()); key != testKey || err != nil {
			t.Fatal(key, err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	n.pendingKey.since = time.Now().Add(-keyWait)
	if n.credential(t.Context()); asked != 2 {
		t.Errorf("after keyWait asked %d times", asked)
	}
}

func TestNoAnswer(t *testing.T) {
	const late = "x509: certificate has expired or is not yet valid: current time 2020-01-01T00:00:00Z is before 2026-01-01T00:00:00Z"
	if e := noAnswer("https://c", answerWait, late, nil); e.Code != problem.ClockSkew || !strings.Contains(e.Error(), "set the clock") {
		t.Error(e)
	}
	for _, c := range []struct {
		network *reach.Failure
		want    string
	}{
		{nil, "registering with control server: control server did not answer the registration within 30s: dial tcp: connection refused; is https://c reachable from the task's subnet? See router doctor"},
		{&reach.Failure{Cause: "no route", Fix: "add one"}, "registering with control server: control server did not answer the registration within 30s: no route; add one"},
	} {
		if e := noAnswer("https://c", answerWait, "dial tcp: connection refused", c.network); e.Error() != c.want || e.Code != problem.ControlUnreachable {
			t.Errorf("got  %v\nwant %s", e, c.want)
		}
	}
	if e := noAnswer("https://c", answerWait, "", &reach.Failure{Cause: "TLS: expired", Clock: true}); e.Code != problem.ClockSkew {
		t.Errorf("a certificate of another time: %v", e)
	}
}

// TestUnreachableControlIsExplainedEarly: long before the registration times out, LoginError
// has the network's cause, and the attempt goes on.
func TestUnreachableControlIsExplainedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{log: slog.New(slog.DiscardHandler), registrar: silentControl{}}
		n.state.init()
		n.ctx = t.Context()
		start := time.Now()
		var early time.Duration
		go func() {
			if n.state.await(n.ctx, func(s *Status) bool { return s.LoginError != nil }) {
				early = time.Since(start)
			}
		}()
		err := n.awaitOutcome(Status{})
		synctest.Wait()
		if early == 0 || early > 2*reachAfter {
			t.Errorf("explained after %v", early)
		}
		if took := time.Since(start); took != answerWait || !strings.Contains(err.Error(), "DNS: looking up c.example; allow DNS") {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// silentControl is a registrar whose control server cannot be reached.
type silentControl struct{ registrar }

func (silentControl) lastError() string { return "a text of the engine" }
func (silentControl) unreachable(context.Context) *reach.Failure {
	return &reach.Failure{Cause: "DNS: looking up c.example", Fix: "allow DNS"}
}

func TestLockedOut(t *testing.T) {
	control := startTailnet(t, nil)
	n := startNode(t, control, give(testKey), nil)
	awaitStatus(t, n, "membership", func(s *Status) bool { return s.Running() })
	lock := &health.State{Warnings: map[health.WarnableCode]health.UnhealthyState{"tailnet-lock": {Text: "Tailnet Lock: " + healthmsg.LockedOut}}}
	n.apply(&ipn.Notify{Health: lock})
	if s, _ := n.Status(); !s.LockedOut || !strings.HasPrefix(s.SignCommand, "tailscale lock sign nodekey:") || !strings.Contains(s.SignCommand, " tlpub:") {
		t.Errorf("locked out %v, sign by %q", s.LockedOut, s.SignCommand)
	}
	n.apply(&ipn.Notify{Health: &health.State{}})
	if s, _ := n.Status(); s.LockedOut || s.SignCommand != "" {
		t.Error("still locked out")
	}
}

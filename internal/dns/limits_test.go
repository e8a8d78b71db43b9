package dns

import (
	"net/netip"
	"testing"
)

// TestGate: a node has its share of the questions to the resolver and no more, and leaves some to others.
func TestGate(t *testing.T) {
	alice, bob := netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	same := func(a netip.Addr) netip.Addr { return a }
	g := NewGate(same, Limits{InFlight: 40, PeerInFlight: 10})
	var leave []func()
	enter := func(client netip.Addr) bool {
		done, ok := g.Enter(client)
		if ok {
			leave = append(leave, done)
		}
		return ok
	}
	for i := range 10 {
		if !enter(alice) {
			t.Fatalf("question %d was refused", i)
		}
	}
	if enter(alice) {
		t.Error("a node has more questions in flight than its share")
	}
	if !enter(bob) {
		t.Error("another node has no question")
	}
	for _, done := range leave {
		done()
	}
	admitted := 0
	for range 10_000 {
		if done, ok := g.Enter(alice); ok {
			done()
			admitted++
		}
	}
	if admitted < 100 || admitted > 1000 { // 200 a second, with a burst of two seconds
		t.Errorf("%d questions at once", admitted)
	}
	if *g.inFlight != 0 {
		t.Errorf("%d questions are still in flight", *g.inFlight)
	}
}

// TestGateSharesWithServer: the questions that a gate admits count for the server.
func TestGateSharesWithServer(t *testing.T) {
	limits := Limits{}
	limits.setDefaults()
	s := &Server{cfg: Config{Peer: func(a netip.Addr) netip.Addr { return a }, Limits: limits}, limiter: newLimiter(&limits)}
	leave, ok := s.Gate().Enter(netip.MustParseAddr("100.64.0.1"))
	if !ok || s.inFlight != 1 || s.limiter.misses.tokens >= s.limiter.misses.size {
		t.Errorf("admitted %v, in flight %d, tokens %v of %v", ok, s.inFlight, s.limiter.misses.tokens, s.limiter.misses.size)
	}
	leave()
	if s.inFlight != 0 {
		t.Errorf("in flight %d after the end", s.inFlight)
	}
}

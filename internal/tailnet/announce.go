package tailnet

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"subnetrouter/internal/routes"

	"tailscale.com/ipn"
)

// reachableWait is how long an announcement waits for endpoints and a home
// DERP. Where UDP out is blocked and no DERP answers, netcheck gives up after
// 3 s; later than that there is nothing to wait for.
const reachableWait = 5 * time.Second

// Advertise makes prefixes the routes that this node offers, as soon as peers
// could reach it: a route that goes live earlier costs its first user 5 s, the
// time after which a WireGuard client repeats a handshake that it had no
// address for.
//
// After [Node.Withdraw] it does nothing: a look-up that ends while the router drains
// must not bring the routes back. While [Node.HoldBack] holds, it takes effect later.
func (n *Node) Advertise(prefixes []netip.Prefix) {
	n.mu.Lock()
	if !n.withdrawn {
		n.desired = slices.Clone(prefixes)
	}
	n.mu.Unlock()
	n.wakeAnnouncer()
}

// HoldBack takes all routes back at control for as long as hold is true. What
// clients send all the same is still forwarded.
func (n *Node) HoldBack(hold bool) {
	n.mu.Lock()
	n.held = hold
	n.mu.Unlock()
	n.wakeAnnouncer()
}

// wanted is what is to be advertised now.
func (n *Node) wanted() []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held || n.withdrawn {
		return nil
	}
	return slices.Clone(n.desired)
}

func (n *Node) wakeAnnouncer() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// Withdraw takes all routes back for good and waits until control no longer holds this
// node for the primary of any, or ctx ends. The node goes on forwarding what clients
// send, which they do until each has heard of it from control.
func (n *Node) Withdraw(ctx context.Context) error {
	n.mu.Lock()
	n.withdrawn = true
	n.mu.Unlock()
	n.wakeAnnouncer()
	held := func(s *Status) bool { return len(s.Advertised) > 0 || len(s.Primary) > 0 }
	if !n.state.await(ctx, func(s *Status) bool { return !held(s) || s.Backend != ipn.Running.String() }) {
		return fmt.Errorf("waiting for control server to move the routes: %w", context.Cause(ctx))
	}
	return nil
}

// withheld returns the routes of served that are withdrawn and still forwarded: all of
// them while control moves them to another router, less those that are no longer this
// router's to offer.
func (n *Node) withheld(served []netip.Prefix) []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.held && !n.withdrawn {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(served), func(p netip.Prefix) bool { return !slices.Contains(n.desired, p) })
}

func (n *Node) announce() {
	var announced []netip.Prefix // what control was last told
	var served []netip.Prefix    // the same, or the last before they were withdrawn
	var retries backoff
	var retry <-chan time.Time // after a failure
	reachable := false
	for {
		select {
		case <-n.kick:
		case <-retry:
		case <-n.ctx.Done():
			return
		}
		retry = nil
		want := n.wanted()
		if len(want) == 0 { // first, so that no packet is lost in between
			n.engine.freeze(n.withheld(served))
		}
		if slices.Equal(want, announced) {
			if len(want) > 0 {
				n.engine.freeze(nil)
			}
			continue
		}
		if !reachable && len(want) > 0 {
			if !n.awaitReachable() {
				return
			}
			reachable = true
			want = n.wanted() // it may have been withdrawn meanwhile
			if slices.Equal(want, announced) {
				continue
			}
		}
		err := n.edit(&ipn.MaskedPrefs{
			Prefs:              ipn.Prefs{AdvertiseRoutes: want},
			AdvertiseRoutesSet: true,
		})
		if err != nil {
			wait := retries.next()
			n.log.Error("advertising routes failed; retrying", "routes", routes.Strings(want), "err", err, "retry_in", wait.String())
			retry = time.After(wait)
			continue
		}
		retries = backoff{}
		if announced = want; len(want) > 0 {
			served = want
			n.engine.freeze(nil)
		}
		n.state.set(func(s *Status) { s.setAdvertised(want) })
		n.log.Info("routes advertised", "routes", routes.Strings(want))
	}
}

// edit changes the backend's preferences, which fails where they cannot be stored.
func (n *Node) edit(p *ipn.MaskedPrefs) error {
	n.mu.Lock()
	edit := n.editPrefs
	n.mu.Unlock()
	return edit(p)
}

func (s *Status) setAdvertised(prefixes []netip.Prefix) {
	s.retracted = s.retracted[:0:0]
	for _, p := range s.Advertised {
		if !slices.Contains(prefixes, p) {
			s.retracted = append(s.retracted, p)
		}
	}
	s.Advertised = prefixes
	s.announced++
	s.asked = false
}

// settle is what the engine may take to pass a home DERP on to its control
// client, where the control server does not confirm it.
const settle = 300 * time.Millisecond

// awaitReachable waits until the next message to control will hold this node's
// endpoints and home DERP: the control client sends host information, endpoints
// and routes together, so knowing them here is enough. It reports false when
// the node closes.
func (n *Node) awaitReachable() bool {
	if !n.state.await(n.ctx, func(s *Status) bool { return s.Backend == ipn.Running.String() }) {
		return false
	}
	start := time.Now()
	var knownSince time.Time
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		self := n.lb.StatusWithoutPeers().Self
		if knownSince.IsZero() && self != nil && len(self.Addrs) > 0 && self.Relay != "" {
			knownSince = time.Now()
		}
		echoed, _ := n.state.get()
		if !knownSince.IsZero() && (echoed.homeDERP != 0 || time.Since(knownSince) > settle) {
			n.log.Debug("reachable", "endpoints", len(self.Addrs), "home_derp", self.Relay, "after", time.Since(start).String())
			return true
		}
		if time.Since(start) > reachableWait {
			n.log.Warn("no home DERP or no endpoint found; advertising routes all the same",
				"waited", reachableWait.String(), "fix", "allow outbound UDP, and TCP 443 to the DERP servers, from the task's subnet")
			return true
		}
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return false
		}
	}
}

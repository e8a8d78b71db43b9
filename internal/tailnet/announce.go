package tailnet

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

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
// must not bring the routes back.
func (n *Node) Advertise(prefixes []netip.Prefix) {
	n.mu.Lock()
	withdrawn := n.withdrawn
	if !withdrawn {
		n.desired = slices.Clone(prefixes)
	}
	n.mu.Unlock()
	if !withdrawn {
		n.wakeAnnouncer()
	}
}

func (n *Node) wakeAnnouncer() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// Withdraw takes all routes back for good and waits until control no longer holds this
// node for the primary of any, or ctx ends.
func (n *Node) Withdraw(ctx context.Context) error {
	n.mu.Lock()
	n.withdrawn, n.desired = true, nil
	n.mu.Unlock()
	n.wakeAnnouncer()
	held := func(s *Status) bool { return len(s.Advertised) > 0 || len(s.Primary) > 0 }
	if !n.state.await(ctx, func(s *Status) bool { return !held(s) || s.Backend != ipn.Running.String() }) {
		return fmt.Errorf("waiting for control server to move the routes: %w", context.Cause(ctx))
	}
	return nil
}

func (n *Node) announce() {
	var announced []netip.Prefix
	reachable := false
	for {
		select {
		case <-n.kick:
		case <-n.ctx.Done():
			return
		}
		n.mu.Lock()
		want := slices.Clone(n.desired)
		n.mu.Unlock()
		if slices.Equal(want, announced) {
			continue
		}
		if !reachable && len(want) > 0 {
			if !n.awaitReachable() {
				return
			}
			reachable = true
			n.mu.Lock()
			want = slices.Clone(n.desired) // it may have been withdrawn meanwhile
			n.mu.Unlock()
			if slices.Equal(want, announced) {
				continue
			}
		}
		_, err := n.lb.EditPrefs(&ipn.MaskedPrefs{
			Prefs:              ipn.Prefs{AdvertiseRoutes: want},
			AdvertiseRoutesSet: true,
		})
		if err != nil {
			n.log.Error("advertising routes failed", "err", err)
			continue
		}
		announced = want
		n.state.set(func(s *Status) { s.Advertised = want })
		n.log.Info("routes advertised", "routes", prefixStrings(want))
	}
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

func prefixStrings(ps []netip.Prefix) []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return out
}
